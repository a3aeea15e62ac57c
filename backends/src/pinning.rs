//! CPUs of the shards: those that each is pinned to, and the one whose connections it gets.

use std::io;
use std::thread;

use lockstep_sys::cpus::{allowed, pin};
use lockstep_sys::memory;

use crate::{Options, StartError};

/// Number of CPUs for the shards: those to pin to, else those the process is allowed.
pub(crate) fn cpus(options: &Options) -> usize {
    match options.pin.len() {
        0 => allowed().map_or(1, |cpus| cpus.len()),
        pinned => pinned,
    }
}

/// CPUs of one shard: every `shards`-th or, with more shards than CPUs, a single one.
pub(crate) fn share(cpus: &[usize], shard: usize, shards: usize) -> Vec<usize> {
    match cpus.len() {
        0 => Vec::new(),
        len if shards >= len => vec![cpus[shard % len]],
        _ => cpus.iter().copied().skip(shard).step_by(shards).collect(),
    }
}

/// CPUs that the shards are pinned to, ascending.
pub(crate) fn union(pinned: &[Vec<usize>]) -> Vec<usize> {
    let mut cpus = pinned.concat();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// CPU whose connections each shard gets; none if they are not steered.
pub(crate) fn steering(
    options: &Options,
    pinned: &[Vec<usize>],
) -> Result<Vec<Option<usize>>, StartError> {
    let one_each = pinned.iter().all(|cpus| cpus.len() == 1);
    match options.steer {
        false => Ok(vec![None; pinned.len()]),
        true if one_each => Ok(pinned.iter().map(|cpus| Some(cpus[0])).collect()),
        true => Err(StartError::Steer),
    }
}

/// Checks that each of the CPUs can be pinned to, on a thread of its own, so that the caller does
/// not stay pinned.
pub(crate) fn try_to_pin(cpus: &[usize]) -> Result<(), StartError> {
    if cpus.is_empty() {
        return Ok(());
    }
    let alone = |cpu: &usize| pin(std::slice::from_ref(cpu));
    let try_all = || cpus.iter().try_for_each(alone).map_err(StartError::Pin);
    thread::scope(|scope| {
        let trial = memory::thread("pin").and_then(|thread| thread.spawn_scoped(scope, try_all));
        let tried = trial.map_err(StartError::Other)?.join();
        tried.unwrap_or_else(|_panic| Err(StartError::Pin(io::ErrorKind::InvalidInput.into())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_shared_out_and_each_shard_has_one() {
        assert_eq!(share(&[], 0, 2), Vec::<usize>::new());
        assert_eq!(share(&[0, 1, 2], 0, 1), [0, 1, 2]);
        assert_eq!(share(&[4, 5, 6], 0, 2), [4, 6]);
        assert_eq!(share(&[4, 5, 6], 1, 2), [5]);
        assert_eq!(share(&[4, 5], 2, 3), [4]);
    }

    #[test]
    fn steering_needs_a_cpu_for_each_shard() {
        let steered = |steer, pin: &[usize], shards| {
            let options = Options { steer, pin: pin.to_vec(), ..Options::default() };
            let pinned: Vec<_> = (0..shards).map(|shard| share(pin, shard, shards)).collect();
            steering(&options, &pinned).ok()
        };
        assert_eq!(steered(true, &[4, 5], 2), Some(vec![Some(4), Some(5)]));
        assert_eq!(steered(true, &[4], 2), Some(vec![Some(4), Some(4)]));
        for (pin, shards) in [(&[][..], 2), (&[4, 5], 1)] {
            assert_eq!(steered(true, pin, shards), None, "{pin:?}, {shards} shards");
            assert_eq!(steered(false, pin, shards), Some(vec![None; shards]));
        }
        assert_eq!(steered(false, &[4, 5], 2), Some(vec![None, None]));
    }
}
