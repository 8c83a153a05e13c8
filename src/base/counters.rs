//! What a shard counts, for `/metrics` to sum.
//!
//! Each shard owns one [`ShardCounters`] and is its only writer; the control thread reads all of
//! them. So an increment is a relaxed load and a relaxed store, not a locked instruction, and a
//! structure shares no cache line with its neighbour's. A reader sees each number whole, but not all
//! numbers of one moment: differences between two counters may be off by what is in flight.
//!
//! The names here become metric names in `admin::metrics`; their meaning is documented there once,
//! as the help text an operator reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// A number that only grows (and wraps after 2^64). One writer, any readers.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the thread that owns the counter may call this: two writers lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one; as [`Counter::add`].
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes over what a structure of the same thread has counted on its own. Only for counters that
    /// nobody changes by [`Counter::add`].
    pub fn set(&self, total: u64) {
        self.0.store(total, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. One writer, any readers.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Only the thread that owns the gauge may call this.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// How many bounded buckets a [`DurationHistogram`] has; one more takes what is longer.
pub const DURATION_BUCKETS: usize = 21;

/// Durations in buckets whose bounds double, from 16 us to 16.8 s.
#[derive(Default)]
pub struct DurationHistogram {
    buckets: [Counter; DURATION_BUCKETS + 1],
    sum_us: Counter,
}

impl DurationHistogram {
    /// Counts one duration, in microseconds.
    #[inline]
    pub fn record_us(&self, us: u64) {
        self.buckets[Self::bucket(us)].inc();
        self.sum_us.add(us);
    }

    /// The bucket for `us`: the first whose bound is not below it.
    #[inline]
    fn bucket(us: u64) -> usize {
        // Bounds are 2^4, 2^5, ... so the bucket is the bit length of (us - 1), less four.
        let bits = 64 - us.saturating_sub(1).leading_zeros() as usize;
        bits.saturating_sub(4).min(DURATION_BUCKETS)
    }

    /// The inclusive upper bound of a bucket in microseconds; `None` for the last, which has none.
    pub fn bound_us(bucket: usize) -> Option<u64> {
        (bucket < DURATION_BUCKETS).then(|| 16 << bucket)
    }
}

/// A histogram as read: counts of each bucket (not cumulated) and the sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurationSnapshot {
    pub buckets: [u64; DURATION_BUCKETS + 1],
    pub sum_us: u64,
}

impl DurationSnapshot {
    /// Adds what one shard recorded.
    pub fn merge(&mut self, from: &DurationHistogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&from.buckets) {
            *sum += bucket.get();
        }
        self.sum_us += from.sum_us.get();
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Api keys from 0 to one below this are counted by key; what lies beyond shares the last place.
pub const API_KEYS: usize = 96;

/// What is counted for each kind of request.
#[derive(Default)]
pub struct ApiCounters {
    /// Requests whose header was read.
    pub requests: Counter,
    /// Error codes in responses: one for each partition, topic or resource that was refused.
    pub errors: Counter,
    /// From the last byte of the request in our memory to the last byte of the reply in the
    /// kernel's. A fetch that waited for data counts its wait.
    pub duration: DurationHistogram,
}

/// Error codes from -1 to `ERROR_CODES - 2` are counted by code; what lies beyond is not.
pub const ERROR_CODES: usize = 160;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The value of the metric's label.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }
        }
    };
}

reasons!(
    /// Why a connection ended.
    CloseReason {
        /// The client closed it, or its host went away.
        Client = "client",
        /// No request for `connections.max.idle.ms`.
        Idle = "idle",
        /// A size, header or body that cannot be read.
        Malformed = "malformed",
        /// A frame larger than `socket.request.max.bytes`.
        TooLarge = "too_large",
        /// An API or version that is not served.
        UnsupportedVersion = "unsupported_version",
        /// A frame that made no progress while others waited for memory.
        Stalled = "stalled",
        /// Beyond `max.connections` or the listener's share.
        TooManyConnections = "too_many_connections",
        /// Beyond `max.connections.per.ip`.
        TooManyFromAddress = "too_many_from_address",
        /// A produce with acks=0 failed; closing is the only answer it gets.
        UnacknowledgedError = "unacknowledged_error",
        /// Reading or writing the socket failed.
        Socket = "socket",
        /// Unsent replies beyond their limit: the client does not read.
        SlowReader = "slow_reader",
        /// The node stops.
        Shutdown = "shutdown",
    }
);

reasons!(
    /// What a request in purgatory waits for.
    Purgatory {
        /// acks=all for the high watermark, or any produce for its flush.
        Produce = "produce",
        /// A fetch for `min_bytes`.
        Fetch = "fetch",
    }
);

const CLOSE_REASONS: usize = CloseReason::ALL.len();
const PURGATORIES: usize = Purgatory::ALL.len();

/// Everything one shard counts. Written by that shard alone, read by anyone.
///
/// Aligned to two cache lines, because the processor fetches them in pairs.
#[repr(align(128))]
pub struct ShardCounters {
    // Network.
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    /// The part of `sent_bytes` that went from a file to a socket without passing our memory.
    pub sent_zero_copy_bytes: Counter,
    pub connections_accepted: Counter,
    pub connections_open: Gauge,
    connections_closed: [Counter; CLOSE_REASONS],

    // Requests.
    pub requests_in_flight: Gauge,
    apis: [ApiCounters; API_KEYS],
    error_codes: [Counter; ERROR_CODES],

    // Produce and fetch.
    pub produced_records: Counter,
    pub produced_batches: Counter,
    pub produced_bytes: Counter,
    /// Batches that repeated one already stored and were answered with its offset.
    pub produced_duplicate_batches: Counter,
    pub fetched_bytes: Counter,
    /// The part of `fetched_bytes` that was not in the page cache.
    pub fetched_cold_bytes: Counter,
    pub fetch_sessions_open: Gauge,
    pub fetch_sessions_evicted: Counter,
    purgatory_waiting: [Gauge; PURGATORIES],
    purgatory_expired: [Counter; PURGATORIES],

    // Memory.
    pub budget_limit_bytes: Gauge,
    pub budget_used_bytes: Gauge,
    /// Reservations that had to wait.
    pub budget_waits: Counter,

    // Between cores.
    pub mailbox_sent: Counter,
    pub mailbox_received: Counter,
    /// Posts that found the receiver's queue full and waited.
    pub mailbox_full_waits: Counter,
    /// Times this shard felt the watchdog's poke: each pause after work has some.
    pub watchdog_wakes: Counter,

    // The log.
    pub partitions: Gauge,
    pub offline_partitions: Gauge,
    pub log_segments_rolled: Counter,
    pub log_segments_deleted: Counter,
    pub log_flushes: Counter,
    pub log_flush_failures: Counter,
    pub log_flush_duration: DurationHistogram,
    pub log_append_failures: Counter,
    /// Batches refused because too little of a file system is free.
    pub disk_full_refusals: Counter,
    pub cleaner_passes: Counter,
    pub cleaner_failures: Counter,
    /// Bytes of segments that were written anew, before and after.
    pub cleaner_input_bytes: Counter,
    pub cleaner_output_bytes: Counter,
    /// Logs that cannot be cleaned as they are.
    pub cleaner_uncleanable: Gauge,
    pub recovered_partitions: Counter,
    pub recovered_bytes: Counter,
    /// Bytes cut from the ends of logs by recovery.
    pub recovery_cut_bytes: Counter,
    pub index_rebuilds: Counter,
}

impl Default for ShardCounters {
    fn default() -> Self {
        Self {
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            sent_zero_copy_bytes: Counter::default(),
            connections_accepted: Counter::default(),
            connections_open: Gauge::default(),
            connections_closed: Default::default(),
            requests_in_flight: Gauge::default(),
            apis: std::array::from_fn(|_| ApiCounters::default()),
            error_codes: std::array::from_fn(|_| Counter::default()),
            produced_records: Counter::default(),
            produced_batches: Counter::default(),
            produced_bytes: Counter::default(),
            produced_duplicate_batches: Counter::default(),
            fetched_bytes: Counter::default(),
            fetched_cold_bytes: Counter::default(),
            fetch_sessions_open: Gauge::default(),
            fetch_sessions_evicted: Counter::default(),
            purgatory_waiting: Default::default(),
            purgatory_expired: Default::default(),
            budget_limit_bytes: Gauge::default(),
            budget_used_bytes: Gauge::default(),
            budget_waits: Counter::default(),
            mailbox_sent: Counter::default(),
            mailbox_received: Counter::default(),
            mailbox_full_waits: Counter::default(),
            watchdog_wakes: Counter::default(),
            partitions: Gauge::default(),
            offline_partitions: Gauge::default(),
            log_segments_rolled: Counter::default(),
            log_segments_deleted: Counter::default(),
            log_flushes: Counter::default(),
            log_flush_failures: Counter::default(),
            log_flush_duration: DurationHistogram::default(),
            log_append_failures: Counter::default(),
            disk_full_refusals: Counter::default(),
            cleaner_passes: Counter::default(),
            cleaner_failures: Counter::default(),
            cleaner_input_bytes: Counter::default(),
            cleaner_output_bytes: Counter::default(),
            cleaner_uncleanable: Gauge::default(),
            recovered_partitions: Counter::default(),
            recovered_bytes: Counter::default(),
            recovery_cut_bytes: Counter::default(),
            index_rebuilds: Counter::default(),
        }
    }
}

impl ShardCounters {
    /// One set of counters for each shard, in the order of their numbers.
    pub fn for_shards(shards: usize) -> Arc<[ShardCounters]> {
        (0..shards).map(|_| ShardCounters::default()).collect()
    }

    /// The counters of an API. Keys that are negative or not below [`API_KEYS`] share the last place.
    #[inline]
    pub fn api(&self, api_key: i16) -> &ApiCounters {
        let index = usize::try_from(api_key)
            .unwrap_or(API_KEYS)
            .min(API_KEYS - 1);
        &self.apis[index]
    }

    /// Responses that carried a Kafka error code, by code; `None` for a code with no place.
    #[inline]
    pub fn error_code(&self, code: i16) -> Option<&Counter> {
        let index = usize::try_from(i32::from(code) + 1).ok()?;
        self.error_codes.get(index)
    }

    #[inline]
    pub fn closed(&self, reason: CloseReason) -> &Counter {
        &self.connections_closed[reason as usize]
    }

    #[inline]
    pub fn waiting(&self, purgatory: Purgatory) -> &Gauge {
        &self.purgatory_waiting[purgatory as usize]
    }

    /// Requests whose wait ended by their deadline.
    #[inline]
    pub fn expired(&self, purgatory: Purgatory) -> &Counter {
        &self.purgatory_expired[purgatory as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_is_not_below_it() {
        for us in [
            0,
            1,
            15,
            16,
            17,
            31,
            32,
            33,
            999,
            1024,
            1 << 24,
            (1 << 24) + 1,
            u64::MAX,
        ] {
            let bucket = DurationHistogram::bucket(us);
            if let Some(bound) = DurationHistogram::bound_us(bucket) {
                assert!(us <= bound, "{us} in {bucket}");
            }
            if bucket > 0 {
                assert!(
                    us > DurationHistogram::bound_us(bucket - 1).unwrap(),
                    "{us} in {bucket}"
                );
            }
        }
        assert_eq!(DurationHistogram::bucket(u64::MAX), DURATION_BUCKETS);
    }

    #[test]
    fn histograms_of_shards_add_up() {
        let shards = ShardCounters::for_shards(2);
        shards[0].api(0).duration.record_us(10);
        shards[1].api(0).duration.record_us(10);
        shards[1].api(0).duration.record_us(100);
        let mut sum = DurationSnapshot::default();
        for shard in shards.iter() {
            sum.merge(&shard.api(0).duration);
        }
        assert_eq!(
            (sum.count(), sum.sum_us, sum.buckets[0], sum.buckets[3]),
            (3, 120, 2, 1)
        );
    }

    #[test]
    fn unknown_api_keys_and_codes_find_a_place_or_none() {
        let shards = ShardCounters::for_shards(1);
        for key in [-1, i16::MIN, API_KEYS as i16, i16::MAX] {
            shards[0].api(key).requests.inc();
        }
        assert_eq!(shards[0].api(API_KEYS as i16 - 1).requests.get(), 4);
        assert!(shards[0].error_code(-1).is_some());
        assert!(shards[0].error_code(-2).is_none());
        assert!(shards[0].error_code(i16::MIN).is_none());
        assert!(shards[0].error_code(ERROR_CODES as i16 - 2).is_some());
        assert!(shards[0].error_code(ERROR_CODES as i16 - 1).is_none());
    }

    /// A series that is always 0 says that nothing happens where nothing is counted.
    #[test]
    fn everything_that_is_counted_has_a_writer() {
        let mut written = String::new();
        let mut folders = vec![std::path::PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src"
        ))];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("base/counters.rs") && !path.ends_with("admin/metrics.rs")
                {
                    let text = std::fs::read_to_string(&path).unwrap();
                    // Tests come last in a file.
                    let code = text
                        .split("#[cfg(test)]\nmod tests")
                        .next()
                        .unwrap_or(&text);
                    written.extend(code.chars().filter(|c| !c.is_whitespace()));
                }
            }
        }
        let ours = include_str!("counters.rs");
        let fields = ours.lines().filter_map(|line| {
            let (name, kind) = line.trim().strip_prefix("pub ")?.split_once(": ")?;
            matches!(kind, "Counter," | "Gauge," | "DurationHistogram,").then_some(name)
        });
        let ways = ["add(", "inc(", "set(", "dec(", "record_us("];
        let mut missing: Vec<String> = fields
            .filter(|name| {
                !ways
                    .iter()
                    .any(|way| written.contains(&format!(".{name}.{way}")))
            })
            .map(str::to_owned)
            .collect();
        for reason in CloseReason::ALL {
            let name = format!("CloseReason::{reason:?}");
            missing.extend((!written.contains(&name)).then_some(name));
        }
        for purgatory in Purgatory::ALL {
            for way in ["waiting", "expired"] {
                let names = ["Purgatory", "PurgatoryKind"]
                    .map(|of| format!(".{way}({of}::{purgatory:?})."));
                if !names.iter().any(|name| written.contains(name)) {
                    missing.push(format!("{way}({purgatory:?})"));
                }
            }
        }
        assert_eq!(missing, [""; 0], "nothing writes these");
    }

    #[test]
    fn neighbours_share_no_cache_line() {
        assert_eq!(std::mem::align_of::<ShardCounters>(), 128);
        assert_eq!(std::mem::size_of::<ShardCounters>() % 128, 0);
    }
}
