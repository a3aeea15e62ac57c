//! What the clients send, and so what has to come back.

/// How many different requests there are.
const WINDOWS: u64 = 4096;

/// From one request's window to the next one's; odd, so that all windows come before one recurs.
const STEP: u64 = 1031;

/// The requests of one bench: windows of one block of seeded random bytes, so that a request costs
/// no copy, and a reply that is stale or another connection's differs in almost every byte.
#[derive(Debug)]
pub(crate) struct Payload {
    block: Vec<u8>,
    size: usize,
}

impl Payload {
    /// Requests of `size` bytes, the same in every run.
    pub(crate) fn new(size: usize) -> Self {
        let mut block = vec![0; WINDOWS as usize + size];
        fastrand::Rng::with_seed(1).fill(&mut block);
        Self { block, size }
    }

    /// The `number`-th request.
    pub(crate) fn request(&self, number: u64) -> &[u8] {
        let start = (number.wrapping_mul(STEP) % WINDOWS) as usize;
        &self.block[start..start + self.size]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_request_is_like_another_until_all_have_been() {
        let payload = Payload::new(8);
        let requests: HashSet<_> = (0..WINDOWS).map(|number| payload.request(number)).collect();
        assert_eq!(requests.len() as u64, WINDOWS);
        assert_eq!(payload.request(WINDOWS), payload.request(0));
    }
}
