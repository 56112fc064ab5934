//! Checks that read neither packs nor WAL: whether every object that has to exist was listed.

use super::findings::ProblemKind;
use super::state::{Run, Scope};
use crate::codec::envelope::HEADER_SIZE;
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::ObjectName;
use crate::repo::record::Record;

/// Maximum number of segments of one backup that are reported as missing.
const MAX_MISSING: usize = 1000;

impl Run<'_> {
    /// Performs all checks of this file.
    pub fn compare(&self) {
        if self.options.needs_backup
            && self.options.scope != Scope::Wal
            && !self.records.iter().any(Record::is_complete)
        {
            self.findings.no_backup();
        }
        if self.options.scope == Scope::All {
            let is_lost =
                |id: &&String| !self.is_listed(id) && !self.explained.explains(id, self.has_own_part(id));
            for id in self.evidence.backups.keys().filter(is_lost) {
                self.findings.problem(
                    ProblemKind::Missing,
                    &ObjectName::Record(id.clone()),
                    "the record is missing: the backup was listed when it was verified, and no prune removed it",
                    [id.as_str()],
                );
            }
        }
        self.histories();
        self.own_wal();
        for (name, size) in &self.wal {
            if *size <= HEADER_SIZE as u64 {
                let detail = format!("it has only {size} bytes");
                self.findings.problem(ProblemKind::Damaged, &ObjectName::Wal(*name), detail, []);
            }
        }
    }

    fn is_listed(&self, id: &str) -> bool {
        self.records.iter().any(|record| record.id == id)
            || self.findings.has_problem(&ObjectName::Record(id.to_owned()))
    }

    /// Checks that the history of each timeline exists. One that no recovery needs is only noted.
    fn histories(&self) {
        for missing in &self.missing_histories {
            let name = ObjectName::Wal(missing.name());
            if missing.is_needed() {
                let backups = missing.backups.iter().map(String::as_str);
                self.findings.problem_with(
                    ProblemKind::Missing,
                    &name,
                    missing.consequence(),
                    backups,
                    missing.hint(),
                );
            } else {
                self.findings.note(&name, missing.consequence());
            }
        }
    }

    /// Checks that the WAL that makes each backup consistent exists, also for backups that are kept
    /// with this WAL alone.
    fn own_wal(&self) {
        for record in self.selected() {
            let (wal, size) = (record.wal, record.segment_size);
            let numbers = wal.first.number(size)..=wal.last.number(size);
            let names = numbers.map(|number| SegmentName::of_number(record.timeline, number, size));
            let missing = names.filter(|segment| !self.stored.contains_key(segment));
            for segment in missing.take(MAX_MISSING) {
                let name = ObjectName::Wal(WalName::Segment(segment));
                let detail = format!("it is missing: backup {} is not consistent without it", record.id);
                self.findings.problem(ProblemKind::Missing, &name, detail, [record.id.as_str()]);
            }
        }
    }
}
