//! What stays in a repository and what goes. Knows nothing of the configuration, and nothing of how things came
//! into the repository.
//!
//! [`Stock`] is what is there, [`Plan::make`] decides, without looking at anything else, and [`prune`] does what
//! the plan says, killed at any moment or not, whatever backups, restores and prunes other hosts run: `FORMAT.md`
//! has the argument. What any rule keeps is kept, and in doubt everything is.

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
