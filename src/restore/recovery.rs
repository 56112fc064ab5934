//! Recovery settings of the restored server: its `postgresql.auto.conf` and its signal file.

use super::plan::{RestorePlan, TargetTimeline};
use super::stop::RecoveryTarget;
use crate::pg::shell::quoted;

/// Action of the server when it reaches the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Pause,
    Promote,
    Shutdown,
}

/// Settings with which the restored server recovers.
#[derive(Debug, Clone)]
pub struct RecoverySettings {
    /// Command with `%f` and `%p`.
    pub restore_command: String,
    pub action: Action,
    pub standby: bool,
    /// Keep archiving, logical replication and synchronous standbys as the lost primary had them.
    pub as_primary: bool,
}

/// Settings that are emptied, unless the target is one of them.
const EMPTIED: [&str; 7] = [
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
];

/// Settings by which a restored copy would affect production.
const NEUTRALIZED: [(&str, &str); 3] =
    [("archive_mode", "off"), ("synchronous_standby_names", ""), ("max_logical_replication_workers", "0")];

/// Settings of a standby, which no other server must have.
const STREAMING: [(&str, &str); 3] =
    [("primary_conninfo", ""), ("primary_slot_name", ""), ("recovery_min_apply_delay", "0")];

impl RecoverySettings {
    /// Name of the signal file.
    pub fn signal(&self) -> &'static str {
        if self.standby { "standby.signal" } else { "recovery.signal" }
    }

    /// Returns the settings in order. Empty values are written too: they override
    /// `postgresql.conf`. The target comes behind them, since a server before 16 refuses a second
    /// target, even an empty one, after the first.
    pub fn settings(&self, plan: &RestorePlan) -> Vec<(&'static str, String)> {
        let chosen = match &plan.stop.target {
            RecoveryTarget::End => None,
            RecoveryTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
            RecoveryTarget::Time(time) => {
                Some(("recovery_target_time", time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()))
            }
            RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            RecoveryTarget::Name(name) => Some(("recovery_target_name", name.clone())),
        };
        let is_chosen = |name: &str| chosen.as_ref().is_some_and(|(chosen, _)| *chosen == name);
        let mut settings = vec![("restore_command", self.restore_command.clone())];
        let emptied = EMPTIED.into_iter().filter(|name| !is_chosen(name));
        settings.extend(emptied.map(|name| (name, String::new())));
        settings.extend(chosen.clone());
        let inclusive = if plan.stop.exclusive { "off" } else { "on" };
        let action = match self.action {
            Action::Pause => "pause",
            Action::Promote => "promote",
            Action::Shutdown => "shutdown",
        };
        let timeline = match plan.timeline {
            TargetTimeline::Latest => "latest".to_owned(),
            TargetTimeline::Current => "current".to_owned(),
            TargetTimeline::Number(timeline) => timeline.to_string(),
        };
        settings.push(("recovery_target_inclusive", inclusive.to_owned()));
        settings.push(("recovery_target_action", action.to_owned()));
        settings.push(("recovery_target_timeline", timeline));
        if plan.stop.target == RecoveryTarget::Immediate || plan.reach.gap.is_some() {
            // Prefetching would request WAL behind the end of the backup, which the archive may not
            // have, or segments of a gap.
            settings.push(("recovery_prefetch", "off".to_owned()));
        }
        let mut add = |more: &[(&'static str, &str)]| {
            settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        };
        if !self.standby {
            add(&STREAMING);
        }
        if !self.as_primary {
            add(&NEUTRALIZED);
        }
        settings
    }

    /// Returns the new `postgresql.auto.conf`: the old lines without the settings of this recovery,
    /// and then these settings and `more`. At the end of this file they override all other settings.
    pub fn rewrite(&self, plan: &RestorePlan, more: &[(&'static str, String)], old: &[u8]) -> Vec<u8> {
        let mut settings = self.settings(plan);
        settings.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        settings.extend_from_slice(more);
        let decided = |name: &str| settings.iter().any(|(other, _)| name.eq_ignore_ascii_case(other));
        let mut text = Vec::new();
        for line in old.split_inclusive(|&b| b == b'\n') {
            let shown = String::from_utf8_lossy(line);
            let name = shown.trim_start().split(|c: char| c.is_whitespace() || c == '=').next();
            if !name.is_some_and(decided) {
                text.extend_from_slice(line);
            }
        }
        if text.last().is_some_and(|&last| last != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(
            format!("# written by walkeep restore of backup {}\n", plan.record.id).as_bytes(),
        );
        for (name, value) in settings {
            let quoted = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n");
            text.extend_from_slice(format!("{name} = '{quoted}'\n").as_bytes());
        }
        text
    }
}

/// Returns a `restore_command` of these words, quoted for the shell, with `%` doubled for
/// PostgreSQL, and `%f %p` at the end.
pub fn restore_command(words: &[&str]) -> String {
    let words: String = words.iter().map(|word| quoted(word) + " ").collect();
    format!("{}%f %p", words.replace('%', "%%"))
}
