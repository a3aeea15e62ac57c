//! The tasks of both servers on tokio.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common;

/// Accepts connections, and runs a task for each.
pub(crate) async fn accept(listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => drop(tokio::spawn(echo(stream))),
            Err(error) if common::is_connection_error(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Replies to each receive with one send. An error ends the connection.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; common::BUFFER_SIZE];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}
