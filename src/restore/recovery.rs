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

/// Settings that a restore decides, whatever the backup's `postgresql.auto.conf` had.
const DECIDED: [&str; 11] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_action",
    "recovery_target_timeline",
];

/// Settings that would reach out of a restored copy into production.
const NEUTRALIZED: [(&str, &str); 3] =
    [("archive_mode", "off"), ("synchronous_standby_names", ""), ("max_logical_replication_workers", "0")];

/// Settings of a standby's connection to its primary.
const STREAMING: [&str; 3] = ["primary_conninfo", "primary_slot_name", "recovery_min_apply_delay"];

impl Recovery {
    /// The name of the signal file.
    pub fn signal(&self) -> &'static str {
        if self.standby { "standby.signal" } else { "recovery.signal" }
    }

    /// What is decided, in order. Empty values are written too: they take away what stands in
    /// `postgresql.conf`, where two targets are an error even when only one is new.
    pub fn settings(&self, plan: &Plan) -> Vec<(&'static str, String)> {
        let on = |wanted: bool| if wanted { "on" } else { "off" }.to_owned();
        let target = |value: Option<String>| value.unwrap_or_default();
        let mut settings = vec![
            ("restore_command", self.restore_command.clone()),
            ("archive_cleanup_command", String::new()),
            ("recovery_end_command", String::new()),
            ("recovery_target", target((plan.target == Target::Immediate).then(|| "immediate".to_owned()))),
            (
                "recovery_target_time",
                target(match plan.target {
                    Target::Time(time) => Some(time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()),
                    _ => None,
                }),
            ),
            (
                "recovery_target_lsn",
                target(match plan.target {
                    Target::Lsn(lsn) => Some(lsn.to_string()),
                    _ => None,
                }),
            ),
            (
                "recovery_target_xid",
                target(match plan.target {
                    Target::Xid(xid) => Some(xid.to_string()),
                    _ => None,
                }),
            ),
            (
                "recovery_target_name",
                target(match &plan.target {
                    Target::Name(name) => Some(name.clone()),
                    _ => None,
                }),
            ),
            ("recovery_target_inclusive", on(!self.exclusive)),
            (
                "recovery_target_action",
                match self.action {
                    Action::Pause => "pause",
                    Action::Promote => "promote",
                    Action::Shutdown => "shutdown",
                }
                .to_owned(),
            ),
            (
                "recovery_target_timeline",
                match plan.timeline {
                    TargetTimeline::Latest => "latest".to_owned(),
                    TargetTimeline::Current => "current".to_owned(),
                    TargetTimeline::Number(timeline) => timeline.to_string(),
                },
            ),
        ];
        if !self.standby {
            settings.extend([("primary_conninfo", String::new()), ("primary_slot_name", String::new())]);
            settings.push(("recovery_min_apply_delay", "0".to_owned()));
        }
        if !self.as_primary {
            settings.extend(NEUTRALIZED.map(|(name, value)| (name, value.to_owned())));
        }
        settings
    }

    /// The restored `postgresql.auto.conf`: what was there, without the settings that are decided here, and
    /// these behind it, where they win over every other file.
    pub fn rewrite(&self, plan: &Plan, old: &[u8]) -> Vec<u8> {
        let settings = self.settings(plan);
        let decided = |name: &str| {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            DECIDED.into_iter().any(is)
                || STREAMING.into_iter().any(|other| is(other) && !self.standby)
                || settings.iter().any(|(other, _)| is(other))
        };
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
