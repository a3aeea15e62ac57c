//! Which processor runs what. It is part of every number: see [`Placement`].

use lockstep_sys::cpus;

/// Where the server and its clients run.
///
/// With two or more processors the server has the first that the process may use, and the clients
/// the last: so neither takes the other's time, and a request costs a wake-up across processors
/// whenever its receiver sleeps. With one processor both share it, and the numbers are of another
/// kind: compare only runs with the same placement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placement {
    apart: Option<(usize, usize)>,
}

impl Placement {
    /// Reads the processors this process may use. To be asked before anything is pinned.
    pub fn of_this_process() -> Self {
        Self::of(&cpus::allowed().unwrap_or_default())
    }

    fn of(cpus: &[usize]) -> Self {
        match cpus {
            [server, .., clients] => Self { apart: Some((*server, *clients)) },
            _ => Self { apart: None },
        }
    }

    /// Pins the calling thread to the clients' processor.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn pin_client(&self) {
        if let Some((_, clients)) = self.apart {
            cpus::pin(&[clients]).expect("pinning the clients to their CPU");
        }
    }

    /// The server's processors, for its options; none where it is not pinned.
    pub(crate) fn server_cpus(&self) -> Vec<usize> {
        self.apart.iter().map(|(server, _)| *server).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_clients_are_apart_where_they_can_be() {
        assert_eq!(Placement::of(&[0, 1]).apart, Some((0, 1)));
        assert_eq!(Placement::of(&[2, 5, 7]).apart, Some((2, 7)));
        assert_eq!(Placement::of(&[2, 5, 7]).server_cpus(), [2]);
        assert_eq!(Placement::of(&[3]).apart, None);
        assert_eq!(Placement::of(&[3]).server_cpus(), Vec::<usize>::new());
    }
}
