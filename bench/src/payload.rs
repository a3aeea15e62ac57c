//! Requests of the benches.

/// Number of different requests.
const REQUESTS: u64 = 4096;

/// Distance between the starts of two requests in a row; odd, so that all requests are used before
/// one recurs.
const STEP: u64 = 1031;

/// Requests of one bench: slices of one block of seeded random bytes. So a request costs no copy,
/// and a stale reply, or that of another connection, differs in almost every byte.
#[derive(Debug)]
pub(crate) struct Payload {
    block: Vec<u8>,
    size: usize,
}

impl Payload {
    /// Makes requests of `size` bytes, the same in every run.
    pub(crate) fn new(size: usize) -> Self {
        let mut block = vec![0; REQUESTS as usize + size];
        fastrand::Rng::with_seed(1).fill(&mut block);
        Self { block, size }
    }

    /// Returns the `number`-th request.
    pub(crate) fn request(&self, number: u64) -> &[u8] {
        let start = (number.wrapping_mul(STEP) % REQUESTS) as usize;
        &self.block[start..start + self.size]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn requests_differ_until_all_are_used() {
        let payload = Payload::new(8);
        let requests: HashSet<_> = (0..REQUESTS).map(|number| payload.request(number)).collect();
        assert_eq!(requests.len() as u64, REQUESTS);
        assert_eq!(payload.request(REQUESTS), payload.request(0));
    }
}
