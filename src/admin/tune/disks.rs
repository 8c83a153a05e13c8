//! The disks under the data directories, and how they are mounted.

use std::path::{Component, Path, PathBuf};

use super::{Asked, Finding, Machine, Scope, Tuner, Verdict};

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "disk-scheduler",
        reason: "a flash disk orders requests itself, and a scheduler in the kernel only adds a lock and a delay; a disk that turns needs one; what lies under a virtual disk is not known",
        measured: Some(
            "on a virtual machine (virtio, ext4) a durable 4 KiB write beside 16 reads of 256 KiB took 31 to 41 ms with mq-deadline, and 0.5 ms with none, where two of three runs had a read of 2 s, and the third stood still for 165 s",
        ),
        scope: Scope::Machine,
        look: scheduler,
    },
    Tuner {
        name: "disk-merges",
        reason: "the broker's writes are large and in sequence already; looking for neighbours to merge costs CPU for each",
        measured: None,
        scope: Scope::Machine,
        look: merges,
    },
    Tuner {
        name: "disk-write-cache",
        reason: "with a volatile cache every fsync waits until the disk has emptied it; a disk with power-loss protection need not. A kernel that believes the cache safe when it is not loses acknowledged records in a power cut",
        measured: None,
        scope: Scope::Machine,
        look: write_cache,
    },
    Tuner {
        name: "mount-options",
        reason: "options that write more (access times, a journal of the data, discard at each deletion) cost time on the disk; options that leave barriers out lose data in a power cut",
        measured: None,
        scope: Scope::Process,
        look: mount_options,
    },
    Tuner {
        name: "file-system",
        reason: "the log is preallocated, written in place and synced: ext4 and xfs do that well; a file system that copies on write does everything twice, and one in memory or over the network does not keep what fsync promises",
        measured: None,
        scope: Scope::Process,
        look: file_system,
    },
];

/// A data directory and where it is mounted.
struct Volume {
    directory: PathBuf,
    kind: String,
    source: String,
    /// `major:minor`.
    device: String,
    /// Of the mount and of the file system.
    options: Vec<String>,
}

/// Spaces and the like are written in octal in `/proc/self/mountinfo`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .and_then(|octal| std::str::from_utf8(octal).ok());
        match code.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Without `.` and `..`, whether it exists or not.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

fn volumes(machine: &Machine, directories: &[PathBuf]) -> Vec<Volume> {
    let mounts = machine.process_text("mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for directory in directories {
        let wanted = plain(directory);
        // Of what exists of it, links are followed.
        let resolved = wanted
            .ancestors()
            .find_map(|above| {
                let resolved = machine.resolve(above.to_str()?)?;
                let rest = wanted.strip_prefix(above).ok()?;
                Some(Path::new(&resolved).join(rest))
            })
            .unwrap_or(wanted);
        // A later mount on the same place hides an earlier one.
        let mut best: Option<(usize, Volume)> = None;
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let before: Vec<&str> = before.split(' ').collect();
            let after: Vec<&str> = after.split(' ').collect();
            let (&[_, _, device, _, at, options, ..], &[kind, source, ref more @ ..]) =
                (&before[..], &after[..])
            else {
                continue;
            };
            let at = PathBuf::from(unescape(at));
            let depth = at.components().count();
            if !resolved.starts_with(&at) || best.as_ref().is_some_and(|(best, _)| *best > depth) {
                continue;
            }
            let options = options
                .split(',')
                .chain(more.iter().flat_map(|more| more.split(',')));
            let volume = Volume {
                directory: directory.clone(),
                kind: kind.to_string(),
                source: unescape(source),
                device: device.to_string(),
                options: options.map(Into::into).collect(),
            };
            best = Some((depth, volume));
        }
        found.extend(best.map(|(_, volume)| volume));
    }
    found
}

/// The whole disks under a block device: a partition lies on one, an array or a mapping on several.
fn disks_under(machine: &Machine, device: &str, depth: u32, found: &mut Vec<String>) {
    let Some(mut folder) = machine.resolve(device) else {
        return;
    };
    if machine.exists(&format!("{folder}/partition"))
        && let Some((above, _)) = folder.rsplit_once('/')
    {
        folder = above.to_string();
    }
    let parts = machine.names(&format!("{folder}/slaves"));
    if !parts.is_empty() && depth > 0 {
        for part in parts {
            disks_under(
                machine,
                &format!("/sys/class/block/{part}"),
                depth - 1,
                found,
            );
        }
        return;
    }
    let name = folder.rsplit('/').next().unwrap_or("").to_string();
    if machine.exists(&format!("/sys/block/{name}/queue")) && !found.contains(&name) {
        found.push(name);
    }
}

/// The disks under the data directories, each once.
pub(super) fn disks(machine: &Machine, asked: &Asked) -> Vec<String> {
    disks_of(machine, &volumes(machine, &asked.log_dirs))
}

/// The file system that holds `directory`, and the disks under it.
pub(super) fn beneath(machine: &Machine, directory: &Path) -> Option<(String, Vec<String>)> {
    let volumes = volumes(machine, &[directory.to_path_buf()]);
    let kind = volumes.first()?.kind.clone();
    Some((kind, disks_of(machine, &volumes)))
}

fn disks_of(machine: &Machine, volumes: &[Volume]) -> Vec<String> {
    let mut found = Vec::new();
    for volume in volumes {
        let device = match (
            volume.device.starts_with("0:"),
            volume.source.strip_prefix("/dev/"),
        ) {
            (false, _) => format!("/sys/dev/block/{}", volume.device),
            // btrfs has a number of its own, and names one of its disks.
            (true, Some(name)) => format!("/sys/class/block/{name}"),
            (true, None) => continue,
        };
        disks_under(machine, &device, 8, &mut found);
    }
    found
}

fn each_disk(
    machine: &Machine,
    asked: &Asked,
    look: impl Fn(&str, &str) -> Finding,
) -> Vec<Finding> {
    let disks = disks(machine, asked);
    if disks.is_empty() {
        return Finding::not_here("no disk is seen under the data directories");
    }
    disks
        .iter()
        .map(|disk| look(disk, &format!("/sys/block/{disk}/queue")))
        .collect()
}

/// Whether the disk is a program's.
fn is_virtual(disk: &str) -> bool {
    disk.starts_with("vd") || disk.starts_with("xvd") || disk.starts_with("loop")
}

/// Whether a head has to move. What a hypervisor calls a disk that turns seldom is one.
fn turns(machine: &Machine, disk: &str, queue: &str) -> bool {
    !is_virtual(disk)
        && machine.hypervisor.is_none()
        && machine.number(&format!("{queue}/rotational")) == Some(1)
}

fn scheduler(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    each_disk(machine, asked, |disk, queue| {
        let path = format!("{queue}/scheduler");
        let Some(set) = machine.value(&path) else {
            return Finding::new(disk, "the kernel names no scheduler", "", Verdict::Unknown);
        };
        if is_virtual(disk) {
            let why = "what lies under a virtual disk is not known: measure before this is changed";
            return Finding::new(disk, set, "", Verdict::NotHere(why.into()));
        }
        let wanted = if turns(machine, disk, queue) {
            "mq-deadline"
        } else {
            "none"
        };
        if set == wanted {
            return Finding::good(disk, set);
        }
        let verdict = match machine.choices(&path).iter().any(|choice| choice == wanted) {
            true => Verdict::write(path, wanted),
            false => Verdict::Advice(format!("load the module of the scheduler {wanted}")),
        };
        Finding::new(disk, set, wanted, verdict)
    })
}

fn merges(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    each_disk(machine, asked, |disk, queue| {
        if turns(machine, disk, queue) {
            let why = "a disk that turns gains from merges".into();
            return Finding::new(disk, "", "", Verdict::NotHere(why));
        }
        let path = format!("{queue}/nomerges");
        match machine.text(&path).as_deref() {
            None => Finding::new(disk, "the kernel does not say", "", Verdict::Unknown),
            Some("2") => Finding::good(disk, "2"),
            Some(set) => Finding::new(disk, set, "2 (none)", Verdict::write(path, "2")),
        }
    })
}

fn write_cache(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    each_disk(machine, asked, |disk, queue| {
        let Some(believed) = machine.text(&format!("{queue}/write_cache")) else {
            return Finding::new(disk, "the kernel does not say", "", Verdict::Unknown);
        };
        // What a SCSI or SATA disk itself said when it was found.
        let scsi = format!("/sys/block/{disk}/device/scsi_disk");
        let own = machine
            .names(&scsi)
            .first()
            .and_then(|name| machine.text(&format!("{scsi}/{name}/cache_type")));
        match (believed.as_str(), own.as_deref()) {
            ("write through", Some(own)) if own.starts_with("write back") => Finding::new(
                disk,
                "the disk has a volatile cache, and the kernel was told not to flush it",
                "write back",
                Verdict::Advice(format!(
                    "unless the disk has power-loss protection: echo 'write back' > {queue}/write_cache, or records that were acknowledged after an fsync are lost in a power cut"
                )),
            ),
            ("write back", _) => Finding::good(disk, "write back: each fsync flushes it"),
            (other, _) => Finding::good(disk, format!("{other}: nothing to flush")),
        }
    })
}

fn mount_options(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let volumes = volumes(machine, &asked.log_dirs);
    if volumes.is_empty() {
        return Finding::unknown("where the data directories are mounted cannot be read");
    }
    let mut found = Vec::new();
    for volume in &volumes {
        let has = |option: &str| volume.options.iter().any(|o| o == option);
        let mut wrong = Vec::new();
        let mut remedy = Vec::new();
        if has("nobarrier") || has("barrier=0") {
            wrong.push("barriers are off: a power cut loses or damages data");
            remedy.push("mount with barriers");
        }
        if has("sync") || has("dirsync") {
            wrong.push("every write waits for the disk");
            remedy.push("mount without sync");
        }
        if has("data=journal") {
            wrong.push("data is written twice");
            remedy.push("mount with data=ordered");
        }
        if has("discard") {
            wrong.push("each deleted segment is discarded at once");
            remedy.push("mount with nodiscard and let fstrim.timer do it");
        }
        if !has("noatime") && !has("relatime") && !has("ro") {
            wrong.push("each read writes an access time");
            remedy.push("mount with noatime");
        }
        let directory = volume.directory.display().to_string();
        found.push(match wrong.is_empty() {
            true => Finding::good(directory, volume.options.join(",")),
            false => Finding::new(
                directory,
                wrong.join("; "),
                "barriers; no discard, no access times",
                Verdict::Advice(format!("{} (/etc/fstab)", remedy.join("; "))),
            ),
        });
    }
    found
}

fn file_system(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let volumes = volumes(machine, &asked.log_dirs);
    if volumes.is_empty() {
        return Finding::unknown("where the data directories are mounted cannot be read");
    }
    let look = |volume: &Volume| {
        let directory = volume.directory.display().to_string();
        let remedy = match volume.kind.as_str() {
            "ext4" | "xfs" => return Finding::good(directory, volume.kind.clone()),
            "btrfs" => {
                "it copies on write: at least set the folder to nodatacow (chattr +C) before it has data"
            }
            "zfs" | "bcachefs" => "it copies on write",
            "f2fs" | "ext3" | "ext2" => "it is not what the broker is tested on",
            "tmpfs" | "ramfs" => "the data is gone when the machine restarts",
            "overlay" => "the data is gone with the container: mount a volume",
            _ => "what it promises after a crash is not known",
        };
        Finding::new(
            directory,
            volume.kind.clone(),
            "ext4 or xfs",
            Verdict::Advice(format!("{remedy}; put the data on xfs or ext4")),
        )
    };
    volumes.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_of_mountinfo_are_read() {
        assert_eq!(unescape(r"/a\040b"), "/a b");
        assert_eq!(unescape(r"/a\b\04"), r"/a\b\04");
        assert_eq!(plain(Path::new("/a/./b/../c")), Path::new("/a/c"));
    }
}
