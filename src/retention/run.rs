//! Carries out a plan. Removes only objects that no other operation can need, in an order in which
//! a crash at any moment leaves a whole repository and some garbage.

use super::others::{Others, announce_alone};
use super::plan::{Plan, Wishes};
use super::policy::Policy;
use super::stock::Stock;
use crate::error::{Doing, Error, Kind, Result};
use crate::progress;
use crate::repo::active::{Announcement, Staleness};
use crate::repo::branches::ServerTimeline;
use crate::repo::{Archive, ObjectName};
use std::collections::BTreeSet;
use std::time::Duration;
use tracing::info_span;

/// Number of objects that are removed at once. Before each batch the announcement is confirmed.
const BATCH_SIZE: usize = 1000;

/// Maximum number of plans that are made while other operations keep changing their needs.
const MAX_ATTEMPTS: u32 = 10;

/// Number of failed removals in a row after which the other objects of the step are not tried.
const MAX_FAILURES: usize = 20;

/// Difference between the clocks of this host and the store above which a warning is reported.
const MAX_CLOCK_DIFFERENCE: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// The options of a prune.
pub struct Options {
    pub policy: Policy,
    /// Backups to remove, even if a rule keeps them. If there are any, the rules remove no others.
    pub discard: BTreeSet<String>,
    pub dry_run: bool,
    pub now: jiff::Timestamp,
    /// Timeline of the cluster's server.
    pub server: ServerTimeline,
    /// Maximum time to wait for the end of another prune.
    pub wait: Duration,
    pub staleness: Staleness,
    /// Twelve random hexadecimal digits.
    pub random: String,
    /// Files that crashed writers left in the repository before this time are removed.
    pub garbage_before: jiff::Timestamp,
}

/// The result of a prune, or of its dry run.
#[derive(Debug, Default)]
pub struct Pruned {
    pub plan: Plan,
    /// Objects that could not be removed.
    pub left: Vec<Left>,
}

/// An object that could not be removed.
#[derive(Debug)]
pub struct Left {
    pub name: ObjectName,
    /// `None` when its removal was not tried, after too many failures.
    pub why: Option<Error>,
}

/// Removes the objects of an archive that the policy does not keep.
pub fn prune(archive: &Archive, options: &Options) -> Result<Pruned> {
    let repository = archive.repository();
    let _span = info_span!("prune", repository = repository.name()).entered();
    Run { archive, options, wishes: Wishes { discard: options.discard.clone(), ..Wishes::default() } }
        .run()
        .doing(|| format!("prune repository {}", repository.name()))
}

struct Run<'a> {
    archive: &'a Archive,
    options: &'a Options,
    wishes: Wishes,
}

impl Run<'_> {
    fn run(&mut self) -> Result<Pruned> {
        let options = self.options;
        if options.dry_run {
            let mut others = Others::new(&options.staleness, None, options.now);
            let stock = self.stock(&mut others)?;
            return Ok(Pruned { plan: self.plan(&stock, options.now)?, left: Vec::new() });
        }
        let own = announce_alone(self.archive, &options.staleness, &options.random, options.wait)?;
        self.archive.repository().clean(options.garbage_before)?;
        let now = self.now(&own)?;
        let mut others = Others::new(&options.staleness, Some(&own), now);
        let (stock, plan) = self.plan_announced(&own, &mut others, now)?;
        let pruned = self.apply(&own, &stock, plan, now)?;
        let memories: BTreeSet<&ObjectName> = pruned.plan.remove.memories.iter().collect();
        let failed: BTreeSet<&ObjectName> = pruned.left.iter().map(|left| &left.name).collect();
        let is_left = |id: &&String| {
            let note = ObjectName::Verified((*id).clone());
            !stock.is_listed(id) && (!memories.contains(&note) || failed.contains(&note))
        };
        others.remove_unfinished(self.archive, &stock.remembered.keys().filter(is_left).collect())?;
        Ok(pruned)
    }

    fn stock(&self, others: &mut Others<'_>) -> Result<Stock> {
        progress::step("reading the state of the repository");
        let mut stock = Stock::read(self.archive, others)?;
        stock.server = self.options.server.clone();
        let known = |id: &String| {
            stock.data.contains_key(id)
                || stock.unreadable.contains(id)
                || stock.backups.iter().any(|backup| backup.id == *id)
        };
        match self.options.discard.iter().find(|id| !known(id)) {
            Some(id) => Err(Error::new(Kind::Absent, format!("backup {id} does not exist"))
                .hint("`walkeep list` shows the backups")),
            None => Ok(stock),
        }
    }

    fn plan(&self, stock: &Stock, now: jiff::Timestamp) -> Result<Plan> {
        Plan::make(stock, &self.options.policy, &self.wishes, now)
    }

    /// Returns the time of this host or of the store, whichever is earlier: a clock that is ahead
    /// removes nothing.
    fn now(&self, own: &Announcement) -> Result<jiff::Timestamp> {
        let (here, there) = (self.options.now, own.time()?);
        if here.duration_since(there).abs() > MAX_CLOCK_DIFFERENCE {
            progress::warn(
                &Error::new(
                    Kind::Problem,
                    format!(
                        "the clock of this host shows {here}, the clock of the repository {there}: the earlier time is used"
                    ),
                )
                .hint("set the clock that is wrong"),
            );
        }
        Ok(here.min(there))
    }

    /// Makes a plan, announces the backups that it removes, and checks that it still holds after
    /// that.
    fn plan_announced(
        &self,
        own: &Announcement,
        others: &mut Others<'_>,
        now: jiff::Timestamp,
    ) -> Result<(Stock, Plan)> {
        for _ in 0..MAX_ATTEMPTS {
            let mut stock = self.stock(others)?;
            let plan = self.plan(&stock, now)?;
            if plan.remove.is_empty() {
                return Ok((stock, plan));
            }
            own.update(|heartbeat| heartbeat.removing = plan.remove.announced())?;
            stock.read_changing(self.archive, others)?;
            if plan.remove.is_part_of(&self.plan(&stock, now)?.remove) {
                return Ok((stock, plan));
            }
            own.update(|heartbeat| heartbeat.removing.clear())?;
        }
        Err(Error::new(
            Kind::Locked,
            "new backups or restores started during every attempt; nothing was removed",
        )
        .hint("run it again when less is going on"))
    }

    fn apply(
        &mut self,
        own: &Announcement,
        stock: &Stock,
        mut plan: Plan,
        now: jiff::Timestamp,
    ) -> Result<Pruned> {
        let mut left = Vec::new();
        if !plan.remove.is_empty() {
            progress::step("removing");
        }
        // A verification may write its notes at this moment, so they are removed before and after
        // the records.
        self.remove(own, &plan.remove.memories, &mut left)?;
        self.keep_what_is_left(stock, &mut plan, &left, now)?;
        self.remove(own, &names(&plan.remove.records), &mut left)?;
        self.keep_what_is_left(stock, &mut plan, &left, now)?;
        self.remove(own, &plan.remove.memories, &mut left)?;
        self.remove(own, &plan.remove.rest, &mut left)?;
        self.remove(own, &names(&plan.remove.data), &mut left)?;
        self.remove(own, &names(&plan.remove.wal), &mut left)?;
        Ok(Pruned { plan, left })
    }

    /// Plans again when an object could not be removed: a backup that is still listed keeps all
    /// objects that it needs.
    fn keep_what_is_left(
        &mut self,
        stock: &Stock,
        plan: &mut Plan,
        left: &[Left],
        now: jiff::Timestamp,
    ) -> Result<()> {
        if left.is_empty() {
            return Ok(());
        }
        for left in left {
            if let ObjectName::Record(id) | ObjectName::Verified(id) | ObjectName::FoundDamaged(id) =
                &left.name
            {
                self.wishes.stuck.insert(id.clone());
            }
        }
        let remaining = self.plan(stock, now)?;
        plan.kept = remaining.kept;
        plan.remove = remaining.remove;
        Ok(())
    }

    /// Removes objects. An object that cannot be removed is added to `left`, and the others are
    /// tried. An outage fails the prune.
    fn remove(&self, own: &Announcement, names: &[ObjectName], left: &mut Vec<Left>) -> Result<()> {
        let mut in_a_row = 0;
        for batch in names.chunks(BATCH_SIZE) {
            if in_a_row >= MAX_FAILURES {
                left.extend(batch.iter().map(|name| Left { name: name.clone(), why: None }));
                continue;
            }
            own.confirm()?;
            match self.archive.remove(batch) {
                Ok(()) => continue,
                Err(error) if error.kind().is_transient() => return Err(error),
                Err(_) => {}
            }
            for name in batch {
                let removed =
                    (in_a_row < MAX_FAILURES).then(|| self.archive.remove(std::slice::from_ref(name)));
                let why = match removed {
                    Some(Ok(())) => {
                        in_a_row = 0;
                        continue;
                    }
                    Some(Err(error)) if error.kind().is_transient() => return Err(error),
                    Some(Err(error)) => Some(error),
                    None => None,
                };
                in_a_row += 1;
                left.push(Left { name: name.clone(), why });
            }
        }
        Ok(())
    }
}

fn names(objects: &[(ObjectName, u64)]) -> Vec<ObjectName> {
    objects.iter().map(|(name, _)| name.clone()).collect()
}
