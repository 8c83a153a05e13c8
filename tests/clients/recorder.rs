//! What clients say, word by word: a relay between them and the broker that keeps their requests.
//!
//! With `RINGSPUN_CAPTURE_FRAMES=FOLDER` the broker advertises the relay's address, so every client comes
//! through it after its first question. At the end `FOLDER/<client>.frames` holds, of each API and version that
//! a client used, its shortest and its longest request of at most 512 bytes, each behind its length as on the
//! wire. `tests/golden/frames` is made like this: the fuzzer starts from what clients really send.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Longer requests are passed on and not kept.
const KEPT_BYTES_MAX: usize = 512;

const API_VERSIONS: i16 = 18;

/// A client, an API and a version.
type Kind = (String, i16, i16);

#[derive(Default)]
struct Kept {
    broker_port: AtomicU16,
    /// The shortest and the longest of each kind.
    frames: Mutex<BTreeMap<Kind, (Vec<u8>, Vec<u8>)>>,
}

/// The relay. Runs until the process ends.
pub struct Recorder {
    pub port: u16,
    kept: Arc<Kept>,
}

impl Recorder {
    pub fn start() -> io::Result<Recorder> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let kept = Arc::new(Kept::default());
        let keeps = kept.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let kept = keeps.clone();
                std::thread::spawn(move || relay(client, &kept));
            }
        });
        Ok(Recorder { port, kept })
    }

    /// Where the broker is.
    pub fn forward_to(&self, port: u16) {
        self.kept.broker_port.store(port, Relaxed);
    }

    /// Writes a file for each client.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let frames = self.kept.frames.lock().expect("nobody panics with it");
        for ((client, ..), (shortest, longest)) in frames.iter() {
            let file = files.entry(client.clone()).or_default();
            let two = [shortest, longest];
            for frame in &two[..if shortest == longest { 1 } else { 2 }] {
                file.extend((frame.len() as u32).to_be_bytes());
                file.extend(frame.iter());
            }
        }
        for (client, bytes) in files {
            std::fs::write(folder.join(format!("{client}.frames")), bytes)?;
        }
        Ok(())
    }
}

fn relay(mut client: TcpStream, kept: &Kept) {
    let port = kept.broker_port.load(Relaxed);
    let Ok(mut broker) = TcpStream::connect(("127.0.0.1", port)) else {
        return;
    };
    let (Ok(mut answers), Ok(mut back)) = (broker.try_clone(), client.try_clone()) else {
        return;
    };
    std::thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(std::net::Shutdown::Both);
    });
    let mut name = String::new();
    while let Ok(frame) = read_frame(&mut client) {
        let length = (frame.len() as u32).to_be_bytes();
        if broker.write_all(&length).is_err() || broker.write_all(&frame).is_err() {
            break;
        }
        keep(kept, &mut name, frame);
    }
    let _ = broker.shutdown(std::net::Shutdown::Both);
}

fn read_frame(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn keep(kept: &Kept, name: &mut String, frame: Vec<u8>) {
    let number = |at: usize| Some(i16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (Some(key), Some(version)) = (number(0), number(2)) else {
        return;
    };
    // What the connection said first stands.
    if name.is_empty() {
        *name = client_name(&frame, key, version).unwrap_or_default();
    }
    if name.is_empty() || frame.len() > KEPT_BYTES_MAX {
        return;
    }
    let mut frames = kept.frames.lock().expect("nobody panics with it");
    let (shortest, longest) = frames
        .entry((name.clone(), key, version))
        .or_insert_with(|| (frame.clone(), frame.clone()));
    if frame.len() < shortest.len() {
        *shortest = frame;
    } else if frame.len() > longest.len() {
        *longest = frame;
    }
}

/// The client's software, if it says so (KIP-511), else the letters its client id begins with. kafkajs asks for
/// the versions on its first connection only.
fn client_name(frame: &[u8], key: i16, version: i16) -> Option<String> {
    // Behind key, version, correlation id.
    let length = usize::from(u16::from_be_bytes([*frame.get(8)?, *frame.get(9)?]));
    let id = frame.get(10..10 + length).unwrap_or_default();
    let mut text = id.to_vec();
    if key == API_VERSIONS && version >= 3 {
        // No tags, then a compact string.
        let rest = frame.get(10 + id.len() + 1..)?;
        let length = usize::from(*rest.first()?).checked_sub(1)?;
        text = rest.get(1..1 + length)?.to_vec();
    }
    let text = String::from_utf8(text).ok()?.to_ascii_lowercase();
    let letters = |c: &char| c.is_ascii_alphabetic() || *c == '-';
    let name: String = text.chars().take_while(letters).collect();
    Some(name.trim_matches('-').to_owned()).filter(|name| !name.is_empty())
}
