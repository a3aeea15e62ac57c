//! The bytes of all requests, and the check of replies against them.
//!
//! A request is a part of one block of seeded random bytes, at a different offset for each
//! exchange of a connection, and from another first offset for each connection. So a request is
//! sent from the block without a copy, a reply is compared in place, and a reply that is stale,
//! shifted, or another connection's differs in almost every byte.

use std::sync::Arc;

use lockstep_core::RECV_MAX;

/// Number of offsets. A power of two; the block stays small enough for the first-level cache.
const OFFSETS: u32 = 4096;

/// Distance from one offset of a connection to its next; odd, so that all offsets come before one
/// recurs.
const STEP: u32 = 1031;

/// Distance from the first offset of one connection to that of the next; odd likewise.
const STRIDE: u32 = 2657;

/// The longest request: 1 MiB.
pub const SIZE_MAX: u32 = 1 << 20;

/// The longest request whose answer by a one-shot server is certain: what one receive takes.
pub const SIZE_MAX_ONE_SHOT: u32 = RECV_MAX as u32;

/// The bytes of all requests of a run.
#[derive(Debug)]
pub struct Pattern {
    block: Arc<[u8]>,
    size: u32,
}

/// Offset of a request in the pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offset(u32);

/// First difference between a reply and its request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mismatch {
    /// Index of the byte in the reply.
    pub at: usize,
    /// The byte that was expected.
    pub expected: u8,
    /// The byte that came.
    pub found: u8,
}

impl Pattern {
    /// Returns the pattern that `seed` determines, of requests of `size` bytes.
    pub fn new(size: u32, seed: u64) -> Self {
        let mut block = vec![0; (OFFSETS - 1 + size) as usize];
        fastrand::Rng::with_seed(seed).fill(&mut block);
        Self { block: block.into(), size }
    }

    /// The bytes that all requests are parts of.
    pub fn block(&self) -> Arc<[u8]> {
        Arc::clone(&self.block)
    }

    /// Bytes in a request.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The request at `offset`.
    #[inline]
    pub fn request(&self, offset: Offset) -> &[u8] {
        let start = offset.0 as usize;
        &self.block[start..start + self.size as usize]
    }
}

impl Offset {
    /// The first offset of the connection of that number.
    pub fn first(connection: u32) -> Self {
        Self(connection.wrapping_mul(STRIDE) % OFFSETS)
    }

    /// The offset of the connection's next request.
    #[inline]
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + STEP) % OFFSETS)
    }
}

/// Compares a piece of a reply with the expected bytes, which must be as many; `at` is the index of
/// the piece in the reply.
///
/// # Errors
///
/// The first byte that differs.
#[inline]
pub fn verify(expected: &[u8], found: &[u8], at: usize) -> Result<(), Mismatch> {
    if expected == found {
        return Ok(());
    }
    let first = expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or(0);
    Err(Mismatch { at: at + first, expected: expected[first], found: found[first] })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn offsets_lie_within_the_block() {
        for size in [1, 64, 1024, SIZE_MAX] {
            let pattern = Pattern::new(size, 1);
            assert_eq!(pattern.request(Offset(OFFSETS - 1)).len(), size as usize);
        }
    }

    #[test]
    fn seed_determines_the_bytes() {
        let bytes = |seed| Pattern::new(64, seed).request(Offset::first(9)).to_vec();
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn every_offset_comes_before_one_recurs() {
        let mut offset = Offset::first(3);
        let mut seen = HashSet::new();
        while seen.insert(offset.0) {
            offset = offset.next();
        }
        assert_eq!(seen.len(), OFFSETS as usize);
        assert_eq!(offset, Offset::first(3));
    }

    #[test]
    fn requests_of_neighbours_differ_from_the_first_bytes_on() {
        let pattern = Pattern::new(8, 42);
        let mut seen = HashSet::new();
        for connection in 0..OFFSETS {
            assert!(seen.insert(pattern.request(Offset::first(connection)).to_vec()));
        }
    }

    #[test]
    fn flipped_bit_is_found_at_its_index() {
        let pattern = Pattern::new(100, 5);
        let request = pattern.request(Offset::first(0));
        let mut reply = request.to_vec();
        assert_eq!(verify(request, &reply, 0), Ok(()));
        reply[77] ^= 0x10;
        let mismatch = verify(request, &reply, 0).unwrap_err();
        assert_eq!((mismatch.at, mismatch.expected ^ mismatch.found), (77, 0x10));
        // In pieces, the place is still counted from the reply's start.
        assert_eq!(verify(&request[60..], &reply[60..], 60).unwrap_err().at, 77);
        assert_eq!(verify(&request[..60], &reply[..60], 0), Ok(()));
    }
}
