//! `global/pg_control`. Source: PostgreSQL's `catalog/pg_control.h`.

use super::{lsn::Lsn, segment::TimelineId};
use crate::error::{Doing, Error, Kind, Result};
use std::path::Path;

/// Bytes of the file; the structure takes less than one sector of it, the rest is zero.
pub const FILE_SIZE: usize = 8192;

/// Where the structure can end: its CRC is its last field, and its length differs between majors.
const CRC_OFFSETS: std::ops::Range<usize> = 200..512;

/// Where `checkPoint` lies, in every supported major.
const CHECKPOINT: usize = 32;

/// Where `state`, `minRecoveryPoint` and `MaxConnections` with the four behind it lie, in every supported major.
const STATE: usize = 16;
const MIN_RECOVERY_POINT: usize = 136;
const LEAST_SETTINGS: usize = 180;

/// `DB_SHUTDOWNED_IN_RECOVERY` and `DB_IN_PRODUCTION`.
const SHUT_DOWN_IN_RECOVERY: u32 = 2;
const IN_PRODUCTION: u32 = 6;

/// A checkpoint location that no server can find a record at: a restored cluster whose backup label is
/// taken away then refuses to start, instead of starting with corrupt data.
const NO_CHECKPOINT: u64 = 0xDEAD;

/// Times that a file which the server may be writing is read again before its CRC is believed.
const ATTEMPTS: u32 = 20;

/// A copy of `pg_control` whose CRC was right.
#[derive(Debug, Clone)]
pub struct Control {
    bytes: Vec<u8>,
    crc_offset: usize,
}

impl Control {
    pub fn parse(bytes: Vec<u8>) -> Result<Control> {
        let damaged = |what: &str| Err(Error::new(Kind::Damage, format!("pg_control {what}")));
        if bytes.len() != FILE_SIZE {
            return damaged(&format!("has {} bytes instead of {FILE_SIZE}", bytes.len()));
        }
        let mut crc = crc32c::crc32c(&bytes[..CRC_OFFSETS.start]);
        for offset in CRC_OFFSETS.step_by(4) {
            if crc == u32::from_le_bytes(array(&bytes, offset)) {
                return Ok(Control { bytes, crc_offset: offset });
            }
            crc = crc32c::crc32c_append(crc, &bytes[offset..offset + 4]);
        }
        damaged("has a wrong checksum")
    }

    /// Reads `global/pg_control` of a data directory. A running server may be writing it, so a copy
    /// with a wrong CRC is read again, for about a fifth of a second at most.
    pub fn read(pgdata: &Path) -> Result<Control> {
        let path = pgdata.join("global/pg_control");
        let mut attempt = 1;
        loop {
            let bytes = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
            match Control::parse(bytes) {
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                result => return result.doing(|| format!("read {}", path.display())),
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn system_identifier(&self) -> u64 {
        u64::from_le_bytes(array(&self.bytes, 0))
    }

    /// 1300 for PostgreSQL 15 and 16, 1700 for 17, 1800 for 18.
    pub fn version(&self) -> u32 {
        u32::from_le_bytes(array(&self.bytes, 8))
    }

    /// Part of the names of tablespaces' directories.
    pub fn catalog_version(&self) -> u32 {
        u32::from_le_bytes(array(&self.bytes, 12))
    }

    /// Redo location of the latest checkpoint.
    pub fn redo(&self) -> Lsn {
        Lsn(u64::from_le_bytes(array(&self.bytes, CHECKPOINT + 8)))
    }

    /// Timeline of the latest checkpoint.
    pub fn timeline(&self) -> TimelineId {
        TimelineId(u32::from_le_bytes(array(&self.bytes, CHECKPOINT + 16)))
    }

    /// What a server that replays this cluster's WAL needs at least, by the names of the settings.
    pub fn least_settings(&self) -> [(&'static str, u32); 5] {
        let number = |at| u32::from_le_bytes(array(&self.bytes, at));
        [
            ("max_connections", number(LEAST_SETTINGS)),
            ("max_worker_processes", number(LEAST_SETTINGS + 4)),
            ("max_wal_senders", number(LEAST_SETTINGS + 8)),
            ("max_prepared_transactions", number(LEAST_SETTINGS + 12)),
            ("max_locks_per_transaction", number(LEAST_SETTINGS + 16)),
        ]
    }

    /// Whether the server runs, or was killed: neither shut down nor in recovery.
    pub fn is_in_production(&self) -> bool {
        u32::from_le_bytes(array(&self.bytes, STATE)) == IN_PRODUCTION
    }

    /// Whether it was shut down in the middle of recovery, as `recovery_target_action` may say.
    pub fn is_shut_down_in_recovery(&self) -> bool {
        u32::from_le_bytes(array(&self.bytes, STATE)) == SHUT_DOWN_IN_RECOVERY
    }

    /// Up to where recovery has written; zero outside of recovery.
    pub fn min_recovery_point(&self) -> Lsn {
        Lsn(u64::from_le_bytes(array(&self.bytes, MIN_RECOVERY_POINT)))
    }

    /// The same file with a checkpoint location that leads nowhere, for a restored directory.
    pub fn without_checkpoint(mut self) -> Control {
        self.bytes[CHECKPOINT..CHECKPOINT + 8].copy_from_slice(&NO_CHECKPOINT.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[..self.crc_offset]);
        self.bytes[self.crc_offset..self.crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
        self
    }
}

/// `N` bytes at `offset`; zero where the input is too short, which callers have ruled out.
pub(super) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..offset + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}
