//! How long pings take while another connection of the same shard is sent a backlog that is not in the page
//! cache: `cargo bench --bench cold_fetch [-- --rounds 5 --mb 512]`.
//!
//! One shard on core 0, everything else on core 1. A connection is sent a file from its beginning to its
//! end, in slices of 1 MiB, as fetches are answered; another asks once a millisecond and is answered at once.
//! Before each run the file is evicted (`posix_fadvise(DONTNEED)`). In turns: nothing is sent; it is sent by
//! sendfile alone, which reads from the disk on the shard; and as the broker does it, through a pipe on the
//! auxiliary ring where the cache lacks it. The table has the percentiles of the pings, the rate, the CPU
//! time of the shard's thread and of the whole process for each MB sent, and the ratios to the quiet run.
//! The file lies in the build directory: that has to be on a disk.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;

use ringspun::base::FileSlice;
use ringspun::runtime::aux_ring::AuxRing;
use ringspun::runtime::budget::Budget;
use ringspun::runtime::executor::{self, ShardOptions, spawn_shards};
use ringspun::runtime::readiness::Readiness;
use ringspun::transport::{ConnectionOptions, Part, ReceivePool, connection};

const SLICE_BYTES: u32 = 1 << 20;
/// Pings of a quiet run.
const PINGS: usize = 1_000;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Quiet,
    Sendfile,
    Ring,
}

/// What one run showed.
struct Seen {
    pings: Histogram<u64>,
    mb_per_s: f64,
    /// Microseconds for each MB.
    shard_cpu: f64,
    process_cpu: f64,
}

fn main() -> Result<()> {
    let (rounds, mb) = arguments()?;
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    let file = Arc::new(backlog(mb)?);
    println!(
        "| round | sent by | p50 us | p99 us | p99.9 us | max us | p99 ratio | MB/s | shard us/MB | process us/MB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for round in 1..=rounds {
        let mut quiet = 0;
        for (way, name) in [
            (Way::Quiet, "nothing"),
            (Way::Sendfile, "sendfile"),
            (Way::Ring, "ring"),
        ] {
            let seen = run(way, &file, mb)?;
            let at = |quantile| seen.pings.value_at_quantile(quantile);
            if way == Way::Quiet {
                quiet = at(0.99);
            }
            println!(
                "| {round} | {name} | {} | {} | {} | {} | {:.1} | {:.0} | {:.0} | {:.0} |",
                at(0.5),
                at(0.99),
                at(0.999),
                seen.pings.max(),
                at(0.99) as f64 / quiet as f64,
                seen.mb_per_s,
                seen.shard_cpu,
                seen.process_cpu,
            );
        }
    }
    Ok(())
}

fn arguments() -> Result<(usize, usize)> {
    let (mut rounds, mut mb) = (5, 512);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || -> Result<usize> {
            let value = arguments.next().context("a number is missing")?;
            Ok(value.parse()?)
        };
        match name.as_str() {
            "--rounds" => rounds = value()?,
            "--mb" => mb = value()?,
            // What cargo adds.
            "--bench" => {}
            other => return Err(anyhow!("{other} is not known: --rounds N, --mb N")),
        }
    }
    Ok((rounds, mb))
}

/// A file of so many MB on the disk.
fn backlog(mb: usize) -> Result<File> {
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR"))?;
    let block: Vec<u8> = (0..SLICE_BYTES).map(|n| (n % 251) as u8).collect();
    for _ in 0..mb {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn run(way: Way, file: &Arc<File>, mb: usize) -> Result<Seen> {
    rustix::fs::fadvise(&**file, 0, None, rustix::fs::Advice::DontNeed)?;
    let (asker, answering) = pair()?;
    let (mut sink, sending) = pair()?;
    let seed = (answering, sending, file.clone());
    let cpu_before = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
    let shards = spawn_shards(
        &[0],
        vec![seed],
        &ShardOptions::default(),
        move |_, seed| shard(way, mb, seed),
    )?;
    let began = Instant::now();
    let drained = std::thread::spawn(move || -> Result<(u64, Duration)> {
        core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
        let mut block = vec![0; SLICE_BYTES as usize];
        let mut received = 0;
        loop {
            match sink.read(&mut block)? {
                0 => return Ok((received, began.elapsed())),
                read => received += read as u64,
            }
        }
    });
    let pings = pings(asker, |sent| match way {
        Way::Quiet => sent == PINGS,
        _ => drained.is_finished(),
    })?;
    let (received, took) = drained
        .join()
        .map_err(|_| anyhow!("the reader panicked"))??;
    let shard_cpu: Duration = shards.join()?.into_iter().sum();
    let process_cpu = cpu(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(cpu_before);
    let expected = if way == Way::Quiet { 0 } else { mb as u64 };
    ensure!(
        received == expected << 20,
        "{received} bytes came, not {expected} MB"
    );
    let for_each_mb = |cpu: Duration| cpu.as_secs_f64() * 1e6 / (expected.max(1) as f64);
    Ok(Seen {
        pings,
        mb_per_s: expected as f64 / took.as_secs_f64(),
        shard_cpu: for_each_mb(shard_cpu),
        process_cpu: for_each_mb(process_cpu),
    })
}

/// Serves both connections until the asker is gone; returns the CPU time of its thread.
async fn shard(way: Way, mb: usize, seed: (OwnedFd, OwnedFd, Arc<File>)) -> Duration {
    let (answering, sending, file) = seed;
    let options = ConnectionOptions {
        budget: Budget::new(64 << 20, 1 << 20, Duration::from_secs(10)),
        pool: ReceivePool::new(4 << 20),
        frame_bytes_max: 1 << 20,
        aux_ring: (way == Way::Ring).then(|| AuxRing::new().expect("a ring")),
        readiness: Readiness::new(None, None, Duration::ZERO).expect("a ring"),
    };
    let backlog = {
        let options = options.clone();
        executor::spawn("task", async move {
            let (_reader, mut sender, _) = connection(sending, &options).expect("a connection");
            if way == Way::Quiet {
                return;
            }
            for n in 0..mb as u64 {
                let slice = FileSlice {
                    file: file.clone(),
                    position: n * u64::from(SLICE_BYTES),
                    len: SLICE_BYTES,
                };
                let sent = sender.send(vec![Part::File(slice)].into()).await;
                sent.expect("the reader takes everything");
            }
        })
    };
    let (mut reader, mut sender, _) = connection(answering, &options).expect("a connection");
    while let Ok(Some(_)) = reader.next().await {
        if sender
            .send(Bytes::from_static(b"pong").into())
            .await
            .is_err()
        {
            break;
        }
    }
    backlog.await;
    cpu(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Round trips in microseconds, one begun each millisecond, or as soon as the one before is back, until
/// `done` with so many.
fn pings(mut stream: TcpStream, done: impl Fn(usize) -> bool) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new(3)?;
    let mut due = Instant::now();
    let mut sent = 0;
    while !done(sent) {
        due += Duration::from_millis(1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(b"\0\0\0\x08pingping")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        // From when it was due: one that waits for the one before has waited too.
        histogram.record(u64::try_from(due.elapsed().as_micros())?)?;
        sent += 1;
    }
    Ok(histogram)
}

/// A connection over loopback: the client's end, and the one for the shard.
fn pair() -> Result<(TcpStream, OwnedFd)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    server.set_nonblocking(true)?;
    Ok((client, server.into()))
}

/// CPU time that this thread (`CLOCK_THREAD_CPUTIME_ID`) or process has used.
fn cpu(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec to where there is one.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
