//! The `io-uring` backend: one ring per shard; the kernel does the work and reports it.
//!
//! An iteration is one io_uring_enter(2): it submits what the last iteration has queued and waits
//! for completions. In lockstep an exchange is one completion, of a receive. Everything that a
//! connection decides is in `connection.rs`; the loop hands it completions and submits its
//! operations.
//!
//! A connection waiting for a request has no buffer: the kernel takes one from a ring of buffers
//! when there is something to receive. It is recycled when its reply has been sent. What a full
//! socket did not take is copied out.

mod connection;
mod probe;
mod trace;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use lockstep_core::{Cause, RECV_MAX};
use lockstep_sys::busy_poll::BusyPoll;
use lockstep_sys::errno::is_exhaustion;
use lockstep_sys::uring::{BufferId, Completion, NO_KEY, Ring, Sent};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::accept::{AcceptBackoff, is_permanent, listener_error};
use crate::deadlines::Deadlines;
use crate::drive::LINGER;
use crate::slots::{Key, Slots};
use crate::trace::{NONE, NoTrace, Trace, Traced, quoted};
use crate::{
    Backend, ConnectionLimit, Options, Publisher, ServiceFactory, Shard, Stats, Stop, Unsupported,
};
use connection::{Connection, Operation, QUEUED_MAX, Received, Shared, Socket};
use trace::{Enters, note_receive, note_send};

/// The `io-uring` backend's value.
#[derive(Clone, Copy, Debug)]
pub struct IoUring {
    /// Number of receive buffers of a shard, at most; a power of two.
    pub buffers: u16,
}

impl IoUring {
    /// The tuning that `--backend io-uring` means: as many buffers as the submission queue has
    /// slots.
    pub const DEFAULT: Self = Self { buffers: 4096 };
}

impl Backend for IoUring {
    fn name(&self) -> &'static str {
        "io-uring"
    }

    fn probe(&self, shards: usize) -> Result<String, Unsupported> {
        probe::probe(self, shards)
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["io_uring", "uring"]
    }

    fn default_shards(&self, cpus: usize) -> usize {
        cpus
    }

    fn can_busy_poll(&self) -> bool {
        true
    }

    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
        match shard.tracer {
            None => Loop::serve(self, shard, NoTrace),
            tracer => Loop::serve(self, shard, tracer),
        }
    }
}

/// A connection and its socket.
struct Client {
    socket: OwnedFd,
    connection: Connection,
}

/// Interval at which unused buffers are given back after a peak.
const BUFFERS_KEPT: Duration = Duration::from_secs(1);

/// Panic message for a completion that finds no connection: a connection is closed only when
/// nothing of it is in flight.
const CLOSED_IN_FLIGHT: &str = "a connection outlives its operations";

struct Loop<'a, T: Trace> {
    // Dropped first, before the sockets that its operations refer to.
    ring: Ring<Enters<T>>,
    listener: Option<TcpListener>,
    /// The error with which the listener failed for good.
    listener_error: Option<io::Error>,
    options: &'a Options,
    stop: &'a Stop,
    limit: &'a ConnectionLimit,
    service: &'a ServiceFactory,
    trace: T,
    clients: Slots<Client>,
    shared: Shared,
    publisher: Publisher<'a>,
    /// Calls of the ring that `shared.stats` has.
    enters: u64,
    /// Connections that wait for a buffer; some may be closed already.
    waiting: VecDeque<Key>,
    /// Time of the next check whether fewer buffers would do.
    shrink_at: Option<Instant>,
    /// The accept is in flight.
    accepting: bool,
    /// Connections accepted beyond the limit: one accept takes all that are in the listen queue.
    accepted: VecDeque<OwnedFd>,
    backoff: AcceptBackoff,
    busy_poll: BusyPoll,
}

impl<'a, T: Trace> Loop<'a, T> {
    fn serve(backend: &IoUring, shard: Shard<'a>, trace: T) -> io::Result<Stats> {
        let ready = shard.ready;
        let this = Self::new(backend, shard, trace)?;
        ready()?;
        this.run()
    }

    fn new(backend: &IoUring, shard: Shard<'a>, trace: T) -> io::Result<Self> {
        let Shard { listener, options, stop, limit, service, published, .. } = shard;
        let mut ring = probe::set_up(backend, Enters(trace)).map_err(io::Error::other)?;
        let fd = stop.as_fd().as_raw_fd();
        trace.note(NONE, format_args!("submit POLL_ADD fd={fd} (the stop signal)"));
        ring.poll(NO_KEY, stop, libc::POLLIN as u32, false)?;
        Ok(Self {
            ring,
            listener: Some(listener),
            listener_error: None,
            options,
            stop,
            limit,
            service,
            trace,
            clients: Slots::new(),
            shared: Shared {
                stats: Stats::new(),
                idle: Deadlines::new(options.idle_timeout),
                lingering: Deadlines::new(Some(LINGER)),
                queued: 0,
                only_single: false,
                iteration: 0,
                draining: false,
                cut: false,
            },
            publisher: Publisher::new(published),
            enters: 0,
            waiting: VecDeque::new(),
            shrink_at: None,
            accepting: false,
            accepted: VecDeque::new(),
            backoff: AcceptBackoff::new(options.accept_delay),
            busy_poll: BusyPoll::new(options.spin),
        })
    }

    fn run(mut self) -> io::Result<Stats> {
        self.accept()?;
        while self.listener.is_some() || self.clients.len() > 0 {
            let accepted = self.shared.stats.accepted;
            self.wait()?;
            if self.ring.is_refused() && self.stop.deadline().is_some_and(|at| at <= Instant::now())
            {
                let text = "io_uring_enter(2) was refused until the drain timeout";
                return Err(io::Error::other(text));
            }
            self.shared.iteration = self.ring.iteration();
            self.shared.draining = self.stop.is_draining();
            while let Some(completion) = self.ring.next_completion() {
                self.on_completion(completion)?;
            }
            self.limit_queues()?;
            self.retry_waiting()?;
            self.expire()?;
            self.open_accepted()?;
            if self.shared.stats.accepted > accepted {
                self.record_queue(); // connections that arrived meanwhile
            }
            self.accept()?;
        }
        self.ring.submit()?; // the last closes
        self.publish();
        let mut stats = self.shared.stats;
        stats.spun_us = self.busy_poll.spun.as_micros() as u64;
        self.listener_error.map_or(Ok(stats), Err)
    }

    fn publish(&mut self) {
        let enters = self.ring.enters();
        self.shared.stats.syscalls += enters - self.enters;
        self.enters = enters;
        self.publisher.publish(&self.shared.stats);
    }

    /// Submits what is queued and waits for completions.
    fn wait(&mut self) -> io::Result<()> {
        self.publish();
        // Buffers for the connections that wait for one are recycled in the next iteration.
        if !self.ring.is_settled() || !self.waiting.is_empty() {
            return self.ring.wait(Some(Duration::ZERO));
        }
        if self.busy_poll.is_enabled() && self.busy_poll()? {
            return Ok(());
        }
        let timeout = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        self.ring.wait(timeout)
    }

    /// Submits what is queued and polls for completions; returns true if there are any.
    #[cold]
    fn busy_poll(&mut self) -> io::Result<bool> {
        let until_deadline = |at: Instant| at.saturating_duration_since(Instant::now());
        let longest = self.deadline().map_or(Duration::MAX, until_deadline);
        let Some(mut attempt) = self.busy_poll.begin(longest) else { return Ok(false) };
        self.ring.wait(Some(Duration::ZERO))?;
        if self.ring.is_settled() && !self.ring.has_completions() {
            let span = self.trace.begin(NONE);
            let found = loop {
                if self.ring.has_news() {
                    break true;
                }
                if attempt.is_over() {
                    break false;
                }
                std::hint::spin_loop();
            };
            if let Some(span) = span {
                let found = if found { "something" } else { "nothing" };
                span.done(format_args!("look for completions -> {found}"));
            }
            if found {
                self.ring.wait(Some(Duration::ZERO))?;
            }
        }
        let found = !self.ring.is_settled() || self.ring.has_completions();
        self.busy_poll.end(attempt, found);
        Ok(found)
    }

    fn deadline(&self) -> Option<Instant> {
        let cut = self.stop.deadline().filter(|_| !self.shared.cut);
        let backoff = self.backoff.until().filter(|_| !self.stop.is_draining());
        let (idle, lingering) = (self.shared.idle.next(), self.shared.lingering.next());
        let next = [backoff, idle, lingering, cut, self.shrink_at];
        next.into_iter().flatten().min()
    }

    #[inline]
    fn on_completion(&mut self, completion: Completion) -> io::Result<()> {
        self.trace_completion(&completion);
        match completion {
            Completion::Receive { key, result, more, nonempty } => {
                self.on_received(Key::unpack(key), result, more, nonempty)
            }
            Completion::Send { key, result, bytes } => {
                self.on_sent(Key::unpack(key), result, bytes.expect("bytes of a send"))
            }
            Completion::Accept { result, more } => self.on_accepted(result, more),
            Completion::Poll { .. } => self.drain(),
            Completion::Cancel { key: NO_KEY, result } if result.is_err() && self.accepting => {
                self.cancel_accept() // the kernel was just working on it
            }
            Completion::Cancel { key, result } => match self.clients.get_mut(Key::unpack(key)) {
                Some(client) => {
                    let operation = client.connection.on_cancelled(result);
                    self.submit(Key::unpack(key), operation)
                }
                None => Ok(()), // the connection has been closed meanwhile
            },
            Completion::Close { .. } => Ok(()), // the descriptor is gone in any case (close(2))
        }
    }

    #[inline]
    fn on_received(
        &mut self,
        key: Key,
        result: Result<Option<BufferId>, Errno>,
        more: bool,
        nonempty: bool,
    ) -> io::Result<()> {
        let Client { socket, connection } = self.clients.get_mut(key).expect(CLOSED_IN_FLIGHT);
        let mut buffer = None;
        let request = result.map(|filled| {
            buffer = filled;
            buffer.as_mut().map(|buffer| {
                let count = buffer.length();
                let bytes = self.ring.buffer(buffer).first_chunk_mut::<RECV_MAX>();
                (bytes.expect("the length of a buffer"), count)
            })
        });
        let mut calls = Calls { socket, trace: self.trace };
        let received = Received { request, more, nonempty };
        let operation = connection.on_received(received, &mut calls, &mut self.shared);
        if let Operation::SendBuffer { end, receive_all } = operation {
            let mut buffer = buffer.expect("a reply is in the buffer of its request");
            let bytes = &self.ring.buffer(&mut buffer)[..usize::from(end)];
            note_send(self.trace, &*socket, bytes, " CQE_SKIP_SUCCESS");
            self.ring.send_buffer(key.pack(), &*socket, buffer, end.into())?;
            if receive_all {
                note_receive(self.trace, &*socket, "MULTISHOT");
                self.ring.receive_multi(key.pack(), &*socket)?;
            }
            return Ok(());
        }
        if let Some(buffer) = buffer {
            self.ring.recycle(buffer);
        }
        self.submit(key, operation)
    }

    #[cold]
    fn on_sent(&mut self, key: Key, result: Result<u32, Errno>, bytes: Sent) -> io::Result<()> {
        let Client { socket, connection } = self.clients.get_mut(key).expect(CLOSED_IN_FLIGHT);
        let mut calls = Calls { socket, trace: self.trace };
        let result = result.map(|count| count as usize);
        let operation = match bytes {
            Sent::Buffer(mut buffer, length) => {
                let bytes = &self.ring.buffer(&mut buffer)[..length];
                let operation = connection.on_sent(result, bytes, &mut calls, &mut self.shared);
                self.ring.recycle(buffer);
                operation
            }
            Sent::Bytes(bytes) => connection.on_sent(result, &bytes, &mut calls, &mut self.shared),
        };
        self.submit(key, operation)
    }

    /// Submits an operation of a connection.
    fn submit(&mut self, key: Key, operation: Operation) -> io::Result<()> {
        if operation == Operation::None {
            return Ok(());
        }
        let Client { socket, .. } = self.clients.get_mut(key).expect(CLOSED_IN_FLIGHT);
        let (ring, trace, data) = (&mut self.ring, self.trace, key.pack());
        match operation {
            Operation::Receive => {
                note_receive(trace, &*socket, "1024");
                ring.receive(data, socket, 0)
            }
            Operation::ReceiveNow => {
                note_receive(trace, &*socket, "1024 MSG_DONTWAIT");
                ring.receive(data, socket, libc::MSG_DONTWAIT)
            }
            Operation::ReceiveAll => {
                note_receive(trace, &*socket, "MULTISHOT");
                ring.receive_multi(data, socket)
            }
            Operation::CancelReceive => {
                let fd = socket.as_raw_fd();
                trace.note(fd, format_args!("submit ASYNC_CANCEL of RECV fd={fd}"));
                ring.cancel_receive(data)
            }
            Operation::SendRest(bytes) => {
                note_send(trace, &*socket, &bytes, "");
                ring.send_all(data, socket, bytes)
            }
            Operation::AwaitBuffer => {
                self.waiting.push_back(key);
                Ok(())
            }
            Operation::Close => self.close(key),
            Operation::None | Operation::SendBuffer { .. } => unreachable!("not submitted here"),
        }
    }

    fn close(&mut self, key: Key) -> io::Result<()> {
        let Client { socket, .. } = self.clients.remove(key).expect(CLOSED_IN_FLIGHT);
        self.shared.lingering.stop(key.index);
        self.limit.closed();
        self.backoff.end(); // a descriptor and a slot are free
        let fd = socket.as_raw_fd();
        self.trace.note(fd, format_args!("submit CLOSE fd={fd} CQE_SKIP_SUCCESS"));
        self.ring.close(socket)
    }

    /// Has all connections receive single requests while too many are queued.
    fn limit_queues(&mut self) -> io::Result<()> {
        let Shared { queued, only_single, .. } = &mut self.shared;
        if *only_single {
            *only_single = *queued > QUEUED_MAX / 2;
        } else if *queued > QUEUED_MAX {
            *only_single = true;
            for key in self.clients.keys() {
                let client = self.clients.get_mut(key).expect("a key of an open connection");
                let operation = client.connection.end_receive_all();
                self.submit(key, operation)?;
            }
        }
        Ok(())
    }

    /// Receives again for connections that found no buffer, and provides more buffers.
    fn retry_waiting(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.ring.grow();
        if self.shrink_at.is_none() {
            self.shrink_at = Some(Instant::now() + BUFFERS_KEPT);
        }
        for _ in 0..self.waiting.len() {
            let Some(key) = self.waiting.pop_front() else { break };
            if let Some(client) = self.clients.get_mut(key) {
                let operation = client.connection.retry(&mut self.shared);
                self.submit(key, operation)?;
            }
        }
        Ok(())
    }

    /// Submits an accept, unless there is one or it has to wait.
    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let waits = !self.accepted.is_empty() || self.backoff.until().is_some();
        if waits || self.accepting || self.stop.is_draining() {
            return Ok(());
        }
        self.accepting = true;
        self.shared.stats.observe_queue(listener, self.trace.tracer());
        let multi = self.options.accept_delay.is_zero();
        let (fd, suffix) = (listener.as_raw_fd(), if multi { " MULTISHOT" } else { "" });
        self.trace.note(fd, format_args!("submit ACCEPT fd={fd}{suffix}"));
        self.ring.accept(listener, multi)
    }

    fn cancel_accept(&mut self) -> io::Result<()> {
        self.trace.note(NONE, format_args!("submit ASYNC_CANCEL of ACCEPT"));
        self.ring.cancel_accept()
    }

    fn on_accepted(&mut self, result: Result<OwnedFd, Errno>, more: bool) -> io::Result<()> {
        if !more {
            self.accepting = false;
        }
        match result {
            Ok(socket) => {
                self.shared.stats.on_accepted();
                self.backoff.reset();
                self.admit(socket)?;
            }
            Err(Errno::CANCELED | Errno::INTR) => {}
            Err(error) => self.on_accept_error(&error.into()),
        }
        if self.stop.is_draining() && !self.accepting {
            self.close_listener()?;
        }
        Ok(())
    }

    fn on_accept_error(&mut self, error: &io::Error) {
        self.shared.stats.on_accept_error(error);
        if is_permanent(error) {
            let listener = self.listener.as_ref();
            self.listener_error = listener.map(|listener| listener_error(listener, error));
            self.stop.drain();
        } else {
            self.backoff.start(Instant::now());
        }
    }

    /// Serves a connection just accepted, or keeps it until there is a slot for it.
    fn admit(&mut self, socket: OwnedFd) -> io::Result<()> {
        if self.stop.is_draining() {
            self.limit.acquire();
        } else if !self.accepted.is_empty() || !self.limit.try_acquire() {
            self.accepted.push_back(socket);
            self.backoff.start(Instant::now()); // another shard may release a slot
            return if self.accepting { self.cancel_accept() } else { Ok(()) };
        }
        self.open(socket)
    }

    /// Serves connections that were accepted beyond the limit, as far as there are slots now.
    fn open_accepted(&mut self) -> io::Result<()> {
        if self.backoff.until().is_some() {
            self.backoff.expire(Instant::now());
        }
        while !self.accepted.is_empty() {
            if self.stop.is_draining() {
                self.limit.acquire();
            } else if !self.limit.try_acquire() {
                if self.backoff.until().is_none() {
                    self.backoff.start(Instant::now()); // another shard may release a slot
                }
                break;
            }
            if let Some(socket) = self.accepted.pop_front() {
                self.open(socket)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.limit.opened();
        let service = self.service.make(&socket);
        let client = |key: Key| Client { socket, connection: Connection::new(key.index, service) };
        let key = self.clients.insert_with(client);
        let client = self.clients.get_mut(key).expect("it is open");
        let operation = client.connection.open(&mut self.shared);
        self.submit(key, operation)
    }

    fn record_queue(&mut self) {
        if let Some(listener) = &self.listener {
            self.shared.stats.observe_queue(listener, self.trace.tracer());
        }
    }

    /// Terminates connections whose time is over.
    fn expire(&mut self) -> io::Result<()> {
        if self.deadline().is_none() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(index) = self.shared.idle.expired(now) {
            let key = self.clients.key_at(index).expect("a closed connection has no deadline");
            if self.has_received(key) {
                self.shared.idle.start(index); // its completion is still to come
            } else {
                self.terminate(key, Cause::Idle)?;
            }
        }
        while let Some(index) = self.shared.lingering.expired(now) {
            let key = self.clients.key_at(index).expect("a closed connection has no deadline");
            self.terminate(key, Cause::Idle)?;
        }
        if self.shrink_at.take_if(|at| *at <= now).is_some() && self.ring.shrink() {
            self.shrink_at = Some(now + BUFFERS_KEPT);
        }
        if !self.shared.cut && self.stop.deadline().is_some_and(|deadline| now >= deadline) {
            self.shared.cut = true;
            for key in self.clients.keys() {
                let client = self.clients.get_mut(key).expect("a key of an open connection");
                self.shared.stats.drain_cut += u64::from(!client.connection.is_lingering());
                self.terminate(key, Cause::Drain)?;
            }
        }
        Ok(())
    }

    /// True if the socket of a connection that seems idle holds a request. After a long iteration,
    /// or one with many completions (the kernel delivers some twenty at a time), its completion may
    /// still be to come.
    fn has_received(&mut self, key: Key) -> bool {
        let Client { socket, connection } = self.clients.get_mut(key).expect("it is open");
        if connection.is_blocked_by_peer() {
            return false;
        }
        self.shared.stats.syscalls += 1;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let fd = socket.as_raw_fd();
        let peek = || Ok(rustix::net::recv(socket, &mut [0_u8; 1], flags)?.0);
        let call = format_args!("recv({fd}, 1, MSG_PEEK|MSG_DONTWAIT)");
        let peeked = self.trace.call_for(fd, call, peek, usize::clone);
        !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn terminate(&mut self, key: Key, cause: Cause) -> io::Result<()> {
        let Client { socket, connection } = self.clients.get_mut(key).expect("it is open");
        let mut calls = Calls { socket, trace: self.trace };
        let operation = connection.terminate(cause, &mut calls, &mut self.shared);
        self.submit(key, operation)
    }

    /// The server stops: accepts what is in the listen queue, then drains every connection.
    fn drain(&mut self) -> io::Result<()> {
        self.open_accepted()?;
        for key in self.clients.keys() {
            let client = self.clients.get_mut(key).expect("a key of an open connection");
            let operation = client.connection.drain();
            self.submit(key, operation)?;
        }
        if self.accepting { self.cancel_accept() } else { self.close_listener() }
    }

    /// Accepts what is left in the listen queue, and closes the listener. The accept in flight has
    /// ended: a listener closed before would go on accepting.
    fn close_listener(&mut self) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let listener = Traced { socket: listener, trace: self.trace };
        if self.listener_error.is_some() {
            self.trace.close(listener.socket);
            return Ok(());
        }
        let call = listener.call("ioctl", "FIONBIO, 1", |it| it.set_nonblocking(true));
        let listener = listener.socket;
        if let Err(error) = call {
            // An accept would wait. What is open is drained nevertheless.
            self.shared.stats.on_accept_error(&error);
            self.trace.close(listener);
            return Ok(());
        }
        self.shared.stats.observe_queue(&listener, self.trace.tracer());
        for _ in 0..=self.options.backlog {
            self.shared.stats.syscalls += 1;
            let accept = || listener.accept();
            match self.trace.accept(&listener, accept, |(stream, _)| stream.as_raw_fd()) {
                Ok((stream, _)) => {
                    self.shared.stats.on_accepted();
                    self.admit(stream.into())?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.shared.stats.on_accept_error(&error);
                    if is_permanent(&error) {
                        self.listener_error = Some(listener_error(&listener, &error));
                    }
                    if is_permanent(&error) || is_exhaustion(&error) {
                        break;
                    }
                }
            }
        }
        self.trace.close(listener);
        Ok(())
    }

    /// Traces a completion, before anything is done about it.
    #[inline(always)]
    fn trace_completion(&mut self, completion: &Completion) {
        let trace = self.trace;
        let Some(tracer) = trace.tracer() else { return };
        let fd = match completion {
            Completion::Accept { .. } => self.listener.as_ref().map(AsRawFd::as_raw_fd),
            Completion::Receive { key, .. }
            | Completion::Send { key, .. }
            | Completion::Cancel { key, .. } => {
                let client = self.clients.get_mut(Key::unpack(*key));
                client.map(|client| client.socket.as_raw_fd())
            }
            Completion::Poll { .. } | Completion::Close { .. } => None,
        };
        trace::completion(tracer, completion, fd, &self.ring);
    }
}

/// Calls on a connection's socket that are made beside the ring.
struct Calls<'a, T> {
    socket: &'a OwnedFd,
    trace: T,
}

impl<T: Trace> Socket for Calls<'_, T> {
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let fd = self.socket.as_raw_fd();
        let span = self.trace.begin(fd);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let result = rustix::net::send(self.socket, bytes, flags);
        if let Some(span) = span {
            let (shown, length) = (quoted(bytes), bytes.len());
            let call = format_args!("send({fd}, {shown}, {length}, MSG_DONTWAIT|MSG_NOSIGNAL)");
            span.returned(call, result.map_err(io::Error::from).as_ref());
        }
        result
    }

    /// Not by the ring, which would have a worker thread do it (REQ_F_FORCE_ASYNC,
    /// io_uring/net.c): the worker looks up the descriptor only then, and that may be after it has
    /// been closed and given to another connection.
    fn shut_down(&mut self, how: Shutdown) -> Result<(), Errno> {
        let fd = self.socket.as_raw_fd();
        let span = self.trace.begin(fd);
        let result = rustix::net::shutdown(self.socket, how);
        if let Some(span) = span {
            let how = if how == Shutdown::Write { "SHUT_WR" } else { "SHUT_RDWR" };
            let value = result.map(|()| 0).map_err(io::Error::from);
            span.returned(format_args!("shutdown({fd}, {how})"), value.as_ref());
        }
        result
    }
}
