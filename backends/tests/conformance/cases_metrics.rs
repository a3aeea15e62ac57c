//! Counts that are published while the server runs.

use lockstep_backends::Options;
use lockstep_core::{Cause, Echo};

use super::SUBJECT;
use crate::common::until;
use crate::harness::{options, start_with};

#[test]
fn published_counts_are_those_that_the_server_returns() {
    let metrics = Some("127.0.0.1:0".parse().unwrap());
    let with_metrics = Options { metrics, ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, with_metrics) else { return };
    let metrics = server.metrics();
    let mut clients = server.connect_many(20);
    for (number, client) in clients.iter_mut().enumerate() {
        (0..number).for_each(|_| client.exchange(b"request"));
    }
    clients.drain(..5).for_each(|client| client.reset());
    clients.drain(..5).for_each(|mut client| client.finish());
    metrics.until(&[
        ("lockstep_accepted_total", 20.0),
        ("lockstep_connections", 10.0),
        ("lockstep_exchanges_total", 190.0),
        ("lockstep_received_bytes_total", 7.0 * 190.0),
        ("lockstep_sent_bytes_total", 7.0 * 190.0),
    ]);
    drop(clients);
    until("all are closed", || metrics.closed() == 20.0);
    let samples = metrics.samples();
    let stats = server.stop();
    for cause in Cause::ALL {
        let name = format!("lockstep_closed_total{{cause=\"{}\"}}", cause.name());
        assert_eq!(samples[&name], stats.closed.count(cause) as f64, "{samples:?}");
    }
    assert_eq!(stats.exchanges, 190);
    assert!(stats.syscalls as f64 >= samples["lockstep_syscalls_total"], "{samples:?}");
}
