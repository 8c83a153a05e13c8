//! Holds the two rules of `src/lib.rs` that a machine can hold: a module uses lower layers only, and a
//! pure module has no clock, file, socket, executor, thread or random source.
//!
//! The sources are read as tokens. Every path (`use` trees are spelled out) that begins with `crate` or
//! `ringspun` names a module, which has to lie on a lower layer than the module of the file. Comments,
//! strings and what stands under `#[cfg(test)]` do not count: tests may look anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first; those on one line do not see each other.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["protocol", "runtime"],
    &["records", "transport"],
    &["storage", "metadata"],
    &["replication", "coordinator", "controller", "security"],
    &["broker"],
    &["handlers"],
    &["server", "admin"],
];

/// Modules in which time is an argument and effects are returned.
const PURE: &[&str] = &[
    "protocol",
    "records",
    "metadata",
    "replication",
    "coordinator",
    "controller",
    "security",
];

/// Files of pure modules that are the shell around their machine.
const SHELLS: &[&str] = &["controller/quorum.rs", "controller/quorum/"];

/// Crates that reach the machine or its clock, threads or randomness.
const IMPURE_CRATES: &[&str] = &[
    "glommio",
    "tokio",
    "fastrand",
    "rand",
    "getrandom",
    "socket2",
    "rustix",
    "libc",
    "io_uring",
    "core_affinity",
    "redb",
    "openraft",
    "axum",
    "tempfile",
];

/// Modules of `std` that do.
const IMPURE_STD: &[&str] = &["fs", "net", "thread", "process", "env", "os"];

/// Names that do, however they were imported.
const IMPURE_NAMES: &[&str] = &["Instant", "SystemTime", "new_v4", "now_v7", "RandomState"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(char),
}

impl Token {
    fn is(&self, sign: char) -> bool {
        *self == Token::Sign(sign)
    }

    fn word(&self) -> Option<&str> {
        match self {
            Token::Word(word) => Some(word),
            Token::Sign(_) => None,
        }
    }
}

/// Words and signs of a Rust source, without comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 1;
            i += 2;
            while i < chars.len() && depth > 0 {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
            }
        } else if let Some(end) = end_of_raw_string(&chars, i) {
            i = end;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                i += 1;
            }
        } else if c.is_alphanumeric() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            // The letter before a byte or C string is part of the string.
            if at(i) != '"' || i - start > 2 {
                found.push(Token::Word(chars[start..i].iter().collect()));
            }
        } else {
            if !c.is_whitespace() {
                found.push(Token::Sign(c));
            }
            i += 1;
        }
    }
    found
}

/// The position after the raw string that begins at `i`, if one does.
fn end_of_raw_string(chars: &[char], i: usize) -> Option<usize> {
    if i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_') {
        return None;
    }
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut j = i;
    if matches!(at(j), 'b' | 'c') {
        j += 1;
    }
    if at(j) != 'r' {
        return None;
    }
    j += 1;
    let mut hashes = 0;
    while at(j) == '#' {
        hashes += 1;
        j += 1;
    }
    if at(j) != '"' {
        return None;
    }
    j += 1;
    while j < chars.len() {
        if at(j) == '"' && (1..=hashes).all(|k| at(j + k) == '#') {
            return Some(j + 1 + hashes);
        }
        j += 1;
    }
    Some(j)
}

/// The tokens that are not under `#[cfg(test)]`, and the names of modules in files of their own that
/// are.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, BTreeSet<String>) {
    let mark: Vec<Token> = crate::tokens("#[cfg(test)]");
    let mut kept = Vec::new();
    let mut test_modules = BTreeSet::new();
    let mut i = 0;
    while i < tokens.len() {
        if !tokens[i..].starts_with(&mark) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += mark.len();
        let start = i;
        let mut depth = 0;
        while i < tokens.len() {
            let token = &tokens[i];
            i += 1;
            match token {
                Token::Sign('{' | '(' | '[') => depth += 1,
                Token::Sign(')' | ']') => depth -= 1,
                Token::Sign('}') => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                Token::Sign(';') if depth == 0 => {
                    let item = &tokens[start..i - 1];
                    if let [.., Token::Word(keyword), Token::Word(name)] = item
                        && keyword == "mod"
                    {
                        test_modules.insert(name.clone());
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    (kept, test_modules)
}

/// Every path with at least one `::`, trees in braces spelled out.
fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i].word().is_some() {
            i = read_path(tokens, i, &[], &mut found);
        } else {
            i += 1;
        }
    }
    found.retain(|path| path.len() > 1);
    found
}

/// Reads the path that begins at `i`, behind `before`; the position after it.
fn read_path(
    tokens: &[Token],
    mut i: usize,
    before: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let sign = |i: usize, c: char| tokens.get(i).is_some_and(|token| token.is(c));
    let mut path = before.to_vec();
    while let Some(word) = tokens.get(i).and_then(Token::word) {
        path.push(word.to_string());
        i += 1;
        if !(sign(i, ':') && sign(i + 1, ':')) {
            break;
        }
        if sign(i + 2, '{') {
            i += 3;
            while i < tokens.len() && !sign(i, '}') {
                if tokens[i].word().is_some() {
                    i = read_path(tokens, i, &path, found);
                } else {
                    i += 1;
                }
            }
            return i + 1;
        }
        if tokens.get(i + 2).and_then(Token::word).is_none() {
            break;
        }
        i += 2;
    }
    found.push(path);
    i
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap_or("").trim_end_matches(".rs")
}

/// What `source`, which is `file` below `src/`, does that its layer forbids: one line each.
fn violations(file: &str, source: &str) -> Vec<String> {
    let module = module_of(file);
    if matches!(module, "lib" | "main") {
        return Vec::new();
    }
    let Some(own) = layer(module) else {
        return vec![format!("{file}: module `{module}` is on no layer")];
    };
    let pure = PURE.contains(&module) && !SHELLS.iter().any(|shell| file.starts_with(shell));
    let (tokens, _) = without_tests(&tokens(source));
    let mut found = BTreeSet::new();
    for path in paths(&tokens) {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names.as_slice() {
            ["crate" | "ringspun", other, ..] if *other != module => match layer(other) {
                Some(theirs) if theirs < own => {}
                Some(theirs) => {
                    found.insert(format!(
                        "{file}: layer {own} uses `{other}` of layer {theirs}: {}",
                        names.join("::")
                    ));
                }
                None if other.starts_with(char::is_lowercase) => {
                    found.insert(format!(
                        "{file}: uses `{other}`, which is on no layer: {}",
                        names.join("::")
                    ));
                }
                None => {}
            },
            _ => {}
        }
        if pure {
            let impure = IMPURE_CRATES.contains(&names[0])
                || matches!(names.as_slice(), ["std", part, ..] if IMPURE_STD.contains(part))
                || names.iter().any(|name| IMPURE_NAMES.contains(name));
            if impure {
                found.insert(format!("{file}: `{module}` is pure: {}", names.join("::")));
            }
        }
    }
    found.into_iter().collect()
}

/// All `.rs` files below `folder`, except those that are modules of tests.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder of sources")
        .map(|entry| entry.expect("an entry of it").path())
        .collect();
    entries.sort();
    let mut here = Vec::new();
    let mut test_modules = BTreeSet::new();
    for path in &entries {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(path).expect("a source");
            let (_, tests) = without_tests(&tokens(&source));
            // `mod x;` in mod.rs means a sibling; in y.rs it means y/x.rs.
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            for name in tests {
                test_modules.insert(match stem.as_ref() {
                    "mod" | "lib" | "main" => folder.join(name),
                    other => folder.join(other).join(name),
                });
            }
            here.push((path.clone(), source));
        }
    }
    let of_tests = |path: &Path| test_modules.contains(&path.with_extension(""));
    found.extend(here.into_iter().filter(|(path, _)| !of_tests(path)));
    for path in entries {
        if path.is_dir() && !of_tests(&path) {
            sources(&path, found);
        }
    }
    found.retain(|(path, _)| !of_tests(path));
}

#[test]
fn a_module_uses_lower_layers_only_and_pure_modules_are_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 10, "only {} sources found", files.len());
    let found: Vec<String> = files
        .iter()
        .flat_map(|(path, source)| {
            let file = path
                .strip_prefix(&root)
                .expect("below src")
                .to_string_lossy();
            violations(&file, source)
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_folder_of_the_sources_is_on_exactly_one_layer() {
    let mut listed: Vec<&str> = LAYERS
        .iter()
        .flat_map(|layer| layer.iter().copied())
        .collect();
    listed.sort_unstable();
    let mut declared: Vec<String> =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
            .expect("src/lib.rs")
            .lines()
            .filter_map(|line| {
                Some(
                    line.strip_prefix("pub mod ")?
                        .strip_suffix(';')?
                        .to_string(),
                )
            })
            .collect();
    declared.sort_unstable();
    assert_eq!(listed, declared);
}

/// The canaries: without them a checker that sees nothing would pass for ever.
#[test]
fn the_checker_catches_each_kind_of_violation() {
    let caught = |file: &str, source: &str| !violations(file, source).is_empty();
    assert!(
        caught("storage/log.rs", "use crate::broker::Partition;"),
        "upward"
    );
    assert!(
        caught("storage/log.rs", "use crate::metadata::Image;"),
        "a sibling"
    );
    assert!(
        caught("base/ids.rs", "use crate::{base::Offset, records::Batch};"),
        "in a tree"
    );
    assert!(
        caught(
            "records/batch.rs",
            "use crate::{base::{ids, clock}, storage};"
        ),
        "after a nested tree"
    );
    assert!(
        caught("runtime/mailbox.rs", "fn f() { crate::server::run() }"),
        "inline"
    );
    assert!(
        caught("handlers/mod.rs", "use ringspun::admin::x;"),
        "by the crate's name"
    );
    assert!(caught("nowhere/mod.rs", ""), "on no layer");
    assert!(
        caught("records/batch.rs", "use std::time::Instant;"),
        "a clock"
    );
    assert!(
        caught(
            "records/batch.rs",
            "use std::{mem, time::{Duration, SystemTime}};"
        ),
        "in a tree"
    );
    assert!(
        caught("controller/topics.rs", "fn f() { std::fs::read(p); }"),
        "a file"
    );
    assert!(
        caught("metadata/image.rs", "use std::{net::TcpStream, io};"),
        "a socket"
    );
    assert!(
        caught("security/acl.rs", "std::thread::spawn(f);"),
        "a thread"
    );
    assert!(caught("protocol/api.rs", "use tokio::time;"), "an executor");
    assert!(
        caught("coordinator/group.rs", "let id = fastrand::u64(..);"),
        "randomness"
    );
    assert!(
        caught(
            "records/a.rs",
            "#[cfg(test)]\nmod t { fn a() { } }\nuse std::fs::File;"
        ),
        "after the tests"
    );
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    let passes = |file: &str, source: &str| assert_eq!(violations(file, source), [""; 0]);
    passes(
        "broker/mod.rs",
        "use crate::storage::Log; use crate::{base, broker::x};",
    );
    passes(
        "controller/quorum.rs",
        "use std::fs; use tokio::sync; use crate::metadata::Image;",
    );
    passes(
        "records/batch.rs",
        "// crate::broker\n/* std::fs */ let s = \"crate::broker::x\";",
    );
    passes(
        "records/batch.rs",
        "let s = r#\"\" crate::broker::x \"#; let c = '\"'; let d: &'a u8;",
    );
    passes(
        "records/batch.rs",
        "#[cfg(test)] mod tests { use std::fs; use crate::server::x; }",
    );
    passes(
        "records/batch.rs",
        "use std::time::Duration; use std::io::Read;",
    );
}
