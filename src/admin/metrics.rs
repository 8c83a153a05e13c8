//! `/metrics`: what the shards count, summed, in the text format of OpenMetrics, which Prometheus reads.
//!
//! Names begin `ringspun_`, units are base units (bytes, seconds), counters end in `_total`. No series
//! names a topic or a partition, unless `ringspun.metrics.partitions` is set; then the shards are asked
//! through [`PartitionSource`] at each scrape.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiKey;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::{mpsc, oneshot};

use super::profile::Profiler;
use crate::base::counters::{
    API_KEYS, CloseReason, Counter, DurationHistogram, DurationSnapshot, ERROR_CODES, Gauge,
    Purgatory, ShardCounters,
};

/// How long a scrape waits for the shards to name their partitions; then it goes without them.
const PARTITIONS_WAIT: Duration = Duration::from_secs(2);

/// What one partition says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSample {
    pub topic: Arc<str>,
    pub partition: i32,
    pub log_start_offset: i64,
    pub high_watermark: i64,
    pub log_end_offset: i64,
    pub size_bytes: u64,
}

/// Where the samples of all partitions come from: whoever holds the other end answers each sender once.
/// One that is dropped, or late, leaves the series out of that scrape.
pub type PartitionSource = mpsc::Sender<oneshot::Sender<Vec<PartitionSample>>>;

/// What `/metrics` reads.
#[derive(Clone)]
pub struct Metrics {
    shards: Arc<[ShardCounters]>,
    partitions: Option<PartitionSource>,
    profiler: Option<Profiler>,
    started: SystemTime,
    /// Lines of the log that were dropped, from whoever counts them.
    dropped_log_lines: fn() -> u64,
}

impl Metrics {
    /// `partitions` is `None` unless `ringspun.metrics.partitions` is set.
    pub fn new(
        shards: Arc<[ShardCounters]>,
        partitions: Option<PartitionSource>,
        dropped_log_lines: fn() -> u64,
    ) -> Self {
        Self {
            shards,
            partitions,
            profiler: None,
            started: SystemTime::now(),
            dropped_log_lines,
        }
    }

    /// With summaries of what the profiler measures.
    #[must_use]
    pub fn with_profiler(mut self, profiler: Profiler) -> Self {
        self.profiler = Some(profiler);
        self
    }

    pub fn profiler(&self) -> Option<&Profiler> {
        self.profiler.as_ref()
    }

    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The whole page.
    pub async fn render(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("ringspun");
        registry.register_collector(Box::new(Scrape {
            metrics: self.clone(),
            partitions: self.ask_partitions().await,
        }));
        let mut page = String::with_capacity(32 << 10);
        text::encode(&mut page, &registry)?;
        if let Some(profiler) = &self.profiler {
            // The library writes no summaries; they go before its end mark.
            const END: &str = "# EOF\n";
            let end = page.len().saturating_sub(END.len());
            page.truncate(end);
            page += &profiler.summaries().await;
            page += END;
        }
        Ok(page)
    }

    async fn ask_partitions(&self) -> Option<Vec<PartitionSample>> {
        let source = self.partitions.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            source.send(sender).await.ok()?;
            receiver.await.ok()
        };
        tokio::time::timeout(PARTITIONS_WAIT, asked).await.ok()?
    }
}

/// One scrape.
struct Scrape {
    metrics: Metrics,
    partitions: Option<Vec<PartitionSample>>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page {
            encoder,
            shards: &self.metrics.shards,
        };
        page.network()?;
        page.requests()?;
        page.produce_and_fetch()?;
        page.memory_and_mailbox()?;
        page.log()?;
        page.process(&self.metrics)?;
        match &self.partitions {
            Some(samples) => page.partitions(samples),
            None => Ok(()),
        }
    }
}

/// The page while it is written.
struct Page<'e, 's> {
    encoder: DescriptorEncoder<'e>,
    shards: &'s [ShardCounters],
}

impl Page<'_, '_> {
    fn metric(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.encoder.encode_descriptor(name, help, unit, kind)?)
    }

    /// A counter without labels, summed over the shards.
    fn counter(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        of: impl Fn(&ShardCounters) -> &Counter,
    ) -> fmt::Result {
        let sum = sum(self.shards, of);
        self.metric(name, help, unit, MetricType::Counter, |mut metric| {
            metric.encode_counter::<NoLabelSet, _, u64>(&sum, None)
        })
    }

    /// A gauge without labels, summed over the shards.
    fn gauge(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        of: impl Fn(&ShardCounters) -> &Gauge,
    ) -> fmt::Result {
        let sum: i64 = self.shards.iter().map(|shard| of(shard).get()).sum();
        self.metric(name, help, unit, MetricType::Gauge, |mut metric| {
            metric.encode_gauge(&sum)
        })
    }

    /// A counter with one label; `values` are (label, value).
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(String, u64)],
    ) -> fmt::Result {
        self.metric(name, help, None, MetricType::Counter, |mut metric| {
            for (value, count) in values {
                metric
                    .encode_family(&[(label, value.as_str())])?
                    .encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
            Ok(())
        })
    }

    fn network(&mut self) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        self.counter("network_received", bytes, "Bytes read from clients", |s| {
            &s.received_bytes
        })?;
        self.counter("network_sent", bytes, "Bytes written to clients", |s| {
            &s.sent_bytes
        })?;
        self.counter(
            "network_sent_zero_copy",
            bytes,
            "Bytes that went from a file to a client without passing our memory",
            |s| &s.sent_zero_copy_bytes,
        )?;
        self.counter("connections_accepted", None, "Connections accepted", |s| {
            &s.connections_accepted
        })?;
        self.gauge("connections_open", None, "Connections open", |s| {
            &s.connections_open
        })?;
        let closed: Vec<_> = CloseReason::ALL
            .iter()
            .map(|&reason| {
                (
                    reason.label().into(),
                    sum(self.shards, |s| s.closed(reason)),
                )
            })
            .collect();
        self.counters(
            "connections_closed",
            "Connections closed, by reason",
            "reason",
            &closed,
        )
    }

    fn requests(&mut self) -> fmt::Result {
        self.gauge(
            "requests_in_flight",
            None,
            "Requests read and not yet answered",
            |s| &s.requests_in_flight,
        )?;
        // Only what was asked at least once: there are a hundred APIs, and a client uses ten.
        let used: Vec<(i16, String)> = (0..API_KEYS as i16)
            .filter(|&key| self.shards.iter().any(|s| s.api(key).requests.get() > 0))
            .map(|key| (key, api_name(key)))
            .collect();
        let shards = self.shards;
        let by_api = |of: fn(&crate::base::counters::ApiCounters) -> &Counter| -> Vec<_> {
            used.iter()
                .map(|(key, name)| (name.clone(), sum(shards, |s| of(s.api(*key)))))
                .collect()
        };
        self.counters(
            "requests",
            "Requests, by API",
            "api",
            &by_api(|api| &api.requests),
        )?;
        self.counters(
            "request_errors",
            "Responses that carried an error code, by API",
            "api",
            &by_api(|api| &api.errors),
        )?;
        let codes: Vec<_> = (0..ERROR_CODES as i16)
            .map(|index| index - 1)
            .map(|code| {
                let count = sum_some(shards, |s| s.error_code(code));
                (error_name(code), count)
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        self.counters(
            "response_errors",
            "Error codes in responses, by code",
            "code",
            &codes,
        )?;
        self.metric(
            "request_duration",
            "From the last byte of a request to the last byte of its reply, waits included",
            Some(&Unit::Seconds),
            MetricType::Histogram,
            |mut metric| {
                for (key, name) in &used {
                    let mut snapshot = DurationSnapshot::default();
                    for shard in shards {
                        snapshot.merge(&shard.api(*key).duration);
                    }
                    let labels = [("api", name.as_str())];
                    encode_durations(metric.encode_family(&labels)?, &snapshot)?;
                }
                Ok(())
            },
        )
    }

    fn produce_and_fetch(&mut self) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        self.counter(
            "produced_records",
            None,
            "Records appended for producers",
            |s| &s.produced_records,
        )?;
        self.counter(
            "produced_batches",
            None,
            "Batches appended for producers",
            |s| &s.produced_batches,
        )?;
        self.counter(
            "produced",
            bytes,
            "Bytes of batches appended for producers",
            |s| &s.produced_bytes,
        )?;
        self.counter(
            "produced_duplicate_batches",
            None,
            "Batches that repeated a stored one and were answered with its offset",
            |s| &s.produced_duplicate_batches,
        )?;
        self.counter("fetched", bytes, "Bytes of batches sent to fetchers", |s| {
            &s.fetched_bytes
        })?;
        self.counter(
            "fetched_cold",
            bytes,
            "Bytes of batches sent to fetchers that were not in the page cache",
            |s| &s.fetched_cold_bytes,
        )?;
        self.gauge("fetch_sessions_open", None, "Fetch sessions kept", |s| {
            &s.fetch_sessions_open
        })?;
        self.counter(
            "fetch_sessions_evicted",
            None,
            "Fetch sessions thrown out to make room",
            |s| &s.fetch_sessions_evicted,
        )?;
        let shards = self.shards;
        self.metric(
            "purgatory_waiting",
            "Requests that wait, by what for",
            None,
            MetricType::Gauge,
            |mut metric| {
                for &purgatory in Purgatory::ALL {
                    let waiting: i64 = shards.iter().map(|s| s.waiting(purgatory).get()).sum();
                    metric
                        .encode_family(&[("purgatory", purgatory.label())])?
                        .encode_gauge(&waiting)?;
                }
                Ok(())
            },
        )?;
        let expired: Vec<_> = Purgatory::ALL
            .iter()
            .map(|&p| (p.label().into(), sum(shards, |s| s.expired(p))))
            .collect();
        self.counters(
            "purgatory_expired",
            "Requests whose wait ended by their deadline",
            "purgatory",
            &expired,
        )
    }

    fn memory_and_mailbox(&mut self) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        self.gauge(
            "budget_limit",
            bytes,
            "Memory that the shards may use",
            |s| &s.budget_limit_bytes,
        )?;
        self.gauge(
            "budget_used",
            bytes,
            "Memory that the shards have reserved",
            |s| &s.budget_used_bytes,
        )?;
        self.counter(
            "budget_waits",
            None,
            "Reservations of memory that had to wait",
            |s| &s.budget_waits,
        )?;
        self.counter("mailbox_sent", None, "Requests sent to other cores", |s| {
            &s.mailbox_sent
        })?;
        self.counter(
            "mailbox_received",
            None,
            "Requests received from other cores",
            |s| &s.mailbox_received,
        )?;
        self.counter(
            "mailbox_full_waits",
            None,
            "Requests to other cores that found the mailbox full and waited",
            |s| &s.mailbox_full_waits,
        )?;
        self.counter(
            "watchdog_wakes",
            None,
            "Pokes of the watchdog at shards that stood still: some at every pause after work, whether or not one was needed",
            |s| &s.watchdog_wakes,
        )?;
        let shards = self.shards.len() as i64;
        self.metric(
            "shards",
            "Shards of this node",
            None,
            MetricType::Gauge,
            |mut metric| metric.encode_gauge(&shards),
        )
    }

    fn log(&mut self) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        self.gauge("partitions", None, "Partitions on this node", |s| {
            &s.partitions
        })?;
        self.gauge(
            "offline_partitions",
            None,
            "Partitions that a failed write or flush took offline",
            |s| &s.offline_partitions,
        )?;
        self.counter(
            "log_segments_rolled",
            None,
            "Segments closed for a new one",
            |s| &s.log_segments_rolled,
        )?;
        self.counter("log_segments_deleted", None, "Segments deleted", |s| {
            &s.log_segments_deleted
        })?;
        self.counter("log_flushes", None, "Flushes of logs to the disk", |s| {
            &s.log_flushes
        })?;
        self.counter(
            "log_flush_failures",
            None,
            "Logs that went offline because a flush failed",
            |s| &s.log_flush_failures,
        )?;
        let shards = self.shards;
        self.metric(
            "log_flush_duration",
            "Duration of a flush of a log",
            Some(&Unit::Seconds),
            MetricType::Histogram,
            |metric| {
                let mut snapshot = DurationSnapshot::default();
                for shard in shards {
                    snapshot.merge(&shard.log_flush_duration);
                }
                encode_durations(metric, &snapshot)
            },
        )?;
        self.counter(
            "log_append_failures",
            None,
            "Logs that went offline because a write failed",
            |s| &s.log_append_failures,
        )?;
        self.counter(
            "disk_full_refusals",
            None,
            "Batches refused because less than ringspun.log.min.free.bytes are free",
            |s| &s.disk_full_refusals,
        )?;
        self.counter(
            "cleaner_passes",
            None,
            "Passes of the cleaner over a log",
            |s| &s.cleaner_passes,
        )?;
        self.counter(
            "cleaner_failures",
            None,
            "Passes that did not come to their end, except because the log changed",
            |s| &s.cleaner_failures,
        )?;
        self.counter(
            "cleaner_input",
            bytes,
            "Bytes of segments before they were written anew",
            |s| &s.cleaner_input_bytes,
        )?;
        self.counter(
            "cleaner_output",
            bytes,
            "Bytes of segments after they were written anew",
            |s| &s.cleaner_output_bytes,
        )?;
        self.gauge(
            "cleaner_uncleanable",
            None,
            "Logs that the cleaner leaves alone because of what it found in them",
            |s| &s.cleaner_uncleanable,
        )?;
        self.counter(
            "recovered_partitions",
            None,
            "Partitions scanned after an unclean stop",
            |s| &s.recovered_partitions,
        )?;
        self.counter(
            "recovered",
            bytes,
            "Bytes scanned after an unclean stop",
            |s| &s.recovered_bytes,
        )?;
        self.counter(
            "recovery_cut",
            bytes,
            "Bytes cut from the ends of logs by recovery",
            |s| &s.recovery_cut_bytes,
        )?;
        self.counter(
            "index_rebuilds",
            None,
            "Indexes made anew from their log",
            |s| &s.index_rebuilds,
        )
    }

    fn process(&mut self, metrics: &Metrics) -> fmt::Result {
        self.metric(
            "build",
            "Version of the running program",
            None,
            MetricType::Info,
            |mut metric| metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))]),
        )?;
        let dropped = (metrics.dropped_log_lines)();
        self.metric(
            "log_lines_dropped",
            "Log lines dropped because standard error was not read",
            None,
            MetricType::Counter,
            |mut metric| metric.encode_counter::<NoLabelSet, _, u64>(&dropped, None),
        )?;
        let started = metrics
            .started
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.metric(
            "process_start_time",
            "When the process started, since the Unix epoch",
            Some(&Unit::Seconds),
            MetricType::Gauge,
            |mut metric| metric.encode_gauge(&started.as_secs_f64()),
        )?;
        if let Some(resident) = resident_bytes() {
            self.metric(
                "process_resident_memory",
                "Memory of the process that is in RAM",
                Some(&Unit::Bytes),
                MetricType::Gauge,
                |mut metric| metric.encode_gauge(&resident),
            )?;
        }
        if let Some(seconds) = cpu_seconds() {
            self.metric(
                "process_cpu",
                "CPU time of the process, user and system",
                Some(&Unit::Seconds),
                MetricType::Counter,
                |mut metric| metric.encode_counter::<NoLabelSet, _, f64>(&seconds, None),
            )?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let open = open.count() as i64;
            self.metric(
                "process_open_files",
                "Files and sockets the process has open",
                None,
                MetricType::Gauge,
                |mut metric| metric.encode_gauge(&open),
            )?;
        }
        Ok(())
    }

    fn partitions(&mut self, samples: &[PartitionSample]) -> fmt::Result {
        type Field = fn(&PartitionSample) -> i64;
        let series: [(&str, &str, Option<&Unit>, Field); 4] = [
            (
                "partition_log_start_offset",
                "First offset kept",
                None,
                |s| s.log_start_offset,
            ),
            (
                "partition_high_watermark",
                "First offset not yet visible to consumers",
                None,
                |s| s.high_watermark,
            ),
            (
                "partition_log_end_offset",
                "Offset of the next record",
                None,
                |s| s.log_end_offset,
            ),
            ("partition_size", "Bytes on disk", Some(&Unit::Bytes), |s| {
                i64::try_from(s.size_bytes).unwrap_or(i64::MAX)
            }),
        ];
        for (name, help, unit, field) in series {
            self.metric(name, help, unit, MetricType::Gauge, |mut metric| {
                for sample in samples {
                    // Topic names are [a-zA-Z0-9._-]: nothing in them needs an escape.
                    metric
                        .encode_family(&[
                            ("topic", &*sample.topic),
                            ("partition", &sample.partition.to_string()),
                        ])?
                        .encode_gauge(&field(sample))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn sum(shards: &[ShardCounters], of: impl Fn(&ShardCounters) -> &Counter) -> u64 {
    shards.iter().map(|shard| of(shard).get()).sum()
}

fn sum_some(shards: &[ShardCounters], of: impl Fn(&ShardCounters) -> Option<&Counter>) -> u64 {
    shards.iter().filter_map(of).map(Counter::get).sum()
}

fn encode_durations(mut metric: MetricEncoder<'_>, snapshot: &DurationSnapshot) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = snapshot
        .buckets
        .iter()
        .enumerate()
        .map(|(i, &count)| {
            let bound = DurationHistogram::bound_us(i).map_or(f64::INFINITY, |us| us as f64 / 1e6);
            (bound, count)
        })
        .collect();
    let sum_seconds = snapshot.sum_us as f64 / 1e6;
    metric.encode_histogram::<NoLabelSet>(sum_seconds, snapshot.count(), &buckets, None)
}

/// Kafka's name of an API, or its number.
fn api_name(key: i16) -> String {
    match ApiKey::try_from(key) {
        Ok(api) => format!("{api:?}"),
        Err(()) => key.to_string(),
    }
}

/// The name of an error code, or its number.
fn error_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        None | Some(ResponseError::Unknown(_)) => code.to_string(),
        Some(error) => format!("{error:?}"),
    }
}

fn resident_bytes() -> Option<i64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(i64::try_from(rustix::param::page_size()).ok()?)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold anything; fields are counted after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<u64>().ok();
    let sum = ticks(11)?.checked_add(ticks(12)?)?;
    Some(sum as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(metrics: &Metrics) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(metrics.render()).unwrap()
    }

    #[test]
    fn shards_are_summed_and_names_carry_units() {
        let shards = ShardCounters::for_shards(2);
        shards[0].received_bytes.add(40);
        shards[1].received_bytes.add(2);
        shards[0].connections_open.inc();
        shards[1].closed(CloseReason::Idle).inc();
        shards[1].api(0).requests.inc();
        shards[1].api(0).duration.record_us(1000);
        shards[0].error_code(3).unwrap().inc();
        let page = render(&Metrics::new(shards, None, || 9));
        for line in [
            "# TYPE ringspun_network_received_bytes counter",
            "ringspun_network_received_bytes_total 42",
            "ringspun_connections_open 1",
            "ringspun_connections_closed_total{reason=\"idle\"} 1",
            "ringspun_requests_total{api=\"Produce\"} 1",
            "ringspun_request_duration_seconds_count{api=\"Produce\"} 1",
            "ringspun_request_duration_seconds_sum{api=\"Produce\"} 0.001",
            "ringspun_request_duration_seconds_bucket{le=\"0.001024\",api=\"Produce\"} 1",
            "ringspun_request_duration_seconds_bucket{le=\"+Inf\",api=\"Produce\"} 1",
            "ringspun_response_errors_total{code=\"UnknownTopicOrPartition\"} 1",
            "ringspun_log_lines_dropped_total 9",
            "ringspun_shards 2",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(page.contains("ringspun_process_resident_memory_bytes "));
        assert!(page.contains("ringspun_process_cpu_seconds_total "));
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn every_line_is_ours_and_in_openmetrics_form() {
        let page = render(&Metrics::new(ShardCounters::for_shards(1), None, || 0));
        assert!(!page.contains("partition="));
        for line in page.lines().filter(|l| *l != "# EOF") {
            let name = line
                .strip_prefix("# HELP ")
                .or(line.strip_prefix("# TYPE "))
                .or(line.strip_prefix("# UNIT "))
                .unwrap_or(line);
            assert!(name.starts_with("ringspun_"), "{line}");
        }
    }

    #[test]
    fn partitions_are_asked_for_at_each_scrape_when_wanted() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (source, mut asked) = mpsc::channel::<oneshot::Sender<Vec<PartitionSample>>>(1);
            let metrics = Metrics::new(ShardCounters::for_shards(1), Some(source), || 0);
            let answer = async {
                let sample = PartitionSample {
                    topic: "t".into(),
                    partition: 3,
                    log_start_offset: 1,
                    high_watermark: 5,
                    log_end_offset: 6,
                    size_bytes: 700,
                };
                asked.recv().await.unwrap().send(vec![sample]).unwrap();
            };
            let (page, ()) = tokio::join!(metrics.render(), answer);
            let page = page.unwrap();
            assert!(
                page.contains("ringspun_partition_size_bytes{topic=\"t\",partition=\"3\"} 700\n"),
                "{page}"
            );
            // Nobody answers any more: the page comes without them.
            drop(asked);
            assert!(!metrics.render().await.unwrap().contains("topic="));
        });
    }
}
