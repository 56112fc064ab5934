//! Evidence of earlier verifications in the repository.

use super::findings::{Findings, is_damage};
use crate::error::Result;
use crate::pg::segment::SegmentName;
use crate::repo::evidence::{VerifiedBackup, VerifiedPacks, VerifiedWal};
use crate::repo::packset::PackSet;
use crate::repo::record::{Record, WalRange};
use crate::repo::{Archive, ObjectName};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Evidence of earlier verifications.
#[derive(Default)]
pub struct Evidence {
    /// Backups that were verified; true: damage was found.
    pub backups: BTreeMap<String, bool>,
    pub packs: VerifiedPacks,
    pub wal: VerifiedWal,
    /// Packs of backups that were found damaged: read again in any case.
    distrusted: PackSet,
    distrusted_wal: Vec<WalRange>,
}

impl Evidence {
    /// Reads the evidence. Damaged evidence is reported and counts as absent. `backups` are the
    /// backups that were verified; true: damage was found.
    pub fn read(
        archive: &Archive,
        records: &[Record],
        backups: BTreeMap<String, bool>,
        findings: &Findings,
    ) -> Result<Evidence> {
        let packs: Option<VerifiedPacks> = recall(archive, &ObjectName::VerifiedPacks, findings)?;
        let wal: Option<VerifiedWal> = recall(archive, &ObjectName::VerifiedWal, findings)?;
        for (id, is_damaged) in &backups {
            let mut names = vec![ObjectName::Verified(id.clone())];
            if *is_damaged {
                names.push(ObjectName::FoundDamaged(id.clone()));
            }
            // Read only to report damaged evidence.
            for name in names {
                recall::<VerifiedBackup>(archive, &name, findings)?;
            }
        }
        let mut evidence = Evidence { backups, ..Evidence::default() };
        if let Some(packs) = packs {
            evidence.packs = packs;
        }
        if let Some(wal) = wal {
            evidence.wal = wal;
        }
        for record in records.iter().filter(|record| evidence.backups.get(&record.id) == Some(&true)) {
            evidence.distrusted_wal.push(record.wal);
            match archive.packs_of(record) {
                Ok(packs) => evidence.distrusted.extend(&packs),
                // Reported when the manifest is read.
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(evidence)
    }

    /// Whether a pack was read at `since` or later. A time in the future does not count.
    pub fn has_pack(&self, id: &str, number: u32, since: Timestamp, now: Timestamp) -> bool {
        self.packs.at(id, number).is_some_and(|at| since <= at && at <= now)
            && !self.distrusted.contains(id, number)
    }

    /// Whether a segment was read at `since` or later. A time in the future does not count.
    pub fn has_segment(&self, name: SegmentName, since: Timestamp, now: Timestamp) -> bool {
        self.wal.at(name).is_some_and(|at| since <= at && at <= now)
            && !self.distrusted_wal.iter().any(|wal| wal.first <= name && name <= wal.last)
    }
}

fn recall<T: serde::de::DeserializeOwned>(
    archive: &Archive,
    name: &ObjectName,
    findings: &Findings,
) -> Result<Option<T>> {
    match archive.memory(name) {
        Err(error) if is_damage(&error) => {
            findings.error(name, &error, true, []);
            Ok(None)
        }
        evidence => evidence,
    }
}
