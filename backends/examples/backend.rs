//! A backend of your own in one file: non-blocking sockets that are tried in turn. It passes the
//! conformance suite (`backends/tests/conformance.rs`) and can be compared with the backends of the
//! crate:
//!
//! ```sh
//! cargo build --release --example backend
//! cargo run --release --bin loadgen -- compare mio \
//!     mine='target/release/examples/backend --port {port}'
//! ```
//!
//! Nothing announces that a socket is ready, so every iteration tries all of them, and sleeps if
//! none was. The backends of the crate wait with poll(2), epoll or io_uring instead.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_backends::{
    Backend, Config, Options, Publisher, Server, ServiceFactory, Shard, Stats, Unsupported,
};
use lockstep_core::{Cause, Echo, Exchange, Op, RECV_MAX, Service};

/// The backend; it has no tuning.
#[derive(Debug)]
pub struct InTurn;

/// Longest wait for the client's FIN after the last reply.
const LINGER: Duration = Duration::from_secs(1);

/// Delay before the next accept when none is possible.
const RETRY: Duration = Duration::from_millis(10);

/// Sleep after an iteration in which no socket was ready.
const SLEEP: Duration = Duration::from_micros(500);

impl Backend for InTurn {
    fn name(&self) -> &'static str {
        "in-turn"
    }

    fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
        Ok("each socket tried in turn".to_owned())
    }

    fn default_shards(&self, cpus: usize) -> usize {
        cpus
    }

    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
        shard.listener.set_nonblocking(true)?;
        (shard.ready)()?;
        let listener = Some(shard.listener.try_clone()?);
        let mut this = Loop {
            accept_at: Instant::now() + shard.options.accept_delay,
            listener,
            publisher: Publisher::new(shard.published),
            shard,
            connections: Vec::new(),
            stats: Stats::new(),
        };
        while this.listener.is_some() || !this.connections.is_empty() {
            this.iterate();
        }
        Ok(this.stats)
    }
}

struct Loop<'a> {
    shard: Shard<'a>,
    /// None once the server stops.
    listener: Option<TcpListener>,
    /// Time of the next accept.
    accept_at: Instant,
    connections: Vec<Connection>,
    stats: Stats,
    publisher: Publisher<'a>,
}

struct Connection {
    stream: TcpStream,
    exchange: Exchange,
    service: Box<dyn Service>,
    buffer: [u8; RECV_MAX],
    state: State,
    /// Time when a byte moved or, in `Lingering`, when the FIN was sent.
    since: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Open,
    /// The exchange has ended and is counted; the client has not closed yet.
    Lingering,
    Closed,
}

impl Loop<'_> {
    fn iterate(&mut self) {
        self.publisher.publish(&self.stats);
        let moved = |stats: &Stats| (stats.accepted, stats.bytes_received, stats.bytes_sent);
        let (now, before) = (Instant::now(), moved(&self.stats));
        for connection in &mut self.connections {
            connection.run(&mut self.stats);
        }
        match self.shard.stop.is_draining() {
            true => self.drain(),
            false => self.accept(),
        }
        self.expire(now);
        for index in (0..self.connections.len()).rev() {
            if self.connections[index].state == State::Closed {
                drop(self.connections.swap_remove(index)); // which closes the socket
                self.stats.syscalls += 1;
                self.shard.limit.closed();
            }
        }
        if moved(&self.stats) == before {
            thread::sleep(SLEEP);
        }
    }

    /// Accepts what is in the listen queue, within the limits.
    fn accept(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        while self.accept_at <= Instant::now() {
            if !self.shard.limit.try_acquire() {
                self.accept_at = Instant::now() + RETRY; // another shard may release a slot
            } else if !self.accept_one(&listener) {
                self.shard.limit.release();
                break;
            }
        }
        self.listener = Some(listener);
    }

    /// Accepts a connection for an acquired slot; returns false if there is none.
    fn accept_one(&mut self, listener: &TcpListener) -> bool {
        self.stats.observe_queue(listener, self.shard.tracer);
        self.stats.syscalls += 1;
        match listener.accept() {
            Ok((stream, _)) => {
                self.stats.on_accepted();
                self.shard.limit.opened();
                self.accept_at = Instant::now() + self.shard.options.accept_delay;
                let mut connection = Connection {
                    service: self.shard.service.make(&stream),
                    exchange: Exchange::new(),
                    buffer: [0; RECV_MAX],
                    state: State::Open,
                    since: Instant::now(),
                    stream,
                };
                if let Err(error) = connection.stream.set_nonblocking(true) {
                    connection.fail(&error, &mut self.stats);
                }
                self.connections.push(connection);
                true
            }
            Err(error) => {
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                    self.stats.on_accept_error(&error);
                    self.accept_at = Instant::now() + RETRY; // a descriptor may become free
                }
                false
            }
        }
    }

    /// Accepts the listen queue, closes the listener and drains all exchanges: the server stops.
    fn drain(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        for _ in 0..=self.shard.options.backlog {
            self.shard.limit.acquire();
            if !self.accept_one(&listener) {
                self.shard.limit.release();
                break;
            }
        }
        drop(listener);
        for connection in &mut self.connections {
            connection.exchange.drain();
            if connection.state == State::Open && connection.exchange.op() == Op::Recv {
                // A request that has arrived already is answered.
                connection.run(&mut self.stats);
                if connection.exchange.op() == Op::Recv {
                    connection.end_of_requests(&mut self.stats);
                }
            }
        }
    }

    /// Ends the connections whose deadline was over at `now`, before the sockets were tried.
    fn expire(&mut self, now: Instant) {
        let cut = self.shard.stop.deadline().is_some_and(|deadline| deadline <= now);
        for connection in &mut self.connections {
            let is_over = connection.deadline(&self.shard).is_some_and(|deadline| deadline <= now);
            match connection.state {
                State::Lingering if cut || is_over => connection.state = State::Closed,
                State::Open if cut => {
                    self.stats.drain_cut += 1;
                    connection.terminate(Cause::Drain, &mut self.stats);
                }
                State::Open if is_over => connection.terminate(Cause::Idle, &mut self.stats),
                _ => {}
            }
        }
    }
}

impl Connection {
    fn deadline(&self, shard: &Shard<'_>) -> Option<Instant> {
        match self.state {
            State::Open => self.since.checked_add(shard.options.idle_timeout?),
            State::Lingering => Some(self.since + LINGER),
            State::Closed => None,
        }
    }

    /// Receives a request and sends its reply, as far as the socket is ready for it: one exchange
    /// at most, so that every connection gets its turn.
    fn run(&mut self, stats: &mut Stats) {
        if self.state == State::Lingering {
            return self.discard(stats);
        }
        for _ in 0..2 {
            let op = self.exchange.op();
            let result = match op {
                Op::Recv => self.stream.read(&mut self.buffer),
                Op::Send { start, end } => {
                    self.stream.write(&self.buffer[usize::from(start)..usize::from(end)])
                }
                Op::Close(_) => break,
            };
            stats.syscalls += 1;
            let _next = match (op, result) {
                (Op::Send { start, end }, Ok(count)) => {
                    stats.on_sent(count, usize::from(end - start));
                    self.exchange.sent(count)
                }
                (_, Ok(count)) => {
                    stats.on_received(count);
                    self.exchange.received(&mut *self.service, &mut self.buffer, count)
                }
                (_, Err(error)) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => return,
                    _ => return self.fail(&error, stats),
                },
            };
            self.since = Instant::now();
        }
        self.end_if_closed(stats);
    }

    /// Counts the end of the exchange, if it has ended, and sends a FIN if the client may still be
    /// sending.
    fn end_if_closed(&mut self, stats: &mut Stats) {
        let Op::Close(cause) = self.exchange.op() else { return };
        stats.on_closed(cause);
        let lingers = matches!(cause, Cause::Bye | Cause::Done | Cause::Drain);
        self.state = match lingers && self.stream.shutdown(Shutdown::Write).is_ok() {
            true => State::Lingering,
            false => State::Closed,
        };
        self.since = Instant::now();
    }

    /// Reports to a draining exchange that no request has arrived.
    fn end_of_requests(&mut self, stats: &mut Stats) {
        let _close = self.exchange.received(&mut *self.service, &mut self.buffer, 0);
        self.end_if_closed(stats);
    }

    fn fail(&mut self, error: &io::Error, stats: &mut Stats) {
        stats.on_io_error(error);
        let _close = self.exchange.failed();
        self.end_if_closed(stats);
    }

    /// Ends the exchange without waiting for its reply to be sent.
    fn terminate(&mut self, cause: Cause, stats: &mut Stats) {
        self.exchange.terminate(cause);
        let _close = self.exchange.failed();
        stats.on_closed(cause);
        self.state = State::Closed;
    }

    /// Discards what the client sends after its last reply: closing a socket with unread bytes
    /// would reset the connection.
    fn discard(&mut self, stats: &mut Stats) {
        stats.syscalls += 1;
        match self.stream.read(&mut self.buffer) {
            Ok(0) => self.state = State::Closed,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.state = State::Closed,
        }
    }
}

/// Serves echo on the port after `--port`, until it is killed.
fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().skip_while(|arg| arg != "--port").nth(1);
    let port = port.map_or(Ok(8898), |port| port.parse())?;
    let server = Server::start(&Config {
        backend: &InTurn,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        service: ServiceFactory::new(|_socket| Echo),
        options: Options::default(),
    })?;
    println!("listening addr={} backend=in-turn shards={}", server.addr(), server.shards());
    server.join()?;
    Ok(())
}
