//! The contents of one repository, as `list`, `show` and `report` present them.

use crate::error::{Error, Result};
use crate::pg::segment::{SegmentName, TimelineId};
use crate::repo::branches::{Branches, ServerTimeline};
use crate::repo::catalog::Reach;
use crate::repo::data::{Data, exclusive, manifest_bytes, named_bytes};
use crate::repo::drills::{Drill, last_of};
use crate::repo::history::WalHistory;
use crate::repo::holes::Hole;
use crate::repo::missing::MissingHistory;
use crate::repo::packset::PackSet;
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::repo::survey::{Survey, Want};
use crate::repo::window::Window;
use crate::repo::{Archive, Records};
use crate::retention::{Policy, expires};
use crate::verify;
use std::collections::{BTreeMap, BTreeSet};

pub struct Contents {
    pub archive: Archive,
    pub records: Vec<Record>,
    pub damaged: Vec<(String, Error)>,
    /// Timelines whose history file is damaged, so their ancestors are unknown, and the errors.
    pub bad_histories: Vec<(TimelineId, Error)>,
    /// Ids of backups in which a verification found damage.
    pub found_damaged: BTreeSet<String>,
    /// Pins in force, by backup.
    pub pins: BTreeMap<String, Pin>,
    pub wal: Option<WalHistory>,
    /// Missing segments between others.
    pub gaps: Vec<Hole>,
    /// Histories that are missing, also those that no backup needs.
    pub missing_histories: Vec<MissingHistory>,
    /// Timelines, and which one is alive.
    pub branches: Branches,
    /// Window along the living timeline.
    pub window: Option<Window>,
    /// Windows of all timelines, in their order.
    pub windows: Vec<Window>,
    /// Damaged segments at the ends of windows, and the errors.
    pub bad_segments: Vec<(SegmentName, Error)>,
    pub sizes: Sizes,
    /// Drills, oldest first.
    pub drills: Vec<Drill>,
}

/// Sizes in bytes. Together they cover the repository except for a few small objects.
pub struct Sizes {
    /// Bytes that the removal of a backup alone would free, by backup.
    pub exclusive: BTreeMap<String, u64>,
    /// Size of the packs, manifests and records of all backups, each object counted once.
    pub backups: u64,
    /// Size of data that no record names: of backups that are running or were killed.
    pub unfinished: u64,
    pub wal: u64,
}

impl Contents {
    /// Reads a repository; `server` is the timeline of the cluster's server.
    pub fn read(archive: Archive, server: &ServerTimeline, now: jiff::Timestamp) -> Result<Contents> {
        let want = Want { data: true, pins: true, drills: true, verified: true };
        let mut survey = Survey::read(&archive, want)?;
        survey.look_for_seams(&archive)?;
        let branches = survey.branches(server, now);
        let windows = survey.windows(&archive, &branches)?;
        let pins = survey.pins_at(now).into_iter().map(|(id, pin)| (id.to_owned(), pin)).collect();
        let sizes = Sizes::of(&archive, &survey)?;
        let gaps = survey.holes(&branches, Some(&windows), now);
        let found_damaged = survey.verified.iter().filter(|(_, is_damaged)| **is_damaged);
        let found_damaged = found_damaged.map(|(id, _)| id.clone()).collect();
        Ok(Contents {
            archive,
            gaps,
            found_damaged,
            missing_histories: survey.missing_histories(),
            pins,
            sizes,
            records: survey.records.good,
            damaged: survey.records.damaged,
            bad_histories: survey.damaged_histories,
            wal: survey.wal,
            branches,
            window: windows.living,
            windows: windows.by_timeline,
            bad_segments: windows.damaged,
            drills: survey.drills,
        })
    }

    /// Sets the times at which the retention is expected to end the gaps.
    pub fn set_ends(&mut self, retention: &Policy, now: jiff::Timestamp) {
        for gap in &mut self.gaps {
            gap.set_end(|id| expires(retention, &self.records, id, now));
        }
    }

    /// Whether a verification found a backup damaged, or its cluster had damaged pages.
    pub fn is_damaged(&self, record: &Record) -> bool {
        !record.is_complete() || self.found_damaged.contains(&record.id)
    }

    /// Returns how far the WAL of a backup leads, along the living timeline if the backup leads to
    /// it, else along its own.
    pub fn reach(&self, record: &Record) -> Option<Reach> {
        let wal = self.wal.as_ref()?;
        let living = self.branches.living_history();
        let living = living.filter(|living| living.contains(record.timeline, record.stop_lsn));
        let history = living.unwrap_or_else(|| wal.history(record.timeline));
        wal.inventory.reach(record, &history)
    }

    /// Returns the last drill of a backup.
    pub fn drill(&self, id: &str) -> Option<&Drill> {
        last_of(&self.drills, id)
    }

    /// Returns the system identifiers and versions that the cluster had before its upgrades.
    pub fn earlier(&self) -> impl Iterator<Item = String> {
        let ancestors = &self.archive.identity().lineage;
        ancestors.iter().map(|ancestor| format!("{}-{}", ancestor.system_identifier, ancestor.pg))
    }
}

impl Sizes {
    fn of(archive: &Archive, survey: &Survey) -> Result<Sizes> {
        let Records { good: records, sizes: record_sizes, .. } = &survey.records;
        let packs_of = |record: &Record| match archive.packs_of(record) {
            // The packs of this backup are unknown; `verify` reports the damage of its manifest.
            Err(error) if verify::is_damage(&error) => Ok(PackSet::default()),
            packs => packs,
        };
        let named: Vec<PackSet> = records.iter().map(packs_of).collect::<Result<_>>()?;
        let size_of = |record: &Record| record_sizes.get(&record.id).copied().unwrap_or(0);
        let free = records.iter().zip(exclusive(records, &named, &survey.data));
        let exclusive = free.map(|(record, free)| (record.id.clone(), free + size_of(record))).collect();
        let mut packs = PackSet::default();
        named.iter().for_each(|named| packs.extend(named));
        let data = named_bytes(&packs, &survey.data) + manifest_bytes(records);
        let stored: u64 = survey.data.values().map(Data::bytes).sum();
        Ok(Sizes {
            exclusive,
            backups: data + records.iter().map(size_of).sum::<u64>(),
            unfinished: stored.saturating_sub(data),
            wal: survey.wal.as_ref().map_or(0, |wal| wal.inventory.bytes),
        })
    }
}
