//! Rules for one subject.

use super::SUBJECT;

#[path = "cases_accept.rs"]
mod accept;
#[path = "cases_drain.rs"]
mod drain;
#[path = "cases_exchange.rs"]
mod exchange;
#[path = "cases_limits.rs"]
mod limits;
#[path = "cases_metrics.rs"]
mod metrics;
#[path = "cases_peers.rs"]
mod peers;
