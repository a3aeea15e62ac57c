//! The lockstep exchange, sans-I/O: *every receive is matched by one send*.
//!
//! This crate decides what a connection does next and nothing else. It has no sockets, no clock,
//! no allocation and no buffer; the caller performs each operation and reports how it went, and
//! each report returns the next operation. The whole of a server's inner loop is:
//!
//! ```
//! use lockstep_core::{Echo, Exchange, Op, RECV_MAX};
//!
//! // A peer that says "hi" once and then hangs up, and what it hears.
//! let mut incoming = vec![b"hi".to_vec(), Vec::new()].into_iter();
//! let mut heard = Vec::new();
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
//!             heard.extend_from_slice(&buffer[start.into()..end.into()]); // send(2)
//!             let _next = exchange.sent((end - start).into());
//!         }
//!         Op::Close(cause) => break cause, // close(2)
//!     }
//! };
//! assert_eq!(heard, b"hi");
//! assert_eq!(cause, lockstep_core::Cause::Eof);
//! ```

#![no_std]
#![forbid(unsafe_code)]

mod exchange;
mod service;

pub use exchange::{Cause, Exchange, Op};
pub use service::{Echo, Hi, Reply, Service};

/// The most bytes one receive asks for, and so the longest request and the longest reply.
///
/// The tutorial's `recv(1024)`.
pub const RECV_MAX: usize = 1024;
