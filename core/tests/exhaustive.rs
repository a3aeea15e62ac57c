//! Every sequence of events, checked against the rules of the exchange after each event.
//!
//! The search is breadth-first over pairs of an exchange and what a bystander has noted about it,
//! so a broken rule is reported with a shortest sequence of events that breaks it. Pairs met
//! before are not followed again: what an exchange does next depends on its state alone.
//!
//! Lengths are abstracted to the smallest, the next, and the largest. Nothing in the exchange
//! looks at a length other than to compare it with zero, with the reply's end and with the limit.

use std::collections::{HashMap, HashSet};

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Reply, Service};

const LENGTHS: [u16; 3] = [1, 2, RECV_MAX as u16];

/// The states reached by any number of events.
///
/// There are 1 + 2 + 1024 places inside a reply, one for each byte that may be next. At each the
/// conversation goes on in one of nine ways: without an end in sight, to `Done` or `Drain` after
/// the reply, or to any of six causes now. While receiving there are eight: `Done` would have
/// closed. A wish that comes after the end is noted where it never shows, which tells 40 closed
/// states apart.
const STATES: usize = (1 + 2 + RECV_MAX) * 9 + 8 + 40;

/// The states reached by at most eight events.
///
/// As above, but of the longest reply only the last byte and the first eight are reached: seven
/// if one event was a wish.
const STATES_AT_DEPTH_8: usize = (1 + 2) * 9 + (9 * 2 + 8 * 7) + 8 + 40;

#[derive(Clone, Copy, Debug)]
enum Event {
    Eof,
    Request(usize, Reply),
    Sent(usize),
    Failed,
    Drain,
    Terminate(Cause),
}

/// What a bystander notes, in the order it happened, without a look inside the exchange.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct History {
    /// The reply under way: its length, and how much of it was sent.
    reply: Option<(u16, u16)>,
    /// The service said that this reply is the last, before anyone wished for a drain.
    hung_up: bool,
    drained: bool,
    /// Requests whose reply was under way when the drain was wished for, or that came since.
    replies_since_drain: u8,
    /// The first cause of a terminate.
    terminated: Option<Cause>,
    closed: Option<Cause>,
}

/// Answers once, and remembers what it was asked.
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
fn every_sequence_of_eight_events_keeps_the_rules() {
    assert_states(explore(8), STATES_AT_DEPTH_8, "STATES_AT_DEPTH_8");
}

#[test]
fn every_sequence_of_any_length_keeps_the_rules() {
    assert_states(explore(usize::MAX), STATES, "STATES");
}

#[test]
fn a_new_exchange_waits_for_a_request() {
    assert_eq!(Exchange::new().op(), Op::Recv);
    assert_eq!(Exchange::new(), Exchange::default());
}

fn assert_states(reached: usize, pinned: usize, constant: &str) {
    assert_eq!(
        reached, pinned,
        "the exchange now has {reached} reachable states, not {pinned}\n\
         hint: if the state machine was meant to change, say why in the commit and set \
         {constant} in core/tests/exhaustive.rs to {reached}"
    );
}

/// Follows every sequence of at most `depth` events; returns the number of distinct exchanges.
fn explore(depth: usize) -> usize {
    let root = (Exchange::new(), History::default());
    let mut states = HashSet::from([root.0.clone()]);
    let mut parents: HashMap<Node, Option<(Node, Event)>> = HashMap::from([(root.clone(), None)]);
    let mut edge = vec![root];
    let mut level = 0;
    while !edge.is_empty() && level < depth {
        let mut next_edge = Vec::new();
        for node in &edge {
            for event in events(node) {
                let next = step(node, event).unwrap_or_else(|rule| {
                    panic!("{rule}\nafter {:?}, then {event:?}", trace(&parents, node))
                });
                if !parents.contains_key(&next) {
                    parents.insert(next.clone(), Some((node.clone(), event)));
                    states.insert(next.0.clone());
                    next_edge.push(next);
                }
            }
        }
        edge = next_edge;
        level += 1;
    }
    states.len()
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

/// Everything that may happen next: any wish, and the completions of the operation in flight.
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

/// Lets `event` happen to a copy of `node`, or names the rule that it broke.
fn step((exchange, history): &Node, event: Event) -> Result<Node, String> {
    let mut after = exchange.clone();
    let noted = match event {
        Event::Drain | Event::Terminate(_) => {
            wish(&mut after, event);
            rule(after.op() == exchange.op(), "a wish changed the operation in flight")?;
            let once = after.clone();
            wish(&mut after, event);
            rule(after == once, "the same wish a second time changed something")?;
            history.note_wish(event)
        }
        completion => {
            let (next, asked) = complete(&mut after, completion);
            rule(next == after.op(), "a completion returned another operation than op()")?;
            rule(asked == questions(history, event), "the service was asked at a wrong time")?;
            history.note_completion(event)
        }
    };
    let before = after.clone();
    rule(after.op() == after.op() && after == before, "op() is not pure")?;
    check_op(after.op(), &noted)?;
    Ok((after, noted))
}

fn wish(exchange: &mut Exchange, event: Event) {
    match event {
        Event::Drain => exchange.drain(),
        Event::Terminate(cause) => exchange.terminate(cause),
        completion => unreachable!("{completion:?} is not a wish"),
    }
}

/// Reports a completion; returns the next operation and what the service was asked.
fn complete(exchange: &mut Exchange, event: Event) -> (Op, Vec<usize>) {
    let mut buffer = [0; RECV_MAX];
    let (count, answer) = match event {
        Event::Sent(count) => return (exchange.sent(count), Vec::new()),
        Event::Failed => return (exchange.failed(), Vec::new()),
        Event::Eof => (0, Reply::Close),
        Event::Request(count, answer) => (count, answer),
        wish => unreachable!("{wish:?} is not a completion"),
    };
    let mut service = Scripted { answer, asked: Vec::new() };
    (exchange.received(&mut service, &mut buffer, count), service.asked)
}

/// What the service is asked: each request once, as long as nobody said to end at once.
fn questions(history: &History, event: Event) -> Vec<usize> {
    match event {
        Event::Request(count, _) if history.terminated.is_none() => vec![count],
        _ => Vec::new(),
    }
}

/// The rules about the operation that follows.
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
        (Op::Send { .. }, None, None) => Err("a send with nothing to say".to_owned()),
        (Op::Recv, None, Some(_)) => Err("a receive before the whole reply was sent".to_owned()),
        (Op::Recv, None, None) => Ok(()),
    }
}

impl History {
    fn note_wish(mut self, event: Event) -> Self {
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
            // Nothing follows, so nothing else needs to be told apart.
            self = Self { closed: self.closed, ..Self::default() };
        }
        self
    }

    /// The cause with which this completion must close the conversation, if it must.
    fn cause_after(&self, event: Event) -> Option<Cause> {
        if self.terminated.is_some() {
            return self.terminated;
        }
        // Whoever was first to say that a reply is the last gives the cause.
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
