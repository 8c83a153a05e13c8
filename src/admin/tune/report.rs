//! What was found and done, for people and (`"schema": 1`) for tools.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::apply::{Outcome, Written};
use super::{Asked, Finding, Machine, Tuner, Verdict};

const UNMEASURED: &str = "not measured";

/// Everything that one command has to say.
pub struct Report<'a> {
    /// `check`, `apply` or `revert`.
    pub command: &'static str,
    pub dry_run: bool,
    pub machine: &'a Machine,
    /// `None` for a revert, which does not look.
    pub asked: Option<&'a Asked>,
    pub findings: &'a [(&'static Tuner, Finding)],
    pub written: &'a [Written],
    /// Whether reasons are given for what is good, too.
    pub explain: bool,
}

/// How many findings ask for a change, and how many for work by hand.
pub fn open(findings: &[(&'static Tuner, Finding)]) -> (usize, usize) {
    let count = |is: fn(&Verdict) -> bool| findings.iter().filter(|(_, f)| is(&f.verdict)).count();
    (
        count(|verdict| matches!(verdict, Verdict::Change(_))),
        count(|verdict| matches!(verdict, Verdict::Advice(_))),
    )
}

fn place(machine: &Machine) -> String {
    let mut place = format!("Linux {}", machine.kernel);
    if let Some(hypervisor) = &machine.hypervisor {
        let _ = write!(place, ", a virtual machine ({hypervisor})");
    }
    if let Some(container) = &machine.container {
        let _ = write!(place, ", a container ({container})");
    }
    place
}

impl Report<'_> {
    pub fn text(&self) -> String {
        let mut text = place(self.machine);
        if let Some(asked) = self.asked {
            let dirs = asked.log_dirs.iter().map(|dir| dir.display().to_string());
            let _ = write!(
                text,
                "; shards on CPUs {}, data in {}",
                asked.shard_list(),
                dirs.collect::<Vec<_>>().join(", ")
            );
        }
        text.push('\n');
        for (tuner, finding) in self.findings {
            self.finding(&mut text, tuner, finding);
        }
        for one in self.written {
            let Written { path, from, to, .. } = one;
            let _ = match &one.outcome {
                Outcome::Planned => writeln!(text, "would write {path}: {from} -> {to}"),
                Outcome::Done => writeln!(text, "written     {path}: {from} -> {to}"),
                Outcome::Refused(why) => {
                    writeln!(text, "refused     {path}: {from} -> {to}: {why}")
                }
                Outcome::NotHeld(now) => {
                    writeln!(text, "did not hold {path}: {from} -> {to}, now {now}")
                }
                Outcome::LeftAlone(now) => writeln!(
                    text,
                    "left alone  {path}: {now}, which somebody else wrote since; --force writes {to}"
                ),
                Outcome::Gone => writeln!(text, "gone        {path}"),
            };
        }
        text
    }

    fn finding(&self, text: &mut String, tuner: &Tuner, finding: &Finding) {
        let mut name = tuner.name.to_string();
        if !finding.subject.is_empty() {
            name = format!("{name} {}", finding.subject);
        }
        let word = finding.verdict.word();
        let said = match &finding.verdict {
            Verdict::NotHere(why) => why.clone(),
            _ if finding.wanted.is_empty() => finding.found.clone(),
            _ => format!("{}; wanted: {}", finding.found, finding.wanted),
        };
        let _ = writeln!(text, "{word:<9} {name:<28} {said}");
        let is_open = matches!(finding.verdict, Verdict::Change(_) | Verdict::Advice(_));
        if is_open || self.explain {
            let measured = tuner.measured.unwrap_or(UNMEASURED);
            let _ = writeln!(text, "{:10}why: {}", "", tuner.reason);
            let _ = writeln!(text, "{:10}measured: {measured}", "");
        }
        match &finding.verdict {
            Verdict::Advice(remedy) => {
                let _ = writeln!(text, "{:10}do: {remedy}", "");
            }
            Verdict::Change(changes) if self.command == "check" => {
                for change in changes {
                    let from = self.machine.value(&change.path).unwrap_or_default();
                    let _ = writeln!(
                        text,
                        "{:10}apply writes {}: {from} -> {}",
                        "", change.path, change.to
                    );
                }
            }
            _ => {}
        }
    }

    pub fn json(&self) -> String {
        let findings = self.findings.iter().map(|(tuner, finding)| {
            let changes = match &finding.verdict {
                Verdict::Change(changes) => &changes[..],
                _ => &[],
            };
            let changes = changes.iter().map(|change| {
                json!({
                    "path": change.path,
                    "from": self.machine.value(&change.path),
                    "to": change.to,
                })
            });
            let say = match &finding.verdict {
                Verdict::Advice(text) | Verdict::NotHere(text) => Some(text),
                _ => None,
            };
            json!({
                "tuner": tuner.name,
                "subject": finding.subject,
                "verdict": finding.verdict.word().replace(' ', "_"),
                "found": finding.found,
                "wanted": finding.wanted,
                "say": say,
                "reason": tuner.reason,
                "measured": tuner.measured,
                "changes": changes.collect::<Vec<Value>>(),
            })
        });
        let written = self.written.iter().map(|one| {
            let (outcome, say) = match &one.outcome {
                Outcome::Planned => ("planned", None),
                Outcome::Done => ("done", None),
                Outcome::Refused(why) => ("refused", Some(why)),
                Outcome::NotHeld(now) => ("not_held", Some(now)),
                Outcome::LeftAlone(now) => ("left_alone", Some(now)),
                Outcome::Gone => ("gone", None),
            };
            json!({
                "tuner": one.tuner,
                "path": one.path,
                "from": one.from,
                "to": one.to,
                "outcome": outcome,
                "say": say,
            })
        });
        let page = json!({
            "schema": 1,
            "command": self.command,
            "dry_run": self.dry_run,
            "machine": {
                "kernel": self.machine.kernel,
                "hypervisor": self.machine.hypervisor,
                "container": self.machine.container,
                "cpus": self.machine.cpus,
            },
            "shard_cpus": self.asked.map(|asked| &asked.shard_cpus),
            "log_dirs": self.asked.map(|asked| &asked.log_dirs),
            "findings": findings.collect::<Vec<Value>>(),
            "written": written.collect::<Vec<Value>>(),
        });
        format!("{page}\n")
    }
}
