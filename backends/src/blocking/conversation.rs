//! One conversation on a thread of its own.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Service};

use super::Server;
use super::registry::Ticket;
use crate::Stats;
use crate::drive::{Discarded, Driven, LINGER, discard, drive, lingers};

/// System calls between two looks at the stop signal, for a peer that never lets the thread wait.
const BUDGET: u32 = 64;

/// Serves a conversation to its end and counts its cause.
pub(super) fn converse(
    server: &Server<'_>,
    stream: &mut TcpStream,
    mut ticket: Ticket<'_>,
    stats: &mut Stats,
) {
    ticket.enter(Some(stream.as_raw_fd()));
    let cause = exchange(server, stream, stats).unwrap_or_else(|error| {
        stats.on_io_error(&error);
        Cause::Error
    });
    if ticket.was_cut() {
        stats.drain_cut += 1;
        stats.on_closed(Cause::Drain);
    } else {
        stats.on_closed(cause);
        if lingers(cause) {
            linger(stream, stats);
        }
    }
}

fn exchange(server: &Server<'_>, stream: &mut TcpStream, stats: &mut Stats) -> io::Result<Cause> {
    if let Some(timeout) = server.options.idle_timeout {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stats.syscalls += 2;
    }
    let mut service = (server.service)();
    let mut exchange = Exchange::new();
    let mut buffer = [0; RECV_MAX];
    loop {
        if server.stop.is_draining() {
            exchange.drain();
            if exchange.op() == Op::Recv {
                receive_last(&mut exchange, &mut *service, stream, &mut buffer, stats)?;
            }
        }
        match drive(&mut exchange, &mut *service, stream, &mut buffer, stats, BUDGET, false) {
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
    stream: &mut TcpStream,
    buffer: &mut [u8; RECV_MAX],
    stats: &mut Stats,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stats.syscalls += 2;
    if drive(exchange, service, stream, buffer, stats, 1, false) == Driven::Blocked {
        let _close = exchange.received(service, buffer, 0);
    }
    stream.set_nonblocking(false)
}

fn linger(stream: &mut TcpStream, stats: &mut Stats) {
    let until = Instant::now() + LINGER;
    let mut buffer = [0; RECV_MAX];
    stats.syscalls += 2;
    let ready =
        stream.shutdown(Shutdown::Write).and_then(|()| stream.set_read_timeout(Some(LINGER)));
    if ready.is_err() {
        return; // the connection is gone
    }
    while discard(stream, &mut buffer, stats) == Discarded::More && Instant::now() < until {}
}
