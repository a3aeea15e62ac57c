//! The measurements of the floor: exchanges within this process, and calls that find nothing to do.

use std::hint::black_box;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::process::getppid;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clients::pattern::{Offset, Pattern};
use crate::clients::socket::{receive, send};
use lockstep_sys::cpu_time::of_this_thread_ns;
use lockstep_sys::cpus::pin;
use lockstep_sys::memory;

/// Exchanges, or polls of a socket, between two readings of the clock.
const BATCH: usize = 16;

/// Calls that find nothing to do between two readings of the clock.
const CALLS_BATCH: u32 = 64;

/// Most bytes that the server's thread receives at a time.
const BUFFER: usize = 64 << 10;

/// Timeout for the last replies.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time of a measurement, which `stop` cuts short.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    pub(super) length: Duration,
    pub(super) stop: &'a AtomicBool,
}

impl Slice<'_> {
    fn is_over(&self, elapsed: Duration) -> bool {
        elapsed >= self.length || self.stop.load(Relaxed)
    }
}

/// A TCP connection over loopback, with both of its ends.
pub(super) struct Pair {
    pub(super) client: Socket,
    pub(super) server: Socket,
}

impl Pair {
    /// Opens connections, non-blocking at both ends.
    pub(super) fn connect(count: u32) -> io::Result<Vec<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        (0..count).map(|_| Self::open(&listener, addr)).collect()
    }

    fn open(listener: &TcpListener, addr: SocketAddr) -> io::Result<Self> {
        let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        client.connect(&SockAddr::from(addr))?;
        let local = client.local_addr()?.as_socket();
        // Another process may have connected to this port.
        let server = loop {
            let (server, peer) = listener.accept()?;
            if Some(peer) == local {
                break Socket::from(server);
            }
        };
        for socket in [&client, &server] {
            socket.set_tcp_nodelay(true)?;
            // Closing resets: a thousand connections in TIME_WAIT would disturb the next run.
            socket.set_linger(Some(Duration::ZERO))?;
            socket.set_nonblocking(true)?;
        }
        Ok(Self { client, server })
    }
}

/// Exchanges one after another in this thread, round-robin over the connections, for `slice` and
/// at least once on each. Returns nanoseconds of CPU time per exchange, which other programs do
/// not affect.
///
/// No call waits: bytes sent over loopback have arrived when send(2) returns.
pub(super) fn one_thread(pairs: &[Pair], pattern: &Pattern, slice: Slice<'_>) -> io::Result<f64> {
    let mut request = vec![0; pattern.size() as usize];
    let mut reply = request.clone();
    let mut offset = Offset::first(0);
    let mut next = pairs.iter().cycle();
    let (begin, begin_cpu) = (Instant::now(), of_this_thread_ns());
    let mut exchanges = 0;
    loop {
        for pair in next.by_ref().take(BATCH) {
            offset = offset.next();
            let sent = pattern.request(offset);
            transfer(sent, &pair.client, &pair.server, &mut request)?;
            // The server sends the bytes it received, so one comparison verifies both ways.
            transfer(&request, &pair.server, &pair.client, &mut reply)?;
            verify(&reply, sent)?;
        }
        exchanges += BATCH;
        if slice.is_over(begin.elapsed()) && exchanges >= pairs.len() {
            return Ok((of_this_thread_ns() - begin_cpu) as f64 / exchanges as f64);
        }
    }
}

/// Sends and receives the same number of bytes, with one call each if they fit the kernel's
/// buffers.
fn transfer(bytes: &[u8], from: &Socket, to: &Socket, into: &mut [u8]) -> io::Result<()> {
    let (mut sent, mut received) = (0, 0);
    while received < into.len() {
        if sent < bytes.len() {
            sent += if_ready(send(from, &bytes[sent..]))?.unwrap_or(0);
        }
        received += if_ready(receive(to, &mut into[received..]))?.unwrap_or(0);
    }
    Ok(())
}

/// Result of [`two_threads`].
pub(super) struct Exchanged {
    /// Nanoseconds from one reply to the next.
    pub(super) ns: f64,
    /// Share of the time that the threads had their CPUs; of both, the smaller.
    pub(super) running: f64,
}

/// Exchanges between two threads on two CPUs, with a request in flight on every connection, for
/// `slice` and at least one reply more than there are connections. The server's ends are in a
/// thread on CPU `server`.
///
/// The threads poll their sockets. With `sleep` they sleep in recv(2) instead, and the connections
/// cannot be used again.
pub(super) fn two_threads(
    pairs: &[Pair],
    pattern: &Pattern,
    server: usize,
    slice: Slice<'_>,
    sleep: bool,
) -> io::Result<Exchanged> {
    if sleep {
        for socket in pairs.iter().flat_map(|pair| [&pair.client, &pair.server]) {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
        }
    }
    let over = AtomicBool::new(false);
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let serving = memory::thread("floor-server")?.spawn_scoped(scope, || {
            let pinned = pin(&[server]);
            ready.wait();
            let running = Running::start();
            pinned.and_then(|()| serve(pairs, &over)).map(|()| running.share())
        })?;
        ready.wait();
        let running = Running::start();
        let ns = drive(pairs, pattern, slice, &over);
        let running = running.share();
        over.store(true, Relaxed);
        if sleep {
            // Ends the server's recv(2).
            pairs.iter().try_for_each(|pair| pair.client.shutdown(Shutdown::Write))?;
        }
        let served = serving.join().map_err(|_| io::Error::other("a thread panicked"))?;
        Ok(Exchanged { running: served?.min(running), ns: ns? })
    })
}

/// CPU time of this thread from one instant on.
struct Running {
    begin: Instant,
    cpu_ns: u64,
}

impl Running {
    fn start() -> Self {
        Self { begin: Instant::now(), cpu_ns: of_this_thread_ns() }
    }

    fn share(&self) -> f64 {
        let cpu_ns = of_this_thread_ns() - self.cpu_ns;
        cpu_ns as f64 / self.begin.elapsed().as_nanos().max(1) as f64
    }
}

/// Echoes on all connections until `over` is set, which it sets itself when it fails.
fn serve(pairs: &[Pair], over: &AtomicBool) -> io::Result<()> {
    struct SetOnDrop<'a>(&'a AtomicBool);
    impl Drop for SetOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let _over = SetOnDrop(over);
    let mut buffer = vec![0; BUFFER];
    while !over.load(Relaxed) {
        for Pair { server, .. } in pairs {
            let count = match if_ready(receive(server, &mut buffer)) {
                Err(_) if over.load(Relaxed) => return Ok(()),
                result => result?.unwrap_or(0),
            };
            let mut sent = 0;
            // The client receives its replies even while it cannot send.
            while sent < count && !over.load(Relaxed) {
                sent += if_ready(send(server, &buffer[sent..count]))?.unwrap_or(0);
            }
        }
    }
    Ok(())
}

/// The present exchange of a connection.
struct Exchange {
    offset: Offset,
    sent: usize,
    received: usize,
}

impl Exchange {
    fn new(offset: Offset) -> Self {
        Self { offset, sent: 0, received: 0 }
    }

    /// Sends the rest of the request, or receives more of the reply. True once it is complete.
    fn advance(&mut self, pair: &Pair, pattern: &Pattern, buffer: &mut [u8]) -> io::Result<bool> {
        let request = pattern.request(self.offset);
        if self.sent < request.len() {
            self.sent += if_ready(send(&pair.client, &request[self.sent..]))?.unwrap_or(0);
            if self.sent == request.len() {
                return Ok(false); // The reply cannot be here yet.
            }
        }
        if let Some(count) = if_ready(receive(&pair.client, buffer))? {
            let end = (self.received + count).min(request.len());
            verify(&buffer[..count], &request[self.received..end])?;
            self.received = end;
        }
        Ok(self.received == request.len())
    }
}

/// The client's side of [`two_threads`]: nanoseconds from one reply to the next.
fn drive(
    pairs: &[Pair],
    pattern: &Pattern,
    slice: Slice<'_>,
    over: &AtomicBool,
) -> io::Result<f64> {
    let mut buffer = vec![0; (pattern.size() as usize).min(BUFFER)];
    let first = |number| Some(Exchange::new(Offset::first(number)));
    let mut present: Vec<Option<Exchange>> = (0..pairs.len() as u32).map(first).collect();
    let begin = Instant::now();
    let (mut exchanges, mut open, mut polls) = (0_usize, pairs.len(), 0);
    // Counting starts after as many replies as connections: until then, most are idle.
    let (mut since, mut measured) = (begin, None);
    while open > 0 {
        for (pair, present) in pairs.iter().zip(&mut present) {
            let Some(exchange) = present else { continue };
            polls += 1;
            if polls % BATCH == 0 {
                let now = Instant::now();
                let counted = exchanges.saturating_sub(pairs.len());
                if measured.is_none() && counted > 0 && slice.is_over(now - since) {
                    measured = Some((now - since).as_nanos() as f64 / counted as f64);
                }
                if now - begin > slice.length + PATIENCE || over.load(Relaxed) {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            if !exchange.advance(pair, pattern, &mut buffer)? {
                continue;
            }
            exchanges += 1;
            if exchanges == pairs.len() {
                since = Instant::now();
            }
            if measured.is_some() {
                *present = None;
                open -= 1;
            } else {
                *exchange = Exchange::new(exchange.offset.next());
                exchange.advance(pair, pattern, &mut buffer)?;
            }
        }
    }
    measured.ok_or_else(|| ErrorKind::TimedOut.into())
}

/// Nanoseconds of CPU time for four calls: reading the clock, a system call that does nothing, and
/// a receive and an epoll_wait(2) that find nothing.
pub(super) fn calls(idle: &Pair, slice: Slice<'_>) -> io::Result<[f64; 4]> {
    let clock = time(slice, || Ok(black_box(Instant::now())))?;
    let syscall = time(slice, || Ok(black_box(getppid())))?;
    let mut buffer = [0; 64];
    let recv = time(slice, || if_ready(receive(&idle.client, &mut buffer)))?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &idle.client, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let mut events =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let wait = time(slice, || Ok(epoll::wait(&poll, &mut events[..], Some(&now))?))?;
    Ok([clock, syscall, recv, wait])
}

/// Nanoseconds of this thread's CPU time for a call, repeated for `slice`.
fn time<T>(slice: Slice<'_>, mut call: impl FnMut() -> io::Result<T>) -> io::Result<f64> {
    let (begin, begin_cpu) = (Instant::now(), of_this_thread_ns());
    let mut calls = 0;
    loop {
        for _ in 0..CALLS_BATCH {
            call()?;
        }
        calls += CALLS_BATCH;
        if slice.is_over(begin.elapsed()) {
            return Ok((of_this_thread_ns() - begin_cpu) as f64 / f64::from(calls));
        }
    }
}

/// Bytes that a call transferred; `None` if it would block.
///
/// # Errors
///
/// Those of the call, and `UnexpectedEof` for a connection that was closed.
fn if_ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn verify(found: &[u8], expected: &[u8]) -> io::Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(io::Error::other("a reply differed from its request")),
    }
}
