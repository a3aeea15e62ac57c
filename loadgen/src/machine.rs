//! What the kernel says and does: processors, descriptors, accounting, signals.

pub mod cpu_time;
pub mod limits;
pub mod placement;
pub mod procfs;
pub mod signals;
pub(crate) mod tcp_info;
