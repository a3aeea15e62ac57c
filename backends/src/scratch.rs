//! The buffer that receives write to, and that replies are written in and sent from.

use std::io::{self, Read};

use lockstep_core::{Exchange, Op, RECV_MAX};

/// Buffer for a receive of `ROOM` bytes: a request of at most [`RECV_MAX`] and, if there is more
/// room, the beginning of the next request of a client that pipelines.
///
/// A receive that filled all the room may have left something in the socket, and another has to
/// follow; with more room than a request can take, no request alone fills it. Bytes beyond the
/// request stay buffered until it is answered, and then are the next request. In lockstep, none are
/// ever buffered.
#[derive(Debug)]
pub(crate) struct Scratch<const ROOM: usize> {
    bytes: [u8; ROOM],
    /// Number of buffered bytes, which begin at `bytes[RECV_MAX]`.
    buffered: usize,
}

impl<const ROOM: usize> Scratch<ROOM> {
    pub(crate) const fn new() -> Self {
        const { assert!(ROOM >= RECV_MAX && ROOM <= 2 * RECV_MAX, "one request is buffered") };
        Self { bytes: [0; ROOM], buffered: 0 }
    }

    /// The part for the request, and for its reply.
    #[inline]
    pub(crate) fn request_mut(&mut self) -> &mut [u8; RECV_MAX] {
        self.bytes.first_chunk_mut().expect("ROOM is at least RECV_MAX")
    }

    /// The whole buffer, for bytes to be discarded.
    pub(crate) fn all_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Receives, and returns the number of bytes; the first [`RECV_MAX`] of them are the request.
    #[inline]
    pub(crate) fn receive(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        debug_assert_eq!(self.buffered, 0, "the buffered request comes first");
        let count = socket.read(&mut self.bytes)?;
        self.buffered = count.saturating_sub(RECV_MAX);
        Ok(count)
    }

    /// Makes the buffered bytes the request, and returns their number; none if there are none.
    #[inline]
    pub(crate) fn next_buffered(&mut self) -> Option<usize> {
        let count = std::mem::take(&mut self.buffered);
        self.bytes.copy_within(RECV_MAX..RECV_MAX + count, 0);
        (count > 0).then_some(count)
    }

    /// Takes out what a connection needs again: the unsent part of its reply, and what is buffered
    /// behind it.
    pub(crate) fn take_out(&mut self, exchange: &Exchange) -> Option<Box<[u8]>> {
        let buffered = RECV_MAX..RECV_MAX + std::mem::take(&mut self.buffered);
        let bytes = match exchange.op() {
            Op::Close(_) => return None,
            Op::Recv => self.bytes[buffered].to_vec(),
            Op::Send { start, end } => {
                [&self.bytes[usize::from(start)..usize::from(end)], &self.bytes[buffered]].concat()
            }
        };
        (!bytes.is_empty()).then(|| bytes.into())
    }

    /// Puts back what was taken out, and drops what another connection left buffered.
    #[inline]
    pub(crate) fn put_back(&mut self, exchange: &Exchange, bytes: Option<Box<[u8]>>) {
        self.buffered = 0;
        if let Some(bytes) = bytes {
            let unsent = match exchange.op() {
                Op::Send { start, end } => usize::from(start)..usize::from(end),
                Op::Recv | Op::Close(_) => 0..0,
            };
            let (reply, buffered) = bytes.split_at(unsent.len());
            self.bytes[unsent].copy_from_slice(reply);
            self.bytes[RECV_MAX..][..buffered.len()].copy_from_slice(buffered);
            self.buffered = buffered.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_core::Echo;

    use super::*;

    #[test]
    fn bytes_beyond_a_request_are_the_next_request() {
        let sent: Vec<u8> = (0..1500).map(|n| (n % 251) as u8).collect();
        let mut scratch = Scratch::<{ 2 * RECV_MAX }>::new();
        assert_eq!(scratch.receive(&mut &sent[..]).unwrap(), 1500);
        assert_eq!(scratch.request_mut()[..], sent[..RECV_MAX]);
        assert_eq!(scratch.next_buffered(), Some(476));
        assert_eq!(scratch.request_mut()[..476], sent[RECV_MAX..]);
        assert_eq!(scratch.next_buffered(), None);
    }

    #[test]
    fn unsent_reply_and_buffered_request_are_put_back_whole() {
        let sent: Vec<u8> = (0..1500).map(|n| (n % 251) as u8).collect();
        let (mut scratch, mut exchange) = (Scratch::<{ 2 * RECV_MAX }>::new(), Exchange::new());
        scratch.receive(&mut &sent[..]).unwrap();
        let _send = exchange.received(&mut Echo, scratch.request_mut(), RECV_MAX);
        let _rest = exchange.sent(1000);
        let bytes = scratch.take_out(&exchange).expect("24 bytes of a reply, and 476 buffered");
        assert_eq!(bytes[..], sent[1000..]);

        scratch.all_mut().fill(0); // another connection
        scratch.put_back(&exchange, Some(bytes));
        assert_eq!(scratch.request_mut()[1000..], sent[1000..RECV_MAX]);
        assert_eq!(scratch.next_buffered(), Some(476));
        scratch.put_back(&exchange, None);
        assert_eq!(scratch.next_buffered(), None, "another connection's");
    }
}
