//! The command line of `walkeep`, as one struct of arguments for each verb. Checks the form of each
//! value; what a value means is decided by the verb.

use super::log::{StandardError, Verbosity};
use crate::config::{Checkpoint, LogFormat, parse_duration, parse_size};
use crate::error::{Error, Kind};
use crate::pg::lsn::Lsn;
use crate::pg::segment::TimelineId;
use crate::repo::Lineage;
use crate::restore::{Action, TargetTimeline};
use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Archives the WAL of PostgreSQL, takes base backups, and restores to any moment
#[derive(Parser)]
#[command(name = "walkeep", version, subcommand_required = true, arg_required_else_help = true, after_help = STATUSES)]
pub struct Walkeep {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub verb: Verb,
}

const STATUSES: &str = "\
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 a problem was found,
4 another run holds the lock

First steps:
  walkeep init      registers the cluster in the repository
  walkeep check     proves that WAL arrives there
  walkeep backup    takes a base backup";

#[derive(Args)]
pub struct GlobalArgs {
    /// Configuration file [default: $WALKEEP_CONFIG, else /etc/walkeep/walkeep.toml]
    #[arg(long, value_name = "FILE", global = true, help_heading = "For every verb")]
    pub config: Option<PathBuf>,
    /// Cluster in the configuration [default: the one whose pgdata is the working directory, or the
    /// only one]
    #[arg(long, value_name = "NAME", global = true, help_heading = "For every verb")]
    pub cluster: Option<String>,
    /// Print one JSON document on standard output
    #[arg(long, global = true, help_heading = "For every verb")]
    pub json: bool,
    /// Print errors only
    #[arg(long, short, global = true, conflicts_with = "verbose", help_heading = "For every verb")]
    pub quiet: bool,
    #[command(flatten, next_help_heading = "For every verb")]
    pub log: LogArgs,
}

impl GlobalArgs {
    /// Returns what standard error shows, and how.
    pub fn standard_error(&self) -> StandardError {
        let least = if self.quiet { Verbosity::Quiet } else { Verbosity::Normal };
        self.log.standard_error("walkeep", least)
    }
}

/// Options of standard error, in all three programs
#[derive(Args)]
pub struct LogArgs {
    /// Print every step; -vv: every request to a repository too
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Format of standard error [default: text]
    #[arg(long, global = true, value_name = "FORMAT", value_parser = choice(LOG_FORMATS))]
    pub log_format: Option<LogFormat>,
}

const LOG_FORMATS: &[Word<LogFormat>] =
    &[("text", LogFormat::Text, "Lines for people"), ("json", LogFormat::Json, "One object on each line")];

impl LogArgs {
    /// Returns what standard error shows, and how; `least` is shown without `-v`.
    pub fn standard_error(&self, program: &'static str, least: Verbosity) -> StandardError {
        let verbosity = match self.verbose {
            0 => least,
            1 => Verbosity::Steps,
            _ => Verbosity::Requests,
        };
        StandardError { program, verbosity, format: self.log_format.unwrap_or(LogFormat::Text) }
    }
}

#[derive(Subcommand)]
pub enum Verb {
    Init(InitArgs),
    Check(CheckArgs),
    Backup(BackupArgs),
    List(ListArgs),
    Show(ShowArgs),
    Restore(Box<RestoreArgs>),
    Drill(DrillArgs),
    Sync(SyncArgs),
    Prune(PruneArgs),
    Pin(PinArgs),
    Unpin(UnpinArgs),
    Verify(VerifyArgs),
    Timelines(TimelinesArgs),
    Status(StatusArgs),
    Metrics(MetricsArgs),
    Report(ReportArgs),
    Notify(NotifyArgs),
    /// Prints the configuration in force, with secrets masked, and where each value came from
    Config,
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Registers the cluster in every repository
///
/// Reads the system identifier and the major version from the data directory, so the server may be
/// down. Running it again changes nothing.
#[derive(Args)]
pub struct InitArgs {
    /// Register a new system identifier or major version, after pg_upgrade
    #[arg(long)]
    pub upgrade: bool,
}

/// Proves the whole path: settings, permissions, and one fresh WAL segment archived and fetched
/// back
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep check
  walkeep check --wal
  walkeep check --wal --move-aside

Exit status: 0 nothing failed, 3 a check failed, 1 the server could not be reached")]
pub struct CheckArgs {
    /// Maximum time for the server to archive the segment
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Compare the files in pg_wal with the archive instead: finds the files that another server has
    /// archived under the names of this one
    #[arg(long)]
    pub wal: bool,
    /// Move the files of the other server aside, so that this server can archive its own; nothing is
    /// deleted
    #[arg(long, requires = "wal")]
    pub move_aside: bool,
}

/// Takes a base backup of the running server
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep backup
  walkeep backup --label reason=before-upgrade --checkpoint spread")]
pub struct BackupArgs {
    /// Store every block anew, and read every file as with --rehash
    #[arg(long)]
    pub full: bool,
    /// Read also the files that the server's WAL summaries report as unchanged, and report changes
    /// in them
    #[arg(long)]
    pub rehash: bool,
    /// Label to store with the backup, such as reason=before-upgrade; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,
    /// Kind of the checkpoint at the start [default: as configured]
    #[arg(long, value_name = "HOW", value_parser = choice(CHECKPOINTS))]
    pub checkpoint: Option<Checkpoint>,
    /// Number of processors to use; one thread more waits for the disk [default: as configured]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Maximum bytes of the cluster to read per second, such as 50MiB [default: as configured]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub rate: Option<NonZeroU64>,
    /// Increase of the niceness, 0 to 19: 19 leaves processor and disk to all other processes
    /// [default: as configured]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=19))]
    pub nice: Option<i32>,
    /// Maximum time to wait until the last WAL of the backup is archived
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    pub archive_timeout: Duration,
    /// Apply the retention after the backup, as `walkeep prune` does
    #[arg(long)]
    pub prune: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

const CHECKPOINTS: &[Word<Checkpoint>] = &[
    ("fast", Checkpoint::Fast, "At once"),
    (
        "spread",
        Checkpoint::Spread,
        "Spread over checkpoint_completion_target of the interval between checkpoints",
    ),
];

/// Copies the WAL and the backups of one repository to another one
///
/// Everything is verified while it is copied. Objects that exist already are skipped, so an
/// interrupted sync can be repeated. Nothing is removed or replaced in either repository. A new
/// repository is registered first, so this also makes an off-site copy of an existing one.
#[derive(Args)]
#[command(after_help = "\
Example:
  walkeep sync --from local --to offsite

Exit status: 0 everything is copied, 3 damaged or contradicting objects were skipped")]
pub struct SyncArgs {
    /// Repository to copy from, by its name in the configuration
    #[arg(long, value_name = "NAME")]
    pub from: String,
    /// Repository to copy to
    #[arg(long, value_name = "NAME")]
    pub to: String,
    /// Number of threads [default: as configured for backups]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
}

#[derive(Args, Default)]
pub struct WaitArgs {
    /// Wait while another run holds the lock, at most for DURATION if that is given
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = parse_duration)]
    pub wait: Option<Option<Duration>>,
}

/// Selection of repositories and of one part of each.
#[derive(Args, Default)]
pub struct SelectionArgs {
    /// Use only this repository
    #[arg(long, value_name = "NAME")]
    pub repository: Option<String>,
    /// Cluster before a pg_upgrade: its system identifier and major version, as `walkeep list`
    /// prints them
    #[arg(long, value_name = "SYSTEM-MAJOR")]
    pub lineage: Option<Lineage>,
}

/// Lists backups, the archived WAL and its gaps, and the times that can be restored
#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Shows one backup
#[derive(Args)]
pub struct ShowArgs {
    /// Id of a backup as in `walkeep list`, or `latest`
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Restores a backup into an empty directory or over the old one, ready to recover to the chosen
/// time
///
/// Without a target the server recovers to the end of the archive. The restored server does not
/// archive and is not started; start it with pg_ctl when you have read the output of this command.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep restore --to /srv/pg/restored
  walkeep restore --to /srv/pg/restored --time '2026-11-21 08:14:59+01' --action promote
  walkeep restore 20261121T031502Z-1f3a9c --to /srv/pg/restored --immediate
  walkeep restore --to /srv/pg/replica --standby
  walkeep restore --to /var/lib/postgresql/17/main --delta --as-primary")]
pub struct RestoreArgs {
    /// Id of a backup as in `walkeep list` [default: the newest that ends before the target]
    #[arg(value_name = "BACKUP")]
    pub backup: Option<String>,
    /// New data directory: empty or missing; with --delta the directory to change
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Restore over a data directory of the same cluster: only blocks that differ are fetched and
    /// written
    ///
    /// Differences are found by comparing contents. Files that the backup does not have are removed
    /// from the data directory and from the directories of its tablespaces. The server must not
    /// run.
    #[arg(long)]
    pub delta: bool,
    /// Restore only this database, by name or OID; may be repeated
    ///
    /// For rescue work: files of the other databases are created empty and take no space. Those
    /// databases can only be dropped afterwards. `postgres` and the templates are always restored.
    #[arg(long, value_name = "DATABASE")]
    pub database: Vec<String>,
    /// Stop just before the target instead of just after it
    #[arg(long, requires = "target")]
    pub exclusive: bool,
    /// Timeline to follow: a number, `latest` or `current` (the backup's own)
    #[arg(long, value_name = "TIMELINE", value_parser = parse_timeline)]
    pub timeline: Option<TargetTimeline>,
    /// Action of the server when the target is reached
    ///
    /// While recovery is paused, locks of a transaction after the target are still held: a table
    /// that it dropped can be read only after promotion.
    #[arg(long, value_name = "ACTION", default_value = "promote", value_parser = choice(ACTIONS))]
    pub action: Action,
    /// Create a standby that keeps reading the archive
    #[arg(long, conflicts_with = "target")]
    pub standby: bool,
    /// Let the restored server archive into the same repositories: only when it replaces the lost
    /// primary
    #[arg(long)]
    pub as_primary: bool,
    /// Put a tablespace into another directory, by its OID or its old location; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = OsStringValueParser::new().try_map(parse_mapping))]
    pub tablespace: Vec<(OsString, PathBuf)>,
    /// Put the WAL into another directory, to which pg_wal becomes a link
    ///
    /// Like `--waldir` of initdb and pg_basebackup: the directory has to be empty or missing. With
    /// --delta a pg_wal that is a link stays one, and its directory is used again.
    #[arg(long, value_name = "DIR")]
    pub waldir: Option<PathBuf>,
    /// Do not read the WAL before anything is written
    ///
    /// What the WAL changes is then not known: settings that recovery needs, tablespaces that it
    /// creates, and whether it has the restore point or transaction of the target.
    #[arg(long)]
    pub quick: bool,
    /// Restore although recovery creates tablespaces that were created after the backup: replaying
    /// their creation uses the original directories
    #[arg(long)]
    pub allow_new_tablespaces: bool,
    /// Write configuration files that lay outside of the data directory to this directory
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Number of processors to use; each has two threads [default: as configured]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Allow restoring a backup that is marked damaged
    #[arg(long)]
    pub allow_damaged: bool,
    /// Print the plan, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start the server, follow its recovery, and print where it ended
    #[arg(long, conflicts_with = "standby")]
    pub follow: bool,
    /// Port of the server that --follow starts, for a copy beside the running original
    #[arg(long, value_name = "PORT", requires = "follow")]
    pub port: Option<u16>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

const ACTIONS: &[Word<Action>] = &[
    ("pause", Action::Pause, "Stay in recovery, readable, until pg_wal_replay_resume()"),
    ("promote", Action::Promote, "End recovery and open for writing"),
    ("shutdown", Action::Shutdown, "Stop the server"),
];

/// Proves that a backup restores: restores it, starts PostgreSQL on it, reads everything, and
/// cleans up
///
/// Takes the newest backup and recovers to the end of the archive, in a scratch directory
/// (`directory` in [drill]), with a server of its own that listens on no address, archives nowhere,
/// runs no jobs and ignores the restored configuration. The position that recovery has to reach is
/// computed from the archive. Then every table of every database is read, indexes are checked with
/// amcheck, and the assertions of the configuration are run. Nothing is left behind; the
/// leftovers of a killed drill are removed by the next one.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep drill
  walkeep drill --rotate --quiet
  walkeep drill --compare
  walkeep drill 20261121T031502Z-1f3a9c --keep
  walkeep drill --time '2026-11-21 08:14:59+01'

Exit status: 0 proved, 3 refuted: it does not restore as it should, 1 unknown,
4 another drill of this cluster runs")]
pub struct DrillArgs {
    /// Id of a backup as in `walkeep list` [default: the newest, or the best for the target]
    #[arg(value_name = "BACKUP", conflicts_with = "rotate")]
    pub backup: Option<String>,
    /// Take turns: the newest backup, the oldest, a pinned one, a random restorable time
    #[arg(long, conflicts_with_all = ["time", "lsn", "immediate"])]
    pub rotate: bool,
    /// Recover to this time: RFC 3339 or PostgreSQL's style, with an offset such as +01 or Z, or a
    /// zone such as Europe/Berlin
    #[arg(long, value_name = "TIME", conflicts_with_all = ["lsn", "immediate"])]
    pub time: Option<String>,
    /// Recover to this position in the WAL, such as 0/3000028
    #[arg(long, value_name = "LSN", conflicts_with = "immediate")]
    pub lsn: Option<Lsn>,
    /// Recover just far enough for the backup to be consistent
    #[arg(long)]
    pub immediate: bool,
    /// After the end of the archive follow the primary as a standby to its current position, for at
    /// most DURATION [default: 5m]
    ///
    /// Shows that the archive and the primary share one history. It uses no slot, no commit waits
    /// for it, and the only trace is a restore point in the primary's WAL. The role of `connection`
    /// (or `primary`) needs REPLICATION.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = parse_duration, conflicts_with_all = ["time", "lsn", "immediate"])]
    pub compare: Option<Option<Duration>>,
    /// Keep the scratch directory for inspection, with the server stopped
    #[arg(long)]
    pub keep: bool,
    /// Parent of the scratch directory [default: as configured, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Number of sessions that read, and of threads that restore [default: as configured]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Maximum time for the whole drill, such as 4h [default: as configured]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Removes the backups and the WAL that the retention does not keep
///
/// The rules are in [repository.retention] of the configuration; a backup that any rule keeps is
/// kept, and the last complete backup always. Without rules every backup is kept. Backups and
/// restores may run at the same time, on any host.
#[derive(Args, Default)]
#[command(after_help = "\
Examples:
  walkeep prune --dry-run
  walkeep prune --quiet
  walkeep prune --remove 20261121T031502Z-1f3a9c")]
pub struct PruneArgs {
    /// Print the plan, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Remove this backup instead of applying the rules; may be repeated
    #[arg(long, value_name = "BACKUP")]
    pub remove: Vec<String>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Reads the repository and proves that every kept backup restores
///
/// Every object is read to its last block, and the WAL is followed from every backup to the end of
/// the archive. Nothing is changed except the notes below `verify/`; backups, restores and prunes
/// may run at the same time, on any host.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep verify
  walkeep verify --since-last --every 30d --quiet
  walkeep verify --backup 20261121T031502Z-1f3a9c

Exit status: 0 good, 3 bad: each damaged or missing object is named with its consequences,
1 unknown: something could not be read, and everything that was read is good")]
pub struct VerifyArgs {
    /// Check presence and size only
    #[arg(long)]
    pub quick: bool,
    /// Skip objects that were read and found good within --every; missing objects are detected each
    /// time
    #[arg(long, conflicts_with = "quick")]
    pub since_last: bool,
    /// Time after which an object is read again
    #[arg(long, value_name = "DURATION", default_value = "30d", requires = "since_last", value_parser = parse_duration)]
    pub every: Duration,
    /// Check only this backup and the WAL from it on: an id as in `walkeep list`, or `latest`
    #[arg(long, value_name = "BACKUP", conflicts_with = "wal")]
    pub backup: Option<String>,
    /// Check only the WAL
    #[arg(long)]
    pub wal: bool,
    /// Number of threads [default: as configured for backups]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Shows the state of each cluster and each repository: green, yellow or red, why, and what to type
///
/// Changes nothing, and reads no data blocks; of the WAL it reads only the last transactions of
/// each restorable window. The server may be down. The limits are in [status] of the configuration.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep status
  walkeep status --json
  walkeep status --nagios

Exit status: 0 green or yellow, 3 red; with --nagios 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN")]
pub struct StatusArgs {
    /// Print one line as a plugin of Nagios or Icinga does, with performance data, and use the exit
    /// statuses of plugins
    #[arg(long, conflicts_with = "json")]
    pub nagios: bool,
    /// Send notices as configured in [notify] when a cluster turns red and when it is no longer
    /// red: for cron
    #[arg(long)]
    pub notify: bool,
    #[command(flatten)]
    pub limit: TimeoutArgs,
}

/// Prints the state that `walkeep status` shows as OpenMetrics text
///
/// For the textfile collector of Prometheus's node_exporter; the README lists the metrics.
#[derive(Args)]
#[command(after_help = "\
Example:
  walkeep metrics --output /var/lib/prometheus/node-exporter/walkeep.prom

Exit status: 0 also when something is red: that is in the metrics")]
pub struct MetricsArgs {
    /// Write this file atomically instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub limit: TimeoutArgs,
}

/// Writes the results of `walkeep status` and `walkeep list` as one HTML page
///
/// Shows backups and restorable times on a time line, the WAL and its gaps, sizes, drills, and what
/// would be lost now. The page needs no other file and loads nothing; it can be mailed and printed.
/// No data blocks are read, and of the WAL only the last transactions of each restorable window.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep report --html /var/www/html/walkeep.html
  walkeep report --html - > walkeep.html

Exit status: 0 the page is written, also when something is red: that is on the page")]
pub struct ReportArgs {
    /// Write this file atomically; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
    #[command(flatten)]
    pub limit: TimeoutArgs,
}

/// Shows the timelines of the cluster and which one is alive, or retires one
///
/// A timeline is alive when the server is on it, or failing that the newest backup and the newest
/// archived WAL. `restore`, `drill`, `prune` and `status` follow that one. A branch that no server
/// continues, such as that of a server that was promoted by mistake, can be retired: from then on
/// it is followed only where `--timeline` names it, and `recovery_target_timeline = 'latest'` does
/// not lead to it. Nothing of it is removed.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep timelines
  walkeep timelines --retire 2
  walkeep timelines --unretire 2
  walkeep timelines --rebuild 2

Exit status: 0 done in every repository, 1 refused, or not done in every repository")]
pub struct TimelinesArgs {
    /// Retire a timeline that no server continues; refused for the one that is alive
    #[arg(long, value_name = "TIMELINE", group = "change", value_parser = clap::value_parser!(u32).range(1..))]
    pub retire: Option<u32>,
    /// Undo a retirement
    #[arg(long, value_name = "TIMELINE", group = "change", value_parser = clap::value_parser!(u32).range(1..))]
    pub unretire: Option<u32>,
    /// Make the missing history file of a timeline again
    ///
    /// PostgreSQL copies the history of a timeline into those of all timelines that descend from
    /// it, so a lost file follows from a later one. It is stored in every repository that lacks it.
    #[arg(long, value_name = "TIMELINE", group = "change", value_parser = clap::value_parser!(u32).range(2..))]
    pub rebuild: Option<u32>,
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Sends a test notice, to prove that notices arrive
///
/// Notices are configured in [notify]. They are sent when backup, prune, verify, sync, drill, check
/// or `status --notify` fails, when it works again, and after every drill. A notice that cannot be
/// sent is a warning and does not change the exit status of a verb.
#[derive(Args)]
#[command(after_help = "\
Example:
  walkeep notify --test

Exit status: 0 every channel accepted the notice, 1 one did not, 2 none is configured")]
pub struct NotifyArgs {
    /// Send a test notice now
    #[arg(long, required = true)]
    pub test: bool,
}

/// Time limit for server and repositories.
#[derive(Args)]
pub struct TimeoutArgs {
    /// Maximum time for the server and for each repository to answer
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Keeps a backup regardless of the retention
///
/// A backup that is pinned already gets the new settings.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep pin latest
  walkeep pin 20261121T031502Z-1f3a9c --until 2027-12-31 --standalone")]
pub struct PinArgs {
    /// Id of a backup as in `walkeep list`, or `latest`
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// Keep it until the end of this day, or until this time [default: for ever]
    #[arg(long, value_name = "DATE")]
    pub until: Option<String>,
    /// Keep only the WAL that makes it consistent: it restores to its end, and no further
    #[arg(long)]
    pub standalone: bool,
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Removes the pin of a backup, so that the retention applies to it again
#[derive(Args)]
pub struct UnpinArgs {
    /// Id of a backup as in `walkeep list`, or `latest`
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    #[command(flatten)]
    pub selection: SelectionArgs,
}

#[derive(Args)]
#[group(id = "target", multiple = false)]
pub struct TargetArgs {
    /// Recover to this time: RFC 3339 or PostgreSQL's style, with an offset such as +01 or Z, or a
    /// zone such as Europe/Berlin
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// Recover to this position in the WAL, such as 0/3000028
    #[arg(long, value_name = "LSN")]
    pub lsn: Option<Lsn>,
    /// Recover until this transaction has committed
    #[arg(long, value_name = "XID")]
    pub xid: Option<u64>,
    /// Recover to a restore point made by pg_create_restore_point
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Recover just far enough for the backup to be consistent
    #[arg(long)]
    pub immediate: bool,
}

/// Prints completions for a shell
#[derive(Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Prints the manual page, or writes all of them to a directory
#[derive(Args)]
pub struct ManArgs {
    /// Write walkeep.1 and one page for each verb to this directory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl SyncArgs {
    /// Returns the arguments that select the work. Notices remember failures for each combination
    /// of them.
    pub fn parts(&self) -> [Option<&str>; 2] {
        [Some(&self.from), Some(&self.to)]
    }
}

impl PruneArgs {
    /// See [`SyncArgs::parts`].
    pub fn parts(&self) -> [Option<&str>; 3] {
        let remove = (!self.remove.is_empty()).then_some("remove");
        [self.selection.repository.as_deref(), self.dry_run.then_some("dry-run"), remove]
    }
}

impl VerifyArgs {
    /// See [`SyncArgs::parts`].
    pub fn parts(&self) -> [Option<&str>; 4] {
        let (quick, wal) = (self.quick.then_some("quick"), self.wal.then_some("wal"));
        [self.selection.repository.as_deref(), quick, wal, self.backup.as_deref()]
    }
}

impl DrillArgs {
    /// See [`SyncArgs::parts`].
    pub fn parts(&self) -> [Option<&str>; 1] {
        [self.selection.repository.as_deref()]
    }
}

/// A word of the command line, its value, and its help text.
type Word<T> = (&'static str, T, &'static str);

/// Returns a parser that accepts one of several words, for enums of rooms that do not know clap.
fn choice<T: Copy + Send + Sync>(choices: &'static [Word<T>]) -> impl TypedValueParser<Value = T> {
    let words = choices.iter().map(|(word, _, help)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(words).try_map(move |text| {
        let found = choices.iter().find(|(word, ..)| *word == text);
        found.map(|(_, value, _)| *value).ok_or_else(|| format!("`{text}` is not one of the possible values"))
    })
}

fn parse_timeline(text: &str) -> Result<TargetTimeline, String> {
    match (text, text.parse()) {
        ("latest", _) => Ok(TargetTimeline::Latest),
        ("current", _) => Ok(TargetTimeline::Current),
        (_, Ok(number @ 1..)) => Ok(TargetTimeline::Number(TimelineId(number))),
        _ => Err("a timeline is a decimal number, `latest` or `current`".to_owned()),
    }
}

fn parse_rate(text: &str) -> crate::error::Result<NonZeroU64> {
    NonZeroU64::new(parse_size(text)?)
        .ok_or_else(|| Error::new(Kind::Usage, "the rate must be greater than 0"))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    let fine = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !fine || text.len() > 1000 {
        return Err(
            "a label's key consists of letters, digits, `.`, `_` and `-`; 1000 bytes at most".to_owned()
        );
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses `OLD=NEW` at its last `=`, since a location may contain one. Locations are bytes, not
/// necessarily UTF-8.
fn parse_mapping(mapping: OsString) -> Result<(OsString, PathBuf), String> {
    let mut parts = mapping.as_bytes().rsplitn(2, |byte| *byte == b'=');
    let (Some(new), Some(old)) = (parts.next(), parts.next()) else {
        return Err("a tablespace mapping is OLD=NEW".to_owned());
    };
    let (old, new) = (OsStr::from_bytes(old), Path::new(OsStr::from_bytes(new)));
    if old.is_empty() || !new.is_absolute() {
        return Err("OLD is an OID or a location, NEW an absolute path".to_owned());
    }
    Ok((old.to_owned(), new.to_owned()))
}
