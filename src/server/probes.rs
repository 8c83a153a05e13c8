//! Whether the machine lets us run, asked before anything is opened.
//!
//! Each probe answers with a fact or with a [`StartError`] that names the setting to change. Nothing here
//! changes the machine, except that the soft limits of the process are raised to its hard ones.

use std::fs;
use std::io;
use std::path::Path;

use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{StartError, size};

/// What the executor demands; below it, it exits.
pub const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// Fewer open files than this make a warning: each connection and each open segment takes one.
pub const OPEN_FILES_ADVISED: u64 = 10_000;

/// Fewer than this cannot even run the shards.
pub const OPEN_FILES_MIN: u64 = 256;

/// Less free space than this in a data directory makes a warning.
pub const FREE_BYTES_ADVISED: u64 = 1 << 30;

/// Proves that io_uring may be used and knows the operations we need.
pub fn io_uring() -> Result<(), StartError> {
    let ring = IoUring::new(8).map_err(|error| {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .is_ok_and(|value| value.trim() != "0");
        let remedy = match error.raw_os_error() {
            Some(libc::EPERM) if disabled => "set sysctl kernel.io_uring_disabled=0",
            Some(libc::EPERM) | Some(libc::EACCES) => {
                "allow the io_uring system calls, which this container's seccomp profile or a security module forbids \
                 (docker: --security-opt seccomp=unconfined, or a profile with io_uring_setup, _enter, _register)"
            }
            Some(libc::ENOSYS) => "run a Linux kernel from 5.11 on that is built with CONFIG_IO_URING",
            Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l, LimitMEMLOCK)",
            Some(libc::EMFILE) | Some(libc::ENFILE) => "raise the limit of open files (ulimit -n)",
            _ => "run a Linux kernel from 5.11 on",
        };
        StartError::Probe {
            what: "io_uring is not available".into(),
            error,
            remedy: remedy.into(),
        }
    })?;
    let mut probe = Probe::new();
    let known = ring.submitter().register_probe(&mut probe).is_ok();
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::Splice::CODE,
        opcode::UnlinkAt::CODE,
        opcode::PollAdd::CODE,
    ];
    if !known || !needed.iter().all(|&code| probe.is_supported(code)) {
        return Err(StartError::Probe {
            what: "io_uring of this kernel is too old".into(),
            error: io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            remedy: "run a Linux kernel from 5.11 on".into(),
        });
    }
    Ok(())
}

/// Raises the limit of locked memory as far as allowed and checks that it suffices. Returns the limit in
/// bytes, `None` for no limit.
pub fn memlock() -> Result<Option<u64>, StartError> {
    let limit = raise(Resource::Memlock);
    match limit {
        Some(bytes) if bytes < MEMLOCK_MIN_BYTES => Err(StartError::Setting {
            name: "locked memory",
            why: format!(
                "the process may lock {}, io_uring needs {}",
                size(bytes),
                size(MEMLOCK_MIN_BYTES)
            ),
            remedy: "raise it: `ulimit -l 512` or more, LimitMEMLOCK= in a systemd unit, --ulimit memlock= for docker, \
                     `memlock` in /etc/security/limits.conf"
                .into(),
        }),
        limit => Ok(limit),
    }
}

/// Raises the limit of open files to what is allowed and returns it, `None` for no limit.
pub fn open_files() -> Result<Option<u64>, StartError> {
    let limit = raise(Resource::Nofile);
    match limit {
        Some(files) if files < OPEN_FILES_MIN => Err(StartError::Setting {
            name: "open files",
            why: format!("the process may open {files} files and needs {OPEN_FILES_MIN} to start"),
            remedy: "raise it: `ulimit -Hn`, LimitNOFILE= in a systemd unit, --ulimit nofile= for docker"
                .into(),
        }),
        limit => Ok(limit),
    }
}

/// Lifts a soft limit to the hard one, where the kernel lets us, and returns what holds then.
fn raise(resource: Resource) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(resource);
    if current == maximum {
        return current;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(resource, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// The file system under a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// The kernel's number for its kind.
    magic: u64,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// Kinds of file systems by the number that statfs gives.
const FILE_SYSTEMS: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (TMPFS, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (OVERLAY, "overlay"),
    (NFS, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0xca45_1a4e, "bcachefs"),
];
const TMPFS: u64 = 0x0102_1994;
const OVERLAY: u64 = 0x794c_7630;
const NFS: u64 = 0x6969;

impl FileSystem {
    /// Its usual name; ext2 and ext3 are called ext4, since they share its number.
    pub fn name(&self) -> String {
        FILE_SYSTEMS
            .iter()
            .find(|(magic, _)| *magic == self.magic)
            .map_or_else(|| format!("{:#x}", self.magic), |(_, name)| (*name).into())
    }

    pub fn is_nfs(&self) -> bool {
        self.magic == NFS
    }

    /// What an operator should know before trusting it with data.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.magic {
            TMPFS | 0x8584_58f6 => warnings.push(format!(
                "its file system is {}: the data is gone when the machine restarts",
                self.name()
            )),
            OVERLAY => warnings.push(
                "its file system is a container's overlay: the data is gone with the container, and slow; mount a volume"
                    .into(),
            ),
            NFS | 0xff53_4d42 | 0xfe53_4d42 | 0x6573_5546 | 0x0102_1997 => warnings.push(format!(
                "its file system is {}: what it promises after a crash is not known",
                self.name()
            )),
            _ => {}
        }
        if self.free_bytes < FREE_BYTES_ADVISED {
            warnings.push(format!(
                "{} of {} are free",
                size(self.free_bytes),
                size(self.total_bytes)
            ));
        }
        warnings
    }
}

/// Asks the file system that holds `path`, which must exist.
pub fn file_system(path: &Path) -> Result<FileSystem, StartError> {
    let cannot = |error: rustix::io::Errno| {
        StartError::directory(path, "does not say what file system it is on", error.into())
    };
    let kind = rustix::fs::statfs(path).map_err(cannot)?;
    let space = rustix::fs::statvfs(path).map_err(cannot)?;
    Ok(FileSystem {
        // Some numbers have the top bit of 32 set and come sign-extended on some machines.
        magic: u64::from(kind.f_type as u32),
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        io_uring().unwrap();
        memlock().unwrap();
        assert!(
            open_files()
                .unwrap()
                .is_none_or(|files| files >= OPEN_FILES_MIN)
        );
        assert_eq!(
            getrlimit(Resource::Nofile).current,
            getrlimit(Resource::Nofile).maximum
        );
    }

    #[test]
    fn file_systems_have_names_and_the_volatile_ones_warnings() {
        let proc = file_system(Path::new("/proc")).unwrap();
        assert_eq!(proc.name(), "0x9fa0");
        let make = |magic| FileSystem {
            magic,
            free_bytes: 2 << 30,
            total_bytes: 4 << 30,
        };
        assert_eq!(
            (make(0xef53).name(), make(0xef53).warnings().len()),
            ("ext4".into(), 0)
        );
        assert!(make(TMPFS).warnings()[0].contains("restarts"));
        assert!(make(OVERLAY).warnings()[0].contains("volume"));
        let mut full = make(0x5846_5342);
        full.free_bytes = 0;
        assert_eq!(full.warnings(), ["0 B of 4 GiB are free"]);
    }
}
