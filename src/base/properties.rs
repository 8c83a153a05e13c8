//! Java's `.properties` files, in which Kafka's configuration is written.
//!
//! 1. A line whose first character (white space aside) is `#` or `!` is a comment; an empty one is nothing.
//! 2. A line that ends in an odd number of backslashes goes on in the next, whose leading white space is
//!    dropped. Comments do not go on.
//! 3. The key ends at the first `=`, `:` or white space that has no backslash before it. White space around
//!    the separator does not count; the rest of the line is the value, trailing space included.
//! 4. `\t`, `\n`, `\r`, `\f` and `\uXXXX` (UTF-16) stand for characters; a backslash before any other
//!    character stands for that character.

use super::settings::SettingError;

/// The keys and values in `text`, in its order; a key may come more than once, and then the last counts.
///
/// Errors: a `\u` without four hexadecimal digits; the message has the number of the line.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, SettingError> {
    let mut entries = Vec::new();
    let mut lines = natural_lines(text).into_iter().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches(is_space);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while ends_in_odd_backslashes(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, more)) => logical.push_str(more.trim_start_matches(is_space)),
                None => break,
            }
        }
        entries.push(
            split(&logical)
                .map_err(|why| SettingError::Malformed(format!("line {}: {why}", number + 1)))?,
        );
    }
    Ok(entries)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn natural_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\n', '\r']) {
        lines.push(&rest[..end]);
        let after = if rest[end..].starts_with("\r\n") {
            2
        } else {
            1
        };
        rest = &rest[end + after..];
    }
    lines.push(rest);
    lines
}

fn ends_in_odd_backslashes(line: &str) -> bool {
    line.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1
}

fn split(line: &str) -> Result<(String, String), String> {
    let mut key_end = line.len();
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || c == ':' || is_space(c) {
            key_end = at;
            break;
        }
    }
    let (key, rest) = line.split_at(key_end);
    let rest = rest.trim_start_matches(is_space);
    let value = rest
        .strip_prefix(['=', ':'])
        .unwrap_or(rest)
        .trim_start_matches(is_space);
    Ok((unescape(key)?, unescape(value)?))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    let mut buffer = [0; 2];
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let is_hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    match u16::from_str_radix(&digits, 16) {
                        Ok(unit) if is_hex => units.push(unit),
                        _ => return Err(format!("\\u{digits} is not a character")),
                    }
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        units.extend_from_slice(c.encode_utf16(&mut buffer));
    }
    String::from_utf16(&units).map_err(|_| "half of a surrogate pair".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (String, String) {
        let mut entries = parse(text).unwrap();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }

    fn is(text: &str, key: &str, value: &str) {
        assert_eq!(one(text), (key.to_owned(), value.to_owned()), "{text:?}");
    }

    #[test]
    fn a_key_ends_at_equals_colon_or_space() {
        for text in ["k=v", "k:v", "k v", "k = v", "k\t:\tv", "  k   v", "k   =v"] {
            is(text, "k", "v");
        }
        is("k", "k", "");
        is("k=", "k", "");
        is("k==v", "k", "=v");
        is(
            "listeners=PLAINTEXT://:9092",
            "listeners",
            "PLAINTEXT://:9092",
        );
        is("k=a b  ", "k", "a b  ");
    }

    #[test]
    fn comments_and_empty_lines_are_nothing() {
        assert_eq!(parse("# a=b\n! c=d\n\n   \n  # e\\\n").unwrap(), vec![]);
        is("# comments do not go on \\\nk=v", "k", "v");
    }

    #[test]
    fn an_odd_backslash_at_the_end_continues_the_line() {
        is("k=a,\\\n    b,\\\r\n\tc", "k", "a,b,c");
        is("k=a\\\\", "k", "a\\");
        is("k=a\\", "k", "a");
        is("k=a\\\n# not a comment", "k", "a# not a comment");
        is("ke\\\n  y=v", "key", "v");
    }

    #[test]
    fn escapes_stand_for_characters() {
        is("a\\=b\\:c\\ d=v", "a=b:c d", "v");
        is("k=\\t\\n\\r\\f\\q\\\\", "k", "\t\n\r\u{c}q\\");
        is("k=\\u00e9\\ud83d\\ude00é", "k", "é😀é");
        assert_eq!(
            parse("a=b\nk=\\u00g0").unwrap_err().to_string(),
            "line 2: \\u00g0 is not a character"
        );
        assert!(parse("k=\\ud83d").is_err());
        assert!(parse("k=\\u+123").is_err());
    }

    #[test]
    fn lines_end_in_any_of_three_ways_and_order_is_kept() {
        let keys: Vec<_> = parse("b=1\ra=2\r\nb=3\n")
            .unwrap()
            .into_iter()
            .map(|(k, v)| k + &v)
            .collect();
        assert_eq!(keys, ["b1", "a2", "b3"]);
    }
}
