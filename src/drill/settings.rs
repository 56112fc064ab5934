//! The configuration of the drill's server. It is made here from nothing: no line of the restored configuration is
//! read, so no command, library or address that it names is used.

use crate::pg::control::Control;
use std::ops::RangeInclusive;
use std::path::Path;

/// What the configuration is made of.
pub struct Settings<'a> {
    /// The directory of the scratch place in which the files lie.
    pub etc: &'a Path,
    pub socket: &'a Path,
    pub control: &'a Control,
    /// Libraries without which the WAL cannot be replayed; mostly none.
    pub preload: &'a str,
    /// How to recover, by the names of the settings.
    pub recovery: &'a [(&'static str, String)],
}

/// What a server has by default that this one must not have.
const FIXED: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("port", "5432"),
    ("unix_socket_permissions", "0700"),
    ("ssl", "off"),
    ("external_pid_file", ""),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] %b %e "),
    ("lc_messages", "C"),
    ("archive_command", ""),
    ("max_sync_workers_per_subscription", "0"),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("restart_after_crash", "off"),
    ("zero_damaged_pages", "off"),
    ("ignore_checksum_failure", "off"),
    // Without connections until recovery is over: so WAL that was made with larger settings can be replayed, and
    // nothing of the cluster is used before it is whole.
    ("hot_standby", "off"),
    // Nobody keeps what this server writes.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "4GB"),
];

/// What the server keeps of its files, in MB: a share of the memory, within what recovery has something of.
const BUFFERS: RangeInclusive<u64> = 128..=512;
const SHARE: u64 = 16;

/// Enough for the drill itself, whatever the cluster had.
const LEAST: &[(&str, u32)] =
    &[("max_connections", 100), ("max_worker_processes", 8), ("max_locks_per_transaction", 64)];

/// More than each of these settings may be is no value of theirs.
const LARGEST: u32 = 262_143;

/// The version of the control file from which on servers know `event_triggers` (PostgreSQL 17).
const EVENT_TRIGGERS: u32 = 1700;

impl Settings<'_> {
    pub fn postgresql_conf(&self) -> String {
        let mut text = "# made for one drill\n".to_owned();
        let mut line = |name: &str, value: &str| {
            let quoted = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n");
            text.push_str(&format!("{name} = '{quoted}'\n"));
        };
        for (name, value) in FIXED {
            line(name, value);
        }
        let memory = rustix::system::sysinfo();
        let memory = (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit)) >> 20;
        let buffers = (memory / SHARE).clamp(*BUFFERS.start(), *BUFFERS.end());
        line("shared_buffers", &format!("{buffers}MB"));
        line("unix_socket_directories", &self.socket.to_string_lossy());
        line("hba_file", &self.etc.join("pg_hba.conf").to_string_lossy());
        line("ident_file", &self.etc.join("pg_ident.conf").to_string_lossy());
        line("shared_preload_libraries", self.preload);
        if !self.preload.is_empty() {
            // Of extensions that start jobs by themselves; unknown to a server without them.
            line("cron.launch_active_jobs", "off");
            line("timescaledb.max_background_workers", "0");
        }
        if self.control.version() >= EVENT_TRIGGERS {
            line("event_triggers", "off");
        }
        for (name, value) in self.control.least_settings() {
            let least = LEAST.iter().find(|(other, _)| *other == name).map_or(0, |(_, least)| *least);
            line(name, &value.clamp(least, LARGEST).to_string());
        }
        for (name, value) in self.recovery {
            line(name, value);
        }
        text
    }

    /// Nobody but who may open the directory of the socket gets in.
    pub fn pg_hba_conf(&self) -> &'static str {
        "local all all trust\n"
    }
}
