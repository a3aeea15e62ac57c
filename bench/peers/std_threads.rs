//! A reference server: the standard library alone, with a thread for each connection.

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

use clap::Parser;

/// A connection needs its buffer and a few frames; the default of 2 MiB is for programs that
/// recurse.
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

/// Accepts for ever, with a thread for each connection.
fn accept(listener: TcpListener) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _peer)) => stream,
            Err(error) if common::is_one_connections_own(&error) => continue,
            Err(error) => return Err(error),
        };
        thread::Builder::new().stack_size(STACK_SIZE).spawn(|| echo(stream))?;
    }
}

/// Every receive is matched by one send. A connection's trouble ends the connection.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; common::BUFFER_SIZE];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}
