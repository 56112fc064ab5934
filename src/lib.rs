//! walkeep: the WAL archive and backup tool for PostgreSQL that cannot lose data silently.
//!
//! # The map
//!
//! Each room may name itself and the rooms in its third column. `tests/it/architecture.rs` reads
//! this table.
//!
//! | room | what it is | may name |
//! |---|---|---|
//! | [`error`] | the error type and its kinds | – |
//! | [`runtime`] | threads, waiting and the monotonic clock, which a simulation can take over | error |
//! | `fs` | files of other users, without links and without waiting; durable writes; direct I/O | error runtime |
//! | `net` | HTTP over TLS, and the check of the server's certificate | error runtime fs |
//! | [`pg`] | the formats and protocols of PostgreSQL | error runtime fs net |
//! | [`codec`] | hashes, compression, and the envelope of an object: bytes to bytes | error runtime |
//! | [`storage`] | the trait of a store with its six promises, and the stores: keys to bytes | error runtime fs net |
//! | [`repo`] | the objects of a repository and its state as a whole; see `FORMAT.md` | error runtime progress fs pg codec storage |
//! | [`progress`] | progress, cancellation and reports of an operation; everything else that is logged is `tracing` | error |
//! | [`wal`] | pushes and fetches one WAL file, and ahead of time the ones that PostgreSQL requests next | error runtime progress fs pg codec repo |
//! | [`backup`] | copies a running server into packs and a manifest | error runtime progress fs pg codec repo |
//! | [`restore`] | writes a backup into a data directory that PostgreSQL can recover | error runtime progress fs pg codec repo |
//! | [`sync`] | copies backups and WAL from one repository into another | error runtime progress pg codec repo |
//! | [`retention`] | plans what is kept and what is removed, and removes it | error runtime progress pg repo |
//! | [`verify`] | reads a repository and proves that every kept backup restores | error runtime progress pg codec repo |
//! | [`drill`] | restores into a scratch directory, recovers in isolation, checks, cleans up | error runtime progress fs pg repo restore verify |
//! | [`observe`] | reads the state of a cluster and its archive, and judges it | error runtime fs pg repo |
//! | [`notify`] | notices by webhook or command | error runtime fs net |
//! | `report` | one HTML page about clusters and their repositories, built from values | error observe pg repo |
//! | [`config`] | the configuration file, as values | error fs pg codec storage retention drill observe notify |
//! | [`cli`] | arguments, output, logs, exit statuses | everything |
//!
//! # Invariants
//!
//! * Operations (`wal`, `backup`, `restore`, `sync`, `retention`, `verify`) never name each other,
//!   nor `observe`; `drill` restores.
//! * `pg` does not know that archives exist; `storage` does not know what a WAL file is.
//! * No operation sees the configuration: each takes its own options.
//! * Nothing below `cli` prints, reads the environment, ends the process or reads the wall clock;
//!   times and random bytes are arguments. (`storage` and `fs::durable` choose random names for
//!   files of their own. The AWS crates behind [`storage::S3`] date the requests that they sign,
//!   and look for credentials in the environment.)
//! * Nothing counts as stored or as absent before the repository has shown its identity: a
//!   [`repo::Archive`] exists only after that.
//! * `Ok` from a write means that it is durable; data that was read is checked before it is used.
//!
//! # Glossary
//!
//! * *block*: unit of hashing, 8 KiB unless the cluster has another block size; `codec::hash`
//! * *frame*: content compressed together, at most `codec::compress::FRAME` bytes of it;
//!   `repo::ranges::StoredFrame`
//! * *extent*: consecutive blocks of a file in one frame; `repo::entry::Extent`
//! * *stored range*: bytes of a pack that are read at once; `repo::ranges::StoredRange`
//! * *region*: bytes of a restored file that are written at once; `restore::layout::Region`
//! * *known run*: blocks that an earlier backup has already stored; `backup::known::KnownRun`
//! * *pack*: object with the frames that a backup stored; `repo::manifest::StoredPack`
//! * *manifest*: list of a backup's files and their extents; `repo::manifest`
//! * *part*: one object of a manifest; `repo::manifest::Part`, stored as
//!   `repo::record::ManifestPart`
//! * *record*: the object that makes a backup exist; `repo::record::Record` (`pg::record` has the
//!   records of WAL)
//! * *gap*: segments that are missing between others; `repo::catalog::Gap`
//! * *window*: moments that can be restored from WAL without a gap; `repo::window::Window`
//! * *timeline*: as in PostgreSQL; `pg::segment::TimelineId`, its ancestors in
//!   `pg::history::History`
//! * *lineage*: a cluster under one system identifier and major version; `repo::Lineage`
//! * *heartbeat*: content of an announcement, renewed while the operation runs;
//!   `repo::active::Heartbeat`
//! * *fence*: object in place of a record, after which the backup can never be recorded;
//!   `repo::Archive::fence`
//! * *lease*: time for which a finished restore still keeps its WAL; `repo::active::Staleness`

pub mod backup;
pub mod cli;
pub mod codec;
pub mod config;
pub mod drill;
pub mod error;
mod fs;
mod net;
pub mod notify;
pub mod observe;
pub mod pg;
pub mod progress;
pub mod repo;
mod report;
pub mod restore;
pub mod retention;
pub mod runtime;
pub mod storage;
pub mod sync;
pub mod verify;
pub mod wal;
