//! Proves that a backup restores: into a working directory, with a server that is isolated from
//! everything else, to the end of the archive, and all of it readable. Does not know the
//! configuration.
//!
//! # Promises
//!
//! * The outcome is *proved* only when everything was checked and nothing was wrong. What was found
//!   to be wrong is *refuted*; what could not be found out is *unknown* and never proved.
//! * The position that recovery has to reach is computed from the archive, by reading all the WAL
//!   once, and compared with the position of the server.
//! * Nothing outside of the working directory is written: the server runs with a configuration that
//!   is generated here, and nothing of the restored one is read. It has no address, archives
//!   nothing, runs no jobs and no replication, and its tablespaces lie in the working directory.
//!   WAL that would create a tablespace elsewhere is not replayed.
//! * With a comparison it connects to the primary, and to nothing else; the primary keeps nothing
//!   for it.
//! * Nothing is left behind, and only processes that it started are stopped. What a killed drill
//!   left is found and removed by the next one.

mod check;
mod compare;
mod expect;
mod log;
mod pick;
mod read;
mod recover;
mod run;
mod runner;
mod server;
mod settings;
mod workdir;

pub use check::Assertion;
pub use compare::Primary;
pub use pick::{DrillRequest, Selection, select};
pub use run::{Drilled, Options, run};
