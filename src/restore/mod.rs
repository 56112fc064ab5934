//! Restores a backup from a repository into a directory that PostgreSQL can recover from. Does not
//! read the configuration.
//!
//! [`RestorePlan`] chooses a backup and refuses targets that cannot be reached; [`prepare`] makes all
//! other checks and writes nothing; [`Prepared::run`] performs the restore. An unfinished directory has no `pg_control`, so no server starts on it, and it has
//! a marker, so that the restore can be started again.

mod access;
mod conf;
mod contents;
mod create;
mod delta;
mod empty;
mod files;
mod frames;
mod holes;
mod job;
mod layout;
mod locate;
mod mapping;
mod marker;
mod options;
mod owner;
mod partial;
mod plan;
mod preflight;
mod recovery;
mod replayed;
mod run;
mod space;
mod stop;
mod sums;
mod target;
mod waldir;
mod write;

pub use options::{Options, Restored};
pub use plan::{PlanRequest, RestorePlan, TargetTimeline};
pub use preflight::{Notes, Prepared, prepare};
pub use recovery::{Action, RecoverySettings, restore_command};
pub use space::SpaceNeed;
pub use stop::{RecoveryStop, RecoveryTarget};
