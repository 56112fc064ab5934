//! The WAL files of a cluster in a repository.
//!
//! [`Wal`] needs no checked identity: a file that it finds belongs to the cluster, since every
//! object names its cluster. A file that it does *not* find proves nothing until
//! [`Repository::open`] has succeeded. All other access is through an [`Archive`].

use super::archive::Archive;
use super::name::ObjectName;
use super::object::{StoredWal, check_header};
use super::{Body, Lineage, Object, Put, Repository, key};
use crate::codec::envelope::{Content, ObjectKind, TRAILER_SIZE, trailer};
use crate::error::{Doing, Result};
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::storage::{Key, ListedObject, Mode, PAGE, list_all};
use std::collections::BTreeSet;

/// Access to WAL files before the identity of the repository was checked.
pub struct Wal<'a> {
    repository: &'a Repository,
    lineage: Lineage,
    base: Key,
}

impl Repository {
    /// Returns the WAL of a lineage, without a check of the identity.
    pub fn wal(&self, lineage: Lineage) -> Result<Wal<'_>> {
        Ok(Wal { repository: self, lineage, base: key::lineage(self.cluster(), lineage)? })
    }
}

impl Wal<'_> {
    fn in_repository<T>(&self, what: &str, key: &Key, result: Result<T>) -> Result<T> {
        result.doing(|| format!("{what} {key} in repository {}", self.repository.name()))
    }

    /// Stores an encoded WAL file. [`Put::Exists`] does not compare the content. Success counts
    /// only once the identity of the repository has been checked.
    pub fn put(&self, name: WalName, body: &dyn Body) -> Result<Put> {
        let key = self.base.join(key::wal(name))?;
        self.in_repository("store", &key, self.repository.store.put(&key, body, Mode::Create))
    }

    /// Opens a WAL file; `None` when it does not exist. The header has the right name and cluster;
    /// the content is still unchecked.
    pub fn get(&self, name: WalName) -> Result<Option<StoredWal>> {
        let key = self.base.join(key::wal(name))?;
        let read = || {
            let Some(object) = self.repository.store.get(&key, None)? else {
                return Ok(None);
            };
            let content = Content::open(object)?;
            check_header(&content.header, self.lineage, ObjectKind::Wal, &name.to_string())?;
            Ok(Some(content))
        };
        self.in_repository("read", &key, read())
    }

    /// Returns a later complete segment of the same timeline, `None` if there is none. If there is
    /// one, the missing segment `name` is a hole and not the end of the archive.
    pub fn later_segment(&self, name: SegmentName) -> Result<Option<SegmentName>> {
        let folder = self.base.join(key::wal_of(name.timeline))?;
        let mut after = self.base.join(key::wal(WalName::Segment(name)))?;
        // Usually the next file decides; a full page follows only when files of other kinds lie
        // between.
        let mut limit = 8;
        loop {
            let page = self.repository.store.list(&folder, Some(&after), limit);
            limit = PAGE;
            let page = self.in_repository("list", &folder, page)?;
            for listed in &page.entries {
                if let Ok(WalName::Segment(later)) = listed.key.name().parse()
                    && later > name
                {
                    return Ok(Some(later));
                }
            }
            match page.entries.last() {
                Some(last) if page.more => after = last.key.clone(),
                _ => return Ok(None),
            }
        }
    }

    /// Returns those of consecutive segments whose names are taken, whatever the content. Sends one
    /// request to a remote repository, unless many other files lie between the segments.
    pub fn taken(&self, names: &[SegmentName], size: SegmentSize) -> Result<Vec<SegmentName>> {
        let (Some(first), Some(last)) = (names.first(), names.last()) else {
            return Ok(Vec::new());
        };
        let mut taken = Vec::new();
        if !self.repository.is_remote() {
            for name in names {
                let key = self.base.join(key::wal(WalName::Segment(*name)))?;
                if self.in_repository("look for", &key, self.repository.store.head(&key))?.is_some() {
                    taken.push(*name);
                }
            }
            return Ok(taken);
        }
        let folder = self.base.join(key::wal_of(first.timeline))?;
        let before = SegmentName::of_number(first.timeline, first.number(size).saturating_sub(1), size);
        let mut after = self.base.join(key::wal(WalName::Segment(before)))?;
        loop {
            let page = self.repository.store.list(&folder, Some(&after), 2 * names.len());
            let page = self.in_repository("list", &folder, page)?;
            let mut is_behind = false;
            for entry in &page.entries {
                if let Ok(WalName::Segment(name)) = entry.key.name().parse() {
                    is_behind = name > *last;
                    taken.extend(names.contains(&name).then_some(name));
                }
            }
            match page.entries.last() {
                Some(entry) if page.more && !is_behind => after = entry.key.clone(),
                _ => return Ok(taken),
            }
        }
    }

    /// Returns the timelines that have a history file, and those that are retired. A mark counts by
    /// its key, even if it is damaged.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed.
    pub fn histories(&self) -> Result<(BTreeSet<TimelineId>, BTreeSet<TimelineId>)> {
        let (mut histories, mut retired) = (BTreeSet::new(), BTreeSet::new());
        let folder = self.base.join(key::HISTORIES)?;
        let listed = list_all(&*self.repository.store, &folder, |listed| {
            match ObjectName::parse(&format!("{}/{}", key::HISTORIES, listed.key.name())) {
                Some(ObjectName::Wal(WalName::History(timeline))) => drop(histories.insert(timeline)),
                Some(ObjectName::Retired(timeline)) => drop(retired.insert(timeline)),
                _ => {}
            }
            Ok(())
        });
        self.in_repository("list", &folder, listed)?;
        Ok((histories, retired))
    }
}

impl Archive {
    fn wal(&self) -> Wal<'_> {
        Wal { repository: self.repository(), lineage: self.lineage(), base: self.base().clone() }
    }

    /// Stores an encoded WAL file; see [`Wal::put`].
    ///
    /// The body may encode its content while the store reads it, and once more for each retry.
    pub fn put_wal(&self, name: WalName, body: &dyn Body) -> Result<Put> {
        self.wal().put(name, body)
    }

    /// Opens a WAL file; `None` when this repository does not have it. See [`Wal::get`].
    pub fn get_wal(&self, name: WalName) -> Result<Option<StoredWal>> {
        self.wal().get(name)
    }

    /// Whether a WAL object of `size` bytes ends as its writer ended it. False also for one that was
    /// stored without a trailer.
    ///
    /// # Errors
    ///
    /// [`Kind::Damage`](crate::error::Kind::Damage) when the object does not exist or is shorter;
    /// those of the store.
    pub fn has_whole_end(&self, name: WalName, size: u64) -> Result<bool> {
        let begin = size.saturating_sub(TRAILER_SIZE as u64);
        Ok(self.get_range(&key::wal(name), begin..size)? == trailer(size))
    }

    pub fn has_wal(&self, name: WalName) -> Result<bool> {
        Ok(self.head(&self.base().join(key::wal(name))?)?.is_some())
    }

    /// Opens a WAL file as it is stored, unchecked; `None` when it does not exist.
    pub fn open_wal_object(&self, name: WalName) -> Result<Option<Object>> {
        self.open_object(&key::wal(name))
    }

    /// Returns the timelines that have a history file, in order.
    pub fn histories(&self) -> Result<Vec<TimelineId>> {
        Ok(self.wal().histories()?.0.into_iter().collect())
    }

    /// Returns the timelines that are retired; see [`Wal::histories`].
    pub fn retired(&self) -> Result<BTreeSet<TimelineId>> {
        Ok(self.wal().histories()?.1)
    }

    /// Reads the history of a timeline; `None` when its file does not exist. Timeline 1 has no file
    /// and no ancestors.
    pub fn history(&self, timeline: TimelineId) -> Result<Option<History>> {
        if timeline.0 == 1 {
            return Ok(Some(History::root(timeline)));
        }
        let text = self.history_text(timeline)?;
        let history = text.map(|text| History::parse(timeline, &text)).transpose();
        history.doing(|| self.reading(timeline))
    }

    /// Reads the history file of a timeline; `None` when it does not exist.
    pub fn history_text(&self, timeline: TimelineId) -> Result<Option<Vec<u8>>> {
        let stored = self.get_wal(WalName::History(timeline))?;
        let read = stored.map(|stored| stored.read_all(MAX_FILE_SIZE)).transpose();
        Ok(read.doing(|| self.reading(timeline))?.map(|(_, text)| text))
    }

    fn reading(&self, timeline: TimelineId) -> String {
        format!("read {} of repository {}", WalName::History(timeline), self.repository().name())
    }

    /// Calls `each` with every WAL file, in order.
    pub fn each_wal(&self, mut each: impl FnMut(WalName, &ListedObject) -> Result<()>) -> Result<()> {
        self.each_wal_and_mark(|name, listed| match name {
            ObjectName::Wal(name) => each(name, listed),
            _ => Ok(()),
        })
    }

    /// Calls `each` with every WAL file, and with the marks of retired timelines, in order.
    pub(super) fn each_wal_and_mark(
        &self,
        each: impl FnMut(ObjectName, &ListedObject) -> Result<()>,
    ) -> Result<()> {
        self.each_named(key::WAL, each)
    }

    /// Returns the size of segments, from the first page of the listing; `None` when the page has
    /// no segment.
    pub fn any_segment_size(&self) -> Result<Option<SegmentSize>> {
        let page = self.list(&self.base().join(key::WAL)?, None, PAGE)?;
        for listed in &page.entries {
            if let Ok(name @ WalName::Segment(_)) = listed.key.name().parse()
                && let Some(stored) = self.get_wal(name)?
            {
                return SegmentSize::try_from(stored.size()).map(Some);
            }
        }
        Ok(None)
    }
}
