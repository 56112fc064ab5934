//! Recording of the result as evidence for later verifications, for backups and for prune.

use super::findings::Problem;
use super::state::{Run, Scope};
use crate::error::Result;
use crate::pg::segment::WalName;
use crate::repo::ObjectName;
use crate::repo::active::{Announcement, Heartbeat, Operation};
use crate::repo::data::{NamedPacks, named};
use crate::repo::evidence::{FoundSeams, VerifiedBackup, VerifiedPacks, VerifiedWal};
use crate::repo::packset::PackSet;
use crate::repo::record::Record;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of objects that the evidence of a damaged backup names.
const MAX_OBJECTS: usize = 100;

/// Time that the evidence gives for a segment that was good once and is damaged now. It is older
/// than every `--since`, so the segment is read again; and if the segment disappears, it is
/// reported as missing.
const DAMAGED: Timestamp = Timestamp::UNIX_EPOCH;

impl Run<'_> {
    /// Records the evidence of this verification. The verification of a repository that cannot be
    /// written succeeds without evidence.
    pub fn remember(&self, problems: &[Problem], seams: &FoundSeams, is_unknown: bool) {
        let has_nothing_to_write = self.options.quick && problems.is_empty();
        if !has_nothing_to_write && let Err(error) = self.write_evidence(problems, seams, is_unknown) {
            tracing::info!("the result of the verification cannot be remembered: {error}");
        }
    }

    /// Writes the evidence. Announced until the last check: a prune may remove the backups meanwhile,
    /// and this process may be killed.
    fn write_evidence(&self, problems: &[Problem], seams: &FoundSeams, is_unknown: bool) -> Result<()> {
        let noting = self.selected().map(|record| record.id.clone()).collect();
        let heartbeat = Heartbeat { noting, ..Heartbeat::new(Operation::Verify) };
        let announcement = Announcement::begin(self.archive, heartbeat, &self.options.random)?;
        let mut written = Vec::new();
        let result = self.write_notes(problems, seams, is_unknown, &announcement, &mut written);
        if let Err(error) = self.remove_pruned(written) {
            announcement.abandon();
            return result.and(Err(error));
        }
        result
    }

    fn write_notes(
        &self,
        problems: &[Problem],
        seams: &FoundSeams,
        is_unknown: bool,
        announcement: &Announcement,
        written: &mut Vec<String>,
    ) -> Result<()> {
        let bad: BTreeSet<&str> = problems.iter().map(|problem| problem.object.as_str()).collect();
        for record in self.selected() {
            announcement.check()?;
            written.push(record.id.clone());
            self.write_backup(record, problems, is_unknown)?;
        }
        if !self.options.quick && *seams != self.known_seams {
            self.archive.remember(&ObjectName::Seams, seams)?;
        }
        if !self.options.quick && !is_unknown {
            // One backup alone may need only some blocks of a pack.
            if self.options.scope == Scope::All {
                self.write_packs(&bad)?;
            }
            if !matches!(self.options.scope, Scope::Backup(_)) {
                self.write_segments(&bad)?;
            }
        }
        Ok(())
    }

    /// Removes the evidence of backups that are gone: a prune removes it again after their records,
    /// so what was written before the records were looked for is removed in any case.
    fn remove_pruned(&self, written: Vec<String>) -> Result<()> {
        for id in written {
            if self.archive.stored_at(&ObjectName::Record(id.clone()))?.is_none() {
                self.archive.remove(&[ObjectName::Verified(id.clone()), ObjectName::FoundDamaged(id)])?;
            }
        }
        Ok(())
    }

    /// Records the result for a backup.
    fn write_backup(&self, record: &Record, problems: &[Problem], is_unknown: bool) -> Result<()> {
        let id = &record.id;
        // WAL behind the end of the backup is not a part of it.
        let is_own = |problem: &&Problem| match ObjectName::parse(&problem.object) {
            Some(ObjectName::Wal(WalName::Segment(name))) => {
                record.wal.first <= name && name <= record.wal.last
            }
            Some(ObjectName::Wal(_)) => false,
            _ => true,
        };
        let own: Vec<String> = problems
            .iter()
            .filter(|problem| problem.backups.contains(id))
            .filter(is_own)
            .map(|problem| problem.object.clone())
            .take(MAX_OBJECTS)
            .collect();
        let evidence = VerifiedBackup { at: self.options.now, problems: own };
        let damaged = ObjectName::FoundDamaged(id.clone());
        if !evidence.problems.is_empty() {
            return self.archive.remember(&damaged, &evidence);
        }
        if self.options.quick || is_unknown {
            return Ok(());
        }
        self.archive.remember(&ObjectName::Verified(id.clone()), &evidence)?;
        if self.evidence.backups.get(id) == Some(&true) {
            self.archive.remove(&[damaged])?;
        }
        Ok(())
    }

    fn write_packs(&self, bad: &BTreeSet<&str>) -> Result<()> {
        let mut packs = PackSet::default();
        for record in self.selected().filter(|record| self.covered.contains(&record.id)) {
            packs.extend(&self.archive.packs_of(record)?);
        }
        let read = named(&packs, &self.data).filter_map(|pack| {
            let NamedPacks::Listed(id, number, _) = pack else {
                return None;
            };
            let is_bad = bad.contains(ObjectName::Pack(id.to_owned(), number).to_string().as_str());
            let at = if self.is_due(id, number) {
                self.options.now
            } else {
                self.evidence.packs.at(id, number)?
            };
            (!is_bad).then_some((id, number, at))
        });
        self.archive.remember(&ObjectName::VerifiedPacks, &VerifiedPacks::collect(read))
    }

    fn write_segments(&self, bad: &BTreeSet<&str>) -> Result<()> {
        let Some(history) = &self.history else {
            return Ok(());
        };
        let mut segments = BTreeMap::new();
        for (name, _) in &self.wal {
            let WalName::Segment(segment) = *name else {
                continue;
            };
            let at =
                if self.is_wal_due(*name) { Some(self.options.now) } else { self.evidence.wal.at(segment) };
            if !bad.contains(ObjectName::Wal(*name).to_string().as_str()) {
                segments.extend(at.map(|at| (segment, at)));
            }
        }
        for object in bad {
            if let Some(ObjectName::Wal(WalName::Segment(name))) = ObjectName::parse(object)
                && self.evidence.wal.at(name).is_some()
            {
                segments.insert(name, DAMAGED);
            }
        }
        let evidence = VerifiedWal::collect(&segments, history.inventory.segment_size());
        self.archive.remember(&ObjectName::VerifiedWal, &evidence)
    }
}
