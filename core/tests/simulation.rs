//! A million simulated exchanges against a model of every byte.
//!
//! The client sends a random stream of bytes; the kernel delivers it in random pieces and takes
//! replies in random pieces. In some conversations there is an event at a random time: a drain, a
//! terminate, an error. From each piece delivered, the model derives the bytes that the client must
//! receive, and the cause of the end.
//!
//! `LOCKSTEP_SEED` repeats a run; each run prints its seed.

use std::ops::ControlFlow;

use fastrand::Rng;
use lockstep_core::{Cause, Echo, Exchange, Hi, Op, RECV_MAX, Reply, Service};

const ECHO_EXCHANGES: usize = 500_000;
const HI_EXCHANGES: usize = 200_000;
const SCRIPTED_EXCHANGES: usize = 300_000;

/// The longest stream of one client: several of the longest requests.
const STREAM_MAX: usize = 8 * RECV_MAX;

/// Model of a service: it appends the reply to a delivered piece to the bytes that the client must
/// receive, and breaks if the service closes, immediately (`Bye`) or after that reply (`Done`).
type Model<'a> = &'a mut dyn FnMut(&[u8], &mut Vec<u8>) -> ControlFlow<Cause>;

#[derive(Clone, Copy, Debug)]
enum Event {
    Drain,
    Terminate(Cause),
    Failure,
}

/// One client, the kernel between, and the state of the model.
struct Conversation<'a> {
    random: &'a mut Rng,
    stream: &'a [u8],
    delivered: usize,
    /// The event, and the number of completions before it.
    event: Option<(u32, Event)>,
    drained: bool,
    terminated: Option<Cause>,
    /// Bytes that the client has received, and those that it must have before the next receive.
    received: Vec<u8>,
    owed: Vec<u8>,
    /// The reply owed is the last, for this cause.
    last: Option<Cause>,
    /// The conversation is over, for this cause.
    over: Option<Cause>,
    exchanges: usize,
}

#[test]
fn echo_replies_with_the_stream() {
    simulate("echo", ECHO_EXCHANGES, |random, stream| {
        let event = event(random);
        let mut model = |request: &[u8], owed: &mut Vec<u8>| {
            owed.extend_from_slice(request);
            ControlFlow::Continue(())
        };
        let mut conversation = Conversation::new(random, stream, event);
        conversation.run(&mut Echo, &mut model);
        assert!(stream.starts_with(&conversation.received));
        assert!(event.is_some() || conversation.received == stream);
        conversation.exchanges
    });
}

#[test]
fn hi_replies_once() {
    simulate("hi", HI_EXCHANGES, |random, stream| {
        let event = event(random);
        let mut model = |_: &[u8], owed: &mut Vec<u8>| {
            owed.extend_from_slice(b"hi");
            ControlFlow::Break(Cause::Done)
        };
        let mut conversation = Conversation::new(random, stream, event);
        conversation.run(&mut Hi, &mut model);
        assert!(event.is_some() || conversation.received == b"hi");
        conversation.exchanges
    });
}

#[test]
fn scripted_service_is_followed() {
    simulate("scripted", SCRIPTED_EXCHANGES, |random, stream| {
        let event = event(random);
        // The service and the model each read the same script at their own pace.
        let mut service = Scripted(random.fork());
        let mut script = service.0.clone();
        let mut model = |request: &[u8], owed: &mut Vec<u8>| {
            let line = Line::read(&mut script);
            let mut reply = vec![line.head];
            reply.extend(request.iter().take(line.keep));
            reply.resize(reply.len() + line.padding, line.head);
            match line.ending {
                Ending::Open => owed.extend(reply),
                Ending::Silent => {}
                Ending::Done => {
                    owed.extend(reply);
                    return ControlFlow::Break(Cause::Done);
                }
                Ending::SilentThenClose => return ControlFlow::Break(Cause::Done),
                Ending::Bye => return ControlFlow::Break(Cause::Bye),
            }
            ControlFlow::Continue(())
        };
        let mut conversation = Conversation::new(random, stream, event);
        conversation.run(&mut service, &mut model);
        conversation.exchanges
    });
}

/// Runs conversations until there were `exchanges` in all.
fn simulate(name: &str, exchanges: usize, run: impl Fn(&mut Rng, &[u8]) -> usize) {
    let seed = seed();
    // The test harness shows this when the test fails; `--nocapture` shows it always.
    println!("{name}: LOCKSTEP_SEED={seed} cargo test -p lockstep-core --test simulation");
    let mut random = Rng::with_seed(seed);
    let mut said = vec![0; 4 * STREAM_MAX];
    random.fill(&mut said);
    let (mut held, mut conversations) = (0, 0);
    while held < exchanges {
        // Streams of every magnitude, from a byte or two to some thousands.
        let magnitude = random.u32(..13);
        let length = random.usize(1..=STREAM_MAX >> magnitude);
        let start = random.usize(..said.len() - length);
        held += run(&mut random, &said[start..start + length]);
        conversations += 1;
    }
    println!("{name}: {held} exchanges in {conversations} conversations");
}

fn seed() -> u64 {
    match std::env::var("LOCKSTEP_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("LOCKSTEP_SEED={text} is no number")),
        Err(_) => fastrand::u64(..),
    }
}

/// In one conversation of four, an event and its time.
fn event(random: &mut Rng) -> Option<(u32, Event)> {
    let event = match random.u8(..16) {
        0 | 1 => Event::Drain,
        2 => Event::Terminate(random.choice([Cause::Drain, Cause::Idle])?),
        3 => Event::Failure,
        _ => return None,
    };
    let magnitude = random.u32(..6);
    Some((random.u32(..1 << magnitude), event))
}

impl<'a> Conversation<'a> {
    fn new(random: &'a mut Rng, stream: &'a [u8], event: Option<(u32, Event)>) -> Self {
        Self {
            random,
            stream,
            delivered: 0,
            event,
            drained: false,
            terminated: None,
            received: Vec::new(),
            owed: Vec::new(),
            last: None,
            over: None,
            exchanges: 0,
        }
    }

    /// Runs the conversation to its end.
    fn run(&mut self, service: &mut impl Service, model: Model<'_>) {
        let mut exchange = Exchange::new();
        let mut buffer = [0; RECV_MAX];
        for completed in 0.. {
            let failing = self.apply_event(&mut exchange, completed);
            let next = match exchange.op() {
                Op::Close(cause) => {
                    assert_eq!(self.over, Some(cause), "after {completed} completions");
                    break;
                }
                _ if failing => {
                    self.over = self.terminated.or(Some(Cause::Error));
                    exchange.failed()
                }
                Op::Recv => {
                    let count = self.receive(&mut buffer);
                    self.judge_received(&buffer[..count], model);
                    exchange.received(service, &mut buffer, count)
                }
                Op::Send { start, end } => {
                    let count = self.send(&buffer[start.into()..end.into()]);
                    exchange.sent(count)
                }
            };
            let over = matches!(next, Op::Close(_));
            assert_eq!(over, self.over.is_some(), "after {completed} completions: {next:?}");
        }
        assert!(self.owed.starts_with(&self.received), "the client received other bytes");
        if !matches!(self.over, Some(Cause::Error | Cause::Idle)) && self.terminated.is_none() {
            assert_eq!(self.received.len(), self.owed.len(), "a reply was cut");
        }
    }

    /// Applies the event that is due; returns true if the operation is to fail.
    fn apply_event(&mut self, exchange: &mut Exchange, completed: u32) -> bool {
        let Some((_, event)) = self.event.filter(|(when, _)| *when == completed) else {
            return false;
        };
        if self.over.is_some() {
            return false;
        }
        match event {
            Event::Failure => return true,
            Event::Drain => {
                self.drained = true;
                self.last = self.last.or(Some(Cause::Drain));
                exchange.drain();
            }
            Event::Terminate(cause) => {
                self.terminated = Some(cause);
                exchange.terminate(cause);
            }
        }
        false
    }

    /// Delivers a piece of the stream, as recv(2) does; nothing else in the buffer survives.
    fn receive(&mut self, buffer: &mut [u8; RECV_MAX]) -> usize {
        let whole = self.received.len() == self.owed.len();
        assert!(whole, "a receive before the whole reply was sent");
        let rest = &self.stream[self.delivered..];
        let cancelled = self.drained && self.random.bool();
        let count = if cancelled { 0 } else { some_of(self.random, rest.len().min(RECV_MAX)) };
        buffer[..count].copy_from_slice(&rest[..count]);
        buffer[count..].fill(self.random.u8(..));
        self.delivered += count;
        count
    }

    /// Updates the model for a piece that was delivered.
    fn judge_received(&mut self, request: &[u8], model: Model<'_>) {
        if self.terminated.is_some() {
            self.over = self.terminated;
        } else if request.is_empty() {
            self.over = self.last.or(Some(Cause::Eof));
        } else {
            self.exchanges += 1;
            match model(request, &mut self.owed) {
                ControlFlow::Break(Cause::Bye) => self.over = Some(Cause::Bye),
                ControlFlow::Break(cause) => self.last = self.last.or(Some(cause)),
                ControlFlow::Continue(()) => {}
            }
            if self.received.len() == self.owed.len() {
                self.over = self.over.or(self.last);
            }
        }
    }

    /// Takes some of the offered bytes, as send(2) does, and carries them to the client.
    fn send(&mut self, offered: &[u8]) -> usize {
        let owed = &self.owed[self.received.len()..];
        assert_eq!(offered, owed, "the send does not offer the rest of the reply");
        let count = some_of(self.random, offered.len());
        self.received.extend_from_slice(&offered[..count]);
        if self.terminated.is_some() {
            self.over = self.terminated;
        } else if self.received.len() == self.owed.len() {
            self.over = self.last;
        }
        count
    }
}

/// At least one of `most`, if `most` is not zero; often one, more often all.
fn some_of(random: &mut Rng, most: usize) -> usize {
    match random.u8(..8) {
        0 => most.min(1),
        1..=3 => most,
        _ => random.usize(most.min(1)..=most),
    }
}

/// Reply of a scripted service to one request.
struct Line {
    /// The first byte of the reply, and the bytes that fill it up.
    head: u8,
    /// Bytes of the request that follow the first byte.
    keep: usize,
    padding: usize,
    ending: Ending,
}

#[derive(Clone, Copy)]
enum Ending {
    Open,
    Done,
    Silent,
    SilentThenClose,
    Bye,
}

impl Line {
    fn read(script: &mut Rng) -> Self {
        let ending = match script.u8(..64) {
            0 => Ending::Bye,
            1 | 2 => Ending::Done,
            3 => Ending::SilentThenClose,
            4..8 => Ending::Silent,
            _ => Ending::Open,
        };
        // Now and then the whole request comes back, which may fill the buffer to its last byte.
        let keep = if script.u8(..8) == 0 { RECV_MAX - 1 } else { script.usize(..64) };
        let padding = script.usize(..=(RECV_MAX - 1 - keep).min(64));
        Self { head: script.u8(..), keep, padding, ending }
    }
}

/// Follows a script: a stream of random numbers of its own.
struct Scripted(Rng);

impl Service for Scripted {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        let line = Line::read(&mut self.0);
        let kept = count.min(line.keep);
        let end = 1 + kept + line.padding;
        buffer.copy_within(..kept, 1);
        buffer[0] = line.head;
        buffer[1 + kept..end].fill(line.head);
        match line.ending {
            Ending::Open => Reply::Send(end as u16),
            Ending::Done => Reply::SendThenClose(end as u16),
            Ending::Silent => Reply::Send(0),
            Ending::SilentThenClose => Reply::SendThenClose(0),
            Ending::Bye => Reply::Close,
        }
    }
}
