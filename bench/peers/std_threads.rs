//! A reference server on the standard library alone, with a thread for each connection.

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

use clap::Parser;

/// Bytes of a thread's stack: room for its buffer and a few frames. The default is 2 MiB.
const STACK_SIZE: usize = 64 * 1024;

/// An echo server with a thread for each connection, to compare with.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run("std-threads", &Args::parse().options, accept)
}

/// Accepts connections, and runs a thread for each.
fn accept(listener: TcpListener) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _peer)) => stream,
            Err(error) if common::is_connection_error(&error) => continue,
            Err(error) => return Err(error),
        };
        thread::Builder::new().stack_size(STACK_SIZE).spawn(|| echo(stream))?;
    }
}

/// Replies to each receive with one send. An error ends the connection.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; common::BUFFER_SIZE];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}
