//! `ringspun tune` from outside, over a machine made of files, and the units in `tuning/`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn tune(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringspun"))
        .arg("tune")
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn file(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A machine with nothing to judge but its clock.
fn machine(root: &Path) {
    file(root, "proc/sys/kernel/osrelease", "6.12.1\n");
    file(root, "proc/sys/kernel/random/boot_id", "a\n");
    file(root, "proc/self/status", "Cpus_allowed_list:\t0-1\n");
    file(
        root,
        "proc/self/mountinfo",
        "1 0 8:1 / / rw,noatime - ext4 /dev/sda1 rw\n",
    );
    let limits = "Max open files   1048576  1048576  files\nMax locked memory  unlimited  unlimited  bytes\n";
    file(root, "proc/self/limits", limits);
    file(root, "sys/devices/system/cpu/online", "0-1\n");
    let clock = "sys/devices/system/clocksource/clocksource0";
    file(
        root,
        &format!("{clock}/available_clocksource"),
        "tsc hpet\n",
    );
    file(root, &format!("{clock}/current_clocksource"), "hpet\n");
    file(root, "proc/sys/vm/dirty_background_ratio", "3\n");
    file(root, "proc/sys/vm/dirty_ratio", "60\n");
}

#[test]
fn check_apply_check_again_revert() {
    let root = tempfile::tempdir().unwrap();
    machine(root.path());
    let at = root.path().to_str().unwrap();
    let state = root.path().join("state.json");
    let state = state.to_str().unwrap();
    let clock = root
        .path()
        .join("sys/devices/system/clocksource/clocksource0/current_clocksource");
    let clock = || fs::read_to_string(&clock).unwrap().trim().to_string();

    let checked = tune(&["check", "--root", at, "--json"]);
    assert_eq!(checked.status.code(), Some(1));
    let page = json(&checked);
    assert_eq!(
        (&page["schema"], &page["command"]),
        (&1.into(), &"check".into())
    );
    let found = page["findings"].as_array().unwrap();
    let open: Vec<_> = found.iter().filter(|f| f["verdict"] == "change").collect();
    assert_eq!(open.len(), 1, "{page}");
    assert_eq!(open[0]["tuner"], "clocksource");
    assert_eq!(open[0]["changes"][0]["from"], "hpet");
    assert_eq!(open[0]["changes"][0]["to"], "tsc");
    assert!(
        found
            .iter()
            .all(|f| f["reason"].as_str().is_some_and(|r| !r.is_empty()))
    );

    let dry = tune(&["apply", "--root", at, "--state", state, "--dry-run"]);
    assert!(dry.status.success());
    let text = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(
        text.contains("would write /sys/devices/system/clocksource"),
        "{text}"
    );
    assert_eq!(clock(), "hpet");

    let applied = tune(&["apply", "--root", at, "--state", state, "--json"]);
    assert!(applied.status.success());
    assert_eq!(json(&applied)["written"][0]["outcome"], "done");
    assert_eq!(clock(), "tsc");
    let again = tune(&["check", "--root", at]);
    assert!(
        again.status.success(),
        "{}",
        String::from_utf8_lossy(&again.stdout)
    );

    let reverted = tune(&["revert", "--root", at, "--state", state, "--json"]);
    assert!(reverted.status.success());
    assert_eq!(json(&reverted)["written"][0]["to"], "hpet");
    assert_eq!(clock(), "hpet");
    let nothing = tune(&["revert", "--root", at, "--state", state]);
    assert!(String::from_utf8_lossy(&nothing.stdout).contains("nothing was changed"));
}

#[test]
fn the_brokers_settings_say_what_is_looked_at() {
    let root = tempfile::tempdir().unwrap();
    machine(root.path());
    let at = root.path().to_str().unwrap();
    let config = root.path().join("server.properties");
    fs::write(&config, "log.dirs=/srv/a,/srv/b\nringspun.cores=1,\n").unwrap();
    let config = config.to_str().unwrap();
    let page = json(&tune(&[
        "check", "--root", at, "--json", "--config", config,
    ]));
    assert_eq!(page["log_dirs"], serde_json::json!(["/srv/a", "/srv/b"]));
    assert_eq!(page["shard_cpus"], serde_json::json!([1]));
    let refused = tune(&["check", "--root", at, "-o", "log.dir.typo=1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("log.dir"));
}

#[test]
fn this_machine_can_be_looked_at() {
    let checked = tune(&["check", "--json"]);
    assert!(matches!(checked.status.code(), Some(0 | 1)));
    let page = json(&checked);
    assert!(page["findings"].as_array().unwrap().len() > 10, "{page}");
    let refused = tune(&["check", "--pid", "4194305"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no process"));
}

/// With the program in the place where the units look for it.
#[test]
fn systemd_understands_the_units() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: systemd-analyze is not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--recursive-errors=no", "--man=no"]);
    for name in ["ringspun.service", "ringspun-tune.service"] {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tuning")
            .join(name);
        let text = fs::read_to_string(unit).unwrap();
        let text = text.replace("/usr/local/bin/ringspun", env!("CARGO_BIN_EXE_ringspun"));
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        verify.arg(path);
    }
    let verified = verify.output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.is_empty(), "{said}");
}
