//! What the calls of an event loop take that find nothing to do.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::process::getppid;

use super::pairs::{Pair, done};
use crate::clients::socket::receive;
use crate::machine::cpu_time::of_this_thread_ns;

/// Calls between two looks at the clock.
const BATCH: u32 = 64;

/// The clock, a system call that does nothing, a receive and an epoll_wait(2) that find nothing;
/// nanoseconds each.
pub(super) fn measure(idle: &Pair, slice: Duration) -> io::Result<[f64; 4]> {
    let clock = time(slice, || Ok(black_box(Instant::now())))?;
    let syscall = time(slice, || Ok(black_box(getppid())))?;
    let mut buffer = [0; 64];
    let recv = time(slice, || done(receive(&idle.client, &mut buffer)))?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &idle.client, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let mut events =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let wait = time(slice, || Ok(epoll::wait(&poll, &mut events[..], Some(&now))?))?;
    Ok([clock, syscall, recv, wait])
}

/// Nanoseconds of this thread's processor time a call, called for so long.
fn time<T>(slice: Duration, mut call: impl FnMut() -> io::Result<T>) -> io::Result<f64> {
    let (begin, begin_cpu) = (Instant::now(), of_this_thread_ns());
    let mut calls = 0;
    loop {
        for _ in 0..BATCH {
            call()?;
        }
        calls += BATCH;
        if begin.elapsed() >= slice {
            return Ok((of_this_thread_ns() - begin_cpu) as f64 / f64::from(calls));
        }
    }
}
