//! Comparison with the primary, which shows whether its WAL continues where the archive ends. The
//! drill's server follows the primary as a standby, up to a restore point that the drill creates
//! there.
//!
//! The primary retains nothing for it: there is no slot and no feedback, and no commit waits for
//! it. The WAL that is streamed was not scanned before, so a primary with tablespaces that the
//! backup does not have is not followed: replaying their creation would write into their
//! directories.

use super::recover::{Recovering, RecoverySetting};
use super::runner::POLL_INTERVAL;
use super::server::DrillServer;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Session, SessionOptions, column};
use crate::pg::conninfo::ConnInfo;
use crate::pg::lsn::Lsn;
use crate::pg::record::Parameters;
use crate::pg::segment::TimelineId;
use crate::restore::RestorePlan;
use std::time::{Duration, Instant};

/// The server to follow.
pub struct Primary {
    pub info: ConnInfo,
    /// `info` as a connection string of libpq, for `primary_conninfo`.
    pub conninfo: String,
    /// Maximum time to follow it.
    pub patience: Duration,
}

/// Timeout of one statement on the primary.
const STATEMENT_TIMEOUT: Option<Duration> = Some(Duration::from_secs(30));

/// Interval between two reads of the server's log.
const LOG_INTERVAL: Duration = Duration::from_millis(500);

/// Messages of a server whose WAL and the WAL of the primary have diverged.
const DIVERGED: [&str; 5] = [
    "before current recovery point",
    "is behind recovery timeline",
    "is not in this server's history",
    "is not a child of this server's history",
    "is ahead of the WAL flush position of this server",
];

/// Start of the message of a server that begins to stream; the position follows.
const STREAMING: &str = "started streaming WAL from primary at ";

/// Restore point on the primary.
struct DrillPoint {
    name: String,
    lsn: Lsn,
    /// Settings of the primary, under which the WAL behind the end of the archive may be written.
    settings: Parameters,
}

/// Follows the primary from the end of the archive to its present position. Returns the server,
/// which has left recovery at that position, and the detail of the check; the detail is an error
/// when the server reached the position without streaming.
///
/// # Errors
/// [`Kind::Problem`] when the archive and the primary have diverged; [`Kind::Refused`] when the
/// primary must not be followed, [`Kind::Unavailable`] when it cannot be followed.
pub fn follow(
    recovering: &Recovering<'_>,
    primary: &Primary,
    plan: &RestorePlan,
    end: Lsn,
    random: &str,
) -> Result<(DrillServer, Result<String>)> {
    let name = format!("walkeep_drill_{random}");
    let point = create_restore_point(primary, plan, end, &name)?;
    let recovering = &Recovering { raised: recovering.raised.max(point.settings), ..recovering.clone() };
    let mut server = recovering.start("standby.signal", &settings(primary, &point, &name))?;
    await_primary(&mut server, recovering, primary, point.lsn)?;
    // The configuration may contain a password, and the directory may be kept.
    recovering.configure(&[])?;
    let log = server.log()?;
    let detail = match log.line_with(STREAMING).and_then(|line| line.split_once(STREAMING)) {
        Some((_, from)) => Ok(format!("streamed from {from}, caught up with the primary at {}", point.lsn)),
        None => Err(Error::new(
            Kind::Unavailable,
            format!("the server reached {} from the archive alone: nothing was left to stream", point.lsn),
        )
        .hint("try again: the primary has just archived this WAL")),
    };
    Ok((server, detail))
}

/// Waits until the server has left recovery at `lsn`.
fn await_primary(
    server: &mut DrillServer,
    recovering: &Recovering<'_>,
    primary: &Primary,
    lsn: Lsn,
) -> Result<()> {
    let begun = Instant::now();
    let mut last_look = begun;
    while !server.is_ready()? {
        recovering.runner.check()?;
        let is_over = server.ended()?.is_some() || begun.elapsed() > primary.patience;
        if is_over || last_look.elapsed() > LOG_INTERVAL {
            last_look = Instant::now();
            let log = server.log()?;
            if let Some(line) = DIVERGED.iter().find_map(|words| log.line_with(words)) {
                return Err(Error::new(Kind::Problem, format!("the archive and the primary have diverged: {line}"))
                    .hint("find out which of the two has the data that count; until then do not prune, and take a backup of the primary"));
            }
            if is_over {
                let patience = primary.patience;
                let message =
                    format!("the server did not reach {lsn} within {patience:?}: {}", log.last_problem());
                return Err(Error::new(Kind::Unavailable, message).hint(
                    "the role of `connection` needs REPLICATION, and pg_hba.conf of the primary a line `replication` for it",
                ));
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn settings(primary: &Primary, point: &DrillPoint, name: &str) -> Vec<RecoverySetting> {
    let conninfo = match primary.conninfo.trim() {
        "" => "dbname=replication",
        conninfo => conninfo,
    };
    [
        ("primary_conninfo", conninfo),
        // `cluster_name` is the application name at the primary.
        ("cluster_name", name),
        ("wal_receiver_create_temp_slot", "off"),
        ("hot_standby_feedback", "off"),
        ("wal_retrieve_retry_interval", "500ms"),
        ("recovery_target_timeline", "latest"),
        ("recovery_target_name", &point.name),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// Checks that the primary can and may be followed, and creates a restore point at its position.
fn create_restore_point(primary: &Primary, plan: &RestorePlan, end: Lsn, name: &str) -> Result<DrillPoint> {
    let doing = "query the primary";
    let session = Session::connect(&primary.info, &SessionOptions::default()).doing(doing)?;
    let row = session
        .query_one(
            "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(), \
                    current_setting('synchronous_standby_names'), \
                    coalesce((SELECT array_agg(oid) FROM pg_tablespace WHERE oid >= 16384), '{}')",
            &[],
            STATEMENT_TIMEOUT,
        )
        .doing(doing)?;
    let refused = |message: String, hint: &str| Err(Error::new(Kind::Refused, message).hint(hint));
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
    let application_name = primary.info.application_name.as_deref().unwrap_or(name);
    if is_synchronous(column(&row, 2)?, application_name) {
        return refused(
            "synchronous_standby_names of the primary includes the server of the drill, so commits would wait for it"
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
            format!("the primary has tablespace {oid}, which backup {} does not have", plan.record.id),
            "take a new backup: it has the tablespace",
        );
    }
    let settings = least_settings(&session)?;
    check_history(&session, plan, end)?;
    let name = format!("{name} {}", plan.record.id);
    let row = session
        .query_one("SELECT pg_create_restore_point($1)::text", &[&name], STATEMENT_TIMEOUT)
        .doing("create a restore point on the primary")?;
    Ok(DrillPoint { lsn: column::<String>(&row, 0)?.parse()?, name, settings })
}

/// Queries the settings of a server that replaying its WAL depends on.
fn least_settings(session: &Session) -> Result<Parameters> {
    let row = session.query_one(
        "SELECT current_setting('max_connections')::int, \
                current_setting('max_worker_processes')::int, current_setting('max_wal_senders')::int, \
                current_setting('max_prepared_transactions')::int, \
                current_setting('max_locks_per_transaction')::int",
        &[],
        STATEMENT_TIMEOUT,
    )?;
    let setting = |index| column::<i32>(&row, index).map(i32::cast_unsigned);
    Ok(Parameters {
        max_connections: setting(0)?,
        max_worker_processes: setting(1)?,
        max_wal_senders: setting(2)?,
        max_prepared_transactions: setting(3)?,
        max_locks_per_transaction: setting(4)?,
        ..Parameters::default()
    })
}

/// Compares the primary's timeline and position with the end of the archive, before anything is
/// streamed. The drill's server itself detects a newer timeline that branched off before the end of
/// the archive.
fn check_history(session: &Session, plan: &RestorePlan, end: Lsn) -> Result<()> {
    let row = session.query_one(
        "SELECT pg_current_wal_flush_lsn()::text, \
                ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int",
        &[],
        STATEMENT_TIMEOUT,
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
            "the archive and the primary have diverged: the archive ends at {end} on timeline {archived}, the primary is at {flushed} on timeline {timeline}"
        ),
    )
    .hint("is `connection` the cluster that counts? look for another server that archives into this repository"))
}

/// Whether `synchronous_standby_names` includes a standby of this name.
fn is_synchronous(names: &str, name: &str) -> bool {
    let mut words = names.split(|c: char| c.is_whitespace() || "(),\"".contains(c));
    words.any(|word| word == "*" || word.eq_ignore_ascii_case(name))
}
