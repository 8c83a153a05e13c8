//! Machines made of files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::apply::{self, Outcome};
use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    /// Four CPUs without a hypervisor, one flash disk with xfs, one card with one queue; nothing tuned.
    fn bare_metal() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.file("proc/sys/kernel/osrelease", "6.12.1-generic\n");
        tree.file("proc/sys/kernel/random/boot_id", "first\n");
        tree.file("proc/sys/kernel/io_uring_disabled", "0\n");
        tree.file("proc/cpuinfo", "flags : fpu vme\n");
        tree.file("proc/self/status", "Name:\tsh\nCpus_allowed_list:\t0-3\n");
        tree.file(
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 1048576              files     \n\
             Max locked memory         8388608              unlimited            bytes     \n",
        );
        tree.file("proc/self/cgroup", "0::/user.slice/a\n");
        tree.file("sys/fs/cgroup/user.slice/cpu.max", "max 100000\n");
        tree.file(
            "proc/self/mountinfo",
            "1 0 8:1 / / rw,noatime - ext4 /dev/sda1 rw\n\
             2 1 259:1 / /var/lib/ring\\040spun rw,noatime - xfs /dev/nvme0n1p1 rw,attr2\n",
        );
        tree.file(
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
        );
        tree.file(
            "proc/interrupts",
            "           CPU0       CPU1       CPU2       CPU3\n\
             0:         50          0          0          0  IO-APIC   2-edge      timer\n\
             40:        10          0          7          0  PCI-MSIX-0000:00:03.0   1-edge      eth0-rx-0\n\
             41:         0          0          0          0  PCI-MSIX-0000:00:03.0   2-edge      eth0-config\n\
             42:         0          9          0          0  PCI-MSIX-0000:00:04.0   2-edge      nvme0q1\n\
             NMI:        0          0          0          0  Non-maskable interrupts\n",
        );
        for irq in [0, 40, 41, 42] {
            tree.file(&format!("proc/irq/{irq}/smp_affinity_list"), "0-3\n");
        }
        tree.file("sys/devices/system/cpu/online", "0-3\n");
        tree.file("sys/devices/system/cpu/isolated", "\n");
        for cpu in 0..4 {
            let at = format!("sys/devices/system/cpu/cpu{cpu}");
            tree.file(&format!("{at}/cpufreq/scaling_governor"), "schedutil\n");
            for (state, name, latency) in [(0, "POLL", 0), (1, "C1", 2), (2, "C6", 133)] {
                let at = format!("{at}/cpuidle/state{state}");
                tree.file(&format!("{at}/name"), name);
                tree.file(&format!("{at}/latency"), &latency.to_string());
                tree.file(&format!("{at}/disable"), "0\n");
            }
        }
        let clock = "sys/devices/system/clocksource/clocksource0";
        tree.file(&format!("{clock}/current_clocksource"), "hpet\n");
        tree.file(
            &format!("{clock}/available_clocksource"),
            "hpet tsc acpi_pm \n",
        );
        tree.file("sys/devices/system/node/online", "0\n");
        tree.file(
            "sys/kernel/mm/transparent_hugepage/enabled",
            "[always] madvise never\n",
        );
        tree.file(
            "sys/kernel/mm/transparent_hugepage/defrag",
            "always defer [madvise] never\n",
        );
        tree.file("proc/sys/vm/swappiness", "60\n");
        for (name, value) in [
            ("dirty_background_ratio", 10),
            ("dirty_ratio", 20),
            ("dirty_background_bytes", 0),
            ("dirty_bytes", 0),
        ] {
            tree.file(&format!("proc/sys/vm/{name}"), &value.to_string());
        }
        let disk = "sys/devices/pci/nvme/nvme0n1";
        tree.file(&format!("{disk}/queue/scheduler"), "[mq-deadline] none\n");
        tree.file(&format!("{disk}/queue/nomerges"), "0\n");
        tree.file(&format!("{disk}/queue/write_cache"), "write back\n");
        tree.file(&format!("{disk}/queue/rotational"), "0\n");
        tree.file(&format!("{disk}/nvme0n1p1/partition"), "1\n");
        tree.link("sys/block/nvme0n1", "../devices/pci/nvme/nvme0n1");
        tree.link(
            "sys/dev/block/259:1",
            "../../devices/pci/nvme/nvme0n1/nvme0n1p1",
        );
        let card = "sys/class/net/eth0";
        tree.file(&format!("{card}/operstate"), "up\n");
        tree.file(&format!("{card}/device/vendor"), "0x8086\n");
        tree.file(&format!("{card}/queues/rx-0/rps_cpus"), "00000000\n");
        tree.file(&format!("{card}/queues/rx-0/rps_flow_cnt"), "0\n");
        tree.file(&format!("{card}/queues/tx-0/xps_cpus"), "0\n");
        tree.file("sys/class/net/lo/operstate", "unknown\n");
        tree.file("proc/sys/net/core/rps_sock_flow_entries", "0\n");
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(to, path).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path))
            .unwrap()
            .trim()
            .to_string()
    }

    fn machine(&self) -> Machine {
        Machine::below(self.0.path(), None).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.at("run-state.json")
    }

    fn check(&self, asked: &Asked) -> Vec<(&'static Tuner, Finding)> {
        check(&self.machine(), asked)
    }

    /// `tuner subject: verdict`, those that are good left out.
    fn open(&self, asked: &Asked) -> Vec<String> {
        let findings = self.check(asked);
        let open = findings.iter().filter(|(_, f)| f.verdict != Verdict::Good);
        open.map(|(tuner, finding)| {
            let name = format!("{} {}", tuner.name, finding.subject);
            format!("{}: {}", name.trim(), finding.verdict.word())
        })
        .collect()
    }

    fn one(&self, asked: &Asked, tuner: &str) -> Finding {
        let mut of = self
            .check(asked)
            .into_iter()
            .filter(|(t, _)| t.name == tuner);
        of.next().unwrap().1
    }

    /// Every file and what is in it.
    fn all(&self) -> Vec<(PathBuf, String)> {
        fn walk(dir: PathBuf, found: &mut Vec<(PathBuf, String)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => walk(entry.path(), found),
                    kind if kind.is_file() => {
                        let text = fs::read_to_string(entry.path()).unwrap();
                        // A machine prints all choices with the chosen one in brackets; a file does not.
                        let value = text
                            .split_once('[')
                            .and_then(|(_, rest)| rest.split_once(']'));
                        let value = value.map_or(text.trim(), |(value, _)| value);
                        found.push((entry.path(), value.to_string()));
                    }
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(self.0.path().into(), &mut found);
        found.sort();
        found
    }
}

fn asked(shard_cpus: &[usize]) -> Asked {
    Asked {
        shard_cpus: shard_cpus.to_vec(),
        every_cpu: shard_cpus.len() == 4,
        log_dirs: vec!["/var/lib/ring spun/data".into()],
        loopback_only: false,
    }
}

fn says(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Advice(text) | Verdict::NotHere(text) => text,
        _ => "",
    }
}

#[test]
fn each_tuner_has_a_name_of_its_own_and_a_reason() {
    let mut names: Vec<&str> = tuners().map(|tuner| tuner.name).collect();
    assert!(tuners().all(|tuner| !tuner.reason.is_empty()));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn an_untuned_machine_is_told_what_to_change() {
    let tree = Tree::bare_metal();
    assert_eq!(
        tree.open(&asked(&[2, 3])),
        [
            "cpu-governor: change",
            "cpu-idle: change",
            "isolated-cpus: advice",
            "irq-affinity: change",
            "clocksource: change",
            "numa: not here",
            "nic-queues eth0: advice",
            "rps eth0: change",
            "xps eth0: not here",
            "transparent-huge-pages enabled: change",
            "swappiness: change",
            "dirty-pages: change",
            "disk-scheduler nvme0n1: change",
            "disk-merges nvme0n1: change",
        ]
    );
}

#[test]
fn what_is_applied_is_good_afterwards_and_is_reverted_to_what_was_there() {
    let tree = Tree::bare_metal();
    let (machine, asked) = (tree.machine(), asked(&[2, 3]));
    let before = tree.all();
    let planned = apply::apply(&machine, &asked, &tree.state(), true).unwrap();
    assert_eq!(tree.all(), before, "a dry run writes nothing");
    let applied = apply::apply(&machine, &asked, &tree.state(), false).unwrap();
    assert_eq!(planned.written.len(), applied.written.len());
    assert!(
        applied
            .written
            .iter()
            .all(|one| one.outcome == Outcome::Done)
    );
    let changes = applied
        .findings
        .iter()
        .filter(|(_, f)| matches!(f.verdict, Verdict::Change(_)));
    assert_eq!(changes.count(), 0);
    for (path, value) in [
        (
            "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor",
            "performance",
        ),
        // No shard there.
        (
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
            "schedutil",
        ),
        ("sys/devices/system/cpu/cpu3/cpuidle/state2/disable", "1"),
        ("sys/devices/system/cpu/cpu3/cpuidle/state1/disable", "0"),
        ("proc/irq/40/smp_affinity_list", "0-1"),
        // Never came; is no message; is the kernel's to place.
        ("proc/irq/41/smp_affinity_list", "0-3"),
        ("proc/irq/0/smp_affinity_list", "0-3"),
        ("proc/irq/42/smp_affinity_list", "0-3"),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "c"),
        ("sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "32768"),
        ("sys/block/nvme0n1/queue/scheduler", "none"),
        ("proc/sys/vm/dirty_background_ratio", "5"),
    ] {
        assert_eq!(tree.text(path), value, "{path}");
    }
    // Applied again there is nothing to do, and what was there first is not forgotten.
    let again = apply::apply(&machine, &asked, &tree.state(), false).unwrap();
    assert_eq!(again.written, []);
    let planned = apply::revert(&machine, &tree.state(), true, false)
        .unwrap()
        .unwrap();
    assert!(planned.iter().all(|one| one.outcome == Outcome::Planned));
    let reverted = apply::revert(&machine, &tree.state(), false, false)
        .unwrap()
        .unwrap();
    assert_eq!(reverted.len(), applied.written.len());
    assert!(reverted.iter().all(|one| one.outcome == Outcome::Done));
    assert_eq!(tree.all(), before);
    assert!(
        apply::revert(&machine, &tree.state(), false, false)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_second_apply_keeps_what_was_there_before_the_first() {
    let tree = Tree::bare_metal();
    let machine = tree.machine();
    let before = tree.all();
    apply::apply(&machine, &asked(&[3]), &tree.state(), false).unwrap();
    apply::apply(&machine, &asked(&[2, 3]), &tree.state(), false).unwrap();
    assert_eq!(tree.text("proc/irq/40/smp_affinity_list"), "0-1");
    apply::revert(&machine, &tree.state(), false, false).unwrap();
    assert_eq!(tree.all(), before);
}

#[test]
fn what_somebody_else_wrote_since_is_left_alone_unless_forced() {
    let tree = Tree::bare_metal();
    let machine = tree.machine();
    apply::apply(&machine, &asked(&[2, 3]), &tree.state(), false).unwrap();
    tree.file("proc/sys/vm/swappiness", "30\n");
    let reverted = apply::revert(&machine, &tree.state(), false, false)
        .unwrap()
        .unwrap();
    let left: Vec<_> = reverted.iter().filter(|one| one.failed()).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].outcome, Outcome::LeftAlone("30".into()));
    assert_eq!(tree.text("proc/sys/vm/swappiness"), "30");
    let forced = apply::revert(&machine, &tree.state(), false, true)
        .unwrap()
        .unwrap();
    assert_eq!(forced.len(), 1, "the rest was reverted before");
    assert_eq!(tree.text("proc/sys/vm/swappiness"), "60");
}

#[test]
fn after_a_restart_of_the_machine_there_is_nothing_to_revert() {
    let tree = Tree::bare_metal();
    apply::apply(&tree.machine(), &asked(&[2, 3]), &tree.state(), false).unwrap();
    tree.file("proc/sys/kernel/random/boot_id", "second\n");
    tree.file("proc/sys/vm/swappiness", "60\n");
    assert!(
        apply::revert(&tree.machine(), &tree.state(), false, false)
            .unwrap()
            .is_none()
    );
    assert_eq!(tree.text("proc/sys/vm/dirty_ratio"), "40");
    assert!(!tree.state().exists());
}

#[test]
fn what_the_kernel_refuses_or_drops_is_said_and_stops_nothing_else() {
    let tree = Tree::bare_metal();
    // Readable, and not even root may write it; and one that forgets.
    tree.link("proc/sys/vm/swappiness", "/proc/sys/kernel/ngroups_max");
    tree.link("sys/block/nvme0n1/queue/nomerges", "/dev/null");
    let machine = tree.machine();
    let applied = apply::apply(&machine, &asked(&[2, 3]), &tree.state(), false).unwrap();
    let outcome = |path: &str| {
        let mut of = applied.written.iter().filter(|one| one.path == path);
        of.next().unwrap().outcome.clone()
    };
    assert!(matches!(
        outcome("/proc/sys/vm/swappiness"),
        Outcome::Refused(_)
    ));
    assert_eq!(
        outcome("/sys/block/nvme0n1/queue/nomerges"),
        Outcome::NotHeld(String::new())
    );
    assert_eq!(outcome("/sys/block/nvme0n1/queue/scheduler"), Outcome::Done);
    assert_eq!(applied.written.iter().filter(|one| one.failed()).count(), 2);
    let state = fs::read_to_string(tree.state()).unwrap();
    assert!(!state.contains("swappiness"), "{state}");
}

#[test]
fn without_a_state_file_nothing_is_written() {
    let tree = Tree::bare_metal();
    let before = tree.all();
    let nowhere = tree.at("no/such/folder/state.json");
    let Err(error) = apply::apply(&tree.machine(), &asked(&[2, 3]), &nowhere, false) else {
        panic!("must be refused");
    };
    assert!(error.contains("nothing more is changed"), "{error}");
    tree.file("other.json", "{\"schema\": 7}");
    let Err(error) = apply::apply(
        &tree.machine(),
        &asked(&[2, 3]),
        &tree.at("other.json"),
        false,
    ) else {
        panic!("must be refused");
    };
    assert!(error.contains("is no state file"), "{error}");
    fs::remove_file(tree.at("other.json")).unwrap();
    assert_eq!(tree.all(), before);
}

#[test]
fn in_a_container_the_machine_is_the_hosts() {
    let tree = Tree::bare_metal();
    tree.file(".dockerenv", "");
    tree.file(
        "proc/self/limits",
        "Max open files  1024  4096  files\nMax locked memory  65536  65536  bytes\n",
    );
    tree.file("sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n");
    tree.file("proc/sys/kernel/io_uring_disabled", "2\n");
    let asked = asked(&[2, 3]);
    let open = tree.open(&asked);
    assert!(
        !open.iter().any(|line| line.ends_with("change")),
        "{open:?}"
    );
    assert_eq!(
        &open[..4],
        [
            "io-uring: advice",
            "locked-memory: advice",
            "open-files: advice",
            "cpu-quota: advice"
        ]
    );
    assert!(says(&tree.one(&asked, "swappiness").verdict).contains("(docker) this is the host's"));
    let before = tree.all();
    apply::apply(&tree.machine(), &asked, &tree.state(), false).unwrap();
    assert_eq!(tree.all(), before);
}

#[test]
fn a_virtual_machine_is_recognised() {
    let tree = Tree::bare_metal();
    assert_eq!(tree.machine().hypervisor, None);
    tree.file("proc/cpuinfo", "flags : fpu hypervisor vme\n");
    assert_eq!(
        tree.machine().hypervisor.as_deref(),
        Some("of unknown kind")
    );
    tree.file("sys/class/dmi/id/sys_vendor", "QEMU\n");
    assert_eq!(tree.machine().hypervisor.as_deref(), Some("KVM"));
    assert!(says(&tree.one(&asked(&[2, 3]), "cpu-idle").verdict).contains("the host's to wake"));
    for cpu in [2, 3] {
        fs::remove_file(tree.at(&format!(
            "sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"
        )))
        .unwrap();
    }
    assert!(says(&tree.one(&asked(&[2, 3]), "cpu-governor").verdict).contains("the host sets"));
    // A flag alone is not a metal instance of a cloud.
    tree.file("proc/cpuinfo", "flags : fpu\n");
    tree.file("sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
    tree.file("sys/class/dmi/id/product_name", "m5.metal\n");
    assert_eq!(tree.machine().hypervisor, None);
}

#[test]
fn where_every_cpu_runs_a_shard_interrupts_stay() {
    let tree = Tree::bare_metal();
    let all = asked(&[0, 1, 2, 3]);
    assert!(says(&tree.one(&all, "irq-affinity").verdict).contains("every CPU"));
    assert!(says(&tree.one(&all, "isolated-cpus").verdict).contains("every CPU"));
}

#[test]
fn isolated_cpus_are_the_shards() {
    let tree = Tree::bare_metal();
    tree.file("sys/devices/system/cpu/isolated", "2-3\n");
    assert_eq!(
        tree.one(&asked(&[2, 3]), "isolated-cpus").verdict,
        Verdict::Good
    );
    let idle = tree.one(&asked(&[2]), "isolated-cpus");
    assert!(says(&idle.verdict).contains("nothing runs on CPUs 3"));
    let bare = tree.one(&asked(&[1, 2, 3]), "isolated-cpus");
    assert!(says(&bare.verdict).contains("isolcpus=managed_irq,domain,1-3"));
}

#[test]
fn a_daemon_that_moves_interrupts_back_is_named() {
    let tree = Tree::bare_metal();
    tree.file("proc/77/comm", "irqbalance\n");
    let open = tree.open(&asked(&[2, 3]));
    assert!(
        open.contains(&"irq-affinity irqbalance: advice".to_string()),
        "{open:?}"
    );
}

#[test]
fn cards_with_enough_queues_need_no_steering_and_a_broker_on_the_loopback_none_at_all() {
    let tree = Tree::bare_metal();
    let card = "sys/class/net/eth0/queues";
    tree.file(&format!("{card}/rx-0/rps_cpus"), "3\n");
    tree.file(&format!("{card}/rx-1/rps_cpus"), "0\n");
    tree.file(&format!("{card}/tx-1/xps_cpus"), "0\n");
    let mut asked = asked(&[2, 3]);
    assert_eq!(tree.one(&asked, "nic-queues").verdict, Verdict::Good);
    let change = |path: &str, to: &str| Change {
        path: format!("/{card}/{path}"),
        to: to.into(),
    };
    assert_eq!(
        tree.one(&asked, "rps").verdict,
        Verdict::Change(vec![change("rx-0/rps_cpus", "0")])
    );
    assert_eq!(
        tree.one(&asked, "xps").verdict,
        Verdict::Change(vec![
            change("tx-0/xps_cpus", "5"),
            change("tx-1/xps_cpus", "a")
        ])
    );
    asked.loopback_only = true;
    for tuner in ["nic-queues", "rps", "xps"] {
        assert!(says(&tree.one(&asked, tuner).verdict).contains("loopback"));
    }
}

#[test]
fn two_nodes_are_looked_at() {
    let tree = Tree::bare_metal();
    tree.file("sys/devices/system/node/online", "0-1\n");
    tree.file("sys/devices/system/node/node0/cpulist", "0-1\n");
    tree.file("sys/devices/system/node/node1/cpulist", "2-3\n");
    tree.file("proc/sys/kernel/numa_balancing", "1\n");
    tree.file("sys/class/net/eth0/device/numa_node", "0\n");
    tree.file("sys/block/nvme0n1/device/numa_node", "1\n");
    let findings = tree.check(&asked(&[2, 3]));
    let numa: Vec<_> = findings
        .iter()
        .filter(|(t, _)| t.name == "numa")
        .map(|(_, f)| f)
        .collect();
    let words: Vec<_> = numa
        .iter()
        .map(|f| (f.subject.as_str(), f.verdict.word()))
        .collect();
    assert_eq!(
        words,
        [
            ("balancing", "change"),
            ("eth0", "advice"),
            ("nvme0n1", "good")
        ]
    );
}

#[test]
fn dirty_limits_in_bytes_are_left_alone() {
    let tree = Tree::bare_metal();
    tree.file("proc/sys/vm/dirty_bytes", "1000000\n");
    assert_eq!(tree.one(&asked(&[2]), "dirty-pages").verdict, Verdict::Good);
}

#[test]
fn a_disk_whose_cache_is_believed_safe_and_is_not_is_named() {
    let tree = Tree::bare_metal();
    tree.file("sys/block/nvme0n1/queue/write_cache", "write through\n");
    assert_eq!(
        tree.one(&asked(&[2]), "disk-write-cache").verdict,
        Verdict::Good
    );
    tree.file(
        "sys/block/nvme0n1/device/scsi_disk/0:0:0:0/cache_type",
        "write back\n",
    );
    assert!(says(&tree.one(&asked(&[2]), "disk-write-cache").verdict).contains("power cut"));
}

#[test]
fn options_and_file_systems_that_lose_data_are_named() {
    let tree = Tree::bare_metal();
    let mut asked = asked(&[2]);
    asked.log_dirs = vec!["/srv/../data/x".into()];
    let mount = |line: &str| tree.file("proc/self/mountinfo", line);
    mount(
        "1 0 8:1 / / rw - xfs /dev/a rw\n2 1 0:50 / /data rw,nobarrier,discard - tmpfs none rw\n",
    );
    let options = tree.one(&asked, "mount-options");
    assert!(options.found.contains("power cut") && options.found.contains("discarded"));
    assert!(options.found.contains("access time"));
    assert!(says(&tree.one(&asked, "file-system").verdict).contains("restarts"));
    assert!(says(&tree.one(&asked, "disk-scheduler").verdict).contains("no disk"));
    // The later mount hides the earlier one.
    mount(
        "1 0 8:1 / / rw - xfs /dev/a rw\n2 1 0:50 / /data rw - tmpfs none rw\n3 2 8:1 / /data rw,relatime - ext4 /dev/b rw\n",
    );
    assert_eq!(tree.one(&asked, "file-system").verdict, Verdict::Good);
    assert_eq!(tree.one(&asked, "mount-options").verdict, Verdict::Good);
}

#[test]
fn the_disks_of_an_array_are_looked_at_each() {
    let tree = Tree::bare_metal();
    tree.file(
        "proc/self/mountinfo",
        "1 0 9:0 / / rw,noatime - xfs /dev/md0 rw\n",
    );
    for (disk, rotational) in [("sda", 1), ("sdb", 0)] {
        tree.file(
            &format!("sys/devices/{disk}/queue/rotational"),
            &rotational.to_string(),
        );
        tree.file(
            &format!("sys/devices/{disk}/queue/scheduler"),
            "[none] mq-deadline\n",
        );
        tree.link(&format!("sys/block/{disk}"), &format!("../devices/{disk}"));
        tree.link(
            &format!("sys/class/block/{disk}"),
            &format!("../../devices/{disk}"),
        );
    }
    tree.file("sys/devices/md0/slaves/sda", "");
    tree.file("sys/devices/md0/slaves/sdb", "");
    tree.link("sys/dev/block/9:0", "../../devices/md0");
    let findings = tree.check(&asked(&[2]));
    let of = findings.iter().filter(|(t, _)| t.name == "disk-scheduler");
    let words: Vec<_> = of
        .map(|(_, f)| (f.subject.as_str(), f.verdict.word()))
        .collect();
    assert_eq!(words, [("sda", "change"), ("sdb", "good")]);
}

#[test]
fn the_scheduler_of_a_virtual_disk_is_left_alone() {
    let tree = Tree::bare_metal();
    tree.file(
        "proc/self/mountinfo",
        "1 0 254:0 / / rw,noatime - ext4 /dev/vda rw\n",
    );
    tree.file("sys/devices/vda/queue/scheduler", "[mq-deadline] none\n");
    tree.link("sys/block/vda", "../devices/vda");
    tree.link("sys/dev/block/254:0", "../../devices/vda");
    let finding = tree.one(&asked(&[2]), "disk-scheduler");
    assert_eq!(
        (finding.subject.as_str(), finding.verdict.word()),
        ("vda", "not here")
    );
    assert!(says(&finding.verdict).contains("measure"));
}

#[test]
fn an_old_kernel_and_a_missing_machine_are_said() {
    let tree = Tree::bare_metal();
    tree.file("proc/sys/kernel/osrelease", "5.10.0\n");
    assert!(says(&tree.one(&asked(&[2]), "io-uring").verdict).contains("5.15"));
    let empty = tempfile::tempdir().unwrap();
    assert!(Machine::below(empty.path(), None).is_err());
    assert!(Machine::below(tree.0.path(), Some(4242)).is_err());
}
