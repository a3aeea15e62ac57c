//! What a server uses up, and what it does when there is no more: descriptors, memory, processor
//! time, and places in the listen queue. Each server is a process of its own, so that what is
//! counted is its alone.

#![allow(clippy::duplicate_mod, reason = "the cases are there once for each backend")]

mod common;

use common::sockets::{ESTABLISHED, LISTEN, Row, by_proc, by_sock_diag};

#[path = "."]
mod blocking {
    const BACKEND: &str = "blocking";
    /// A conversation has a thread, and a thread a stack: so many bytes of it are used.
    const MEMORY_PER_DEAF_PEER: u64 = 48 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
}

#[path = "."]
mod mio {
    const BACKEND: &str = "mio";
    /// The reply that is not sent yet, and what goes with it.
    const MEMORY_PER_DEAF_PEER: u64 = 4 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
    #[path = "resources/cases_spin.rs"]
    mod cases_spin;
}

#[path = "."]
mod io_uring {
    const BACKEND: &str = "io-uring";
    /// As for mio.
    const MEMORY_PER_DEAF_PEER: u64 = 4 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
    #[path = "resources/cases_spin.rs"]
    mod cases_spin;
}

/// The tests look at sockets from outside in one of two ways, which have to say the same.
#[test]
fn both_tables_of_sockets_agree() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut client = common::client::Client::connect(addr);
    client.say(b"unread");
    let by_proc = by_proc(addr);
    let open = Row { state: ESTABLISHED, unsent: 0, unread: 6 };
    let listening = Row { state: LISTEN, unsent: 0, unread: 1 };
    assert!(by_proc.contains(&open) && by_proc.contains(&listening), "{by_proc:?}");
    match by_sock_diag(addr) {
        Err(error) => common::skipped(&format!("no sock_diag: {error}")),
        Ok(rows) => {
            // Here, what a listener has not sent is the room that its queue has.
            let rows = rows.into_iter().map(|row| match row.state {
                LISTEN => Row { unsent: 0, ..row },
                _ => row,
            });
            let mut rows: Vec<_> = rows.collect();
            rows.sort_by_key(|row| row.state);
            assert_eq!(rows, [open, listening]);
        }
    }
}
