//! The batches of a workload, encoded once, and which partition each key goes to.

use std::rc::Rc;

use anyhow::{Result, ensure};

use crate::content::{BATCH_HEADER, Filler, STAMP, Template, partition_of_key};
use crate::workload::{Keys, Payload, Workload};

/// Encoded batches may take so much memory, by thread.
const MAX_TEMPLATE_BYTES: u64 = 1 << 30;
/// Most records of a batch that is encoded.
const MAX_RECORDS: usize = 1_000_000;
/// How many records' keys are drawn beforehand; they repeat after that.
const DRAWN_KEYS: usize = 1 << 16;

pub struct Contents {
    templates: Vec<Rc<Template>>,
    /// The partition, within its topic, of each record in turn; empty without keys.
    drawn: Vec<u32>,
}

/// The key of this number, of this many bytes.
fn key(number: u32, bytes: u32) -> Vec<u8> {
    let mut key = format!("{number:0width$}", width = bytes as usize).into_bytes();
    let surplus = key.len().saturating_sub(bytes as usize);
    key.drain(..surplus);
    key
}

impl Contents {
    pub fn new(workload: &Workload) -> Result<Contents> {
        let mut random = fastrand::Rng::with_seed(workload.seed);
        let filler = match workload.payload {
            Payload::Random => Filler::Random,
            Payload::Words => Filler::Words,
        };
        let sizes = Sizes::new(workload);
        if workload.keys == Keys::None {
            let records = sizes.batch(workload, &mut random, |_| None);
            return Ok(Contents {
                templates: vec![Rc::new(Template::new(records, filler, &mut random))],
                drawn: Vec::new(),
            });
        }
        let partitions = workload.partitions;
        let largest = sizes.0.iter().map(|(bytes, _)| *bytes as u64).max();
        let each = workload.batch_bytes.max(largest.unwrap_or(0));
        ensure!(
            u64::from(partitions) * each <= MAX_TEMPLATE_BYTES,
            "keys need a batch by partition in memory: {partitions} x {each} bytes are more than 1 GiB"
        );
        // Which keys each partition has, with the sum of their weights up to each.
        let mut of_partition: Vec<Vec<(f64, u32)>> = vec![Vec::new(); partitions as usize];
        let mut all: Vec<(f64, u32)> = Vec::with_capacity(workload.key_count as usize);
        let mut sum = 0.0;
        for number in 0..workload.key_count {
            let weight = match workload.keys {
                Keys::Zipf => f64::from(number + 1).powf(-workload.zipf_exponent),
                _ => 1.0,
            };
            let partition = partition_of_key(&key(number, workload.key_bytes), partitions);
            let keys = &mut of_partition[partition as usize];
            let before = keys.last().map_or(0.0, |(sum, _)| *sum);
            keys.push((before + weight, number));
            sum += weight;
            all.push((sum, partition));
        }
        let pick = |weighted: &[(f64, u32)], random: &mut fastrand::Rng| {
            let sum = weighted.last().map_or(0.0, |(sum, _)| *sum);
            let drawn = random.f64() * sum;
            let at = weighted.partition_point(|(sum, _)| *sum <= drawn);
            weighted[at.min(weighted.len() - 1)].1
        };
        let templates = of_partition
            .iter()
            .map(|keys| {
                let mut turn = 0;
                let records = sizes.batch(workload, &mut random, |random| {
                    let number = match workload.keys {
                        _ if keys.is_empty() => 0,
                        Keys::Zipf => pick(keys, random),
                        _ => {
                            turn += 1;
                            keys[(turn - 1) % keys.len()].1
                        }
                    };
                    Some(key(number, workload.key_bytes))
                });
                Rc::new(Template::new(records, filler, &mut random))
            })
            .collect();
        let drawn = (0..DRAWN_KEYS)
            .map(|turn| match workload.keys {
                Keys::Zipf => pick(&all, &mut random),
                _ => all[turn % all.len()].1,
            })
            .collect();
        Ok(Contents { templates, drawn })
    }

    /// The batches of this partition, within its topic.
    pub fn template(&self, partition: u32) -> &Rc<Template> {
        &self.templates[partition as usize % self.templates.len()]
    }

    /// The partitions of keyed records in turn; empty without keys.
    pub fn drawn(&self) -> &[u32] {
        &self.drawn
    }
}

/// Sizes of values with the sum of weights up to each.
struct Sizes(Vec<(usize, f64)>);

impl Sizes {
    fn new(workload: &Workload) -> Sizes {
        let mut sum = 0.0;
        let sizes = workload.sizes().into_iter().map(|(bytes, weight)| {
            sum += weight;
            (bytes as usize, sum)
        });
        Sizes(sizes.collect())
    }

    fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let last = self.0.last().expect("at least one size");
        let drawn = random.f64() * last.1;
        self.0
            .iter()
            .find(|(_, sum)| drawn < *sum)
            .unwrap_or(last)
            .0
    }

    /// Keys and sizes of the records of one full batch.
    fn batch(
        &self,
        workload: &Workload,
        random: &mut fastrand::Rng,
        mut key: impl FnMut(&mut fastrand::Rng) -> Option<Vec<u8>>,
    ) -> Vec<(Option<Vec<u8>>, usize)> {
        let most = match workload.batch_records {
            0 => MAX_RECORDS,
            records => (records as usize).min(MAX_RECORDS),
        };
        let mut records = Vec::new();
        let mut bytes = BATCH_HEADER as u64;
        while records.len() < most {
            let size = self.draw(random).max(STAMP);
            let key = key(random);
            // Lengths, attributes and deltas: what they take at most, at these sizes.
            let overhead = if size < 4096 { 12 } else { 20 };
            bytes += (size + key.as_ref().map_or(0, Vec::len) + overhead) as u64;
            if bytes > workload.batch_bytes && !records.is_empty() {
                break;
            }
            records.push((key, size));
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(text: &str) -> Contents {
        Contents::new(&Workload::parse(text, &[]).unwrap()).unwrap()
    }

    #[test]
    fn a_batch_is_as_full_as_it_may_be() {
        let contents = contents("record_bytes = 100\nbatch_bytes = 16384");
        let template = contents.template(0);
        let bytes = template.batch_bytes(template.max_records());
        assert!((16384 - 600..=16384).contains(&bytes), "{bytes}");
        let one = self::contents("record_bytes = 1000000\nbatch_bytes = 16384");
        assert_eq!(one.template(0).max_records(), 1);
        let ten = self::contents("record_bytes = 1024\nbatch_records = 10");
        assert_eq!(ten.template(0).max_records(), 10);
    }

    #[test]
    fn zipf_keys_prefer_few_partitions_and_round_robin_none() {
        let share = |keys: &str| {
            let contents = contents(&format!(
                "keys = \"{keys}\"\npartitions = 16\nkey_count = 1000\nzipf_exponent = 1.2"
            ));
            let mut counts = [0u32; 16];
            for &partition in contents.drawn() {
                counts[partition as usize] += 1;
            }
            f64::from(*counts.iter().max().unwrap()) / DRAWN_KEYS as f64
        };
        assert!(share("zipf") > 0.2);
        assert!(share("round_robin") < 0.1);
    }
}
