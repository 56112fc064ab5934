//! Retention: which objects of a repository are kept, and the removal of the others. Knows nothing
//! of the configuration.
//!
//! [`Stock`] is the state of a repository, [`Plan::make`] decides from it alone, and [`prune`]
//! carries the plan out: safe when it is killed at any moment, and while other hosts run backups,
//! restores and prunes. `FORMAT.md` has the argument. What any rule keeps is kept, and in doubt
//! everything is.

mod others;
mod plan;
mod policy;
mod run;
mod stock;

pub use others::InUse;
pub use plan::{Kept, Plan, Removal, Wishes};
pub use policy::{Policy, Reason};
pub use run::{Left, Options, Pruned, prune};
pub use stock::{Backup, Stock};
