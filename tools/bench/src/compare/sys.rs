//! What is asked of the kernel: where a process runs, how it ends, what a disk holds.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// CPUs, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

impl std::str::FromStr for Cores {
    type Err = String;

    /// `0`, `0,2`, `1-3`.
    fn from_str(text: &str) -> Result<Cores, String> {
        let mut cores = Vec::new();
        for part in text.split(',') {
            let number = |text: &str| {
                let parsed = text.trim().parse::<usize>().ok();
                parsed.filter(|core| *core < 1024).ok_or_else(|| {
                    format!("{text:?} is not the number of a core; write 0 or 0,2 or 1-3")
                })
            };
            match part.split_once('-') {
                Some((first, last)) => cores.extend(number(first)?..=number(last)?),
                None => cores.push(number(part)?),
            }
        }
        cores.sort_unstable();
        cores.dedup();
        if cores.is_empty() {
            return Err(format!("{text:?} names no core"));
        }
        Ok(Cores(cores))
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

impl Cores {
    fn set(&self) -> rustix::thread::CpuSet {
        let mut set = rustix::thread::CpuSet::new();
        for core in &self.0 {
            set.set(*core);
        }
        set
    }

    /// Those of them that this process may not run on.
    pub fn missing(&self) -> io::Result<Vec<usize>> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let refused = self.0.iter().copied().filter(|core| !allowed.is_set(*core));
        Ok(refused.collect())
    }

    /// Moves the calling thread there.
    pub fn pin(&self) -> io::Result<()> {
        Ok(rustix::thread::sched_setaffinity(None, &self.set())?)
    }
}

/// The process is to run on these cores, in a process group of its own so that Ctrl-C reaches us alone,
/// and to end when the calling thread does, however that happens.
pub fn contain(command: &mut Command, cores: Option<&Cores>) {
    command.process_group(0);
    let set = cores.map(Cores::set);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only system calls are made, on a set that lies in the closure; none of
    // them allocates or takes a lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if let Some(set) = &set {
                rustix::thread::sched_setaffinity(None, set)?;
            }
            Ok(())
        });
    }
}

/// Takes so much memory, or half of what is free if that is less, writes to it, and gives it back.
///
/// A virtual machine returns what is free to its host; whoever touches it next waits for the host. Of two
/// brokers that write through the page cache it would be the first that pays.
pub fn touch_memory(bytes: u64) {
    let free = super::usage::free_memory_bytes() / 2;
    let Ok(bytes) = usize::try_from(bytes.min(free)) else {
        return;
    };
    drop(std::hint::black_box(vec![1u8; bytes]));
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// Sends a signal to a child that has not been waited for yet.
pub fn signal(child: u32, signal: Signal) {
    if let Some(pid) = pid(child) {
        let _ = kill_process(pid, signal);
    }
}

/// Sends a signal to a child and to those that it started in its group.
pub fn signal_group(child: u32, signal: Signal) {
    if let Some(pid) = pid(child) {
        let _ = kill_process_group(pid, signal);
    }
}

/// Set by Ctrl-C or SIGTERM, once they are caught.
static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Ctrl-C and SIGTERM no longer end this process but are remembered; [`stop_asked`] tells.
pub fn catch_stops() -> io::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, STOP.clone())?;
    }
    Ok(())
}

/// Whether somebody wants us to end.
pub fn stop_asked() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Bytes that may still be written at a path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes everything dirty of the file system of `path` to its disk.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    let folder = std::fs::File::open(path)?;
    Ok(rustix::fs::syncfs(&folder)?)
}

/// Bytes on the disk below `folder`.
pub fn folder_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Cores>().map(|cores| cores.0);
        assert_eq!(read("1"), Ok(vec![1]));
        assert_eq!(read("3,0-1"), Ok(vec![0, 1, 3]));
        for wrong in ["", "x", "1,", "5-x", "2-1", "99999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Cores(vec![0, 2]).to_string(), "0,2");
    }
}
