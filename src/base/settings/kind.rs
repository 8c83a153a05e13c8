//! One row of the table of settings, and the checks that a row describes.

/// Kafka's type of a setting; the number is the one in DescribeConfigs (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

/// What a number counts. Kafka's names end in it; here it is for the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    None,
    Bytes,
    BytesPerSecond,
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
}

/// Whom a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Broker,
    Topic,
    Group,
}

/// Which values a setting takes, beyond what its type says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    Any,
    AtLeast(i64),
    Between(i64, i64),
    /// Between the first two, or exactly the third.
    BetweenOr(i64, i64, i64),
    DoubleBetween(f64, f64),
    NonEmpty,
    OneOf(&'static [&'static str]),
    OneOfIgnoreCase(&'static [&'static str]),
    /// A list whose elements are among these (any, if there are none), and which may or may not be empty.
    ListOf {
        allowed: &'static [&'static str],
        empty: bool,
    },
    /// `*`, or `partition:broker` pairs.
    ThrottledReplicas,
    /// As [`Range::OneOf`], or `by_duration:` and an ISO 8601 duration.
    OffsetReset(&'static [&'static str]),
}

/// When a broker setting can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMode {
    /// Only before a start.
    ReadOnly,
    /// At run time, for one broker.
    PerBroker,
    /// At run time, for one broker or for all.
    ClusterWide,
}

/// Whether setting it has an effect here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honoured {
    Yes,
    /// It will have; until then it is stored and returned, and a line says so.
    NotYet,
    /// It speaks of a JVM, of Kafka's threads, or of something else that is not here.
    Meaningless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    High,
    Medium,
    Low,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Kafka's name, or ours, beginning with `ringspun.`.
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    /// The default here. `None`: no value (Kafka's `null`).
    pub default: Option<&'static str>,
    /// Kafka's default, where ours differs from it; `Some(None)`: Kafka has none.
    pub kafka_default: Option<Option<&'static str>>,
    pub range: Range,
    pub importance: Importance,
    pub scope: Scope,
    pub update_mode: UpdateMode,
    pub honoured: Honoured,
    /// Not shown by DescribeConfigs unless somebody set it.
    pub internal: bool,
    /// For a topic setting: the broker settings it falls back to, first one first. For a broker setting:
    /// itself and the others that say the same, first one first; empty if there are none.
    pub synonyms: &'static [&'static str],
    /// One sentence for operators.
    pub doc: &'static str,
}

impl Setting {
    /// Whether its value is a secret: never printed, never sent.
    pub const fn is_sensitive(&self) -> bool {
        matches!(self.kind, Kind::Password)
    }
}
