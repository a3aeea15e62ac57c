//! CPUs of the server and its clients.

use lockstep_sys::cpus;

/// CPUs of the server and its clients. They affect every number: compare only runs with the same
/// placement.
///
/// With two or more CPUs the server has the first that the process may use, and the clients the
/// last. So neither takes the other's time, and a request costs a wake-up on another CPU whenever
/// its receiver sleeps. With one CPU both share it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placement {
    apart: Option<(usize, usize)>,
}

impl Placement {
    /// Chooses among the CPUs that this process may use. Must be called before anything is pinned.
    pub fn of_this_process() -> Self {
        Self::of(&cpus::allowed().unwrap_or_default())
    }

    fn of(cpus: &[usize]) -> Self {
        match cpus {
            [server, .., clients] => Self { apart: Some((*server, *clients)) },
            _ => Self { apart: None },
        }
    }

    /// Pins the calling thread to the clients' CPU.
    ///
    /// # Panics
    ///
    /// If sched_setaffinity(2) fails.
    pub fn pin_client(&self) {
        if let Some((_, clients)) = self.apart {
            cpus::pin(&[clients]).expect("pinning the clients to their CPU");
        }
    }

    /// Returns the server's CPUs, for its options; empty if it is not pinned.
    pub(crate) fn server_cpus(&self) -> Vec<usize> {
        self.apart.iter().map(|(server, _)| *server).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_clients_have_cpus_of_their_own_if_there_are_two() {
        assert_eq!(Placement::of(&[0, 1]).apart, Some((0, 1)));
        assert_eq!(Placement::of(&[2, 5, 7]).apart, Some((2, 7)));
        assert_eq!(Placement::of(&[2, 5, 7]).server_cpus(), [2]);
        assert_eq!(Placement::of(&[3]).apart, None);
        assert_eq!(Placement::of(&[3]).server_cpus(), Vec::<usize>::new());
    }
}
