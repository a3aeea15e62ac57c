//! What loads a server: connections, the threads that drive them, and what they count.
//!
//! From the wire up:
//!
//! * [`pattern`]: what is sent, and whether what came back is it.
//! * [`connection`]: one connection, without any system call.
//! * [`socket`], [`engine`], [`worker`], [`share`]: system calls, event handling, and the phases of
//!   one thread.
//! * `spin`: looking for replies before sleeping.
//! * [`schedule`], `pacer`, `open_loop`, [`spacing`]: when requests of an open loop are due, who is
//!   there to send them, sending them then, and whether they were.
//! * [`clock`], [`control`]: what a thread is told, and tells, while it goes on.
//! * [`turns`]: runs that are under load in turn.
//! * [`laps`], `window`, [`tally`], [`failures`]: what is counted, by interval and in all.
//!
//! The client shares no code with the servers it measures beyond the protocol's constants: a
//! shared bug would cancel out.

pub mod clock;
pub mod connection;
pub mod control;
pub mod engine;
pub mod failures;
pub mod laps;
mod open_loop;
mod pacer;
pub mod pattern;
pub mod schedule;
pub mod share;
pub mod socket;
pub mod spacing;
mod spin;
pub mod tally;
pub mod turns;
mod window;
pub mod worker;
