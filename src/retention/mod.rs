//! Retention: the decision which objects of a repository are kept, and the removal of the others.
//! Knows nothing of the configuration.
//!
//! [`Stock`] is the state of a repository, [`Plan::make`] decides from the stock, the policy, the
//! wishes and the time alone, and [`prune`] carries the plan out. A prune may be killed at any
//! moment, and other hosts may run backups, restores and prunes meanwhile; `FORMAT.md` has the
//! argument. An object that any rule keeps is kept, and in doubt every object is.

mod expiry;
mod others;
mod plan;
mod policy;
mod run;
mod stock;

pub use expiry::expires;
pub use others::InUse;
pub use plan::{Kept, Plan, Removal, Wishes};
pub use policy::{Policy, Reason};
pub use run::{Left, Options, Pruned, prune};
pub use stock::{Backup, Stock};
