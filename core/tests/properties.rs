//! Random schedules of short sends, ends of file, errors and wishes, against an oracle.
//!
//! The oracle is no state machine. It lays out what would happen if nobody wished for anything,
//! one moment for each completion, then finds the moment at which the wishes cut that line.

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Reply, Service};
use proptest::collection::vec;
use proptest::prelude::*;

/// All that will happen to one connection. After the last round the peer sends no more.
#[derive(Clone, Debug)]
struct Schedule {
    rounds: Vec<Round>,
    /// Each wish comes just before the completion with this number.
    wishes: Vec<(usize, Wish)>,
}

/// What one receive brings, and what becomes of it.
#[derive(Clone, Debug)]
enum Round {
    Eof,
    Failure,
    Hangup { request: Vec<u8> },
    Exchange { request: Vec<u8>, reply: Vec<u8>, last: bool, takes: Vec<Take> },
}

/// What one send comes to. When a round has no more takes, the kernel takes all.
#[derive(Clone, Copy, Debug)]
enum Take {
    AtMost(usize),
    Nothing,
    Failure,
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Drain,
    Terminate(Cause),
}

/// What came of a schedule: all that the peer was sent, and why it ended.
#[derive(Debug, Eq, PartialEq)]
struct Outcome {
    sent: Vec<u8>,
    cause: Cause,
    completions: usize,
}

// ---- The oracle ----

/// One completion in a conversation where nobody wishes for anything.
#[derive(Clone, Default)]
struct Moment {
    /// The bytes that the kernel takes.
    takes: Vec<u8>,
    /// The conversation ends here by itself.
    ends: Option<Cause>,
    /// Nothing is owed to the peer from here on, since a request or its end of file.
    settles: bool,
    /// The moment at which the request now answered was received.
    received_at: usize,
}

fn predict(schedule: &Schedule) -> Outcome {
    let line = lay_out(&schedule.rounds);
    let natural = (line.len() - 1, line[line.len() - 1].ends.expect("a line that ends"));
    let mut end = natural;
    let drains = schedule.wishes.iter().filter(|(_, wish)| matches!(wish, Wish::Drain));
    if let Some(drained_at) = drains.map(|(at, _)| *at).min() {
        let settled = (drained_at..line.len()).find(|&at| line[at].settles);
        if let Some(at) = settled
            && (at < natural.0 || natural.1 == Cause::Eof || drained_at <= line[at].received_at)
        {
            end = (at, Cause::Drain);
        }
    }
    let mut cuts: Vec<_> = schedule
        .wishes
        .iter()
        .filter_map(|(at, wish)| if let Wish::Terminate(c) = wish { Some((*at, *c)) } else { None })
        .collect();
    cuts.sort_by_key(|(at, _)| *at); // stable: of two at the same moment the first stays first
    if let Some(&cut) = cuts.first()
        && cut.0 <= end.0
    {
        end = cut;
    }
    let (at, cause) = end;
    let sent = line[..=at].iter().flat_map(|moment| moment.takes.clone()).collect();
    Outcome { sent, cause, completions: at + 1 }
}

fn lay_out(rounds: &[Round]) -> Vec<Moment> {
    let mut line = Vec::new();
    for round in rounds {
        let received_at = line.len();
        match round {
            Round::Eof => break,
            Round::Failure => {
                line.push(Moment { ends: Some(Cause::Error), ..Moment::default() });
                return line;
            }
            Round::Hangup { .. } => {
                line.push(Moment { ends: Some(Cause::Bye), ..Moment::default() });
                return line;
            }
            Round::Exchange { reply, last, takes, .. } => {
                line.push(Moment { received_at, ..Moment::default() });
                line.extend(send_moments(reply, takes, received_at));
                let settled = line.last_mut().expect("the receive at least");
                if settled.ends.is_none() {
                    settled.settles = true;
                    settled.ends = last.then_some(Cause::Done);
                }
                if settled.ends.is_some() {
                    return line;
                }
            }
        }
    }
    let received_at = line.len();
    line.push(Moment { ends: Some(Cause::Eof), settles: true, received_at, ..Moment::default() });
    line
}

fn send_moments(reply: &[u8], takes: &[Take], received_at: usize) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut rest = reply;
    let mut takes = takes.iter();
    while !rest.is_empty() {
        let taken;
        let mut ends = None;
        match takes.next() {
            Some(Take::AtMost(most)) => (taken, rest) = rest.split_at(rest.len().min(*most)),
            Some(Take::Nothing | Take::Failure) => {
                (taken, rest) = (&[], &[]);
                ends = Some(Cause::Error);
            }
            None => (taken, rest) = (rest, &[]),
        }
        moments.push(Moment { takes: taken.to_vec(), ends, settles: false, received_at });
    }
    moments
}

// ---- The real thing ----

/// Says what the round says.
struct Scripted<'a>(&'a Round);

impl Service for Scripted<'_> {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        match self.0 {
            Round::Exchange { request, reply, last, .. } => {
                assert_eq!(&buffer[..count], request, "the service got another request");
                buffer[..reply.len()].copy_from_slice(reply);
                let length = reply.len() as u16;
                if *last { Reply::SendThenClose(length) } else { Reply::Send(length) }
            }
            Round::Hangup { request } => {
                assert_eq!(&buffer[..count], request, "the service got another request");
                Reply::Close
            }
            Round::Eof | Round::Failure => panic!("the service was asked without a request"),
        }
    }
}

fn perform(schedule: &Schedule) -> Outcome {
    let mut exchange = Exchange::new();
    let mut buffer = [0; RECV_MAX];
    let mut rounds = schedule.rounds.iter();
    let mut takes = [].iter();
    let mut sent = Vec::new();
    for completions in 0.. {
        wish(&mut exchange, &schedule.wishes, completions);
        let next = match exchange.op() {
            Op::Recv => {
                let round = rounds.next().unwrap_or(&Round::Eof);
                takes = if let Round::Exchange { takes, .. } = round {
                    takes.iter()
                } else {
                    [].iter()
                };
                match round {
                    Round::Failure => exchange.failed(),
                    Round::Eof => exchange.received(&mut Scripted(round), &mut buffer, 0),
                    Round::Hangup { request } | Round::Exchange { request, .. } => {
                        buffer[..request.len()].copy_from_slice(request);
                        exchange.received(&mut Scripted(round), &mut buffer, request.len())
                    }
                }
            }
            Op::Send { start, end } => {
                let offered = &buffer[start.into()..end.into()];
                match takes.next().unwrap_or(&Take::AtMost(RECV_MAX)) {
                    Take::Failure => exchange.failed(),
                    Take::Nothing => exchange.sent(0),
                    Take::AtMost(most) => {
                        let taken = &offered[..offered.len().min(*most)];
                        sent.extend_from_slice(taken);
                        exchange.sent(taken.len())
                    }
                }
            }
            Op::Close(cause) => {
                // Wishes that come too late are heard by nobody.
                for late in completions + 1..=MOMENTS_MAX {
                    wish(&mut exchange, &schedule.wishes, late);
                }
                assert_eq!(exchange.op(), Op::Close(cause), "a late wish changed the cause");
                return Outcome { sent, cause, completions };
            }
        };
        assert_eq!(next, exchange.op());
    }
    unreachable!("every schedule ends")
}

fn wish(exchange: &mut Exchange, wishes: &[(usize, Wish)], now: usize) {
    let before = exchange.op();
    for (_, wish) in wishes.iter().filter(|(at, _)| *at == now) {
        match wish {
            Wish::Drain => exchange.drain(),
            Wish::Terminate(cause) => exchange.terminate(*cause),
        }
    }
    assert_eq!(exchange.op(), before, "a wish changed the operation in flight");
}

// ---- The schedules ----

const ROUNDS_MAX: usize = 6;
const TAKES_MAX: usize = 5;

/// No conversation has more completions: in each round a receive, its takes, a send of the rest;
/// then the end of file.
const MOMENTS_MAX: usize = ROUNDS_MAX * (1 + TAKES_MAX + 1) + 1;

fn bytes(least: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => vec(any::<u8>(), least..40),
        1 => vec(any::<u8>(), RECV_MAX - 1..=RECV_MAX),
    ]
}

fn take() -> impl Strategy<Value = Take> {
    prop_oneof![
        20 => (1..=20_usize).prop_map(Take::AtMost),
        4 => (1..=RECV_MAX).prop_map(Take::AtMost),
        1 => Just(Take::Nothing),
        1 => Just(Take::Failure),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    let exchange = (bytes(1), bytes(0), prop::bool::weighted(0.1), vec(take(), 0..=TAKES_MAX));
    prop_oneof![
        20 => exchange.prop_map(|(request, reply, last, takes)| {
            Round::Exchange { request, reply, last, takes }
        }),
        1 => Just(Round::Eof),
        1 => Just(Round::Failure),
        1 => bytes(1).prop_map(|request| Round::Hangup { request }),
    ]
}

fn wishes() -> impl Strategy<Value = Vec<(usize, Wish)>> {
    let wish = prop_oneof![
        Just(Wish::Drain),
        prop::sample::select(&Cause::ALL[..]).prop_map(Wish::Terminate),
    ];
    vec((0..=MOMENTS_MAX / 2, wish), 0..4)
}

proptest! {
    // A schedule that fails is printed; it is to become a test with a name, not a line in a file.
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_peer_gets_the_bytes_and_the_end_that_the_oracle_predicts(
        rounds in vec(round(), 0..=ROUNDS_MAX),
        wishes in wishes(),
    ) {
        let schedule = Schedule { rounds, wishes };
        prop_assert_eq!(perform(&schedule), predict(&schedule));
    }

    #[test]
    fn how_the_kernel_cuts_the_replies_changes_nothing(
        requests in vec((bytes(1), bytes(0)), 0..=ROUNDS_MAX),
        cuts in vec(vec((1..=RECV_MAX).prop_map(Take::AtMost), 0..=TAKES_MAX), ROUNDS_MAX),
    ) {
        let replies: Vec<u8> = requests.iter().flat_map(|(_, reply)| reply.clone()).collect();
        let rounds = requests
            .into_iter()
            .zip(cuts)
            .map(|((request, reply), takes)| Round::Exchange { request, reply, last: false, takes })
            .collect();
        let outcome = perform(&Schedule { rounds, wishes: Vec::new() });
        prop_assert_eq!((outcome.sent, outcome.cause), (replies, Cause::Eof));
    }
}

// ---- The oracle itself, on cases worked out by hand ----

fn round_of(reply: &[u8], last: bool) -> Round {
    Round::Exchange { request: vec![0], reply: reply.to_vec(), last, takes: vec![Take::AtMost(1)] }
}

fn both_say(rounds: &[Round], wishes: &[(usize, Wish)], sent: &[u8], cause: Cause) {
    let schedule = Schedule { rounds: rounds.to_vec(), wishes: wishes.to_vec() };
    for (who, outcome) in [("oracle", predict(&schedule)), ("exchange", perform(&schedule))] {
        assert_eq!((&outcome.sent[..], outcome.cause), (sent, cause), "the {who}: {schedule:?}");
    }
}

#[test]
fn a_drain_during_a_reply_sends_the_rest_of_it() {
    let rounds = [round_of(b"abc", false), round_of(b"def", false)];
    both_say(&rounds, &[(2, Wish::Drain)], b"abc", Cause::Drain);
}

#[test]
fn a_drain_while_waiting_answers_the_next_request() {
    let rounds = [round_of(b"abc", false), round_of(b"def", false)];
    both_say(&rounds, &[(3, Wish::Drain)], b"abcdef", Cause::Drain);
}

#[test]
fn a_drain_and_a_last_reply_end_with_the_cause_that_came_first() {
    let rounds = [round_of(b"abc", true)];
    both_say(&rounds, &[(0, Wish::Drain)], b"abc", Cause::Drain);
    both_say(&rounds, &[(1, Wish::Drain)], b"abc", Cause::Done);
}

#[test]
fn a_terminate_cuts_the_reply_and_outdoes_a_drain() {
    let rounds = [round_of(b"abc", false)];
    let wishes = [(0, Wish::Drain), (1, Wish::Terminate(Cause::Idle))];
    both_say(&rounds, &wishes, b"a", Cause::Idle);
}
