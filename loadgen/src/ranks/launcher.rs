//! Place of a rank: from the options, or from environment variables that launchers set.
//!
//! Options have priority, and the number of ranks is never guessed. Under an MPI launcher that runs
//! inside a Slurm job, every rank may have the Slurm variables of the launcher itself, so these are
//! read last. A batch script that srun(1) has not started has `SLURM_PROCID=0` and no step.

use crate::exit::{self, Failure};
use crate::ranks::args::{Count, RUN_ID_MAX, is_in_run_id};

/// Place of a rank.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Number of the rank, from 0.
    pub index: u32,
    /// Number of ranks.
    pub count: u32,
    /// Options or variables that say so.
    pub source: String,
    /// Launcher's identifier of the job, the same for all ranks.
    pub job: Option<String>,
}

/// Variables of a launcher.
struct Launcher {
    rank: &'static str,
    count: &'static str,
    /// Variables without which the others have another meaning.
    companions: &'static [&'static str],
    /// Variables that together identify the job.
    job: &'static [&'static str],
    /// True if it may itself be a task of Slurm.
    inside_slurm: bool,
}

const SLURM: &str = "SLURM_PROCID";

/// The launchers that set rank and number, in order of priority.
const LAUNCHERS: [Launcher; 8] = [
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        count: "OMPI_COMM_WORLD_SIZE",
        companions: &[],
        job: &["PMIX_NAMESPACE"],
        inside_slurm: true,
    },
    // MPICH, Intel MPI, Slurm's plugin pmi2.
    Launcher { rank: "PMI_RANK", count: "PMI_SIZE", companions: &[], job: &[], inside_slurm: true },
    Launcher {
        rank: "FLUX_TASK_RANK",
        count: "FLUX_JOB_SIZE",
        companions: &[],
        job: &["FLUX_JOB_ID"],
        inside_slurm: true,
    },
    // LSF's jsrun.
    Launcher {
        rank: "JSM_NAMESPACE_RANK",
        count: "JSM_NAMESPACE_SIZE",
        companions: &[],
        job: &[],
        inside_slurm: true,
    },
    Launcher {
        rank: SLURM,
        count: "SLURM_STEP_NUM_TASKS",
        companions: &["SLURM_STEP_ID"],
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
        inside_slurm: false,
    },
    // A multi-node job of AWS Batch, then an array.
    Launcher {
        rank: "AWS_BATCH_JOB_NODE_INDEX",
        count: "AWS_BATCH_JOB_NUM_NODES",
        companions: &[],
        job: &[],
        inside_slurm: false,
    },
    Launcher {
        rank: "AWS_BATCH_JOB_ARRAY_INDEX",
        count: "AWS_BATCH_JOB_ARRAY_SIZE",
        companions: &[],
        job: &[],
        inside_slurm: false,
    },
    // torchrun; other programs use these names, too.
    Launcher {
        rank: "RANK",
        count: "WORLD_SIZE",
        companions: &["LOCAL_RANK", "GROUP_RANK"],
        job: &[],
        inside_slurm: false,
    },
];

/// Variables with a rank, beside which nothing says the number of ranks: of PMIx, of an Indexed Job
/// of Kubernetes, of Nomad.
const INDICES: [&str; 3] = ["PMIX_RANK", "JOB_COMPLETION_INDEX", "NOMAD_ALLOC_INDEX"];

/// Returns the place that the options `rank` and `count` and the environment determine. `variable`
/// returns the value of an environment variable.
///
/// # Errors
///
/// [`exit::USAGE`] if rank or number is unknown or malformed, the rank is not below the number, or
/// two launchers contradict each other.
pub fn place(
    rank: Option<u32>,
    count: Count,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Place, Failure> {
    let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let place = match (rank, count) {
        (Some(index), Count::Fixed(count)) => {
            Place { index, count, source: "--rank".to_owned(), job: None }
        }
        (Some(rank), Count::Auto) => {
            return Err(usage(format!("--rank {rank} needs the number of ranks: --ranks N")));
        }
        (None, Count::Auto) => of_launcher(&variable)?.ok_or_else(|| unknown(&variable))?,
        (None, Count::Fixed(count)) => match of_launcher(&variable)? {
            Some(place) if place.count == count => place,
            Some(place) => {
                let Place { count: found, source, .. } = place;
                let error = format!("--ranks {count}, but the launcher started {found} ({source})");
                return Err(usage(error).hint("give --rank, too, if that is right"));
            }
            None => of_index(count, &variable)?,
        },
    };
    let Place { index, count, source, .. } = &place;
    match index < count {
        true => Ok(place),
        false => Err(usage(format!("rank {index} of {count}: ranks are from 0 ({source})"))),
    }
}

/// Returns the place by the first launcher whose variables are set.
fn of_launcher(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Place>, Failure> {
    let mut found: Option<(&Launcher, Place)> = None;
    for launcher in &LAUNCHERS {
        if launcher.companions.iter().any(|name| variable(name).is_none()) {
            continue;
        }
        let (index, count) = match (variable(launcher.rank), variable(launcher.count)) {
            (None, _) => continue,
            (Some(index), Some(count)) => {
                (number(launcher.rank, &index)?, number(launcher.count, &count)?)
            }
            // The number of another launcher is not that of this one.
            (Some(_), None) if found.is_some() => continue,
            (Some(_), None) => {
                let error = format!("{} is set, but {} is not", launcher.rank, launcher.count);
                return Err(usage(error).hint("give the number of ranks with --rank and --ranks"));
            }
        };
        let source = format!("{}, {}", launcher.rank, launcher.count);
        let job: Option<Vec<String>> = launcher.job.iter().map(|name| variable(name)).collect();
        let job = job.filter(|parts| !parts.is_empty()).map(|parts| identifier(&parts.join(".")));
        let place = Place { index, count, source, job };
        match &found {
            None => found = Some((launcher, place)),
            Some((first, _)) if first.inside_slurm && launcher.rank == SLURM => {}
            Some((_, first)) if (first.index, first.count) == (index, count) => {}
            Some((_, first)) => {
                let error = format!(
                    "two launchers contradict each other: {} of {} ({}), {index} of {count} ({})",
                    first.index, first.count, first.source, place.source
                );
                return Err(usage(error).hint("give --rank and --ranks"));
            }
        }
    }
    Ok(found.map(|(_, place)| place))
}

/// Returns the place by a variable with a rank, of this number of ranks.
fn of_index(count: u32, variable: &impl Fn(&str) -> Option<String>) -> Result<Place, Failure> {
    let mut found: Option<Place> = None;
    for name in INDICES {
        let Some(value) = variable(name) else { continue };
        let index = number(name, &value)?;
        let source = format!("{name}, --ranks");
        match &found {
            None => found = Some(Place { index, count, source, job: None }),
            Some(first) if first.index == index => {}
            Some(first) => {
                let (before, source) = (first.index, &first.source);
                let error = format!("two ranks: {before} ({source}), {index} ({name})");
                return Err(usage(error).hint("give --rank"));
            }
        }
    }
    found.ok_or_else(|| {
        usage(format!("--ranks {count} needs the rank: --rank K"))
            .hint("the environment has none of a known launcher")
    })
}

/// The failure if no launcher has set both rank and number.
fn unknown(variable: &impl Fn(&str) -> Option<String>) -> Failure {
    let index = INDICES.into_iter().find(|name| variable(name).is_some());
    let (cause, hint) = if let Some(name) = index {
        (format!("{name} is set, but nothing says the number of ranks"), "give it: --ranks N")
    } else if variable("SLURM_JOB_ID").is_some() {
        ("this is a job of Slurm, but no task of a step".to_owned(), "start it with srun")
    } else {
        let cause = "the environment has no rank and number of a known launcher";
        (cause.to_owned(), "give --rank K --ranks N")
    };
    usage(format!("--ranks auto: {cause}")).hint(hint)
}

fn number(name: &str, value: &str) -> Result<u32, Failure> {
    value.trim().parse().map_err(|_| usage(format!("{name} is {value:?}, not a number of a rank")))
}

/// Makes an identifier of a run from that of a job.
pub(super) fn identifier(job: &str) -> String {
    job.chars().map(|c| if is_in_run_id(c) { c } else { '_' }).take(RUN_ID_MAX).collect()
}

fn usage(error: String) -> Failure {
    Failure::new(exit::USAGE, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place with options as on a command line and an environment `A=1 B=2`.
    fn found(options: &str, environment: &str) -> Result<Place, Failure> {
        let words: Vec<&str> = options.split(' ').collect();
        let value =
            |name| words.iter().position(|word| *word == name).map(|position| words[position + 1]);
        let rank = value("--rank").map(|rank| rank.parse().unwrap());
        let count = match value("--ranks").unwrap() {
            "auto" => Count::Auto,
            count => Count::Fixed(count.parse().unwrap()),
        };
        place(rank, count, |name| {
            let variables = environment.split_whitespace();
            let mut pairs = variables.map(|variable| variable.split_once('=').unwrap());
            Some(pairs.find(|(found, _)| *found == name)?.1.to_owned())
        })
    }

    #[track_caller]
    fn assert_found(options: &str, environment: &str, index: u32, count: u32, source: &str) {
        let place = found(options, environment).unwrap();
        assert_eq!((place.index, place.count, &*place.source), (index, count, source));
    }

    #[track_caller]
    fn assert_refused(options: &str, environment: &str, words: &str) {
        let failure = found(options, environment).unwrap_err();
        assert_eq!(failure.code, exit::USAGE);
        assert!(failure.error.contains(words), "{failure:?}");
    }

    const OMPI: &str = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4";
    const PMI: &str = "PMI_RANK=2 PMI_SIZE=5";
    const FLUX: &str = "FLUX_TASK_RANK=3 FLUX_JOB_SIZE=6";
    const JSM: &str = "JSM_NAMESPACE_RANK=4 JSM_NAMESPACE_SIZE=7";
    const STEP: &str = "SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 SLURM_STEP_ID=0 SLURM_JOB_ID=4711";
    const NODES: &str = "AWS_BATCH_JOB_NODE_INDEX=6 AWS_BATCH_JOB_NUM_NODES=9";
    const ARRAY: &str = "AWS_BATCH_JOB_ARRAY_INDEX=7 AWS_BATCH_JOB_ARRAY_SIZE=10";
    const TORCH: &str = "RANK=8 WORLD_SIZE=11 LOCAL_RANK=0 GROUP_RANK=0";

    #[test]
    fn each_launcher_is_known() {
        for (environment, index, count, source) in [
            (OMPI, 1, 4, "OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE"),
            (PMI, 2, 5, "PMI_RANK, PMI_SIZE"),
            (FLUX, 3, 6, "FLUX_TASK_RANK, FLUX_JOB_SIZE"),
            (JSM, 4, 7, "JSM_NAMESPACE_RANK, JSM_NAMESPACE_SIZE"),
            (STEP, 5, 8, "SLURM_PROCID, SLURM_STEP_NUM_TASKS"),
            (NODES, 6, 9, "AWS_BATCH_JOB_NODE_INDEX, AWS_BATCH_JOB_NUM_NODES"),
            (ARRAY, 7, 10, "AWS_BATCH_JOB_ARRAY_INDEX, AWS_BATCH_JOB_ARRAY_SIZE"),
            (TORCH, 8, 11, "RANK, WORLD_SIZE"),
        ] {
            assert_found("--ranks auto", environment, index, count, source);
            assert_found(&format!("--ranks {count}"), environment, index, count, source);
            // Options have priority over any launcher.
            assert_found("--rank 0 --ranks 2", environment, 0, 2, "--rank");
            assert_refused("--ranks 3", environment, "--ranks 3, but the launcher started");
        }
    }

    #[test]
    fn rank_without_number_is_refused() {
        for launcher in LAUNCHERS {
            let companions = launcher.companions.iter().map(|name| format!("{name}=0 "));
            let environment = companions.collect::<String>() + launcher.rank + "=0";
            assert_refused("--ranks auto", &environment, &format!("{} is not", launcher.count));
            let empty = format!("{environment} {}=", launcher.count);
            assert_refused("--ranks auto", &empty, &format!("{} is not", launcher.count));
            // A number alone is no place.
            let number = format!("{}=3", launcher.count);
            assert_refused("--ranks auto", &number, "no rank and number");
        }
    }

    #[test]
    fn index_needs_the_number() {
        for name in INDICES {
            let environment = format!("{name}=1");
            assert_refused("--ranks auto", &environment, "nothing says the number of ranks");
            assert_found("--ranks 3", &environment, 1, 3, &format!("{name}, --ranks"));
            assert_refused("--ranks 1", &environment, "rank 1 of 1");
            // A launcher that sets both has priority.
            let both = format!("{environment} {PMI}");
            assert_found("--ranks auto", &both, 2, 5, "PMI_RANK, PMI_SIZE");
        }
        assert_refused("--ranks 3", "PMIX_RANK=0 JOB_COMPLETION_INDEX=1", "two ranks: 0");
        assert_found("--ranks 3", "PMIX_RANK=1 JOB_COMPLETION_INDEX=1", 1, 3, "PMIX_RANK, --ranks");
        assert_refused("--ranks 3", "", "needs the rank: --rank K");
    }

    #[test]
    fn rank_is_below_the_number() {
        assert_refused("--rank 4 --ranks 4", "", "rank 4 of 4");
        assert_refused("--ranks auto", "PMI_RANK=4 PMI_SIZE=4", "rank 4 of 4");
        assert_refused("--ranks auto", "PMI_RANK=0 PMI_SIZE=0", "rank 0 of 0");
        assert_found("--rank 3 --ranks 4", "", 3, 4, "--rank");
    }

    #[test]
    fn malformed_numbers_are_refused() {
        for value in ["-1", "x", "1.5", "4294967296", "0x1"] {
            let words = format!("PMI_RANK is {value:?}");
            assert_refused("--ranks auto", &format!("PMI_RANK={value} PMI_SIZE=4"), &words);
            let words = format!("PMI_SIZE is {value:?}");
            assert_refused("--ranks auto", &format!("PMI_RANK=0 PMI_SIZE={value}"), &words);
        }
    }

    #[test]
    fn slurm_needs_a_step() {
        // A batch script without srun.
        let script = "SLURM_JOB_ID=7 SLURM_PROCID=0 SLURM_NTASKS=4";
        assert_refused("--ranks auto", script, "no task of a step");
        // SLURM_NTASKS is that of the job, not of the step.
        let step = format!("{STEP} SLURM_NTASKS=64");
        assert_found("--ranks auto", &step, 5, 8, "SLURM_PROCID, SLURM_STEP_NUM_TASKS");
        assert_eq!(found("--ranks auto", STEP).unwrap().job.as_deref(), Some("4711.0"));
    }

    #[test]
    fn slurm_variables_of_an_mpi_launcher_are_ignored() {
        let slurm = "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_STEP_ID=0";
        for (environment, index, count) in [(OMPI, 1, 4), (PMI, 2, 5), (FLUX, 3, 6), (JSM, 4, 7)] {
            let place = found("--ranks auto", &format!("{slurm} {environment}")).unwrap();
            assert_eq!((place.index, place.count), (index, count));
        }
    }

    #[test]
    fn contradicting_launchers_are_refused() {
        let all = [OMPI, PMI, FLUX, JSM, STEP, NODES, ARRAY, TORCH];
        for (place, first) in all.iter().enumerate() {
            for second in &all[place + 1..] {
                let environment = format!("{second} {first}");
                match (place, *second == STEP) {
                    (..4, true) => assert!(found("--ranks auto", &environment).is_ok()),
                    _ => assert_refused("--ranks auto", &environment, "contradict each other"),
                }
                let options = found("--rank 1 --ranks 3", &environment).unwrap();
                assert_eq!((options.index, options.count), (1, 3));
            }
        }
        // srun --mpi=pmi2 sets both, and they agree.
        let both = "SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=5 SLURM_STEP_ID=0 SLURM_JOB_ID=7";
        assert_found("--ranks auto", &format!("{both} {PMI}"), 2, 5, "PMI_RANK, PMI_SIZE");
        // A launcher that sets a rank alone does not contradict.
        let rank = format!("{OMPI} FLUX_TASK_RANK=9");
        assert_found("--ranks auto", &rank, 1, 4, "OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE");
    }

    #[test]
    fn generic_names_need_their_companions() {
        assert_refused("--ranks auto", "RANK=0 WORLD_SIZE=2", "no rank and number");
        assert_refused("--ranks auto", "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0", "no rank and number");
    }

    #[test]
    fn rank_option_needs_the_number() {
        assert_refused("--rank 0 --ranks auto", PMI, "--ranks N");
    }

    #[test]
    fn job_of_the_launcher_identifies_the_run() {
        let job = |environment: &str| found("--ranks auto", environment).unwrap().job;
        let open_mpi = format!("{OMPI} PMIX_NAMESPACE=prterun-n1-77@1");
        assert_eq!(job(&open_mpi).as_deref(), Some("prterun-n1-77_1"));
        assert_eq!(job(OMPI), None);
        assert_eq!(job(&format!("{FLUX} FLUX_JOB_ID=ƒabc")).as_deref(), Some("_abc"));
        assert_eq!(job(PMI), None);
        assert_eq!(job("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_STEP_ID=3"), None);
        let long = format!("{OMPI} PMIX_NAMESPACE={}", "x".repeat(99));
        assert_eq!(job(&long).map(|job| job.len()), Some(RUN_ID_MAX));
    }
}
