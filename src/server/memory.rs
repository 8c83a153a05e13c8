//! How much memory the process may use, and what each shard gets of it.
//!
//! ```text
//! ringspun.memory.bytes          the whole process; default: a quarter of min(RAM, cgroup limit)
//!   - PROCESS_BASE_BYTES         code, control thread, metadata store, allocator slack
//!   = shards * shard_bytes
//!       of which request_reserve_bytes   set aside for the oldest incomplete request (socket.request.max.bytes)
//!       and pool_bytes                   everything else: requests, replies, indexes, caches
//! ```
//! A shard sets one largest request aside so that requests which together fill the pool cannot all wait
//! for each other; so it needs at least that and [`SHARD_POOL_MIN_BYTES`].

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::error::{StartError, size};

const MIB: u64 = 1 << 20;

/// Taken off the top, whatever the number of shards.
pub const PROCESS_BASE_BYTES: u64 = 24 * MIB;

/// The least that a shard needs besides its largest request: its rings, receive buffers and indexes.
pub const SHARD_POOL_MIN_BYTES: u64 = 8 * MIB;

/// The default budget is this part of the memory the process may use.
pub const DEFAULT_FRACTION: u64 = 4;

/// Where the budget comes from; for the log line and for the text of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetSource {
    Setting,
    /// A quarter of the machine's memory.
    Ram,
    /// A quarter of the limit of the cgroup (or of one above it).
    Cgroup,
}

/// The memory of the process, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    pub total_bytes: u64,
    pub source: BudgetSource,
    /// What one shard may use: `request_reserve_bytes + pool_bytes`.
    pub shard_bytes: u64,
    /// Set aside for the oldest incomplete request of a shard.
    pub request_reserve_bytes: u64,
    pub pool_bytes: u64,
}

/// The memory that this machine and this process's cgroup allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    pub ram_bytes: u64,
    /// The smallest limit on the way from our cgroup to the root.
    pub cgroup_bytes: Option<u64>,
}

impl MemoryLimits {
    /// Reads `/proc/meminfo` and the limits of cgroup v2 and v1.
    pub fn read() -> Result<Self, StartError> {
        let meminfo = fs::read_to_string("/proc/meminfo").map_err(|error| StartError::Probe {
            what: "/proc/meminfo cannot be read".into(),
            error,
            remedy: "mount /proc".into(),
        })?;
        let ram_bytes = ram_bytes(&meminfo).ok_or_else(|| StartError::Setting {
            name: "ringspun.memory.bytes",
            why: "/proc/meminfo does not say how much memory there is".into(),
            remedy: "set it".into(),
        })?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Ok(Self {
            ram_bytes,
            cgroup_bytes: cgroup_limit(&own, Path::new("/sys/fs/cgroup")),
        })
    }
}

/// Divides the memory, or refuses with the arithmetic when it does not suffice.
///
/// `setting_bytes` is `ringspun.memory.bytes`, 0 for the default.
pub fn plan(
    setting_bytes: u64,
    limits: MemoryLimits,
    shards: usize,
    request_max_bytes: u64,
) -> Result<MemoryPlan, StartError> {
    assert!(shards > 0);
    let cgroup = limits
        .cgroup_bytes
        .filter(|&limit| limit < limits.ram_bytes);
    let (total_bytes, source) = match (setting_bytes, cgroup) {
        (0, Some(limit)) => (limit / DEFAULT_FRACTION, BudgetSource::Cgroup),
        (0, None) => (limits.ram_bytes / DEFAULT_FRACTION, BudgetSource::Ram),
        (bytes, _) => (bytes, BudgetSource::Setting),
    };
    // In 128 bits, where no setting can overflow it.
    let needed = (u128::from(request_max_bytes) + u128::from(SHARD_POOL_MIN_BYTES))
        * shards as u128
        + u128::from(PROCESS_BASE_BYTES);
    if u128::from(total_bytes) < needed {
        let needed = u64::try_from(needed).unwrap_or(u64::MAX);
        let origin = match source {
            BudgetSource::Setting => "it is set to".to_string(),
            BudgetSource::Ram => format!("a quarter of {} of RAM is", size(limits.ram_bytes)),
            BudgetSource::Cgroup => format!(
                "a quarter of the cgroup's limit of {} is",
                size(limits.cgroup_bytes.unwrap_or_default())
            ),
        };
        return Err(StartError::Setting {
            name: "ringspun.memory.bytes",
            why: format!(
                "{origin} {}, but {shards} shards x ({} socket.request.max.bytes + {} buffers) + {} process = {}",
                size(total_bytes),
                size(request_max_bytes),
                size(SHARD_POOL_MIN_BYTES),
                size(PROCESS_BASE_BYTES),
                size(needed),
            ),
            remedy: format!(
                "set it to at least {needed}, or lower socket.request.max.bytes or ringspun.cores"
            ),
        });
    }
    let shard_bytes = (total_bytes - PROCESS_BASE_BYTES) / shards as u64;
    Ok(MemoryPlan {
        total_bytes,
        source,
        shard_bytes,
        request_reserve_bytes: request_max_bytes,
        pool_bytes: shard_bytes - request_max_bytes,
    })
}
fn ram_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The smallest memory limit of our cgroup and those above it; `own` is `/proc/self/cgroup`.
///
/// Lines are `hierarchy:controllers:path`: an empty list of controllers is v2, one with `memory` is v1.
/// In a container the path often cannot be seen under the mount; then the mount's root is our own group.
fn cgroup_limit(own: &str, mount: &Path) -> Option<u64> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let (root, file) = match controllers {
                "" => (mount.to_path_buf(), "memory.max"),
                list if list.split(',').any(|c| c == "memory") => {
                    (mount.join("memory"), "memory.limit_in_bytes")
                }
                _ => return None,
            };
            smallest_limit(&root, path, file)
        })
        .min()
}

fn smallest_limit(root: &Path, path: &str, file: &str) -> Option<u64> {
    // A path with `..` lies outside of what we can see.
    let parts: PathBuf = Path::new(path)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    let mut smallest: Option<u64> = None;
    for ancestor in parts.ancestors() {
        let limit = fs::read_to_string(root.join(ancestor).join(file))
            .ok()
            // v2 says "max" for no limit; v1 a number near 2^63, which no RAM exceeds.
            .and_then(|text| text.trim().parse::<u64>().ok());
        smallest = [smallest, limit].into_iter().flatten().min();
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn limits(ram_bytes: u64, cgroup_bytes: Option<u64>) -> MemoryLimits {
        MemoryLimits {
            ram_bytes,
            cgroup_bytes,
        }
    }

    #[test]
    fn the_default_is_a_quarter_of_the_smaller_of_ram_and_cgroup() {
        let request = 100 * MIB;
        let by_ram = plan(0, limits(8 * GIB, Some(1 << 62)), 2, request).unwrap();
        assert_eq!(
            (by_ram.total_bytes, by_ram.source),
            (2 * GIB, BudgetSource::Ram)
        );
        let by_cgroup = plan(0, limits(8 * GIB, Some(4 * GIB)), 2, request).unwrap();
        assert_eq!(
            (by_cgroup.total_bytes, by_cgroup.source),
            (GIB, BudgetSource::Cgroup)
        );
        assert_eq!(by_cgroup.shard_bytes, (GIB - PROCESS_BASE_BYTES) / 2);
        assert_eq!(by_cgroup.pool_bytes + request, by_cgroup.shard_bytes);
    }

    #[test]
    fn too_little_for_the_shards_is_refused_with_the_arithmetic() {
        let error = plan(200 * MIB, limits(8 * GIB, None), 2, 100 * MIB).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ringspun.memory.bytes: it is set to 200 MiB, but 2 shards x (100 MiB socket.request.max.bytes + \
             8 MiB buffers) + 24 MiB process = 240 MiB; set it to at least 251658240, or lower \
             socket.request.max.bytes or ringspun.cores"
        );
        let exact = plan(251658240, limits(8 * GIB, None), 2, 100 * MIB).unwrap();
        assert_eq!(exact.pool_bytes, SHARD_POOL_MIN_BYTES);
    }

    #[test]
    fn absurd_settings_do_not_overflow() {
        assert!(plan(u64::MAX, limits(GIB, None), 1024, u64::MAX).is_err());
        assert!(plan(u64::MAX, limits(GIB, None), 1, 1).is_ok());
    }

    #[test]
    fn the_tightest_cgroup_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/b/memory.max", "max\n");
        write("memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(cgroup_limit("0::/a/b\n", root.path()), Some(1000));
        assert_eq!(
            cgroup_limit("4:cpu,memory:/x\n", root.path()),
            Some(9223372036854771712)
        );
        assert_eq!(
            cgroup_limit("4:cpu,memory:/x\n0::/a/b\n", root.path()),
            Some(1000)
        );
        assert_eq!(cgroup_limit("0::/../../etc\n", root.path()), None);
        assert_eq!(cgroup_limit("nonsense", root.path()), None);
        // A container sees its own group at the root of the mount.
        write("memory.max", "500");
        assert_eq!(
            cgroup_limit("0::/docker/not-visible\n", root.path()),
            Some(500)
        );
    }

    #[test]
    fn ram_is_read_from_meminfo() {
        assert_eq!(
            ram_bytes("MemTotal:        8 kB\nMemFree: 1 kB\n"),
            Some(8192)
        );
        assert_eq!(ram_bytes("MemFree: 1 kB\n"), None);
        assert!(MemoryLimits::read().unwrap().ram_bytes > MIB);
    }

    #[test]
    fn sizes_print_in_the_largest_unit_that_fits() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(24 * MIB), "24 MiB");
        assert_eq!(size(GIB + GIB / 2), "1.5 GiB");
    }
}
