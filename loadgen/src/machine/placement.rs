//! CPUs of the server and of the generator's threads.
//!
//! On the same CPUs the two sides would take time from each other, and neither's cost could be
//! measured. So each side has cores of its own, if there are two: the hardware threads of a core
//! take time from each other, too. But a connection with both ends on one CPU wakes no other CPU,
//! and moves no data between caches. So the sides may also share all CPUs, with every connection
//! served on the CPU of its client.

use std::io;
use std::path::Path;

use clap::ValueEnum;
use lockstep_sys::cpus::{self, Cores, CpuList, format_list};
use lockstep_sys::errno::describe;

/// Name in records of a placement on the same CPUs without steering.
pub const SHARED: &str = "shared";

/// Placement of the two sides of an embedded run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Place {
    /// On cores of their own, if there are two
    #[default]
    Apart,
    /// On the same CPUs, each connection served on the CPU of its client
    Steered,
}

impl Place {
    /// Returns the name used in options and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Steered => "steered",
        }
    }
}

/// The CPUs that this process may use.
#[derive(Clone, Debug)]
pub struct Cpus {
    /// CPUs that it was started on. The sides are placed on these unless the user names others.
    pub given: CpuList,
    /// CPUs that a thread can be pinned to, which may be more; else the reason why no thread can.
    pub permitted: Result<CpuList, String>,
    cores: Cores,
}

impl Cpus {
    /// Reads the affinity of the calling thread, what it could be, and the machine's cores.
    ///
    /// # Errors
    ///
    /// Those of sched_getaffinity(2).
    pub fn read() -> io::Result<Self> {
        let given = cpus::allowed()?;
        let permitted = cpus::permitted()
            .map_err(|error| format!("sched_setaffinity(2) is not allowed: {}", describe(&error)));
        let all = permitted.as_ref().unwrap_or(&given);
        let cores = Cores::read(Path::new("/sys/devices/system/cpu"), all);
        Ok(Self { given, permitted, cores })
    }

    /// Checks that the sides can be placed on the CPUs that an option names.
    ///
    /// # Errors
    ///
    /// A text for the user that names the option, and the first CPU that cannot be used.
    pub fn check(&self, option: &str, named: Option<&[usize]>) -> Result<(), String> {
        let Some(named) = named else { return Ok(()) };
        let permitted = self.permitted.as_ref().map_err(|cause| format!("{option}: {cause}"))?;
        match named.iter().find(|cpu| !permitted.contains(cpu)) {
            None => Ok(()),
            Some(cpu) => {
                let permitted = format_list(permitted);
                Err(format!("{option}: there is no CPU {cpu} for this process, only {permitted}"))
            }
        }
    }

    /// Chooses the CPUs of both sides, generator first, unless the user has named them. A side
    /// without named CPUs gets the rest, where there is a rest.
    pub fn apart(&self, client: Option<&[usize]>, server: Option<&[usize]>) -> (CpuList, CpuList) {
        if self.permitted.is_err() {
            return (self.given.clone(), self.given.clone());
        }
        match (client, server) {
            (Some(client), Some(server)) => (client.to_vec(), server.to_vec()),
            (Some(client), None) => (client.to_vec(), self.beside(client)),
            (None, Some(server)) => (self.beside(server), server.to_vec()),
            (None, None) => {
                let server = self.first_half();
                (self.beside(&server), server)
            }
        }
    }

    /// Returns the given CPUs on cores without a `taken` CPU; if there are none, other CPUs of
    /// these cores; else all.
    fn beside(&self, taken: &[usize]) -> CpuList {
        let core = |&cpu: &usize| self.cores.of(cpu);
        let of_free_core = |cpu: &usize| !taken.iter().any(|other| core(other) == core(cpu));
        let free = |cpu: &usize| !taken.contains(cpu);
        let rest = |is_free: &dyn Fn(&usize) -> bool| -> CpuList {
            self.given.iter().copied().filter(is_free).collect()
        };
        let rests = [rest(&of_free_core), rest(&free), self.given.clone()];
        rests.into_iter().find(|rest| !rest.is_empty()).unwrap_or_default()
    }

    /// Returns the given CPUs of the first half of their cores; of a single core, half of its CPUs.
    fn first_half(&self) -> CpuList {
        let mut cores: CpuList = self.given.iter().map(|&cpu| self.cores.of(cpu)).collect();
        cores.sort_unstable();
        cores.dedup();
        let given = &self.given;
        match cores.len() {
            0 | 1 => given[..given.len().div_ceil(2)].to_vec(),
            count => {
                let half = &cores[..count / 2];
                let in_half = |cpu: &usize| half.contains(&self.cores.of(*cpu));
                given.iter().copied().filter(in_half).collect()
            }
        }
    }

    /// Returns warnings about sides that ran on these CPUs and were not steered. A server that was
    /// not `started` for the run, and may run on many CPUs, may avoid the generator's.
    pub fn warnings(&self, client: &[usize], server: &[usize], started: bool) -> Vec<String> {
        if let Err(cause) = &self.permitted {
            return vec![format!("unpinned: {cause}, so both sides ran on any CPU")];
        }
        let core = |&cpu: &usize| self.cores.of(cpu);
        let shares = |cpu: &&usize| client.iter().any(|other| core(other) == core(cpu));
        let sharing: CpuList = server.iter().filter(shares).copied().collect();
        if sharing.is_empty() || (!started && sharing.len() < server.len()) {
            return Vec::new();
        }
        let (client, sharing) = (format_list(client), format_list(&sharing));
        vec![format!(
            "shared-core: the server on CPU {sharing} and the generator on CPU {client} use the \
             same core, so each takes time from the other"
        )]
    }
}

/// The CPUs of each side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placement {
    /// CPUs of the generator.
    pub client: CpuList,
    /// CPUs of a server that the generator starts.
    pub server: Option<CpuList>,
}

impl Placement {
    /// Chooses CPUs for a server that the generator starts.
    pub fn of_both(cpus: &Cpus, client: Option<&[usize]>, server: Option<&[usize]>) -> Self {
        let (client, server) = cpus.apart(client, server);
        Self { client, server: Some(server) }
    }

    /// Chooses CPUs beside a server that runs already on `server`: all for a server on another
    /// machine, which has none of these.
    pub fn of_client(cpus: &Cpus, client: Option<&[usize]>, server: Option<&[usize]>) -> Self {
        let client = match (client, server) {
            (Some(client), _) => client.to_vec(),
            (None, None) => cpus.given.clone(),
            // A server that may run on every CPU gets a half of them.
            (None, Some(server)) => {
                let pinned = cpus.given.iter().any(|cpu| !server.contains(cpu));
                cpus.apart(None, pinned.then_some(server)).0
            }
        };
        Self { client, server: None }
    }

    /// Gives both sides the same CPUs, one for each of the generator's `threads`: a connection is
    /// served on the CPU of its client, so other CPUs would serve none.
    pub fn steered(cpus: &Cpus, given: Option<&[usize]>, threads: usize) -> Self {
        let mut both = given.unwrap_or(&cpus.given).to_vec();
        both.truncate(threads);
        Self { client: both.clone(), server: Some(both) }
    }

    /// Returns the placement as in a record; `None` if the sides are on CPUs of their own.
    pub fn name(&self, place: Place) -> Option<&'static str> {
        let shared = self.server.iter().flatten().any(|cpu| self.client.contains(cpu));
        match place {
            Place::Steered => Some(place.name()),
            Place::Apart => shared.then_some(SHARED),
        }
    }

    /// Returns the CPU of a thread of the generator.
    pub fn of_thread(&self, thread: usize) -> usize {
        self.client[thread % self.client.len()]
    }
}

/// Pins the calling thread, and the threads that it will start, to `cpus`. Where that is not
/// allowed at all (see [`Cpus::permitted`]), the threads stay where they are.
///
/// # Errors
///
/// A text for the user that names the CPUs if none of them exists and is allowed.
pub fn pin(cpus: &[usize]) -> Result<(), String> {
    cpus::pin(cpus)
        .or_else(|error| if cpus::permitted().is_err() { Ok(()) } else { Err(error) })
        .map_err(|error| format!("cannot run on CPU {}: {}", format_list(cpus), describe(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of which these CPUs are given, and whose hardware threads are those in `cores`.
    fn machine(given: &[usize], cores: &[&[usize]]) -> Cpus {
        let root = tempfile::tempdir().unwrap();
        for cpus in cores {
            for cpu in *cpus {
                let topology = root.path().join(format!("cpu{cpu}/topology"));
                std::fs::create_dir_all(&topology).unwrap();
                let name = ["core_cpus_list", "thread_siblings_list"][cpu % 2];
                std::fs::write(topology.join(name), format_list(cpus) + "\n").unwrap();
            }
        }
        let all: CpuList = cores.concat();
        let cores = Cores::read(root.path(), &all);
        Cpus { given: given.to_vec(), permitted: Ok(all), cores }
    }

    /// Cores of one hardware thread each.
    fn plain(given: &[usize]) -> Cpus {
        Cpus { cores: Cores::default(), ..machine(given, &[given]) }
    }

    #[test]
    fn sides_have_cpus_of_their_own_if_there_are_two() {
        for (given, client, server) in [
            (&[0, 1][..], &[1][..], &[0][..]),
            (&[0, 2, 5, 7, 8], &[5, 7, 8], &[0, 2]),
            (&[3], &[3], &[3]),
        ] {
            assert_eq!(plain(given).apart(None, None), (client.to_vec(), server.to_vec()));
        }
    }

    #[test]
    fn hardware_threads_of_a_core_stay_on_one_side() {
        for (cores, client, server) in [
            (&[&[0, 2][..], &[1, 3]][..], &[1, 3][..], &[0, 2][..]),
            (&[&[0, 1], &[2, 3]], &[2, 3], &[0, 1]),
            (&[&[0, 4], &[1, 5], &[2, 6]], &[1, 2, 5, 6], &[0, 4]),
            (&[&[0, 1]], &[1], &[0]),
            (&[&[0], &[1, 2, 3]], &[1, 2, 3], &[0]),
        ] {
            let mut given = cores.concat();
            given.sort_unstable();
            let machine = machine(&given, cores);
            assert_eq!(machine.apart(None, None), (client.to_vec(), server.to_vec()));
        }
    }

    #[test]
    fn side_without_named_cpus_gets_the_rest() {
        let machine = machine(&[0, 1, 2, 3], &[&[0, 2], &[1, 3], &[4], &[6]]);
        for (named, rest) in [
            (&[0][..], &[1, 3][..]), // A free core.
            (&[0, 2], &[1, 3]),
            (&[0, 1], &[2, 3]), // Only hardware threads of the same cores.
            (&[0, 1, 2], &[3]),
            (&[0, 1, 2, 3], &[0, 1, 2, 3]), // There is none.
            (&[4, 6], &[0, 1, 2, 3]),       // Others than those given.
        ] {
            assert_eq!(machine.apart(Some(named), None), (named.to_vec(), rest.to_vec()));
            assert_eq!(machine.apart(None, Some(named)), (rest.to_vec(), named.to_vec()));
            let both = machine.apart(Some(named), Some(&[0]));
            assert_eq!(both, (named.to_vec(), vec![0]));
        }
    }

    /// All machines of four CPUs on up to three cores, all sets given, and all sets named.
    #[test]
    fn sides_are_apart_wherever_they_can_be() {
        let sets = |bits: u32, of: &[usize]| -> CpuList {
            of.iter().copied().filter(|cpu| bits >> cpu & 1 == 1).collect()
        };
        let disjoint = |one: &[usize], other: &[usize]| one.iter().all(|cpu| !other.contains(cpu));
        let all: CpuList = (0..4).collect();
        for assignment in 0..3_usize.pow(4) {
            let core_of = |cpu: usize| assignment / 3_usize.pow(cpu as u32) % 3;
            let cores: [CpuList; 3] = std::array::from_fn(|core| {
                all.iter().copied().filter(|&cpu| core_of(cpu) == core).collect()
            });
            let cores = machine(&all, &cores.each_ref().map(Vec::as_slice)).cores;
            let share = |one: &[usize], other: &[usize]| {
                one.iter().any(|a| other.iter().any(|b| core_of(*a) == core_of(*b)))
            };
            for given in (1..16).map(|bits| sets(bits, &all)) {
                let permitted = Ok(all.clone());
                let cpus = Cpus { given: given.clone(), permitted, cores: cores.clone() };
                let (client, server) = cpus.apart(None, None);
                let several_cores = given.iter().any(|&cpu| core_of(cpu) != core_of(given[0]));
                assert!(!client.is_empty() && !server.is_empty());
                assert_eq!(disjoint(&client, &server), given.len() > 1, "{cpus:?}");
                assert_eq!(share(&client, &server), !several_cores, "{cpus:?}");
                assert!([&client[..], &server].concat().iter().all(|cpu| given.contains(cpu)));
                for named in (1..16).map(|bits| sets(bits, &all)) {
                    let (client, server) = cpus.apart(Some(&named), None);
                    assert_eq!(cpus.apart(None, Some(&named)), (server.clone(), client.clone()));
                    assert_eq!(client, named);
                    assert!(!server.is_empty() && server.iter().all(|cpu| given.contains(cpu)));
                    let free_core = given.iter().any(|&cpu| !share(&[cpu], &named));
                    let free_cpu = given.iter().any(|cpu| !named.contains(cpu));
                    assert_eq!(share(&server, &named), !free_core, "{cpus:?}, {named:?}");
                    assert_eq!(disjoint(&server, &named), free_cpu, "{cpus:?}, {named:?}");
                    let warned = !cpus.warnings(&client, &server, true).is_empty();
                    assert_eq!(warned, !free_core, "{cpus:?}, {named:?}");
                }
            }
        }
    }

    #[test]
    fn client_avoids_a_pinned_server() {
        let cpus = plain(&[0, 1, 2, 3]);
        let client = |named: Option<&[usize]>, server: Option<&[usize]>| {
            Placement::of_client(&cpus, named, server).client
        };
        assert_eq!(client(None, None), [0, 1, 2, 3]);
        assert_eq!(client(None, Some(&[3])), [0, 1, 2]);
        assert_eq!(client(None, Some(&[0, 1, 2, 3, 4, 5])), [2, 3]);
        assert_eq!(client(Some(&[3]), Some(&[3])), [3]);
        // A server that is not confined to the generator's CPUs may avoid them.
        assert_eq!(cpus.warnings(&[2, 3], &[0, 1, 2, 3], false), [""; 0]);
        assert_eq!(cpus.warnings(&[2, 3], &[0, 1, 2, 3], true).len(), 1);
        assert_eq!(cpus.warnings(&[2, 3], &[3], false).len(), 1);
    }

    #[test]
    fn steered_sides_have_a_cpu_for_each_thread() {
        let steered = |given, threads| Placement::steered(&plain(&[0, 1, 2]), given, threads);
        assert_eq!(steered(None, 8).client, [0, 1, 2]);
        let both = Placement { client: vec![1, 2], server: Some(vec![1, 2]) };
        assert_eq!(steered(Some(&[1, 2, 3]), 2), both);
        assert_eq!(both.of_thread(5), 2);
    }

    #[test]
    fn cpus_that_cannot_be_named_are_refused() {
        let mut cpus = machine(&[0], &[&[0], &[2, 3]]);
        assert_eq!(cpus.check("--pin", None), Ok(()));
        assert_eq!(cpus.check("--pin", Some(&[0, 2, 3])), Ok(()));
        let error = cpus.check("--pin", Some(&[0, 1])).unwrap_err();
        assert_eq!(error, "--pin: there is no CPU 1 for this process, only 0,2-3");
        cpus.permitted = Err("not allowed".to_owned());
        assert_eq!(cpus.check("--pin", None), Ok(()));
        assert_eq!(cpus.check("--pin", Some(&[0])), Err("--pin: not allowed".to_owned()));
        assert_eq!(cpus.apart(None, None), (vec![0], vec![0]));
        assert_eq!(cpus.warnings(&[0], &[0], true).len(), 1);
    }

    #[test]
    fn pinning_to_a_missing_cpu_names_it() {
        let error = pin(&[1023]).unwrap_err();
        assert!(error.starts_with("cannot run on CPU 1023: "), "{error}");
    }
}
