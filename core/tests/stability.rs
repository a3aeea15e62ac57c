//! Properties that records and backends rely on: the size of an exchange, the names of the causes,
//! and replies in place.

use lockstep_core::{Cause, Echo, Exchange, Hi, RECV_MAX, Reply, Service};

/// Bytes of an exchange, of which each connection has one.
const EXCHANGE_MAX: usize = 16;

#[test]
fn exchange_is_small() {
    let size = size_of::<Exchange>();
    assert!(size <= EXCHANGE_MAX, "an exchange has {size} bytes, more than {EXCHANGE_MAX}");
}

#[test]
fn cause_names_are_those_in_the_records() {
    let names = Cause::ALL.map(Cause::name);
    assert_eq!(names, ["bye", "done", "drain", "eof", "error", "idle"]);
    assert!(Cause::ALL.is_sorted(), "not in the order of declaration");
}

#[test]
fn services_reply_in_place() {
    let mut buffer = [b'x'; RECV_MAX];
    assert_eq!(Echo.reply(&mut buffer, RECV_MAX), Reply::Send(1024));
    assert_eq!(buffer, [b'x'; RECV_MAX]);
    assert_eq!(Hi.reply(&mut buffer, 1), Reply::SendThenClose(2));
    assert_eq!(buffer[..3], *b"hix");
}
