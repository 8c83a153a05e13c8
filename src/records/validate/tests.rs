use proptest::prelude::*;

use super::*;
use crate::base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::records::control::{EndTxnMarker, TxnOutcome};
use crate::records::{BatchBuilder, RecordIter, assign, decompress, record};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const CODECS: [CompressionType; 5] = [
    CompressionType::None,
    CompressionType::Gzip,
    CompressionType::Snappy,
    CompressionType::Lz4,
    CompressionType::Zstd,
];

fn check(batch: &[u8], rules: &ValidationRules) -> Result<(Validated, BytesMut), ValidationError> {
    let mut bytes = BytesMut::from(batch);
    let validated = validate(&mut bytes, rules, NOW, &mut Scratch::new())?;
    Ok((validated, bytes))
}

fn refused(batch: &[u8], rules: &ValidationRules) -> ValidationError {
    check(batch, rules).expect_err("refused")
}

fn one(codec: CompressionType) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::of(codec));
    builder.append(NOW, Some(b"k"), Some(b"v"), &[]);
    builder
}

/// Writes `value` at `at`, and the CRC that fits.
fn patched(batch: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + value.len()].copy_from_slice(value);
    let crc = crate::records::batch::compute_crc(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// An uncompressed batch, or a compressed one, of records given as bytes.
fn raw(codec: CompressionType, count: i32, records: &[u8]) -> Vec<u8> {
    let mut out = one(codec).build();
    out.truncate(BATCH_HEADER_SIZE);
    let mut out = Compressor::new(Compression::of(codec), out).unwrap();
    out.write(records).unwrap();
    let mut batch = out.finish().unwrap();
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    seal(&mut batch);
    batch
}

#[test]
fn one_whole_batch_of_format_2_is_asked_for() {
    let rules = ValidationRules::default();
    let batch = one(CompressionType::None).build();
    assert!(check(&batch, &rules).is_ok());
    assert_eq!(refused(&[], &rules), ValidationError::NoBatch);
    for cut in 0..batch.len() {
        assert_eq!(refused(&batch[..cut], &rules), ValidationError::NoBatch);
    }
    let two = [batch.clone(), batch.clone()].concat();
    assert_eq!(refused(&two, &rules), ValidationError::MoreThanOneBatch);
    for magic in [0i8, 1] {
        assert_eq!(
            refused(&patched(&batch, 16, &[magic as u8]), &rules),
            ValidationError::OldMagic { magic }
        );
    }
    assert_eq!(
        refused(&patched(&batch, 16, &[3]), &rules),
        ValidationError::UnknownMagic { magic: 3 }
    );
    for length in [-1i32, 0, 48] {
        assert_eq!(
            refused(&patched(&batch, 8, &length.to_be_bytes()), &rules),
            ValidationError::Length { length }
        );
    }
}

#[test]
fn each_broken_field_has_its_own_refusal() {
    let rules = ValidationRules::default();
    let batch = one(CompressionType::None).build();
    assert_eq!(
        refused(&patched(&batch, 0, &1i64.to_be_bytes()), &rules),
        ValidationError::BaseOffset { base_offset: 1 }
    );
    let mut damaged = batch.clone();
    damaged[65] ^= 1;
    assert!(matches!(
        refused(&damaged, &rules),
        ValidationError::Crc { .. }
    ));
    assert_eq!(
        refused(&patched(&batch, 21, &5i16.to_be_bytes()), &rules),
        ValidationError::Header(BatchError::Compression { id: 5 })
    );
    assert_eq!(
        refused(&patched(&batch, 57, &0i32.to_be_bytes()), &rules),
        ValidationError::Count {
            count: 0,
            last_offset_delta: 0
        }
    );
    assert_eq!(
        refused(&patched(&batch, 23, &1i32.to_be_bytes()), &rules),
        ValidationError::Count {
            count: 1,
            last_offset_delta: 1
        }
    );
    assert_eq!(
        refused(&patched(&batch, 21, &0x20i16.to_be_bytes()), &rules),
        ValidationError::ControlBatch
    );
    assert_eq!(
        refused(&patched(&batch, 43, &7i64.to_be_bytes()), &rules),
        ValidationError::NoSequence { base_sequence: -1 }
    );
}

#[test]
fn a_batch_larger_than_max_message_bytes_is_refused_before_its_crc_is_read() {
    let mut batch = one(CompressionType::None).build();
    batch[17] ^= 1;
    let rules = ValidationRules {
        max_message_bytes: batch.len() as u32 - 1,
        ..ValidationRules::default()
    };
    assert_eq!(
        refused(&batch, &rules),
        ValidationError::TooLarge {
            size: batch.len(),
            max: rules.max_message_bytes
        }
    );
}

#[test]
fn records_are_counted_numbered_and_fill_the_batch() {
    let rules = ValidationRules::default();
    for codec in CODECS {
        let mut records = Vec::new();
        for delta in 0..3 {
            record::put_record(&mut records, 0, delta, None, Some(b"abc"), &[]);
        }
        assert!(check(&raw(codec, 3, &records), &rules).is_ok(), "{codec}");
        assert_eq!(
            refused(&raw(codec, 2, &records), &rules),
            ValidationError::Malformed {
                index: 2,
                error: RecordError::Trailing
            },
            "{codec}"
        );
        assert_eq!(
            refused(&raw(codec, 4, &records), &rules),
            ValidationError::Malformed {
                index: 3,
                error: RecordError::Short
            },
            "{codec}"
        );
        record::put_record(&mut records, 0, 4, None, None, &[]);
        assert_eq!(
            refused(&raw(codec, 4, &records), &rules),
            ValidationError::OffsetDelta { index: 3, found: 4 },
            "{codec}"
        );
        let cut = &records[..records.len() - 1];
        assert!(matches!(
            refused(&raw(codec, 4, cut), &rules),
            ValidationError::Malformed {
                index: 3,
                error: RecordError::Short
            }
        ));
    }
}

#[test]
fn a_compacted_topic_names_each_record_without_a_key() {
    let rules = ValidationRules {
        compacted: true,
        ..ValidationRules::default()
    };
    for codec in CODECS {
        let mut builder = BatchBuilder::new(Compression::of(codec));
        for key in [Some(&b"a"[..]), None, Some(b""), None] {
            builder.append(NOW, key, None, &[]);
        }
        assert_eq!(
            refused(&builder.build(), &rules),
            ValidationError::Records {
                faults: vec![(1, RecordFault::NoKey), (3, RecordFault::NoKey)],
                total: 2,
                invalid_timestamp: false
            }
        );
    }
}

#[test]
fn the_faults_named_are_bounded_and_all_counted() {
    let rules = ValidationRules {
        compacted: true,
        ..ValidationRules::default()
    };
    let mut builder = BatchBuilder::uncompressed();
    for _ in 0..3000 {
        builder.append(NOW, None, None, &[]);
    }
    let ValidationError::Records { faults, total, .. } = refused(&builder.build(), &rules) else {
        panic!("refused for its records");
    };
    assert_eq!((faults.len(), total), (MAX_RECORD_FAULTS, 3000));
}

#[test]
fn a_create_time_lies_within_the_limits_or_is_none() {
    let rules = ValidationRules {
        timestamp_before_max_ms: 1000,
        timestamp_after_max_ms: 500,
        ..ValidationRules::default()
    };
    for codec in CODECS {
        let mut builder = BatchBuilder::new(Compression::of(codec));
        for difference in [-1000, 500, -1001, 501] {
            builder.append(Timestamp(NOW.0 + difference), None, None, &[]);
        }
        builder.append(Timestamp(-1), None, None, &[]);
        let fault = |difference: i64| RecordFault::TimestampOutOfRange {
            timestamp: Timestamp(NOW.0 + difference),
            from: Timestamp(NOW.0 - 1000),
            to: Timestamp(NOW.0 + 500),
        };
        assert_eq!(
            refused(&builder.build(), &rules),
            ValidationError::Records {
                faults: vec![(2, fault(-1001)), (3, fault(501))],
                total: 2,
                invalid_timestamp: true
            }
        );
        let broker = ValidationRules {
            timestamp_type: TimestampType::LogAppendTime,
            ..rules
        };
        assert!(check(&builder.build(), &broker).is_ok());
    }
}

#[test]
fn log_append_time_is_for_the_broker_to_say() {
    let batch = one(CompressionType::None)
        .timestamp_type(TimestampType::LogAppendTime)
        .build();
    let broker = ValidationRules {
        timestamp_type: TimestampType::LogAppendTime,
        ..ValidationRules::default()
    };
    assert_eq!(
        refused(&batch, &broker),
        ValidationError::Records {
            faults: vec![(0, RecordFault::LogAppendTime)],
            total: 1,
            invalid_timestamp: true
        }
    );
    // On a CreateTime topic the bit is taken back, as Kafka does.
    let (validated, bytes) = check(&batch, &ValidationRules::default()).unwrap();
    assert_eq!(validated.header.timestamp_type(), TimestampType::CreateTime);
    assert!(verify_crc(&bytes));
}

#[test]
fn a_wrong_max_timestamp_is_put_right() {
    let mut builder = BatchBuilder::uncompressed();
    for difference in [0, 30, 30, 10] {
        builder.append(Timestamp(NOW.0 + difference), None, None, &[]);
    }
    let batch = patched(&builder.build(), 35, &5i64.to_be_bytes());
    let (validated, bytes) = check(&batch, &ValidationRules::default()).unwrap();
    assert_eq!(validated.max_timestamp, Timestamp(NOW.0 + 30));
    assert_eq!(validated.offset_delta_of_max_timestamp, 1);
    assert_eq!(validated.header.max_timestamp, Timestamp(NOW.0 + 30));
    assert!(verify_crc(&bytes));
    assert_eq!(&bytes[..], builder.build());
}

#[test]
fn a_bomb_of_one_record_is_refused_with_little_memory() {
    let mut records = Vec::new();
    record::put_record(&mut records, 0, 0, None, Some(&vec![0; 8 << 20]), &[]);
    let rules = ValidationRules {
        max_decompressed_bytes: 1 << 20,
        ..ValidationRules::default()
    };
    for codec in &CODECS[1..] {
        assert_eq!(
            refused(&raw(*codec, 1, &records), &rules),
            ValidationError::Decompress(DecompressError::TooLarge { limit: 1 << 20 }),
            "{codec}"
        );
        // Within the limit a large record is no matter.
        assert!(check(&raw(*codec, 1, &records), &ValidationRules::default()).is_ok());
        // What does not fit when it is stored otherwise is refused, and not first written to its end.
        let uncompressed = ValidationRules {
            compression: Some(Compression::of(CompressionType::None)),
            ..ValidationRules::default()
        };
        let ValidationError::TooLarge { size, .. } =
            refused(&raw(*codec, 1, &records), &uncompressed)
        else {
            panic!("refused for its size");
        };
        assert!(size < 6 << 20, "{codec} wrote {size}");
    }
}

#[test]
fn headers_lie_across_chunks_too() {
    // 40,000 headers, a null among them, in records larger than a chunk.
    let headers: Vec<(&[u8], Option<&[u8]>)> = (0..40_000)
        .map(|i| (&b"name"[..], (i % 3 > 0).then_some(&b"val"[..])))
        .collect();
    let rules = ValidationRules::default();
    for codec in CODECS {
        let mut builder = BatchBuilder::new(Compression::of(codec));
        builder.append(NOW, None, None, &headers);
        builder.append(NOW, Some(b"k"), None, &headers);
        assert!(check(&builder.build(), &rules).is_ok(), "{codec}");
    }
    let mut records = Vec::new();
    let filler = vec![b'x'; 70_000];
    record::put_record(&mut records, 0, 0, None, Some(&filler), &[(b"h", None)]);
    let at = records.len() - 3;
    assert_eq!(records[at..], [2, b'h', 1]);
    records[at] = 1;
    for codec in &CODECS[1..] {
        assert!(matches!(
            refused(&raw(*codec, 1, &records), &rules),
            ValidationError::Malformed {
                error: RecordError::HeaderKey | RecordError::Surplus { .. } | RecordError::Short,
                ..
            }
        ));
    }
}

fn golden(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}

#[test]
fn what_kafkas_java_client_writes_is_read() {
    let plain = golden("java-none.batch");
    let plain_header = BatchHeader::parse(&plain).unwrap();
    for codec in CODECS {
        let batch = golden(&format!("java-{codec}.batch"));
        let (validated, bytes) = check(&batch, &ValidationRules::default()).unwrap();
        assert_eq!(&bytes[..], batch, "nothing to put right");
        let header = validated.header;
        assert_eq!(header.compression(), codec);
        assert_eq!(header.producer_id, ProducerId(4711));
        assert_eq!(header.producer_epoch, ProducerEpoch(3));
        assert_eq!(header.last_sequence(), 2);
        assert!(header.is_transactional() && !header.is_control());
        assert_eq!(validated.max_timestamp, Timestamp(1_700_000_000_005));
        assert_eq!(validated.offset_delta_of_max_timestamp, 1);

        let records = decompress(
            codec,
            &batch[BATCH_HEADER_SIZE..],
            &mut Scratch::new(),
            1 << 20,
        )
        .unwrap();
        assert!(records == plain[BATCH_HEADER_SIZE..]);
    }
    let records: Vec<_> = RecordIter::of_batch(&plain_header, &plain)
        .map(Result::unwrap)
        .collect();
    assert_eq!(records.len(), 5);
    assert_eq!(records[0].key, Some(&b"key"[..]));
    assert_eq!(records[1].key, None);
    let headers: Vec<_> = records[1].headers().map(|h| (h.key, h.value)).collect();
    assert_eq!(
        headers,
        [(&b"h"[..], Some(&b"v"[..])), (b"h", None), (b"", Some(b""))]
    );
    assert_eq!(records[2].timestamp, Timestamp(1_699_999_999_000));
    assert_eq!(records[2].value, None);
    assert_eq!(records[4].offset, Offset(4));
    assert_eq!(records[4].value.unwrap().len(), 96_000);
}

#[test]
fn the_builder_writes_what_kafkas_does() {
    let text = "0123456789abcdef".repeat(6000);
    let xs = [b'x'; 300];
    let mut builder = BatchBuilder::uncompressed().transactional().producer(
        ProducerId(4711),
        ProducerEpoch(3),
        i32::MAX - 1,
    );
    let at = |ms: i64| Timestamp(1_700_000_000_000 + ms);
    builder.append(at(0), Some(b"key"), Some(b"value"), &[]);
    builder.append(
        at(5),
        None,
        Some(b"no key"),
        &[(b"h", Some(b"v")), (b"h", None), (b"", Some(b""))],
    );
    builder.append(at(-1000), Some(b"tombstone"), None, &[]);
    builder.append(at(5), None, None, &[]);
    builder.append(
        at(1),
        Some(b""),
        Some(text.as_bytes()),
        &[("gr\u{fc}\u{df}e".as_bytes(), Some(&xs))],
    );
    assert!(builder.build() == golden("java-none.batch"));

    let marker = EndTxnMarker {
        outcome: TxnOutcome::Abort,
        coordinator_epoch: 9,
    };
    let mut batch = BatchBuilder::end_txn(ProducerId(4711), ProducerEpoch(3), &marker, at(0));
    let theirs = golden("java-abort-marker.batch");
    let header = BatchHeader::parse(&theirs).unwrap();
    assert_eq!(EndTxnMarker::of_batch(&header, &theirs), Ok(Some(marker)));
    assign(&mut batch, Offset(0), LeaderEpoch::NONE, None);
    assert_eq!(batch, theirs);
}

/// A record of any shape, as the builder takes it.
type Parts = (
    i64,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<(Vec<u8>, Option<Vec<u8>>)>,
);

fn parts() -> impl Strategy<Value = Parts> {
    let bytes = |most: usize| proptest::collection::vec(any::<u8>(), 0..most);
    let value = prop_oneof![
        8 => proptest::option::of(bytes(300)),
        1 => (any::<u8>(), 0..200_000usize).prop_map(|(b, n)| Some(vec![b; n])),
    ];
    (
        -1_000_000..1_000_000i64,
        proptest::option::of(bytes(40)),
        value,
        proptest::collection::vec((bytes(10), proptest::option::of(bytes(20))), 0..4),
    )
}

fn built(codec: CompressionType, records: &[Parts]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::of(codec));
    for (ms, key, value, headers) in records {
        let headers: Vec<_> = headers
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
            .collect();
        builder.append(
            Timestamp(NOW.0 + ms),
            key.as_deref(),
            value.as_deref(),
            &headers,
        );
    }
    builder
}

fn read_back(header: &BatchHeader, batch: &[u8]) -> Vec<Parts> {
    let bytes = decompress(
        header.compression(),
        &batch[BATCH_HEADER_SIZE..],
        &mut Scratch::new(),
        1 << 30,
    )
    .unwrap();
    RecordIter::new(header, &bytes)
        .enumerate()
        .map(|(i, record)| {
            let record = record.unwrap();
            assert_eq!(record.offset, header.base_offset.plus(i as i64));
            (
                record.timestamp.0 - NOW.0,
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                record
                    .headers()
                    .map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec)))
                    .collect(),
            )
        })
        .collect()
}

proptest! {
    #[test]
    fn what_was_built_is_valid_and_read_back_equal(
        records in proptest::collection::vec(parts(), 1..20),
    ) {
        let rules = ValidationRules { max_message_bytes: u32::MAX, ..ValidationRules::default() };
        for codec in CODECS {
            let batch = built(codec, &records).build();
            let (validated, mut bytes) = check(&batch, &rules).unwrap();
            prop_assert!(!validated.recompressed && bytes == batch);
            let max = records.iter().map(|r| r.0).max().unwrap();
            prop_assert_eq!(validated.max_timestamp, Timestamp(NOW.0 + max));
            assign(&mut bytes, Offset(100), LeaderEpoch(1), None);
            let header = BatchHeader::parse(&bytes).unwrap();
            prop_assert!(read_back(&header, &bytes) == records);
        }
    }

    #[test]
    fn recompression_keeps_every_record(
        records in proptest::collection::vec(parts(), 1..20),
        from in 0..5usize,
        to in 0..5usize,
    ) {
        let rules = ValidationRules {
            max_message_bytes: u32::MAX,
            compression: Some(Compression::of(CODECS[to])),
            ..ValidationRules::default()
        };
        let batch = built(CODECS[from], &records)
            .producer(ProducerId(3), ProducerEpoch(1), 17)
            .transactional()
            .build();
        let (validated, bytes) = check(&batch, &rules).unwrap();
        prop_assert_eq!(validated.recompressed, from != to);
        prop_assert_eq!(validated.header.compression(), CODECS[to]);
        prop_assert_eq!(validated.header.producer_id, ProducerId(3));
        prop_assert_eq!(validated.header.base_sequence, 17);
        prop_assert!(validated.header.is_transactional());
        prop_assert!(verify_crc(&bytes));
        prop_assert!(read_back(&validated.header, &bytes) == records);
        // What we wrote is valid in turn.
        prop_assert!(check(&bytes, &rules).is_ok());
    }

    #[test]
    fn no_mutation_or_truncation_panics(
        records in proptest::collection::vec(parts(), 1..6),
        codec in 0..5usize,
        to in 0..5usize,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
        what in 0..4u8,
    ) {
        let rules = ValidationRules {
            max_message_bytes: u32::MAX,
            max_decompressed_bytes: 4 << 20,
            compression: (to > 0).then(|| Compression::of(CODECS[to])),
            ..ValidationRules::default()
        };
        let mut batch = built(CODECS[codec], &records).build();
        if what & 1 == 0 {
            for (at, value) in &edits {
                let at = at.index(batch.len());
                batch[at] = *value;
            }
        }
        if what & 2 == 0 {
            batch.truncate(cut.index(batch.len()) + 1);
        }
        let _ = check(&batch, &rules);
        // Again with a length and a CRC that fit, so that what lies behind them is reached.
        if batch.len() >= BATCH_HEADER_SIZE {
            batch[..8].fill(0);
            batch[16] = 2;
            seal(&mut batch);
            let _ = check(&batch, &rules);
            if let Ok(header) = BatchHeader::parse(&batch) {
                for record in RecordIter::of_batch(&header, &batch) {
                    let Ok(record) = record else { break };
                    prop_assert!(record.headers().count() <= batch.len());
                }
                let _ = EndTxnMarker::of_batch(&header, &batch);
            }
        }
    }
}
