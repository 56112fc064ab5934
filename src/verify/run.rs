//! A verification from beginning to end.

use super::backup::BackupCheck;
use super::evidence::Evidence;
use super::findings::{Findings, ProblemKind};
use super::packs::{ReadTask, TaskReader};
use super::state::{Options, Run, Scope, VerifyResult, bytes_of};
use super::wal;
use crate::codec::envelope::HEADER_SIZE;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::WalName;
use crate::progress;
use crate::repo::active::Explained;
use crate::repo::data::{NamedPacks, named};
use crate::repo::evidence::FoundSeams;
use crate::repo::packset::PackSet;
use crate::repo::record::Record;
use crate::repo::survey::{Survey, Want};
use crate::repo::{Archive, ObjectName};
use crate::runtime::thread;
use crossbeam_channel::{Receiver, bounded};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::info_span;

/// Number of tasks that wait for each reading thread.
const QUEUE_CAPACITY: usize = 4;

/// Verifies one archive.
///
/// # Errors
///
/// When the archive cannot be listed or stops answering. Damage and single objects that cannot be
/// read are part of the result.
pub fn verify(archive: &Archive, options: &Options) -> Result<VerifyResult> {
    let doing = || format!("verify repository {}", archive.repository().name());
    let _span = info_span!("verify", repository = archive.repository().name()).entered();
    progress::step("listing the repository");
    let findings = Findings::default();
    let mut run = Run::begin(archive, options, &findings).doing(doing)?;
    run.compare();
    if options.quick {
        run.look().doing(doing)?;
    } else {
        run.covered = run.read().doing(doing)?;
    }
    run.end().doing(doing)
}

impl<'a> Run<'a> {
    /// Lists the archive. Records are listed before the objects that they name, so that an object
    /// that is stored or removed meanwhile does not seem to be missing.
    fn begin(archive: &'a Archive, options: &'a Options, findings: &'a Findings) -> Result<Run<'a>> {
        let mut wal = Vec::new();
        let mut stored = BTreeMap::new();
        let want = Want { data: true, pins: true, verified: true, drills: false };
        let survey = Survey::read_each(archive, want, |name, listed| {
            wal.push((name, listed.size));
            if let WalName::Segment(segment) = name {
                stored.insert(segment, listed.modified);
            }
        })?;
        let branches = survey.branches(&options.server, options.now);
        let missing_histories = survey.missing_histories();
        let (records, damaged) = (survey.records.good, survey.records.damaged);
        for (id, error) in &damaged {
            findings.error(&ObjectName::Record(id.clone()), error, true, [id.as_str()]);
        }
        let selected = select(&options.scope, &records, &damaged)?;
        let mut standalone = BTreeSet::new();
        for (id, pin) in survey.pins {
            Findings::count(&findings.objects, 1);
            match pin {
                Ok(pin) if pin.standalone => drop(standalone.insert(id)),
                Ok(_) => {}
                Err(error) => findings.error(&ObjectName::Pin(id), &error, true, []),
            }
        }
        for (name, what) in archive.foreign()? {
            let is_wal = matches!(name, ObjectName::Wal(_));
            let kind = if is_wal { ProblemKind::Missing } else { ProblemKind::Damaged };
            findings.problem(kind, &name, format!("it is {what}, not a file"), []);
        }
        let evidence = Evidence::read(archive, &records, survey.verified, findings)?;
        let mut history = survey.wal;
        let seams = history.as_mut().filter(|_| !options.quick).map(|wal| wal.inventory.take_seams());
        let known_seams = FoundSeams(seams.unwrap_or_default().into_iter().collect());
        let run = Run {
            archive,
            options,
            findings,
            selected,
            standalone,
            data: survey.data,
            wal,
            stored,
            branches,
            missing_histories,
            known_gaps: survey.known_gaps,
            history,
            explained: explained(archive, &records, &evidence)?,
            evidence,
            known_seams,
            records,
            covered: BTreeSet::new(),
        };
        for (timeline, error) in survey.damaged_histories {
            let name = ObjectName::Wal(WalName::History(timeline));
            findings.error(&name, &error, true, run.leading_to(timeline));
        }
        Ok(run)
    }

    /// Checks presence and size of the objects that the backups name.
    fn look(&self) -> Result<()> {
        let listed: BTreeSet<&str> = self.records.iter().map(|record| record.id.as_str()).collect();
        for record in self.selected() {
            Findings::count(&self.findings.objects, 1 + record.manifest.len() as u64);
            let backup = BackupCheck::new(self.archive, record, &self.data, self.findings);
            if backup.parts()
                && let Err(error) = backup.quick(&listed)
            {
                let last = (1..).zip(&record.manifest).last();
                let name = match last {
                    Some((number, _)) => ObjectName::Manifest(record.id.clone(), number),
                    None => ObjectName::Record(record.id.clone()),
                };
                self.findings.error(&name, &error, true, [record.id.as_str()]);
            }
            self.check_outage()?;
        }
        self.look_at_wal()
    }

    /// Looks at the end of every WAL file in scope, on several threads.
    fn look_at_wal(&self) -> Result<()> {
        progress::step("looking at the WAL");
        let files: Vec<&(WalName, u64)> = self
            .wal
            .iter()
            .filter(|(name, size)| self.is_in_scope(*name) && *size > HEADER_SIZE as u64)
            .collect();
        let next = AtomicUsize::new(0);
        let work = |_| {
            while let Some((name, size)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.findings.is_outage() {
                    break;
                }
                self.look_at_file(*name, *size);
            }
            Ok(())
        };
        thread::share(self.options.jobs.get(), "look", work)?;
        self.check_outage()
    }

    /// Reads the trailer of a segment. A segment without a valid one, and every other file, is read
    /// to its end: such files are small, or old, or truncated.
    fn look_at_file(&self, name: WalName, size: u64) {
        if matches!(name, WalName::Segment(_) | WalName::Partial(_))
            && matches!(self.archive.has_whole_end(name, size), Ok(true))
        {
            return self.findings.reached();
        }
        for (name, result) in wal::check(self.archive, [name]) {
            self.findings.wal(self.archive, name, result);
        }
    }

    /// Reads everything in scope on several threads. Returns the ids of the backups whose manifests
    /// were read to the end.
    fn read(&self) -> Result<BTreeSet<String>> {
        let jobs = self.options.jobs.get();
        let total = self.total();
        progress::step("reading");
        let (send, tasks) = bounded::<ReadTask>(jobs * QUEUE_CAPACITY);
        thread::scope(|scope| {
            let read = move |tasks: Receiver<ReadTask>| {
                let mut reader = TaskReader::new(self.archive, self.findings);
                for task in tasks {
                    // During an outage the remaining tasks are dropped, so that their sender does
                    // not block.
                    if !self.findings.is_outage() {
                        reader.read(&task);
                        self.options.progress.set(self.findings.bytes.load(Ordering::Relaxed), total);
                    }
                }
            };
            let reads = (0..jobs).map(|_| tasks.clone()).map(|tasks| move || read(tasks));
            let readers = scope.spawn_some("read", reads)?;
            drop(tasks);
            let produced = self.produce(send);
            readers.into_iter().try_for_each(thread::ScopedThread::join)?;
            self.check_outage().and(produced)
        })
    }

    /// Bytes to read, approximately: blocks that no manifest names any more are not read.
    fn total(&self) -> u64 {
        let mut packs = PackSet::default();
        let mut total = 0;
        for record in self.selected() {
            total += record.manifest.iter().map(bytes_of).sum::<u64>();
            record.packs.iter().for_each(|named| packs.extend(named));
        }
        let due = named(&packs, &self.data).filter_map(|pack| match pack {
            NamedPacks::Listed(id, number, size) => self.is_due(id, number).then_some(size),
            NamedPacks::Missing(..) => None,
        });
        let wal = self.wal.iter().filter(|(name, _)| self.is_wal_due(*name)).map(|(_, size)| size);
        total + due.sum::<u64>() + wal.sum::<u64>()
    }
}

/// Returns the ids of the backups in scope.
fn select(scope: &Scope, records: &[Record], damaged: &[(String, Error)]) -> Result<BTreeSet<String>> {
    Ok(match scope {
        Scope::All => records.iter().map(|record| record.id.clone()).collect(),
        Scope::Wal => BTreeSet::new(),
        Scope::Backup(id) => {
            if !records.iter().any(|record| record.id == *id) && !damaged.iter().any(|(other, _)| other == id)
            {
                return Err(Error::new(Kind::Absent, format!("backup {id} does not exist"))
                    .hint("`walkeep list` shows the backups"));
            }
            [id.clone()].into()
        }
    })
}

/// Reads what other operations explain, if a note of a verification names a backup without a record.
fn explained(archive: &Archive, records: &[Record], evidence: &Evidence) -> Result<Explained> {
    let is_listed = |id: &String| records.iter().any(|record| record.id == *id);
    if evidence.backups.keys().all(is_listed) {
        return Ok(Explained::default());
    }
    archive.explained()
}
