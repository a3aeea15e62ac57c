//! CPU time used by busy-polling.

use std::thread;
use std::time::Duration;

use super::BACKEND;
use crate::common::child::{Served, is_available};
use crate::common::kernel;

fn serve() -> Option<Served> {
    is_available(BACKEND).then(|| Served::start(BACKEND, ["--shards", "1", "--spin", "20ms"]))
}

#[test]
fn busy_polling_sleeps_without_traffic() {
    let Some(server) = serve() else { return };
    let mut client = server.connect();
    client.exchange(b"something to do");
    let before = kernel::cpu_time(server.id());
    thread::sleep(Duration::from_secs(1));
    let used = kernel::cpu_time(server.id()) - before;
    assert!(used <= Duration::from_millis(100), "it used {used:?} of a second to do nothing");
    drop(client);
    server.stop();
}

/// Every request comes after the busy-poll has ended: most are waited for asleep.
#[test]
fn busy_polling_backs_off_with_little_traffic() {
    const ROUNDS: u32 = 40;
    let Some(server) = serve() else { return };
    let mut client = server.connect();
    for _ in 0..ROUNDS {
        client.exchange(b"now and then");
        thread::sleep(Duration::from_millis(30));
    }
    drop(client);
    kernel::until_closed(server.addr);
    let spun = server.stop()["spun_us"].as_u64().unwrap();
    let always = 20_000 * u64::from(ROUNDS);
    assert!(spun > 0 && spun <= always / 2, "{spun} us of {always} us");
}
