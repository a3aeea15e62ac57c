//! What the kernel says and does: processors, descriptors, accounting, processes, namespaces, signals.

pub mod cpu_time;
pub mod limits;
pub mod memory;
pub mod netns;
pub mod placement;
pub mod processes;
pub mod procfs;
pub mod signals;
