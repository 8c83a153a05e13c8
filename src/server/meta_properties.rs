//! `meta.properties`: whose data directory this is.
//!
//! Kafka's file, in the format of Java's properties:
//!
//! ```text
//! version=1                                 (0 in the days of ZooKeeper: broker.id instead of node.id)
//! cluster.id=4L6g3nShT-eMCtK--X86sw
//! node.id=1
//! directory.id=Ju_QdKoLSX-Q4nDTP5rq7g       (KIP-858; absent in older directories)
//! ```
//! Every data directory has one. They must agree on the cluster and the node, and no two may have the
//! same directory id (then one is a copy). A directory without the file is new: it joins the others with
//! an id of its own; when all are new, a new cluster begins. A directory that Apache Kafka wrote is taken
//! over with its ids.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::StartError;
use crate::base::{BrokerId, ClusterId, TopicId};

pub const FILE_NAME: &str = "meta.properties";

/// The node id of a new node that is not told one.
pub const DEFAULT_NODE_ID: BrokerId = BrokerId(1);

/// The identity of a data directory (KIP-858). The first hundred values are reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub u128);

impl DirectoryId {
    /// Of a directory that cannot be asked for its id; Kafka's reserved id for one that is gone.
    pub const LOST: DirectoryId = DirectoryId(2);

    /// As on the wire, most significant byte first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    fn parse(text: &str) -> Option<Self> {
        TopicId::parse(text).map(|id| Self(id.0))
    }

    fn is_reserved(self) -> bool {
        self.0 < 100
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId(self.0).fmt(f)
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The content of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    pub version: u8,
    /// Always there in version 1.
    pub cluster_id: Option<ClusterId>,
    /// Always there in version 1.
    pub node_id: Option<BrokerId>,
    pub directory_id: Option<DirectoryId>,
}

impl MetaProperties {
    /// Reads the text of a file. The error says what is wrong, without the file's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let properties = properties(text);
        let get = |name: &str| properties.get(name).map(String::as_str);
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(value) => match value.parse::<i32>() {
                Ok(id) if id >= 0 => Ok(Some(BrokerId(id))),
                _ => Err(format!(
                    "{name}={value} is not a number from 0 to 2147483647"
                )),
            },
        };
        let version = match get("version") {
            None | Some("0") => 0,
            Some("1") => 1,
            Some(other) => return Err(format!("version={other} is not 0 or 1")),
        };
        let node_id = number(if version == 0 { "broker.id" } else { "node.id" })?;
        let cluster_id = match get("cluster.id") {
            Some("") => return Err("cluster.id is empty".into()),
            other => other.map(ClusterId::from),
        };
        if version == 1 && node_id.is_none() {
            return Err("node.id is missing".into());
        }
        if version == 1 && cluster_id.is_none() {
            return Err("cluster.id is missing".into());
        }
        let directory_id = match get("directory.id") {
            None => None,
            Some(value) => match DirectoryId::parse(value) {
                Some(id) if !id.is_reserved() => Some(id),
                _ => return Err(format!("directory.id={value} is not an id")),
            },
        };
        Ok(Self {
            version,
            cluster_id,
            node_id,
            directory_id,
        })
    }
}

/// The identity of one data directory, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: ClusterId,
    pub node_id: BrokerId,
    pub directory_id: DirectoryId,
}

impl fmt::Display for Identity {
    /// The text of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ids are base64 as a rule, but a cluster id is free text to Kafka.
        let mut cluster_id = String::new();
        for c in self.cluster_id.chars() {
            match c {
                '\\' | ':' | '=' | '#' | '!' | ' ' => cluster_id.extend(['\\', c]),
                '\n' => cluster_id.push_str("\\n"),
                '\r' => cluster_id.push_str("\\r"),
                '\t' => cluster_id.push_str("\\t"),
                c => cluster_id.push(c),
            }
        }
        writeln!(f, "#")?;
        writeln!(f, "version=1")?;
        writeln!(f, "cluster.id={cluster_id}")?;
        writeln!(f, "node.id={}", self.node_id)?;
        writeln!(f, "directory.id={}", self.directory_id)
    }
}

/// What [`agree`] found out about the directories, in their order.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreed {
    pub cluster_id: ClusterId,
    pub node_id: BrokerId,
    pub directories: Vec<AgreedDirectory>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct AgreedDirectory {
    pub directory_id: DirectoryId,
    /// Whether the file is to be written: it is missing, of version 0, or lacks an id.
    pub write: bool,
}

/// Finds the one identity of the node, or says which directories disagree.
///
/// `wanted` is `node.id` when it is set; `wanted_cluster` names the cluster that new directories begin.
/// `random` gives 128 random bits.
pub fn agree(
    found: &[(PathBuf, Option<MetaProperties>)],
    wanted: Option<BrokerId>,
    wanted_cluster: Option<&str>,
    random: &mut dyn FnMut() -> u128,
) -> Result<Agreed, StartError> {
    let mut cluster: Option<(&Path, &ClusterId)> = None;
    let mut node: Option<(&Path, BrokerId)> = None;
    let mut directories: BTreeMap<DirectoryId, &Path> = BTreeMap::new();
    for (path, meta) in found {
        let Some(meta) = meta else { continue };
        if let Some(id) = &meta.cluster_id {
            match cluster {
                Some((first, other)) if other != id => {
                    return Err(StartError::Disagree {
                        what: "cluster",
                        first: first.into(),
                        first_id: other.to_string(),
                        second: path.clone(),
                        second_id: id.to_string(),
                    });
                }
                _ => cluster = Some((path, id)),
            }
        }
        if let Some(id) = meta.node_id {
            if let Some(wanted) = wanted.filter(|&wanted| wanted != id) {
                return Err(StartError::OtherNode {
                    directory: path.clone(),
                    owner: id,
                    wanted,
                });
            }
            match node {
                Some((first, other)) if other != id => {
                    return Err(StartError::Disagree {
                        what: "node",
                        first: first.into(),
                        first_id: other.to_string(),
                        second: path.clone(),
                        second_id: id.to_string(),
                    });
                }
                _ => node = Some((path, id)),
            }
        }
        if let Some(id) = meta.directory_id
            && let Some(first) = directories.insert(id, path)
        {
            return Err(StartError::CopiedDirectory {
                first: first.into(),
                second: path.clone(),
            });
        }
    }
    let mut fresh = || loop {
        let id = DirectoryId(random());
        // Kafka's tools take a leading dash for an option.
        if !id.is_reserved() && !id.to_string().starts_with('-') && !directories.contains_key(&id) {
            break id;
        }
    };
    let cluster_id = match cluster {
        Some((_, id)) => id.clone(),
        None => wanted_cluster.map_or_else(|| fresh().to_string().into(), ClusterId::from),
    };
    let node_id = node.map(|(_, id)| id).or(wanted).unwrap_or(DEFAULT_NODE_ID);
    let directories = found
        .iter()
        .map(|(_, meta)| AgreedDirectory {
            directory_id: meta
                .as_ref()
                .and_then(|m| m.directory_id)
                .unwrap_or_else(&mut fresh),
            write: meta.as_ref().is_none_or(|m| {
                m.version != 1
                    || m.directory_id.is_none()
                    || m.cluster_id.is_none()
                    || m.node_id.is_none()
            }),
        })
        .collect();
    Ok(Agreed {
        cluster_id,
        node_id,
        directories,
    })
}

/// Java's properties, as far as this file uses them: comments, `=` or `:` or blanks between name and
/// value, backslash escapes. A value that goes on over several lines does not occur.
fn properties(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '!']))
        .map(|line| {
            let end = line
                .char_indices()
                .scan(false, |escaped, (i, c)| {
                    let was = *escaped;
                    *escaped = c == '\\' && !was;
                    Some((i, c, was))
                })
                .find(|&(_, c, was)| !was && (c == '=' || c == ':' || c.is_ascii_whitespace()))
                .map_or(line.len(), |(i, _, _)| i);
            let (name, rest) = line.split_at(end);
            let rest = rest.trim_start();
            let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim();
            (unescape(name), unescape(value))
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const KAFKA: &str = "#\n#Thu Nov 05 10:00:00 UTC 2026\ncluster.id=4L6g3nShT-eMCtK--X86sw\n\
        directory.id=Ju_QdKoLSX-Q4nDTP5rq7g\nnode.id=7\nversion=1\n";

    fn counting() -> impl FnMut() -> u128 {
        // Far from the reserved ids; the first ones give text with a leading dash and are passed over.
        let mut next = (63u128 << 122) - 3;
        move || {
            next += 1;
            next
        }
    }

    fn dir(name: &str, meta: Option<&str>) -> (PathBuf, Option<MetaProperties>) {
        (name.into(), meta.map(|m| MetaProperties::parse(m).unwrap()))
    }

    #[test]
    fn a_directory_of_apache_kafka_is_taken_over_with_its_ids() {
        let agreed = agree(&[dir("/a", Some(KAFKA))], None, None, &mut counting()).unwrap();
        assert_eq!(&*agreed.cluster_id, "4L6g3nShT-eMCtK--X86sw");
        assert_eq!(agreed.node_id, BrokerId(7));
        assert_eq!(
            agreed.directories[0].directory_id.to_string(),
            "Ju_QdKoLSX-Q4nDTP5rq7g"
        );
        assert!(!agreed.directories[0].write);
    }

    #[test]
    fn a_new_directory_joins_the_others_with_an_id_of_its_own() {
        let agreed = agree(
            &[dir("/a", Some(KAFKA)), dir("/b", None)],
            Some(BrokerId(7)),
            None,
            &mut counting(),
        )
        .unwrap();
        assert_eq!(agreed.node_id, BrokerId(7));
        assert!(!agreed.directories[0].write && agreed.directories[1].write);
        assert_ne!(
            agreed.directories[0].directory_id,
            agreed.directories[1].directory_id
        );
    }

    #[test]
    fn new_directories_begin_a_cluster_with_node_1_unless_told() {
        let dirs = [dir("/a", None), dir("/b", None)];
        assert_eq!(
            agree(&dirs, None, None, &mut counting()).unwrap().node_id,
            BrokerId(1)
        );
        let agreed = agree(&dirs, Some(BrokerId(5)), None, &mut counting()).unwrap();
        assert_eq!(agreed.node_id, BrokerId(5));
        assert_eq!(agreed.cluster_id.len(), 22);
        assert!(!agreed.cluster_id.starts_with('-'));
        let named = agree(&dirs, None, Some("named"), &mut counting()).unwrap();
        assert_eq!(&*named.cluster_id, "named");
    }

    #[test]
    fn a_directory_of_another_node_is_refused() {
        let error = agree(
            &[dir("/a", Some(KAFKA))],
            Some(BrokerId(2)),
            None,
            &mut counting(),
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/a") && text.contains("node 7") && text.contains("node.id=2"),
            "{text}"
        );
    }

    #[test]
    fn directories_of_two_clusters_or_nodes_and_copies_are_refused() {
        let other_cluster = KAFKA.replace("4L6g", "5L6g").replace("Ju_Q", "Ku_Q");
        let other_node = KAFKA
            .replace("node.id=7", "node.id=8")
            .replace("Ju_Q", "Ku_Q");
        for (second, expect) in [
            (other_cluster.as_str(), "cluster"),
            (other_node.as_str(), "node"),
            (KAFKA, "same directory.id"),
        ] {
            let dirs = [dir("/a", Some(KAFKA)), dir("/b", Some(second))];
            let text = agree(&dirs, None, None, &mut counting())
                .unwrap_err()
                .to_string();
            assert!(
                text.contains(expect) && text.contains("/a") && text.contains("/b"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_directory_of_the_zookeeper_days_is_brought_up_to_version_1() {
        let agreed = agree(
            &[dir("/a", Some("version=0\nbroker.id=3\ncluster.id=abc\n"))],
            None,
            None,
            &mut counting(),
        )
        .unwrap();
        assert_eq!((agreed.node_id, &*agreed.cluster_id), (BrokerId(3), "abc"));
        assert!(agreed.directories[0].write);
    }

    #[test]
    fn what_is_written_reads_back() {
        for cluster_id in ["4L6g3nShT-eMCtK--X86sw", "a:b=c #d\\e\t!"] {
            let identity = Identity {
                cluster_id: cluster_id.into(),
                node_id: BrokerId(3),
                directory_id: DirectoryId(1 << 100),
            };
            let read = MetaProperties::parse(&identity.to_string()).unwrap();
            assert_eq!(read.cluster_id.as_deref(), Some(cluster_id));
            assert_eq!(read.node_id, Some(BrokerId(3)));
            assert_eq!(read.directory_id, Some(DirectoryId(1 << 100)));
            assert_eq!(read.version, 1);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "version=2\nnode.id=1\ncluster.id=x",
            "version=1\ncluster.id=x",
            "version=1\nnode.id=1",
            "version=1\nnode.id=-1\ncluster.id=x",
            "version=1\nnode.id=x\ncluster.id=x",
            "version=1\nnode.id=1\ncluster.id=",
            "version=1\nnode.id=1\ncluster.id=x\ndirectory.id=short",
            "version=1\nnode.id=1\ncluster.id=x\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ",
        ] {
            assert!(MetaProperties::parse(text).is_err(), "{text}");
        }
        let loose =
            MetaProperties::parse(" version : 1\nnode.id 4\n!c\ncluster.id = a\\:b \n").unwrap();
        assert_eq!(
            (loose.node_id, loose.cluster_id.as_deref()),
            (Some(BrokerId(4)), Some("a:b"))
        );
    }
}
