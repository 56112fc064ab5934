//! What earlier verifications left in the repository, and what this one leaves.

use super::findings::{Findings, Problem};
use super::run::{Run, Scope};
use crate::error::{Kind, Result};

use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::repo::evidence::{VerifiedBackup, VerifiedPacks, VerifiedWal};
use crate::repo::packset::PackSet;
use crate::repo::record::{Record, WalRange};
use crate::repo::{Archive, ObjectName};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Objects that are named for a damaged backup.
const NAMED: usize = 100;

#[derive(Default)]
pub struct Memory {
    /// Backups that were seen; true: damage was found.
    pub backups: BTreeMap<String, bool>,
    packs: VerifiedPacks,
    pub segments: BTreeMap<SegmentName, Timestamp>,
    /// What damaged backups name is read again, whatever is said of it.
    distrusted: PackSet,
    distrusted_wal: Vec<WalRange>,
}

impl Memory {
    /// What is damaged is forgotten, and reported.
    pub fn read(
        archive: &Archive,
        size: Option<SegmentSize>,
        records: &[Record],
        findings: &Findings,
    ) -> Result<Memory> {
        let packs = recall(archive, &ObjectName::VerifiedPacks, findings)?.unwrap_or_default();
        let wal: VerifiedWal = recall(archive, &ObjectName::VerifiedWal, findings)?.unwrap_or_default();
        let backups = archive.remembered()?;
        for (id, is_damaged) in &backups {
            let mut names = vec![ObjectName::Verified(id.clone())];
            if *is_damaged {
                names.push(ObjectName::FoundDamaged(id.clone()));
            }
            for name in names {
                recall::<VerifiedBackup>(archive, &name, findings)?;
            }
        }
        let segments = size.map(|size| wal.segments(size)).unwrap_or_default();
        let mut distrusted = PackSet::default();
        let mut distrusted_wal = Vec::new();
        for record in records.iter().filter(|record| backups.get(&record.id) == Some(&true)) {
            distrusted_wal.push(record.wal);
            match archive.packs_of(record) {
                Ok(packs) => distrusted.extend(&packs),
                // It is reported when the manifest is gone through.
                Err(error) if error.kind() == Kind::Damage => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Memory { backups, packs, segments, distrusted, distrusted_wal })
    }

    /// Whether a pack was read later than `since`. A time in the future is none.
    pub fn has_pack(&self, id: &str, number: u32, since: Timestamp, now: Timestamp) -> bool {
        self.packs.at(id, number).is_some_and(|at| since <= at && at <= now)
            && !self.distrusted.contains(id, number)
    }

    pub fn has_segment(&self, name: SegmentName, since: Timestamp, now: Timestamp) -> bool {
        self.segments.get(&name).is_some_and(|at| since <= *at && *at <= now)
            && !self.distrusted_wal.iter().any(|wal| wal.first <= name && name <= wal.last)
    }
}

fn recall<T: serde::de::DeserializeOwned>(
    archive: &Archive,
    name: &ObjectName,
    findings: &Findings,
) -> Result<Option<T>> {
    match archive.memory(name) {
        Err(error) if matches!(error.kind(), Kind::Damage | Kind::Identity) => {
            findings.error(name, &error, true, []);
            Ok(None)
        }
        memory => memory,
    }
}

impl Run<'_> {
    /// Writes down what was found out. A repository that cannot be written is verified all the same.
    pub fn remember(&self, problems: &[Problem], unknown: bool) {
        if let Err(error) = self.write_down(problems, unknown) {
            tracing::info!("what was verified cannot be remembered: {error}");
        }
    }

    fn write_down(&self, problems: &[Problem], unknown: bool) -> Result<()> {
        let bad: BTreeSet<&str> = problems.iter().map(|problem| problem.object.as_str()).collect();
        let mut written = Vec::new();
        for record in self.selected() {
            written.extend(self.backup(record, problems, unknown)?);
        }
        if !self.options.quick && !unknown && self.options.scope != Scope::Wal {
            // What one backup needs of a pack need not be all of it.
            if self.options.scope == Scope::All {
                self.packs(&bad)?;
            }
        }
        if !self.options.quick && !unknown && !matches!(self.options.scope, Scope::Backup(_)) {
            self.segments(&bad)?;
        }
        // A prune may have removed one meanwhile; it looks for memories after it has removed the record.
        for id in written {
            if self.archive.stored_at(&ObjectName::Record(id.clone()))?.is_none() {
                self.archive.remove(&[ObjectName::Verified(id.clone()), ObjectName::FoundDamaged(id)])?;
            }
        }
        Ok(())
    }

    /// Says whether something was written.
    fn backup(&self, record: &Record, problems: &[Problem], unknown: bool) -> Result<Option<String>> {
        let id = &record.id;
        // WAL behind its end is no part of it.
        let is_its_own = |problem: &&Problem| match ObjectName::parse(&problem.object) {
            Some(ObjectName::Wal(WalName::Segment(name))) => {
                record.wal.first <= name && name <= record.wal.last
            }
            Some(ObjectName::Wal(_)) => false,
            _ => true,
        };
        let its: Vec<String> = problems
            .iter()
            .filter(|problem| problem.backups.contains(id))
            .filter(is_its_own)
            .map(|problem| problem.object.clone())
            .take(NAMED)
            .collect();
        let memory = VerifiedBackup { at: self.options.now, problems: its };
        let damaged = ObjectName::FoundDamaged(id.clone());
        if !memory.problems.is_empty() {
            self.archive.remember(&damaged, &memory)?;
            return Ok(Some(id.clone()));
        }
        if self.options.quick || unknown {
            return Ok(None);
        }
        self.archive.remember(&ObjectName::Verified(id.clone()), &memory)?;
        if self.memory.backups.get(id) == Some(&true) {
            self.archive.remove(&[damaged])?;
        }
        Ok(Some(id.clone()))
    }

    fn packs(&self, bad: &BTreeSet<&str>) -> Result<()> {
        let mut named = PackSet::default();
        for record in self.selected().filter(|record| self.gone_through.contains(&record.id)) {
            named.extend(&self.archive.packs_of(record)?);
        }
        let read = named.iter().filter_map(|(id, number)| {
            let is_bad = bad.contains(ObjectName::Pack(id.to_owned(), number).to_string().as_str());
            let at = match self.is_due(id, number) {
                true => self.options.now,
                false => self.memory.packs.at(id, number)?,
            };
            (!is_bad).then_some((id, number, at))
        });
        self.archive.remember(&ObjectName::VerifiedPacks, &VerifiedPacks::collect(read))
    }

    fn segments(&self, bad: &BTreeSet<&str>) -> Result<()> {
        let Some(lines) = &self.lines else {
            return Ok(());
        };
        let mut segments = BTreeMap::new();
        for (name, _) in &self.wal {
            let WalName::Segment(segment) = *name else {
                continue;
            };
            let at = match self.is_wal_due(*name) {
                true => Some(self.options.now),
                false => self.memory.segments.get(&segment).copied(),
            };
            if !bad.contains(ObjectName::Wal(*name).to_string().as_str()) {
                segments.extend(at.map(|at| (segment, at)));
            }
        }
        // What is bad stays known, so that it is missed when it is gone; that it was good once counts no more.
        for name in self.memory.segments.keys() {
            if bad.contains(ObjectName::Wal(WalName::Segment(*name)).to_string().as_str()) {
                segments.insert(*name, Timestamp::UNIX_EPOCH);
            }
        }
        let memory = VerifiedWal::collect(&segments, lines.inventory.segment_size());
        self.archive.remember(&ObjectName::VerifiedWal, &memory)
    }
}
