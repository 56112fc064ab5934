//! The WAL of a cluster in a repository that need not have shown its identity yet. What is found speaks for
//! itself, since every object names its cluster; that something is *not* found means nothing before
//! [`Repository::open`] has succeeded.

use super::archive::{StoredWal, check_header};
use super::{Body, Lineage, Put, Repository, key};
use crate::codec::envelope::{Content, ObjectKind};
use crate::error::{Doing, Result};
use crate::pg::segment::{SegmentName, TimelineId, WalName};
use crate::storage::{Key, Mode, PAGE, list_all};

pub struct Wal<'a> {
    repository: &'a Repository,
    lineage: Lineage,
    base: Key,
}

impl Repository {
    pub fn wal(&self, lineage: Lineage) -> Result<Wal<'_>> {
        Ok(Wal { repository: self, lineage, base: key::lineage(self.cluster(), lineage)? })
    }
}

impl<'a> Wal<'a> {
    pub(super) fn new(repository: &'a Repository, lineage: Lineage, base: Key) -> Wal<'a> {
        Wal { repository, lineage, base }
    }

    fn in_repository<T>(&self, what: &str, key: &Key, result: Result<T>) -> Result<T> {
        result.doing(|| format!("{what} {key} in repository {}", self.repository.name()))
    }

    /// Stores a WAL file that is encoded already. [`Put::Exists`] says nothing about the content, and nothing of it
    /// counts before the repository has shown its identity.
    pub fn put(&self, name: WalName, body: &dyn Body) -> Result<Put> {
        let key = self.base.join(key::wal(name))?;
        self.in_repository("store", &key, self.repository.store.put(&key, body, Mode::Create))
    }

    /// Opens a WAL file; `None` when there is no such file. What is opened has the right name and cluster in its
    /// header; the content is still to be checked.
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

    /// A complete segment behind this one on the same timeline, if there is any: then a missing one is a
    /// hole and not the end of the archive.
    pub fn later_segment(&self, name: SegmentName) -> Result<Option<SegmentName>> {
        let folder = self.base.join(key::wal_of(name.timeline))?;
        let mut after = self.base.join(key::wal(WalName::Segment(name)))?;
        // Mostly the next file tells; where many others lie between there shall not be as many requests.
        let mut limit = 8;
        loop {
            let page = self.repository.store.list(&folder, Some(&after), limit);
            limit = PAGE;
            let page = self.in_repository("list", &folder, page)?;
            for entry in &page.entries {
                if let Ok(WalName::Segment(later)) = entry.key.name().parse()
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

    /// The timelines that have a history file, in order.
    pub fn histories(&self) -> Result<Vec<TimelineId>> {
        let mut timelines = Vec::new();
        let folder = self.base.join(key::HISTORIES)?;
        let listed = list_all(&*self.repository.store, &folder, |entry| {
            if let Ok(WalName::History(timeline)) = entry.key.name().parse() {
                timelines.push(timeline);
            }
            Ok(())
        });
        self.in_repository("list", &folder, listed)?;
        Ok(timelines)
    }
}
