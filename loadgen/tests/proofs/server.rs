//! An echo server that can be slowed: one thread, epoll, and a loop that does nothing.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

/// The marker of the listener's events; a connection's is its place in the list, from 1.
const LISTENER: u64 = 0;

/// Serves for ever, and spends so many turns of the loop on every request.
pub(crate) fn serve(addr: &str, turns: u64) -> io::Result<()> {
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
                    let stream = stream.as_ref().expect("it was just put there");
                    epoll::add(&epoll, stream, EventData::new_u64(number), EventFlags::IN)?;
                }
                number => {
                    let place = &mut streams[number as usize - 1];
                    if !place.as_mut().is_some_and(|stream| reply(stream, turns)) {
                        *place = None;
                    }
                }
            }
        }
    }
}

/// What one receive returns is a request. Whether the connection goes on.
fn reply(stream: &mut TcpStream, turns: u64) -> bool {
    let mut buffer = [0; 1024];
    match stream.read(&mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            burn(turns);
            stream.write_all(&buffer[..count]).is_ok()
        }
    }
}

fn burn(turns: u64) {
    for turn in 0..turns {
        black_box(turn);
    }
}

/// About so many turns take so long, at most.
pub(crate) fn turns_in(time: Duration) -> u64 {
    const TURNS: u64 = 1_000_000;
    let once = || {
        let begin = Instant::now();
        burn(TURNS);
        begin.elapsed()
    };
    let fastest = (0..5).map(|_| once()).min().expect("five is not none");
    (TURNS as f64 * time.as_secs_f64() / fastest.as_secs_f64()) as u64
}
