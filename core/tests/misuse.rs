//! A report that matches no operation is a bug in the backend, and panics as documented.

use lockstep_core::{Cause, Echo, Exchange, Op, RECV_MAX, Reply, Service};

/// Replies to every request alike.
struct Always(Reply);

impl Service for Always {
    fn reply(&mut self, _buffer: &mut [u8; RECV_MAX], _count: usize) -> Reply {
        self.0
    }
}

/// An exchange that waits for `Send { start: 0, end: 3 }`.
fn sending() -> Exchange {
    let mut exchange = Exchange::new();
    assert_eq!(receive(&mut exchange, 3), Op::Send { start: 0, end: 3 });
    exchange
}

fn closed() -> Exchange {
    let mut exchange = Exchange::new();
    assert_eq!(receive(&mut exchange, 0), Op::Close(Cause::Eof));
    exchange
}

fn receive(exchange: &mut Exchange, count: usize) -> Op {
    exchange.received(&mut Echo, &mut [0; RECV_MAX], count)
}

fn answer(reply: Reply) -> Op {
    Exchange::new().received(&mut Always(reply), &mut [0; RECV_MAX], 1)
}

#[test]
#[should_panic(expected = "received without a receive")]
fn received_while_sending() {
    let _ = receive(&mut sending(), 1);
}

#[test]
#[should_panic(expected = "received without a receive")]
fn received_after_the_end() {
    let _ = receive(&mut closed(), 1);
}

#[test]
#[should_panic(expected = "received more than was asked for")]
fn received_more_than_the_buffer_holds() {
    let _ = receive(&mut Exchange::new(), RECV_MAX + 1);
}

#[test]
#[should_panic(expected = "received more than was asked for")]
fn received_too_much_after_a_terminate() {
    let mut exchange = Exchange::new();
    exchange.terminate(Cause::Idle);
    let _ = receive(&mut exchange, RECV_MAX + 1);
}

#[test]
#[should_panic(expected = "sent without a send")]
fn sent_while_receiving() {
    let _ = Exchange::new().sent(1);
}

#[test]
#[should_panic(expected = "sent without a send")]
fn sent_after_the_end() {
    let _ = closed().sent(1);
}

#[test]
#[should_panic(expected = "sent more than was offered")]
fn sent_more_than_the_reply() {
    let _ = sending().sent(4);
}

#[test]
#[should_panic(expected = "sent more than was offered")]
fn sent_more_than_the_rest_of_the_reply() {
    let mut exchange = sending();
    assert_eq!(exchange.sent(2), Op::Send { start: 2, end: 3 });
    let _ = exchange.sent(2);
}

/// 2^16 + 1 is 1 in sixteen bits.
#[test]
#[should_panic(expected = "sent more than was offered")]
fn sent_a_count_that_wraps() {
    let _ = sending().sent((1 << 16) + 1);
}

#[test]
#[should_panic(expected = "failed after the end")]
fn failed_after_the_end() {
    let _ = closed().failed();
}

#[test]
#[should_panic(expected = "a reply longer than the buffer")]
fn reply_longer_than_the_buffer() {
    let _ = answer(Reply::Send(RECV_MAX as u16 + 1));
}

#[test]
#[should_panic(expected = "a reply longer than the buffer")]
fn last_reply_longer_than_the_buffer() {
    let _ = answer(Reply::SendThenClose(u16::MAX));
}

#[test]
fn longest_request_and_reply_are_valid() {
    let mut exchange = Exchange::new();
    assert_eq!(receive(&mut exchange, RECV_MAX), Op::Send { start: 0, end: 1024 });
    assert_eq!(exchange.sent(RECV_MAX), Op::Recv);
}
