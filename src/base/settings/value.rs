//! From the text of a value to the value, and back, as Kafka's `ConfigDef` does it.

use super::SettingError;
use super::kind::{Kind, Range, Setting};

/// A parsed value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Boolean(bool),
    /// Of a [`Kind::Int`], [`Kind::Short`] or [`Kind::Long`].
    Integer(i64),
    Double(f64),
    /// Of a [`Kind::String`], [`Kind::Class`] or [`Kind::Password`].
    Text(String),
    List(Vec<String>),
}

impl Value {
    /// The value as Kafka prints it.
    pub fn render(&self) -> String {
        match self {
            Value::Boolean(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Double(value) => java_double(*value),
            Value::Text(value) => value.clone(),
            Value::List(items) => items.join(","),
        }
    }

    pub(super) fn integer(&self) -> i64 {
        match self {
            Value::Integer(value) => *value,
            _ => 0,
        }
    }
}

/// As Java prints a double: scientific outside 10^-3 to 10^7.
fn java_double(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-3..1e7).contains(&size) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if digits.contains('.') => format!("{digits}E{exponent}"),
        Some((digits, exponent)) => format!("{digits}.0E{exponent}"),
        None => text,
    }
}

impl Setting {
    /// Parses and checks `raw`. Space around it does not count; a list loses its duplicates.
    pub fn parse(&self, raw: &str) -> Result<Value, SettingError> {
        let text = raw.trim();
        let value = self.parse_type(text)?;
        self.check_range(text, &value)?;
        Ok(value)
    }

    /// What is allowed, in words; `None` where anything is.
    pub fn allowed(&self) -> Option<String> {
        let kind = match self.kind {
            Kind::Boolean => return Some("true or false".into()),
            Kind::Int | Kind::Short | Kind::Long => "a whole number",
            Kind::Double => "a number",
            Kind::List => "a list",
            Kind::String | Kind::Class | Kind::Password => "",
        };
        let range = match self.range {
            Range::Any => String::new(),
            Range::AtLeast(least) => format!("at least {least}"),
            Range::Between(least, most) => format!("{least} to {most}"),
            Range::BetweenOr(least, most, or) => format!("{least} to {most}, or {or}"),
            Range::DoubleBetween(least, most) => format!("{least} to {most}"),
            Range::NonEmpty => "not empty".into(),
            Range::OneOf(allowed) | Range::OneOfIgnoreCase(allowed) => allowed.join(", "),
            Range::OffsetReset(named) => format!("{}, by_duration:PnDTnHnMn.nS", named.join(", ")),
            Range::ThrottledReplicas => "* or partition:broker pairs".into(),
            Range::ListOf {
                allowed: [],
                empty: true,
            } => String::new(),
            Range::ListOf {
                allowed: [],
                empty: false,
            } => "not empty".into(),
            Range::ListOf { allowed, .. } => format!("of {}", allowed.join(", ")),
        };
        match (kind, range.as_str()) {
            ("", "") => None,
            (kind, "") => Some(kind.to_owned()),
            ("", range) => Some(range.to_owned()),
            (kind, range) => Some(format!("{kind}, {range}")),
        }
    }

    /// What `raw` becomes once it is parsed, or `raw` itself if it does not parse.
    pub(super) fn canonical(&self, raw: &str) -> String {
        match self.parse(raw) {
            Ok(value) => value.render(),
            Err(_) => raw.to_owned(),
        }
    }

    fn parse_type(&self, text: &str) -> Result<Value, SettingError> {
        let not_a_number = |kind: &str| self.refuse(text, format!("Not a number of type {kind}"));
        match self.kind {
            Kind::Boolean if text.eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
            Kind::Boolean if text.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
            Kind::Boolean => {
                Err(self.refuse(text, "Expected value to be either true or false".into()))
            }
            Kind::Int => text
                .parse::<i32>()
                .map(|n| Value::Integer(n.into()))
                .map_err(|_| not_a_number("INT")),
            Kind::Short => text
                .parse::<i16>()
                .map(|n| Value::Integer(n.into()))
                .map_err(|_| not_a_number("SHORT")),
            Kind::Long => text
                .parse::<i64>()
                .map(Value::Integer)
                .map_err(|_| not_a_number("LONG")),
            Kind::Double => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Value::Double(number)),
                _ => Err(not_a_number("DOUBLE")),
            },
            Kind::String | Kind::Class | Kind::Password => Ok(Value::Text(text.to_owned())),
            Kind::List => {
                let mut items: Vec<String> = Vec::new();
                if !text.is_empty() {
                    for item in text.split(',').map(str::trim) {
                        if !items.iter().any(|known| known == item) {
                            items.push(item.to_owned());
                        }
                    }
                }
                Ok(Value::List(items))
            }
        }
    }

    fn check_range(&self, text: &str, value: &Value) -> Result<(), SettingError> {
        let refuse = |why: String| Err(self.refuse(text, why));
        match (self.range, value) {
            (Range::Any, _) => Ok(()),
            (Range::AtLeast(least) | Range::Between(least, _), Value::Integer(n)) if *n < least => {
                refuse(format!("Value must be at least {least}"))
            }
            (Range::Between(_, most), Value::Integer(n)) if *n > most => {
                refuse(format!("Value must be no more than {most}"))
            }
            (Range::BetweenOr(least, most, or), Value::Integer(n))
                if !(least..=most).contains(n) && *n != or =>
            {
                refuse(format!(
                    "Value must be between {least} and {most} or equal to {or}"
                ))
            }
            (Range::DoubleBetween(least, _), Value::Double(n)) if *n < least => {
                refuse(format!("Value must be at least {least}"))
            }
            (Range::DoubleBetween(_, most), Value::Double(n)) if *n > most => {
                refuse(format!("Value must be no more than {most}"))
            }
            (Range::NonEmpty, Value::Text(text)) if text.is_empty() => {
                refuse("String must be non-empty".into())
            }
            (Range::OneOf(allowed), Value::Text(text)) if !allowed.contains(&text.as_str()) => {
                refuse(one_of(allowed))
            }
            (Range::OneOfIgnoreCase(allowed), Value::Text(text))
                if !allowed.iter().any(|a| a.eq_ignore_ascii_case(text)) =>
            {
                refuse(format!(
                    "String must be one of (case insensitive): {}",
                    allowed.join(", ")
                ))
            }
            (Range::OffsetReset(named), Value::Text(text))
                if !named.contains(&text.as_str()) && !is_duration(text) =>
            {
                refuse(format!(
                    "must be one of {}, or by_duration:PnDTnHnMn.nS",
                    named.join(", ")
                ))
            }
            (Range::ListOf { allowed, empty }, Value::List(items)) => {
                self.check_list(allowed, empty, items)
            }
            (Range::ThrottledReplicas, Value::List(items)) if !are_throttled_replicas(items) => {
                refuse(
                    "must be the literal '*' or a list of replicas in the following format: \
                     [partitionId]:[brokerId],[partitionId]:[brokerId],..."
                        .into(),
                )
            }
            (
                Range::AtLeast(_)
                | Range::Between(..)
                | Range::BetweenOr(..)
                | Range::DoubleBetween(..)
                | Range::NonEmpty
                | Range::OneOf(_)
                | Range::OneOfIgnoreCase(_)
                | Range::OffsetReset(_)
                | Range::ThrottledReplicas
                | Range::ListOf { .. },
                _,
            ) => Ok(()),
        }
    }

    fn check_list(
        &self,
        allowed: &[&str],
        empty: bool,
        items: &[String],
    ) -> Result<(), SettingError> {
        if items.is_empty() && !empty {
            let valid = match allowed {
                [] => "any non-empty value".to_owned(),
                some => format!("[{}]", some.join(", ")),
            };
            return Err(SettingError::Conflict(format!(
                "Configuration '{}' must not be empty. Valid values include: {valid}",
                self.name
            )));
        }
        for item in items {
            if item.is_empty() {
                return Err(SettingError::Conflict(format!(
                    "Configuration '{}' values must not be empty.",
                    self.name
                )));
            }
            if !allowed.is_empty() && !allowed.contains(&item.as_str()) {
                return Err(self.refuse(item, one_of(allowed)));
            }
        }
        Ok(())
    }

    fn refuse(&self, value: &str, why: String) -> SettingError {
        let value = if self.is_sensitive() {
            "[hidden]"
        } else {
            value
        };
        SettingError::invalid(self.name, value, why)
    }
}

fn one_of(allowed: &[&str]) -> String {
    format!("String must be one of: {}", allowed.join(", "))
}

fn are_throttled_replicas(items: &[String]) -> bool {
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    match items {
        [one] if one == "*" => true,
        pairs => pairs.iter().all(|pair| {
            pair.split_once(':')
                .is_some_and(|(partition, broker)| is_number(partition) && is_number(broker))
        }),
    }
}

/// `by_duration:` and a duration such as `P3D`, `PT2H30M` or `P1DT0.5S` (ISO 8601).
fn is_duration(text: &str) -> bool {
    let Some(period) = text.strip_prefix("by_duration:P") else {
        return false;
    };
    let (days, time) = match period.split_once('T') {
        Some((_, "")) => return false,
        Some((days, time)) => (days, time),
        None => (period, ""),
    };
    let amounts = |text: &str, units: &str| {
        let mut units = units.chars();
        let mut digits = 0;
        text.chars().all(|c| match c {
            '0'..='9' | '.' => {
                digits += 1;
                true
            }
            unit => std::mem::take(&mut digits) > 0 && units.any(|u| u == unit),
        }) && digits == 0
    };
    !(days.is_empty() && time.is_empty()) && amounts(days, "D") && amounts(time, "HMS")
}

#[cfg(test)]
mod tests {
    use crate::base::settings::table::{broker_setting, group_setting, topic_setting};

    /// What Apache Kafka 4.3.1 says to `name=value` for a topic.
    fn topic(name: &str, value: &str) -> String {
        match topic_setting(name).unwrap().parse(value) {
            Ok(value) => format!("ok {}", value.render()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn values_are_refused_in_kafkas_words() {
        for (name, value, expected) in [
            (
                "segment.bytes",
                "1",
                "Invalid value 1 for configuration segment.bytes: Value must be at least 1048576",
            ),
            (
                "segment.bytes",
                "x",
                "Invalid value x for configuration segment.bytes: Not a number of type INT",
            ),
            (
                "segment.bytes",
                "99999999999",
                "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT",
            ),
            (
                "segment.bytes",
                "",
                "Invalid value  for configuration segment.bytes: Not a number of type INT",
            ),
            (
                "retention.ms",
                "-2",
                "Invalid value -2 for configuration retention.ms: Value must be at least -1",
            ),
            (
                "retention.ms",
                "1.5",
                "Invalid value 1.5 for configuration retention.ms: Not a number of type LONG",
            ),
            (
                "compression.gzip.level",
                "0",
                "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
            ),
            (
                "compression.lz4.level",
                "18",
                "Invalid value 18 for configuration compression.lz4.level: Value must be no more than 17",
            ),
            (
                "preallocate",
                "yes",
                "Invalid value yes for configuration preallocate: Expected value to be either true or false",
            ),
            (
                "min.cleanable.dirty.ratio",
                "1.1",
                "Invalid value 1.1 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
            ),
            (
                "compression.type",
                "foo",
                "Invalid value foo for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer",
            ),
            (
                "message.timestamp.type",
                "createtime",
                "Invalid value createtime for configuration message.timestamp.type: String must be one of: CreateTime, LogAppendTime",
            ),
            (
                "cleanup.policy",
                "delete,foo",
                "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete",
            ),
            (
                "cleanup.policy",
                "delete,",
                "Configuration 'cleanup.policy' values must not be empty.",
            ),
        ] {
            assert_eq!(topic(name, value), expected);
        }
    }

    #[test]
    fn values_are_trimmed_and_rendered_as_kafka_renders_them() {
        assert_eq!(topic("segment.bytes", " 1048577 "), "ok 1048577");
        assert_eq!(topic("segment.ms", "+5"), "ok 5");
        assert_eq!(topic("preallocate", " TRUE "), "ok true");
        assert_eq!(
            topic("cleanup.policy", "delete, compact ,delete"),
            "ok delete,compact"
        );
        assert_eq!(topic("cleanup.policy", ""), "ok ");
        assert_eq!(topic("min.cleanable.dirty.ratio", "1"), "ok 1.0");
        let rate = broker_setting("log.cleaner.io.max.bytes.per.second").unwrap();
        assert_eq!(
            rate.parse("1.7976931348623157E308").unwrap().render(),
            "1.7976931348623157E308"
        );
        assert_eq!(rate.parse("10000000").unwrap().render(), "1.0E7");
        assert_eq!(rate.parse("0.0005").unwrap().render(), "5.0E-4");
    }

    #[test]
    fn throttled_replicas_are_pairs_or_a_star() {
        let name = "leader.replication.throttled.replicas";
        for good in ["", "*", "1:2", "1:2,3:4", "1:2,1:2"] {
            assert!(topic(name, good).starts_with("ok"), "{good}");
        }
        for bad in ["1:2,3", "*,1:2", "a:b", "1:", ":"] {
            assert!(
                topic(name, bad).contains("must be the literal '*'"),
                "{bad}"
            );
        }
    }

    #[test]
    fn lists_that_must_not_be_empty_are_refused_when_they_are() {
        let error = broker_setting("log.dirs").unwrap().parse(" ").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Configuration 'log.dirs' must not be empty. Valid values include: any non-empty value"
        );
    }

    #[test]
    fn an_offset_reset_is_a_name_or_a_duration() {
        let reset = group_setting("share.auto.offset.reset").unwrap();
        for good in [
            "latest",
            "earliest",
            "by_duration:P3D",
            "by_duration:PT2H30M",
            "by_duration:P1DT0.5S",
        ] {
            reset.parse(good).unwrap();
        }
        for bad in [
            "",
            "soon",
            "by_duration:",
            "by_duration:P",
            "by_duration:PT",
            "by_duration:P3H",
            "by_duration:PTM",
        ] {
            reset.parse(bad).unwrap_err();
        }
    }

    #[test]
    fn a_bad_secret_is_not_repeated() {
        let mut secret = *broker_setting("ssl.key.password").unwrap();
        secret.range = crate::base::settings::Range::OneOf(&["a"]);
        assert!(
            !secret
                .parse("hunter2")
                .unwrap_err()
                .to_string()
                .contains("hunter2")
        );
    }
}
