//! The load generator: the clients, the clock, and the verdict on itself.
//!
//! A run opens connections to a lockstep server, sends a request on each as soon as the reply to
//! the last one is complete (a closed loop) or when a schedule says so (an open loop), and compares
//! every byte. The layers, from the wire up:
//!
//! * [`pattern`]: what is sent, and whether what came back is it.
//! * [`connection`]: one connection, without any system call.
//! * [`socket`], `engine`, [`worker`], [`share`]: system calls, event handling, and the phases of
//!   one thread.
//! * [`schedule`], `pacer`, [`spacing`]: when requests of an open loop are due, sending them then,
//!   and whether they were.
//! * [`control`], [`measure`], [`warmup`]: the main thread and the threads it conducts.
//! * [`laps`], [`tally`], [`failures`]: what is counted, by interval and in all.
//! * [`placement`], [`limits`], [`cpu_time`], [`procfs`], [`subject`], [`command`]: processors,
//!   descriptors, accounting, the embedded server, and anybody else's.
//! * [`verdict`]: who was the limit, and whether the numbers may be believed; [`condition`]: whether
//!   they are as they should be.
//! * [`run`](mod@run): all of it in order, up to the record; [`report`], [`picture`]: the record
//!   as text; [`live`], [`hlog`]: its intervals while it goes on.
//! * [`floor`](mod@floor): what the machine can do at all.
//! * [`sweep`](mod@sweep): one server under a series of loads.
//! * [`compare`](mod@compare): several servers, in rounds.
//! * [`backlog`](mod@backlog): what `listen(n)` does to clients while nobody accepts;
//!   [`storm`](mod@storm): new connections by the thousand while somebody does.
//!
//! The client shares no code with the servers it measures beyond the protocol's constants: a
//! shared bug would cancel out.

pub mod args;
pub mod backlog;
pub mod command;
pub mod compare;
pub mod condition;
pub mod connection;
pub mod control;
pub mod cpu_time;
mod engine;
pub mod exit;
pub mod failures;
pub mod floor;
pub mod hlog;
pub mod laps;
pub mod limits;
pub mod live;
pub mod measure;
mod pacer;
pub mod pattern;
pub mod picture;
pub mod placement;
pub mod procfs;
pub mod progress;
pub mod record;
pub mod report;
pub mod run;
pub mod schedule;
pub mod share;
pub mod signals;
pub mod socket;
pub mod spacing;
pub mod storm;
pub mod subject;
pub mod sweep;
pub mod tally;
mod tcp_info;
pub mod units;
pub mod verdict;
pub mod warmup;
pub mod worker;
