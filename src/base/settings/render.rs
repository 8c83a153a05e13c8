//! Settings for people: `--print-config` and the README's list.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::kind::{Honoured, Setting};
use super::layers::Source;
use super::node::NodeSettings;
use super::table::{SETTINGS, TOPIC_SETTINGS, broker_setting, listener_setting};

/// Every setting that has a value, one a line, by name: `name=value`, and where it comes from as a comment.
/// The comment goes on its own line before, so that the text is a configuration file. Secrets are hidden.
pub fn print_config(node: &NodeSettings) -> String {
    let mut names: BTreeSet<&str> = SETTINGS
        .iter()
        .filter(|setting| !setting.internal)
        .map(|setting| setting.name)
        .collect();
    names.extend(node.layers.fixed.keys().map(String::as_str));
    let mut text = String::new();
    for name in names {
        let setting = broker_setting(name).or_else(|| listener_setting(name));
        let Some((value, source)) = node.value(name) else {
            continue;
        };
        let value = match setting {
            Some(setting) if setting.is_sensitive() => "[hidden]".to_owned(),
            Some(setting) => setting.canonical(value),
            None => value.to_owned(),
        };
        let effect = match (setting.map(|setting| setting.honoured), source) {
            (_, Source::Default) | (Some(Honoured::Yes), _) => "",
            (Some(Honoured::Meaningless), _) => ", without effect here",
            (Some(Honoured::NotYet) | None, _) => ", not honoured yet",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# {source}{effect}\n{name}={}", escape(&value));
    }
    text
}

/// What a properties file would otherwise read as something else.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

/// The README's list: what is honoured, for brokers and for topics, with defaults; which defaults differ from
/// Kafka's; what is not honoured yet; what has no meaning here.
pub fn markdown() -> String {
    let mut text = String::new();
    let ours = |setting: &&Setting| setting.name.starts_with("ringspun.");
    let honoured = |setting: &&Setting| setting.honoured == Honoured::Yes;
    section(
        &mut text,
        "Settings of ringspun's own",
        SETTINGS.iter().filter(ours),
    );
    section(
        &mut text,
        "Kafka's broker settings that are honoured",
        SETTINGS
            .iter()
            .filter(honoured)
            .filter(|s| !ours(s) && !s.internal),
    );
    section(
        &mut text,
        "Kafka's topic settings that are honoured",
        TOPIC_SETTINGS
            .iter()
            .filter(honoured)
            .filter(|s| !s.internal),
    );

    text.push_str(
        "### Defaults that differ from Kafka's\n\n| setting | here | Kafka |\n|---|---|---|\n",
    );
    for setting in SETTINGS
        .iter()
        .filter(|setting| setting.kafka_default.is_some())
    {
        let kafka = setting.kafka_default.flatten();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            setting.name,
            code(setting.default),
            code(kafka)
        );
    }
    let _ = writeln!(
        text,
        "| `node.id` | from `meta.properties`, else `1` | none |\n"
    );

    for (title, which) in [
        (
            "Stored and returned, but not honoured yet",
            Honoured::NotYet,
        ),
        ("Accepted, without meaning here", Honoured::Meaningless),
    ] {
        let mut names: Vec<_> = SETTINGS
            .iter()
            .chain(TOPIC_SETTINGS)
            .filter(|setting| setting.honoured == which && !setting.internal)
            .map(|setting| format!("`{}`", setting.name))
            .collect();
        names.sort();
        names.dedup();
        let _ = writeln!(text, "### {title}\n\n{}\n", names.join(", "));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn section<'a>(text: &mut String, title: &str, settings: impl Iterator<Item = &'a Setting>) {
    let mut settings: Vec<_> = settings.collect();
    settings.sort_by_key(|setting| setting.name);
    let _ = writeln!(
        text,
        "### {title}\n\n| setting | default | |\n|---|---|---|"
    );
    for setting in settings {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            setting.name,
            code(setting.default),
            setting.doc
        );
    }
    text.push('\n');
}

fn code(value: Option<&str>) -> String {
    match value {
        None => "none".to_owned(),
        Some("") => "empty".to_owned(),
        Some("9223372036854775807") => "no limit".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::Layers;
    use super::*;
    use crate::base::properties;

    #[test]
    fn the_printed_configuration_names_sources_and_hides_secrets() {
        let mut layers = Layers::default();
        for (name, value) in [
            ("num.partitions", "3"),
            ("ssl.key.password", "hunter2"),
            ("group.share.max.size", "9"),
            ("log.dirs", "/a\\b, /c"),
        ] {
            let text = (value.to_owned(), Source::File);
            layers.fixed.insert(name.to_owned(), text);
        }
        let text = print_config(&NodeSettings::assemble(layers, "machine").unwrap());
        for expected in [
            "# file\nnum.partitions=3\n",
            "# default\nlog.segment.bytes=1073741824\n",
            "# file, not honoured yet\nssl.key.password=[hidden]\n",
            "# file, not honoured yet\ngroup.share.max.size=9\n",
            "# default\nringspun.logging.format=text\n",
        ] {
            assert!(text.contains(expected), "{expected}");
        }
        assert!(!text.contains("hunter2"));
        let again = properties::parse(&text).unwrap();
        assert!(again.contains(&("log.dirs".to_owned(), "/a\\b,/c".to_owned())));
    }

    #[test]
    fn the_readmes_list_has_every_setting_once_in_its_place() {
        let text = markdown();
        for expected in [
            "| `ringspun.cores` | empty | ",
            "| `num.partitions` | `1` | ",
            "| `flush.messages` | no limit | ",
            "| `listeners` | `PLAINTEXT://127.0.0.1:9092` | `PLAINTEXT://:9092` |",
            "| `process.roles` | `broker,controller` | none |",
        ] {
            assert!(text.contains(expected), "{expected}");
        }
        let not_yet = text.split("not honoured yet").nth(1).unwrap();
        assert!(not_yet.contains("`group.share.max.size`"));
        for setting in SETTINGS.iter().filter(|setting| !setting.internal) {
            assert!(
                text.contains(&format!("`{}`", setting.name)),
                "{}",
                setting.name
            );
        }
    }
}
