//! `global/pg_control`. Source: PostgreSQL's `catalog/pg_control.h`.

use super::bytes::{u32_at, u64_at};
use super::{lsn::Lsn, segment::TimelineId, version::check_control_version};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use std::path::{Path, PathBuf};

/// Size of the file in bytes; the structure takes less than one sector, and the rest is zero.
pub const FILE_SIZE: usize = 8192;

/// Possible offsets of the CRC, the last field of the structure, whose length differs between major
/// versions.
const CRC_OFFSETS: std::ops::Range<usize> = 200..512;

/// Offsets of fields that are the same in every supported major version.
const SYSTEM_IDENTIFIER: usize = 0;
const VERSION: usize = 8;
const CATALOG_VERSION: usize = 12;
const STATE: usize = 16;
/// `checkPoint`, with `checkPointCopy` behind it, which begins with `redo` and `ThisTimeLineID`.
const CHECKPOINT: usize = 32;
const REDO: usize = CHECKPOINT + 8;
const TIMELINE: usize = CHECKPOINT + 16;
/// Offsets of fields behind `checkPointCopy`, up to PostgreSQL 18.
const MIN_RECOVERY_POINT: usize = 136;
/// `minRecoveryPointTLI`.
const MIN_RECOVERY_TIMELINE: usize = MIN_RECOVERY_POINT + 8;
/// `MaxConnections`, the first of five settings of four bytes.
const MIN_SETTINGS: usize = 180;
/// Version of the structure with which `checkPointCopy` grew: PostgreSQL 19 has
/// `logicalDecodingEnabled` in it.
const GROWN_CHECKPOINT: u32 = 1905;
/// Bytes by which it grew.
const CHECKPOINT_GROWTH: usize = 8;

/// Names of the settings at [`MIN_SETTINGS`], in their order.
const SETTING_NAMES: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// `DB_SHUTDOWNED_IN_RECOVERY`, `DB_IN_ARCHIVE_RECOVERY` and `DB_IN_PRODUCTION` of `DBState`.
const SHUT_DOWN_IN_RECOVERY: u32 = 2;
const IN_ARCHIVE_RECOVERY: u32 = 5;
const IN_PRODUCTION: u32 = 6;

/// Checkpoint location at which no server finds a record: a restored cluster whose backup label was
/// removed then refuses to start, instead of starting with corrupt data.
const NO_CHECKPOINT: u64 = 0xDEAD;

/// Maximum number of reads of the file until its CRC is correct: the server may be writing the
/// file.
const MAX_READS: u32 = 20;
/// Pause between two reads.
const READ_INTERVAL: std::time::Duration = std::time::Duration::from_millis(10);

/// Copy of `pg_control` with a correct CRC.
#[derive(Debug, Clone)]
pub struct Control {
    bytes: Vec<u8>,
    crc_offset: usize,
    system_identifier: u64,
    version: u32,
    catalog_version: u32,
    state: u32,
    redo: Lsn,
    timeline: TimelineId,
    min_recovery_point: Lsn,
    min_recovery_timeline: TimelineId,
    min_settings: [(&'static str, u32); 5],
}

impl Control {
    /// Checks the size and the CRC of a copy, and decodes it.
    ///
    /// # Errors
    ///
    /// `Damage` for a wrong size or CRC, `Refused` for a version of the structure that is not
    /// supported.
    pub fn parse(bytes: Vec<u8>) -> Result<Control> {
        let damaged = |what: &str| Error::new(Kind::Damage, format!("pg_control {what}"));
        if bytes.len() != FILE_SIZE {
            return Err(damaged(&format!("has {} bytes instead of {FILE_SIZE}", bytes.len())));
        }
        let crc_offset = crc_offset(&bytes).ok_or_else(|| damaged("has a wrong checksum"))?;
        let outside = || Error::defect("a field outside of pg_control");
        let number = |offset| u32_at(&bytes, offset).ok_or_else(outside);
        let long = |offset| u64_at(&bytes, offset).ok_or_else(outside);
        let version = number(VERSION)?;
        check_control_version(version)?;
        let shift = if version >= GROWN_CHECKPOINT { CHECKPOINT_GROWTH } else { 0 };
        let mut min_settings = SETTING_NAMES.map(|name| (name, 0));
        for (index, (_, value)) in min_settings.iter_mut().enumerate() {
            *value = number(MIN_SETTINGS + shift + 4 * index)?;
        }
        Ok(Control {
            crc_offset,
            system_identifier: long(SYSTEM_IDENTIFIER)?,
            version,
            catalog_version: number(CATALOG_VERSION)?,
            state: number(STATE)?,
            redo: Lsn(long(REDO)?),
            timeline: TimelineId(number(TIMELINE)?),
            min_recovery_point: Lsn(long(MIN_RECOVERY_POINT + shift)?),
            min_recovery_timeline: TimelineId(number(MIN_RECOVERY_TIMELINE + shift)?),
            min_settings,
            bytes,
        })
    }

    /// Reads `global/pg_control` of a data directory. A running server may be writing it, so a copy
    /// with a wrong CRC is read again, for about a fifth of a second at most.
    ///
    /// # Errors
    ///
    /// Those of [`Control::parse`] and of the operating system.
    pub fn read(pgdata: &Path) -> Result<Control> {
        let path = Control::path(pgdata);
        let mut attempt = 1;
        loop {
            let bytes = named::read(&path, 2 * FILE_SIZE as u64)?.ok_or_else(|| named::missing(&path))?;
            match Control::parse(bytes) {
                Err(error) if error.kind() == Kind::Damage && attempt < MAX_READS => attempt += 1,
                result => return result.doing(|| format!("read {}", path.display())),
            }
            std::thread::sleep(READ_INTERVAL);
        }
    }

    /// Path of the file in a data directory.
    pub fn path(pgdata: &Path) -> PathBuf {
        pgdata.join("global/pg_control")
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn system_identifier(&self) -> u64 {
        self.system_identifier
    }

    /// Version of the structure; see [`super::version::VERSIONS`].
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Catalog version, which is part of the names of tablespaces' directories.
    pub fn catalog_version(&self) -> u32 {
        self.catalog_version
    }

    /// Redo location of the latest checkpoint.
    pub fn redo(&self) -> Lsn {
        self.redo
    }

    /// Timeline of the latest checkpoint.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Timeline on which the server is, or was when it stopped: that of the latest checkpoint, or
    /// that of the minimum recovery point if it is later. A promotion writes the new timeline there
    /// before its first checkpoint (`InitWalRecovery` in `xlogrecovery.c`).
    pub fn latest_timeline(&self) -> TimelineId {
        self.timeline.max(self.min_recovery_timeline)
    }

    /// Minimum values of the settings that a server needs to replay this cluster's WAL, with their
    /// names.
    pub fn least_settings(&self) -> [(&'static str, u32); 5] {
        self.min_settings
    }

    /// Whether the server runs, or was killed: neither shut down nor in recovery.
    pub fn is_in_production(&self) -> bool {
        self.state == IN_PRODUCTION
    }

    /// Whether the server recovers from an archive or as a standby, or was killed then.
    pub fn is_in_archive_recovery(&self) -> bool {
        self.state == IN_ARCHIVE_RECOVERY
    }

    /// Whether the server was shut down during recovery, which `recovery_target_action` may cause.
    pub fn is_shut_down_in_recovery(&self) -> bool {
        self.state == SHUT_DOWN_IN_RECOVERY
    }

    /// Position up to which recovery has written; zero outside of recovery.
    pub fn min_recovery_point(&self) -> Lsn {
        self.min_recovery_point
    }

    /// Replaces the checkpoint location by one without a checkpoint record, for a restored
    /// directory.
    #[must_use]
    #[allow(
        clippy::indexing_slicing,
        reason = "both fields lie inside of FILE_SIZE bytes, which parse has checked"
    )]
    pub fn without_checkpoint(mut self) -> Control {
        self.bytes[CHECKPOINT..CHECKPOINT + 8].copy_from_slice(&NO_CHECKPOINT.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[..self.crc_offset]);
        self.bytes[self.crc_offset..self.crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
        self
    }
}

/// Finds the offset of the CRC: the first offset at which the CRC of all bytes before it is stored.
fn crc_offset(bytes: &[u8]) -> Option<usize> {
    let mut crc = crc32c::crc32c(bytes.get(..CRC_OFFSETS.start)?);
    for offset in CRC_OFFSETS.step_by(4) {
        if crc == u32_at(bytes, offset)? {
            return Some(offset);
        }
        crc = crc32c::crc32c_append(crc, bytes.get(offset..offset + 4)?);
    }
    None
}
