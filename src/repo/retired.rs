//! Marks of timelines that were retired: branches that no server continues. Nothing of a retired
//! timeline is removed; it is followed only where its number is given.

use super::Archive;
use super::name::ObjectName;
use crate::codec::envelope::ObjectKind;
use crate::error::{Doing, Result};
use crate::pg::segment::TimelineId;
use crate::storage::{Mode, Put};
use serde::{Deserialize, Serialize};

/// Mark of a retired timeline. Its key says which one; the content is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireMark {
    pub timeline: TimelineId,
    pub retired: jiff::Timestamp,
}

impl Archive {
    /// Retires a timeline. Returns false when it was retired already.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn retire(&self, timeline: TimelineId, now: jiff::Timestamp) -> Result<bool> {
        let name = ObjectName::Retired(timeline);
        let mark = RetireMark { timeline, retired: now };
        let put = self.put_small(&name, ObjectKind::Retired, &mark, Mode::Create);
        let put =
            put.doing(|| format!("retire timeline {timeline} in repository {}", self.repository().name()))?;
        Ok(put == Put::Stored)
    }

    /// Removes the mark of a timeline. Returns false when it was not retired.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn unretire(&self, timeline: TimelineId) -> Result<bool> {
        let name = ObjectName::Retired(timeline);
        let was_retired = self.stored_at(&name)?.is_some();
        self.remove(&[name]).doing(|| {
            format!("remove the mark of timeline {timeline} in repository {}", self.repository().name())
        })?;
        Ok(was_retired)
    }

    /// Copies the mark of a timeline to another archive. Returns its bytes; `None` when it was
    /// removed meanwhile or the other archive has one.
    ///
    /// # Errors
    ///
    /// Those of the stores, and `Damage` when the mark is not one.
    pub fn copy_mark(&self, to: &Archive, timeline: TimelineId) -> Result<Option<u64>> {
        let name = ObjectName::Retired(timeline);
        let Some(mark) = self.get_small::<RetireMark>(&name, ObjectKind::Retired)? else {
            return Ok(None);
        };
        let put = to.put_small(&name, ObjectKind::Retired, &mark, Mode::Create)?;
        let size = to.size(&name.to_string())?;
        Ok(size.filter(|_| put == Put::Stored))
    }
}
