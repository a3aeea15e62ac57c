//! An echo server that can be slowed: one thread, epoll, and an empty loop for each request.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

/// Event data of the listener. A connection's is its index in the list plus 1.
const LISTENER: u64 = 0;

/// Serves until it is killed. Runs `iterations` of the empty loop for each request.
pub(crate) fn serve(addr: &str, iterations: u64) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            match event.data.u64() {
                LISTENER => {
                    let (stream, _peer) = listener.accept()?;
                    stream.set_nodelay(true)?;
                    streams.push(Some(stream));
                    let (stream, number) = (streams.last().unwrap(), streams.len() as u64);
                    let stream = stream.as_ref().expect("it was just pushed");
                    epoll::add(&epoll, stream, EventData::new_u64(number), EventFlags::IN)?;
                }
                number => {
                    let slot = &mut streams[number as usize - 1];
                    if !slot.as_mut().is_some_and(|stream| reply(stream, iterations)) {
                        *slot = None;
                    }
                }
            }
        }
    }
}

/// Replies to what one receive returns. False if the connection has ended.
fn reply(stream: &mut TcpStream, iterations: u64) -> bool {
    let mut buffer = [0; 1024];
    match stream.read(&mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            burn(iterations);
            stream.write_all(&buffer[..count]).is_ok()
        }
    }
}

fn burn(iterations: u64) {
    for iteration in 0..iterations {
        black_box(iteration);
    }
}

/// Number of iterations that take `time` at full speed.
pub(crate) fn iterations_in(time: Duration) -> u64 {
    const ITERATIONS: u64 = 1_000_000;
    let once = || {
        let begin = Instant::now();
        burn(ITERATIONS);
        begin.elapsed()
    };
    let fastest = (0..5).map(|_| once()).min().expect("five durations");
    (ITERATIONS as f64 * time.as_secs_f64() / fastest.as_secs_f64()) as u64
}
