//! The interface of an engine to the worker.
//!
//! An engine moves exchanges on and reports [`Event`]s. The worker decides what a connection does
//! next, and calls [`Driver::connect`], [`Driver::send`] or [`Driver::close`].

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use socket2::Socket;

use crate::clients::connection::{Connection, Service, State};
use crate::clients::failures::Kind;
use crate::clients::pattern::{Mismatch, Pattern};
use crate::clients::socket::receive;
use lockstep_sys::errno;

/// Events or completions taken from the kernel at once, at most. More would delay the reaction to
/// the first of them by that to the last.
pub(crate) const EVENTS_MAX: usize = 512;

/// Progress of one connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// The connection is established. It may have ended since.
    Connected(Option<End>),
    /// The whole reply is here, and correct. The connection may have ended since.
    Replied(Option<End>),
    /// The connection cannot be used any more.
    Ended(End),
}

/// Reason why a connection cannot be used any more.
#[derive(Debug)]
pub(crate) enum End {
    /// The server has closed its side.
    Closed,
    /// This many bytes more than are owed have come.
    Surplus(usize),
    /// The reply is wrong.
    Mismatch(Mismatch),
    /// A system call has failed.
    Failed(Kind, io::Error),
    /// The connect, the reply or the server's close has taken longer than this.
    TimedOut(Duration),
}

impl End {
    /// Kind of the failure of a connection in this state.
    pub(crate) fn kind(&self, state: State) -> Kind {
        match self {
            Self::Closed => Kind::Eof,
            Self::Surplus(_) => Kind::Surplus,
            Self::Mismatch(_) => Kind::Mismatch,
            Self::Failed(kind, _) => *kind,
            Self::TimedOut(_) if state == State::Connecting => Kind::Connect,
            Self::TimedOut(_) => Kind::Timeout,
        }
    }

    /// Error number of the system call that has failed.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Failed(_, error) => error.raw_os_error(),
            _ => None,
        }
    }

    /// Describes the failure of a connection.
    pub(crate) fn describe(&self, connection: &Connection) -> String {
        let received = connection.received();
        match (self, connection.state) {
            (Self::Closed, State::Exchanging) => {
                format!("the server closed after {received} bytes of the reply")
            }
            (Self::Closed, _) => "the server closed an idle connection".to_owned(),
            (Self::Surplus(count), _) => format!("{count} bytes more than were asked for"),
            (Self::Mismatch(Mismatch { at, expected, found }), _) => {
                format!("byte {at} of the reply was {found:#04x}, not {expected:#04x}")
            }
            (Self::Failed(_, error), _) => errno::text(error),
            (Self::TimedOut(timeout), state) => {
                let timeout = humantime::format_duration(*timeout);
                match state {
                    State::Connecting => format!("not established within {timeout}"),
                    State::AwaitingEnd => format!("the server did not close within {timeout}"),
                    _ => format!("{received} bytes of the reply within {timeout}"),
                }
            }
        }
    }
}

/// Engine of one thread. Waiting has two steps: [`wait`](Self::wait) takes a batch from the kernel,
/// then [`next_event`](Self::next_event) is called until the batch is empty.
pub(crate) trait Driver<'a>: Sized {
    /// Returns the engine of a thread with `conns` connections. When `wake`, an eventfd, becomes
    /// readable, the current wait ends.
    ///
    /// # Errors
    ///
    /// Those of epoll_create(2), or of io_uring_setup(2) and io_uring_register(2).
    fn new(
        conns: usize,
        service: Service,
        pattern: &'a Pattern,
        wake: BorrowedFd<'a>,
    ) -> io::Result<Self>;

    /// Also ends waits when this timerfd expires. It is never read: setting it again clears an
    /// expiration.
    fn watch_timer(&mut self, timer: BorrowedFd<'_>) -> io::Result<()>;

    /// Submits what is queued and waits for events, at most `timeout`. True if there are any.
    ///
    /// # Errors
    ///
    /// Those of epoll_wait(2) or io_uring_enter(2).
    fn wait(&mut self, timeout: Duration) -> io::Result<bool>;

    /// True if the next wait will submit a send.
    fn has_queued(&mut self) -> bool;

    /// Moves the connection of the next event in the batch on, and returns its index and its
    /// progress; `None` at the end of the batch.
    fn next_event(&mut self, connections: &mut [Connection]) -> Option<(usize, Event)>;

    /// Watches a socket for which connect(2) has been called.
    ///
    /// # Errors
    ///
    /// Those of epoll_ctl(2).
    fn connect(&mut self, index: usize, socket: &Socket) -> io::Result<()>;

    /// Sends the request of an exchange that has just begun.
    ///
    /// # Errors
    ///
    /// Those of send(2), except EAGAIN: the rest is then sent when there is room.
    fn send(&mut self, index: usize, connection: &mut Connection) -> io::Result<()>;

    /// Closes the socket of a connection.
    fn close(&mut self, index: usize, socket: Socket);
}

/// Flags by which the kernel reports that the server has closed its side, or that the connection
/// is broken.
pub(super) const HANGUP: EventFlags =
    EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// Judges the flags that came for a connecting socket; `None` if it is still connecting.
pub(super) fn connected(socket: &Socket, flags: EventFlags) -> Option<Event> {
    if flags.intersects(EventFlags::ERR.union(EventFlags::HUP)) {
        if let Ok(Some(error)) | Err(error) = socket.take_error() {
            return Some(Event::Ended(End::Failed(Kind::Connect, error)));
        }
    } else if !flags.contains(EventFlags::OUT) {
        return None;
    }
    let more = flags.intersects(HANGUP.union(EventFlags::IN));
    Some(Event::Connected(if more { unowed(socket) } else { None }))
}

/// Receives while nothing is owed: anything that comes ends the connection.
pub(super) fn unowed(socket: &Socket) -> Option<End> {
    match receive(socket, &mut [0; 4096]) {
        Ok(0) => Some(End::Closed),
        Ok(count) => Some(End::Surplus(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(End::Failed(Kind::Receive, error)),
    }
}

/// Clears the main thread's wake-up. Its reason is in the control block, which every iteration
/// reads.
pub(super) fn clear(wake: BorrowedFd<'_>) {
    let mut counter = [0; 8];
    // It fails only if the counter is zero already.
    let _ = rustix::io::read(wake, &mut counter);
}
