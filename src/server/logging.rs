//! Log lines, to standard error.
//!
//! `ringspun.logging.level` is a level (`off`, `error`, `warn`, `info`, `debug`, `trace`), which then holds
//! for ringspun while the libraries below it stay at `warn`; or directives by module as in `RUST_LOG`
//! (`info,ringspun::storage=debug`), which are taken as they are.
//!
//! A shard must not stand still because nobody reads standard error. A line is written by the thread that
//! logs it, in one call of at most 4 KiB, and only if `poll` says that the descriptor takes it; otherwise it
//! is dropped and counted, and the next line that gets through says how many are missing. A pipe or a
//! terminal therefore never holds a shard. A file may, while the kernel throttles writers of dirty pages;
//! lines that a peer can provoke pass a `base::LogLimit`, so there are few.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::base::settings::LogFormat;
use crate::broker::loggers::{Apply, Loggers};

/// What a pipe takes in one piece, or not at all.
const LINE_MAX_BYTES: usize = 4096;

static LOST: Lost = Lost::new();

/// Lines that did not get through.
struct Lost {
    ever: AtomicU64,
    /// Since the last line that did.
    unsaid: AtomicU64,
}

impl Lost {
    const fn new() -> Self {
        Self {
            ever: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }
}

/// Lines dropped since the start because standard error was not read.
pub fn dropped_lines() -> u64 {
    LOST.ever.load(Relaxed)
}

/// Sends what is logged to standard error from now on. The second call in a process changes nothing. What
/// is returned changes the levels later.
///
/// The error says what is wrong with `level`.
pub fn init(level: &str, format: LogFormat) -> Result<Loggers, String> {
    let directives = directives(level);
    let first = filter(&directives)?;
    let terminal = io::IsTerminal::is_terminal(&io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(first)
        .with_writer(StandardError);
    let apply: Apply = match format {
        LogFormat::Text => {
            let builder = builder.with_ansi(terminal).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |directives| {
                let filter = filter(directives)?;
                handle.reload(filter).map_err(|e| e.to_string())
            })
        }
        LogFormat::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |directives| {
                let filter = filter(directives)?;
                handle.reload(filter).map_err(|e| e.to_string())
            })
        }
    };
    Ok(Loggers::new(&directives, apply))
}

/// Makes a panic one line in the log and the end of the process, in every build: a shard that is gone must
/// not leave a node that limps on.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map_or_else(|| "an unknown place".into(), ToString::to_string);
        let why = super::error::one_line(payload(panic.payload()));
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        // Not through `tracing`: the panic may have come out of it, and `off` must not hide this.
        let mut line = format!(
            "ringspun: internal error in thread {thread} at {place}: {why}; the process stops, please report this"
        );
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            let _ = write!(line, "\n{trace}");
        }
        eprintln!("{line}");
        std::process::abort();
    }));
}

fn payload(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// A level, or directives, as directives.
fn directives(level: &str) -> String {
    let level = level.trim();
    match level.to_ascii_lowercase().as_str() {
        "off" => "off".to_string(),
        plain @ ("error" | "warn" | "info" | "debug" | "trace") => {
            // At `error` the libraries must not say more than we do.
            let below = if plain == "error" { "error" } else { "warn" };
            format!("{below},ringspun={plain}")
        }
        _ => level.to_string(),
    }
}

fn filter(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(directives)
        .map_err(|error| format!("{error}; allowed are off, error, warn, info, debug, trace, or directives such as info,ringspun::storage=debug"))
}

/// Standard error as a place for whole lines.
#[derive(Clone, Copy)]
struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line
    }
}

/// One line on its way; the subscriber writes each in one call.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        /// Two threads that both saw room for one line would have one of them wait.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock();
        write_line(io::stderr().as_fd(), &LOST, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `line` to `to` if it takes it at once, else counts it as lost.
fn write_line(to: BorrowedFd<'_>, lost: &Lost, line: &[u8]) {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let mut ready = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let takes = poll(&mut ready, Some(&now)).is_ok_and(|n| n == 1)
        && ready[0].revents().contains(PollFlags::OUT);
    if !takes {
        lost.ever.fetch_add(1, Relaxed);
        lost.unsaid.fetch_add(1, Relaxed);
        return;
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        let missing = lost.unsaid.swap(0, Relaxed);
        if missing > 0 {
            let notice =
                format!("ringspun: {missing} log lines are missing: standard error was not read\n");
            buffer.extend_from_slice(notice.as_bytes());
        }
        let room = LINE_MAX_BYTES - buffer.len();
        if line.len() <= room {
            buffer.extend_from_slice(line);
        } else {
            buffer.extend_from_slice(&line[..room - 1]);
            buffer.push(b'\n');
        }
        let _ = rustix::io::write(to, buffer);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_plain_level_is_ours_and_directives_are_taken_as_they_are() {
        let filter = |level| filter(&directives(level));
        assert_eq!(filter("Debug").unwrap().to_string(), "ringspun=debug,warn");
        assert_eq!(filter("error").unwrap().to_string(), "ringspun=error,error");
        assert_eq!(filter("off").unwrap().to_string(), "off");
        assert_eq!(
            filter("info,ringspun::storage=trace").unwrap().to_string(),
            "ringspun::storage=trace,info"
        );
        assert!(
            filter("ringspun=loud")
                .unwrap_err()
                .contains("allowed are off")
        );
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lost = Lost::new();
        let line = [[b'x'; 4095].as_slice(), b"\n"].concat();
        let mut written = 0;
        while lost.ever.load(Relaxed) == 0 {
            write_line(writer.as_fd(), &lost, &line);
            written += 1;
            assert!(written < 10_000, "the pipe never filled");
        }
        let mut taken = vec![0; (written - 1) * 4096];
        reader.read_exact(&mut taken).unwrap();
        write_line(writer.as_fd(), &lost, b"after\n");
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(
            rest,
            "ringspun: 1 log lines are missing: standard error was not read\nafter\n"
        );
        assert_eq!(lost.ever.load(Relaxed), 1);
    }

    #[test]
    fn a_line_longer_than_a_pipe_takes_whole_is_cut() {
        let (mut reader, writer) = io::pipe().unwrap();
        write_line(writer.as_fd(), &Lost::new(), &[b'y'; 9000]);
        drop(writer);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!(all.len() <= LINE_MAX_BYTES && all.ends_with(b"y\n"));
    }
}
