//! walkeep: the WAL archive and backup tool for PostgreSQL that cannot lose data silently.
//!
//! # The map
//!
//! Each room may name the rooms of its third column, and itself. `tests/it/architecture.rs` reads
//! this table.
//!
//! | room | what it is | may name |
//! |---|---|---|
//! | [`error`] | one error type, and its kinds | – |
//! | `fs` | durable writes, and reads and writes that bypass the page cache | error |
//! | `net` | HTTP over TLS, and which certificate of a server is accepted | error |
//! | [`pg`] | the formats and protocols of PostgreSQL | error net |
//! | [`codec`] | bytes to bytes: hashes, compression, the envelope of an object | error |
//! | [`storage`] | keys to bytes: the trait and its six promises, the stores | error fs net |
//! | [`repo`] | the objects of a repository, and its state as a whole; `FORMAT.md` | error pg codec storage |
//! | [`progress`] | progress, cancellation and reports of an operation; everything else that is logged is `tracing` | error |
//! | [`wal`] | push and fetch of one WAL file, and of those that will be requested next | error progress fs pg codec repo |
//! | [`backup`] | from a running server into packs and a manifest | error progress fs pg codec repo |
//! | [`restore`] | from a repository into a data directory that recovers | error progress fs pg codec repo |
//! | [`sync`] | from one repository into another | error progress pg codec repo |
//! | [`retention`] | the plan of what is kept and what is removed, and its execution | error progress pg repo |
//! | [`verify`] | reads a repository and proves that every kept backup restores | error progress pg codec repo |
//! | [`drill`] | restores into a scratch directory, recovers in isolation, checks, cleans up | error progress pg repo restore verify |
//! | [`observe`] | the state of a cluster and its archive, and a judgement of it | error fs pg repo |
//! | [`notify`] | notices by webhook or command | error fs net |
//! | `report` | one HTML page about clusters and their repositories, built from values | error observe pg repo |
//! | [`config`] | the configuration file, as values | error pg codec storage retention drill observe notify |
//! | [`cli`] | arguments, output, logs, exit statuses | everything but fs |
//!
//! # What follows, and holds
//!
//! * Operations (`wal`, `backup`, `restore`, `sync`, `retention`, `verify`) never name each other,
//!   nor `observe`; `drill` restores.
//! * `pg` has no idea that archives exist; `storage` has no idea what a WAL file is.
//! * No operation sees the configuration: each takes its own options.
//! * Nothing below `cli` prints, reads the environment, ends the process or asks the clock; times
//!   and random bytes come in as arguments. (`storage` and `durable` name files of their own at
//!   random. The AWS crates behind [`storage::S3`] date what they sign, and look for credentials in
//!   the environment.)
//! * Nothing is stored, and nothing is called absent, before a repository has shown its identity:
//!   only then is there a [`repo::Archive`].
//! * Ok means durable, and what was read was checked before it was used.

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
pub mod storage;
pub mod sync;
pub mod verify;
pub mod wal;
