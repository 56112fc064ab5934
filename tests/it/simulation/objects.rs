//! Objects of made-up backups, and WAL.

use walkeep::codec::compress::{Compression, Compressor};
use walkeep::codec::envelope::{ObjectKind, seal};
use walkeep::codec::hash::ContentHash;
use walkeep::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use walkeep::repo::Archive;
use walkeep::repo::packset::PackSet;
use walkeep::repo::record::Record;

/// The name of a backup by its number.
pub fn id(number: u64) -> String {
    format!("20260101T000000Z-{number:06x}")
}

fn segment_size() -> SegmentSize {
    SegmentSize::try_from(1 << 20).expect("a segment size")
}

fn segment(number: u64) -> SegmentName {
    SegmentName::of_number(TimelineId(1), number, segment_size())
}

/// Stores segments 1 to `last`.
pub fn store_wal(archive: &Archive, last: u64) {
    for number in 1..=last {
        let name = WalName::Segment(segment(number));
        let header = archive.header(ObjectKind::Wal, name.to_string());
        let mut compressor = Compressor::new(Compression::Stored).expect("a compressor");
        let object = seal(header, b"a segment", &mut compressor).expect("an object");
        let _ = archive.put_wal(name, &object).expect("store a segment");
    }
}

/// The one manifest part of a backup: nothing reads it here, its presence and size are what counts.
pub fn manifest(id: &str) -> Vec<u8> {
    format!("the manifest of {id}\n").into_bytes()
}

/// The record of backup `number`, which begins and ends in the segment of that number.
pub fn record(id: &str, number: u64, packs: PackSet, manifest: &[u8]) -> Record {
    let wal = segment(number);
    let start = wal.start(segment_size()).0;
    let mut record: Record = serde_json::from_value(serde_json::json!({
        "id": id,
        "state": "complete",
        "start_time": "2026-01-01T00:00:00Z",
        "stop_time": "2026-01-01T00:00:01Z",
        "start_lsn": walkeep::pg::lsn::Lsn(start + 40),
        "stop_lsn": walkeep::pg::lsn::Lsn(start + 4000),
        "timeline": 1,
        "system_identifier": super::LINEAGE.system_identifier.to_string(),
        "pg_version": "17.0",
        "size": 0, "stored": 0, "new_bytes": 0, "files": 0,
        "parent": null,
        "manifest": [{
            "key": format!("data/{id}/manifest/000001"),
            "size": manifest.len(),
            "sha256": ContentHash::of(manifest),
        }],
        "segment_size": 1 << 20,
        "wal": {"first": wal, "last": wal},
        "settings": {
            "time_zone": "UTC", "block_size": 8192, "data_checksums": true,
            "data_directory": "/d", "config_file": "/d/postgresql.conf", "from_standby": false,
        },
    }))
    .expect("a record");
    record.packs = Some(packs);
    record
}
