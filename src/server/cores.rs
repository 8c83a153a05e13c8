//! Which CPU each shard runs on.

use rustix::thread::{CpuSet, sched_getaffinity};

use super::error::StartError;
use crate::base::cpu_list;
use crate::base::settings::CoreList;

/// More shards than this are refused: each costs memory and file descriptors, and no machine has as
/// many cores.
pub const MAX_SHARDS: usize = 1024;

/// The CPU of each shard, in the order of the shards. A CPU may serve several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorePlan {
    pub cpus: Vec<usize>,
}

impl CorePlan {
    pub fn shards(&self) -> usize {
        self.cpus.len()
    }

    /// Whether some CPU serves more than one shard. Good for tests, bad for speed.
    pub fn shares_cpus(&self) -> bool {
        let mut cpus = self.cpus.clone();
        cpus.sort_unstable();
        cpus.windows(2).any(|pair| pair[0] == pair[1])
    }
}

/// The CPUs this process may run on, ascending: its affinity mask, which honours `taskset` and the
/// cpuset of its cgroup.
pub fn allowed_cpus() -> Result<Vec<usize>, StartError> {
    let set = sched_getaffinity(None).map_err(|error| StartError::Probe {
        what: "the CPUs this process may run on cannot be read".into(),
        error: error.into(),
        remedy: "list them in ringspun.cores after allowing sched_getaffinity".into(),
    })?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Places the shards.
///
/// `cores` picks CPUs out of `allowed`, one shard on each. `shards`, when it is not 0, is the number
/// of shards instead, placed round robin on the picked CPUs.
pub fn plan(cores: &CoreList, shards: u16, allowed: &[usize]) -> Result<CorePlan, StartError> {
    let refuse = |why: String| {
        Err(StartError::Setting {
            name: "ringspun.cores",
            why,
            remedy: format!(
                "this process may run on CPUs {}; name some of them, or give a count up to {}",
                cpu_list::format(allowed),
                allowed.len()
            ),
        })
    };
    let picked: Vec<usize> = match cores {
        CoreList::All => allowed.to_vec(),
        CoreList::Count(0) => return refuse("0 cores cannot run a shard".into()),
        CoreList::Count(count) if usize::from(*count) > allowed.len() => {
            return refuse(format!(
                "{count} cores are asked for and {} are there",
                allowed.len()
            ));
        }
        CoreList::Count(count) => allowed[..usize::from(*count)].to_vec(),
        CoreList::These(cpus) => {
            let missing: Vec<usize> = cpus
                .iter()
                .map(|&cpu| usize::from(cpu))
                .filter(|cpu| !allowed.contains(cpu))
                .collect();
            if !missing.is_empty() {
                return refuse(format!(
                    "CPU {} is not one this process may run on",
                    cpu_list::format(&missing)
                ));
            }
            cpus.iter().map(|&cpu| usize::from(cpu)).collect()
        }
    };
    if picked.is_empty() {
        return refuse("no core is left to run a shard".into());
    }
    let shards = match shards {
        0 => picked.len(),
        n => usize::from(n),
    };
    if shards > MAX_SHARDS {
        return Err(StartError::Setting {
            name: "ringspun.shards",
            why: format!("{shards} shards are more than {MAX_SHARDS}"),
            remedy: "run one shard a core".into(),
        });
    }
    Ok(CorePlan {
        cpus: (0..shards).map(|i| picked[i % picked.len()]).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_every_allowed_cpu_runs_one_shard() {
        let plan = plan(&CoreList::All, 0, &[1, 3, 4]).unwrap();
        assert_eq!(plan.cpus, [1, 3, 4]);
        assert!(!plan.shares_cpus());
    }

    #[test]
    fn a_count_takes_the_first_and_refuses_more_than_there_are() {
        assert_eq!(
            plan(&CoreList::Count(2), 0, &[1, 3, 4]).unwrap().cpus,
            [1, 3]
        );
        let error = plan(&CoreList::Count(4), 0, &[1, 3, 4])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("4 cores are asked for and 3 are there"),
            "{error}"
        );
        assert!(plan(&CoreList::Count(0), 0, &[1]).is_err());
    }

    #[test]
    fn a_cpu_that_is_not_allowed_is_refused_by_name() {
        let error = plan(&CoreList::These(vec![0, 1, 7]), 0, &[1, 2, 3]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("CPU 0,7 is not one") && text.contains("CPUs 1-3"),
            "{text}"
        );
    }

    #[test]
    fn more_shards_than_cores_share_them_in_turn() {
        let plan = plan(&CoreList::Count(2), 5, &[0, 1]).unwrap();
        assert_eq!(plan.cpus, [0, 1, 0, 1, 0]);
        assert!(plan.shares_cpus());
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(!allowed_cpus().unwrap().is_empty());
    }
}
