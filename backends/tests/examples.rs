//! The example service, on every backend. The example backend is in the conformance suite.

mod common;

#[path = "../examples/service.rs"]
#[allow(dead_code, unreachable_pub, reason = "main is the example's own")]
mod service;

use common::child::is_available;
use common::client::Client;
use lockstep_backends::BACKENDS;

#[test]
fn example_service_counts_on_every_backend() {
    for backend in BACKENDS.iter().map(|backend| backend.name()).filter(|name| is_available(name)) {
        let server = service::start(backend, 0).unwrap();
        let mut clients = [(); 2].map(|()| Client::connect(server.addr()));
        for (client, reply) in [
            (0, "request 1 of this connection, 1 of all"),
            (0, "request 2 of this connection, 2 of all"),
            (1, "request 1 of this connection, 3 of all"),
        ] {
            let client = &mut clients[client];
            client.send(b"next");
            assert_eq!(String::from_utf8(client.receive(reply.len())).unwrap(), reply, "{backend}");
        }
        drop(clients);
        server.drain();
        assert_eq!(server.join().unwrap().exchanges, 3, "{backend}");
    }
}
