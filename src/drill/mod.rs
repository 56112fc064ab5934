//! Proves that a backup restores: restores it into a working directory, recovers it there with a
//! server that is isolated from everything else, and reads all of it. Does not know the
//! configuration.
//!
//! # Promises
//!
//! * The outcome is *proved* only when everything was read and nothing was wrong. It is *refuted*
//!   when the backup or its WAL was found to be wrong, and *unknown* when that could not be found
//!   out. Errors of code, settings, locks and encodings of the cluster, and of libraries that this
//!   host does not have, are notes: `cause` tells them apart.
//! * The position that recovery has to reach is computed from the archive, by reading all WAL to
//!   replay once, and is compared with the position that the server reached.
//! * Nothing outside of the working directory is written: the server runs with a configuration that
//!   is generated here, and nothing of the restored configuration is read. It has no address,
//!   archives nothing, runs no jobs and no replication, and its tablespaces lie in the working
//!   directory. WAL that would create a tablespace elsewhere is not replayed.
//! * With a comparison the server connects to the primary, and to nothing else; the primary retains
//!   nothing for it.
//! * Nothing is left behind, and only processes that a drill started are stopped. The next drill
//!   finds and removes what a killed drill left.

mod cause;
mod check;
mod compare;
mod databases;
mod expect;
mod findings;
mod inventory;
mod log;
mod pick;
mod recover;
mod run;
mod runner;
mod scan;
mod server;
mod settings;
mod workdir;

pub use check::Assertion;
pub use compare::Primary;
pub use pick::{DrillRequest, Selection, select};
pub use run::{Drilled, Options, run};
