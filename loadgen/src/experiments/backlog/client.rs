//! One client: it connects, waits a while, sends a request, and waits for the reply.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lockstep_results::backlog::{self, Fate};
use rustix::event::epoll::EventFlags;
use socket2::Socket;

use crate::clients::socket::{receive, send};
use lockstep_sys::sock_diag::SockDiag;
use lockstep_sys::tcp_info::TcpInfo;

/// How long after its connect a client sends its request. Until then a ghost stays one: what it
/// sends would bring it to life (a SYN cookie is in every segment).
const PAUSE: Duration = Duration::from_millis(100);

/// What a client says.
const REQUEST: &[u8] = b"hello?\r\n";

/// What a client is waiting for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// For connect(2).
    Connecting,
    /// To send its request, then.
    Pausing(Instant),
    /// For the reply.
    Asked,
    /// Nothing any more: it was served, or not.
    Done,
    /// Nothing any more, by an error of this kind.
    Failed(Fate),
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    socket: Socket,
    started: Instant,
    stage: Stage,
    connected: Option<Instant>,
    syn_retrans: u32,
    ghost: bool,
    request_retrans: u32,
    served: Option<Instant>,
}

impl Client {
    /// A client whose connect was issued at `started`.
    pub(super) fn new(socket: Socket, started: Instant) -> Self {
        Self {
            socket,
            started,
            stage: Stage::Connecting,
            connected: None,
            syn_retrans: 0,
            ghost: false,
            request_retrans: 0,
            served: None,
        }
    }

    /// Whether its connect has neither succeeded nor failed.
    pub(super) fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    /// Whether nothing more will come of it.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Failed(_))
    }

    /// Whether its connect has succeeded.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// SYNs sent again so far.
    pub(super) fn syn_retrans(&self) -> u32 {
        match self.stage {
            Stage::Connecting => {
                TcpInfo::of(&self.socket).map_or(self.syn_retrans, |info| info.total_retrans)
            }
            _ => self.syn_retrans,
        }
    }

    /// epoll has told something of its socket.
    pub(super) fn on_event(&mut self, flags: EventFlags, now: Instant) {
        if self.stage == Stage::Connecting {
            self.on_connecting(flags, now);
        }
        if matches!(self.stage, Stage::Pausing(_) | Stage::Asked) {
            self.on_readable(now);
        }
    }

    /// Looks whether it is connected already. On the loopback interface the handshake is over
    /// before connect(2) returns, and the event may come much later.
    pub(super) fn look(&mut self, now: Instant) {
        if TcpInfo::of(&self.socket).is_ok_and(|info| info.established) {
            self.on_connected(now);
        }
    }

    fn on_connected(&mut self, now: Instant) {
        self.syn_retrans = self.syn_retrans();
        self.connected = Some(now);
        self.stage = Stage::Pausing(now + PAUSE);
    }

    fn on_connecting(&mut self, flags: EventFlags, now: Instant) {
        match self.socket.take_error() {
            Ok(None) if !flags.contains(EventFlags::OUT) => {}
            Ok(None) => self.on_connected(now),
            Ok(Some(error)) | Err(error) => {
                self.syn_retrans = self.syn_retrans();
                self.stage = Stage::Failed(match error.kind() {
                    io::ErrorKind::TimedOut => Fate::TimedOut,
                    _ => Fate::Refused,
                });
            }
        }
    }

    fn on_readable(&mut self, now: Instant) {
        let mut buffer = [0; 1024];
        loop {
            match receive(&self.socket, &mut buffer) {
                Ok(0) => {
                    self.finish(Stage::Done);
                    return;
                }
                Ok(_) => {
                    self.served = self.served.or(Some(now));
                    self.finish(Stage::Done);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.finish(Stage::Failed(Fate::Reset));
                    return;
                }
            }
        }
    }

    /// When it is to be asked whether [`speak`](Self::speak).
    pub(super) fn speaks_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Pausing(until) => Some(until),
            _ => None,
        }
    }

    /// Asks the kernel whether the server's side knows the client, and then sends the request.
    pub(super) fn speak(&mut self, server: SocketAddr, diag: Option<&mut SockDiag>) {
        let own = self.socket.local_addr().ok().and_then(|addr| addr.as_socket());
        if let (Some(own), Some(diag)) = (own, diag) {
            // If the kernel does not tell, nobody is called a ghost.
            self.ghost = !diag.has_connection(server, own).unwrap_or(true);
        }
        self.stage = Stage::Asked;
        if send(&self.socket, REQUEST).is_err() {
            self.finish(Stage::Failed(Fate::Reset));
        }
    }

    fn finish(&mut self, stage: Stage) {
        self.stage = stage;
        if let Ok(info) = TcpInfo::of(&self.socket) {
            self.request_retrans = info.total_retrans.saturating_sub(self.syn_retrans);
        }
    }

    /// What has become of it by the end; times are from `start`.
    pub(super) fn into_record(mut self, start: Instant) -> backlog::Client {
        match self.stage {
            Stage::Connecting => self.syn_retrans = self.syn_retrans(),
            Stage::Pausing(_) | Stage::Asked => self.finish(Stage::Done),
            Stage::Done | Stage::Failed(_) => {}
        }
        let fate = match self.stage {
            Stage::Failed(fate) => fate,
            _ if self.connected.is_none() => Fate::TimedOut,
            _ if self.syn_retrans == 0 => Fate::Instant,
            _ => Fate::Late,
        };
        let since = |from: Instant, at: Instant| at.duration_since(from).as_secs_f64();
        backlog::Client {
            started_s: since(start, self.started),
            fate,
            connect_s: self.connected.map(|at| since(self.started, at)),
            syn_retrans: self.syn_retrans,
            ghost: self.ghost,
            request_retrans: self.request_retrans,
            served_s: self.served.map(|at| since(start, at)),
        }
    }
}
