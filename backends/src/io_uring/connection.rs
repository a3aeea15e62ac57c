//! One connection of the `io-uring` backend: what the kernel works on for it, and what comes next.
//!
//! A connection makes no system call and knows no ring. Completions are its input; the one
//! operation to submit for each is its output. The two calls that are made beside the ring,
//! send(2) and shutdown(2), are a [`Socket`].
//!
//! # Replies that are not reported
//!
//! A reply is sent from the buffer of its request, as far as the socket takes it immediately, and
//! only a failure is reported. That the reply has gone out is concluded from the next request: one
//! receive serves all requests of a connection. A request that completes in a later iteration than
//! the one that queued the reply comes after the reply's send, and that iteration has reported a
//! failure of the send first ([`lockstep_sys::uring::Ring::iteration`]). So an exchange is one
//! completion.
//!
//! # Clients that pipeline
//!
//! The kernel receives whatever is there, up to 32 requests in a row (`MULTISHOT_MAX_RETRY`,
//! io_uring/net.c). A request behind which the socket holds more is answered immediately by
//! send(2), from its own buffer, and the receive for all requests is cancelled. From then on the
//! client gets single receives, each submitted after the reply has been sent, until one has emptied
//! the socket.
//!
//! A request that completes while a reply is owed is queued, copied out of its buffer. The reply
//! was the last of an iteration, and more came within it, or the client does not read its replies.
//! Queued requests are answered by send(2), one after another; each counts as received only then.
//! A client that stops reading can fill a queue with what the kernel receives in a row. So while
//! the queues of a shard hold more than [`QUEUED_MAX`] bytes, all connections get single receives,
//! and no queue grows.
//!
//! # States
//!
//! A connection is what is in flight: at most one receive, at most one send, and never nothing,
//! except while it waits for a buffer. A request is received only when no reply is owed.
//!
//! ```text
//!                accepted
//!                    |
//!                    v       request, more behind it: send(2)
//!    +------------> One <-------------------------+
//!    |               |  +-------------------------+
//!    |       request |
//!    |               v                                  another request, a later iteration
//!    |     All, reply queued <---------------------+
//!    |         |     |  +--------------------------+
//!    |   short |     | another request, the same iteration: queue it, cancel All;
//!    |         |     | a request, more behind it: send(2), cancel All
//!    |         v     v
//!    |    All, rest in flight;   then send(2) for each queued request
//!    |         |     |
//!    +---------+-----+
//!
//!    any receive ---- ENOBUFS -----------> NoBuffer ---- a buffer is free ----> that receive again
//!    One, All ------- the server stops --> cancelled --- nothing came --------> Now
//!    the last reply sent, or no more requests ---------> lingering (One, All) or closed
//! ```

use std::collections::VecDeque;

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Service};
use rustix::io::Errno;
use rustix::net::Shutdown;

use crate::Stats;
use crate::deadlines::Deadlines;
use crate::drive::lingers;

/// State of one connection.
pub(super) struct Connection {
    /// Slot in the deadlines.
    index: u32,
    exchange: Exchange,
    service: Box<dyn Service>,
    receive: Receive,
    /// True if a cancellation of the receive has been submitted.
    cancelling: bool,
    reply: Reply,
    /// True if the last receive left something in the socket, or none has completed yet.
    pipelines: bool,
    /// Requests that came while a reply was owed.
    #[expect(clippy::box_collection, reason = "8 bytes in the connections that never pipeline")]
    queue: Option<Box<VecDeque<Box<[u8]>>>>,
    /// True if the server has drained the connection. The exchange is drained once its reply is
    /// known to be sent.
    draining: bool,
    /// True if the exchange is over and counted. The connection closes when its peer has closed.
    lingering: bool,
}

/// The receive in flight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Receive {
    None,
    /// None: the last one found no buffer.
    NoBuffer,
    /// Of one request.
    One,
    /// Of all requests.
    All,
    /// Of a request that is there already.
    Now,
}

/// The send in flight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reply {
    None,
    /// Of the whole reply, queued in that iteration. Reported only if it fails.
    Queued {
        iteration: u32,
    },
    /// Of the part that the socket did not take at first.
    Rest,
}

/// Most bytes of requests that a shard queues before its connections get single receives. Requests
/// that have been received by then are queued as well: at most one for each receive buffer.
pub(super) const QUEUED_MAX: usize = 1 << 20;

/// State that the connections of a shard share.
pub(super) struct Shared {
    pub(super) stats: Stats,
    pub(super) idle: Deadlines,
    pub(super) lingering: Deadlines,
    /// Bytes of all queued requests.
    pub(super) queued: usize,
    /// True if connections receive single requests only, because too many are queued.
    pub(super) only_single: bool,
    /// The ring's iteration.
    pub(super) iteration: u32,
    /// True if the server stops.
    pub(super) draining: bool,
    /// True if the drain timeout is over: connections do not linger.
    pub(super) cut: bool,
}

/// Calls that are made beside the ring.
pub(super) trait Socket {
    /// send(2) without waiting.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno>;

    /// shutdown(2).
    fn shut_down(&mut self, how: Shutdown) -> Result<(), Errno>;
}

/// A buffer and the length of the request in it; none at the end of the stream.
pub(super) type Request<'a> = Result<Option<(&'a mut [u8; RECV_MAX], usize)>, Errno>;

/// Completion of a receive.
pub(super) struct Received<'a> {
    pub(super) request: Request<'a>,
    /// True if the receive goes on.
    pub(super) more: bool,
    /// True if the socket held more.
    pub(super) nonempty: bool,
}

/// The operation to submit after a completion.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a connection goes on only when its operation is submitted"]
pub(super) enum Operation {
    /// None: something is in flight.
    None,
    /// Receive one request.
    Receive,
    /// Receive one request if it is there, else fail with `EAGAIN`.
    ReceiveNow,
    /// Receive all requests, one after another.
    ReceiveAll,
    /// Cancel the receive in flight.
    CancelReceive,
    /// Send the start of the request's buffer, as far as the socket takes it immediately. Submit
    /// [`ReceiveAll`](Self::ReceiveAll) as well, if `receive_all`.
    SendBuffer { end: u16, receive_all: bool },
    /// Send these bytes, and report it.
    SendRest(Box<[u8]>),
    /// Call [`Connection::retry`] when a buffer is free.
    AwaitBuffer,
    /// Close the socket. Nothing is in flight.
    Close,
}

impl Connection {
    /// A connection just accepted. `index` is its slot in the deadlines.
    pub(super) fn new(index: u32, service: Box<dyn Service>) -> Self {
        Self {
            index,
            exchange: Exchange::new(),
            service,
            receive: Receive::None,
            cancelling: false,
            reply: Reply::None,
            pipelines: true, // the first request is often there already, and so is taken alone
            queue: None,
            draining: false,
            lingering: false,
        }
    }

    /// Begins to receive.
    pub(super) fn open(&mut self, shared: &mut Shared) -> Operation {
        shared.idle.start(self.index);
        self.next_receive(shared)
    }

    /// A receive has completed. In lockstep, this is all that happens in an exchange.
    #[inline]
    pub(super) fn on_received(
        &mut self,
        received: Received<'_>,
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Operation {
        let Received { request, more, nonempty } = received;
        let receive = self.receive;
        debug_assert!(!matches!(receive, Receive::None | Receive::NoBuffer), "none in flight");
        self.pipelines = nonempty || self.cancelling;
        if !more {
            (self.receive, self.cancelling) = (Receive::None, false);
        }
        if self.lingering {
            return self.on_discarded(&request, shared);
        }
        match self.reply {
            Reply::Queued { iteration } if iteration != shared.iteration => {
                self.on_reply_sent();
            }
            Reply::Queued { .. } | Reply::Rest => return self.on_pipelined(request, shared),
            Reply::None => {}
        }
        if self.queue.is_some() {
            self.enqueue(request, shared);
            return self.answer_queue(socket, shared);
        }
        match request {
            Ok(Some((buffer, count))) => self.on_request(buffer, count, socket, shared),
            Ok(None) => self.on_no_request(None, receive, socket, shared),
            Err(error) => self.on_no_request(Some(error), receive, socket, shared),
        }
    }

    #[inline]
    fn on_request(
        &mut self,
        buffer: &mut [u8; RECV_MAX],
        count: usize,
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Operation {
        let op = match self.exchange.op() {
            Op::Recv => {
                shared.stats.on_received(count);
                self.exchange.received(&mut *self.service, buffer, count)
            }
            ended => ended, // drained or terminated between the reply and this request
        };
        shared.idle.start(self.index);
        match op {
            Op::Send { start: 0, end } => self.reply(buffer, end, socket, shared),
            Op::Send { .. } => unreachable!("a reply begins at its start"),
            Op::Recv => self.next_receive(shared),
            Op::Close(cause) => self.end(cause, socket, shared),
        }
    }

    /// Sends a reply: by the ring if another request is to show that it has gone out.
    #[inline]
    fn reply(
        &mut self,
        buffer: &[u8; RECV_MAX],
        end: u16,
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Operation {
        let receives_all = self.receive == Receive::All;
        let only_single = shared.only_single && !receives_all;
        if self.exchange.reply_is_last() || self.pipelines || only_single {
            let sent = self.send_now(&buffer[..usize::from(end)], socket, shared);
            return sent.unwrap_or_else(|| match self.receive {
                Receive::All => self.end_receive_all(),
                _ => self.next_receive(shared),
            });
        }
        self.reply = Reply::Queued { iteration: shared.iteration };
        shared.stats.on_sent(end.into(), end.into()); // unless the send is reported
        self.receive = Receive::All;
        Operation::SendBuffer { end, receive_all: !receives_all }
    }

    /// A receive has completed while a reply is owed.
    #[cold]
    fn on_pipelined(&mut self, request: Request<'_>, shared: &mut Shared) -> Operation {
        self.enqueue(request, shared);
        match (self.receive, self.reply) {
            (Receive::All, _) if !self.cancelling => self.cancel(),
            // Only a receive can show that the reply has gone out.
            (Receive::None, Reply::Queued { .. }) if self.draining => {
                self.receive = Receive::Now;
                Operation::ReceiveNow
            }
            (Receive::None, Reply::Queued { .. }) => {
                self.receive = Receive::One;
                Operation::Receive
            }
            _ => Operation::None,
        }
    }

    /// Queues a request. An end or an error is forgotten: the next receive reports it again.
    fn enqueue(&mut self, request: Request<'_>, shared: &mut Shared) {
        self.pipelines = true;
        if let Ok(Some((buffer, count))) = request {
            self.queue.get_or_insert_default().push_back(buffer[..count].into());
            shared.queued += count;
        }
    }

    /// Discards the queued requests.
    fn clear_queue(&mut self, shared: &mut Shared) {
        let queued = self.queue.take();
        shared.queued -= queued.iter().flat_map(|it| it.iter()).map(|it| it.len()).sum::<usize>();
    }

    /// Ends the receive of all requests. Single receives follow if the client pipelines, or if too
    /// many requests are queued.
    #[cold]
    pub(super) fn end_receive_all(&mut self) -> Operation {
        match self.receive {
            Receive::All if !self.cancelling && !self.lingering => self.cancel(),
            _ => Operation::None,
        }
    }

    fn cancel(&mut self) -> Operation {
        self.cancelling = true;
        Operation::CancelReceive
    }

    /// The queued send has succeeded: it would have been reported by now.
    #[inline]
    fn on_reply_sent(&mut self) {
        let Op::Send { start, end } = self.exchange.op() else { unreachable!("a reply is queued") };
        let count = usize::from(end - start);
        self.reply = Reply::None;
        let _next = self.exchange.sent(count);
        if self.draining {
            self.exchange.drain();
        }
    }

    /// A receive has completed without a request.
    #[cold]
    fn on_no_request(
        &mut self,
        error: Option<Errno>,
        receive: Receive,
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Operation {
        let op = match self.exchange.op() {
            Op::Recv => match error {
                Some(Errno::NOBUFS) => return self.await_buffer(shared),
                // A request may have come just before the cancellation.
                Some(Errno::INTR | Errno::CANCELED) => Op::Recv,
                Some(Errno::AGAIN) if receive == Receive::Now => self.on_last(),
                None => self.on_last(),
                Some(error) => {
                    shared.stats.on_io_error(&error.into());
                    self.exchange.failed()
                }
            },
            ended => ended,
        };
        match op {
            Op::Close(cause) => self.end(cause, socket, shared),
            Op::Recv => self.next_receive(shared),
            Op::Send { .. } => unreachable!("no reply is owed"),
        }
    }

    fn on_last(&mut self) -> Op {
        self.exchange.received(&mut *self.service, &mut [0; RECV_MAX], 0)
    }

    fn await_buffer(&mut self, shared: &mut Shared) -> Operation {
        shared.stats.buffers_starved += 1;
        self.receive = Receive::NoBuffer;
        Operation::AwaitBuffer
    }

    /// Receives again if it waits for a buffer.
    pub(super) fn retry(&mut self, shared: &mut Shared) -> Operation {
        match self.receive {
            Receive::NoBuffer => self.next_receive(shared),
            _ => Operation::None,
        }
    }

    /// Receives the next request; when the server stops, only one that is there already.
    fn next_receive(&mut self, shared: &Shared) -> Operation {
        let operation;
        (self.receive, operation) = match self.receive {
            // It goes on, or its end is to come.
            Receive::One | Receive::All | Receive::Now => (self.receive, Operation::None),
            Receive::None | Receive::NoBuffer => {
                if shared.draining && !self.lingering {
                    self.exchange.drain();
                    (Receive::Now, Operation::ReceiveNow)
                } else if self.pipelines || shared.only_single {
                    (Receive::One, Operation::Receive)
                } else {
                    (Receive::All, Operation::ReceiveAll)
                }
            }
        };
        operation
    }

    /// A send has been reported. `bytes` are the unsent part of the reply that it was given.
    #[cold]
    pub(super) fn on_sent(
        &mut self,
        result: Result<usize, Errno>,
        bytes: &[u8],
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Operation {
        debug_assert!(self.reply != Reply::None, "none in flight");
        if matches!(self.reply, Reply::Queued { .. }) {
            // It was counted as if it would not be reported.
            shared.stats.exchanges -= 1;
            shared.stats.bytes_sent -= bytes.len() as u64;
        }
        let sent = self.sent(result, bytes, socket, shared);
        sent.unwrap_or_else(|| self.answer_queue(socket, shared))
    }

    fn send_now(
        &mut self,
        reply: &[u8],
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Option<Operation> {
        shared.stats.syscalls += 1;
        let result = socket.send(reply);
        self.sent(result, reply, socket, shared)
    }

    /// Counts a send of `bytes`, the unsent part of the reply. Returns none if the whole reply has
    /// been sent and another request is to come.
    fn sent(
        &mut self,
        result: Result<usize, Errno>,
        bytes: &[u8],
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Option<Operation> {
        if self.draining {
            self.exchange.drain();
        }
        self.reply = Reply::None;
        let op = match result {
            Ok(count @ 1..) => {
                shared.idle.start(self.index);
                shared.stats.on_sent(count, bytes.len());
                self.exchange.sent(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                shared.stats.sends_short += 1;
                self.exchange.op()
            }
            Ok(_) => self.exchange.failed(),
            Err(error) => {
                shared.stats.on_io_error(&error.into());
                self.exchange.failed()
            }
        };
        match op {
            Op::Recv => None,
            Op::Send { start, end } => {
                self.reply = Reply::Rest;
                let rest = &bytes[bytes.len() - usize::from(end - start)..];
                Some(Operation::SendRest(rest.into()))
            }
            Op::Close(cause) => Some(self.end(cause, socket, shared)),
        }
    }

    /// Answers the queued requests, then receives.
    #[cold]
    fn answer_queue(&mut self, socket: &mut impl Socket, shared: &mut Shared) -> Operation {
        loop {
            if let Op::Close(cause) = self.exchange.op() {
                return self.end(cause, socket, shared);
            }
            let Some(request) = self.queue.as_mut().and_then(|queue| queue.pop_front()) else {
                self.queue = None;
                return self.next_receive(shared);
            };
            shared.queued -= request.len();
            let mut buffer = [0; RECV_MAX];
            buffer[..request.len()].copy_from_slice(&request);
            shared.stats.on_received(request.len());
            let op = self.exchange.received(&mut *self.service, &mut buffer, request.len());
            if let Op::Send { end, .. } = op
                && let Some(operation) = self.send_now(&buffer[..usize::from(end)], socket, shared)
            {
                return operation;
            }
        }
    }

    /// A cancellation is over. A receive that the kernel was just working on was not found.
    pub(super) fn on_cancelled(&mut self, result: Result<u32, Errno>) -> Operation {
        let missed = result.is_err() && self.cancelling;
        if missed { Operation::CancelReceive } else { Operation::None }
    }

    /// The server stops: a request that is there already is answered, and no other is waited for.
    pub(super) fn drain(&mut self) -> Operation {
        if self.lingering || self.draining {
            return Operation::None;
        }
        self.draining = true;
        // A reply that may have gone out already is not the last one.
        if !matches!(self.reply, Reply::Queued { .. }) {
            self.exchange.drain();
        }
        match self.receive {
            Receive::One | Receive::All if self.reply != Reply::Rest && !self.cancelling => {
                self.cancel()
            }
            _ => Operation::None,
        }
    }

    /// Ends the exchange for `cause`, unless the connection lingers already. What is in flight
    /// completes.
    pub(super) fn terminate(
        &mut self,
        cause: Cause,
        socket: &mut impl Socket,
        shared: &mut Shared,
    ) -> Operation {
        self.exchange.terminate(cause);
        if self.receive != Receive::NoBuffer {
            shared.stats.syscalls += 1;
            let _gone = socket.shut_down(Shutdown::Both);
            return Operation::None;
        }
        if self.lingering {
            return Operation::Close;
        }
        let Op::Close(cause) = self.exchange.failed() else { unreachable!("it is to end") };
        self.end(cause, socket, shared)
    }

    /// Counts the end of the exchange, and closes the connection now or when the peer has.
    fn end(&mut self, cause: Cause, socket: &mut impl Socket, shared: &mut Shared) -> Operation {
        shared.stats.on_closed(cause);
        shared.idle.stop(self.index);
        self.clear_queue(shared);
        let receives = !matches!(self.receive, Receive::None | Receive::NoBuffer);
        let lingers = lingers(cause) && !shared.cut;
        if !lingers && !receives {
            return Operation::Close;
        }
        shared.stats.syscalls += 1;
        let how = if lingers { Shutdown::Write } else { Shutdown::Both };
        let gone = socket.shut_down(how).is_err();
        if gone && !receives {
            return Operation::Close;
        }
        self.lingering = true;
        shared.lingering.start(self.index);
        self.next_receive(shared)
    }

    /// The peer of a lingering connection has sent bytes, or closed.
    #[cold]
    fn on_discarded<T>(
        &mut self,
        request: &Result<Option<T>, Errno>,
        shared: &mut Shared,
    ) -> Operation {
        match request {
            _ if self.receive == Receive::All => Operation::None,
            Ok(Some(_)) | Err(Errno::CANCELED) => self.next_receive(shared),
            Err(Errno::NOBUFS) => self.await_buffer(shared),
            Ok(None) | Err(_) => Operation::Close,
        }
    }

    /// True if the exchange is over and counted.
    pub(super) fn is_lingering(&self) -> bool {
        self.lingering
    }

    /// True if the peer does not receive its reply.
    pub(super) fn is_blocked_by_peer(&self) -> bool {
        self.reply == Reply::Rest
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastrand::Rng;
    use lockstep_core::Echo;

    use super::*;

    fn shared() -> Shared {
        Shared {
            stats: Stats::new(),
            idle: Deadlines::new(None),
            lingering: Deadlines::new(Some(Duration::ZERO)),
            queued: 0,
            only_single: false,
            iteration: 0,
            draining: false,
            cut: false,
        }
    }

    /// A socket that takes so many bytes more, unless its peer has reset the connection.
    #[derive(Default)]
    struct Fake {
        room: usize,
        is_reset: bool,
        sent: Vec<u8>,
        shut_down: Option<Shutdown>,
    }

    impl Socket for Fake {
        fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
            match bytes.len().min(self.room) {
                _ if self.is_reset => Err(Errno::PIPE),
                0 => Err(Errno::AGAIN),
                count => {
                    self.sent.extend(&bytes[..count]);
                    self.room -= count;
                    Ok(count)
                }
            }
        }

        fn shut_down(&mut self, how: Shutdown) -> Result<(), Errno> {
            self.shut_down = Some(how);
            Ok(())
        }
    }

    /// A connection with its surroundings.
    struct Bench {
        connection: Connection,
        socket: Fake,
        shared: Shared,
    }

    impl Bench {
        /// A connection that has begun to receive.
        fn new() -> Self {
            let (mut connection, mut shared) = (Connection::new(0, Box::new(Echo)), shared());
            assert_eq!(connection.open(&mut shared), Operation::Receive);
            let socket = Fake { room: usize::MAX, ..Fake::default() };
            Self { connection, socket, shared }
        }

        /// A connection whose first request has been answered, and that receives all requests.
        fn in_lockstep() -> Self {
            let mut bench = Self::new();
            let first = bench.request(b"first", false, false);
            assert_eq!(first, Operation::SendBuffer { end: 5, receive_all: true });
            bench.shared.iteration += 1;
            bench
        }

        fn complete(
            &mut self,
            result: Result<&[u8], Errno>,
            more: bool,
            nonempty: bool,
        ) -> Operation {
            let mut buffer = [0; RECV_MAX];
            let request = result.map(|bytes| {
                buffer[..bytes.len()].copy_from_slice(bytes);
                (!bytes.is_empty()).then_some((&mut buffer, bytes.len()))
            });
            let received = Received { request, more, nonempty };
            self.connection.on_received(received, &mut self.socket, &mut self.shared)
        }

        fn request(&mut self, bytes: &[u8], more: bool, nonempty: bool) -> Operation {
            self.complete(Ok(bytes), more, nonempty)
        }

        fn sent(&mut self, result: Result<usize, Errno>, bytes: &[u8]) -> Operation {
            self.connection.on_sent(result, bytes, &mut self.socket, &mut self.shared)
        }

        fn closed(&self, cause: Cause) -> u64 {
            self.shared.stats.closed.count(cause)
        }
    }

    #[test]
    fn connection_is_small() {
        assert!(size_of::<Connection>() <= 64, "{}", size_of::<Connection>());
    }

    #[test]
    fn lockstep_is_one_completion_for_each_exchange() {
        let mut bench = Bench::in_lockstep();
        for number in 1..=10 {
            let operation = bench.request(b"request", true, false);
            assert_eq!(operation, Operation::SendBuffer { end: 7, receive_all: false });
            assert_eq!(bench.shared.stats.exchanges, number + 1, "with the reply in flight");
            bench.shared.iteration += 1;
        }
        assert_eq!(bench.complete(Ok(b""), false, true), Operation::Close);
        assert_eq!((bench.shared.stats.exchanges, bench.closed(Cause::Eof)), (11, 1));
        assert_eq!(bench.shared.stats.syscalls, 0);
    }

    /// The kernel receives many requests in a row before it takes the cancellation.
    #[test]
    fn pipelined_requests_are_answered_from_their_buffers() {
        let mut bench = Bench::in_lockstep();
        assert_eq!(bench.request(b"1", true, true), Operation::CancelReceive);
        assert_eq!(bench.request(b"2", true, true), Operation::None);
        assert_eq!(bench.request(b"3", true, false), Operation::None);
        assert_eq!((bench.shared.stats.exchanges, bench.shared.queued), (4, 0));
        bench.shared.iteration += 1;
        let cancelled = bench.complete(Err(Errno::CANCELED), false, false);
        assert_eq!(cancelled, Operation::Receive);
        assert_eq!(bench.socket.sent, b"123");
        // A single receive for each request, until the socket is empty.
        assert_eq!(bench.request(b"4", false, true), Operation::Receive);
        assert_eq!(bench.socket.sent, b"1234");
        let last = bench.request(b"5", false, false);
        assert_eq!(last, Operation::SendBuffer { end: 1, receive_all: true });
        assert_eq!(bench.shared.stats.exchanges, 6);
    }

    #[test]
    fn requests_behind_a_queued_reply_are_queued_and_answered_in_order() {
        let mut bench = Bench::in_lockstep();
        let first = bench.request(b"1", true, false);
        assert_eq!(first, Operation::SendBuffer { end: 1, receive_all: false });
        assert_eq!(bench.request(b"2", true, true), Operation::CancelReceive);
        assert_eq!(bench.request(b"3", true, false), Operation::None);
        let Shared { stats, queued, .. } = &bench.shared;
        assert_eq!((stats.exchanges, *queued), (2, 2), "queued requests do not count");
        bench.shared.iteration += 1;
        let cancelled = bench.complete(Err(Errno::CANCELED), false, false);
        assert_eq!(cancelled, Operation::Receive);
        assert_eq!(bench.socket.sent, b"23");
        assert_eq!((bench.shared.stats.exchanges, bench.shared.queued), (4, 0));
    }

    #[test]
    fn too_many_queued_requests_end_the_receives_of_all() {
        let mut bench = Bench::in_lockstep();
        bench.shared.only_single = true;
        assert_eq!(bench.connection.end_receive_all(), Operation::CancelReceive);
        assert_eq!(bench.connection.end_receive_all(), Operation::None);
        let cancelled = bench.complete(Err(Errno::CANCELED), false, false);
        assert_eq!(cancelled, Operation::Receive);
        assert_eq!(bench.request(b"1", false, false), Operation::Receive);
        bench.shared.only_single = false;
        let next = bench.request(b"2", false, false);
        assert_eq!(next, Operation::SendBuffer { end: 1, receive_all: true });
    }

    #[test]
    fn receive_that_ends_while_its_reply_is_queued_is_submitted_again() {
        let mut bench = Bench::in_lockstep();
        let _reply = bench.request(b"1", true, false);
        assert_eq!(bench.request(b"2", false, true), Operation::Receive);
        bench.shared.iteration += 1;
        assert_eq!(bench.complete(Ok(b""), false, true), Operation::Receive);
        assert_eq!(bench.socket.sent, b"2");
        assert_eq!(bench.complete(Ok(b""), false, true), Operation::Close);
    }

    #[test]
    fn short_send_leaves_the_rest() {
        let mut bench = Bench::in_lockstep();
        let _reply = bench.request(b"request", true, false);
        assert_eq!(bench.sent(Ok(3), b"request"), Operation::SendRest(Box::from(&b"uest"[..])));
        assert!(bench.connection.is_blocked_by_peer());
        assert_eq!(bench.request(b"next", true, false), Operation::CancelReceive);
        bench.shared.iteration += 1;
        assert_eq!(bench.complete(Err(Errno::CANCELED), false, false), Operation::None);
        assert_eq!(bench.sent(Ok(4), b"uest"), Operation::Receive);
        assert_eq!(bench.socket.sent, b"next");
        assert_eq!((bench.shared.stats.sends_short, bench.shared.stats.exchanges), (1, 3));
    }

    #[test]
    fn failed_send_ends_the_exchange() {
        let mut bench = Bench::in_lockstep();
        let _reply = bench.request(b"request", true, false);
        assert_eq!(bench.sent(Err(Errno::CONNRESET), b"request"), Operation::None);
        assert_eq!(bench.socket.shut_down, Some(Shutdown::Both), "to end the receive");
        assert_eq!(bench.complete(Ok(b""), false, true), Operation::Close);
        assert_eq!(bench.closed(Cause::Error), 1);
        assert_eq!(bench.shared.stats.io_errors["ECONNRESET"], 1);
        assert_eq!((bench.shared.stats.exchanges, bench.shared.stats.bytes_sent), (1, 5));
    }

    #[test]
    fn failed_send_ends_the_exchange_while_a_single_receive_is_in_flight() {
        let mut bench = Bench::in_lockstep();
        let _reply = bench.request(b"1", true, false);
        assert_eq!(bench.request(b"2", false, false), Operation::Receive);
        assert_eq!(bench.sent(Err(Errno::CONNRESET), b"1"), Operation::None);
        assert_eq!(bench.socket.shut_down, Some(Shutdown::Both), "to end the receive");
        bench.shared.iteration += 1;
        assert_eq!(bench.complete(Ok(b""), false, true), Operation::Close);
        assert_eq!((bench.closed(Cause::Error), bench.shared.queued), (1, 0));
    }

    #[test]
    fn without_a_buffer_the_connection_waits_and_retries() {
        let mut bench = Bench::in_lockstep();
        assert_eq!(bench.complete(Err(Errno::NOBUFS), false, false), Operation::AwaitBuffer);
        assert_eq!(bench.connection.retry(&mut bench.shared), Operation::ReceiveAll);
        assert_eq!(bench.connection.retry(&mut bench.shared), Operation::None);
        assert_eq!(bench.shared.stats.buffers_starved, 1);
    }

    #[test]
    fn drain_answers_a_request_that_is_there() {
        let mut bench = Bench::in_lockstep();
        let _reply = bench.request(b"1", true, false);
        bench.shared.draining = true;
        assert_eq!(bench.connection.drain(), Operation::CancelReceive);
        assert_eq!(bench.connection.drain(), Operation::None);
        bench.shared.iteration += 1;
        assert_eq!(bench.complete(Err(Errno::CANCELED), false, false), Operation::ReceiveNow);
        // Its reply is the last; the connection lingers until the peer has closed.
        assert_eq!(bench.request(b"2", false, false), Operation::ReceiveAll);
        assert_eq!((bench.closed(Cause::Drain), &bench.socket.sent[..]), (1, &b"2"[..]));
        assert!(bench.connection.is_lingering());
        assert_eq!(bench.request(b"3", true, false), Operation::None);
        assert_eq!(bench.complete(Ok(b""), false, true), Operation::Close);
        assert_eq!(bench.shared.stats.exchanges, 3);
    }

    /// The cancellation is reported in the iteration that queued the reply, as where the kernel
    /// holds other completions back.
    #[test]
    fn drain_of_a_queued_reply_waits_for_no_request() {
        let mut bench = Bench::in_lockstep();
        let _reply = bench.request(b"1", true, false);
        bench.shared.draining = true;
        assert_eq!(bench.connection.drain(), Operation::CancelReceive);
        let canceled = bench.complete(Err(Errno::CANCELED), false, false);
        assert_eq!(canceled, Operation::ReceiveNow);
        bench.shared.iteration += 1;
        let _linger = bench.complete(Err(Errno::AGAIN), false, false);
        assert_eq!(bench.closed(Cause::Drain), 1);
    }

    #[test]
    fn drain_waits_for_no_request() {
        let mut bench = Bench::in_lockstep();
        bench.shared.draining = true;
        assert_eq!(bench.connection.drain(), Operation::CancelReceive);
        // The kernel was just working on it.
        let missed = bench.connection.on_cancelled(Err(Errno::ALREADY));
        assert_eq!(missed, Operation::CancelReceive);
        assert_eq!(bench.complete(Err(Errno::CANCELED), false, false), Operation::ReceiveNow);
        assert_eq!(bench.connection.on_cancelled(Err(Errno::NOENT)), Operation::None);
        assert_eq!(bench.complete(Err(Errno::AGAIN), false, false), Operation::ReceiveAll);
        assert_eq!(bench.socket.shut_down, Some(Shutdown::Write));
        assert_eq!(bench.closed(Cause::Drain), 1);
    }

    #[test]
    fn terminated_connection_ends_for_the_first_cause() {
        let mut bench = Bench::in_lockstep();
        for cause in [Cause::Idle, Cause::Drain] {
            let Bench { connection, socket, shared } = &mut bench;
            assert_eq!(connection.terminate(cause, socket, shared), Operation::None);
        }
        assert_eq!(bench.socket.shut_down, Some(Shutdown::Both));
        assert_eq!(bench.complete(Ok(b""), false, true), Operation::Close);
        assert_eq!(bench.closed(Cause::Idle), 1);
    }

    #[test]
    fn terminated_connection_without_a_receive_is_closed() {
        let mut bench = Bench::new();
        assert_eq!(bench.complete(Err(Errno::NOBUFS), false, false), Operation::AwaitBuffer);
        let Bench { connection, socket, shared } = &mut bench;
        assert_eq!(connection.terminate(Cause::Idle, socket, shared), Operation::Close);
        assert_eq!(bench.closed(Cause::Idle), 1);
    }

    /// A kernel that does in each iteration what a seed decides, with a peer that sends a stream of
    /// bytes, reads as it likes, and checks that it gets the same stream back.
    struct Kernel {
        random: Rng,
        bench: Bench,
        /// Bytes that the peer has still to send, and that wait in the socket.
        unsent: Vec<u8>,
        inbox: VecDeque<u8>,
        closed: bool,
        /// In flight: the receive, and the rest of a reply.
        receive: Option<Operation>,
        rest: Option<Box<[u8]>>,
        /// Queued since the last iteration.
        submitted: Vec<(Operation, Vec<u8>)>,
        completions: VecDeque<Done>,
        open: bool,
        /// The peer does not close by itself.
        stays: bool,
        /// The peer resets the connection at any time.
        resets: bool,
    }

    enum Done {
        Received { result: Result<Vec<u8>, Errno>, more: bool, nonempty: bool },
        Sent { result: Result<usize, Errno>, bytes: Vec<u8> },
        Cancelled(Result<u32, Errno>),
    }

    impl Kernel {
        fn new(seed: u64) -> Self {
            let mut random = Rng::with_seed(seed);
            let unsent = (0..random.usize(..6000)).map(|_| random.u8(..)).collect();
            let (mut connection, mut shared) = (Connection::new(0, Box::new(Echo)), shared());
            let open = connection.open(&mut shared);
            let room = random.usize(..4000);
            let bench = Bench { connection, socket: Fake { room, ..Fake::default() }, shared };
            let mut kernel = Self {
                random,
                bench,
                unsent,
                inbox: VecDeque::new(),
                closed: false,
                receive: None,
                rest: None,
                submitted: Vec::new(),
                completions: VecDeque::new(),
                open: true,
                stays: false,
                resets: false,
            };
            kernel.queue(open, &[]);
            kernel
        }

        /// Queues the operation; `buffer` is that of the request.
        fn queue(&mut self, operation: Operation, buffer: &[u8]) {
            match operation {
                Operation::None => {}
                Operation::Close => {
                    assert!(self.receive.is_none() && self.rest.is_none(), "closed in flight");
                    let queued = |(operation, _): &(Operation, _)| {
                        !matches!(operation, Operation::CancelReceive)
                    };
                    assert!(!self.submitted.iter().any(queued), "closed with operations queued");
                    let is_over = |done: &Done| matches!(done, Done::Cancelled(_));
                    assert!(self.completions.iter().all(is_over), "closed before a completion");
                    self.open = false;
                }
                operation => self.submitted.push((operation, buffer.to_vec())),
            }
        }

        fn submit(&mut self) {
            for (operation, buffer) in std::mem::take(&mut self.submitted) {
                match operation {
                    Operation::SendBuffer { end, receive_all } => {
                        let bytes = &buffer[..usize::from(end)];
                        let result = self.bench.socket.send(bytes);
                        if result != Ok(bytes.len()) {
                            self.completions.push_front(Done::Sent { result, bytes: bytes.into() });
                        }
                        if receive_all {
                            self.begin(Operation::ReceiveAll);
                        }
                    }
                    Operation::SendRest(bytes) => {
                        assert!(self.rest.is_none(), "two sends");
                        self.rest = Some(bytes);
                    }
                    Operation::CancelReceive => self.cancel(),
                    Operation::AwaitBuffer => {
                        let Bench { connection, shared, .. } = &mut self.bench;
                        let operation = connection.retry(shared);
                        self.queue(operation, &[]);
                    }
                    receive => self.begin(receive),
                }
            }
        }

        fn begin(&mut self, receive: Operation) {
            assert!(self.receive.is_none(), "two receives");
            self.receive = Some(receive);
            if self.receive == Some(Operation::ReceiveNow) {
                self.receive();
                if self.receive.take().is_some() {
                    let result = Err(Errno::AGAIN);
                    self.completions.push_back(Done::Received {
                        result,
                        more: false,
                        nonempty: false,
                    });
                }
            }
        }

        fn cancel(&mut self) {
            let found = self.receive.is_some() && self.random.u8(..4) > 0;
            if found {
                self.receive = None;
                let result = Err(Errno::CANCELED);
                self.completions.push_back(Done::Received { result, more: false, nonempty: false });
            }
            let result = if found { Ok(1) } else { Err(Errno::ALREADY) };
            self.completions.push_back(Done::Cancelled(result));
        }

        /// Lets the receive in flight take what is there.
        fn receive(&mut self) {
            while let Some(receive) = &self.receive {
                let more = *receive == Operation::ReceiveAll && self.random.u8(..8) > 0;
                let (result, more) = if self.random.u8(..20) == 0 && !self.inbox.is_empty() {
                    (Err(Errno::NOBUFS), false)
                } else if !self.inbox.is_empty() {
                    let count = self.inbox.len().min(RECV_MAX);
                    (Ok(self.inbox.drain(..count).collect::<Vec<_>>()), more)
                } else if self.closed {
                    (Ok(Vec::new()), false)
                } else {
                    return;
                };
                if !more {
                    self.receive = None;
                }
                // More may also come right after the receive.
                let came_before = self.random.u8(..4) > 0;
                let nonempty = (!self.inbox.is_empty() || self.closed) && came_before;
                self.completions.push_back(Done::Received { result, more, nonempty });
                if self.random.u8(..4) == 0 {
                    return; // the rest comes with a later iteration
                }
            }
        }

        /// The peer sends, reads or closes; the socket moves on.
        fn move_on(&mut self) {
            let count = self.random.usize(..=self.unsent.len().min(3000));
            if self.random.bool() {
                self.inbox.extend(self.unsent.drain(..count));
            }
            self.bench.socket.room += self.random.usize(..2000);
            self.closed |= !self.stays && self.unsent.is_empty() && self.random.u8(..4) == 0;
            self.receive();
            let socket = &mut self.bench.socket;
            socket.is_reset |= self.resets && self.random.u8(..20) == 0;
            let is_shut_down = socket.shut_down == Some(Shutdown::Both) || socket.is_reset;
            self.closed |= is_shut_down;
            if let Some(bytes) = self.rest.take_if(|_| is_shut_down || socket.room > 0) {
                let result = if is_shut_down { Err(Errno::PIPE) } else { socket.send(&bytes) };
                self.completions.push_back(Done::Sent { result, bytes: bytes.into() });
            }
        }

        /// Handles the completions. If the kernel holds some back, the iteration is not over.
        fn handle(&mut self) {
            let sends_first = |done: &Done| !matches!(done, Done::Sent { .. });
            self.completions.make_contiguous().sort_by_key(sends_first);
            let held_back = match self.random.u8(..4) {
                0 => self.completions.len() / 2,
                _ => 0,
            };
            self.bench.shared.iteration += u32::from(held_back == 0);
            if self.open && self.random.u8(..8) == 0 {
                let Bench { connection, shared, .. } = &mut self.bench;
                shared.only_single = !shared.only_single;
                if shared.only_single {
                    let operation = connection.end_receive_all();
                    self.queue(operation, &[]);
                }
            }
            for _ in held_back..self.completions.len() {
                let done = self.completions.pop_front().expect("it is counted");
                let (operation, buffer) = match done {
                    Done::Cancelled(_) if !self.open => continue,
                    Done::Cancelled(result) => {
                        (self.bench.connection.on_cancelled(result), Vec::new())
                    }
                    Done::Received { result, more, nonempty } => {
                        let bytes = result.as_deref().map_err(|error| *error);
                        let operation = self.bench.complete(bytes, more, nonempty);
                        (operation, result.unwrap_or_default())
                    }
                    Done::Sent { result, bytes } => (self.bench.sent(result, &bytes), Vec::new()),
                };
                self.queue(operation, &buffer);
            }
        }

        fn iterate(&mut self) {
            self.submit();
            self.move_on();
            self.handle();
        }
    }

    /// The order of completions, their sizes, ends of receives, missed cancellations, short sends
    /// and missing buffers are random. Whatever happens: one receive and one send at a time, every
    /// byte back in its order, and an end with nothing in flight.
    #[test]
    fn any_order_of_completions_echoes_all_bytes() {
        for seed in 0..3000 {
            let mut kernel = Kernel::new(seed);
            let expected = kernel.unsent.clone();
            let iterations = (0..10_000).take_while(|_| {
                kernel.iterate();
                kernel.open
            });
            assert!(iterations.count() < 10_000, "seed {seed}: it does not end");
            assert!(kernel.bench.socket.sent == expected, "seed {seed}: the bytes differ");
            let stats = &kernel.bench.shared.stats;
            assert_eq!(stats.closed.count(Cause::Eof), 1, "seed {seed}");
            assert_eq!(stats.bytes_sent, expected.len() as u64, "seed {seed}");
            assert_eq!(kernel.bench.shared.queued, 0, "seed {seed}");
        }
    }

    /// The same, with a reset, a drain or a termination at any time: what comes back is a
    /// beginning, also if the peer keeps its side open.
    #[test]
    fn any_order_of_completions_ends_when_the_server_stops() {
        for seed in 0..3000 {
            let mut kernel = Kernel::new(seed);
            let expected = kernel.unsent.clone();
            kernel.resets = kernel.random.u8(..4) == 0;
            for _ in 0..kernel.random.usize(..40) {
                if kernel.open {
                    kernel.iterate();
                }
            }
            if kernel.open {
                kernel.bench.shared.draining = true;
                let operation = kernel.bench.connection.drain();
                kernel.queue(operation, &[]);
                kernel.stays = kernel.random.bool();
            }
            let cuts = kernel.random.bool();
            for iteration in 0..10_000 {
                if !kernel.open {
                    break;
                }
                if cuts && iteration == 20 {
                    kernel.bench.shared.cut = true;
                    let Bench { connection, socket, shared } = &mut kernel.bench;
                    let operation = connection.terminate(Cause::Drain, socket, shared);
                    kernel.queue(operation, &[]);
                }
                kernel.iterate();
                // A lingering connection is closed by its peer.
                if kernel.bench.connection.is_lingering() {
                    (kernel.closed, kernel.unsent) = (true, Vec::new());
                }
            }
            assert!(!kernel.open, "seed {seed}: it does not end");
            assert!(expected.starts_with(&kernel.bench.socket.sent), "seed {seed}");
            assert_eq!(kernel.bench.shared.stats.closed.total(), 1, "seed {seed}");
            assert_eq!(kernel.bench.shared.queued, 0, "seed {seed}");
        }
    }
}
