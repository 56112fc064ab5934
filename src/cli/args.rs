//! The command line of `walkeep`.

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Archives the WAL of PostgreSQL, takes base backups, and restores to any moment
#[derive(Parser)]
#[command(name = "walkeep", version, subcommand_required = true, arg_required_else_help = true, after_help = STATUSES)]
pub struct Walkeep {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

const STATUSES: &str = "\
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 it found a problem,
4 another run holds the lock

First steps:
  walkeep init      registers the cluster in the repository
  walkeep check     proves that WAL arrives there
  walkeep backup    takes a base backup";

#[derive(Args)]
pub struct Global {
    /// Configuration file [default: $WALKEEP_CONFIG, else /etc/walkeep/walkeep.toml]
    #[arg(long, value_name = "FILE", global = true, help_heading = "For every verb")]
    pub config: Option<PathBuf>,
    /// Cluster in the configuration [default: the one whose pgdata is the working directory, or the only one]
    #[arg(long, value_name = "NAME", global = true, help_heading = "For every verb")]
    pub cluster: Option<String>,
    /// Print one JSON document on standard output
    #[arg(long, global = true, help_heading = "For every verb")]
    pub json: bool,
    /// Say only what went wrong
    #[arg(long, short, global = true, conflicts_with = "verbose", help_heading = "For every verb")]
    pub quiet: bool,
    /// Say every step
    #[arg(long, short, global = true, help_heading = "For every verb")]
    pub verbose: bool,
}

#[derive(Subcommand)]
pub enum Verb {
    Init(Init),
    Check(Check),
    Backup(Backup),
    List(List),
    Show(Show),
    Restore(Box<Restore>),
    Drill(Drill),
    Sync(Sync),
    Prune(Prune),
    Pin(Pin),
    Unpin(Unpin),
    Verify(Verify),
    Status(Status),
    Metrics(Metrics),
    Report(Report),
    Notify(Notify),
    /// Prints the configuration in force, with secrets masked, and where each value came from
    Config,
    Completions(Completions),
    Man(Man),
}

/// Registers the cluster in every repository
///
/// Reads the system identifier and the major version from the data directory, so the server may be down.
/// Run again it changes nothing.
#[derive(Args)]
pub struct Init {
    /// Register a new system identifier or major version, after pg_upgrade
    #[arg(long)]
    pub upgrade: bool,
}

/// Proves the whole path: settings, permissions, and one fresh WAL segment archived and fetched back
#[derive(Args)]
pub struct Check {
    /// How long the server may take to archive the segment
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = crate::config::parse_duration)]
    pub timeout: std::time::Duration,
}

/// Takes a base backup of the running server
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep backup
  walkeep backup --label reason=before-upgrade --checkpoint spread")]
pub struct Backup {
    /// Store every block anew, and read everything as --rehash does
    #[arg(long)]
    pub full: bool,
    /// Read all files also where the server's WAL summaries say that nothing changed, and report what did
    #[arg(long)]
    pub rehash: bool,
    /// Something to remember with the backup; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,
    /// How the server makes the checkpoint at the start [default: as configured]
    #[arg(long, value_name = "HOW")]
    pub checkpoint: Option<Checkpoint>,
    /// Processors to keep busy; one thread more waits for the disk [default: as configured]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZeroUsize>,
    /// Read no more than this of the cluster in a second: 50MiB [default: as configured]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub rate: Option<std::num::NonZeroU64>,
    /// Leave the processor and the disk to others, 1 to 19 [default: as configured]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=19))]
    pub nice: Option<i32>,
    /// How long to wait for the last WAL of the backup to be archived
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = crate::config::parse_duration)]
    pub archive_timeout: std::time::Duration,
    /// Apply the retention after the backup, as `walkeep prune` does
    #[arg(long)]
    pub prune: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// Brings one repository up to what another one holds: WAL and backups
///
/// What is copied is verified on its way; what is there already is left, so it can be broken off and begun again.
/// Nothing is removed or replaced on either side. A repository that is new is registered first, so this also makes
/// an off-site copy of one that exists.
#[derive(Args)]
#[command(after_help = "\
Example:
  walkeep sync --from local --to offsite

Exit status: 0 all is there, 3 something is damaged or contradicts and was passed over")]
pub struct Sync {
    /// The repository to copy from, as the configuration calls it
    #[arg(long, value_name = "NAME")]
    pub from: String,
    /// The repository to copy to
    #[arg(long, value_name = "NAME")]
    pub to: String,
    /// Threads [default: as configured for backups]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZeroUsize>,
}

#[derive(Args, Default)]
pub struct Wait {
    /// Wait while another run holds the lock, for ever or this long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = crate::config::parse_duration)]
    pub wait: Option<Option<std::time::Duration>>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Checkpoint {
    /// At once
    Fast,
    /// Spread over checkpoint_completion_target of the interval between checkpoints
    Spread,
}

/// Where to look.
#[derive(Args, Default)]
pub struct Place {
    /// Only this repository
    #[arg(long, value_name = "NAME")]
    pub repository: Option<String>,
    /// An earlier life of the cluster, before pg_upgrade: its system identifier and major version
    #[arg(long, value_name = "SYSTEM-MAJOR")]
    pub lineage: Option<crate::repo::Lineage>,
}

/// Lists backups, the archived WAL and its gaps, and the moments that can be restored
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    pub place: Place,
}

/// Shows one backup
#[derive(Args)]
pub struct Show {
    /// As `walkeep list` names it, or `latest`
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    #[command(flatten)]
    pub place: Place,
}

/// Restores a backup into an empty directory or over the old one, ready to recover to the chosen moment
///
/// Without a target the server recovers to the end of the archive. The restored server does not archive
/// and is not started; start it with pg_ctl when you have looked at what this command says.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep restore --to /srv/pg/restored
  walkeep restore --to /srv/pg/restored --time '2026-11-21 08:14:59+01' --action promote
  walkeep restore 20261121T031502Z-1f3a9c --to /srv/pg/restored --immediate
  walkeep restore --to /srv/pg/replica --standby
  walkeep restore --to /var/lib/postgresql/17/main --delta --as-primary")]
pub struct Restore {
    /// As `walkeep list` names it [default: the newest that ends before the target]
    #[arg(value_name = "BACKUP")]
    pub backup: Option<String>,
    /// The new data directory: empty, or not there yet; with --delta one that is to be changed
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// Restore over the data directory of the same cluster: only blocks that differ are fetched and written
    ///
    /// What differs is found by comparing contents. Files that the backup does not have are removed, in the
    /// data directory and in the directories of its tablespaces. The server must not run.
    #[arg(long)]
    pub delta: bool,
    /// Restore only this database, by name or OID; may be repeated
    ///
    /// For rescue work: files of the other databases become empty ones that take no space. These databases cannot be
    /// used afterwards, only dropped. `postgres` and the templates are always restored.
    #[arg(long, value_name = "DATABASE")]
    pub database: Vec<String>,
    /// Stop just before the target instead of just behind it
    #[arg(long, requires = "target")]
    pub exclusive: bool,
    /// Timeline to follow: a number, `latest` or `current` (the backup's own)
    #[arg(long, value_name = "TIMELINE")]
    pub timeline: Option<Timeline>,
    /// What the server does when the target is reached
    ///
    /// While it pauses, what a transaction behind the target has locked stays locked: a table that it
    /// dropped can be read only after promotion.
    #[arg(long, value_name = "ACTION", default_value = "promote")]
    pub action: Action,
    /// Make a standby that goes on reading the archive
    #[arg(long, conflicts_with = "target")]
    pub standby: bool,
    /// Let the restored server archive into the same repositories: only when it replaces the lost primary
    #[arg(long)]
    pub as_primary: bool,
    /// Put a tablespace elsewhere, by its OID or its old location; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = OsStringValueParser::new().try_map(parse_mapping))]
    pub tablespace: Vec<(OsString, PathBuf)>,
    /// Restore although the original has tablespaces that were created after the backup: their creation, when it
    /// is replayed, uses the original directories
    #[arg(long)]
    pub allow_new_tablespaces: bool,
    /// Write the configuration files from outside the data directory to this directory
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    #[command(flatten)]
    pub place: Place,
    /// Processors to keep busy; each has two threads [default: as configured]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZeroUsize>,
    /// Also restore a backup that is marked damaged
    #[arg(long)]
    pub allow_damaged: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start the server, follow its recovery, and say how far it came
    #[arg(long, conflicts_with_all = ["dry_run", "standby"])]
    pub follow: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// Proves that a backup restores: restores it, starts PostgreSQL on it, reads everything, and cleans up
///
/// Takes the newest backup and recovers to the end of the archive, in a scratch directory (`directory` in [drill]), with
/// a server of its own that has no address, archives nowhere, runs no jobs and reads no line of the restored
/// configuration. How far recovery has to come is computed from the archive. Then every table of every database is
/// read, indexes are checked with pg_amcheck, and the assertions of the configuration are asked. Nothing is left
/// behind; what a killed drill left is removed by the next one.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep drill
  walkeep drill --rotate --quiet
  walkeep drill --compare
  walkeep drill 20261121T031502Z-1f3a9c --keep
  walkeep drill --time '2026-11-21 08:14:59+01'

Exit status: 0 proved, 3 refuted: it does not restore as it should, 1 could not tell,
4 another drill of this cluster runs")]
pub struct Drill {
    /// As `walkeep list` names it [default: the newest, or the best for the target]
    #[arg(value_name = "BACKUP", conflicts_with = "rotate")]
    pub backup: Option<String>,
    /// Go round: the newest, the oldest kept, a pinned one, a random moment that can be restored
    #[arg(long, conflicts_with_all = ["time", "lsn", "immediate"])]
    pub rotate: bool,
    /// Recover to this moment: RFC 3339 or PostgreSQL's style, with an offset such as +01 or Z
    #[arg(long, value_name = "TIME", conflicts_with_all = ["lsn", "immediate"])]
    pub time: Option<String>,
    /// Recover to this position in the WAL
    #[arg(long, value_name = "LSN", conflicts_with = "immediate")]
    pub lsn: Option<crate::pg::lsn::Lsn>,
    /// Recover just far enough for the backup to be consistent
    #[arg(long)]
    pub immediate: bool,
    /// Behind the end of the archive follow the primary as a standby to where it is now, for 5m or this long
    ///
    /// Shows that the archive and the primary are of one history. It takes no slot, no commit waits for it, and a
    /// restore point in the primary's WAL is all that it leaves. The role of `connection` (or `primary`) needs REPLICATION.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = crate::config::parse_duration, conflicts_with_all = ["time", "lsn", "immediate"])]
    pub compare: Option<Option<std::time::Duration>>,
    /// Leave the scratch directory, with the server stopped, for a look
    #[arg(long)]
    pub keep: bool,
    /// Make the scratch directory here [default: as configured, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Sessions that read, and threads that restore [default: as configured]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZeroUsize>,
    /// For the whole drill [default: as configured]
    #[arg(long, value_name = "DURATION", value_parser = crate::config::parse_duration)]
    pub timeout: Option<std::time::Duration>,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub wait: Wait,
}

/// Removes the backups and the WAL that the retention does not keep
///
/// The rules are those of [repository.retention] in the configuration; what any of them keeps is kept, and the last
/// complete backup always. Without a rule every backup stays. Backups and restores may run meanwhile, on any host.
#[derive(Args, Default)]
#[command(after_help = "\
Examples:
  walkeep prune --dry-run
  walkeep prune --quiet
  walkeep prune --remove 20261121T031502Z-1f3a9c")]
pub struct Prune {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Remove this backup, and leave the rules alone; may be repeated
    #[arg(long, value_name = "BACKUP")]
    pub remove: Vec<String>,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub wait: Wait,
}

/// Reads the repository and proves that every kept backup restores
///
/// Every object is read to its last block, and the WAL followed from every backup to the end of the archive. Nothing
/// is changed but what is noted below `verify/`; backups, restores and prunes may run meanwhile, on any host.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep verify
  walkeep verify --since-last --every 30d --quiet
  walkeep verify --backup 20261121T031502Z-1f3a9c

Exit status: 0 good, 3 bad: each damaged or missing object is named, with what it costs,
1 could not tell: something could not be read, and nothing that was read is bad")]
pub struct Verify {
    /// Look at presence and size alone
    #[arg(long)]
    pub quick: bool,
    /// Do not read again what was read and found good not long ago, see --every; what is missing is seen all the same
    #[arg(long, conflicts_with = "quick")]
    pub since_last: bool,
    /// How long what was read is trusted
    #[arg(long, value_name = "DURATION", default_value = "30d", requires = "since_last", value_parser = crate::config::parse_duration)]
    pub every: std::time::Duration,
    /// Only this backup, and the WAL from it on; as `walkeep list` names it, or `latest`
    #[arg(long, value_name = "BACKUP", conflicts_with = "wal")]
    pub backup: Option<String>,
    /// Only the WAL
    #[arg(long)]
    pub wal: bool,
    /// Threads [default: as configured for backups]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZeroUsize>,
    #[command(flatten)]
    pub place: Place,
}

/// Shows how each cluster and each repository is: green, yellow or red, why, and what to type
///
/// Changes nothing and reads no WAL and no blocks. The server may be down. What is still good says [status] in the
/// configuration.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep status
  walkeep status --json
  walkeep status --nagios

Exit status: 0 green or yellow, 3 red; with --nagios 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN")]
pub struct Status {
    /// One line as a plugin of Nagios or Icinga prints it, with performance data, and their exit statuses
    #[arg(long, conflicts_with = "json")]
    pub nagios: bool,
    /// Tell as [notify] says when a cluster has become red, and when it is not any more: for cron
    #[arg(long)]
    pub notify: bool,
    #[command(flatten)]
    pub patience: Patience,
}

/// Prints what `walkeep status` looks at as OpenMetrics text
///
/// For the textfile collector of Prometheus's node_exporter; the README lists the metrics.
#[derive(Args)]
#[command(after_help = "\
Example:
  walkeep metrics --output /var/lib/prometheus/node-exporter/walkeep.prom

Exit status: 0 also when something is red: that is in the metrics")]
pub struct Metrics {
    /// Write this file instead, in one step
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub patience: Patience,
}

/// Writes what `walkeep status` and `walkeep list` know as one page to look at
///
/// With the backups and what can be restored over time, the WAL and its gaps, sizes, drills, and what would be lost now.
/// The page needs no other file and loads nothing; it can be mailed and printed. WAL and blocks are not read, but
/// for the last commit.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep report --html /var/www/html/walkeep.html
  walkeep report --html - > walkeep.html

Exit status: 0 the page is written, also when something is red: that is on the page")]
pub struct Report {
    /// Write this file, in one step; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
    #[command(flatten)]
    pub patience: Patience,
}

/// Sends a test notice, to prove that notices arrive
///
/// They are sent as [notify] in the configuration says: when backup, prune, verify, sync, drill, check or `status
/// --notify` fails, when it works again, and after every drill. A notice that does not arrive is a warning, and no verb
/// ends otherwise for it.
#[derive(Args)]
#[command(after_help = "\
Example:
  walkeep notify --test

Exit status: 0 every way took the notice, 1 one did not, 2 none is configured")]
pub struct Notify {
    /// Send a test notice now
    #[arg(long, required = true)]
    pub test: bool,
}

/// For server and repositories.
#[derive(Args)]
pub struct Patience {
    /// How long server and repositories may take to answer
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = crate::config::parse_duration)]
    pub timeout: std::time::Duration,
}

/// Keeps a backup whatever the retention says
///
/// A backup that is pinned already is pinned as is said now.
#[derive(Args)]
#[command(after_help = "\
Examples:
  walkeep pin latest
  walkeep pin 20261121T031502Z-1f3a9c --until 2027-12-31 --standalone")]
pub struct Pin {
    /// As `walkeep list` names it, or `latest`
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// Until this day or time [default: for ever]
    #[arg(long, value_name = "DATE")]
    pub until: Option<String>,
    /// Keep just the WAL that makes it consistent: it restores to its end, and no further
    #[arg(long)]
    pub standalone: bool,
    #[command(flatten)]
    pub place: Place,
}

/// Lets the retention decide about a pinned backup again
#[derive(Args)]
pub struct Unpin {
    /// As `walkeep list` names it, or `latest`
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Args)]
#[group(id = "target", multiple = false)]
pub struct Target {
    /// Recover to this moment: RFC 3339 or PostgreSQL's style, with an offset such as +01 or Z
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// Recover to this position in the WAL
    #[arg(long, value_name = "LSN")]
    pub lsn: Option<crate::pg::lsn::Lsn>,
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

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Timeline {
    Latest,
    Current,
    Number(u32),
}

impl std::str::FromStr for Timeline {
    type Err = String;

    fn from_str(text: &str) -> Result<Timeline, String> {
        match text {
            "latest" => Ok(Timeline::Latest),
            "current" => Ok(Timeline::Current),
            _ => text
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .map(Timeline::Number)
                .ok_or_else(|| "a timeline is a decimal number, `latest` or `current`".to_owned()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Stay in recovery, readable, until pg_wal_replay_resume()
    Pause,
    /// End recovery and open for writing
    Promote,
    /// Stop the server
    Shutdown,
}

/// Prints completions for a shell
#[derive(Args)]
pub struct Completions {
    pub shell: clap_complete::Shell,
}

/// Prints the manual page, or writes all of them to a directory
#[derive(Args)]
pub struct Man {
    /// Write walkeep.1 and one page for each verb here
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

fn parse_rate(text: &str) -> crate::error::Result<std::num::NonZeroU64> {
    let rate = crate::config::parse_size(text)?;
    let nothing = || crate::error::Error::new(crate::error::Kind::Usage, "nothing would ever be read");
    std::num::NonZeroU64::new(rate).ok_or_else(nothing)
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    let fine = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !fine || text.len() > 1000 {
        return Err(
            "a label's key is made of letters, digits, `.`, `_` and `-`; 1000 bytes at most".to_owned()
        );
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `OLD=NEW`; the last `=` divides, since a location may have one. Locations are bytes, and need not be text.
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
