//! Linux plumbing that the server, the load generator and the benchmarks share.
//!
//! Nothing here decides what a request or a reply is: the generator's protocol code shares nothing
//! with the server's, since a shared bug would cancel out. Plumbing cannot cancel out, and copies
//! of it diverge.
//!
//! * [`address`]: addresses as users write them.
//! * [`memory`]: an exit code where memory is short, room for threads.
//! * [`cpus`]: lists of CPUs, affinity of threads.
//! * [`busy_poll`]: polling before a blocking wait, with back-off.
//! * [`limits`]: limits of open files and threads.
//! * [`units`]: durations, sizes, counts and shares as users write them.
//! * [`errno`]: names and texts of error numbers.
//! * [`cpu_time`]: CPU time of a thread and of processes.
//! * [`realtime`]: state of the realtime clock.
//! * [`side_thread`]: descriptors of threads beside those of a server.
//! * [`inherited`]: descriptors left open by the starter of this process.
//! * [`netns`]: private network namespaces.
//! * [`tcp`]: state of a TCP connection, accept queue of a listener, binding without a port.
//! * [`counters`]: the kernel's counters of a network namespace.
//! * [`sock_diag`]: TCP sockets of any process.
//! * [`uring`]: io_uring and its receive buffers.

pub mod address;
pub mod busy_poll;
pub mod counters;
pub mod cpu_time;
pub mod cpus;
pub mod errno;
pub mod inherited;
pub mod limits;
pub mod memory;
pub mod netns;
pub mod realtime;
pub mod side_thread;
pub mod sock_diag;
pub mod tcp;
pub mod units;
pub mod uring;
