//! Exchanges between two threads on two processors, which either ask their sockets over and over or
//! sleep in the kernel until there is something.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::pairs::{Pair, done, received, verify};
use crate::clients::pattern::{Pattern, Window};
use crate::clients::socket::{receive, send};
use crate::machine::cpu_time::of_this_thread_ns;
use crate::machine::placement::pin;

/// Connections looked at between two looks at the clock.
const BATCH: usize = 16;

/// What the server receives at most at once.
const BUFFER: usize = 64 << 10;

/// How long the last replies may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What two spinning threads came to.
pub(super) struct Spun {
    /// Nanoseconds from a reply to the next.
    pub(super) ns: f64,
    /// The part of the time that the thread ran which ran less: other programs had the rest, and
    /// the number is theirs too.
    pub(super) running: f64,
}

/// A request in flight on every connection for so long, once there is one, the server's end in a
/// thread on the processor `server`.
pub(super) fn spin(
    pairs: &[Pair],
    pattern: &Pattern,
    server: usize,
    slice: Duration,
) -> io::Result<Spun> {
    let over = AtomicBool::new(false);
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let pinned = pin(&[server]).map_err(io::Error::other);
            ready.wait();
            let running = Running::start();
            pinned.and_then(|()| serve(pairs, &over)).map(|()| running.share())
        });
        ready.wait();
        let running = Running::start();
        let ns = drive(pairs, pattern, slice, &over);
        let running = running.share();
        over.store(true, Relaxed);
        let served = serving.join().map_err(|_| io::Error::other("a thread panicked"))?;
        Ok(Spun { running: served?.min(running), ns: ns? })
    })
}

/// How much of the time a thread has had its processor.
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

/// Sends everything back until the other thread is done.
fn serve(pairs: &[Pair], over: &AtomicBool) -> io::Result<()> {
    /// Tells the other thread, too, when this one fails.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let _over = Over(over);
    let mut buffer = vec![0; BUFFER];
    while !over.load(Relaxed) {
        for Pair { server, .. } in pairs {
            let Some(count) = received(receive(server, &mut buffer))? else { continue };
            let mut sent = 0;
            // The client takes its replies even while it cannot send.
            while sent < count && !over.load(Relaxed) {
                sent += done(send(server, &buffer[sent..count]))?.unwrap_or(0);
            }
        }
    }
    Ok(())
}

/// The exchange that a connection is at.
struct Turn {
    window: Window,
    sent: usize,
    got: usize,
    over: bool,
}

fn drive(pairs: &[Pair], pattern: &Pattern, slice: Duration, over: &AtomicBool) -> io::Result<f64> {
    let size = pattern.size() as usize;
    let mut buffer = vec![0; size.min(BUFFER)];
    let turn = |number| Turn { window: Window::first(number), sent: 0, got: 0, over: false };
    let mut turns: Vec<Turn> = (0..pairs.len() as u32).map(turn).collect();
    let begin = Instant::now();
    let (mut exchanges, mut open) = (0_usize, pairs.len());
    // Counted from when as many replies have come as there are connections: before, most are idle.
    let (mut since, mut measured) = (begin, None);
    let mut looks = 0;
    while open > 0 {
        for (pair, turn) in pairs.iter().zip(&mut turns).filter(|(_, turn)| !turn.over) {
            looks += 1;
            if looks % BATCH == 0 {
                let now = Instant::now();
                let counted = exchanges.saturating_sub(pairs.len());
                // At least one, or there is no time between two.
                if measured.is_none() && counted > 0 && now - since >= slice {
                    measured = Some((now - since).as_nanos() as f64 / counted as f64);
                }
                if now - begin > slice + PATIENCE || over.load(Relaxed) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            if !advance(pair, turn, pattern, &mut buffer)? {
                continue;
            }
            exchanges += 1;
            if exchanges == pairs.len() {
                since = Instant::now();
            }
            if measured.is_some() {
                turn.over = true;
                open -= 1;
            } else {
                *turn = Turn { window: turn.window.next(), sent: 0, got: 0, over: false };
                advance(pair, turn, pattern, &mut buffer)?;
            }
        }
    }
    measured.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// Sends what is left of the request, or receives more of the reply; whether it is whole.
fn advance(pair: &Pair, turn: &mut Turn, pattern: &Pattern, buffer: &mut [u8]) -> io::Result<bool> {
    let request = pattern.request(turn.window);
    if turn.sent < request.len() {
        turn.sent += done(send(&pair.client, &request[turn.sent..]))?.unwrap_or(0);
        if turn.sent == request.len() {
            return Ok(false); // The reply takes a while.
        }
    }
    if let Some(count) = received(receive(&pair.client, buffer))? {
        let expected = request.get(turn.got..turn.got + count).unwrap_or_default();
        verify(&buffer[..count], expected)?;
        turn.got += count;
    }
    Ok(turn.got == request.len())
}

/// A connection whose ends sleep until something arrives; nanoseconds a round trip.
pub(super) fn ping_pong(pattern: &Pattern, server: usize, slice: Duration) -> io::Result<f64> {
    let blocking = |socket: socket2::Socket| {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok::<_, io::Error>(TcpStream::from(socket))
    };
    let pair = Pair::connect(1)?.pop().expect("one was asked for");
    let (mut client, mut stream) = (blocking(pair.client)?, blocking(pair.server)?);
    thread::scope(|scope| {
        let serving = scope.spawn(move || {
            pin(&[server]).map_err(io::Error::other)?;
            let mut buffer = vec![0; BUFFER];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => stream.write_all(&buffer[..count])?,
                }
            }
        });
        let ns = call(&mut client, pattern, slice);
        let _ends_the_server = client.shutdown(Shutdown::Write);
        let served: io::Result<()> =
            serving.join().map_err(|_| io::Error::other("a thread panicked"))?;
        served.and(ns)
    })
}

fn call(client: &mut TcpStream, pattern: &Pattern, slice: Duration) -> io::Result<f64> {
    let mut reply = vec![0; pattern.size() as usize];
    let mut window = Window::first(0);
    // The first exchange waits for the other thread to start, and is not counted.
    let (mut begin, mut exchanges) = (None, 0_u64);
    loop {
        window = window.next();
        let request = pattern.request(window);
        client.write_all(request)?;
        client.read_exact(&mut reply)?;
        verify(&reply, request)?;
        let begin = *begin.get_or_insert_with(Instant::now);
        let elapsed = begin.elapsed();
        if exchanges > 0 && elapsed >= slice {
            return Ok(elapsed.as_nanos() as f64 / exchanges as f64);
        }
        exchanges += 1;
    }
}
