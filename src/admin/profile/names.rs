//! What the functions are named that addresses of this process lie in.
//!
//! The tables for that take some hundred megabytes and a second of a core, and whoever has read them keeps them. So
//! a process is made for it, of the same program ([`serve`]), that ends when it has answered. The same program lies
//! elsewhere in another process: addresses are told as places in the files that are mapped there.
//!
//! ```text
//! asked      OFFSET PATH     of each address a line: in hexadecimal, and as /proc/self/maps names the file
//! answered   NAME;NAME;…     what was inlined first, what it was inlined into behind it; an empty line: not known
//! ```
//!
//! The program is taken from `/proc/self/exe`, which is the one that runs also when its file was replaced or deleted
//! since. Its tables are read from the file, though: then, and for what they do not know, a name is the file and the
//! place in it (`ringspun+0x1f3a0`), for `addr2line` to read from a copy. So it is where no process can be had, which
//! is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The command that [`serve`]s.
pub const COMMAND: &str = "look-up-names";

/// The program that runs.
const PROGRAM: &str = "/proc/self/exe";

/// When the process that answers gives up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// A part of a file that is mapped to be executed.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    begin: u64,
    end: u64,
    /// Where in the file.
    offset: u64,
    path: String,
}

/// The mappings of `/proc/self/maps` with code in them, by their begin.
fn mappings(maps: &str) -> Vec<Mapping> {
    maps.lines().filter_map(mapping).collect()
}

fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (begin, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let offset = fields.next()?;
    let path = fields.nth(2)?.trim_start();
    let number = |hexadecimal| u64::from_str_radix(hexadecimal, 16).ok();
    let mapping = Mapping {
        begin: number(begin)?,
        end: number(end)?,
        offset: number(offset)?,
        path: path.to_owned(),
    };
    (executable && !path.is_empty()).then_some(mapping)
}

fn own_mappings() -> io::Result<Vec<Mapping>> {
    Ok(mappings(&std::fs::read_to_string("/proc/self/maps")?))
}

/// The file that is mapped at `address`, and the place in it.
fn place(mappings: &[Mapping], address: u64) -> Option<(u64, &str)> {
    let within = |mapping: &&Mapping| (mapping.begin..mapping.end).contains(&address);
    let mapping = mappings.iter().find(within)?;
    let offset = (address - mapping.begin).checked_add(mapping.offset)?;
    Some((offset, &mapping.path))
}

/// Where a place of a file is mapped.
fn address(mappings: &[Mapping], offset: u64, path: &str) -> Option<u64> {
    mappings.iter().find_map(|mapping| {
        let within = offset.checked_sub(mapping.offset)?;
        let is_there = mapping.path == path && within < mapping.end - mapping.begin;
        is_there.then(|| mapping.begin + within)
    })
}

/// The names of these addresses: what was inlined first. Left out is what lies in no file.
pub fn of(addresses: &BTreeSet<u64>) -> BTreeMap<u64, Vec<String>> {
    let mappings = own_mappings().unwrap_or_else(|error| {
        tracing::warn!("functions cannot be named: /proc/self/maps: {error}");
        Vec::new()
    });
    let places: Vec<Option<(u64, &str)>> = addresses.iter().map(|a| place(&mappings, *a)).collect();
    let asked: Vec<String> = places
        .iter()
        .flatten()
        .map(|(offset, path)| format!("{offset:x} {path}\n"))
        .collect();
    let answered = ask(PROGRAM, &asked).unwrap_or_else(|why| {
        tracing::warn!("functions cannot be named: {why}");
        String::new()
    });
    let mut answers = answered.lines();
    let named = addresses
        .iter()
        .zip(&places)
        .filter_map(|(address, place)| {
            let (offset, path) = (*place)?;
            let names = match answers.next() {
                None | Some("") => {
                    let file = path.rsplit('/').next().unwrap_or(path);
                    vec![format!("{}+{offset:#x}", plain(file))]
                }
                Some(names) => names.split(';').map(str::to_owned).collect(),
            };
            Some((*address, names))
        });
    named.collect()
}

/// Has a process of `program` answer, a line each.
fn ask(program: &str, asked: &[String]) -> Result<String, String> {
    let mut answering = Command::new(program);
    answering.arg(COMMAND).stdin(Stdio::piped());
    answering.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = answering
        .spawn()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    // It answers when it has read all, so neither waits for the other.
    let sent = child
        .stdin
        .take()
        .map(|mut to| to.write_all(asked.concat().as_bytes()));
    let answered = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if let Some(Err(error)) = sent {
        return Err(format!("{program} did not listen: {error}"));
    }
    if !answered.status.success() {
        return Err(format!("{program} failed: {}", answered.status));
    }
    let answers = String::from_utf8(answered.stdout).map_err(|error| error.to_string())?;
    if answers.lines().count() != asked.len() {
        return Err(format!("{program} answered something else"));
    }
    Ok(answers)
}

/// Answers on standard output what is asked on standard input, which ends before.
pub fn serve() -> Result<(), String> {
    std::thread::spawn(|| {
        std::thread::sleep(GIVE_UP_AFTER);
        std::process::exit(1);
    });
    let mappings = own_mappings().map_err(|error| format!("/proc/self/maps: {error}"))?;
    let asked: Result<Vec<String>, io::Error> = io::stdin().lock().lines().collect();
    let mut answers = String::new();
    for line in asked.map_err(|error| error.to_string())? {
        answers += &answer(&mappings, &line);
        answers.push('\n');
    }
    let mut out = io::stdout().lock();
    let told = out.write_all(answers.as_bytes()).and_then(|()| out.flush());
    told.map_err(|error| error.to_string())
}

fn answer(mappings: &[Mapping], line: &str) -> String {
    let place = line.split_once(' ').and_then(|(offset, path)| {
        let offset = u64::from_str_radix(offset, 16).ok()?;
        address(mappings, offset, path)
    });
    let mut names: Vec<String> = Vec::new();
    if let Some(address) = place {
        backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
            // Without the hash that Rust puts behind it.
            names.extend(symbol.name().map(|name| plain(&format!("{name:#}"))));
        });
    }
    names.join(";")
}

/// A name without what separates names.
pub fn plain(name: &str) -> String {
    name.replace(';', ":").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c0000000-55d0c0100000 r--p 00000000 fe:00 42                         /opt/a b/ringspun (deleted)
55d0c0100000-55d0c0300000 r-xp 00100000 fe:00 42                         /opt/a b/ringspun (deleted)
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f0000100000-7f0000200000 r-xp 00028000 fe:00 7                          /usr/lib/libc.so.6
7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0                          [vdso]
nonsense
";

    #[test]
    fn a_place_in_a_file_is_an_address_wherever_the_file_is_mapped() {
        let there = mappings(MAPS);
        assert_eq!(there.len(), 3);
        let (offset, path) = place(&there, 0x55d0c0100010).unwrap();
        assert_eq!((offset, path), (0x100010, "/opt/a b/ringspun (deleted)"));
        assert_eq!(place(&there, 0x7f0000200000), None);
        let here = mappings(&MAPS.replace("55d0c0", "7abcd0"));
        assert_eq!(address(&here, offset, path), Some(0x7abcd0100010));
        assert_eq!(address(&here, 0x27fff, "/usr/lib/libc.so.6"), None);
        assert_eq!(address(&here, 0x28000, "/usr/lib/libm.so.6"), None);
    }

    #[test]
    fn a_function_of_this_process_is_named() {
        let mappings = own_mappings().unwrap();
        let function = mappings_of_nobody as fn() as usize as u64 + 1;
        let (offset, path) = place(&mappings, function).unwrap();
        let names = answer(&mappings, &format!("{offset:x} {path}"));
        // What is inlined at its begin comes before it; its own path is not told then.
        assert!(names.ends_with("mappings_of_nobody"), "{names}");
        for nonsense in [
            "",
            "x",
            "zz /bin/sh",
            "ffffffffffffffff /bin/sh",
            "0 [vdso]",
        ] {
            let names = answer(&mappings, nonsense);
            assert!(!names.contains('\n'), "{nonsense}: {names}");
        }
    }

    #[inline(never)]
    fn mappings_of_nobody() {
        std::hint::black_box(mappings(""));
    }

    #[test]
    fn without_the_program_a_name_is_the_place_in_its_file() {
        let why = ask("/nowhere/ringspun", &[]).unwrap_err();
        assert!(why.contains("/nowhere/ringspun"), "{why}");
        let why = ask("/bin/false", &["1 x\n".into()]).unwrap_err();
        assert!(why.contains("/bin/false"), "{why}");
        // The program of this test does not know the command, and answers with something else.
        let function = mappings_of_nobody as fn() as usize as u64;
        let names = of(&BTreeSet::from([1, function]));
        assert_eq!(names.len(), 1);
        assert!(names[&function][0].contains("+0x"), "{names:?}");
    }
}
