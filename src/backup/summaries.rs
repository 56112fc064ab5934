//! What the server's WAL summaries say (PostgreSQL 17 and later, `summarize_wal`): which blocks can have changed
//! between the start of the parent and the start of this backup. All other blocks of relations are as the parent has
//! them, but for changes behind that start, which recovery brings: they need not be read. In doubt they are.
//!
//! * Only main forks are promised anything. Changes of free space maps are not in the WAL, clearing a bit of a
//!   visibility map is not in the summaries, and all else is small.
//! * The *limit block* of a relation is the shortest that it was, 0 when it was made or dropped: everything from there on
//!   is read. Whoever reuses the number of a dropped relation has a limit of 0.
//! * A database that was made or dropped has a limit as a whole: everything in it is read. Its files may have been
//!   copied without a word in the WAL about their blocks.
//! * What was extended is longer than the parent has it, so it is read.
//! * The summaries have to cover the way from start to start without a hole, on one timeline. A server that ran with
//!   `wal_level = minimal` or without `summarize_wal` leaves a hole.
//! * A backup with bad pages is no base for this: they would be taken over without being looked at. Nor is one with
//!   another setting of data checksums: turning them on rewrites pages without WAL.

use super::source::{SOON, Server, lsn};
use crate::error::{Doing, Error, Kind, Result};

use crate::pg::client::column;
use crate::pg::lsn::Lsn;
use crate::pg::page::PAGE_SIZE;
use crate::pg::relation::Place;
use crate::pg::segment::TimelineId;
use crate::repo::record::Record;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::types::PgLsn;

/// Pages that are told apart, as a bit of a mask: 16 KiB. A mask of 32 bits covers 512 KiB, a *piece*.
const GROUP: u64 = 2;
const PIECE: u64 = 32 * GROUP;

/// Pieces that are remembered, 8 bytes each. A cluster of which more changed is read as a whole.
const MOST_PIECES: i64 = 4 << 20;

/// How long the summaries may lag behind, and stand still meanwhile, before they are not waited for any more.
const STILL: Duration = Duration::from_secs(30);
const LAG: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(200);

/// How long the server may take to read its summaries.
const READING: Duration = Duration::from_secs(600);

/// What can have changed in each relation.
pub struct Summaries {
    relations: HashMap<(Place, u32), Arc<Changed>>,
    /// Databases that were made or dropped.
    databases: HashSet<Place>,
    untouched: Arc<Changed>,
}

/// What can have changed in the main fork of one relation.
#[derive(Default)]
pub struct Changed {
    /// Everything from this page on.
    limit: Option<u64>,
    /// Pieces by their numbers, each with a bit for every group of pages.
    pieces: Vec<(u32, u32)>,
}

impl Summaries {
    /// What can have changed in a relation; `None` when that is not known.
    pub fn of(&self, place: Place, node: u32) -> Option<Arc<Changed>> {
        if self.databases.contains(&place) {
            return None;
        }
        Some(self.relations.get(&(place, node)).unwrap_or(&self.untouched).clone())
    }
}

impl Changed {
    /// Whether any of these pages, by their numbers in the relation, can have changed.
    pub fn touches(&self, pages: Range<u64>) -> bool {
        if self.limit.is_some_and(|limit| pages.end > limit) {
            return true;
        }
        (pages.start / GROUP..pages.end.div_ceil(GROUP)).any(|group| {
            let (piece, bit) = (group / 32, group % 32);
            let found = self.pieces.binary_search_by_key(&piece, |(piece, _)| u64::from(*piece));
            let mask = found.ok().and_then(|at| self.pieces.get(at)).map_or(0, |(_, mask)| *mask);
            mask >> bit & 1 == 1
        })
    }
}

impl Server {
    /// Asks for everything that changed between the parent's start and this one. `None`, with a word about the
    /// reason, when that cannot be known: then everything is read.
    pub fn summaries(&self, parent: &Record, timeline: TimelineId, start: Lsn) -> Result<Option<Summaries>> {
        if !self.found.summarizes {
            return Ok(None);
        }
        let known = match self.why_not(parent, timeline, start) {
            Some(why) => Err(Error::new(Kind::Refused, why)),
            None => self
                .await_summaries(timeline, parent.start_lsn, start)
                .and_then(|ranges| self.read_summaries(timeline, &ranges)),
        };
        match known {
            Ok(summaries) => Ok(Some(summaries)),
            Err(error) => {
                self.check()?;
                let what =
                    format!("all files are read: since backup {} the WAL summaries {error}", parent.id);
                tracing::info!("{what}");
                Ok(None)
            }
        }
    }

    fn why_not(&self, parent: &Record, timeline: TimelineId, start: Lsn) -> Option<String> {
        let settings = &self.found.settings;
        if !parent.is_complete() {
            return Some("do not count: it has bad pages".into());
        }
        if parent.settings.data_checksums != settings.data_checksums {
            return Some("do not count: data checksums were turned on or off".into());
        }
        if parent.settings.block_size != settings.block_size || settings.block_size as usize != PAGE_SIZE {
            return Some(format!("do not count: pages have {} bytes", settings.block_size));
        }
        if parent.timeline != timeline {
            return Some(format!("are of another timeline, {} and not {timeline}", parent.timeline));
        }
        // A standby that lags behind may begin before the parent has ended; what that copied may be newer.
        (parent.stop_lsn > start).then(|| format!("are of no use: it ended behind {start}"))
    }

    /// Waits until the server has summarized the WAL between two positions; gives the summaries that cover it.
    fn await_summaries(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Vec<(Lsn, Lsn)>> {
        let begun = Instant::now();
        let mut moved = (begun, Lsn(0));
        let mut wait = POLL / 16;
        loop {
            let ranges = self.available(timeline, from, to)?;
            let covered = covered(&ranges, from);
            if covered >= to {
                return Ok(ranges);
            }
            let later = ranges.iter().any(|(start, _)| *start > covered);
            let now = Instant::now();
            if covered > moved.1 {
                moved = (now, covered);
            }
            if later || now - moved.0 > STILL || now - begun > LAG {
                return Err(Error::new(Kind::Hole, format!("are not complete: {covered} is missing")));
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(POLL);
        }
    }

    fn available(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Vec<(Lsn, Lsn)>> {
        let sql = "SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() \
                   WHERE tli = $1 AND end_lsn > $2 AND start_lsn < $3 ORDER BY start_lsn, end_lsn";
        let timeline = i64::from(timeline.0);
        let rows = self.session.query(sql, &[&timeline, &PgLsn::from(from.0), &PgLsn::from(to.0)], SOON)?;
        rows.iter().map(|row| Ok((lsn(row, 0)?, lsn(row, 1)?))).collect()
    }

    /// Reads these summaries, put together by the server: it sends one row for each relation that changed, and of
    /// how many blocks it tells 8 bytes for half a mebibyte.
    fn read_summaries(&self, timeline: TimelineId, ranges: &[(Lsn, Lsn)]) -> Result<Summaries> {
        // Named one by one: one that is removed meanwhile is an error.
        let sql = format!(
            "WITH said AS MATERIALIZED (\
               SELECT reltablespace AS t, reldatabase AS d, relfilenode AS r, relblocknumber AS b, is_limit_block AS l \
               FROM unnest($2::pg_lsn[], $3::pg_lsn[]) AS ranges (s, e), \
               LATERAL pg_wal_summary_contents($1, s, e) WHERE relforknumber = 0), \
             piece AS MATERIALIZED (\
               SELECT t, d, r, b / {PIECE} AS p, bit_or(1::int8 << (b / {GROUP} % 32)::int4) AS m \
               FROM said WHERE NOT l GROUP BY 1, 2, 3, 4), \
             many AS (SELECT count(*) > {MOST_PIECES} AS many FROM piece) \
             SELECT t, d, r, NULL::int8, string_agg(int8send(p << 32 | m), ''::bytea ORDER BY p) \
               FROM piece WHERE NOT (SELECT many FROM many) GROUP BY 1, 2, 3 \
             UNION ALL SELECT t, d, r, min(b), NULL FROM said WHERE l AND NOT (SELECT many FROM many) GROUP BY 1, 2, 3 \
             UNION ALL SELECT 0, 0, 0, NULL, NULL FROM many WHERE many"
        );
        let timeline = i64::from(timeline.0);
        let bounds = |side: fn(&(Lsn, Lsn)) -> Lsn| -> Vec<PgLsn> {
            ranges.iter().map(|range| PgLsn::from(side(range).0)).collect()
        };
        let (starts, ends) = (bounds(|range| range.0), bounds(|range| range.1));
        let rows = self
            .session
            .query(&sql, &[&timeline, &starts, &ends], Some(READING))
            .doing(|| "cannot be read".to_owned())?;
        let mut relations: HashMap<(Place, u32), Changed> = HashMap::new();
        let mut databases = HashSet::new();
        for row in &rows {
            let place = Place { tablespace: column(row, 0)?, database: column(row, 1)? };
            let node: u32 = column(row, 2)?;
            let limit = column::<Option<i64>>(row, 3)?;
            let pieces = column::<Option<&[u8]>>(row, 4)?;
            if place.tablespace == 0 {
                return Err(Error::new(Kind::Refused, "say that most of it changed"));
            }
            if node == 0 {
                databases.insert(place);
                continue;
            }
            let changed = relations.entry((place, node)).or_default();
            changed.limit = limit.map(|limit| limit as u64).or(changed.limit);
            let (pieces, _) = pieces.unwrap_or_default().as_chunks::<8>();
            let piece = |bytes: &[u8; 8]| {
                let number = u64::from_be_bytes(*bytes);
                ((number >> 32) as u32, number as u32)
            };
            changed.pieces.extend(pieces.iter().map(piece));
        }
        let relations = relations.into_iter().map(|(key, changed)| (key, Arc::new(changed))).collect();
        Ok(Summaries { relations, databases, untouched: Arc::default() })
    }
}

/// How far the summaries lead from a position without a hole.
fn covered(ranges: &[(Lsn, Lsn)], from: Lsn) -> Lsn {
    let mut at = from;
    for (start, end) in ranges {
        if *start > at {
            break;
        }
        at = at.max(*end);
    }
    at
}
