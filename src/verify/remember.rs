//! Recording of the result as evidence for later verifications, for backups and for prune.

use super::findings::Problem;
use super::state::{Run, Scope};
use crate::error::Result;
use crate::pg::segment::WalName;
use crate::repo::ObjectName;
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
        if let Err(error) = self.write_evidence(problems, seams, is_unknown) {
            tracing::info!("the result of the verification cannot be remembered: {error}");
        }
    }

    fn write_evidence(&self, problems: &[Problem], seams: &FoundSeams, is_unknown: bool) -> Result<()> {
        let bad: BTreeSet<&str> = problems.iter().map(|problem| problem.object.as_str()).collect();
        let mut written = Vec::new();
        for record in self.selected() {
            written.extend(self.write_backup(record, problems, is_unknown)?);
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
        // A concurrent prune removes the evidence of a backup after its record.
        for id in written {
            if self.archive.stored_at(&ObjectName::Record(id.clone()))?.is_none() {
                self.archive.remove(&[ObjectName::Verified(id.clone()), ObjectName::FoundDamaged(id)])?;
            }
        }
        Ok(())
    }

    /// Records the result for a backup. Returns its id if something was written.
    fn write_backup(
        &self,
        record: &Record,
        problems: &[Problem],
        is_unknown: bool,
    ) -> Result<Option<String>> {
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
            self.archive.remember(&damaged, &evidence)?;
            return Ok(Some(id.clone()));
        }
        if self.options.quick || is_unknown {
            return Ok(None);
        }
        self.archive.remember(&ObjectName::Verified(id.clone()), &evidence)?;
        if self.evidence.backups.get(id) == Some(&true) {
            self.archive.remove(&[damaged])?;
        }
        Ok(Some(id.clone()))
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
