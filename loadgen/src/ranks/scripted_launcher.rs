//! A launcher of tests that speaks PMI-1 as MPICH's hydra, Slurm's plugin pmi2 and Flux do.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

/// Dialect of a launcher.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    /// MPICH 4.0: no `rc` at the end of a barrier.
    Hydra,
    /// MPICH 4.1 and 4.2: a word after each value.
    HydraFound,
    Slurm,
    Flux,
}

pub(super) const DIALECTS: [Dialect; 4] =
    [Dialect::Hydra, Dialect::HydraFound, Dialect::Slurm, Dialect::Flux];

/// Starts a launcher of that many processes, and returns the sockets that they inherit. Values can
/// be read after the next barrier.
pub(super) fn start(dialect: Dialect, count: usize) -> Vec<OwnedFd> {
    let barrier = Arc::new(Barrier::new(count));
    let stores = Arc::new(Mutex::new((HashMap::new(), HashMap::new())));
    let serve = |_| {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (barrier, stores) = (barrier.clone(), stores.clone());
        thread::spawn(move || {
            for line in BufReader::new(&ours).lines().map_while(Result::ok) {
                let answer = answer(dialect, &line, &barrier, &mut |change| {
                    let mut stores = stores.lock().unwrap();
                    let (before, after): &mut (HashMap<_, _>, HashMap<_, _>) = &mut stores;
                    match change {
                        Change::Put(key, value) => drop(after.insert(key, value)),
                        Change::Publish => before.extend(after.drain()),
                        Change::Get(key) => return before.get(&key).cloned(),
                    }
                    None
                });
                if (&ours).write_all(format!("{answer}\n").as_bytes()).is_err() {
                    return;
                }
            }
        });
        theirs.into()
    };
    (0..count).map(serve).collect()
}

enum Change {
    Put(String, String),
    Publish,
    Get(String),
}

fn answer(
    dialect: Dialect,
    line: &str,
    barrier: &Barrier,
    store: &mut dyn FnMut(Change) -> Option<String>,
) -> String {
    use Dialect::{Flux, Hydra, HydraFound, Slurm};
    assert!(line.len() < 1024, "Slurm receives no longer line: {line}");
    let words: Vec<&str> = line.split(' ').collect();
    let field = |index: usize| words[index].split_once('=').unwrap().1.to_owned();
    let (name, maxes) = match dialect {
        Hydra | HydraFound => {
            ("kvs_28182_0_1279357650_vm", "kvsname_max=256 keylen_max=64 vallen_max=1024")
        }
        Slurm => ("4711.0", "rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024"),
        Flux => ("ƒ2A3b", "rc=0 kvsname_max=64 keylen_max=64 vallen_max=1024"),
    };
    let name_field = format!("kvsname={name}");
    match (words[0], dialect) {
        ("cmd=init", _) if line != "cmd=init pmi_version=1 pmi_subversion=1" => {
            panic!("Slurm expects exactly this line: {line}")
        }
        ("cmd=init", Slurm | Flux) => {
            "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1".into()
        }
        ("cmd=init", _) => "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0".into(),
        ("cmd=get_maxes", _) => format!("cmd=maxes {maxes}"),
        ("cmd=get_my_kvsname", Hydra | HydraFound) => format!("cmd=my_kvsname kvsname={name}"),
        ("cmd=get_my_kvsname", _) => format!("cmd=my_kvsname rc=0 kvsname={name}"),
        ("cmd=put", _) if words[1] == name_field && words.len() == 4 => {
            let (key, value) = (field(2), field(3));
            assert!(key.len() < 64 && value.len() < 1024);
            store(Change::Put(key, value));
            match dialect {
                Hydra | HydraFound => "cmd=put_result rc=0 msg=success".into(),
                _ => "cmd=put_result rc=0".into(),
            }
        }
        ("cmd=get", _) if words[1] == name_field => match (store(Change::Get(field(2))), dialect) {
            (Some(value), Hydra) => format!("cmd=get_result rc=0 msg=success value={value}"),
            (Some(value), HydraFound) => {
                format!("cmd=get_result rc=0 msg=success value={value} found=TRUE")
            }
            (Some(value), _) => format!("cmd=get_result rc=0 value={value}"),
            (None, Hydra | HydraFound) => {
                format!("cmd=get_result rc=-1 msg=key_{}_not_found value=unknown", field(2))
            }
            (None, _) => "cmd=get_result rc=1".into(),
        },
        ("cmd=barrier_in", _) => {
            barrier.wait();
            store(Change::Publish);
            match dialect {
                Hydra => "cmd=barrier_out".into(),
                _ => "cmd=barrier_out rc=0".into(),
            }
        }
        ("cmd=finalize", Hydra) => "cmd=finalize_ack".into(),
        ("cmd=finalize", _) => "cmd=finalize_ack rc=0".into(),
        _ => panic!("unknown request {line}"),
    }
}
