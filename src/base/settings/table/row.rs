//! The words in which the table's rows are written.
//!
//! A row that says nothing else is: no default, any value, no unit, medium importance, a broker's, read-only,
//! honoured.

use crate::base::settings::kind::{
    Honoured, Importance, Kind, Range, Scope, Setting, Unit, UpdateMode,
};

const fn row(name: &'static str, kind: Kind, range: Range) -> Setting {
    Setting {
        name,
        kind,
        unit: Unit::None,
        default: None,
        kafka_default: None,
        range,
        importance: Importance::Medium,
        scope: Scope::Broker,
        update_mode: UpdateMode::ReadOnly,
        honoured: Honoured::Yes,
        internal: false,
        synonyms: &[],
        doc: "",
    }
}

pub(super) const fn boolean(name: &'static str) -> Setting {
    row(name, Kind::Boolean, Range::Any)
}

pub(super) const fn string(name: &'static str) -> Setting {
    row(name, Kind::String, Range::Any)
}

pub(super) const fn int(name: &'static str) -> Setting {
    row(name, Kind::Int, Range::Any)
}

pub(super) const fn short(name: &'static str) -> Setting {
    row(name, Kind::Short, Range::Any)
}

pub(super) const fn long(name: &'static str) -> Setting {
    row(name, Kind::Long, Range::Any)
}

pub(super) const fn double(name: &'static str) -> Setting {
    row(name, Kind::Double, Range::Any)
}

/// A list of anything, which may be empty.
pub(super) const fn list(name: &'static str) -> Setting {
    let any = Range::ListOf {
        allowed: &[],
        empty: true,
    };
    row(name, Kind::List, any)
}

/// The name of a Java class.
pub(super) const fn class(name: &'static str) -> Setting {
    row(name, Kind::Class, Range::Any)
}

pub(super) const fn password(name: &'static str) -> Setting {
    row(name, Kind::Password, Range::Any)
}

impl Setting {
    pub(super) const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// Kafka's default, which is another.
    pub(super) const fn instead_of(mut self, kafka: &'static str) -> Self {
        self.kafka_default = Some(Some(kafka));
        self
    }

    /// Kafka has no default.
    pub(super) const fn instead_of_none(mut self) -> Self {
        self.kafka_default = Some(None);
        self
    }

    const fn range(mut self, range: Range) -> Self {
        self.range = range;
        self
    }

    pub(super) const fn at_least(self, least: i64) -> Self {
        self.range(Range::AtLeast(least))
    }

    pub(super) const fn between(self, least: i64, most: i64) -> Self {
        self.range(Range::Between(least, most))
    }

    pub(super) const fn between_or(self, least: i64, most: i64, or: i64) -> Self {
        self.range(Range::BetweenOr(least, most, or))
    }

    pub(super) const fn double_between(self, least: f64, most: f64) -> Self {
        self.range(Range::DoubleBetween(least, most))
    }

    pub(super) const fn non_empty(self) -> Self {
        self.range(Range::NonEmpty)
    }

    pub(super) const fn one_of(self, allowed: &'static [&'static str]) -> Self {
        self.range(Range::OneOf(allowed))
    }

    pub(super) const fn one_of_ignore_case(self, allowed: &'static [&'static str]) -> Self {
        self.range(Range::OneOfIgnoreCase(allowed))
    }

    /// A list of these, which may be empty.
    pub(super) const fn list_of(self, allowed: &'static [&'static str]) -> Self {
        let empty = true;
        self.range(Range::ListOf { allowed, empty })
    }

    /// A list of at least one of these (of anything, if there are none).
    pub(super) const fn list_of_some(self, allowed: &'static [&'static str]) -> Self {
        let empty = false;
        self.range(Range::ListOf { allowed, empty })
    }

    pub(super) const fn throttled_replicas(self) -> Self {
        self.range(Range::ThrottledReplicas)
    }

    pub(super) const fn offset_reset(self, named: &'static [&'static str]) -> Self {
        self.range(Range::OffsetReset(named))
    }

    const fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    pub(super) const fn bytes(self) -> Self {
        self.unit(Unit::Bytes)
    }

    pub(super) const fn bytes_per_second(self) -> Self {
        self.unit(Unit::BytesPerSecond)
    }

    pub(super) const fn ms(self) -> Self {
        self.unit(Unit::Milliseconds)
    }

    pub(super) const fn seconds(self) -> Self {
        self.unit(Unit::Seconds)
    }

    pub(super) const fn minutes(self) -> Self {
        self.unit(Unit::Minutes)
    }

    pub(super) const fn hours(self) -> Self {
        self.unit(Unit::Hours)
    }

    pub(super) const fn high(mut self) -> Self {
        self.importance = Importance::High;
        self
    }

    pub(super) const fn low(mut self) -> Self {
        self.importance = Importance::Low;
        self
    }

    pub(super) const fn topic(mut self) -> Self {
        self.scope = Scope::Topic;
        self
    }

    pub(super) const fn group(mut self) -> Self {
        self.scope = Scope::Group;
        self
    }

    pub(super) const fn per_broker(mut self) -> Self {
        self.update_mode = UpdateMode::PerBroker;
        self
    }

    pub(super) const fn cluster_wide(mut self) -> Self {
        self.update_mode = UpdateMode::ClusterWide;
        self
    }

    pub(super) const fn not_yet(mut self) -> Self {
        self.honoured = Honoured::NotYet;
        self
    }

    pub(super) const fn meaningless(mut self) -> Self {
        self.honoured = Honoured::Meaningless;
        self
    }

    pub(super) const fn internal(mut self) -> Self {
        self.internal = true;
        self
    }

    pub(super) const fn synonyms(mut self, names: &'static [&'static str]) -> Self {
        self.synonyms = names;
        self
    }

    pub(super) const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
}
