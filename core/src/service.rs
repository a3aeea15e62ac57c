//! What a server says: a request in, a reply out, in the same buffer.

use crate::RECV_MAX;

/// What a server says. The reply is written over the request, in place.
///
/// A request is *whatever one receive returned*: a peer's message may arrive in pieces, and each
/// piece is a request of its own.
pub trait Service {
    /// Answers the request in `buffer[..count]`; `count` is in `1..=RECV_MAX`.
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply;
}

/// What a service answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a reply is owed to the peer"]
pub enum Reply {
    /// Send the first so many bytes of the buffer, at most [`RECV_MAX`], then receive again.
    ///
    /// TCP cannot carry an empty message, so `Send(0)` sends nothing and receives again.
    Send(u16),
    /// Send the first so many bytes of the buffer, then end the conversation.
    SendThenClose(u16),
    /// End the conversation without a reply.
    Close,
}

/// The benchmark: the same bytes back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Service for Echo {
    #[inline]
    fn reply(&mut self, _buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        debug_assert!((1..=RECV_MAX).contains(&count));
        Reply::Send(count as u16)
    }
}

/// The tutorial's one-shot server: whatever is asked, the answer is `hi`, and that is all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hi;

impl Service for Hi {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], _count: usize) -> Reply {
        buffer[..2].copy_from_slice(b"hi");
        Reply::SendThenClose(2)
    }
}
