//! The machine, as far as figures depend on it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Written into every report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gb: f64,
    /// Whether the processor says it is a virtual one.
    pub virtual_machine: bool,
    pub kernel: String,
    /// Where the brokers keep their data: device, file system, mount options.
    pub mount: String,
    /// Scheduler and rotation of that device, where they can be seen.
    pub governor: String,
    pub transparent_huge_pages: String,
    /// `vm.dirty_background_ratio`, `vm.dirty_ratio`.
    pub dirty_ratios: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Machine {
    pub fn look(data: &Path) -> Machine {
        let cpu_info = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpu_info.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": "))
                .map_or("", |(_, value)| value)
        };
        let memory = read("/proc/meminfo");
        let memory = memory
            .split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse::<f64>().ok());
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Machine {
            cpu: field("model name").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: memory.unwrap_or(0.0) * 1024.0 / 1e9,
            virtual_machine: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease"),
            mount: mount_of(&read("/proc/self/mountinfo"), data).unwrap_or_default(),
            governor: if governor.is_empty() {
                "not visible".to_owned()
            } else {
                governor
            },
            transparent_huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            dirty_ratios: format!(
                "{}, {}",
                read("/proc/sys/vm/dirty_background_ratio"),
                read("/proc/sys/vm/dirty_ratio")
            ),
        }
    }

    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let kind = if self.virtual_machine {
            ", virtual machine"
        } else {
            ""
        };
        vec![
            ("CPU", format!("{}, {} cores{kind}", self.cpu, self.cores)),
            ("memory", format!("{:.1} GB", self.memory_gb)),
            ("kernel", self.kernel.clone()),
            ("data on", self.mount.clone()),
            ("frequency governor", self.governor.clone()),
            (
                "transparent huge pages",
                self.transparent_huge_pages.clone(),
            ),
            (
                "vm.dirty_background_ratio, vm.dirty_ratio",
                self.dirty_ratios.clone(),
            ),
        ]
    }
}

/// `device type options` of the mount that holds `path`.
fn mount_of(mount_info: &str, path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = mount_info.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let (point, options) = (*before.get(4)?, *before.get(5)?);
        path.starts_with(point).then(|| {
            let mut after = after.split(' ');
            let (kind, device) = (after.next().unwrap_or(""), after.next().unwrap_or(""));
            (
                point.len(),
                format!("{device} at {point}, {kind} ({options})"),
            )
        })
    });
    // The last of the longest lies on top.
    mounts.max_by_key(|(len, _)| *len).map(|(_, text)| text)
}

/// What `git` says the checkout is, with a mark if it was changed.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    git(&["describe", "--always", "--dirty"]).unwrap_or_else(|| "unknown".to_owned())
}

/// `2026-11-25T10:20:30Z`.
pub fn utc_now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    utc(since.map_or(0, |since| since.as_secs()))
}

fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0, by years that begin in March.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_the_longest_that_holds_the_path() {
        let info = "20 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                    21 20 0:5 / /nonexistent rw - tmpfs none rw\n\
                    22 20 0:6 / /proc ro,nosuid shared:2 - proc proc rw\n";
        let of = |path: &str| mount_of(info, Path::new(path));
        assert_eq!(of("/proc/self"), None.or(of("/proc/1")).or(of("/proc")));
        assert_eq!(
            of("/proc").as_deref(),
            Some("proc at /proc, proc (ro,nosuid)")
        );
        assert_eq!(
            of("/usr").as_deref(),
            Some("/dev/vda at /, ext4 (rw,relatime)")
        );
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_825_600), "2000-02-29T12:00:00Z");
        assert_eq!(utc(1_795_602_030), "2026-11-25T10:20:30Z");
    }
}
