//! From a repository into a directory that PostgreSQL can recover from. Knows nothing of the configuration.
//!
//! [`Plan`] says what would happen and refuses what cannot work; [`run`] does it. A directory that is
//! not finished has no `pg_control`, so no server starts on it; and it has a marker, so that it can be
//! begun again.

mod delta;
mod files;
mod frames;
mod layout;
mod owner;
mod partial;
mod plan;
mod recovery;
mod room;
mod run;
mod sums;
mod write;

pub use plan::{Plan, Target, TargetTimeline, Wish};
pub use recovery::{Action, Recovery, restore_command};
pub use room::{Room, rooms};
pub use run::{Options, Restored, run};
