//! Clients that do anything a TCP client may do: requests of any size, pipelining of up to 300,000
//! bytes, tiny buffers and segments, pauses, reads of a few bytes, half-close and reset.
//!
//! Every byte returned is compared with the byte sent. A connection may be slow, since the client's
//! own window may be as small as a few hundred bytes (docs/performance.md), but it must not stand
//! still: if a client that does not pause neither sends nor receives for [`STALL`], the test prints
//! both sockets as ss(8) shows them; after [`PATIENCE`] it fails.
//!
//! `LOCKSTEP_SEED` repeats the clients of a run; each run prints its seed. With `LOCKSTEP_CHAOS`, a
//! time such as `1h`, new clients come for that long:
//!
//! ```sh
//! LOCKSTEP_CHAOS=1h cargo test --release -p lockstep-backends --test chaos -- --nocapture
//! ```

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, Type};

use common::child::{Served, is_available};
use common::{PATIENCE, kernel};

/// Number of clients of a short run, and of clients at a time.
const CLIENTS: u64 = 150;
const AT_A_TIME: usize = 64;

/// Most bytes that a client sends, and that most clients send.
const BYTES_MAX: usize = 300_000;
const BYTES_OFTEN: usize = 20_000;

/// Receive buffer that can make a window of a few hundred bytes, and most bytes that such a client
/// sends in a short run: it may get five segments a second.
const TINY_BUFFER: usize = 8192;
const BYTES_TINY: usize = 3000;

/// Time without progress after which a connection is reported.
const STALL: Duration = Duration::from_secs(3);

#[test]
fn chaos_clients_get_every_byte_with_blocking() {
    chaos("blocking");
}

#[test]
fn chaos_clients_get_every_byte_with_poll() {
    chaos("poll");
}

#[test]
fn chaos_clients_get_every_byte_with_mio() {
    chaos("mio");
}

#[test]
fn chaos_clients_get_every_byte_with_io_uring() {
    chaos("io-uring");
}

fn chaos(backend: &str) {
    if !is_available(backend) {
        return;
    }
    let variable = |name| std::env::var(name).ok();
    let seed =
        variable("LOCKSTEP_SEED").map_or_else(|| fastrand::u64(..), |it| it.parse().unwrap());
    let time = variable("LOCKSTEP_CHAOS").map(|it| lockstep_sys::units::duration(&it).unwrap());
    println!("{backend}: LOCKSTEP_SEED={seed} cargo test -p lockstep-backends --test chaos");
    let server = Served::start(backend, ["--shards", "2", "--max-conns", "1000"]);
    let start = Instant::now();
    let (mut clients, mut count, mut bytes, mut stalls) = (Vec::new(), 0, 0, 0);
    loop {
        let more = time.map_or(count < CLIENTS, |time| start.elapsed() < time);
        if more && clients.len() < AT_A_TIME {
            clients.push(Chaotic::connect(server.addr, seed.wrapping_add(count), time.is_none()));
            count += 1;
            continue;
        }
        if clients.is_empty() {
            break;
        }
        let mut ready = wait(&clients).into_iter();
        let now = Instant::now();
        clients.retain_mut(|client| {
            let goes_on = client.go_on(ready.next().unwrap(), now);
            if goes_on {
                stalls += u64::from(client.is_stalled(now));
            } else {
                bytes += client.returned as u64;
            }
            goes_on
        });
    }
    println!("{backend}: {count} clients, {bytes} bytes returned, {stalls} stalls");
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((&stats["accepted"], &stats["drain_cut"]), (&count.into(), &0.into()), "{stats}");
}

/// Waits until a client has something to do; returns what each socket is ready for.
fn wait(clients: &[Chaotic]) -> Vec<PollFlags> {
    let now = Instant::now();
    let mut longest = STALL;
    let mut fds: Vec<_> = clients
        .iter()
        .map(|client| {
            longest = longest.min(client.next_time(now));
            PollFd::new(&client.stream, client.awaited(now))
        })
        .collect();
    poll(&mut fds, Some(&Timespec::try_from(longest).unwrap())).unwrap();
    fds.iter().map(PollFd::revents).collect()
}

/// How a client ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// Half-closes after the last byte, and reads to the end.
    HalfClose,
    /// Closes when everything has been returned.
    Close,
    /// Closes or resets as soon as it has sent everything, whatever has been returned.
    Leave,
    Reset,
}

/// A client, its plan, and how far it is.
#[derive(Debug)]
struct Chaotic {
    stream: TcpStream,
    seed: u64,
    random: Rng,
    end: End,
    /// Number of bytes to send in all, sent, and returned.
    total: usize,
    sent: usize,
    returned: usize,
    /// Number of bytes to send before it waits for all replies.
    burst: usize,
    /// Most bytes of a read and of a write.
    piece: usize,
    writes_from: Instant,
    reads_from: Instant,
    /// Time that is left for pauses.
    pauses: Duration,
    half_closed: bool,
    progress: Instant,
    reported: bool,
}

impl Chaotic {
    fn connect(addr: SocketAddr, seed: u64, briefly: bool) -> Self {
        let mut random = Rng::with_seed(seed);
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        // The kernel raises what is too small to its minimum (socket(7)).
        let mut bytes = if random.u8(..4) == 0 { BYTES_MAX } else { BYTES_OFTEN };
        if random.bool() {
            let size = random.usize(1..16_384);
            socket.set_recv_buffer_size(size).unwrap();
            if briefly && size < TINY_BUFFER {
                bytes = BYTES_TINY;
            }
        }
        if random.bool() {
            socket.set_send_buffer_size(random.usize(1..16_384)).unwrap();
        }
        if random.bool() {
            socket.set_tcp_mss(random.u32(88..=1460)).unwrap();
        }
        socket.connect_timeout(&addr.into(), PATIENCE).unwrap();
        socket.set_tcp_nodelay(random.bool()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let end = match random.u8(..10) {
            0 => End::Reset,
            1 => End::Leave,
            2..4 => End::Close,
            _ => End::HalfClose,
        };
        let now = Instant::now();
        Self {
            stream: socket.into(),
            seed,
            end,
            total: random.usize(1..=bytes),
            sent: 0,
            returned: 0,
            burst: 0,
            piece: [16, 1024, 4096, 65_536][random.usize(..4)],
            writes_from: now,
            reads_from: now,
            pauses: Duration::from_millis(random.u64(..2000)),
            half_closed: false,
            progress: now,
            reported: false,
            random,
        }
    }

    fn writes(&self) -> bool {
        self.sent < self.total && (self.burst > 0 || self.returned == self.sent)
    }

    fn awaited(&self, now: Instant) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::OUT, self.writes() && self.writes_from <= now);
        flags.set(PollFlags::IN, self.reads_from <= now);
        flags
    }

    /// Time until a pause is over; zero is none.
    fn next_time(&self, now: Instant) -> Duration {
        let pauses = [self.writes_from, self.reads_from].into_iter();
        let left = pauses.map(|from| from.saturating_duration_since(now));
        left.filter(|left| !left.is_zero()).min().unwrap_or(STALL)
    }

    /// Writes and reads as far as the plan and the socket allow; returns false at the end.
    fn go_on(&mut self, ready: PollFlags, now: Instant) -> bool {
        let failed = ready.intersects(PollFlags::ERR | PollFlags::HUP);
        if ready.contains(PollFlags::OUT) {
            self.write(now);
        }
        let leaves = matches!(self.end, End::Leave | End::Reset);
        if leaves && self.sent == self.total {
            if self.end == End::Reset {
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            return false;
        }
        if self.end == End::HalfClose && self.sent == self.total && !self.half_closed {
            self.stream.shutdown(Shutdown::Write).unwrap();
            self.half_closed = true;
        }
        if !failed && !ready.contains(PollFlags::IN) {
            return true;
        }
        let ended = self.read(now);
        assert!(!ended || (self.half_closed && self.returned == self.total), "it ends: {self:?}");
        let closes = self.end == End::Close && self.returned == self.total;
        !ended && !closes
    }

    fn write(&mut self, now: Instant) {
        if self.burst == 0 {
            let left = self.total - self.sent;
            let most = [1024, 1024, 5000, BYTES_MAX][self.random.usize(..4)];
            self.burst = self.random.usize(1..=left.min(most));
            if self.random.u8(..4) == 0 {
                self.reads_from = now + self.pause_up_to(Duration::from_millis(400));
            }
        }
        let count = self.random.usize(1..=self.burst.min(self.piece));
        let bytes: Vec<_> = (self.sent..self.sent + count).map(|at| self.byte(at)).collect();
        match self.stream.write(&bytes) {
            Ok(count) => {
                self.sent += count;
                self.burst -= count;
                self.progress = now;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("cannot send: {error}: {self:?}"),
        }
        self.writes_from = now + self.pause();
    }

    /// Reads and compares; returns true at the end.
    fn read(&mut self, now: Instant) -> bool {
        let mut buffer = [0; 65_536];
        let most = self.random.usize(1..=self.piece);
        match self.stream.read(&mut buffer[..most]) {
            Ok(0) => return true,
            Ok(count) => {
                let same = (self.returned..).zip(&buffer[..count]);
                let same = same.filter(|(at, byte)| self.byte(*at) == **byte).count();
                assert!(same == count, "a byte differs: {self:?}");
                self.returned += count;
                self.progress = now;
                self.reads_from = now + self.pause();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("cannot receive: {error}: {self:?}"),
        }
        false
    }

    /// A pause of random length, mostly none.
    fn pause(&mut self) -> Duration {
        match self.random.u8(..50) {
            0 => self.pause_up_to(Duration::from_millis(400)),
            1..5 => self.pause_up_to(Duration::from_millis(2)),
            _ => Duration::ZERO,
        }
    }

    fn pause_up_to(&mut self, longest: Duration) -> Duration {
        let pause = longest.mul_f64(self.random.f64()).min(self.pauses);
        self.pauses -= pause;
        pause
    }

    /// The byte at this place of its stream.
    fn byte(&self, at: usize) -> u8 {
        let word = self.seed.wrapping_add(at as u64 / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (word ^ (word >> 29)).to_le_bytes()[at % 8]
    }

    /// Reports a connection that has not moved for a while, and returns true at the first time.
    fn is_stalled(&mut self, now: Instant) -> bool {
        let since = self.progress.max(self.writes_from).max(self.reads_from);
        let stalled = now.saturating_duration_since(since);
        if stalled < STALL {
            if self.reported {
                println!("it goes on: {self:?}");
            }
            self.reported = false;
            return false;
        }
        let first = !std::mem::replace(&mut self.reported, true);
        if first || stalled >= PATIENCE {
            println!("no progress for {stalled:?}: {self:?}\n{}", sockets(&self.stream));
        }
        assert!(stalled < PATIENCE, "a connection stands still");
        first
    }
}

/// Both sockets of the connection as ss(8) shows them.
fn sockets(stream: &TcpStream) -> String {
    let port = stream.local_addr().unwrap().port();
    let filter = format!("sport = :{port} or dport = :{port}");
    match Command::new("ss").args(["-tmionH", &filter]).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("no ss: {error}"),
    }
}
