//! Meanings of WAL records, as far as this program needs them. Source: PostgreSQL's `xlogrecord.h`
//! (headers before the data), `xlog_internal.h` and `pg_control.h` (resource manager XLOG), `xact.h`,
//! `dbcommands_xlog.h` and `tablespace.h`. The layouts are those of PostgreSQL 15 to 19; they differ
//! in one place, the dropped statistics of a transaction.

use super::{INFO, RECORD_HEADER, RESOURCE_MANAGER, XID};
use crate::pg::bytes::{array_at, u16_at, u32_at, u64_at};
use crate::pg::lsn::Lsn;
use crate::pg::segment::TimelineId;
use jiff::Timestamp;

/// Resource managers (`rmgrlist.h`).
const XLOG: u8 = 0;
const TRANSACTIONS: u8 = 1;
const DATABASES: u8 = 4;
const TABLESPACES: u8 = 5;

/// Bits of the info that a resource manager uses (`XLR_RMGR_INFO_MASK`).
const KIND: u8 = 0xF0;

/// Kinds of records of the resource manager XLOG (`pg_control.h`).
const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const SWITCH: u8 = 0x40;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const FPW_CHANGE: u8 = 0x80;
const END_OF_RECOVERY: u8 = 0x90;
const OVERWRITE_CONTRECORD: u8 = 0xD0;
const CHECKPOINT_REDO: u8 = 0xE0;

/// Kinds of records of transactions in the bits of `XLOG_XACT_OPMASK`, and the bit for a field with
/// flags (`XLOG_XACT_HAS_INFO`).
const OPERATION: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const HAS_FLAGS: u8 = 0x80;

/// Flags of a transaction's end (`XACT_XINFO_…`), and the bytes of one item of each list.
const HAS_DATABASE: u32 = 1;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;
const DATABASE: usize = 8;
const SUBTRANSACTION: usize = 4;
const RELATION: usize = 12;
const INVALIDATION: usize = 16;

/// Kinds of records of databases and tablespaces.
const CREATE_FILE_COPY: u8 = 0x00;
const CREATE_WAL_LOG: u8 = 0x10;
const DROP_DATABASE: u8 = 0x20;
const CREATE_TABLESPACE: u8 = 0x00;
const DROP_TABLESPACE: u8 = 0x10;

/// Maximum length of a restore point's name with its zero byte (`MAXFNAMELEN`).
const MAX_NAME: usize = 64;

/// Ids of the headers before a record's data (`XLR_BLOCK_ID_…`); smaller ones are of blocks.
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOPLEVEL_XID: u8 = 252;
const MAX_BLOCK: u8 = 32;
/// Flags of a block (`BKPBLOCK_…`), and of its image (`BKPIMAGE_…`).
const HAS_IMAGE: u8 = 0x10;
const SAME_RELATION: u8 = 0x80;
const HAS_HOLE: u8 = 0x01;
const COMPRESSED: u8 = 0x1C;

/// 2000-01-01, the epoch of PostgreSQL's timestamps, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;

/// Settings that replay depends on, as `XLOG_PARAMETER_CHANGE` has them. A server that replays the
/// record as a hot standby needs at least the first five (`CheckRequiredParameterValues` in
/// `xlogrecovery.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
    /// `WalLevel`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    pub wal_log_hints: bool,
    pub track_commit_timestamp: bool,
}

impl Parameters {
    /// Settings with which a server can replay WAL that was written under either.
    #[must_use]
    pub fn max(self, other: Parameters) -> Parameters {
        Parameters {
            max_connections: self.max_connections.max(other.max_connections),
            max_worker_processes: self.max_worker_processes.max(other.max_worker_processes),
            max_wal_senders: self.max_wal_senders.max(other.max_wal_senders),
            max_prepared_transactions: self.max_prepared_transactions.max(other.max_prepared_transactions),
            max_locks_per_transaction: self.max_locks_per_transaction.max(other.max_locks_per_transaction),
            wal_level: self.wal_level.max(other.wal_level),
            wal_log_hints: self.wal_log_hints | other.wal_log_hints,
            track_commit_timestamp: self.track_commit_timestamp | other.track_commit_timestamp,
        }
    }

    /// The five settings of which replay needs at least these values, with their names in the
    /// configuration.
    pub fn least_settings(&self) -> [(&'static str, u32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }
}

/// Commit or abort, also of a prepared transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Transaction id that `recovery_target_xid` is compared with: of the prepared transaction, or
    /// of the top-level transaction (`recoveryStopsBefore` in `xlogrecovery.c`).
    pub xid: u32,
    pub time: Timestamp,
    pub is_commit: bool,
}

/// Meaning of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    TransactionEnd(Ending),
    /// Creation of a tablespace; its replay creates a link to `location`, which is empty for one
    /// inside of the data directory.
    Tablespace {
        oid: u32,
        location: Vec<u8>,
    },
    TablespaceDrop {
        oid: u32,
    },
    /// Creation of a database. `copied_from` is the database whose files replay copies; `None` when
    /// its content is in the WAL (`XLOG_DBASE_CREATE_WAL_LOG`).
    Database {
        oid: u32,
        tablespace: u32,
        copied_from: Option<u32>,
    },
    DatabaseDrop {
        oid: u32,
    },
    /// Settings after a start of the server with other ones.
    Parameters(Parameters),
    /// Checkpoint; recovery from it begins at `redo`.
    Checkpoint {
        redo: Lsn,
        timeline: TimelineId,
        is_shutdown: bool,
    },
    /// Redo point of an online checkpoint that follows (PostgreSQL 17 and later).
    CheckpointRedo,
    /// End of a backup of a primary that began at `start`.
    BackupEnd {
        start: Lsn,
    },
    /// First record of a new timeline after a promotion.
    EndOfRecovery {
        timeline: TimelineId,
        previous: TimelineId,
        time: Timestamp,
    },
    RestorePoint {
        name: Vec<u8>,
        time: Timestamp,
    },
    FullPageWrites(bool),
    /// First record behind a record that was never completed; recovery skips that one.
    OverwriteContrecord {
        aborted: Lsn,
    },
    /// End of the segment ahead of time.
    Switch,
    /// Anything else, and records of a form that PostgreSQL does not write.
    Other,
}

impl Meaning {
    /// Decodes a record that is complete and has a correct CRC. `major` is the version of the server
    /// that wrote it.
    pub(super) fn of(record: &[u8], major: u32) -> Meaning {
        let decoded = || {
            let (info, manager) = (*record.get(INFO)?, *record.get(RESOURCE_MANAGER)?);
            match manager {
                XLOG => xlog(info & KIND, record),
                TRANSACTIONS => transaction_end(info, record, major).map(Meaning::TransactionEnd),
                DATABASES => database(info & KIND, main_data(record)?),
                TABLESPACES => tablespace(info & KIND, main_data(record)?),
                _ => None,
            }
        };
        decoded().unwrap_or(Meaning::Other)
    }
}

fn xlog(kind: u8, record: &[u8]) -> Option<Meaning> {
    // Full-page images, the most frequent records of this manager, are not examined.
    let data = || main_data(record);
    Some(match kind {
        CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE => Meaning::Checkpoint {
            redo: Lsn(u64_at(data()?, 0)?),
            timeline: TimelineId(u32_at(data()?, 8)?),
            is_shutdown: kind == CHECKPOINT_SHUTDOWN,
        },
        SWITCH => Meaning::Switch,
        BACKUP_END => Meaning::BackupEnd { start: Lsn(u64_at(data()?, 0)?) },
        PARAMETER_CHANGE => {
            let data = data()?;
            Meaning::Parameters(Parameters {
                max_connections: u32_at(data, 0)?,
                max_worker_processes: u32_at(data, 4)?,
                max_wal_senders: u32_at(data, 8)?,
                max_prepared_transactions: u32_at(data, 12)?,
                max_locks_per_transaction: u32_at(data, 16)?,
                wal_level: u32_at(data, 20)?,
                wal_log_hints: *data.get(24)? != 0,
                track_commit_timestamp: *data.get(25)? != 0,
            })
        }
        RESTORE_POINT => {
            let data = data()?;
            let name = data.get(8..8 + MAX_NAME)?.split(|byte| *byte == 0).next()?;
            Meaning::RestorePoint { name: name.to_vec(), time: time_at(data, 0)? }
        }
        FPW_CHANGE => Meaning::FullPageWrites(*data()?.first()? != 0),
        END_OF_RECOVERY => Meaning::EndOfRecovery {
            time: time_at(data()?, 0)?,
            timeline: TimelineId(u32_at(data()?, 8)?),
            previous: TimelineId(u32_at(data()?, 12)?),
        },
        OVERWRITE_CONTRECORD => Meaning::OverwriteContrecord { aborted: Lsn(u64_at(data()?, 0)?) },
        CHECKPOINT_REDO => Meaning::CheckpointRedo,
        _ => return None,
    })
}

/// Decodes the end of a transaction; `None` for other records of transactions.
fn transaction_end(info: u8, record: &[u8], major: u32) -> Option<Ending> {
    let (is_commit, is_prepared) = match info & OPERATION {
        COMMIT => (true, false),
        ABORT => (false, false),
        COMMIT_PREPARED => (true, true),
        ABORT_PREPARED => (false, true),
        _ => return None,
    };
    let data = main_data(record)?;
    let time = time_at(data, 0)?;
    let own = u32_at(record, XID)?;
    let xid = if is_prepared && info & HAS_FLAGS != 0 { prepared_xid(data, major)? } else { own };
    Some(Ending { xid, time, is_commit })
}

/// Transaction id of a prepared transaction (`xl_xact_twophase`), behind the lists that the flags
/// name (`ParseCommitRecord` and `ParseAbortRecord` in `xactdesc.c`). An abort has no invalidations.
fn prepared_xid(data: &[u8], major: u32) -> Option<u32> {
    let flags = u32_at(data, 8)?;
    let mut at = 12;
    if flags & HAS_DATABASE != 0 {
        at += DATABASE;
    }
    // The id of an object with statistics has 64 bits since PostgreSQL 18 (`xl_xact_stats_item`).
    let statistic = if major >= 18 { 16 } else { 12 };
    let lists = [
        (HAS_SUBTRANSACTIONS, SUBTRANSACTION),
        (HAS_RELATIONS, RELATION),
        (HAS_DROPPED_STATISTICS, statistic),
        (HAS_INVALIDATIONS, INVALIDATION),
    ];
    for (flag, size) in lists {
        if flags & flag != 0 {
            let items = usize::try_from(u32_at(data, at)?).ok()?;
            at = items.checked_mul(size)?.checked_add(at + 4)?;
        }
    }
    if flags & HAS_TWO_PHASE == 0 {
        return None;
    }
    u32_at(data, at)
}

fn database(kind: u8, data: &[u8]) -> Option<Meaning> {
    let oid = u32_at(data, 0)?;
    match kind {
        CREATE_FILE_COPY => {
            Some(Meaning::Database { oid, tablespace: u32_at(data, 4)?, copied_from: Some(u32_at(data, 8)?) })
        }
        CREATE_WAL_LOG => Some(Meaning::Database { oid, tablespace: u32_at(data, 4)?, copied_from: None }),
        DROP_DATABASE => Some(Meaning::DatabaseDrop { oid }),
        _ => None,
    }
}

fn tablespace(kind: u8, data: &[u8]) -> Option<Meaning> {
    let oid = u32_at(data, 0)?;
    match kind {
        CREATE_TABLESPACE => {
            let location = data.get(4..)?.split(|byte| *byte == 0).next()?.to_vec();
            Some(Meaning::Tablespace { oid, location })
        }
        DROP_TABLESPACE => Some(Meaning::TablespaceDrop { oid }),
        _ => None,
    }
}

/// Main data of a record, which is its last part (`DecodeXLogRecord` in `xlogreader.c`): empty for a
/// record without any, `None` for headers that PostgreSQL does not write.
fn main_data(record: &[u8]) -> Option<&[u8]> {
    let mut at = RECORD_HEADER;
    // Bytes of images and data of the blocks, which lie between the headers and the main data.
    let mut of_blocks = 0;
    let length = loop {
        if at.checked_add(of_blocks)? >= record.len() {
            break 0;
        }
        match *record.get(at)? {
            DATA_SHORT => break usize::from(*record.get(at + 1)?),
            DATA_LONG => break usize::try_from(u32_at(record, at + 1)?).ok()?,
            ORIGIN => at += 3,
            TOPLEVEL_XID => at += 5,
            block if block <= MAX_BLOCK => {
                let flags = *record.get(at + 1)?;
                of_blocks += usize::from(u16_at(record, at + 2)?);
                at += 4;
                if flags & HAS_IMAGE != 0 {
                    of_blocks += usize::from(u16_at(record, at)?);
                    let image = *record.get(at + 4)?;
                    at += if image & HAS_HOLE != 0 && image & COMPRESSED != 0 { 7 } else { 5 };
                }
                at += if flags & SAME_RELATION != 0 { 4 } else { 16 };
            }
            _ => return None,
        }
    };
    let begin = record.len().checked_sub(length).filter(|begin| *begin >= RECORD_HEADER)?;
    record.get(begin..)
}

fn time_at(data: &[u8], at: usize) -> Option<Timestamp> {
    let microseconds = i64::from_le_bytes(array_at(data, at)?);
    microseconds.checked_add(EPOCH).and_then(|last| Timestamp::from_microsecond(last).ok())
}
