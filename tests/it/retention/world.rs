//! A made-up history of a cluster, from a seed: WAL, timelines, backups, pins, clocks. And what of
//! it can be restored, found out by trying everything.

use crate::support::each_pack;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use walkeep::pg::history::History;
use walkeep::pg::lsn::Lsn;
use walkeep::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use walkeep::repo::ObjectName;
use walkeep::repo::data::Data;
use walkeep::repo::packset::PackSet;
use walkeep::repo::pin::Pin;
use walkeep::repo::record::WalRange;
use walkeep::retention::{Backup, InUse, Policy, Removal, Stock};

pub const MB: u64 = 1 << 20;
pub const HOUR: i64 = 3600;
pub const DAY: i64 = 24 * HOUR;

/// Numbers that look random and are the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<'v, T>(&mut self, of: &'v [T]) -> &'v T {
        &of[self.below(of.len() as u64) as usize]
    }
}

pub fn size() -> SegmentSize {
    SegmentSize::try_from(MB).expect("a segment size")
}

pub fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).expect("a time")
}

/// A name that a backup may have.
pub fn id(number: u64) -> String {
    format!("20260101T000000Z-{number:06x}")
}

pub fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::of_number(TimelineId(timeline), number, size())
}

/// The stock, and what no repository knows: when things really were.
pub struct World {
    pub stock: Stock,
    /// When each segment was stored, by timeline and number.
    pub moments: BTreeMap<(u32, u64), i64>,
    /// When each backup ended.
    pub ended: BTreeMap<String, i64>,
    pub end: i64,
    /// Timeline on which the server wrote last.
    pub living: u32,
    dice: Dice,
}

impl World {
    /// With `lies` the clocks of some backups are far from the truth.
    pub fn make(seed: u64, lies: bool) -> World {
        let stock = Stock { segment_size: Some(size()), ..Stock::default() };
        let start = 1_700_000_000;
        let mut world = World {
            stock,
            moments: BTreeMap::new(),
            ended: BTreeMap::new(),
            end: start,
            living: 1,
            dice: Dice::new(seed),
        };
        world.live(lies);
        world.lose();
        world.settle();
        world.decorate();
        world
    }

    fn live(&mut self, lies: bool) {
        let mut timeline = 1;
        let mut position = 1 + self.dice.below(5);
        for _ in 0..4 + self.dice.below(40) {
            self.end += self.dice.below(30) as i64 * HOUR;
            match self.dice.below(12) {
                0..=4 => {
                    let count = 1 + self.dice.below(3);
                    self.write(timeline, &mut position, count);
                }
                5..=10 => self.back_up(timeline, &mut position, lies),
                _ => (timeline, position) = self.go_back(timeline, position),
            }
        }
        self.write(timeline, &mut position, 1);
        self.living = timeline;
    }

    /// Whether the segment that the server wrote last is there, as the last of its timeline.
    pub fn has_last(&self) -> bool {
        let newest = self.moments.iter().max_by_key(|(_, moment)| **moment);
        let last = self.moments.keys().rfind(|(timeline, _)| *timeline == self.living);
        newest.is_some_and(|(key, moment)| Some(key) == last && *moment == self.end)
    }

    fn write(&mut self, timeline: u32, position: &mut u64, count: u64) {
        for _ in 0..count {
            self.end += 1;
            self.moments.insert((timeline, *position), self.end);
            *position += 1;
        }
    }

    fn back_up(&mut self, timeline: u32, position: &mut u64, lies: bool) {
        let first = *position;
        let length = 1 + self.dice.below(2);
        self.write(timeline, position, length);
        let id = id(self.ended.len() as u64);
        let error = match lies && self.dice.one_in(4) {
            true => (self.dice.below(800) as i64 - 400) * DAY,
            false => 0,
        };
        let mut packs = PackSet::default();
        let mut data = Data::default();
        for number in 1..=1 + self.dice.below(3) as u32 {
            data.packs.insert(number, 1000 + u64::from(number));
            packs.insert(&ObjectName::Pack(id.clone(), number).to_string()).expect("a pack");
        }
        if !self.stock.backups.is_empty() && self.dice.one_in(2) {
            let other = self.dice.below(self.stock.backups.len() as u64) as usize;
            let shared: Vec<(String, u32)> = each_pack(&self.stock.backups[other].packs)
                .map(|(id, number)| (id.to_owned(), number))
                .collect();
            for (id, number) in shared {
                if self.dice.one_in(2) {
                    packs.insert(&ObjectName::Pack(id, number).to_string()).expect("a pack");
                }
            }
        }
        data.manifests.insert(1, 500);
        let mut manifest = BTreeMap::from([((id.clone(), 1), 500)]);
        if !self.stock.backups.is_empty() && self.dice.one_in(2) {
            let other = self.dice.below(self.stock.backups.len() as u64) as usize;
            manifest.extend(self.stock.backups[other].manifest.clone());
        }
        self.stock.data.insert(id.clone(), data);
        self.ended.insert(id.clone(), self.end);
        self.stock.backups.push(Backup {
            timeline: TimelineId(timeline),
            start_lsn: Lsn(first * MB + 40),
            stop_lsn: Lsn(*position * MB - 100),
            stop_time: at(self.end + error),
            is_complete: !self.dice.one_in(6),
            wal: WalRange { first: segment(timeline, first), last: segment(timeline, *position - 1) },
            segment_size: size(),
            packs,
            manifest,
            record_size: 700,
            id,
        });
    }

    /// Recovery to an earlier point, or a failover: a new timeline.
    fn go_back(&mut self, timeline: u32, position: u64) -> (u32, u64) {
        let fork = position - self.dice.below(position.min(6));
        let new = 1 + self.stock.histories.keys().next_back().map_or(1, |timeline| timeline.0);
        let mut parents = match timeline {
            1 => Vec::new(),
            _ => self.stock.histories[&TimelineId(timeline)].parents.clone(),
        };
        let end = Lsn(fork * MB + 1000);
        parents.retain(|(_, left)| *left < end);
        let parent = TimelineId(timeline);
        // Before its own beginning the WAL is that of an ancestor.
        let parent = match self.stock.histories.get(&parent) {
            Some(history) => history.timeline_at(Lsn(end.0 - 1)),
            None => parent,
        };
        parents.retain(|(ancestor, _)| *ancestor < parent);
        parents.push((parent, end));
        self.stock.histories.insert(TimelineId(new), History { timeline: TimelineId(new), parents });
        (new, fork)
    }

    /// What is lost: holes in the WAL, packs, manifests.
    fn lose(&mut self) {
        if self.dice.one_in(3) {
            let all: Vec<_> = self.moments.keys().copied().collect();
            for _ in 0..1 + self.dice.below(3) {
                self.moments.remove(self.dice.pick(&all));
            }
        }
        if self.dice.one_in(5) && !self.stock.backups.is_empty() {
            let ids: Vec<String> = self.stock.data.keys().cloned().collect();
            let data = self.stock.data.get_mut(self.dice.pick(&ids)).expect("there");
            data.packs.remove(&1);
        }
    }

    /// Fills in what follows from the rest.
    fn settle(&mut self) {
        self.stock
            .backups
            .sort_by(|a, b| (a.timeline, a.start_lsn, &a.id).cmp(&(b.timeline, b.start_lsn, &b.id)));
        for (timeline, number) in self.moments.keys() {
            self.stock.wal.push((WalName::Segment(segment(*timeline, *number)), 100));
        }
        for timeline in self.stock.histories.keys() {
            self.stock.wal.push((WalName::History(*timeline), 10));
        }
        for backup in &self.stock.backups {
            self.stock.wal.push((WalName::Backup(backup.wal.first, 0x28), 10));
        }
        for (timeline, number) in self.moments.keys() {
            let stored = at(self.moments[&(*timeline, *number)]);
            let newest = self.stock.stored.entry(TimelineId(*timeline)).or_insert(stored);
            *newest = stored.max(*newest);
        }
        self.find_runs();
    }

    fn find_runs(&mut self) {
        self.stock.segments.clear();
        for (name, _) in &self.stock.wal {
            let WalName::Segment(name) = name else {
                continue;
            };
            let number = name.number(size());
            let runs = self.stock.segments.entry(name.timeline).or_default();
            match runs.last_mut() {
                Some(run) if run.1 + 1 == number => run.1 = number,
                _ => runs.push((number, number)),
            }
        }
    }

    /// Pins, users, garbage, what verifications remember.
    fn decorate(&mut self) {
        let ids: Vec<String> = self.stock.backups.iter().map(|backup| backup.id.clone()).collect();
        for id in &ids {
            if self.dice.one_in(8) {
                let until = match self.dice.below(3) {
                    0 => None,
                    1 => Some(at(self.end - DAY)),
                    _ => Some(at(self.end + 1000 * DAY)),
                };
                self.stock.pins.insert(id.clone(), Pin { until, standalone: self.dice.one_in(2) });
            }
            match self.dice.below(12) {
                0 => drop(self.stock.remembered.insert(id.clone(), true)),
                1..=6 => drop(self.stock.remembered.insert(id.clone(), false)),
                _ => {}
            }
        }
        for number in 0..self.dice.below(3) {
            let garbage = id(0xF0000 + number);
            let packs = BTreeMap::from([(1, 10), (2, 20)]);
            self.stock.data.insert(garbage.clone(), Data { manifests: BTreeMap::new(), packs });
            match self.dice.below(3) {
                0 => self.stock.in_use.push(InUse {
                    operation: "a backup".into(),
                    backup: Some(garbage),
                    needs: Some(Vec::new()),
                    wal_from: (!self.dice.one_in(3)).then(|| Lsn(self.dice.below(60) * MB + 40)),
                }),
                1 if self.dice.one_in(6) => drop(self.stock.remembered.insert(garbage, false)),
                _ => {}
            }
        }
        if self.dice.one_in(5) && !ids.is_empty() {
            let needed = self.dice.below(ids.len() as u64) as usize;
            let wal_from = self.stock.backups[needed].start_lsn;
            self.stock.in_use.push(InUse {
                operation: "a restore".into(),
                backup: None,
                needs: Some(vec![self.stock.backups[needed].id.clone()]),
                wal_from: Some(wal_from),
            });
        }
        if self.dice.one_in(30) {
            self.stock.in_use.push(InUse { operation: "somebody".into(), ..InUse::default() });
        }
    }

    pub fn policy(&mut self) -> Policy {
        let dice = &mut self.dice;
        let mut count = || dice.one_in(3).then(|| 1 + dice.below(6) as u32);
        Policy {
            keep_last: count(),
            keep_daily: count(),
            keep_weekly: count(),
            keep_monthly: count(),
            keep_yearly: count(),
            keep_within: dice.one_in(2).then(|| Duration::from_secs((1 + dice.below(20)) * DAY as u64)),
        }
    }

    /// Whether there is a backup that was verified once and has no record: what it needs is not
    /// known.
    pub fn has_lost(&self) -> bool {
        let is_recorded = |id: &String| self.stock.backups.iter().any(|backup| backup.id == *id);
        let mut stored = self.stock.data.keys();
        stored.any(|id| !is_recorded(id) && self.stock.remembered.contains_key(id))
    }

    /// The backups that are whole, by looking at everything.
    pub fn whole(&self) -> BTreeSet<String> {
        let has =
            |id: &str, number| self.stock.data.get(id).is_some_and(|data| data.packs.contains_key(&number));
        let has_part = |id: &str, number: u32| {
            self.stock.data.get(id).is_some_and(|data| data.manifests.contains_key(&number))
        };
        let is_whole = |backup: &&Backup| {
            backup.is_complete
                && self.stock.remembered.get(&backup.id) != Some(&true)
                && each_pack(&backup.packs).all(|(id, number)| has(id, number))
                && backup.manifest.keys().all(|(id, number)| has_part(id, *number))
                && (backup.wal.first.number(size())..=backup.wal.last.number(size()))
                    .all(|number| self.has(segment(backup.wal.first.timeline.0, number)))
        };
        self.stock.backups.iter().filter(is_whole).map(|backup| backup.id.clone()).collect()
    }

    pub fn has(&self, name: SegmentName) -> bool {
        self.stock.wal.iter().any(|(other, _)| *other == WalName::Segment(name))
    }

    /// Whether recovery from some whole backup gets to the end of this segment.
    pub fn reaches(&self, timeline: u32, number: u64) -> bool {
        let there: BTreeSet<WalName> = self.stock.wal.iter().map(|(name, _)| *name).collect();
        let whole = self.whole();
        let history = self.stock.history(TimelineId(timeline));
        let end = Lsn((number + 1) * MB);
        let leads = |backup: &&Backup| {
            backup.stop_lsn <= end
                && history.contains(backup.timeline, backup.stop_lsn)
                && (backup.first()..=number).all(|number| {
                    // The server asks for the newest timeline that has begun by then, and then for
                    // older ones.
                    let begins = |timeline: TimelineId| {
                        let before = history.parents.iter().rfind(|(parent, _)| *parent < timeline);
                        before.map_or(0, |(_, end)| end.0 / MB)
                    };
                    let mut line: Vec<TimelineId> = history.parents.iter().map(|parent| parent.0).collect();
                    line.push(history.timeline);
                    line.iter().any(|timeline| {
                        begins(*timeline) <= number
                            && there.contains(&WalName::Segment(segment(timeline.0, number)))
                    })
                })
        };
        self.stock.backups.iter().filter(|backup| whole.contains(&backup.id)).any(|backup| leads(&backup))
    }

    /// The world after a prune.
    pub fn without(&self, removal: &Removal) -> World {
        let gone: BTreeSet<&ObjectName> = removal.names().collect();
        let mut stock = self.stock.clone();
        stock.backups.retain(|backup| !gone.contains(&ObjectName::Record(backup.id.clone())));
        stock.wal.retain(|(name, _)| !gone.contains(&ObjectName::Wal(*name)));
        stock.pins.retain(|id, _| !gone.contains(&ObjectName::Pin(id.clone())));
        stock.remembered.retain(|id, _| !gone.contains(&ObjectName::Verified(id.clone())));
        for (id, data) in &mut stock.data {
            data.manifests.retain(|number, _| !gone.contains(&ObjectName::Manifest(id.clone(), *number)));
            data.packs.retain(|number, _| !gone.contains(&ObjectName::Pack(id.clone(), *number)));
        }
        stock.data.retain(|_, data| !data.manifests.is_empty() || !data.packs.is_empty());
        let mut world = World {
            stock,
            moments: self.moments.clone(),
            ended: self.ended.clone(),
            end: self.end,
            living: self.living,
            dice: Dice::new(1),
        };
        world.find_runs();
        world
    }
}

/// When the worlds that are made by hand begin.
pub const START: i64 = 1_700_000_000;

/// For worlds that are made by hand.
impl World {
    pub fn empty() -> World {
        World {
            stock: Stock { segment_size: Some(size()), ..Stock::default() },
            moments: BTreeMap::new(),
            ended: BTreeMap::new(),
            end: START,
            living: 1,
            dice: Dice::new(1),
        }
    }

    fn last_on(&self, timeline: u32) -> u64 {
        self.moments.keys().filter(|key| key.0 == timeline).map(|key| key.1).max().unwrap_or(1)
    }

    /// A whole backup on timeline 1 with a pack of its own and one segment, and one segment more.
    pub fn simple_backup(&mut self) {
        self.simple_backup_on(1, self.last_on(1) + 1);
    }

    pub fn simple_backup_on(&mut self, timeline: u32, first: u64) {
        let number = self.ended.len() as u64;
        let end = self.end;
        let mut position = first;
        self.dice = Dice::new(number + 1);
        self.back_up(timeline, &mut position, false);
        let backup = self.stock.backups.last_mut().expect("just made");
        backup.is_complete = true;
        backup.wal.last = segment(timeline, first);
        backup.stop_lsn = Lsn(first * MB + 4000);
        backup.stop_time = at(end);
        self.moments.retain(|key, _| key.0 != timeline || key.1 <= first);
        position = first + 1;
        self.write(timeline, &mut position, 1);
        self.end = end;
    }

    pub fn fork(&mut self, new: u32, parent: u32, number: u64) {
        let parents = vec![(TimelineId(parent), Lsn(number * MB + 100))];
        self.stock.histories.insert(TimelineId(new), History { timeline: TimelineId(new), parents });
    }

    pub fn finish(&mut self) {
        self.settle();
    }
}
