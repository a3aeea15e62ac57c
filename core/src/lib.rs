//! The lockstep exchange, sans-I/O: *every receive is matched by one send*.
//!
//! This crate decides the next operation of a connection, and nothing else. It has no sockets, no
//! clock, no allocation and no buffer. The caller performs each operation and reports its result,
//! and each report returns the next operation. A complete inner loop of a server:
//!
//! ```
//! use lockstep_core::{Echo, Exchange, Op, RECV_MAX};
//!
//! // A client that sends "hi" and then a FIN, and what it receives.
//! let mut incoming = vec![b"hi".to_vec(), Vec::new()].into_iter();
//! let mut received = Vec::new();
//!
//! let mut exchange = Exchange::new();
//! let mut buffer = [0; RECV_MAX];
//! let cause = loop {
//!     match exchange.op() {
//!         Op::Recv => {
//!             let request = incoming.next().unwrap(); // recv(2)
//!             buffer[..request.len()].copy_from_slice(&request);
//!             let _next = exchange.received(&mut Echo, &mut buffer, request.len());
//!         }
//!         Op::Send { start, end } => {
//!             received.extend_from_slice(&buffer[start.into()..end.into()]); // send(2)
//!             let _next = exchange.sent((end - start).into());
//!         }
//!         Op::Close(cause) => break cause, // close(2)
//!     }
//! };
//! assert_eq!(received, b"hi");
//! assert_eq!(cause, lockstep_core::Cause::Eof);
//! ```

#![no_std]
#![forbid(unsafe_code)]

mod exchange;
mod service;

pub use exchange::{Cause, Exchange, Op};
pub use service::{Echo, Hi, Reply, Service};

/// Number of bytes that one receive asks for, and so the longest request and the longest reply: the
/// tutorial's `recv(1024)`.
pub const RECV_MAX: usize = 1024;
