//! A whole exchange in one thread, with nothing to wait for: what is sent over loopback has arrived
//! when the send returns.

use std::io;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::pairs::{Pair, done, received, verify};
use crate::clients::pattern::{Pattern, Window};
use crate::clients::socket::{receive, send};
use crate::machine::cpu_time::of_this_thread_ns;

/// Exchanges between two looks at the clock.
const BATCH: usize = 16;

/// Exchanges on the connections in turn for so long, on each at least once; nanoseconds of this
/// thread's processor time an exchange, so that other programs do not count.
pub(super) fn exchange(pairs: &[Pair], pattern: &Pattern, slice: Duration) -> io::Result<f64> {
    let mut request = vec![0; pattern.size() as usize];
    let mut reply = request.clone();
    let mut window = Window::first(0);
    let mut turns = pairs.iter().cycle();
    let (begin, begin_cpu) = (Instant::now(), of_this_thread_ns());
    let mut exchanges = 0;
    loop {
        for pair in turns.by_ref().take(BATCH) {
            window = window.next();
            let sent = pattern.request(window);
            transfer(sent, &pair.client, &pair.server, &mut request)?;
            // The server sends what it received, so that comparing once compares both ways.
            transfer(&request, &pair.server, &pair.client, &mut reply)?;
            verify(&reply, sent)?;
        }
        exchanges += BATCH;
        if begin.elapsed() >= slice && exchanges >= pairs.len() {
            return Ok((of_this_thread_ns() - begin_cpu) as f64 / exchanges as f64);
        }
    }
}

/// Sends and receives the same number of bytes: a call each, unless they do not fit the kernel's
/// buffers.
fn transfer(bytes: &[u8], from: &Socket, to: &Socket, into: &mut [u8]) -> io::Result<()> {
    let (mut sent, mut got) = (0, 0);
    while got < into.len() {
        if sent < bytes.len() {
            sent += done(send(from, &bytes[sent..]))?.unwrap_or(0);
        }
        got += received(receive(to, &mut into[got..]))?.unwrap_or(0);
    }
    Ok(())
}
