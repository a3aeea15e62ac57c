//! The promise of `loadgen compare`, checked with whole comparisons on this machine: it reports no
//! difference between equal servers, and finds a server that is slower by a tenth.
//!
//! The default is a check in some 15 seconds. With `--ignored` it is the promise itself, twenty
//! comparisons of each kind, to be run with `--release` on a machine that does nothing else:
//!
//! ```text
//! cargo test --release -p loadgen --test proofs -- --ignored
//! ```
//!
//! The main function is our own because this program is also the slowed server.

mod server;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Comparisons of each kind, and the results that they may have.
struct Form {
    count: usize,
    options: &'static [&'static str],
    /// CPU time that the slowed server adds to each request.
    slowdown: Slowdown,
    /// Comparisons between equals that may report a difference.
    claimed_max: usize,
    /// Comparisons with the slowed server that must find it slower.
    found_min: usize,
    /// Attempts, one of which must have such a result.
    attempts: usize,
}

enum Slowdown {
    /// A time.
    Time(Duration),
    /// The time that multiplies the CPU time per exchange by this factor.
    Factor(f64),
}

/// A comparison between equals reports a difference with a probability of at most 0.04
/// (`results/src/statistics.rs`). Two or more of three do with 0.005, in both attempts with 2e-5.
///
/// 20 us more multiply the CPU time per exchange by at least three. Eight rounds miss a factor of
/// three with a probability of 0.001 if the ratio of one round scatters by 40 % (by simulation;
/// with a load of 20 it scattered by 30 %). One or more of three miss it with 0.003, in both
/// attempts with 1e-5.
const SHORT: Form = Form {
    count: 3,
    options: &["--conns", "8", "--duration", "60ms", "--warmup", "30ms", "--rounds", "8"],
    slowdown: Slowdown::Time(Duration::from_micros(20)),
    claimed_max: 1,
    found_min: 3,
    attempts: 2,
};

/// Slices of 10 ms: the throughput of two neighbouring intervals of 20 ms differed by 13 to 27 % on
/// a shared machine, and that of two of 200 ms by as much. So ten short slices say as much as ten
/// long ones. More than two of twenty comparisons between equals report a difference with a
/// probability of 0.01 to 0.04.
const FULL: Form = Form {
    count: 20,
    options: &[
        "--conns",
        "64",
        "--duration",
        "400ms",
        "--warmup",
        "100ms",
        "--slice",
        "10ms",
        "--rounds",
        "24",
    ],
    slowdown: Slowdown::Factor(1.1),
    claimed_max: 2,
    found_min: 18,
    attempts: 1,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, addr, iterations] = &args[..]
        && serve == "serve"
    {
        let iterations = iterations.parse().expect("a number of iterations");
        server::serve(addr, iterations).expect("the server does not fail");
        return ExitCode::SUCCESS;
    }
    // As with other tests, each word filters by name.
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_selected = |name: &str| filters.iter().all(|filter| name.contains(&***filter));
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let form = if args.iter().any(|arg| arg == "--ignored") { FULL } else { SHORT };
    let begin = Instant::now();
    let attempt = |check: fn(&Form) -> bool| (0..form.attempts).any(|_| check(&form));
    let holds = (!is_selected("proofs::equals") || attempt(Form::finds_no_difference))
        & (!is_selected("proofs::slowed") || attempt(Form::finds_the_slowed));
    println!("{} s", begin.elapsed().as_secs());
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Form {
    /// Compares a server with itself.
    fn finds_no_difference(&self) -> bool {
        let mut claimed = 0;
        for number in 1..=self.count {
            let ratio = self.compare(&["mio", "--aa"]);
            println!("equals {number}: {ratio}");
            claimed += usize::from(matches!(&*ratio.verdict, "lower" | "higher"));
        }
        let (count, most) = (self.count, self.claimed_max);
        println!("equals: {claimed} of {count} report a difference, at most {most} may");
        claimed <= most
    }

    /// Compares a server with its slowed self.
    fn finds_the_slowed(&self) -> bool {
        let iterations = match self.slowdown {
            Slowdown::Time(time) => server::iterations_in(time),
            Slowdown::Factor(factor) => self.calibrate(factor),
        };
        let mut found = 0;
        let mut medians = Vec::new();
        for number in 1..=self.count {
            let ratio = self.compare(&[&subject("plain", 0), &subject("slowed", iterations)]);
            println!("slowed {number}: {ratio}");
            found += usize::from(ratio.verdict == "higher");
            medians.push(ratio.median);
        }
        medians.sort_by(f64::total_cmp);
        let (median, count, least) = (medians[medians.len() / 2], self.count, self.found_min);
        println!("slowed by {iterations} iterations: {median:.3}x in the median");
        println!("slowed: {found} of {count} are found, at least {least} must be");
        found >= least
    }

    /// Returns the number of iterations that multiplies the CPU time per exchange by `factor`, by
    /// trials under load. A much slower server would change the load itself, since it finds more
    /// requests at once. So the second trial is a server that is half as slow again.
    fn calibrate(&self, factor: f64) -> u64 {
        let mut iterations = server::iterations_in(Duration::from_micros(20));
        for wanted in [1.5, factor] {
            let ratio = self.compare(&[&subject("plain", 0), &subject("trial", iterations)]);
            println!("{iterations} iterations: {ratio}");
            assert!(ratio.median > 1.05, "the trial must be slower: {ratio}");
            iterations = (iterations as f64 * (wanted - 1.0) / (ratio.median - 1.0)).round() as u64;
        }
        iterations
    }

    /// Runs one comparison of two subjects.
    fn compare(&self, subjects: &[&str]) -> Ratio {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .arg("compare")
            .args(subjects)
            .args(self.options)
            .arg("--json")
            .stdin(Stdio::null())
            .output()
            .expect("the command starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        let comparison: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
        assert_eq!(comparison["primary"], "server_cpu_us_per_exchange");
        let subject = &comparison["cells"][0]["subjects"][1];
        let ratio = &subject["metrics"]["server_cpu_us_per_exchange"]["ratio"];
        let number = |key: &str| ratio[key].as_f64().expect("a number");
        Ratio {
            median: number("median"),
            low: number("low"),
            high: number("high"),
            rounds: number("rounds"),
            verdict: ratio["verdict"].as_str().expect("a verdict").to_owned(),
        }
    }
}

/// This program as a server that runs `iterations` of an empty loop for each request.
fn subject(name: &str, iterations: u64) -> String {
    let program = std::env::current_exe().expect("the program has a path");
    format!("{name}=exec '{}' serve {{addr}} {iterations}", program.display())
}

/// Ratio of the server's CPU time per exchange.
struct Ratio {
    median: f64,
    low: f64,
    high: f64,
    rounds: f64,
    verdict: String,
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, low, high, rounds, verdict } = self;
        write!(f, "{median:.3}x [{low:.3}, {high:.3}] over {rounds} rounds: {verdict}")
    }
}
