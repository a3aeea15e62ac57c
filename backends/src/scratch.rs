//! The memory that receives go to, and that replies are written and sent from.

use std::io::{self, Read};

use lockstep_core::{Exchange, Op, RECV_MAX};

/// Room for a receive of `ROOM` bytes: a request of at most [`RECV_MAX`] and, where there is more
/// room, the beginning of what was sent behind it.
///
/// A receive that filled all the room may have left something behind, and has to be followed by
/// another; with more room than a request can take, no request alone fills it. What was received
/// beyond a request is parked until the request is answered, and then is the next one: nobody who
/// keeps to lockstep ever has anything parked.
#[derive(Debug)]
pub(crate) struct Scratch<const ROOM: usize> {
    bytes: [u8; ROOM],
    /// How many bytes from `bytes[RECV_MAX]` on are parked.
    parked: usize,
}

impl<const ROOM: usize> Scratch<ROOM> {
    pub(crate) const fn new() -> Self {
        const { assert!(ROOM >= RECV_MAX && ROOM <= 2 * RECV_MAX, "what is parked is a request") };
        Self { bytes: [0; ROOM], parked: 0 }
    }

    /// The request's place, where its reply is written, too.
    #[inline]
    pub(crate) fn request(&mut self) -> &mut [u8; RECV_MAX] {
        self.bytes.first_chunk_mut().expect("the room is that large at least")
    }

    /// All the room, for bytes that nobody wants.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Receives, and says how many bytes; a request is the first of them, [`RECV_MAX`] at most.
    #[inline]
    pub(crate) fn receive(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        debug_assert_eq!(self.parked, 0, "what is parked comes first");
        let count = socket.read(&mut self.bytes)?;
        self.parked = count.saturating_sub(RECV_MAX);
        Ok(count)
    }

    /// Makes a request of what is parked, if anything, and says how long it is.
    #[inline]
    pub(crate) fn next_parked(&mut self) -> Option<usize> {
        let count = std::mem::take(&mut self.parked);
        self.bytes.copy_within(RECV_MAX..RECV_MAX + count, 0);
        (count > 0).then_some(count)
    }

    /// Takes out what a connection needs again: what is not sent of its reply, and what is parked.
    pub(crate) fn take_out(&mut self, exchange: &Exchange) -> Option<Box<[u8]>> {
        let parked = RECV_MAX..RECV_MAX + std::mem::take(&mut self.parked);
        let held = match exchange.op() {
            Op::Close(_) => return None,
            Op::Recv => self.bytes[parked].to_vec(),
            Op::Send { start, end } => {
                [&self.bytes[usize::from(start)..usize::from(end)], &self.bytes[parked]].concat()
            }
        };
        (!held.is_empty()).then(|| held.into())
    }

    /// Puts back what was taken out, if anything; whatever another connection left is gone.
    #[inline]
    pub(crate) fn put_back(&mut self, exchange: &Exchange, held: Option<Box<[u8]>>) {
        self.parked = 0;
        if let Some(held) = held {
            let unsent = match exchange.op() {
                Op::Send { start, end } => usize::from(start)..usize::from(end),
                Op::Recv | Op::Close(_) => 0..0,
            };
            let (reply, parked) = held.split_at(unsent.len());
            self.bytes[unsent].copy_from_slice(reply);
            self.bytes[RECV_MAX..][..parked.len()].copy_from_slice(parked);
            self.parked = parked.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_core::Echo;

    use super::*;

    #[test]
    fn what_is_beyond_a_request_is_the_next_one() {
        let sent: Vec<u8> = (0..1500).map(|n| (n % 251) as u8).collect();
        let mut scratch = Scratch::<{ 2 * RECV_MAX }>::new();
        assert_eq!(scratch.receive(&mut &sent[..]).unwrap(), 1500);
        assert_eq!(scratch.request()[..], sent[..RECV_MAX]);
        assert_eq!(scratch.next_parked(), Some(476));
        assert_eq!(scratch.request()[..476], sent[RECV_MAX..]);
        assert_eq!(scratch.next_parked(), None);
    }

    #[test]
    fn an_unsent_reply_and_what_is_parked_come_back_whole() {
        let sent: Vec<u8> = (0..1500).map(|n| (n % 251) as u8).collect();
        let (mut scratch, mut exchange) = (Scratch::<{ 2 * RECV_MAX }>::new(), Exchange::new());
        scratch.receive(&mut &sent[..]).unwrap();
        let _send = exchange.received(&mut Echo, scratch.request(), RECV_MAX);
        let _rest = exchange.sent(1000);
        let held = scratch.take_out(&exchange).expect("24 bytes of a reply, and 476 parked");
        assert_eq!(held[..], sent[1000..]);

        scratch.room().fill(0); // another connection
        scratch.put_back(&exchange, Some(held));
        assert_eq!(scratch.request()[1000..], sent[1000..RECV_MAX]);
        assert_eq!(scratch.next_parked(), Some(476));
        scratch.put_back(&exchange, None);
        assert_eq!(scratch.next_parked(), None, "somebody else's");
    }
}
