//! Whether the primary goes on where the archive ends: the drill's server follows it as a standby, up to a restore
//! point that is made there for this.
//!
//! The primary keeps nothing for it: no slot, no feedback, and no commit waits for it. The WAL that is streamed was not
//! looked through before, so a primary that has tablespaces which the backup does not know is not followed: to replay
//! their creation would write to where they are.

use super::recover::{Recovering, Setting};
use super::server::{POLL, Server};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Options, Session, column};
use crate::pg::conninfo::ConnInfo;
use crate::pg::lsn::Lsn;
use crate::pg::segment::TimelineId;
use crate::restore::Plan;
use std::time::{Duration, Instant};

/// The server that is followed.
pub struct Primary {
    pub info: ConnInfo,
    /// The same as libpq reads it.
    pub conninfo: String,
    /// For how long it is followed at most.
    pub patience: Duration,
}

/// For each question to the primary.
const ANSWER: Option<Duration> = Some(Duration::from_secs(30));

/// How often the server's log is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What a server says when its WAL and the primary's are not of one history.
const DIVERGED: [&str; 5] = [
    "before current recovery point",
    "is behind recovery timeline",
    "is not in this server's history",
    "is not a child of this server's history",
    "is ahead of the WAL flush position of this server",
];

const STREAMING: &str = "started streaming WAL from primary at ";

/// What the primary is at.
struct Mark {
    point: String,
    lsn: Lsn,
}

/// Follows the primary from the end of the archive to where it is now. Gives the server, which has left recovery there,
/// and what there is to say; that is an error when it came there without the primary. [`Kind::Problem`]: it is not the
/// same history.
pub fn follow(
    recovering: &Recovering<'_>,
    primary: &Primary,
    plan: &Plan,
    end: Lsn,
    random: &str,
) -> Result<(Server, Result<String>)> {
    let name = format!("walkeep_drill_{random}");
    let mark = mark(primary, plan, end, &name)?;
    let mut server = recovering.start("standby.signal", &settings(primary, &mark, &name))?;
    let begun = Instant::now();
    let mut looked = begun;
    while !server.is_ready() {
        recovering.surroundings.check()?;
        let is_over = server.ended()?.is_some() || begun.elapsed() > primary.patience;
        if is_over || looked.elapsed() > LOOK {
            looked = Instant::now();
            let log = server.log()?;
            if let Some(line) = DIVERGED.iter().find_map(|words| log.line_with(words)) {
                return Err(Error::new(Kind::Problem, format!("the archive and the primary have diverged: {line}"))
                    .hint("which of the two holds the data that count? do not prune, and take a backup of the primary"));
            }
            if is_over {
                let error = Error::new(
                    Kind::Unavailable,
                    format!(
                        "it did not come to {} within {:?}: {}",
                        mark.lsn,
                        primary.patience,
                        log.last_word()
                    ),
                );
                return Err(error.hint(
                    "the role of `connection` needs REPLICATION, and pg_hba.conf of the primary a line `replication` for it",
                ));
            }
        }
        std::thread::sleep(POLL);
    }
    // A password may stand in it, and the directory may be kept.
    recovering.configure(&[])?;
    let told = match server.log()?.line_with(STREAMING).and_then(|line| line.split_once(STREAMING)) {
        Some((_, from)) => Ok(format!("streamed from {from}, caught up with the primary at {}", mark.lsn)),
        None => Err(Error::new(
            Kind::Unavailable,
            format!("it came to {} by the archive alone: nothing was left to be streamed", mark.lsn),
        )
        .hint("try again: the primary has just archived it")),
    };
    Ok((server, told))
}

fn settings(primary: &Primary, mark: &Mark, name: &str) -> Vec<Setting> {
    let conninfo = match primary.conninfo.trim() {
        "" => "dbname=replication",
        conninfo => conninfo,
    };
    [
        ("primary_conninfo", conninfo),
        // How it is called at the primary.
        ("cluster_name", name),
        ("wal_receiver_create_temp_slot", "off"),
        ("hot_standby_feedback", "off"),
        ("wal_retrieve_retry_interval", "500ms"),
        ("recovery_target_timeline", "latest"),
        ("recovery_target_name", &mark.point),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// Looks whether the primary can and may be followed, and marks where it is.
fn mark(primary: &Primary, plan: &Plan, end: Lsn, name: &str) -> Result<Mark> {
    let doing = || "ask the primary".to_owned();
    let session = Session::connect(&primary.info, &Options::default()).doing(doing)?;
    let row = session
        .query_one(
            "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(), \
                    current_setting('synchronous_standby_names'), \
                    coalesce((SELECT array_agg(oid) FROM pg_tablespace WHERE oid >= 16384), '{}')",
            &[],
            ANSWER,
        )
        .doing(doing)?;
    let refused = |what: String, hint: &str| Err(Error::new(Kind::Refused, what).hint(hint));
    if column::<i64>(&row, 0)?.cast_unsigned() != plan.archive.lineage().system_identifier {
        return refused(
            "`connection` leads to another cluster".to_owned(),
            "`connection`, or `primary` beside it, has to lead to the primary of the cluster",
        );
    }
    if column(&row, 1)? {
        return refused(
            "`connection` leads to a standby".to_owned(),
            "give `primary = \"host=…\"` beside `connection` in the configuration",
        );
    }
    let called = primary.info.application_name.as_deref().unwrap_or(name);
    if counts_as_synchronous(column(&row, 2)?, called) {
        return refused(
            "synchronous_standby_names of the primary would count the server of the drill, and commits would wait for it"
                .to_owned(),
            "name the synchronous standbys there instead of `*`",
        );
    }
    let known = &plan.record.tablespaces;
    let new = column::<Vec<u32>>(&row, 3)?
        .into_iter()
        .find(|oid| !known.iter().any(|tablespace| tablespace.tablespace.oid == *oid));
    if let Some(oid) = new {
        return refused(
            format!("the primary has tablespace {oid}, which backup {} does not know", plan.record.id),
            "take a new backup: it has the tablespace",
        );
    }
    same_history(&session, plan, end)?;
    let point = format!("{name} {}", plan.record.id);
    let row = session
        .query_one("SELECT pg_create_restore_point($1)::text", &[&point], ANSWER)
        .doing(|| "mark where the primary is".to_owned())?;
    Ok(Mark { lsn: column::<String>(&row, 0)?.parse()?, point })
}

/// What can be seen before anything is streamed. That a newer timeline of the primary left the archive's too early, the
/// server finds out.
fn same_history(session: &Session, plan: &Plan, end: Lsn) -> Result<()> {
    let row = session.query_one(
        "SELECT pg_current_wal_flush_lsn()::text, \
                ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int",
        &[],
        ANSWER,
    )?;
    let flushed: Lsn = column::<String>(&row, 0)?.parse()?;
    let timeline = TimelineId(column::<i32>(&row, 1)?.cast_unsigned());
    let archived = plan.history.timeline;
    if timeline > archived || (timeline == archived && flushed >= end) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Problem,
        format!(
            "the archive and the primary have diverged: the archive leads to {end} on timeline {archived}, the primary is at {flushed} on timeline {timeline}"
        ),
    )
    .hint("is `connection` the cluster that counts? look for another server that archives into this repository"))
}

/// Whether `synchronous_standby_names` counts a standby of this name.
fn counts_as_synchronous(names: &str, name: &str) -> bool {
    let words = names.split(|c: char| c.is_whitespace() || "(),\"".contains(c));
    words.into_iter().any(|word| word == "*" || word.eq_ignore_ascii_case(name))
}
