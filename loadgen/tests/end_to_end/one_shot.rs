//! `--service hi`: every exchange has its own connection, which the server closes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use crate::harness::{Server, run_with, with_each_engine};

with_each_engine! {
    one_shot_exchange_opens_its_own_connection
    one_shot_reply_must_be_followed_by_fin
}

fn hi(mut stream: TcpStream, after: impl FnOnce(&mut TcpStream)) {
    let mut buffer = [0; 1024];
    if let Ok(1..) = stream.read(&mut buffer) {
        let _ = stream.write_all(b"hi");
        after(&mut stream);
        let _ = stream.shutdown(Shutdown::Write);
        while let Ok(1..) = stream.read(&mut buffer) {}
    }
}

fn one_shot_exchange_opens_its_own_connection(engine: &str) {
    let server = Server::start(|stream, _| hi(stream, |_| ()));
    let args = [
        "--target",
        &server.target(),
        "--service",
        "hi",
        "--conns",
        "3",
        "-n",
        "40",
        "--warmup",
        "0",
        "--json",
    ];
    let finished = run_with(engine, &args);
    finished.assert_measured();
    let record = finished.record();
    assert_eq!(record["exchanges"], 40);
    assert_eq!(record["subject"]["service"], "hi");
    assert_eq!(record["latency"]["connect"]["count"], 43);
    assert_eq!(server.accepted.load(Relaxed), 43);
}

fn one_shot_reply_must_be_followed_by_fin(engine: &str) {
    let server = Server::start(|stream, _| {
        hi(stream, |stream| drop(stream.write_all(b"!")));
    });
    let args = |target: &str| {
        [
            "--target",
            target,
            "--service",
            "hi",
            "--conns",
            "2",
            "-n",
            "40",
            "--timeout",
            "300ms",
            "--json",
        ]
        .map(str::to_owned)
    };
    let run = |server: &Server| {
        let args = args(&server.target());
        run_with(engine, &args.each_ref().map(String::as_str))
    };
    let finished = run(&server);
    assert_eq!(finished.code, Some(6), "{finished:#?}");
    assert_eq!(finished.errors(), [("surplus".to_owned(), 2)]);

    let server = Server::start(|stream, _| {
        hi(stream, |_| {
            loop {
                thread::park();
            }
        })
    });
    let finished = run(&server);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert_eq!(finished.errors(), [("timeout".to_owned(), 2)]);
    let first = finished.record()["errors"][0]["first"].as_str().unwrap().to_owned();
    assert!(first.contains("did not close"), "{first}");
}
