//! `ringspun profile`: asks a running node where its time goes, and compares what was recorded.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::diff::{self, Recording};
use super::flame;

/// How long a node may take to connect, and to answer beyond the time it was asked to measure.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest answer that is taken.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Seconds that are recorded unless others are asked for.
const RECORD_SECONDS: f64 = 10.0;

/// Show where a running node's time goes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ringspun profile                          since the node started
  ringspun profile --interval 10            of the next ten seconds
  ringspun profile --watch                  again and again
  ringspun profile --record before.hlog     ten seconds as an HdrHistogram log
  ringspun profile --diff before.hlog after.hlog
  ringspun profile --flame 10               which functions the CPU's time goes to: flame.svg, flame.folded")]
pub struct ProfileArguments {
    /// The node's HTTP address (its ringspun.http.listener)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9644")]
    url: String,

    /// Show the next SECONDS, not all since the node started (at most 60)
    #[arg(long, value_name = "SECONDS")]
    interval: Option<f64>,

    /// Show SECONDS (2 unless given), again and again
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          conflicts_with_all = ["interval", "record", "diff"])]
    watch: Option<f64>,

    /// Show each shard apart
    #[arg(long)]
    per_shard: bool,

    /// Print JSON
    #[arg(long, conflicts_with_all = ["record", "diff"])]
    json: bool,

    /// Write an HdrHistogram log of the next 10 seconds, or of --interval, to FILE
    #[arg(long, value_name = "FILE", conflicts_with = "diff")]
    record: Option<PathBuf>,

    /// Show where two recordings differ
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    diff: Option<Vec<PathBuf>>,

    /// Sample stacks for SECONDS (at most 60): a flame graph flame.svg, and collapsed stacks flame.folded.
    /// Costs a busy core about half a hundredth meanwhile, and the node some 300 MB for names, which it keeps
    #[arg(long, value_name = "SECONDS",
          conflicts_with_all = ["interval", "watch", "record", "diff", "json", "per_shard"])]
    flame: Option<f64>,

    /// Where --flame writes: FILE.svg and FILE.folded
    #[arg(long, value_name = "FILE", default_value = "flame", requires = "flame")]
    out: PathBuf,
}

/// Does what was asked for. An error is one line for people.
pub fn run(arguments: &ProfileArguments) -> Result<(), String> {
    if let Some(files) = &arguments.diff {
        let [a, b] = files.as_slice() else {
            return Err("--diff takes two files".into());
        };
        return print(&diff::render(&read(a)?, &read(b)?)).map(drop);
    }
    if let Some(file) = &arguments.record {
        let seconds = arguments.interval.unwrap_or(RECORD_SECONDS);
        let log = ask(arguments, "hlog", Some(seconds))?;
        let failed = |error| format!("{} cannot be written: {error}", file.display());
        fs::write(file, log).map_err(failed)?;
        return print(&format!(
            "{seconds} s recorded in {}; compare with --diff\n",
            file.display()
        ))
        .map(drop);
    }
    if let Some(seconds) = arguments.flame {
        return record_flame(arguments, seconds);
    }
    let format = if arguments.json { "json" } else { "text" };
    let Some(seconds) = arguments.watch else {
        return print(&ask(arguments, format, arguments.interval)?).map(drop);
    };
    let clear = if io::stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    };
    loop {
        let page = ask(arguments, format, Some(seconds))?;
        if !print(&format!("{clear}{page}"))? {
            return Ok(());
        }
    }
}

fn record_flame(arguments: &ProfileArguments, seconds: f64) -> Result<(), String> {
    let wait = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let path = format!("/profile/flame?format=folded&seconds={seconds}");
    let folded = fetch(&arguments.url, &path, wait)?;
    let svg = flame::svg(&folded)?;
    for (extension, bytes) in [("folded", folded.as_bytes()), ("svg", svg.as_slice())] {
        let mut file = arguments.out.clone().into_os_string();
        file.push(format!(".{extension}"));
        let file = PathBuf::from(file);
        let failed = |error| format!("{} cannot be written: {error}", file.display());
        fs::write(&file, bytes).map_err(failed)?;
    }
    let out = arguments.out.display();
    let samples = flame::samples(&folded);
    print(&format!(
        "{samples} samples of {seconds} s, {} a second of CPU time, in {out}.svg and {out}.folded\n",
        flame::SAMPLES_PER_CPU_SECOND
    ))
    .map(drop)
}

fn read(file: &Path) -> Result<Recording, String> {
    let log = fs::read(file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    Recording::parse(&log).map_err(|why| format!("{}: {why}", file.display()))
}

/// Prints; false if nobody reads any more.
fn print(text: &str) -> Result<bool, String> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("standard output: {error}")),
    }
}

fn ask(arguments: &ProfileArguments, format: &str, seconds: Option<f64>) -> Result<String, String> {
    let mut path = format!("/profile?format={format}");
    if let Some(seconds) = seconds {
        path += &format!("&interval={seconds}");
    }
    if arguments.per_shard {
        path += "&by=shard";
    }
    let wait = Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default();
    fetch(&arguments.url, &path, wait)
}

/// One answer of a node's HTTP server, which measures for `wait` first.
fn fetch(url: &str, path: &str, wait: Duration) -> Result<String, String> {
    let host = host(url)?;
    let failed = |error: io::Error| {
        format!("{host} does not answer: {error}; --url names a node's ringspun.http.listener")
    };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut stream = None;
    for address in host.to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(connected) => stream = Some(connected),
            Err(error) => last = error,
        }
        if stream.is_some() {
            break;
        }
    }
    let Some(mut stream) = stream else {
        return Err(failed(last));
    };
    let ask = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let exchange = stream
        .set_read_timeout(Some(PATIENCE.saturating_add(wait)))
        .and_then(|()| stream.write_all(ask.as_bytes()))
        .and_then(|()| stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer));
    exchange.map_err(failed)?;
    body(&String::from_utf8_lossy(&answer))
}

/// `host:port` of an address.
fn host(url: &str) -> Result<&str, String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{scheme}:// is not spoken here, http:// is")),
        None => url,
    };
    let host = rest.split('/').next().unwrap_or("");
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port {
        Ok(host)
    } else {
        Err(format!("{url} names no port, as in http://127.0.0.1:9644"))
    }
}

/// The body of an answer, which is whole: the server says its length or ends with it.
fn body(answer: &str) -> Result<String, String> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("the answer is not HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or("");
    let code = status.split(' ').nth(1).unwrap_or("");
    if code != "200" {
        let why = body.lines().next().unwrap_or("");
        return Err(format!("the node answers {code}: {why}"));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    match length {
        Some(length) if body.len() < length => Err("the answer was cut off".into()),
        _ => Ok(body.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_host_and_port() {
        for good in ["http://a:1", "http://a:1/", "a:1"] {
            assert_eq!(host(good), Ok("a:1"));
        }
        assert_eq!(host("http://[::1]:9"), Ok("[::1]:9"));
        for bad in ["https://a:1", "a", "http://a", "http://[::1]", ""] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_its_body_or_a_reason() {
        assert_eq!(
            body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            Ok("ok".into())
        );
        let cut = body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok");
        assert!(cut.unwrap_err().contains("cut off"));
        let off = body("HTTP/1.1 404 Not Found\r\n\r\nswitched off\n").unwrap_err();
        assert_eq!(off, "the node answers 404: switched off");
        body("nonsense").unwrap_err();
    }
}
