//! The experiments that measure the targets.

use std::path::Path;

/// One run of `loadgen compare`.
pub(crate) struct Experiment {
    /// Name, by which targets refer to it.
    pub(crate) name: &'static str,
    /// Description for the user.
    pub(crate) about: &'static str,
    /// Servers to compare; `{bin}` is the directory of the reference servers.
    subjects: &'static [&'static str],
    /// Options, separated by spaces.
    options: &'static str,
}

/// All experiments, in the order in which they are made.
pub(crate) const EXPERIMENTS: [Experiment; 6] = [
    Experiment {
        name: "crossed",
        about: "backends and reference servers, server and generator on a CPU each",
        subjects: &[
            "tokio=exec {bin}/peer-tokio-current-thread --listen {addr}",
            "monoio=exec {bin}/peer-monoio --listen {addr}",
            "std-threads=exec {bin}/peer-std-threads --listen {addr}",
            "io-uring",
            "mio",
            "blocking",
        ],
        options: "--conns 64,1000 --size 64,1024",
    },
    Experiment {
        name: "generator",
        about: "cost of the generator when it makes the same system calls as the server",
        subjects: &["mio"],
        options: "--aa --engine epoll --conns 64,1000 --size 64,1024",
    },
    Experiment {
        name: "whole",
        about: "servers and generator share all CPUs, backends steered",
        subjects: &[
            "tokio-mt=exec {bin}/peer-tokio-multi-thread --listen {addr}",
            "io-uring",
            "mio",
        ],
        options: "--place steered --conns 64,1000",
    },
    Experiment {
        name: "spinning",
        about: "one connection between two CPUs, neither side sleeps",
        subjects: &["mio", "io-uring"],
        options: "--conns 1 --spin 100us --server-spin 100us",
    },
    Experiment {
        name: "steered",
        about: "one connection on one CPU, both sides sleep",
        subjects: &["mio", "io-uring"],
        options: "--conns 1 --place steered",
    },
    Experiment {
        name: "many",
        about: "ten times the connections",
        subjects: &["mio", "io-uring"],
        options: "--conns 1000,10000 -d 2s --slice 0",
    },
];

impl Experiment {
    /// Returns the arguments of `loadgen`.
    pub(crate) fn arguments(&self, binaries: &Path, rounds: u32) -> Vec<String> {
        let binaries = binaries.display().to_string();
        let mut arguments = vec!["compare".to_owned(), format!("--rounds={rounds}")];
        arguments.extend(self.subjects.iter().map(|subject| subject.replace("{bin}", &binaries)));
        arguments.extend(self.options.split(' ').map(str::to_owned));
        arguments
    }
}
