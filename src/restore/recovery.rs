//! What the restored server is told: the settings in `postgresql.auto.conf`, and the signal file.

use super::plan::{Plan, Target, TargetTimeline};

/// What the server does when the target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Pause,
    Promote,
    Shutdown,
}

/// How the restored server is to recover.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// As PostgreSQL runs it, with `%f` and `%p`.
    pub restore_command: String,
    pub action: Action,
    /// Stop just before the target.
    pub exclusive: bool,
    pub standby: bool,
    /// Let it archive, stream to subscribers and wait for synchronous standbys as the lost primary did.
    pub as_primary: bool,
}

/// Settings that are taken away, unless the target is one of them.
const EMPTIED: [&str; 7] = [
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
];

/// Settings that would reach out of a restored copy into production.
const NEUTRALIZED: [(&str, &str); 3] =
    [("archive_mode", "off"), ("synchronous_standby_names", ""), ("max_logical_replication_workers", "0")];

/// Settings of a standby, which anything else must not have.
const STREAMING: [(&str, &str); 3] =
    [("primary_conninfo", ""), ("primary_slot_name", ""), ("recovery_min_apply_delay", "0")];

impl Recovery {
    /// The name of the signal file.
    pub fn signal(&self) -> &'static str {
        if self.standby { "standby.signal" } else { "recovery.signal" }
    }

    /// What is decided, in order. Empty values are written too: they take away what stands in
    /// `postgresql.conf`. The target comes behind them, since the server (before 16) refuses even an empty
    /// second one once it has read the first.
    pub fn settings(&self, plan: &Plan) -> Vec<(&'static str, String)> {
        let chosen = match &plan.target {
            Target::End => None,
            Target::Immediate => Some(("recovery_target", "immediate".to_owned())),
            Target::Time(time) => {
                Some(("recovery_target_time", time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()))
            }
            Target::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            Target::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            Target::Name(name) => Some(("recovery_target_name", name.clone())),
        };
        let is_chosen = |name: &str| chosen.as_ref().is_some_and(|(chosen, _)| *chosen == name);
        let mut settings = vec![("restore_command", self.restore_command.clone())];
        let emptied = EMPTIED.into_iter().filter(|name| !is_chosen(name));
        settings.extend(emptied.map(|name| (name, String::new())));
        settings.extend(chosen.clone());
        let inclusive = if self.exclusive { "off" } else { "on" };
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
        if plan.target == Target::Immediate {
            // Reading ahead would ask for WAL behind the end of the backup, which need not be there.
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

    /// The restored `postgresql.auto.conf`: what was there, without the settings that are decided here, and
    /// these behind it, where they win over every other file.
    pub fn rewrite(&self, plan: &Plan, old: &[u8]) -> Vec<u8> {
        let settings = self.settings(plan);
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

/// A `restore_command` of these words: quoted for the shell, with `%` doubled for PostgreSQL, and `%f %p` behind.
pub fn restore_command(words: &[&str]) -> String {
    let mut command = String::new();
    for word in words {
        let plain =
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+=:@,".contains(&b));
        if plain {
            command.push_str(word);
        } else {
            command.push_str(&format!("'{}'", word.replace('\'', "'\\''")));
        }
        command.push(' ');
    }
    format!("{}%f %p", command.replace('%', "%%"))
}
