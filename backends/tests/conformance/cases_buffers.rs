//! io_uring with too few receive buffers.

use lockstep_core::Echo;

use super::SUBJECT;
use crate::common::noise;
use crate::harness::start;

#[test]
fn connection_waiting_for_a_buffer_is_served_later() {
    const CONNECTIONS: usize = 200;
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let bytes = noise(1, 20_000);
    let mut clients = server.connect_many(CONNECTIONS);
    for client in &mut clients {
        assert_eq!(client.push(&bytes), bytes.len());
    }
    for client in &mut clients {
        assert!(client.receive(bytes.len()) == bytes, "the bytes differ");
    }
    drop(clients);
    let stats = server.stop();
    assert_eq!(stats.bytes_sent, (CONNECTIONS * bytes.len()) as u64);
    assert!(stats.buffers_starved > 0, "there were always enough: {stats:?}");
}
