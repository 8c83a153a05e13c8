//! How long pings take while another connection of the same shard pours: `cargo bench --bench fairness`.
//!
//! One shard on core 0, everything else on core 1. Connection A sends batches of 64 KiB without a pause,
//! B asks ApiVersions once a millisecond. In turns: B alone, B beside A. The table has the percentiles of
//! B's round trips, and the ratios of each pair.

#[path = "../tests/broker/mod.rs"]
mod broker;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use broker::{Broker, Kind};
use ringspun::base::Timestamp;
use ringspun::records::BatchBuilder;

const ROUNDS: usize = 5;
const PINGS: usize = 2_000;
const TOPIC: &str = "poured";
/// Batches that A has sent and not had answered, at most.
const IN_FLIGHT: usize = 16;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("ringspun.cores", "1"), ("ringspun.http.listener", "")];
    let mut broker = Broker::new(Kind::Ringspun, folder.path(), &settings)
        .map_err(anyhow::Error::msg)?
        .pinned_to(0);
    broker.start_again().map_err(anyhow::Error::msg)?;
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    let address = broker.bootstrap();
    create(&address)?;
    println!(
        "| round | p50 us | p99 us | max us | beside a flood: p50 | p99 | max | flood MB/s | p99 ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for round in 1..=ROUNDS {
        let quiet = pings(&address)?;
        let stop = Arc::new(AtomicBool::new(false));
        let poured = Arc::new(AtomicU64::new(0));
        let pouring = {
            let (address, stop, poured) = (address.clone(), stop.clone(), poured.clone());
            std::thread::spawn(move || pour(&address, &stop, &poured))
        };
        let began = Instant::now();
        let beside = pings(&address);
        let rate = poured.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64() / 1e6;
        stop.store(true, Ordering::Relaxed);
        pouring
            .join()
            .map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        let beside = beside?;
        println!(
            "| {round} | {} | {} | {} | {} | {} | {} | {rate:.0} | {:.1} |",
            quiet.value_at_quantile(0.5),
            quiet.value_at_quantile(0.99),
            quiet.max(),
            beside.value_at_quantile(0.5),
            beside.value_at_quantile(0.99),
            beside.max(),
            beside.value_at_quantile(0.99) as f64 / quiet.value_at_quantile(0.99) as f64,
        );
    }
    broker.stop().map_err(anyhow::Error::msg)?;
    Ok(())
}

/// Metadata version 1 creates the topic, whose partitions all lie on the only shard.
fn create(address: &str) -> Result<()> {
    let mut body = 1i32.to_be_bytes().to_vec();
    string(&mut body, TOPIC);
    let mut stream = connect(address)?;
    send(&mut stream, 3, 1, &body)?;
    receive(&mut stream)?;
    Ok(())
}

/// Round trips in microseconds, one begun each millisecond, or as soon as the one before is back.
fn pings(address: &str) -> Result<Histogram<u64>> {
    let mut stream = connect(address)?;
    let mut histogram = Histogram::new(3)?;
    let mut due = Instant::now();
    for _ in 0..PINGS {
        due += Duration::from_millis(1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        send(&mut stream, 18, 0, &[])?;
        receive(&mut stream)?;
        // From when it was due: one that waits for the one before has waited too.
        histogram.record(u64::try_from(due.elapsed().as_micros())?)?;
    }
    Ok(histogram)
}

/// Sends batches of 64 KiB until told to stop, and checks that each was taken.
fn pour(address: &str, stop: &AtomicBool, poured: &AtomicU64) -> Result<()> {
    let mut builder = BatchBuilder::uncompressed();
    let value = [b'x'; 1000];
    for _ in 0..64 {
        builder.append(Timestamp(1), None, Some(&value), &[]);
    }
    let batch = builder.build();
    // Produce version 3: no transactional id, acks=1, 30 s, one topic with one partition.
    let mut body = vec![0xff, 0xff, 0, 1];
    body.extend(30_000i32.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    string(&mut body, TOPIC);
    body.extend(1i32.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend(i32::try_from(batch.len())?.to_be_bytes());
    body.extend(&batch);
    let mut stream = connect(address)?;
    let mut in_flight = 0;
    while !stop.load(Ordering::Relaxed) {
        send(&mut stream, 0, 3, &body)?;
        in_flight += 1;
        if in_flight == IN_FLIGHT {
            receive(&mut stream)?;
            in_flight -= 1;
        }
        poured.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
    for _ in 0..in_flight {
        let answer = receive(&mut stream)?;
        // Correlation id, topics, name, partitions, index, error.
        let error = 4 + 4 + 2 + TOPIC.len() + 4 + 4;
        ensure!(
            answer.get(error..error + 2) == Some(&[0, 0]),
            "a batch was refused: {answer:?}"
        );
    }
    Ok(())
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).context("connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as i16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// A request with header version 1, correlation id 7 and no client id.
fn send(stream: &mut TcpStream, api_key: i16, version: i16, body: &[u8]) -> Result<()> {
    let mut frame = i32::try_from(10 + body.len())?.to_be_bytes().to_vec();
    frame.extend(api_key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 7, 0xff, 0xff]);
    frame.extend(body);
    stream.write_all(&frame)?;
    Ok(())
}

fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length))?];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
