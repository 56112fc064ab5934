//! Selection of the backup and the recovery target of a drill.

use crate::repo::drills::{Chosen, Drill};
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::restore::RecoveryTarget;
use std::collections::BTreeMap;

/// Request of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrillRequest {
    /// The backup with this id, or the best one for a target.
    This { backup: Option<String>, target: RecoveryTarget },
    /// The next step of the rotation: the newest backup, the oldest kept one, a pinned one, a
    /// random moment.
    Rotate,
}

/// Backup and target of a drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub chosen: Chosen,
    /// Id of the backup; `None` for the best one for the target.
    pub backup: Option<String>,
    pub target: RecoveryTarget,
}

impl Selection {
    fn end_of_archive() -> Selection {
        Selection { chosen: Chosen::Newest, backup: None, target: RecoveryTarget::End }
    }
}

/// Order of the rotation.
const ROTATION: [Chosen; 4] = [Chosen::Newest, Chosen::Oldest, Chosen::Pinned, Chosen::Moment];

/// Selects backup and target. `drills` are the earlier drills, oldest first; `moment` is a random
/// moment of the restorable window, `None` if there is no window.
pub fn select(
    request: DrillRequest,
    records: &[Record],
    pins: &BTreeMap<String, Pin>,
    drills: &[Drill],
    moment: Option<jiff::Timestamp>,
) -> Selection {
    let (backup, target) = match request {
        DrillRequest::This { backup, target } => (backup, target),
        DrillRequest::Rotate => return next_of_rotation(records, pins, drills, moment),
    };
    let is_newest = backup.is_none() && target == RecoveryTarget::End;
    let is_standalone = backup.as_ref().and_then(|id| pins.get(id)).is_some_and(|pin| pin.standalone);
    Selection {
        chosen: if is_newest { Chosen::Newest } else { Chosen::Named },
        // For a standalone pin only the WAL up to the end of the backup is kept.
        target: if is_standalone && target == RecoveryTarget::End {
            RecoveryTarget::Immediate
        } else {
            target
        },
        backup,
    }
}

/// Returns the selection for the step of the rotation after the step of the last drill. Steps for
/// which there is no backup are skipped.
fn next_of_rotation(
    records: &[Record],
    pins: &BTreeMap<String, Pin>,
    drills: &[Drill],
    moment: Option<jiff::Timestamp>,
) -> Selection {
    let last = drills.iter().rev().find_map(|drill| ROTATION.iter().position(|step| *step == drill.chosen));
    let begin = last.map_or(0, |last| last + 1);
    let is_standalone = |record: &Record| pins.get(&record.id).is_some_and(|pin| pin.standalone);
    let complete = || records.iter().filter(|record| record.is_complete());
    let end =
        |record: &Record| if is_standalone(record) { RecoveryTarget::Immediate } else { RecoveryTarget::End };
    // Number of the last drill of a backup, counted from 1; 0 when it has had none.
    let last_drill = |record: &Record| {
        drills.iter().rposition(|drill| drill.backup.as_ref() == Some(&record.id)).map_or(0, |at| at + 1)
    };
    for chosen in ROTATION.into_iter().cycle().skip(begin).take(ROTATION.len()) {
        let record = match chosen {
            Chosen::Oldest => complete().find(|record| !is_standalone(record)),
            Chosen::Pinned => complete()
                .filter(|record| pins.contains_key(&record.id))
                .min_by_key(|record| last_drill(record)),
            Chosen::Moment => {
                if let Some(moment) = moment {
                    return Selection { chosen, backup: None, target: RecoveryTarget::Time(moment) };
                }
                None
            }
            Chosen::Newest | Chosen::Named => return Selection::end_of_archive(),
        };
        if let Some(record) = record {
            return Selection { chosen, backup: Some(record.id.clone()), target: end(record) };
        }
    }
    Selection::end_of_archive()
}
