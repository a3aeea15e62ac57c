//! A reference server: tokio with its current-thread scheduler, and a task for each connection.

mod common;

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    common::run("tokio-current-thread", |listener| {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(accept(listener))
    })
}

/// Accepts for ever; an error that is not one connection's own, such as a lack of descriptors,
/// ends the server, because a run in which it happened compares nothing.
async fn accept(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => drop(tokio::spawn(echo(stream))),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Every receive is matched by one send. A connection's trouble ends the connection.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; common::BUFFER_SIZE];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}
