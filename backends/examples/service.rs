//! A service of your own, on any backend: it counts the requests of each connection and of all.
//!
//! ```sh
//! cargo run --release --example service -- --backend mio --port 8898
//! lockstep talk 127.0.0.1:8898
//! ```

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lockstep_backends::{Config, Options, Server, ServiceFactory, by_name};
use lockstep_core::{RECV_MAX, Reply, Service};

/// Replies `request 3 of this connection, 17 of all`.
struct Counter {
    /// Requests of this connection, which has a service of its own.
    own: u64,
    /// Requests of all connections, on all shards.
    all: Arc<AtomicU64>,
}

impl Service for Counter {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], _count: usize) -> Reply {
        self.own += 1;
        let all = self.all.fetch_add(1, Relaxed) + 1;
        let reply = format!("request {} of this connection, {all} of all", self.own);
        buffer[..reply.len()].copy_from_slice(reply.as_bytes());
        Reply::Send(reply.len() as u16)
    }
}

/// Starts a server for the service.
pub fn start(backend: &str, port: u16) -> Result<Server, Box<dyn Error>> {
    let all = Arc::new(AtomicU64::new(0));
    Ok(Server::start(&Config {
        backend: by_name(backend).ok_or("no such backend")?,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        service: ServiceFactory::new(move |_socket| Counter { own: 0, all: Arc::clone(&all) }),
        options: Options::default(),
    })?)
}

/// Serves with the options `--backend` and `--port`, until it is killed.
fn main() -> Result<(), Box<dyn Error>> {
    let option = |name| std::env::args().skip_while(move |arg| arg != name).nth(1);
    let backend = option("--backend").unwrap_or_else(|| "mio".to_owned());
    let port = option("--port").map_or(Ok(8898), |port| port.parse())?;
    let server = start(&backend, port)?;
    println!("listening addr={} backend={backend} shards={}", server.addr(), server.shards());
    server.join()?;
    Ok(())
}
