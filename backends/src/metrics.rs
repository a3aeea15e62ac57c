//! Metrics of a running server over HTTP ([`Options::metrics`](crate::Options::metrics)).
//!
//! * `/metrics`: counts of the server and of its process, in Prometheus' text format.
//! * `/healthz`: 200 as long as the process lives.
//! * `/readyz`: 200 once every shard is ready, 503 before that and while the server drains.
//!
//! A thread of its own serves them, until every shard has ended. It takes no lock that a shard
//! waits for, and its table of descriptors is separate (`side_thread.rs` in lockstep-sys): neither
//! are system calls of a shard more expensive, nor does a client of the metrics use up a descriptor
//! of a connection. Clients have little time, and few of them are served at a time
//! (`connections.rs`). A page costs some 50 µs of CPU, and about 140 µs in a process with 1,000
//! threads, whose usage the kernel adds up.

mod connections;
mod http;
mod page;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use lockstep_sys::sock_diag::SockDiag;
use lockstep_sys::tcp::AcceptQueue;
use lockstep_sys::{cpu_time, cpus, memory, side_thread};
use rustix::fs::fstat;
use rustix::param::clock_ticks_per_second;
use rustix::process::getpid;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::listener::listen;
use crate::trace::NoTrace;
use crate::{ConnectionLimit, Published, Stop};
use connections::Connections;
use http::{Request, Resource, Status, refusal, response};
use page::{Process, Reading};

/// Listen queue; clients are accepted immediately.
const BACKLOG: u32 = 1024;

/// State of a server that its metrics show. It has no descriptor but that of `stop`.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) backend: &'static str,
    pub(crate) service: &'static str,
    pub(crate) shards: usize,
    /// CPUs that shards are pinned to; empty if they are not pinned.
    pub(crate) pinned: Vec<usize>,
    pub(crate) published: Arc<Published>,
    pub(crate) limit: Arc<ConnectionLimit>,
    /// Set when every shard is ready.
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) stop: Arc<Stop>,
    /// Where the shards listen, and their listeners' inodes.
    pub(crate) addr: SocketAddr,
    pub(crate) listeners: Vec<u64>,
}

/// The thread that serves metrics. Dropping this ends it.
#[derive(Debug)]
pub(crate) struct Exporter {
    addr: SocketAddr,
    /// In the table of the process, too, so that ss(8) names the process.
    _listener: Arc<TcpListener>,
    end: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// Listens for clients of the metrics.
///
/// # Errors
///
/// As those of the server's own listeners.
pub(crate) fn listen_at(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = listen(addr, &[None], false, BACKLOG, NoTrace)?.remove(0);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Inodes of sockets, which sock_diag(7) reports.
pub(crate) fn inodes(sockets: &[TcpListener]) -> Vec<u64> {
    sockets.iter().filter_map(|socket| Some(fstat(socket).ok()?.st_ino)).collect()
}

impl Exporter {
    /// Serves metrics to clients of `listener`.
    ///
    /// # Errors
    ///
    /// `EMFILE` if no descriptor is left, `EAGAIN` or `ENOMEM` if no thread can be started.
    pub(crate) fn start(listener: TcpListener, source: Source) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let end = Arc::new(Stop::new(Duration::ZERO)?);
        let listener = Arc::new(listener);
        let (clients, ended) = (Arc::clone(&listener), Arc::clone(&end));
        let serve = move || {
            // SAFETY: the thread uses these two, and what it opens itself. The `Exporter` has them
            // as well, and is dropped after the thread has ended. Of the server's stop signal only
            // the state is used, and the server drops it after the `Exporter`.
            let _shared = unsafe { side_thread::separate(&[clients.as_fd(), ended.as_fd()]) };
            let mut page = Responder::new(source);
            Connections::default().serve(&clients, &ended, &mut |request| page.respond(request));
        };
        let thread = memory::thread("metrics")?.spawn(serve)?;
        Ok(Self { addr, _listener: listener, end, thread: Some(thread) })
    }

    /// Address with the real port.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.end.drain();
        if let Some(thread) = self.thread.take() {
            let _panic = thread.join();
        }
    }
}

/// Makes the responses.
struct Responder {
    source: Source,
    diag: Option<SockDiag>,
    start_time: Option<f64>,
    boot: Option<String>,
}

impl Responder {
    fn new(source: Source) -> Self {
        Self { source, diag: SockDiag::open().ok(), start_time: start_time(), boot: boot() }
    }

    fn respond(&mut self, request: Request) -> Vec<u8> {
        let (resource, with_body) = match request {
            Request::Refused { status, with_body } => return refusal(status, with_body),
            Request::Get { resource, with_body } => (resource, with_body),
        };
        let (status, kind, body) = match resource {
            Resource::Metrics => (Status::Ok, page::CONTENT_TYPE, self.reading().text()),
            Resource::Health => (Status::Ok, http::TEXT, "ok\n".to_owned()),
            Resource::Readiness => {
                let Source { ready, stop, .. } = &self.source;
                match (ready.load(Relaxed), stop.is_draining()) {
                    (_, true) => (Status::Unavailable, http::TEXT, "draining\n".to_owned()),
                    (false, _) => (Status::Unavailable, http::TEXT, "starting\n".to_owned()),
                    (true, _) => (Status::Ok, http::TEXT, "ready\n".to_owned()),
                }
            }
        };
        response(status, kind, &body, with_body)
    }

    fn reading(&mut self) -> Reading {
        let accept_queue = self.accept_queue();
        let Source { backend, service, shards, ref pinned, .. } = self.source;
        // Next to each other, since they are divided by each other.
        let cpu_ns = cpu_time::of_this_process_ns();
        let stats = self.source.published.read();
        let usage = cpu_time::usage_of_this_process();
        let process = procfs::process::Process::myself();
        let stat = process.as_ref().ok().and_then(|process| process.stat().ok());
        let allowed = || cpus::allowed_to(getpid()).unwrap_or_default();
        let process = Process {
            cpu_ns,
            user_us: usage.user_us,
            system_us: usage.system_us,
            context_switches: usage.context_switches,
            cpus: if pinned.is_empty() { allowed() } else { pinned.clone() },
            start_time: self.start_time,
            boot: self.boot.clone(),
            resident_bytes: stat.as_ref().map(|stat| stat.rss * rustix::param::page_size() as u64),
            threads: stat.as_ref().map(|stat| stat.num_threads.unsigned_abs()),
            descriptors: process.ok().and_then(|process| Some(process.fd_count().ok()? as u64)),
        };
        let connections = self.source.limit.count();
        Reading { backend, service, shards, stats, connections, accept_queue, process }
    }

    /// Reads the accept queues of all shards together.
    fn accept_queue(&mut self) -> Option<AcceptQueue> {
        let Source { addr, ref listeners, .. } = self.source;
        let sockets = self.diag.as_mut()?.sockets(addr, &[lockstep_sys::tcp::LISTEN]).ok()?;
        let own = sockets.iter().filter(|socket| listeners.contains(&socket.inode.into()));
        Some(own.fold(AcceptQueue { waiting: 0, limit: 0 }, |sum, socket| AcceptQueue {
            waiting: sum.waiting + socket.rqueue,
            limit: sum.limit.saturating_add(socket.wqueue),
        }))
    }
}

/// Identifier of this boot, by which a client finds out that it is on the same machine.
fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim_end().to_owned())
}

/// Start of this process, in seconds since 1970.
fn start_time() -> Option<f64> {
    let stat = procfs::process::Process::myself().ok()?.stat().ok()?;
    let after_boot = stat.starttime as f64 / clock_ticks_per_second() as f64;
    let seconds = |time: Timespec| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    let [now, uptime] = [ClockId::Realtime, ClockId::Boottime].map(clock_gettime).map(seconds);
    let start = now - uptime + after_boot;
    Some((start * 100.0).round() / 100.0) // the resolution of the kernel
}
