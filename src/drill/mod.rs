//! Proves that a backup restores: into a scratch directory, with a server of its own that is cut off from everything
//! else, to the end that the archive has, and all of it readable. Knows nothing of the configuration.
//!
//! # What it promises
//!
//! * It says *proved* only when everything was looked at and nothing was wrong. What it could not find out is
//!   *unknown* and never proved; what it found wrong is *refuted*.
//! * How far recovery has to come is computed from the archive, by reading all the WAL once, and compared with where
//!   the server is.
//! * Nothing outside of the scratch directory is written: the server runs with a configuration that is made here, and
//!   nothing of the restored one is read. It has no address, archives nowhere, runs no jobs and no replication, and
//!   its tablespaces lie in the scratch directory. WAL that would make a tablespace elsewhere is not replayed.
//! * With a comparison it connects to the primary, and to nothing else; the primary keeps nothing for it.
//! * Nothing is left behind, and only processes that it started are stopped. What a killed drill left is found and
//!   removed by the next one.

mod check;
mod compare;
mod expect;
mod pick;
mod place;
mod read;
mod recover;
mod run;
mod server;
mod settings;

pub use compare::Primary;
pub use pick::{Choice, Wanted, choose};
pub use run::{Assertion, Options, Run};
