//! Checks of one backup: its record, its manifest and the objects under `data/` have to agree.

use super::findings::{Findings, ProblemKind};
use crate::error::{Error, Kind, Result};
use crate::pg::control::Control;
use crate::pg::label::{Label, parse_tablespace_map};
use crate::repo::data::{Data, NamedPacks, named};
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::manifest::{self, Part, Use};
use crate::repo::packset::PackSet;
use crate::repo::record::{Record, TablespaceSize};
use crate::repo::{Archive, ObjectName};
use std::collections::{BTreeMap, BTreeSet};

/// Maximum size of a file whose content is checked.
const MAX_CONTENT: u64 = 1 << 20;

/// Files whose content decides whether a server starts; the last one only if there are tablespaces.
const NEEDED: [&str; 4] = ["PG_VERSION", "global/pg_control", "backup_label", "tablespace_map"];

/// A backup whose manifest is being read, part by part.
pub struct BackupCheck<'a> {
    archive: &'a Archive,
    record: &'a Record,
    data: &'a BTreeMap<String, Data>,
    findings: &'a Findings,
    packs: PackSet,
    /// Bytes that the files need of each pack, by the pack's backup and number.
    needs: BTreeMap<(String, u32), PackNeed>,
    /// The manifest's table of needed packs.
    uses: Vec<Use>,
    /// Files whose content is checked, with the packs of their part.
    needed_files: Vec<(Vec<String>, FileEntry)>,
}

#[derive(Default)]
struct PackNeed {
    /// End of the last frame that a file needs.
    end: u64,
    /// Number of bytes of blocks.
    live: u64,
}

impl<'a> BackupCheck<'a> {
    /// Begins the check of a backup; `data` are the packs and manifests that were listed.
    pub fn new(
        archive: &'a Archive,
        record: &'a Record,
        data: &'a BTreeMap<String, Data>,
        findings: &'a Findings,
    ) -> BackupCheck<'a> {
        BackupCheck {
            archive,
            record,
            data,
            findings,
            packs: PackSet::default(),
            needs: BTreeMap::new(),
            uses: Vec::new(),
            needed_files: Vec::new(),
        }
    }

    /// Adds the problem that the record contradicts itself or other objects.
    pub fn contradiction(&self, detail: impl Into<String>) {
        let name = ObjectName::Record(self.record.id.clone());
        self.findings.problem(ProblemKind::Inconsistent, &name, detail, [self.record.id.as_str()]);
    }

    /// Checks the WAL of the record, and presence and size of the objects of the manifest. Returns
    /// whether all of these can be read.
    pub fn parts(&self) -> bool {
        if !self.record.has_own_wal() {
            let Record { wal, start_lsn, stop_lsn, .. } = self.record;
            self.contradiction(format!(
                "the record has a backup from {start_lsn} to {stop_lsn}, but names the WAL from {} to {}",
                wal.first, wal.last
            ));
        }
        let mut whole = true;
        for part in self.record.manifest_objects() {
            let Some((id, number)) = part.place() else {
                whole = false;
                self.contradiction(format!("the record names {} as part of a manifest", part.key));
                continue;
            };
            let stored = self.data.get(&id).and_then(|data| data.manifests.get(&number));
            let name = ObjectName::Manifest(id, number);
            let problem = match stored {
                None => Some((ProblemKind::Missing, "it is missing".to_owned())),
                Some(size) if *size != part.size => Some((
                    ProblemKind::Damaged,
                    format!("it has {size} bytes, the record says {}", part.size),
                )),
                Some(_) => None,
            };
            if let Some((kind, detail)) = problem {
                whole = false;
                self.findings.problem(kind, &name, detail, [self.record.id.as_str()]);
            }
        }
        whole
    }

    /// Adds one part of the manifest.
    pub fn part(&mut self, part: &Part) -> Result<()> {
        for key in &part.packs {
            self.packs.insert(key)?;
        }
        self.uses.extend_from_slice(&part.uses);
        for entry in &part.entries {
            match entry {
                Entry::Dir(_) | Entry::Tablespace(_) => {}
                Entry::File(file) => self.file(part, file, true),
                Entry::Config(file) => self.file(part, file, false),
            }
        }
        Ok(())
    }

    fn file(&mut self, part: &Part, file: &FileEntry, is_inside: bool) {
        for (blocks, extent) in file.extents() {
            let bytes = file.bytes_of(&blocks);
            let pack = part.packs.get(extent.pack as usize).and_then(|key| ObjectName::parse(key));
            if let Some(ObjectName::Pack(id, number)) = pack {
                let need = self.needs.entry((id, number)).or_default();
                need.end = need.end.max(extent.offset.saturating_add(u64::from(extent.length)));
                need.live = need.live.saturating_add(bytes.end - bytes.start);
            }
        }
        if is_inside && NEEDED.iter().any(|name| name.as_bytes() == file.path.0) {
            self.needed_files.push((part.packs.clone(), file.clone()));
        }
    }

    /// Checks, after the whole manifest was read, that its packs agree with the record, and the content
    /// of the files that a server needs to start.
    pub fn finish(self) {
        let record = self.record;
        if record.packs.as_ref().is_some_and(|packs| *packs != self.packs) {
            self.contradiction("the packs of the record differ from the packs of the manifest");
        }
        self.locations();
        self.packs();
        self.needed_files();
    }

    /// Checks that a restore can create the tablespaces where they were.
    fn locations(&self) {
        let mut known = BTreeSet::new();
        for TablespaceSize { tablespace, .. } in &self.record.tablespaces {
            let Some(location) = &tablespace.location else {
                continue;
            };
            let mut parts = location.0.split(|&byte| byte == b'/');
            let is_clean = location.0.starts_with(b"/") && parts.all(|part| part != b"..");
            if !is_clean || !known.insert(location) {
                self.contradiction(format!(
                    "tablespace {} was in `{}`, where a restore cannot create it",
                    tablespace.oid,
                    location.display().escape_debug()
                ));
            }
        }
    }

    /// Checks presence and size of every pack, and the manifest's table of needed packs.
    fn packs(&self) {
        let mut uses: BTreeMap<&str, &Use> =
            self.uses.iter().map(|used| (used.pack.as_str(), used)).collect();
        let mut differ = self.uses.len() - uses.len();
        for ((id, number), need) in &self.needs {
            let name = ObjectName::Pack(id.clone(), *number);
            let used = uses.remove(name.to_string().as_str());
            differ += usize::from(used.is_none_or(|used| used.live != need.live));
            self.pack(&name, used.map(|used| used.stored.size), need.end);
        }
        differ += uses.len();
        if differ > 0 {
            self.contradiction(format!("the manifest's table of needed packs is wrong for {differ} of them"));
        }
    }

    /// Size of a pack; `None` if it was not listed.
    fn stored(&self, pack: &ObjectName) -> Option<u64> {
        match pack {
            ObjectName::Pack(id, number) => self.data.get(id)?.packs.get(number).copied(),
            _ => None,
        }
    }

    /// Checks presence and size of a pack, of which no bytes behind `end` are needed.
    pub fn pack(&self, name: &ObjectName, expected: Option<u64>, end: u64) {
        let own = [self.record.id.as_str()];
        match self.stored(name) {
            None => self.findings.problem(ProblemKind::Missing, name, "it is missing", own),
            Some(size) if size < end || expected.is_some_and(|expected| size != expected) => {
                let expected = expected.unwrap_or(end);
                let detail = format!("it has {size} bytes, the manifest says {expected}");
                self.findings.problem(
                    ProblemKind::Damaged,
                    name,
                    detail,
                    own.into_iter().filter(|_| size < end),
                );
            }
            Some(_) => {}
        }
    }

    /// Reports packs that do not exist.
    pub fn missing_packs(&self, id: &str, first: u32, last: u32) {
        let detail = match last - first {
            0 => "it is missing".to_owned(),
            more => format!("it and {more} more packs, up to number {last}, are missing"),
        };
        let name = ObjectName::Pack(id.to_owned(), first);
        self.findings.problem(ProblemKind::Missing, &name, detail, [self.record.id.as_str()]);
    }

    /// Checks presence and size of the packs that the backup needs. Reads the manifest only if
    /// necessary: the sizes are right when the sizes of the objects that the backup stored add up
    /// to `new_bytes` of its record, and when all other backups whose packs it names are listed,
    /// and so are checked themselves.
    pub fn quick(&self, listed: &BTreeSet<&str>) -> Result<()> {
        let packs = self.archive.packs_of(self.record)?;
        let mut are_sizes_right =
            self.data.get(&self.record.id).map(Data::bytes) == Some(self.record.new_bytes);
        for pack in named(&packs, self.data) {
            match pack {
                NamedPacks::Listed(id, ..) => are_sizes_right &= listed.contains(id),
                NamedPacks::Missing(id, first, last) => self.missing_packs(id, first, last),
            }
        }
        if are_sizes_right {
            return Ok(());
        }
        for used in manifest::uses(self.archive, self.record)? {
            if let Some(name) = ObjectName::parse(&used.pack) {
                self.pack(&name, Some(used.stored.size), used.stored.size);
            }
        }
        Ok(())
    }

    /// Checks the content of the files without which no server starts.
    fn needed_files(&self) {
        for (packs, file) in &self.needed_files {
            let path = file.path.display();
            let Some(name) = NEEDED.into_iter().find(|needed| *needed == path) else {
                continue;
            };
            if file.size > MAX_CONTENT {
                self.contradiction(format!("{name} has {} bytes", file.size));
                continue;
            }
            match self.archive.read_file(packs, file).and_then(|content| self.content(name, &content)) {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Problem => self.contradiction(error.to_string()),
                Err(error) => self.unread(packs, file, &error),
            }
        }
    }

    /// Adds the error of reading a file, as an error of the packs that have its blocks: the reading
    /// threads skip packs that an earlier verification has read recently.
    fn unread(&self, packs: &[String], file: &FileEntry, error: &Error) {
        for extent in &file.at {
            let pack = packs.get(extent.pack as usize).and_then(|key| ObjectName::parse(key));
            if let Some(name @ ObjectName::Pack(..)) = pack {
                let exists = self.stored(&name).is_some();
                self.findings.error(&name, error, exists, [self.record.id.as_str()]);
            }
        }
    }

    fn content(&self, name: &str, content: &[u8]) -> Result<()> {
        let record = self.record;
        let wrong = |detail: String| Err(Error::new(Kind::Problem, format!("{name} {detail}")));
        let bad = |error: Error| error.with_kind(Kind::Problem).doing(name.to_owned());
        match name {
            "PG_VERSION" => {
                let version = String::from_utf8_lossy(content);
                if version.trim() != self.archive.lineage().major.to_string() {
                    return wrong(format!("says {}", version.trim()));
                }
            }
            "global/pg_control" => {
                let control = Control::parse(content.to_vec()).map_err(bad)?;
                if control.system_identifier() != record.system_identifier {
                    return wrong(format!("is of the cluster {}", control.system_identifier()));
                }
            }
            "backup_label" => {
                let label = Label::parse(content).map_err(bad)?;
                if (label.start, label.timeline) != (record.start_lsn, record.timeline) {
                    return wrong(format!("says {} on timeline {}", label.start, label.timeline));
                }
                self.findings.labels.lock().insert(record.id.clone(), label);
            }
            // The map may name a tablespace that was dropped before its files were read.
            _ => drop(parse_tablespace_map(content).map_err(bad)?),
        }
        Ok(())
    }
}
