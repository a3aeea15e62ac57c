//! The inner loop of the backends that call recv(2) and send(2) themselves.

use std::io::{self, ErrorKind, Read, Write};

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Service};

use crate::Stats;
use crate::scratch::Scratch;

/// Reason for which [`drive`] returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Driven {
    /// The socket would block, or its timeout passed.
    Blocked,
    /// As [`Blocked`](Self::Blocked), known without a call: the last receive emptied the socket.
    Drained,
    /// A signal interrupted a call.
    Interrupted,
    /// The budget is used up.
    Yielded,
    /// The exchange has ended.
    Closed(Cause),
}

/// Runs `exchange` over `socket` until it would block or has ended, for at most `budget` steps: a
/// request or a send each.
///
/// `scratch` has the unsent part of the reply at the range of [`Exchange::op`], and buffered
/// requests behind it; between two calls, both may be taken out and must be put back. With
/// `drained_when_short`, a receive that returned less than it had room for proves that the socket
/// is empty: true for Linux TCP without urgent data, where later bytes raise a new edge (epoll(7)).
#[inline]
pub(crate) fn drive<const ROOM: usize>(
    exchange: &mut Exchange,
    service: &mut dyn Service,
    socket: &mut (impl Read + Write),
    scratch: &mut Scratch<ROOM>,
    stats: &mut Stats,
    budget: u32,
    drained_when_short: bool,
) -> Driven {
    let mut op = exchange.op();
    let mut drained = false;
    for _ in 0..budget {
        if op == Op::Recv
            && let Some(count) = scratch.next_buffered()
        {
            stats.on_received(count);
            op = exchange.received(service, scratch.request_mut(), count);
            continue;
        }
        let result = match op {
            Op::Recv if drained => return Driven::Drained,
            Op::Recv => scratch.receive(socket),
            Op::Send { start, end } => {
                socket.write(&scratch.request_mut()[usize::from(start)..usize::from(end)])
            }
            Op::Close(cause) => return Driven::Closed(cause),
        };
        stats.syscalls += 1;
        op = match (op, result) {
            (Op::Send { start, end }, Ok(count)) => {
                stats.on_sent(count, usize::from(end - start));
                exchange.sent(count)
            }
            (_, Ok(count)) => {
                drained = drained_when_short && count < ROOM;
                let count = count.min(RECV_MAX);
                stats.on_received(count);
                exchange.received(service, scratch.request_mut(), count)
            }
            (_, Err(error)) => match error.kind() {
                ErrorKind::Interrupted => return Driven::Interrupted,
                ErrorKind::WouldBlock => {
                    count_short(op, stats);
                    return Driven::Blocked;
                }
                _ => {
                    count_error(&error, stats);
                    exchange.failed()
                }
            },
        };
    }
    match op {
        Op::Close(cause) => Driven::Closed(cause),
        Op::Recv | Op::Send { .. } => Driven::Yielded,
    }
}

#[cold]
fn count_short(op: Op, stats: &mut Stats) {
    if matches!(op, Op::Send { .. }) {
        stats.sends_short += 1;
    }
}

#[cold]
fn count_error(error: &io::Error, stats: &mut Stats) {
    stats.on_io_error(error);
}

/// Result of [`discard`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Discarded {
    /// The socket is empty, but the client may still send.
    Blocked,
    /// `bound` receives did not empty the socket.
    More,
    /// The client has closed or reset the connection.
    Ended,
}

/// Receives and discards what the client sends after its last reply, at most `bound` times.
///
/// A socket closed with unread bytes answers with a reset, which can destroy the reply on its way
/// (RFC 2525, 2.17). So the last reply is followed by shutdown(2) of the sending side, and the
/// socket is closed when the client has closed, or after [`LINGER`].
pub(crate) fn discard(
    socket: &mut impl Read,
    buffer: &mut [u8],
    stats: &mut Stats,
    bound: u32,
) -> Discarded {
    for _ in 0..bound {
        stats.syscalls += 1;
        match socket.read(buffer) {
            Ok(0) => return Discarded::Ended,
            Ok(_) => {}
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Discarded::Blocked,
                ErrorKind::Interrupted => {}
                _ => return Discarded::Ended,
            },
        }
    }
    Discarded::More
}

/// Longest wait for the client's FIN after its last reply.
pub(crate) const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

/// True if the client may still be sending when the exchange ends for `cause`, so that the socket
/// must linger before it is closed.
pub(crate) const fn lingers(cause: Cause) -> bool {
    matches!(cause, Cause::Bye | Cause::Done | Cause::Drain)
}
