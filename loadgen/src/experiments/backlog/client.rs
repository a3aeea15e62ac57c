//! A client of a trial: it connects, waits, sends a request, and waits for the reply.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lockstep_results::backlog::{self, Fate};
use rustix::event::epoll::EventFlags;
use socket2::Socket;

use crate::clients::socket::{receive, send};
use lockstep_sys::sock_diag::SockDiag;
use lockstep_sys::tcp::TcpInfo;

/// Time from the end of the connect to the request. Sending ends the state of a ghost, because
/// every segment acknowledges the SYN cookie.
const PAUSE: Duration = Duration::from_millis(100);

/// The request.
const REQUEST: &[u8] = b"hello?\r\n";

/// Progress of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Connecting,
    /// Connected; sends its request at this time.
    Pausing(Duration),
    AwaitingReply,
    /// Served, closed by the server, or failed.
    Done,
}

/// A client. All times count from the start of the trial.
#[derive(Debug)]
pub(super) struct Client {
    socket: Socket,
    stage: Stage,
    started: Duration,
    record: backlog::Client,
}

impl Client {
    /// A client whose connect was issued at `now`.
    pub(super) fn new(socket: Socket, now: Duration) -> Self {
        let record = backlog::Client {
            started_s: now.as_secs_f64(),
            fate: Fate::TimedOut,
            connect_s: None,
            syn_retrans: 0,
            ghost: false,
            request_retrans: 0,
            served_s: None,
        };
        Self { socket, stage: Stage::Connecting, started: now, record }
    }

    /// True while the connect has neither succeeded nor failed.
    pub(super) fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    /// True if the connect has succeeded.
    pub(super) fn is_connected(&self) -> bool {
        self.record.connect_s.is_some()
    }

    /// True once no event can change the record any more.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// SYNs sent again so far.
    pub(super) fn syn_retrans(&self) -> u32 {
        let info = self.is_connecting().then(|| TcpInfo::of(&self.socket).ok()).flatten();
        info.map_or(self.record.syn_retrans, |info| info.total_retrans)
    }

    /// Checks for an established connection without waiting for its event. On the loopback
    /// interface the handshake is over before connect(2) returns.
    pub(super) fn check_connected(&mut self, now: Duration) {
        if TcpInfo::of(&self.socket).is_ok_and(|info| info.established) {
            self.on_connected(now);
        }
    }

    /// Handles an event of the socket.
    pub(super) fn on_event(&mut self, flags: EventFlags, now: Duration) {
        if self.is_connecting() {
            match self.socket.take_error() {
                Ok(None) if !flags.contains(EventFlags::OUT) => {}
                Ok(None) => self.on_connected(now),
                Ok(Some(error)) | Err(error) => {
                    self.record.syn_retrans = self.syn_retrans();
                    self.stage = Stage::Done;
                    self.record.fate = match error.kind() {
                        io::ErrorKind::TimedOut => Fate::TimedOut,
                        _ => Fate::Refused,
                    };
                }
            }
        }
        if matches!(self.stage, Stage::Pausing(_) | Stage::AwaitingReply) {
            match receive(&self.socket, &mut [0; 1024]) {
                Ok(0) => self.finish(),
                Ok(_) => {
                    self.record.served_s = Some(now.as_secs_f64());
                    self.finish();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.on_reset(),
            }
        }
    }

    fn on_connected(&mut self, now: Duration) {
        self.record.syn_retrans = self.syn_retrans();
        self.record.connect_s = Some((now - self.started).as_secs_f64());
        self.record.fate = if self.record.syn_retrans == 0 { Fate::Instant } else { Fate::Late };
        self.stage = Stage::Pausing(now + PAUSE);
    }

    fn on_reset(&mut self) {
        self.record.fate = Fate::Reset;
        self.finish();
    }

    /// Sends the request if it is due, after checking whether the server knows the connection.
    pub(super) fn send_if_due(
        &mut self,
        now: Duration,
        server: SocketAddr,
        diag: Option<&mut SockDiag>,
    ) {
        if !matches!(self.stage, Stage::Pausing(until) if until <= now) {
            return;
        }
        let local = self.socket.local_addr().ok().and_then(|addr| addr.as_socket());
        if let (Some(local), Some(diag)) = (local, diag) {
            self.record.ghost = diag.has_connection(server, local).is_ok_and(|known| !known);
        }
        self.stage = Stage::AwaitingReply;
        if send(&self.socket, REQUEST).is_err() {
            self.on_reset();
        }
    }

    fn finish(&mut self) {
        self.stage = Stage::Done;
        if let Ok(info) = TcpInfo::of(&self.socket) {
            self.record.request_retrans =
                info.total_retrans.saturating_sub(self.record.syn_retrans);
        }
    }

    /// The record at the end of the trial.
    pub(super) fn into_record(mut self) -> backlog::Client {
        match self.stage {
            Stage::Connecting => self.record.syn_retrans = self.syn_retrans(),
            Stage::Pausing(_) | Stage::AwaitingReply => self.finish(),
            Stage::Done => {}
        }
        self.record
    }
}
