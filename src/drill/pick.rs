//! Which backup a drill takes, and to where it is recovered.

use crate::repo::drills::{Chosen, Drill};
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::restore::Target;
use std::collections::BTreeMap;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A backup by its id, or the best one for a target.
    This { backup: Option<String>, target: Target },
    /// What is next: the newest, the oldest kept, a pinned one, a random moment.
    Rotate,
}

/// What is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub chosen: Chosen,
    /// `None`: the best for the target.
    pub backup: Option<String>,
    pub target: Target,
}

/// In this order one goes round.
const ROUND: [Chosen; 4] = [Chosen::Newest, Chosen::Oldest, Chosen::Pinned, Chosen::Moment];

/// Chooses. `moment` is a random one of the window, where there is a window; `drills` are those of before, oldest
/// first.
pub fn choose(
    wanted: Wanted,
    records: &[Record],
    pins: &BTreeMap<String, Pin>,
    drills: &[Drill],
    moment: Option<jiff::Timestamp>,
) -> Choice {
    let (backup, target) = match wanted {
        Wanted::This { backup, target } => (backup, target),
        Wanted::Rotate => return next(records, pins, drills, moment),
    };
    let newest = backup.is_none() && target == Target::End;
    let standalone = backup.as_ref().and_then(|id| pins.get(id)).is_some_and(|pin| pin.standalone);
    Choice {
        chosen: if newest { Chosen::Newest } else { Chosen::Named },
        // Only the WAL to its own end is kept for it.
        target: if standalone && target == Target::End { Target::Immediate } else { target },
        backup,
    }
}

fn next(
    records: &[Record],
    pins: &BTreeMap<String, Pin>,
    drills: &[Drill],
    moment: Option<jiff::Timestamp>,
) -> Choice {
    let last = drills.iter().rev().find_map(|drill| ROUND.iter().position(|chosen| *chosen == drill.chosen));
    let begin = last.map_or(0, |last| last + 1);
    let is_standalone = |record: &Record| pins.get(&record.id).is_some_and(|pin| pin.standalone);
    let good = || records.iter().filter(|record| record.is_complete());
    let end = |record: &Record| if is_standalone(record) { Target::Immediate } else { Target::End };
    for step in 0..ROUND.len() {
        let Some(chosen) = ROUND.get((begin + step) % ROUND.len()).copied() else {
            continue;
        };
        let record = match chosen {
            Chosen::Oldest => good().find(|record| !is_standalone(record)),
            // The one whose last drill is longest ago.
            Chosen::Pinned => good().filter(|record| pins.contains_key(&record.id)).min_by_key(|record| {
                drills
                    .iter()
                    .rposition(|drill| drill.backup.as_ref() == Some(&record.id))
                    .map_or(0, |at| at + 1)
            }),
            Chosen::Moment => match moment {
                Some(moment) => return Choice { chosen, backup: None, target: Target::Time(moment) },
                None => None,
            },
            Chosen::Newest | Chosen::Named => {
                return Choice { chosen, backup: None, target: Target::End };
            }
        };
        if let Some(record) = record {
            return Choice { chosen, backup: Some(record.id.clone()), target: end(record) };
        }
    }
    Choice { chosen: Chosen::Newest, backup: None, target: Target::End }
}
