//! Spread of a server's work over its shards: a shard without work leaves its CPU idle.

/// Multiple of an even share from which on connections are spread unevenly.
const UNEVEN: f64 = 1.5;

/// The same for CPU time, of which other programs may take a part on some of the CPUs.
const UNEVEN_CPU: f64 = 1.8;

/// Largest probability of an uneven spread that chance explains: the kernel spreads connections by
/// a hash.
const CHANCE: f64 = 0.01;

/// Part of an even share below which a shard counts as idle.
const IDLE: f64 = 0.01;

/// Connections for each shard from which on none should be idle.
const ENOUGH: u64 = 2;

/// Returns a warning if connections were not spread over the shards of embedded servers that share
/// a port, according to their statistics.
pub fn of_connections(statistics: &[serde_json::Value]) -> Option<String> {
    let shards = statistics.iter().filter_map(|counts| counts["accepted_per_shard"].as_array());
    let accepted: Vec<u64> = shards.flatten().filter_map(serde_json::Value::as_u64).collect();
    warning(&accepted, accepted.iter().sum(), UNEVEN, "connections")
}

/// Returns a warning if the CPU time for `conns` connections was not spread over the threads that
/// are the shards of another server.
pub fn of_cpu_time(cpu_ns: &[u64], conns: u64) -> Option<String> {
    warning(cpu_ns, conns, UNEVEN_CPU, "CPU time")
}

fn warning(work: &[u64], conns: u64, uneven: f64, unit: &str) -> Option<String> {
    let (shards, all) = (work.len(), work.iter().sum::<u64>() as f64);
    let busiest = *work.iter().max()? as f64 / all;
    let even = 1.0 / shards as f64;
    if shards < 2 || all == 0.0 {
        return None;
    }
    let idle = work.iter().filter(|&&work| (work as f64) < IDLE * even * all).count();
    if busiest > uneven * even && chance(busiest, even, conns) < CHANCE {
        return Some(format!(
            "uneven-shards: the busiest of {shards} shards had {:.0} % of the {unit}, where {:.0} % \
             would be even, and {idle} had none",
            busiest * 100.0,
            even * 100.0
        ));
    }
    (idle > 0 && conns >= ENOUGH * shards as u64).then(|| {
        format!(
            "idle-shards: {idle} of {shards} shards had none of the {unit}: by chance, {conns} \
             connections were not spread over all"
        )
    })
}

/// Returns an upper bound for the probability that any shard gets so large a share of connections
/// that are spread at random (Chernoff bound).
fn chance(share: f64, even: f64, conns: u64) -> f64 {
    let part = |share: f64, even: f64| match share > 0.0 {
        true => share * (share / even).ln(),
        false => 0.0,
    };
    let divergence = part(share, even) + part(1.0 - share, 1.0 - even);
    (-(conns as f64) * divergence).exp() / even
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(work: &[u64], conns: u64) -> Option<String> {
        let warning = warning(work, conns, UNEVEN, "connections")?;
        Some(warning.split_once(": ")?.0.to_owned())
    }

    #[test]
    fn clearly_uneven_spread_is_distinguished_from_chance() {
        for (work, conns, expected) in [
            (&[6400, 0][..], 64, Some("uneven-shards")),
            (&[4900, 1500], 64, Some("uneven-shards")),
            (&[3600, 2800], 64, None),
            (&[400, 0], 4, Some("idle-shards")),
            (&[300, 100], 4, None),
            (&[100, 0], 1, None),
            (&[100, 0, 0, 0], 3, None),
            (&[100, 100, 0, 100], 8, Some("idle-shards")),
            (&[1300, 730, 730, 730, 730, 730, 730, 720], 64, None),
            (&[9000, 100, 100, 100, 100, 100, 100, 100], 64, Some("uneven-shards")),
            (&[0, 0], 64, None),
            (&[7], 64, None),
            (&[], 64, None),
        ] {
            assert_eq!(word(work, conns).as_deref(), expected, "{work:?} of {conns}");
        }
    }

    #[test]
    fn warning_names_the_facts() {
        let statistics = serde_json::json!({"accepted_per_shard": [0, 64]});
        assert_eq!(
            of_connections(&[statistics]).unwrap(),
            "uneven-shards: the busiest of 2 shards had 100 % of the connections, where 50 % would \
             be even, and 1 had none"
        );
        let even = serde_json::json!({"accepted_per_shard": [64]});
        assert_eq!(of_connections(&[even.clone(), even]), None);
        assert_eq!(of_cpu_time(&[810, 190], 64), None);
        assert!(of_cpu_time(&[960, 40], 64).unwrap().contains("96 % of the CPU time"));
    }

    /// Random spreads are rarely called uneven.
    #[test]
    fn random_spreads_are_not_uneven() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut uneven = 0;
        for _ in 0..2000 {
            let (shards, conns) = (rng.usize(2..9), rng.u64(1..200));
            let mut work = vec![0; shards];
            (0..conns).for_each(|_| work[rng.usize(..shards)] += 1);
            uneven += u32::from(word(&work, conns).as_deref() == Some("uneven-shards"));
        }
        assert!(uneven <= 20, "{uneven} of 2000");
    }
}
