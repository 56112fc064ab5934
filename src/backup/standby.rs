//! A standby as the server that is backed up: start and stop happen there, its files are read, and its promotion ends
//! the backup. Its WAL is the primary's. What a backup needs last is in a segment that only the primary can end, so it
//! is asked to where `primary` says how to reach it; otherwise the segment is waited for.
//!
//! The start is the standby's last restartpoint, which may lie far back: before it is known, the WAL from the one that
//! the control file names is announced as needed.

use super::source::{GRANTED_THERE, SOON, Server, check_grants};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Expect, KeepAlive, Options, Session, column};
use crate::pg::conninfo::ConnInfo;
use crate::pg::segment::TimelineId;

/// What a session asks all the time, so that a promotion is noticed while files are read.
pub fn watching(options: &Options) -> Options {
    let expect = Expect { answer: "t".into(), otherwise: "the standby was promoted".into() };
    let keep_alive = KeepAlive {
        statement: "SELECT pg_is_in_recovery()".into(),
        expect: Some(expect),
        ..options.keep_alive.clone()
    };
    Options { keep_alive, ..options.clone() }
}

/// A session with the primary of a standby.
pub fn primary(info: &ConnInfo, options: &Options, system_identifier: u64) -> Result<Session> {
    let doing = || "look at the server that `primary` names".to_owned();
    let session = Session::connect(info, options).doing(doing)?;
    check_grants(&session, &GRANTED_THERE).doing(doing)?;
    let sql = "SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()";
    let row = session.query_one(sql, &[], SOON).doing(doing)?;
    let wrong = |what: &str| {
        Err(Error::new(Kind::Identity, what)
            .doing(doing())
            .hint("`primary` has to lead to the primary of the standby that `connection` names"))
    };
    if column::<i64>(&row, 0)? as u64 != system_identifier {
        return wrong("it belongs to another cluster");
    }
    if column(&row, 1)? {
        return wrong("it is a standby itself");
    }
    Ok(session)
}

impl Server {
    /// Whether somebody here can end a WAL segment.
    pub fn can_switch(&self) -> bool {
        !self.found.in_recovery || self.primary.is_some()
    }

    /// Fails when the standby went over to another timeline: its primary is another one now.
    pub fn check_timeline(&self, began: TimelineId) -> Result<()> {
        if !self.found.in_recovery {
            return Ok(());
        }
        let sql = "SELECT min_recovery_end_timeline FROM pg_control_recovery()";
        let row = self.session.query_one(sql, &[], SOON).doing(|| "ask for the timeline".to_owned())?;
        let now = TimelineId(column::<i32>(&row, 0)? as u32);
        if now == began {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!("the standby went over from timeline {began} to {now} while it was backed up"),
        )
        .hint("take the backup again, when the WAL and the history of the new timeline are archived"))
    }
}
