//! walkeep: the WAL archive and backup tool for PostgreSQL that cannot lose data silently.
//!
//! # The map
//!
//! | room | what it is | may name |
//! |---|---|---|
//! | [`error`], [`event`] | one error; what operations say | – |
//! | `durable` | the only renames and syncs | error |
//! | `direct` | large files past the page cache | error |
//! | `tls` | which certificate of a server is proven | – |
//! | `https` | connections to servers of HTTP | error tls |
//! | [`pg`] | what PostgreSQL's files and protocols mean | error tls |
//! | [`codec`] | bytes to bytes: hashes, compression, the envelope | error |
//! | [`storage`] | keys to bytes: the trait and its six promises, the stores | error durable https tls |
//! | [`repo`] | what a repository is; `FORMAT.md` | error pg codec storage |
//! | [`wal`] | push and fetch of one WAL file, and of those that will be asked for next | error event durable pg codec repo |
//! | [`backup`] | from a running server into packs and a manifest | error event direct pg codec repo |
//! | [`restore`] | from a repository to a directory that recovers | error event durable direct pg codec repo |
//! | [`sync`] | from one repository to another | error event pg codec repo |
//! | [`retention`] | what stays and what goes: a plan, and its execution | error event pg repo |
//! | [`verify`] | reads everything and proves that every kept backup restores | error event pg codec repo |
//! | [`drill`] | restores, starts a server on it in isolation, proves, cleans up | error event pg repo restore |
//! | [`observe`] | how a cluster is now, and what that means | error durable pg repo |
//! | [`notify`] | tells somebody who does not look: a webhook, a command | error durable https |
//! | [`config`] | the file, as values | error storage notify |
//! | [`cli`] | arguments, text, JSON, progress, exit statuses | everything but durable |
//!
//! # What follows, and holds
//!
//! * Operations (`wal`, `backup`, `restore`, `sync`, `retention`, `verify`) never name each other, nor `observe`; `drill` restores.
//! * `pg` has no idea that archives exist; `storage` has no idea what a WAL file is.
//! * No operation sees the configuration: each takes its own options.
//! * Nothing below `cli` prints, reads the environment, ends the process or asks the clock; times and random
//!   bytes come in as arguments. (`storage` and `durable` name files of their own at random. The AWS crates behind
//!   [`storage::S3`] date what they sign, and look for credentials in the environment.)
//! * Nothing is stored, and nothing is called absent, before a repository has shown its identity: only then is
//!   there a [`repo::Archive`].
//! * Ok means durable, and what was read was checked before it was used.

pub mod backup;
pub mod cli;
pub mod codec;
pub mod config;
mod direct;
pub mod drill;
mod durable;
pub mod error;
pub mod event;
mod https;
pub mod notify;
pub mod observe;
pub mod pg;
pub mod repo;
pub mod restore;
pub mod retention;
pub mod storage;
pub mod sync;
mod tls;
pub mod verify;
pub mod wal;
