//! What is sent, and whether what came back is it.
//!
//! Requests are windows of one block of seeded random bytes, a different window for each exchange
//! of a connection and another start for each connection. So a request is sent from the block
//! without a copy, a reply is compared with the block where it lies, and a reply that is stale,
//! shifted, or another connection's differs in almost every byte.

use lockstep_core::RECV_MAX;

/// How many windows there are. A power of two; the block stays small enough for the first-level
/// cache.
const WINDOWS: u32 = 4096;

/// From one window of a connection to its next; odd, so that all windows come before one recurs.
const STEP: u32 = 1031;

/// From the first window of one connection to that of the next; odd likewise.
const STRIDE: u32 = 2657;

/// The longest request: 1 MiB.
pub const SIZE_MAX: u32 = 1 << 20;

/// The longest request whose answer by a one-shot server is certain: what one receive takes.
pub const SIZE_MAX_ONE_SHOT: u32 = RECV_MAX as u32;

/// The bytes of all requests of a run.
#[derive(Debug)]
pub struct Pattern {
    block: Box<[u8]>,
    size: u32,
}

/// A place in the pattern: which request a connection is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window(u32);

/// Where a reply first differed from its request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mismatch {
    /// The byte's place in the reply, from zero.
    pub at: usize,
    /// What it should have been.
    pub expected: u8,
    /// What came.
    pub found: u8,
}

impl Pattern {
    /// The pattern of requests of `size` bytes that `seed` determines.
    pub fn new(size: u32, seed: u64) -> Self {
        let mut block = vec![0; (WINDOWS - 1 + size) as usize].into_boxed_slice();
        fastrand::Rng::with_seed(seed).fill(&mut block);
        Self { block, size }
    }

    /// The bytes in a request.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The request at `window`.
    #[inline]
    pub fn request(&self, window: Window) -> &[u8] {
        let start = window.0 as usize;
        &self.block[start..start + self.size as usize]
    }
}

impl Window {
    /// The first window of the connection of that number.
    pub fn first(connection: u32) -> Self {
        Self(connection.wrapping_mul(STRIDE) % WINDOWS)
    }

    /// The window of the connection's next request.
    #[inline]
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + STEP) % WINDOWS)
    }
}

/// Compares a piece of a reply with what it should be; `at` is the place of the piece in the
/// reply. Both must be of one length.
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
    fn windows_lie_within_the_block() {
        for size in [1, 64, 1024, SIZE_MAX] {
            let pattern = Pattern::new(size, 1);
            assert_eq!(pattern.request(Window(WINDOWS - 1)).len(), size as usize);
        }
    }

    #[test]
    fn the_seed_determines_the_bytes() {
        let bytes = |seed| Pattern::new(64, seed).request(Window::first(9)).to_vec();
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn every_window_comes_before_one_recurs() {
        let mut window = Window::first(3);
        let mut seen = HashSet::new();
        while seen.insert(window.0) {
            window = window.next();
        }
        assert_eq!(seen.len(), WINDOWS as usize);
        assert_eq!(window, Window::first(3));
    }

    #[test]
    fn neighbours_and_successors_differ_from_the_first_bytes_on() {
        let pattern = Pattern::new(8, 42);
        let mut seen = HashSet::new();
        for connection in 0..WINDOWS {
            assert!(seen.insert(pattern.request(Window::first(connection)).to_vec()));
        }
    }

    #[test]
    fn a_flipped_bit_is_found_where_it_is() {
        let pattern = Pattern::new(100, 5);
        let request = pattern.request(Window::first(0));
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
