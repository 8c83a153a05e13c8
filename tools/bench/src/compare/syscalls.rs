//! How often a broker calls into the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::sys;
use super::target::Broker;

/// Counts the calls into the kernel of a broker, by perf.
pub(super) struct Syscalls {
    perf: Child,
    file: PathBuf,
}

impl Syscalls {
    /// None where perf is not there, or may not.
    pub(super) fn count(broker: &Broker, folder: &Path) -> Option<Syscalls> {
        let file = folder.join("syscalls");
        let mut command = Command::new("perf");
        command
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"])
            .arg(broker.pid().to_string())
            .arg("-o")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::contain(&mut command, None);
        let perf = command.spawn().ok()?;
        Some(Syscalls { perf, file })
    }

    pub(super) fn finish(mut self) -> Option<u64> {
        sys::signal(self.perf.id(), Signal::INT);
        let _ = self.perf.wait();
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let _ = fs::remove_file(&self.file);
        let line = text.lines().find(|line| line.contains("raw_syscalls"))?;
        line.split(',').next()?.parse().ok()
    }
}

impl Drop for Syscalls {
    fn drop(&mut self) {
        if !matches!(self.perf.try_wait(), Ok(Some(_))) {
            let _ = self.perf.kill();
            let _ = self.perf.wait();
        }
    }
}
