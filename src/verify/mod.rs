//! Reads a repository and proves that every kept backup restores: every object is there, of the right size, its
//! bytes are right to the last block, manifests are complete and agree with records, and from every backup on the
//! WAL leads without a hole to the end of the archive. Changes nothing but what it notes under `verify/`.
//!
//! There are three answers, and they are kept apart: good, bad, and could not tell. An outage is never damage, and
//! nothing that could not be read counts as good. What disappears because a prune removes it is no problem, so
//! nobody has to be held up: when something is missing, it is looked again which backups there still are.
//!
//! Blocks that several backups share are read once: every manifest is gone through beside that of its parent, see
//! [`beside`]. Memory is two parts of manifests, 5 MiB a thread, and the names of all objects.

mod backup;
mod beside;
mod compare;
mod cost;
mod end;
mod findings;
mod memory;
mod packs;
mod run;
mod wal;

pub use cost::Lost;
pub use findings::{Checked, Kind as ProblemKind, Problem, Unknown};
pub use run::{Options, Report, Scope, verify};
