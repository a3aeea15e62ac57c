//! CPUs of the server and of the generator's threads.
//!
//! On the same CPUs the two sides would take time from each other, and neither's cost could be
//! measured. So with two or more CPUs each side has its own. But a connection with both ends on
//! one CPU wakes no other CPU, and moves no data between caches. So the sides may also share all
//! CPUs, with every connection served on the CPU of its client.

use clap::ValueEnum;
use lockstep_sys::cpus;

/// Placement of the two sides of an embedded run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Place {
    /// On CPUs of their own, if there are two
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

/// The CPUs of each side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placement {
    /// CPUs of the generator.
    pub client: Vec<usize>,
    /// CPUs of an embedded server.
    pub server: Option<Vec<usize>>,
}

impl Placement {
    /// Chooses among the `allowed` CPUs, unless the user has given lists.
    ///
    /// `apart`: the server runs on this machine, so it needs CPUs, too. `embedded`: the server is
    /// started and placed by the generator.
    pub fn choose(
        allowed: &[usize],
        client: Option<&[usize]>,
        server: Option<&[usize]>,
        apart: bool,
        embedded: bool,
    ) -> Self {
        let (mut servers, mut clients) = (allowed, allowed);
        if apart && allowed.len() >= 2 {
            (servers, clients) = allowed.split_at(allowed.len() / 2);
        }
        Self {
            client: client.unwrap_or(clients).to_vec(),
            server: embedded.then(|| server.unwrap_or(servers).to_vec()),
        }
    }

    /// Gives both sides all `allowed` CPUs, or those that the user has given.
    pub fn steered(allowed: &[usize], given: Option<&[usize]>) -> Self {
        let both = given.unwrap_or(allowed).to_vec();
        Self { client: both.clone(), server: Some(both) }
    }

    /// Returns the CPU of a thread of the generator.
    pub fn of_thread(&self, thread: usize) -> usize {
        self.client[thread % self.client.len()]
    }
}

/// Pins the calling thread, and the threads that it will start, to `cpus`.
///
/// # Errors
///
/// A text for the user that names the CPUs if none of them exists and is allowed.
pub fn pin(cpus: &[usize]) -> Result<(), String> {
    cpus::pin(cpus)
        .map_err(|error| format!("cannot run on CPU {}: {error}", cpus::format_list(cpus)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_have_cpus_of_their_own_if_there_are_two() {
        let choose = |allowed: &[usize], apart, embedded| {
            Placement::choose(allowed, None, None, apart, embedded)
        };
        let placement = choose(&[0, 1], true, true);
        assert_eq!((placement.server, placement.client), (Some(vec![0]), vec![1]));
        let placement = choose(&[0, 2, 5, 7, 8], true, true);
        assert_eq!((placement.server, placement.client), (Some(vec![0, 2]), vec![5, 7, 8]));
        let placement = choose(&[3], true, true);
        assert_eq!((placement.server, placement.client), (Some(vec![3]), vec![3]));
        // A server on another machine needs none of these CPUs; a target on this one does.
        assert_eq!(choose(&[0, 1], false, false), Placement { client: vec![0, 1], server: None });
        assert_eq!(choose(&[0, 1], true, false), Placement { client: vec![1], server: None });
    }

    #[test]
    fn lists_of_the_user_are_kept() {
        let placement = Placement::choose(&[0, 1], Some(&[0]), Some(&[0, 1]), true, true);
        assert_eq!(placement, Placement { client: vec![0], server: Some(vec![0, 1]) });
        assert_eq!(placement.of_thread(5), 0);
    }

    #[test]
    fn pinning_to_a_missing_cpu_names_it() {
        let error = pin(&[1023]).unwrap_err();
        assert!(error.starts_with("cannot run on CPU 1023: "), "{error}");
    }
}
