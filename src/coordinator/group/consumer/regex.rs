//! Subscriptions by regular expression: RE2's syntax, in time linear in what is matched.
//!
//! An expression matches a topic if it matches all of its name. It is compiled when a member brings it,
//! so that a bad one is refused, and evaluated over all topics later, in slices, by [`Resolution`].
//! Classes like `\w` are ASCII, as in RE2, unless an expression needs more.

use std::collections::BTreeSet;
use std::rc::Rc;

use regex::bytes::{Regex, RegexBuilder};

use super::Refusal;
use super::member::Text;
use crate::base::Timestamp;
use crate::metadata::Image;
use crate::protocol::ErrorCode;

/// What a compiled expression may take in memory, in bytes.
const SIZE_LIMIT: usize = 512 << 10;

/// Names matched in one go: well under a millisecond.
const SLICE: usize = 2_000;

/// What an expression came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedRegex {
    pub topics: Rc<BTreeSet<Text>>,
    /// The version of the image it was evaluated on.
    pub version: i64,
    pub timestamp: Timestamp,
}

/// Compiles an expression that has to match all of a name.
pub fn compile(expression: &str) -> Result<Regex, Refusal> {
    let quoted = unquote(expression);
    let build = |text: &str, unicode: bool| {
        RegexBuilder::new(text)
            .unicode(unicode)
            .size_limit(SIZE_LIMIT)
            .nest_limit(100)
            .build()
    };
    // By itself first, so that it cannot close the group that is put around it.
    let compiled = [false, true].into_iter().find_map(|unicode| {
        build(&quoted, unicode).ok()?;
        build(&format!(r"\A(?:{quoted})\z"), unicode).ok()
    });
    compiled.ok_or_else(|| {
        let reason = match build(&quoted, true) {
            Err(regex::Error::CompiledTooBig(_)) => "expression too large".to_owned(),
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
            Ok(_) => "unbalanced".to_owned(),
        };
        Refusal::new(
            ErrorCode::InvalidRegularExpression,
            format!(
                "SubscribedTopicRegex `{expression}` is not a valid regular expression: {reason}."
            ),
        )
    })
}

/// Without RE2's `\Q...\E`, which the engine does not know.
fn unquote(expression: &str) -> String {
    let mut out = String::new();
    let mut rest = expression;
    loop {
        // A backslash takes the next character with it.
        let mut start = None;
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '\\' && matches!(chars.next(), Some((_, 'Q'))) {
                start = Some(at);
                break;
            }
        }
        let Some(start) = start else {
            out.push_str(rest);
            return out;
        };
        let (before, quoted) = rest.split_at(start);
        let quoted = quoted.get(2..).unwrap_or_default();
        let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        out.push_str(before);
        out.push_str(&regex::escape(literal));
        rest = after;
    }
}

/// The evaluation of a group's expressions, a slice of topics at a time.
pub struct Resolution {
    expressions: Vec<(Text, Option<Regex>, BTreeSet<Text>)>,
    started: Timestamp,
    version: i64,
    /// Topics before this name are done.
    from: Option<String>,
}

impl Resolution {
    pub fn new(expressions: impl Iterator<Item = Text>, image: &Image, now: Timestamp) -> Self {
        let expressions = expressions.map(|text| {
            let compiled = compile(&text).ok();
            (text, compiled, BTreeSet::new())
        });
        Self {
            expressions: expressions.collect(),
            started: now,
            version: image.version(),
            from: Some(String::new()),
        }
    }

    /// Goes on. Whether all is done.
    pub fn step(&mut self, image: &Image) -> bool {
        let Some(from) = self.from.take() else {
            return true;
        };
        let names = (SLICE / self.expressions.len().max(1)).max(1);
        for (done, topic) in image.topics_from(&from).enumerate() {
            if done == names {
                self.from = Some(topic.name.to_string());
                return false;
            }
            for (_, compiled, matched) in &mut self.expressions {
                let matches = |regex: &Regex| regex.is_match(topic.name.as_bytes());
                if compiled.as_ref().is_some_and(matches) {
                    matched.insert(topic.name.as_ref().into());
                }
            }
        }
        true
    }

    /// What each expression came to. A topic that came during the evaluation may be missing: the
    /// version is the one at its start, so the next look finds out.
    pub fn finish(self) -> Vec<(Text, ResolvedRegex)> {
        let resolved = self.expressions.into_iter().map(|(text, _, topics)| {
            let resolved = ResolvedRegex {
                topics: Rc::new(topics),
                version: self.version,
                timestamp: self.started,
            };
            (text, resolved)
        });
        resolved.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(expression: &str, name: &str) -> bool {
        compile(expression).unwrap().is_match(name.as_bytes())
    }

    #[test]
    fn all_of_a_name_has_to_match() {
        assert!(matches("orders-.*", "orders-eu"));
        assert!(!matches("orders-.*", "my-orders-eu"));
        assert!(!matches("a|ab", "abc"));
        assert!(matches("a|ab", "ab"));
        assert!(!matches("foo", "foo\n"));
    }

    #[test]
    fn the_syntax_is_re2s() {
        assert!(matches(r"\Qa.b\E.", "a.bc"));
        assert!(!matches(r"\Qa.b\E.", "axbc"));
        assert!(matches(r"\\Q", r"\Q"));
        assert!(matches(r"[[:alpha:]]+\d{2}", "abc12"));
        assert!(matches(r"(?i)ABC", "abc"));
        assert!(matches(r"(?P<name>a)", "a"));
        assert!(!matches(r"\w", "é"));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for bad in [
            "(",
            "a)|(b",
            "[",
            r"(a)\1",
            "a(?=b)",
            "a{1001}{1001}",
            "(?x)a #",
            r"(\pL{100}){100}",
        ] {
            let refusal = compile(bad).expect_err(bad);
            assert_eq!(refusal.error, ErrorCode::InvalidRegularExpression);
        }
        assert!(compile(&"(".repeat(10_000)).is_err());
        assert!(compile(&"(a".repeat(200)).is_err());
    }

    #[test]
    fn what_makes_backtracking_engines_hang_does_not() {
        assert!(!matches("(a+)+$", &format!("{}!", "a".repeat(248))));
        assert!(!matches(
            &format!("{}{}", "a?".repeat(100), "a".repeat(100)),
            &"a".repeat(99)
        ));
    }
}
