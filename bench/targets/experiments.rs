//! What is measured.

use std::path::Path;

/// One run of `loadgen`.
pub(crate) struct Experiment {
    /// By which targets name it.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    /// Its arguments; `{bin}` is the directory of the reference servers, `{rounds}` how many.
    arguments: &'static [&'static str],
}

/// All of them, in the order they are made.
pub(crate) const EXPERIMENTS: [Experiment; 6] = [
    Experiment {
        name: "crossed",
        what: "backends and reference servers, server and generator each on a CPU of its own",
        arguments: &[
            "compare",
            "tokio=exec {bin}/peer-tokio-current-thread --listen {addr}",
            "monoio=exec {bin}/peer-monoio --listen {addr}",
            "std-threads=exec {bin}/peer-std-threads --listen {addr}",
            "io-uring",
            "mio",
            "blocking",
            "--conns",
            "64,1000",
            "--size",
            "64,1024",
            "--rounds",
            "{rounds}",
        ],
    },
    Experiment {
        name: "generator",
        what: "what the generator costs when it makes the same system calls as the server",
        arguments: &[
            "compare", "--aa", "mio", "--engine", "epoll", "--conns", "64,1000", "--size",
            "64,1024", "--rounds", "{rounds}",
        ],
    },
    Experiment {
        name: "whole",
        what: "the whole machine: servers and generator share all CPUs, backends steered",
        arguments: &[
            "compare",
            "tokio-mt=exec {bin}/peer-tokio-multi-thread --listen {addr}",
            "io-uring",
            "mio",
            "--place",
            "steered",
            "--conns",
            "64,1000",
            "--rounds",
            "{rounds}",
        ],
    },
    Experiment {
        name: "spinning",
        what: "one connection between two CPUs, neither side sleeps",
        arguments: &[
            "compare",
            "mio",
            "io-uring",
            "--conns",
            "1",
            "--spin",
            "100us",
            "--server-spin",
            "100us",
            "--rounds",
            "{rounds}",
        ],
    },
    Experiment {
        name: "steered",
        what: "one connection on one CPU, both sides sleep",
        arguments: &[
            "compare", "mio", "io-uring", "--conns", "1", "--place", "steered", "--rounds",
            "{rounds}",
        ],
    },
    Experiment {
        name: "many",
        what: "ten times the connections",
        arguments: &[
            "compare",
            "mio",
            "io-uring",
            "--conns",
            "1000,10000",
            "-d",
            "2s",
            "--slice",
            "0",
            "--rounds",
            "{rounds}",
        ],
    },
];

impl Experiment {
    /// The command line after `loadgen`.
    pub(crate) fn arguments(&self, binaries: &Path, rounds: u32) -> Vec<String> {
        let (binaries, rounds) = (binaries.display().to_string(), rounds.to_string());
        let filled = |text: &&str| text.replace("{bin}", &binaries).replace("{rounds}", &rounds);
        self.arguments.iter().map(filled).collect()
    }
}
