//! Properties of parsers and hashes on random input, about 200 ms each.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};
use walkeep::codec::compress::{Compression, Compressor};
use walkeep::codec::envelope::{Content, HEADER_SIZE, Header, ObjectKind, seal};
use walkeep::codec::hash::{ContentHash, Hasher, LANES};
use walkeep::error::Kind;
use walkeep::pg::conninfo::{mask, pairs_with_spans};
use walkeep::pg::lsn::Lsn;
use walkeep::pg::record::{RecordScan, Tail};
use walkeep::pg::wal::SegmentHeader;

const TIME: Duration = Duration::from_millis(200);

/// Runs `check` on values of `strategy` for [`TIME`], and reports the smallest value that fails.
fn holds<S: Strategy>(strategy: S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { failure_persistence: None, cases: 1, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        runner.run(&strategy, &check).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

fn bytes(length: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), length)
}

fn hash_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn side_by_side_hashes_are_those_of_the_library_for_every_length_and_number() {
    for count in 1..=LANES + 2 {
        for rest in 0..64 {
            let contents: Vec<Vec<u8>> = (0..count)
                .map(|lane| (0..rest + 64 * lane).map(|at| (at * 31 + lane) as u8).collect())
                .collect();
            let mut hashers = vec![Hasher::default(); count];
            Hasher::update_together(hashers.iter_mut().zip(contents.iter().map(Vec::as_slice)));
            for (hasher, content) in hashers.into_iter().zip(&contents) {
                assert_eq!(
                    hasher.finish().to_string(),
                    hash_of(content),
                    "{count} lanes, {} bytes",
                    content.len()
                );
            }
        }
    }
}

#[test]
fn side_by_side_hashes_are_those_of_the_library_however_contents_are_divided() {
    // Rounds of pieces, one for each content.
    let rounds = (1..=LANES + 2).prop_flat_map(|count| {
        prop::collection::vec(prop::collection::vec(bytes(0..200), count..=count), 1..5)
    });
    holds(rounds, |rounds| {
        let count = rounds[0].len();
        let mut hashers = vec![Hasher::default(); count];
        let mut contents = vec![Vec::new(); count];
        for round in &rounds {
            Hasher::update_together(hashers.iter_mut().zip(round.iter().map(Vec::as_slice)));
            contents.iter_mut().zip(round).for_each(|(content, piece)| content.extend_from_slice(piece));
        }
        for (hasher, content) in hashers.into_iter().zip(&contents) {
            prop_assert_eq!(hasher.finish().to_string(), hash_of(content));
        }
        Ok(())
    });
}

const PASSWORD: &str = "hunter2";

#[test]
fn a_masked_connection_string_never_contains_the_password_and_nothing_else_changes() {
    let value = r"[a-z/ '\\%@:=&?]{0,6}";
    let words =
        (prop::sample::select(vec!["password", "sslpassword", "PASSWORD"]), value, value, any::<bool>())
            .prop_map(|(keyword, host, around, spaces)| {
                let quote = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
                let equals = if spaces { " = " } else { "=" };
                let secret = quote(&format!("{around}{PASSWORD}{around}"));
                format!("host{equals}{} {keyword}{equals}{secret} user=u", quote(&host))
            });
    let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let uri = (value, "[a-z]{1,4}", any::<bool>()).prop_map(move |(around, host, login)| {
        let secret = format!("{}{PASSWORD}{}", percent(&around), percent(&around));
        match login {
            true => format!("postgresql://u:{secret}@{host}:1,{host}/db?sslmode=prefer"),
            false => format!("postgres://{host}/db?user=u&password={secret}&sslmode=prefer"),
        }
    });
    holds(prop_oneof![words, uri], |text| {
        let masked = mask(&text, "********").unwrap().unwrap();
        prop_assert!(!masked.contains(PASSWORD), "{masked}");
        let (before, after) = (pairs_with_spans(&text).unwrap(), pairs_with_spans(&masked).unwrap());
        prop_assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            prop_assert_eq!(&before.keyword, &after.keyword);
            let is_secret = before.value.contains(PASSWORD);
            prop_assert_eq!(after.value.as_str(), if is_secret { "********" } else { &before.value });
        }
        Ok(())
    });
}

#[test]
fn any_text_is_a_connection_string_or_an_error_without_its_values() {
    let noise = prop_oneof![
        r"[a-z=' \\]{0,30}",
        r"postgres://[a-z:@/?&=%,\[\]0-9]{0,30}",
        any::<String>().prop_map(|text| text.replace(PASSWORD, "")),
    ];
    holds(noise, |text| {
        let secret = format!("password={PASSWORD} {text}");
        for text in [text.clone(), secret, format!("postgres://u:{PASSWORD}@{text}")] {
            match pairs_with_spans(&text) {
                Ok(pairs) => {
                    for pair in pairs {
                        prop_assert!(text.get(pair.span).is_some());
                    }
                    if let Some(masked) = mask(&text, "***").unwrap() {
                        prop_assert!(!masked.contains(PASSWORD), "{masked}");
                    }
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), Kind::Config);
                    let shown = format!("{error} {:?}", error.advice());
                    prop_assert!(!shown.contains(PASSWORD), "{shown}");
                }
            }
        }
        Ok(())
    });
}

/// Bytes of a segment: small, so that many are tried.
const SEGMENT: usize = 64 << 10;
const PAGE: usize = 8192;

/// A segment full of records with correct CRCs, some of which span pages.
fn segment(lengths: &[usize]) -> Vec<u8> {
    let address: u64 = 1 << 24;
    let mut bytes = Vec::new();
    let mut pending: Vec<u8> = Vec::new();
    let mut lengths = lengths.iter().cycle();
    while bytes.len() < SEGMENT {
        let at = bytes.len();
        if at.is_multiple_of(PAGE) {
            let is_first = at == 0;
            let flags = u16::from(!pending.is_empty()) | if is_first { 2 } else { 0 };
            bytes.extend_from_slice(&0xD110u16.to_le_bytes());
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&1u32.to_le_bytes());
            bytes.extend_from_slice(&(address + at as u64).to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(pending.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            if is_first {
                bytes.extend_from_slice(&7u64.to_le_bytes());
                bytes.extend_from_slice(&(1u32 << 20).to_le_bytes());
                bytes.extend_from_slice(&u32::try_from(PAGE).unwrap().to_le_bytes());
            }
        }
        if pending.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            if bytes.len().is_multiple_of(PAGE) {
                continue;
            }
            pending = record(*lengths.next().unwrap());
        }
        let room = PAGE - bytes.len() % PAGE;
        let step = pending.len().min(room);
        bytes.extend(pending.drain(..step));
        if pending.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
    }
    bytes.truncate(SEGMENT);
    bytes
}

/// A commit with `length` bytes of main data.
fn record(length: usize) -> Vec<u8> {
    let length = length.max(8);
    let mut record = vec![0; 24];
    record[17] = 1;
    record.push(254);
    record.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    record.extend((0..length).map(|at| if at < 8 { 1 } else { at as u8 }));
    let total = u32::try_from(record.len()).unwrap();
    record[..4].copy_from_slice(&total.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    record
}

#[test]
fn a_damaged_segment_never_panics_and_never_reads_for_ever() {
    let whole = segment(&[8, 100, 9000, 20_000, 31]);
    assert!(Tail::before(&whole, Lsn(u64::MAX)).last_transaction.is_some(), "the segment is read at all");
    let flips = prop::collection::vec((0..SEGMENT, any::<u8>()), 0..8);
    let headers = prop::collection::vec((0..80usize, any::<u8>()), 0..4);
    holds(
        (flips, headers, 0..=SEGMENT, prop::collection::vec(8..30_000usize, 1..6)),
        |(flips, headers, end, lengths)| {
            let mut bytes = segment(&lengths);
            for (at, byte) in flips.into_iter().chain(headers) {
                bytes[at] = byte;
            }
            let mut scan = RecordScan::default();
            let mut found = 0;
            for part in [&bytes[..], &bytes[..end], &bytes[end / PAGE * PAGE..]] {
                let _ = SegmentHeader::parse(part);
                let _ = Tail::before(part, Lsn(u64::MAX));
                scan.segment(part, |_| found += 1);
            }
            // A record takes 24 bytes at least.
            prop_assert!(found <= 3 * SEGMENT / 24);
            Ok(())
        },
    );
}

fn header() -> impl Strategy<Value = Header> {
    let kind = prop::sample::select(vec![
        ObjectKind::Wal,
        ObjectKind::Pack,
        ObjectKind::Manifest,
        ObjectKind::GivenUp,
    ]);
    let name = r#"[0-9A-Za-z/."\\é-]{0,40}"#;
    (
        kind,
        name,
        any::<u64>(),
        any::<u32>(),
        any::<Option<u64>>(),
        any::<Option<u8>>(),
        prop::option::of(name),
    )
        .prop_map(|(kind, name, system_identifier, pg, size, sha256, base)| Header {
            walkeep: 1,
            kind,
            name,
            system_identifier,
            pg,
            size,
            sha256: sha256.map(|byte| ContentHash::of(&[byte])),
            base,
            cipher: None,
        })
}

#[test]
fn a_header_is_decoded_as_it_was_encoded() {
    holds(header(), |header| {
        let bytes = header.encode().unwrap();
        prop_assert_eq!(Header::decode(&bytes).unwrap(), header);
        Ok(())
    });
}

#[test]
fn arbitrary_bytes_are_an_error_and_not_a_header() {
    let damaged =
        (header(), prop::collection::vec((0..HEADER_SIZE, any::<u8>()), 1..4)).prop_map(|(header, flips)| {
            let mut bytes = header.encode().unwrap().to_vec();
            flips.into_iter().for_each(|(at, byte)| bytes[at] = byte);
            bytes
        });
    holds(prop_oneof![bytes(0..600), damaged], |bytes| {
        // Damage inside of a text may give another header, but it is never a panic.
        match Header::decode(&bytes) {
            Ok(_) => prop_assert!(bytes.starts_with(&[0x57, 0x2A, 0x4D, 0x18])),
            Err(error) => prop_assert!(matches!(error.kind(), Kind::Damage | Kind::Refused)),
        }
        Ok(())
    });
}

#[test]
fn a_content_is_read_back_or_is_an_error() {
    let flip = prop::option::of((0..4096usize, 1..=255u8));
    holds((bytes(0..3000), flip, any::<bool>()), |(content, flip, stored)| {
        let compression = if stored { Compression::Stored } else { Compression::Zstd(1) };
        let header = Header {
            walkeep: 1,
            kind: ObjectKind::Wal,
            name: "x".into(),
            system_identifier: 7,
            pg: 15,
            size: None,
            sha256: None,
            base: None,
            cipher: None,
        };
        let mut object = seal(header, &content, &mut Compressor::new(compression).unwrap()).unwrap();
        let flip = flip.filter(|(at, _)| *at < object.len());
        if let Some((at, byte)) = flip {
            object[at] ^= byte;
        }
        let read = || Content::open(&object[..])?.read_all(1 << 20);
        match (read(), Content::open(&object[..]).and_then(|content| content.read(|_, _| Ok(())))) {
            (Ok((_, read)), Ok(_)) => prop_assert_eq!(read, content),
            (Err(_), Err(_)) => prop_assert!(flip.is_some()),
            (one, other) => prop_assert!(false, "{one:?} {other:?}"),
        }
        Ok(())
    });
}
