//! Every sequence of events, checked against the rules of the exchange after each event.
//!
//! The search is breadth-first over pairs of an exchange and its history, so a broken rule is
//! reported with a shortest sequence of events that breaks it. Pairs met before are not followed
//! again, since the next step of an exchange depends on its state alone.
//!
//! Lengths are abstracted to the smallest, the next, and the largest: the exchange compares them
//! only with zero, with the reply's end and with the limit.

use std::collections::{HashMap, HashSet};

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Reply, Service};

const LENGTHS: [u16; 3] = [1, 2, RECV_MAX as u16];

#[derive(Clone, Copy, Debug)]
enum Event {
    Eof,
    Request(usize, Reply),
    Sent(usize),
    Failed,
    Drain,
    Terminate(Cause),
}

/// Events so far, without the state of the exchange.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct History {
    /// Length of the reply in progress, and how much of it was sent.
    reply: Option<(u16, u16)>,
    /// The service made this reply the last, before a drain was requested.
    hung_up: bool,
    drained: bool,
    /// Replies in progress when the drain was requested, or begun since.
    replies_since_drain: u8,
    /// The first cause of a terminate.
    terminated: Option<Cause>,
    closed: Option<Cause>,
}

/// Replies once, and records the lengths of requests.
struct Scripted {
    answer: Reply,
    asked: Vec<usize>,
}

impl Service for Scripted {
    fn reply(&mut self, _buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        self.asked.push(count);
        self.answer
    }
}

type Node = (Exchange, History);

#[test]
fn every_sequence_of_events_keeps_the_rules() {
    let reached = explore();
    for cause in Cause::ALL {
        assert!(reached.contains(&Op::Close(cause)), "{cause:?} is not reached");
    }
    for end in LENGTHS {
        assert!(reached.contains(&Op::Send { start: end - 1, end }), "end {end} is not reached");
    }
    assert!(reached.contains(&Op::Recv));
}

#[test]
fn new_exchange_waits_for_a_request() {
    assert_eq!(Exchange::new().op(), Op::Recv);
    assert_eq!(Exchange::new(), Exchange::default());
}

/// Follows every sequence of events; returns the operations reached.
fn explore() -> HashSet<Op> {
    let root = (Exchange::new(), History::default());
    let mut reached = HashSet::from([root.0.op()]);
    let mut parents: HashMap<Node, Option<(Node, Event)>> = HashMap::from([(root.clone(), None)]);
    let mut edge = vec![root];
    while !edge.is_empty() {
        let mut next_edge = Vec::new();
        for node in &edge {
            for event in events(node) {
                let next = step(node, event).unwrap_or_else(|rule| {
                    panic!("{rule}\nafter {:?}, then {event:?}", trace(&parents, node))
                });
                if !parents.contains_key(&next) {
                    parents.insert(next.clone(), Some((node.clone(), event)));
                    reached.insert(next.0.op());
                    next_edge.push(next);
                }
            }
        }
        edge = next_edge;
    }
    reached
}

/// A shortest sequence of events that leads to `node`.
fn trace(parents: &HashMap<Node, Option<(Node, Event)>>, node: &Node) -> Vec<Event> {
    let mut events = Vec::new();
    let mut node = node;
    while let Some((parent, event)) = &parents[node] {
        events.push(*event);
        node = parent;
    }
    events.reverse();
    events
}

/// Events that may happen next: any end request, and the completions of the operation in flight.
fn events((exchange, _): &Node) -> Vec<Event> {
    let mut events = vec![Event::Drain];
    events.extend(Cause::ALL.map(Event::Terminate));
    match exchange.op() {
        Op::Recv => {
            events.extend([Event::Eof, Event::Failed]);
            for count in LENGTHS {
                events.push(Event::Request(count.into(), Reply::Close));
                for reply in [0].into_iter().chain(LENGTHS) {
                    events.push(Event::Request(count.into(), Reply::Send(reply)));
                    events.push(Event::Request(count.into(), Reply::SendThenClose(reply)));
                }
            }
        }
        Op::Send { start, end } => {
            events.push(Event::Failed);
            let offered = usize::from(end - start);
            let mut counts = vec![0, 1, offered - 1, offered];
            counts.sort_unstable();
            counts.dedup();
            events.extend(counts.into_iter().map(Event::Sent));
        }
        Op::Close(_) => {}
    }
    events
}

/// Applies `event` to a copy of `node`, or returns the rule that it broke.
fn step((exchange, history): &Node, event: Event) -> Result<Node, String> {
    let mut after = exchange.clone();
    let noted = match event {
        Event::Drain | Event::Terminate(_) => {
            request_end(&mut after, event);
            rule(after.op() == exchange.op(), "an end request changed the operation in flight")?;
            let once = after.clone();
            request_end(&mut after, event);
            rule(after == once, "the same end request a second time changed something")?;
            history.note_end_request(event)
        }
        completion => {
            let (next, asked) = complete(&mut after, completion);
            rule(next == after.op(), "a completion returned another operation than op()")?;
            rule(asked == questions(history, event), "the service saw a wrong request")?;
            history.note_completion(event)
        }
    };
    let before = after.clone();
    rule(after.op() == after.op() && after == before, "op() is not pure")?;
    check_op(after.op(), &noted)?;
    Ok((after, noted))
}

fn request_end(exchange: &mut Exchange, event: Event) {
    match event {
        Event::Drain => exchange.drain(),
        Event::Terminate(cause) => exchange.terminate(cause),
        completion => unreachable!("{completion:?} is not an end request"),
    }
}

/// Reports a completion; returns the next operation and the lengths of requests to the service.
fn complete(exchange: &mut Exchange, event: Event) -> (Op, Vec<usize>) {
    let mut buffer = [0; RECV_MAX];
    let (count, answer) = match event {
        Event::Sent(count) => return (exchange.sent(count), Vec::new()),
        Event::Failed => return (exchange.failed(), Vec::new()),
        Event::Eof => (0, Reply::Close),
        Event::Request(count, answer) => (count, answer),
        other => unreachable!("{other:?} is not a completion"),
    };
    let mut service = Scripted { answer, asked: Vec::new() };
    (exchange.received(&mut service, &mut buffer, count), service.asked)
}

/// Requests that the service must see: each once, unless the exchange is terminated.
fn questions(history: &History, event: Event) -> Vec<usize> {
    match event {
        Event::Request(count, _) if history.terminated.is_none() => vec![count],
        _ => Vec::new(),
    }
}

/// Checks the rules about the operation that follows.
fn check_op(op: Op, noted: &History) -> Result<(), String> {
    rule(noted.replies_since_drain <= 1, "more than one reply after a drain")?;
    match (op, noted.closed, noted.reply) {
        (Op::Close(cause), closed, _) => rule(
            closed == Some(cause),
            &format!("it closed with {cause:?}; the history explains {closed:?}"),
        ),
        (op, Some(cause), _) => Err(format!("{op:?} where {cause:?} should have closed")),
        (Op::Send { start, end }, None, Some((length, sent))) => {
            rule(start < end, "an empty send")?;
            rule(usize::from(end) <= RECV_MAX, "a send beyond the buffer")?;
            rule((start, end) == (sent, length), "the send is not the rest of the reply")
        }
        (Op::Send { .. }, None, None) => Err("a send without a reply".to_owned()),
        (Op::Recv, None, Some(_)) => Err("a receive before the whole reply was sent".to_owned()),
        (Op::Recv, None, None) => Ok(()),
    }
}

impl History {
    fn note_end_request(mut self, event: Event) -> Self {
        match event {
            _ if self.closed.is_some() => {}
            Event::Terminate(cause) => self.terminated = self.terminated.or(Some(cause)),
            _ if self.drained => {}
            _ => {
                self.drained = true;
                self.replies_since_drain = self.reply.is_some().into();
            }
        }
        self
    }

    fn note_completion(mut self, event: Event) -> Self {
        self.closed = self.cause_after(event);
        match event {
            Event::Request(_, answer @ (Reply::Send(length) | Reply::SendThenClose(length))) => {
                self.hung_up = answer == Reply::SendThenClose(length) && !self.drained;
                self.replies_since_drain += u8::from(self.drained);
                self.reply = (length > 0).then_some((length, 0));
            }
            Event::Sent(count) => {
                let (length, sent) = self.reply.expect("a send only of a reply");
                let sent = sent + count as u16;
                self.reply = (sent < length).then_some((length, sent));
            }
            _ => {}
        }
        if self.closed.is_some() {
            // Nothing follows, so the rest of the history is irrelevant.
            self = Self { closed: self.closed, ..Self::default() };
        }
        self
    }

    /// Returns the cause with which this completion must close the exchange, if it must.
    fn cause_after(&self, event: Event) -> Option<Cause> {
        if self.terminated.is_some() {
            return self.terminated;
        }
        // Of the drain and the service, the first to make a reply the last gives the cause.
        let last = match (self.hung_up, self.drained) {
            (true, _) => Some(Cause::Done),
            (false, true) => Some(Cause::Drain),
            (false, false) => None,
        };
        match (event, self.reply) {
            (Event::Failed | Event::Sent(0), _) => Some(Cause::Error),
            (Event::Eof, _) => last.or(Some(Cause::Eof)),
            (Event::Request(_, Reply::Close), _) => Some(Cause::Bye),
            (Event::Request(_, Reply::SendThenClose(0)), _) => last.or(Some(Cause::Done)),
            (Event::Request(_, Reply::Send(0)), _) => last,
            (Event::Sent(count), Some((length, sent))) if count == usize::from(length - sent) => {
                last
            }
            _ => None,
        }
    }
}

fn rule(kept: bool, broken: &str) -> Result<(), String> {
    if kept { Ok(()) } else { Err(broken.to_owned()) }
}
