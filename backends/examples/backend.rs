//! A backend of your own in one file: poll(2), level-triggered. It passes the conformance suite
//! (`backends/tests/conformance.rs`) and can be compared with the backends of the crate:
//!
//! ```sh
//! cargo build --release --example backend
//! cargo run --release --bin loadgen -- compare mio \
//!     mine='target/release/examples/backend --port {port}'
//! ```
//!
//! poll(2) is given every socket at every call, so its cost grows with the number of connections;
//! epoll, which `mio` uses, is given each socket once.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lockstep_backends::{
    Backend, Config, Options, Publisher, Server, ServiceFactory, Shard, Stats, Unsupported,
};
use lockstep_core::{Cause, Echo, Exchange, Op, RECV_MAX, Service};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The backend; it has no tuning.
#[derive(Debug)]
pub struct Poll;

/// Longest wait for the client's FIN after the last reply.
const LINGER: Duration = Duration::from_secs(1);

/// Delay before the next accept when none is possible.
const RETRY: Duration = Duration::from_millis(10);

impl Backend for Poll {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
        Ok("poll(2), level-triggered".to_owned())
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
            this.iterate()?;
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
    fn iterate(&mut self) -> io::Result<()> {
        self.publisher.publish(&self.stats);
        let (acceptable, ready) = self.wait()?;
        let now = Instant::now();
        for (connection, ready) in self.connections.iter_mut().zip(ready) {
            if ready {
                connection.run(&mut self.stats);
            }
        }
        if self.shard.stop.is_draining() {
            self.drain()?;
        } else if acceptable {
            self.accept();
        }
        self.expire(now);
        for index in (0..self.connections.len()).rev() {
            if self.connections[index].state == State::Closed {
                drop(self.connections.swap_remove(index)); // which closes the socket
                self.stats.syscalls += 1;
                self.shard.limit.closed();
            }
        }
        Ok(())
    }

    /// Waits for a socket to become ready or a deadline to pass. Returns whether the listener is
    /// ready, and each of the connections.
    fn wait(&mut self) -> io::Result<(bool, Vec<bool>)> {
        let now = Instant::now();
        let mut fds = Vec::with_capacity(self.connections.len() + 2);
        fds.extend(self.connections.iter().map(Connection::interest));
        let mut deadline = self.connections.iter().filter_map(|it| it.deadline(&self.shard)).min();
        if let Some(listener) = &self.listener {
            fds.push(PollFd::new(self.shard.stop, PollFlags::IN));
            if self.accept_at <= now {
                fds.push(PollFd::new(listener, PollFlags::IN));
            } else {
                deadline = Some(deadline.map_or(self.accept_at, |at| at.min(self.accept_at)));
            }
        }
        deadline = [deadline, self.shard.stop.deadline()].into_iter().flatten().min();
        let timeout = deadline.map(|at| at.saturating_duration_since(now));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.stats.syscalls += 1;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let connections = ready.by_ref().take(self.connections.len()).collect();
        Ok((ready.nth(1).unwrap_or(false), connections))
    }

    /// Accepts what is in the listen queue, within the limits.
    fn accept(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        self.stats.observe_queue(&listener, self.shard.tracer);
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
    fn drain(&mut self) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        self.stats.observe_queue(&listener, self.shard.tracer);
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
        Ok(())
    }

    /// Ends the connections whose deadline was over at `now`, before the last poll(2) returned.
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
    fn interest(&self) -> PollFd<'_> {
        let sends = self.state == State::Open && matches!(self.exchange.op(), Op::Send { .. });
        PollFd::new(&self.stream, if sends { PollFlags::OUT } else { PollFlags::IN })
    }

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
        backend: &Poll,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        service: ServiceFactory::new(|_socket| Echo),
        options: Options::default(),
    })?;
    println!("listening addr={} backend=poll shards={}", server.addr(), server.shards());
    server.join()?;
    Ok(())
}
