//! This machine: placement on its CPUs, processes and their usage, memory, limits, signals, pauses,
//! and its realtime clock.

pub mod children;
pub mod limits;
pub mod memory;
pub mod neighbours;
pub mod pauses;
pub mod placement;
pub mod ports;
pub mod processes;
pub mod quota;
pub mod realtime;
pub mod signals;
pub mod usage;
