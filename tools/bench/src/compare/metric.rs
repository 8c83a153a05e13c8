//! What is read off a round: its name in files, its title in reports, and which way is better.

/// Something that is read off a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    CpuPerGb,
    CpuPerRecord,
    CpuPerRequest,
    AcksPerCpuSecond,
    AcksPerSecond,
    ProduceMbS,
    FetchMbS,
    /// How many times faster than the slowest consumer the fastest read its part.
    ReadersApart,
    P50,
    P90,
    P99,
    P999,
    P9999,
    Max,
    LoadLateP999,
    IdleCpuPercent,
    ResidentMb,
    StartMs,
    RssPeakMb,
}

impl Metric {
    pub const ALL: [Metric; 19] = [
        Metric::CpuPerGb,
        Metric::CpuPerRecord,
        Metric::CpuPerRequest,
        Metric::AcksPerCpuSecond,
        Metric::AcksPerSecond,
        Metric::ProduceMbS,
        Metric::FetchMbS,
        Metric::ReadersApart,
        Metric::P50,
        Metric::P90,
        Metric::P99,
        Metric::P999,
        Metric::P9999,
        Metric::Max,
        Metric::LoadLateP999,
        Metric::IdleCpuPercent,
        Metric::ResidentMb,
        Metric::StartMs,
        Metric::RssPeakMb,
    ];

    /// The percentiles of a latency, lowest first, with the part of the records below.
    pub const PERCENTILES: [(Metric, f64); 5] = [
        (Metric::P50, 0.5),
        (Metric::P90, 0.9),
        (Metric::P99, 0.99),
        (Metric::P999, 0.999),
        (Metric::P9999, 0.9999),
    ];

    /// In the files of the rounds; the unit last.
    pub fn name(self) -> &'static str {
        match self {
            Metric::CpuPerGb => "cpu_s_per_gb",
            Metric::CpuPerRecord => "cpu_us_per_record",
            Metric::CpuPerRequest => "cpu_us_per_request",
            Metric::AcksPerCpuSecond => "acks_per_cpu_s",
            Metric::AcksPerSecond => "acks_per_s",
            Metric::ProduceMbS => "produce_mb_s",
            Metric::FetchMbS => "fetch_mb_s",
            Metric::ReadersApart => "readers_apart",
            Metric::P50 => "p50_us",
            Metric::P90 => "p90_us",
            Metric::P99 => "p99_us",
            Metric::P999 => "p999_us",
            Metric::P9999 => "p9999_us",
            Metric::Max => "max_us",
            Metric::LoadLateP999 => "load_late_p999_us",
            Metric::IdleCpuPercent => "idle_cpu_percent",
            Metric::ResidentMb => "resident_mb",
            Metric::StartMs => "start_ms",
            Metric::RssPeakMb => "rss_peak_mb",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Metric::CpuPerGb => "CPU s/GB",
            Metric::CpuPerRecord => "CPU us a record",
            Metric::CpuPerRequest => "CPU us a request",
            Metric::AcksPerCpuSecond => "acks a CPU-second",
            Metric::AcksPerSecond => "acks/s",
            Metric::ProduceMbS => "MB/s written",
            Metric::FetchMbS => "MB/s read",
            Metric::ReadersApart => "fastest reader / slowest",
            Metric::P50 => "p50 us",
            Metric::P90 => "p90 us",
            Metric::P99 => "p99 us",
            Metric::P999 => "p99.9 us",
            Metric::P9999 => "p99.99 us",
            Metric::Max => "max us",
            Metric::LoadLateP999 => "load late itself p99.9 us",
            Metric::IdleCpuPercent => "idle CPU, % of a core",
            Metric::ResidentMb => "resident MB",
            Metric::StartMs => "start ms",
            Metric::RssPeakMb => "peak resident MB",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(
            self,
            Metric::AcksPerCpuSecond
                | Metric::AcksPerSecond
                | Metric::ProduceMbS
                | Metric::FetchMbS
        )
    }

    /// How many times the other's ours is, or how many times slower where it is a rate.
    pub fn times(self, ours: f64, other: f64) -> f64 {
        self.advantage(other, ours)
    }

    /// How many times better ours is than theirs.
    pub fn advantage(self, ours: f64, theirs: f64) -> f64 {
        if self.more_is_better() {
            ours / theirs
        } else {
            theirs / ours
        }
    }
}
