//! One conversation on a thread of its own.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Service};

use super::Server;
use super::registry::Ticket;
use crate::Stats;
use crate::drive::{Discarded, Driven, LINGER, discard, drive, lingers};
use crate::scratch::Scratch;
use crate::trace::{Trace, Traced};

/// System calls between two looks at the stop signal, for a peer that never lets the thread wait.
const BUDGET: u32 = 64;

/// Serves a conversation to its end and counts its cause.
pub(super) fn converse<T: Trace>(
    server: &Server<'_, T>,
    socket: &mut Traced<TcpStream, T>,
    mut ticket: Ticket<'_>,
    stats: &mut Stats,
) {
    ticket.enter(Some(socket.fd()));
    let cause = exchange(server, socket, stats).unwrap_or_else(|error| {
        stats.on_io_error(&error);
        Cause::Error
    });
    if ticket.was_cut() {
        stats.drain_cut += 1;
        stats.on_closed(Cause::Drain);
    } else {
        stats.on_closed(cause);
        if lingers(cause) {
            ticket.need_not_be_interrupted(); // it ends soon by itself
            linger(socket, stats);
        }
    }
}

fn exchange<T: Trace>(
    server: &Server<'_, T>,
    socket: &mut Traced<TcpStream, T>,
    stats: &mut Stats,
) -> io::Result<Cause> {
    if let Some(timeout) = server.options.idle_timeout {
        set_receive_timeout(socket, timeout)?;
        let args = format_args!("SO_SNDTIMEO, {timeout:?}");
        socket.call("setsockopt", args, |stream| stream.set_write_timeout(Some(timeout)))?;
        stats.syscalls += 2;
    }
    let mut service = (server.service)();
    let mut exchange = Exchange::new();
    let mut scratch = Scratch::new();
    loop {
        if server.stop.is_draining() {
            exchange.drain();
            if exchange.op() == Op::Recv {
                receive_last(&mut exchange, &mut *service, socket, &mut scratch, stats)?;
            }
        }
        match drive(&mut exchange, &mut *service, socket, &mut scratch, stats, BUDGET, false) {
            Driven::Closed(cause) => return Ok(cause),
            Driven::Interrupted | Driven::Yielded | Driven::Drained => {}
            Driven::Blocked => {
                // SO_RCVTIMEO or SO_SNDTIMEO has passed (socket(7)).
                exchange.terminate(Cause::Idle);
                let Op::Close(cause) = exchange.failed() else { unreachable!("it has failed") };
                return Ok(cause);
            }
        }
    }
}

/// The server drains and the conversation waits for a request: one that is there already is
/// answered, and otherwise none is waited for.
fn receive_last(
    exchange: &mut Exchange,
    service: &mut dyn Service,
    socket: &mut Traced<TcpStream, impl Trace>,
    scratch: &mut Scratch<RECV_MAX>,
    stats: &mut Stats,
) -> io::Result<()> {
    socket.call("ioctl", "FIONBIO, 1", |stream| stream.set_nonblocking(true))?;
    stats.syscalls += 2;
    if drive(exchange, service, socket, scratch, stats, 1, false) == Driven::Blocked {
        let _close = exchange.received(service, scratch.request(), 0);
    }
    socket.call("ioctl", "FIONBIO, 0", |stream| stream.set_nonblocking(false))
}

fn linger(socket: &mut Traced<TcpStream, impl Trace>, stats: &mut Stats) {
    let until = Instant::now() + LINGER;
    let mut buffer = [0; RECV_MAX];
    stats.syscalls += 2;
    let shut = socket.call("shutdown", "SHUT_WR", |stream| stream.shutdown(Shutdown::Write));
    if shut.and_then(|()| set_receive_timeout(socket, LINGER)).is_err() {
        return; // the connection is gone
    }
    while discard(socket, &mut buffer, stats, 1) == Discarded::More && Instant::now() < until {}
}

fn set_receive_timeout(
    socket: &Traced<TcpStream, impl Trace>,
    timeout: Duration,
) -> io::Result<()> {
    let args = format_args!("SO_RCVTIMEO, {timeout:?}");
    socket.call("setsockopt", args, |stream| stream.set_read_timeout(Some(timeout)))
}
