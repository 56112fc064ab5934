//! Reads a repository and proves that every kept backup restores: every object exists and has the
//! right size, its bytes are right to the last block, manifests are complete and agree with their
//! records, and from every backup on the WAL leads without a gap to the end of the archive. Changes
//! nothing but the evidence that it records under `verify/`.
//!
//! There are three answers: good, bad and unknown. An outage is never reported as damage, and
//! nothing that could not be read counts as good. No lock is taken: when an object is missing, the
//! backups are listed again, and an object that a concurrent prune removed is not a problem.
//!
//! Blocks that several backups share are read once: every manifest is read together with the
//! manifest of the parent, see [`diff`]. Memory is two parts of manifests, 5 MiB per thread, and
//! the names of all objects.

mod backup;
mod compare;
mod cost;
mod diff;
mod end;
mod evidence;
mod findings;
mod packs;
mod produce;
mod remember;
mod run;
mod state;
mod wal;

pub use cost::LostSpan;
pub use findings::{Checked, Note, Problem, ProblemKind, Unknown, is_damage};
pub use run::verify;
pub use state::{Options, Scope, VerifyResult};
