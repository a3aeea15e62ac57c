//! The exchange, by the same rules as for the project's own servers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use lockstep_bench::{Clients, Counts, Load};
use lockstep_sys::limits::raise_open_files;

use crate::harness::PEERS;

/// Makes the bytes of a request, different for every seed.
fn bytes(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn exchange(socket: &mut TcpStream, request: &[u8]) {
    let mut reply = vec![0; request.len()];
    socket.write_all(request).unwrap();
    socket.read_exact(&mut reply).unwrap();
    assert!(reply == request, "a reply of {} bytes differs from its request", request.len());
}

#[test]
fn requests_of_every_size_are_echoed() {
    for peer in &PEERS {
        let server = peer.start();
        let mut socket = server.connect();
        // Sizes also decrease: a reply must not contain the rest of a longer request.
        for size in (1..=1024).chain([1025, 4096, 60_000]).chain((1..=1024).rev()) {
            exchange(&mut socket, &bytes(size, size as u64));
        }
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "{}", peer.name);
        server.finish();
    }
}

#[test]
fn thousand_connections_are_served() {
    let needed = 1_100;
    assert!(raise_open_files() >= needed, "the limit of open descriptors is below {needed}");
    for peer in &PEERS {
        let server = peer.start();
        let mut clients = Clients::connect(server.addr(), 1000, 64);
        for _ in 0..5 {
            clients.exchange();
        }
        let counts = clients.finish();
        assert_eq!(
            counts,
            Counts { connections: 1000, exchanges: 5000, ..counts },
            "{}",
            peer.name
        );
        server.finish();
    }
}

#[test]
fn half_close_still_gets_the_replies() {
    for peer in &PEERS {
        let server = peer.start();
        for size in [1, 1024, 10_000] {
            let (mut socket, request) = (server.connect(), bytes(size, 1));
            socket.write_all(&request).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let mut replies = Vec::new();
            socket.read_to_end(&mut replies).unwrap();
            assert!(replies == request, "{}: {size} bytes", peer.name);
        }
        server.finish();
    }
}

#[test]
fn reset_ends_only_its_own_connection() {
    for peer in &PEERS {
        let server = peer.start();
        let mut bystander = server.connect();
        for round in 0..50 {
            let mut socket = server.connect();
            match round % 3 {
                0 => {}
                1 => exchange(&mut socket, b"x"),
                _ => socket.write_all(&bytes(10_000, 1)).unwrap(), // the replies are not read
            }
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
            drop(socket); // sends a reset
            exchange(&mut bystander, &bytes(1024, round));
        }
        exchange(&mut server.connect(), b"x");
        server.finish();
    }
}

#[test]
fn burst_larger_than_all_buffers_is_echoed_in_order() {
    const SIZE: usize = 16 << 20;
    for peer in &PEERS {
        let server = peer.start();
        let (mut socket, requests) = (server.connect(), bytes(SIZE, 1));
        let mut replies = vec![0; SIZE];
        thread::scope(|scope| {
            let mut writer = socket.try_clone().unwrap();
            let requests = &requests;
            scope.spawn(move || writer.write_all(requests).unwrap());
            socket.read_exact(&mut replies).unwrap();
        });
        assert!(replies == requests, "{}", peer.name);
        server.finish();
    }
}
