//! The `lockstep` program from end to end: output, exit codes, signals.

mod common;

/// Makes a test for each backend of a rule: a function that takes the backend's name.
macro_rules! on_every_backend {
    ($($rule:ident)+) => {$(
        mod $rule {
            #[test]
            fn blocking() {
                crate::harness::on("blocking", super::$rule);
            }

            #[test]
            fn mio() {
                crate::harness::on("mio", super::$rule);
            }

            #[test]
            fn io_uring() {
                crate::harness::on("io-uring", super::$rule);
            }
        }
    )+};
}

#[path = "lockstep_cli/harness.rs"]
mod harness;

#[path = "lockstep_cli/chat.rs"]
mod chat;
#[path = "lockstep_cli/help.rs"]
mod help;
#[path = "lockstep_cli/metrics.rs"]
mod metrics;
#[path = "lockstep_cli/pause.rs"]
mod pause;
#[path = "lockstep_cli/pieces.rs"]
mod pieces;
#[path = "lockstep_cli/refusals.rs"]
mod refusals;
#[path = "lockstep_cli/serve.rs"]
mod serve;
#[path = "lockstep_cli/share.rs"]
mod share;
#[path = "lockstep_cli/signals.rs"]
mod signals;
#[path = "lockstep_cli/start.rs"]
mod start;
#[path = "lockstep_cli/stdin.rs"]
mod stdin;
#[path = "lockstep_cli/stop.rs"]
mod stop;
#[path = "lockstep_cli/streams.rs"]
mod streams;
#[path = "lockstep_cli/talk.rs"]
mod talk;
#[path = "lockstep_cli/turns.rs"]
mod turns;
#[path = "lockstep_cli/usage.rs"]
mod usage;
