//! Which processors the server and the generator's threads run on.
//!
//! On the same processors they would take time from each other, and neither's cost could be told
//! from the other's; so where there are two or more, each side has its own. But a connection whose
//! ends are on one processor needs no other to be woken, and moves nothing between caches; so they
//! may share all of them, where every connection is served on the processor of its client.

use clap::ValueEnum;
use lockstep_sys::cpus;

/// How the two sides of an embedded run are to lie.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Place {
    /// On CPUs of their own, if there are two
    #[default]
    Apart,
    /// On the same CPUs, each connection served on the CPU of its client
    Steered,
}

impl Place {
    /// The name used in options and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Steered => "steered",
        }
    }
}

/// The processors of each side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placement {
    /// The generator's.
    pub client: Vec<usize>,
    /// An embedded server's.
    pub server: Option<Vec<usize>>,
}

impl Placement {
    /// Chooses among the `allowed` processors; lists that the user gave stand.
    ///
    /// `apart` says that the server runs on this machine, so that it needs processors too;
    /// `embedded` that it is ours to place.
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

    /// All `allowed` processors, or those that the user gave, for both sides.
    pub fn steered(allowed: &[usize], given: Option<&[usize]>) -> Self {
        let both = given.unwrap_or(allowed).to_vec();
        Self { client: both.clone(), server: Some(both) }
    }

    /// The processor of a thread of the generator.
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
    fn sides_are_apart_where_they_can_be() {
        let choose = |allowed: &[usize], apart, embedded| {
            Placement::choose(allowed, None, None, apart, embedded)
        };
        let placement = choose(&[0, 1], true, true);
        assert_eq!((placement.server, placement.client), (Some(vec![0]), vec![1]));
        let placement = choose(&[0, 2, 5, 7, 8], true, true);
        assert_eq!((placement.server, placement.client), (Some(vec![0, 2]), vec![5, 7, 8]));
        let placement = choose(&[3], true, true);
        assert_eq!((placement.server, placement.client), (Some(vec![3]), vec![3]));
        // A server elsewhere needs none of our processors; one here that is not ours does.
        assert_eq!(choose(&[0, 1], false, false), Placement { client: vec![0, 1], server: None });
        assert_eq!(choose(&[0, 1], true, false), Placement { client: vec![1], server: None });
    }

    #[test]
    fn what_the_user_says_stands() {
        let placement = Placement::choose(&[0, 1], Some(&[0]), Some(&[0, 1]), true, true);
        assert_eq!(placement, Placement { client: vec![0], server: Some(vec![0, 1]) });
        assert_eq!(placement.of_thread(5), 0);
    }

    #[test]
    fn a_processor_that_does_not_exist_is_named() {
        let error = pin(&[1023]).unwrap_err();
        assert!(error.starts_with("cannot run on CPU 1023: "), "{error}");
    }
}
