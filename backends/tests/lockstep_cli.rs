//! The `lockstep` program from end to end: what it prints, how it ends, and with which code.

mod common;

#[path = "lockstep_cli/chat.rs"]
mod chat;
#[path = "lockstep_cli/refusals.rs"]
mod refusals;
#[path = "lockstep_cli/serve.rs"]
mod serve;
#[path = "lockstep_cli/streams.rs"]
mod streams;
#[path = "lockstep_cli/talk.rs"]
mod talk;
#[path = "lockstep_cli/usage.rs"]
mod usage;
