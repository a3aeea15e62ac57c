//! Services: a request in, a reply out, in the same buffer.

use crate::RECV_MAX;

/// Replies to requests. Each connection has a service of its own, which may have state.
///
/// A request is *whatever one receive returned*: a client's message may arrive in pieces, and each
/// piece is a request of its own.
pub trait Service {
    /// Writes the reply to the request in `buffer[..count]` over it; `count` is in `1..=RECV_MAX`.
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply;
}

/// Reply of a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a reply is owed to the client"]
pub enum Reply {
    /// Send this many bytes of the buffer, at most [`RECV_MAX`], then receive again.
    ///
    /// TCP cannot carry an empty message, so `Send(0)` sends nothing and receives again.
    Send(u16),
    /// Send this many bytes of the buffer, then close.
    SendThenClose(u16),
    /// Close without a reply.
    Close,
}

/// The service of the benchmarks: replies with the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Service for Echo {
    #[inline]
    fn reply(&mut self, _buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        debug_assert!((1..=RECV_MAX).contains(&count));
        Reply::Send(count as u16)
    }
}

/// The tutorial's one-shot server: replies `hi` to any request, then closes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hi;

impl Service for Hi {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], _count: usize) -> Reply {
        buffer[..2].copy_from_slice(b"hi");
        Reply::SendThenClose(2)
    }
}
