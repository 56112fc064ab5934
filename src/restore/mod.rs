//! Restores a backup from a repository into a directory that PostgreSQL can recover from. Does not
//! read the configuration.
//!
//! [`RestorePlan`] chooses a backup and refuses targets that cannot be reached; [`run`] performs
//! the restore. An unfinished directory has no `pg_control`, so no server starts on it, and it has
//! a marker, so that the restore can be started again.

mod create;
mod delta;
mod empty;
mod files;
mod frames;
mod job;
mod layout;
mod mapping;
mod options;
mod owner;
mod partial;
mod plan;
mod recovery;
mod run;
mod space;
mod stop;
mod sums;
mod write;

pub use options::{Options, Restored};
pub use plan::{PlanRequest, RestorePlan, TargetTimeline};
pub use recovery::{Action, RecoverySettings, restore_command};
pub use run::run;
pub use space::{SpaceNeed, space_needed};
pub use stop::{RecoveryStop, RecoveryTarget};
