//! The WAL summaries of the server (PostgreSQL 17 and later, `summarize_wal`): the blocks that may
//! have changed between the start of the parent and the start of this backup. All other blocks of
//! relations are unchanged since the parent, except for changes behind the start of this backup,
//! which recovery replays. So these blocks need not be read. In case of doubt they are read.
//!
//! * Only main forks are promised to be unchanged. Changes of free space maps are not in the WAL,
//!   clearing a bit of a visibility map is not in the summaries, and all other files are small.
//! * The *limit block* of a relation is its smallest length, 0 when it was created or dropped:
//!   everything from there on is read. A relation that reuses the number of a dropped one has a
//!   limit of 0.
//! * A database that was created or dropped has a limit as a whole: everything in it is read, since
//!   its files may have been copied without WAL records for their blocks.
//! * Blocks that were added are behind the end of the parent's file, so they are read.
//! * The summaries have to cover the WAL from start to start without a gap, on one timeline. A
//!   server that ran with `wal_level = minimal` or without `summarize_wal` leaves a gap.
//! * A parent with bad pages is not used: these pages would be taken over without being verified. A
//!   parent with another state of data checksums is not used, nor one during which the state
//!   changed: turning them on while the server is down rewrites pages without WAL.

use super::session::{STATEMENT_TIMEOUT, lsn};
use super::source::BackupServer;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::column;
use crate::pg::lsn::Lsn;
use crate::pg::page::PAGE_SIZE;
use crate::pg::relation::RelationDirectory;
use crate::pg::segment::TimelineId;
use crate::repo::record::Record;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::types::PgLsn;

/// Pages in a *group* of 16 KiB, which is one bit of a mask. A mask of 32 bits covers a *span* of
/// 512 KiB.
const GROUP_PAGES: u64 = 2;
const SPAN_PAGES: u64 = 32 * GROUP_PAGES;

/// Maximum number of spans in memory, 8 bytes each. If more spans changed, the whole cluster is
/// read.
const MAX_SPANS: i64 = 4 << 20;

/// Time limits for the summaries to reach the start of the backup: without any progress, and as a
/// whole.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const LAG_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Time limit for the server to read its summaries.
const READ_TIMEOUT: Duration = Duration::from_secs(600);

/// Pages that may have changed, by relation.
pub(super) struct Summaries {
    relations: HashMap<(RelationDirectory, u32), Arc<ChangedPages>>,
    /// Databases that were created or dropped.
    databases: HashSet<RelationDirectory>,
    unchanged: Arc<ChangedPages>,
}

/// Pages that may have changed in the main fork of one relation.
#[derive(Default)]
pub(super) struct ChangedPages {
    /// First page from which on all pages may have changed; `None` without a limit block.
    limit: Option<u64>,
    /// Spans in order of their numbers, each with a bit for every group of pages.
    spans: Vec<(u32, u32)>,
}

impl Summaries {
    /// Pages that may have changed in a relation; `None` when they are not known.
    pub fn of(&self, place: RelationDirectory, node: u32) -> Option<Arc<ChangedPages>> {
        if self.databases.contains(&place) {
            return None;
        }
        Some(self.relations.get(&(place, node)).unwrap_or(&self.unchanged).clone())
    }
}

impl ChangedPages {
    /// Whether any of these pages, by their numbers in the relation, may have changed.
    pub fn touches(&self, pages: Range<u64>) -> bool {
        if self.limit.is_some_and(|limit| pages.end > limit) {
            return true;
        }
        (pages.start / GROUP_PAGES..pages.end.div_ceil(GROUP_PAGES)).any(|group| {
            let (span, bit) = (group / 32, group % 32);
            let found = self.spans.binary_search_by_key(&span, |(span, _)| u64::from(*span));
            let mask = found.ok().and_then(|at| self.spans.get(at)).map_or(0, |(_, mask)| *mask);
            mask >> bit & 1 == 1
        })
    }
}

impl BackupServer {
    /// Reads the changes between the start of the parent and `start`. `None`, with a message that
    /// has the reason, when they are not known: then everything is read.
    pub(super) fn summaries(
        &self,
        parent: &Record,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<Option<Summaries>> {
        let known = match self.unusable(parent, timeline, start) {
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

    /// Reason why the summaries since the parent cannot be used, as the end of a sentence whose
    /// subject is the summaries.
    fn unusable(&self, parent: &Record, timeline: TimelineId, start: Lsn) -> Option<String> {
        let settings = &self.found.settings;
        if !parent.is_complete() {
            return Some("cannot be used: that backup has bad pages".into());
        }
        let states = (parent.settings.checksums().steady(), settings.checksums().steady());
        if states.0.is_none() || states.0 != states.1 {
            return Some("cannot be used: data checksums were turned on or off".into());
        }
        if parent.settings.block_size != settings.block_size || settings.block_size as usize != PAGE_SIZE {
            return Some(format!("cannot be used: pages have {} bytes", settings.block_size));
        }
        if parent.timeline != timeline {
            return Some(format!("are of another timeline, {} and not {timeline}", parent.timeline));
        }
        // A backup of a standby that lags behind may begin before the end of the parent, and the
        // parent may have copied newer blocks.
        (parent.stop_lsn > start).then(|| format!("cannot be used: that backup ended behind {start}"))
    }

    /// Waits until the server has summarized the WAL between two LSNs. Returns start and end of
    /// each summary.
    fn await_summaries(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Vec<(Lsn, Lsn)>> {
        let begun = Instant::now();
        let mut moved = (begun, Lsn(0));
        let mut wait = MAX_POLL_INTERVAL / 16;
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
            if later || now - moved.0 > STALL_TIMEOUT || now - begun > LAG_TIMEOUT {
                return Err(Error::new(Kind::Hole, format!("are not complete: {covered} is missing")));
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(MAX_POLL_INTERVAL);
        }
    }

    fn available(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Vec<(Lsn, Lsn)>> {
        let sql = "SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() \
                   WHERE tli = $1 AND end_lsn > $2 AND start_lsn < $3 ORDER BY start_lsn, end_lsn";
        let timeline = i64::from(timeline.0);
        let rows = self.session.query(
            sql,
            &[&timeline, &PgLsn::from(from.0), &PgLsn::from(to.0)],
            STATEMENT_TIMEOUT,
        )?;
        rows.iter().map(|row| Ok((lsn(row, 0)?, lsn(row, 1)?))).collect()
    }

    /// Reads these summaries. The server combines them: it sends one row for each changed relation,
    /// with 8 bytes for each span that changed.
    fn read_summaries(&self, timeline: TimelineId, ranges: &[(Lsn, Lsn)]) -> Result<Summaries> {
        // A summary that is removed meanwhile causes an error, since the statement names each one.
        let sql = format!(
            "WITH summary AS MATERIALIZED (\
               SELECT reltablespace AS t, reldatabase AS d, relfilenode AS r, relblocknumber AS b, is_limit_block AS l \
               FROM unnest($2::pg_lsn[], $3::pg_lsn[]) AS ranges (s, e), \
               LATERAL pg_wal_summary_contents($1, s, e) WHERE relforknumber = 0), \
             span AS MATERIALIZED (\
               SELECT t, d, r, b / {SPAN_PAGES} AS p, bit_or(1::int8 << (b / {GROUP_PAGES} % 32)::int4) AS m \
               FROM summary WHERE NOT l GROUP BY 1, 2, 3, 4), \
             many AS (SELECT count(*) > {MAX_SPANS} AS many FROM span) \
             SELECT t, d, r, NULL::int8, string_agg(int8send(p << 32 | m), ''::bytea ORDER BY p) \
               FROM span WHERE NOT (SELECT many FROM many) GROUP BY 1, 2, 3 \
             UNION ALL SELECT t, d, r, min(b), NULL FROM summary WHERE l AND NOT (SELECT many FROM many) GROUP BY 1, 2, 3 \
             UNION ALL SELECT 0, 0, 0, NULL, NULL FROM many WHERE many"
        );
        let timeline = i64::from(timeline.0);
        let bounds = |side: fn(&(Lsn, Lsn)) -> Lsn| -> Vec<PgLsn> {
            ranges.iter().map(|range| PgLsn::from(side(range).0)).collect()
        };
        let (starts, ends) = (bounds(|range| range.0), bounds(|range| range.1));
        let rows = self
            .session
            .query(&sql, &[&timeline, &starts, &ends], Some(READ_TIMEOUT))
            .doing("cannot be read")?;
        let mut relations: HashMap<(RelationDirectory, u32), ChangedPages> = HashMap::new();
        let mut databases = HashSet::new();
        for row in &rows {
            let place = RelationDirectory { tablespace: column(row, 0)?, database: column(row, 1)? };
            let node: u32 = column(row, 2)?;
            let limit = column::<Option<i64>>(row, 3)?;
            let spans = column::<Option<&[u8]>>(row, 4)?;
            if place.tablespace == 0 {
                return Err(Error::new(Kind::Refused, "list too many changed blocks"));
            }
            if node == 0 {
                databases.insert(place);
                continue;
            }
            let changed = relations.entry((place, node)).or_default();
            // A row has either a limit or spans.
            if let Some(limit) = limit {
                changed.limit = Some(limit.cast_unsigned());
            }
            if let Some(spans) = spans {
                changed.spans.extend(spans.as_chunks::<8>().0.iter().map(span));
            }
        }
        let relations = relations.into_iter().map(|(key, changed)| (key, Arc::new(changed))).collect();
        Ok(Summaries { relations, databases, unchanged: Arc::default() })
    }
}

/// Number and mask of a span, which the server sends as one integer.
fn span(bytes: &[u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *bytes;
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// The LSN up to which the summaries cover the WAL from `from` on without a gap.
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
