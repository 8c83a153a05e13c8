//! What is read of the machine and written to it, below a root.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use io_uring::IoUring;

use crate::base::cpu_list;

/// Nothing that is read here is larger.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// A machine: this one, or a tree that looks like one.
pub struct Machine {
    root: PathBuf,
    /// Under `/proc`, of the process whose limits count.
    process: String,
    /// The kernel's release.
    pub kernel: String,
    /// Which hypervisor this is a guest of.
    pub hypervisor: Option<String>,
    /// Which kind of container this is.
    pub container: Option<String>,
    /// Online, ascending.
    pub cpus: Vec<usize>,
    /// Those the process may run on, ascending.
    pub allowed_cpus: Vec<usize>,
    /// Whether a ring can be made; `None` where that cannot be tried.
    pub ring: Option<Result<(), String>>,
}

impl Machine {
    /// The machine this runs on, with the limits of the process `pid`, or of this one.
    pub fn here(pid: Option<u32>) -> Result<Self, String> {
        let mut machine = Self::below(Path::new("/"), pid)?;
        machine.ring = Some(IoUring::new(8).map(drop).map_err(|e| e.to_string()));
        Ok(machine)
    }

    /// The machine whose `/proc`, `/sys` and so on are in the folder `root`.
    pub fn below(root: &Path, pid: Option<u32>) -> Result<Self, String> {
        let mut machine = Self {
            root: root.to_path_buf(),
            process: pid.map_or("self".into(), |pid| pid.to_string()),
            kernel: String::new(),
            hypervisor: None,
            container: None,
            cpus: Vec::new(),
            allowed_cpus: Vec::new(),
            ring: None,
        };
        machine.kernel = machine
            .text("/proc/sys/kernel/osrelease")
            .unwrap_or_default();
        machine.hypervisor = machine.find_hypervisor();
        machine.container = machine.find_container();
        let online = machine.text("/sys/devices/system/cpu/online");
        machine.cpus = online
            .and_then(|list| cpu_list::parse(&list))
            .filter(|cpus| !cpus.is_empty())
            .ok_or(
                "/sys/devices/system/cpu/online does not say which CPUs there are: mount /sys",
            )?;
        let status = machine.process_text("status").ok_or_else(|| match pid {
            Some(pid) => format!("there is no process {pid}"),
            None => "/proc/self/status cannot be read: mount /proc".into(),
        })?;
        machine.allowed_cpus = field(&status, "Cpus_allowed_list:")
            .and_then(cpu_list::parse)
            .unwrap_or_else(|| machine.cpus.clone());
        Ok(machine)
    }

    /// Where `path` of the machine lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of a file without white space around it; `None` when it cannot be read.
    pub fn text(&self, path: &str) -> Option<String> {
        let file = fs::File::open(self.path(path)).ok()?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, TEXT_BYTES_MAX), &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_string())
    }

    /// What holds in a file of the kernel: of a list of choices the one in brackets.
    pub fn value(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(chosen, _)| chosen.to_string());
        Some(chosen.unwrap_or(text))
    }

    /// What may be chosen in a file that lists choices.
    pub fn choices(&self, path: &str) -> Vec<String> {
        let text = self.text(path).unwrap_or_default();
        let words = text.split_whitespace();
        words
            .map(|word| word.trim_matches(['[', ']']).to_string())
            .collect()
    }

    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A file of `/proc/PID` of the process that counts.
    pub fn process_text(&self, name: &str) -> Option<String> {
        self.text(&format!("/proc/{}/{name}", self.process))
    }

    /// What is in a folder, numbers in their order; nothing if there is no such folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_by_key(|name| {
            let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let number: u64 = name[letters.len()..].parse().unwrap_or(0);
            (letters.to_string(), number, name.clone())
        });
        names
    }

    /// Where a link leads, as a path of the machine.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let root = self.root.canonicalize().ok()?;
        let full = self.path(path).canonicalize().ok()?;
        let within = full.strip_prefix(&root).ok()?;
        Some(format!("/{}", within.to_str()?))
    }

    /// Writes a file of the kernel, which must be there.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.path(path))?;
        file.write_all(value.as_bytes())
    }

    /// Of this start of the kernel.
    pub fn boot_id(&self) -> String {
        self.text("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
    }

    /// Whether a program of this name runs.
    pub fn runs(&self, name: &str) -> bool {
        self.names("/proc")
            .iter()
            .filter(|entry| entry.bytes().all(|b| b.is_ascii_digit()))
            .any(|pid| self.text(&format!("/proc/{pid}/comm")).as_deref() == Some(name))
    }

    fn find_hypervisor(&self) -> Option<String> {
        let cpuinfo = self.text("/proc/cpuinfo").unwrap_or_default();
        let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
        let flagged = flags
            .next()
            .is_some_and(|line| line.split_whitespace().any(|f| f == "hypervisor"));
        let vendor = self
            .text("/sys/class/dmi/id/sys_vendor")
            .unwrap_or_default();
        let product = self
            .text("/sys/class/dmi/id/product_name")
            .unwrap_or_default();
        let named = match (vendor.as_str(), product.as_str()) {
            (_, "KVM") | ("QEMU", _) => Some("KVM"),
            ("Amazon EC2", product) if !product.contains("metal") => Some("Amazon EC2"),
            ("Google", _) => Some("Google"),
            ("VMware, Inc.", _) => Some("VMware"),
            ("Microsoft Corporation", "Virtual Machine") => Some("Hyper-V"),
            ("Xen", _) => Some("Xen"),
            ("innotek GmbH", _) => Some("VirtualBox"),
            _ => None,
        };
        let kind = self.text("/sys/hypervisor/type");
        match (named, kind) {
            (Some(name), _) => Some(name.to_string()),
            (None, Some(kind)) if !kind.is_empty() => Some(kind),
            (None, _) if flagged => {
                let clocks =
                    self.text("/sys/devices/system/clocksource/clocksource0/available_clocksource");
                let kvm = clocks.is_some_and(|clocks| clocks.contains("kvm-clock"));
                Some(if kvm { "KVM" } else { "of unknown kind" }.into())
            }
            (None, _) => None,
        }
    }

    fn find_container(&self) -> Option<String> {
        if let Some(kind) = self
            .text("/run/systemd/container")
            .filter(|kind| !kind.is_empty())
        {
            return Some(kind);
        }
        if self.exists("/.dockerenv") {
            return Some("docker".into());
        }
        if self.exists("/run/.containerenv") {
            return Some("podman".into());
        }
        let first = self.text("/proc/1/environ").unwrap_or_default();
        let named = first
            .split('\0')
            .find_map(|entry| entry.strip_prefix("container="));
        if let Some(kind) = named.filter(|kind| !kind.is_empty()) {
            return Some(kind.to_string());
        }
        let groups = self.text("/proc/1/cgroup").unwrap_or_default();
        ["kubepods", "docker", "lxc", "containerd"]
            .into_iter()
            .find(|kind| groups.contains(kind))
            .map(Into::into)
    }
}

/// What follows `name` at the beginning of a line.
pub fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}
