//! What users notice of the configuration: values, defaults, errors, and what `walkeep config`
//! prints.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use walkeep::codec::compress::Compression;
use walkeep::config::{
    Checkpoint, Config, LogFormat, LogLevel, RepositoryUrl, duration_text, locate, parse_duration, parse_size,
};
use walkeep::error::{Error, Kind, Result};
use walkeep::notify::{NoticeEvent, WebhookFormat};
use walkeep::retention::Policy;

mod errors;
mod secrets;

const FILE: &str = "/etc/walkeep/walkeep.toml";

const SMALLEST: &str = r#"
[cluster.main]
pgdata = "/pg/main"
[[repository]]
name = "local"
url = "file:///backup"
"#;

/// Every key there is.
const LARGEST: &str = r#"
[cluster.main]                       # one table a cluster
pgdata     = "/var/lib/postgresql/17/main"
connection = "host=/var/run/postgresql user=postgres dbname=postgres"

[[repository]]
name = "local"
url  = "file:///var/lib/walkeep"
required = true

[repository.retention]
keep_last    = 7
keep_within  = "14d"
keep_daily = 7
keep_weekly = 4
keep_monthly = 12
keep_yearly = 3

[[repository]]
name = "away"
url = "s3://bucket/some/prefix/"
required = false
region = "eu-central-1"
endpoint = "https://s3.example.com"
path_style = true
ca_file = "/etc/ssl/ca.pem"
profile = "backup"
storage_class = "STANDARD_IA"
sse = "aws:kms"
sse_kms_key_id = "1234"
access_key_file = "/etc/walkeep/access"
secret_key_file = "/etc/walkeep/secret"
checksums = "none"
conditional_create = false

[wal]
compression = "none"
level = 3
push_ahead  = 0
fetch_ahead = 16
timeout     = "1m"
spool       = "/spool"

[backup]
jobs  = 3
level = 0x13
checkpoint = "spread"
verify_pages = false
wal_summaries = false
rate = "50MiB"
nice = 10

[drill]
directory = "/srv/drill"
bin = "/opt/pg/bin"
jobs = 5
timeout = "2h"
amcheck = false
user = "admin"
preload = "timescaledb"

[[drill.assert]]
name = "orders"
cluster = "main"
database = "shop"
sql = "select count(*) from orders"
expected = 3

[[drill.assert]]
name = "lines"
database = "shop"
sql = """
select 'a', true
union all select 'b', false"""
expected = "a|t\nb|f"

[notify]
webhook = "https://hooks.example.com:8443/services/T0000?x=y"
format = "slack"
ca_file = "/etc/ssl/hooks.pem"
command = ["/usr/local/bin/tell", "-x", "a b", ""]
on = ["drill", "failure"]
timeout = "3s"
repeat = "1d"

[log]
file = "/var/log/walkeep.log"
level = "debug"
format = "text"
"#;

fn parse(text: &str) -> Result<Config> {
    let cpus = NonZeroUsize::new(6).unwrap();
    Config::parse(Path::new(FILE), text, cpus)
}

fn load(path: &Path) -> Result<Config> {
    Config::load(path, NonZeroUsize::MIN)
}

/// The error of a text, which must be one of configuration, name the file and have a hint.
fn refused(text: &str) -> Error {
    let error = parse(text).unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
    assert!(error.to_string().starts_with(FILE), "{error}");
    assert!(error.advice().is_some(), "no hint: {error}");
    error
}

#[test]
fn a_cluster_and_a_repository_are_enough_and_the_rest_has_the_documented_defaults() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.path, Path::new(FILE));
    let [cluster] = config.clusters.as_slice() else {
        panic!("one cluster");
    };
    assert_eq!(cluster.name, "main");
    assert_eq!(cluster.pgdata, Path::new("/pg/main"));
    assert_eq!(cluster.connection, None);
    let [repository] = config.repositories.as_slice() else {
        panic!("one repository");
    };
    assert_eq!(repository.name, "local");
    assert_eq!(repository.url, RepositoryUrl::File("/backup".into()));
    assert!(repository.required);
    assert_eq!(repository.retention, Policy::default());
    assert_eq!(config.wal.compression, Compression::Zstd(1));
    assert_eq!(config.wal.push_ahead, 8);
    assert_eq!(config.wal.fetch_ahead, 8);
    assert_eq!(config.wal.timeout, Duration::from_secs(50));
    assert_eq!(config.wal.spool, Path::new("/var/spool/walkeep"));
    assert_eq!(config.backup.jobs.get(), 6);
    assert_eq!(config.backup.compression, Compression::Zstd(1));
    assert_eq!(config.backup.checkpoint, Checkpoint::Fast);
    assert!(config.backup.verify_pages);
    assert!(config.backup.wal_summaries);
    assert_eq!((config.backup.rate, config.backup.nice), (None, 0));
}

#[test]
fn every_documented_key_is_understood() {
    let config = parse(LARGEST).unwrap();
    let connection = config.clusters[0].connection.as_deref();
    assert_eq!(connection, Some("host=/var/run/postgresql user=postgres dbname=postgres"));
    assert_eq!(
        config.repositories[0].retention,
        Policy {
            keep_last: Some(7),
            keep_within: Some(Duration::from_secs(14 * 86_400)),
            keep_daily: Some(7),
            keep_weekly: Some(4),
            keep_monthly: Some(12),
            keep_yearly: Some(3),
        }
    );
    let away = config.repository("away").unwrap();
    assert!(!away.required);
    assert_eq!(away.url, RepositoryUrl::S3 { bucket: "bucket".into(), prefix: "some/prefix".into() });
    assert_eq!(away.retention, Policy::default());
    let bucket = away.bucket.as_ref().expect("a bucket");
    assert!(!bucket.conditional_create);
    let s3 = &bucket.options;
    assert_eq!((&*s3.bucket, &*s3.prefix), ("bucket", "some/prefix"));
    assert_eq!(s3.checksums, walkeep::storage::Checksums::None);
    assert_eq!(s3.region.as_deref(), Some("eu-central-1"));
    assert_eq!(s3.endpoint.as_deref(), Some("https://s3.example.com"));
    assert!(s3.path_style);
    assert_eq!(s3.ca_file, Some("/etc/ssl/ca.pem".into()));
    assert_eq!(s3.profile.as_deref(), Some("backup"));
    assert_eq!(s3.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(s3.sse.as_deref(), Some("aws:kms"));
    assert_eq!(s3.sse_kms_key_id.as_deref(), Some("1234"));
    assert_eq!(s3.access_key_file, Some("/etc/walkeep/access".into()));
    assert_eq!(s3.secret_key_file, Some("/etc/walkeep/secret".into()));
    assert_eq!(config.wal.compression, Compression::Stored);
    let zstd = parse(&LARGEST.replace("compression = \"none\"", "compression = \"zstd\"")).unwrap();
    assert_eq!(zstd.wal.compression, Compression::Zstd(3));
    assert_eq!(config.wal.push_ahead, 0);
    assert_eq!(config.wal.fetch_ahead, 16);
    assert_eq!(config.wal.timeout, Duration::from_secs(60));
    assert_eq!(config.wal.spool, Path::new("/spool"));
    assert_eq!(config.backup.jobs.get(), 3);
    assert_eq!(config.backup.compression, Compression::Zstd(19));
    assert_eq!(config.backup.checkpoint, Checkpoint::Spread);
    assert!(!config.backup.verify_pages);
    assert!(!config.backup.wal_summaries);
    assert_eq!(config.backup.rate.map(|rate| rate.get()), Some(50 << 20));
    assert_eq!(config.backup.nice, 10);
    assert_eq!(config.drill.directory, Path::new("/srv/drill"));
    assert_eq!(config.drill.bin.as_deref(), Some(Path::new("/opt/pg/bin")));
    assert_eq!((config.drill.jobs.get(), config.drill.amcheck), (5, false));
    assert_eq!(config.drill.timeout, Duration::from_secs(7200));
    assert_eq!(config.drill.user.as_deref(), Some("admin"));
    assert_eq!(config.drill.preload.as_deref(), Some("timescaledb"));
    let [orders, lines] = &config.drill.assertions[..] else {
        panic!("{:?}", config.drill.assertions);
    };
    assert_eq!((orders.cluster.as_deref(), orders.assertion.expected.as_str()), (Some("main"), "3"));
    assert_eq!((lines.cluster.as_deref(), lines.assertion.expected.as_str()), (None, "a|t\nb|f"));
    let notify = &config.notify;
    let webhook = notify.webhook.as_ref().expect("a webhook");
    assert_eq!((webhook.host(), webhook.format), ("hooks.example.com", WebhookFormat::Slack));
    assert_eq!(webhook.ca_file, Some("/etc/ssl/hooks.pem".into()));
    assert_eq!(notify.command.as_deref().expect("a command"), ["/usr/local/bin/tell", "-x", "a b", ""]);
    assert_eq!(notify.on, [NoticeEvent::Drill, NoticeEvent::Failure]);
    assert_eq!(notify.timeout, Duration::from_secs(3));
    assert_eq!(notify.repeat, Duration::from_secs(86_400));
    let log = &config.log;
    assert_eq!(log.file.as_deref(), Some(Path::new("/var/log/walkeep.log")));
    assert_eq!((log.level, log.format), (LogLevel::Debug, LogFormat::Text));
}

#[test]
fn what_is_shown_can_be_read_again_and_says_where_each_value_came_from() {
    for text in [SMALLEST, LARGEST] {
        let shown = parse(text).unwrap().shown().to_string();
        let again = parse(&shown).unwrap().shown().to_string();
        let values = |text: &str| -> Vec<String> {
            let lines = text.lines().map(|line| line.rsplit_once("  # ").unwrap_or((line, "")).0);
            lines.map(String::from).collect()
        };
        assert_eq!(values(&shown), values(&again));
        assert!(!again.lines().any(|line| line.ends_with("# default")), "{again}");
        for line in shown.lines().skip(1).filter(|line| !line.is_empty()) {
            let (_, source) = line.rsplit_once("  # ").expect(line);
            assert!(source == "default" || source.starts_with("line "), "{line}");
        }
    }
    let shown = parse(SMALLEST).unwrap().shown().to_string();
    let expected = r#"# "/etc/walkeep/walkeep.toml"

[cluster.main]  # line 2
pgdata = "/pg/main"  # line 3

[[repository]]  # line 4
name = "local"  # line 5
url = "file:///backup"  # line 6
required = true  # default

[wal]  # default
compression = "zstd"  # default
level = 1  # default
push_ahead = 8  # default
fetch_ahead = 8  # default
timeout = "50s"  # default
spool = "/var/spool/walkeep"  # default

[backup]  # default
jobs = 6  # default
level = 1  # default
checkpoint = "fast"  # default
verify_pages = true  # default
wal_summaries = true  # default
nice = 0  # default

[drill]  # default
directory = "/var/tmp"  # default
jobs = 6  # default
timeout = "12h"  # default
amcheck = true  # default

[status]  # default
max_backup_age = "26h"  # default
max_ready = 64  # default
max_ready_age = "10m"  # default
min_time_to_full = "12h"  # default

[notify]  # default
format = "json"  # default
on = ["failure","recovery","drill"]  # default
timeout = "10s"  # default
repeat = "1h"  # default

[log]  # default
level = "info"  # default
format = "json"  # default
"#;
    assert_eq!(shown, expected);
}

#[test]
fn odd_characters_in_values_survive_being_shown() {
    let text = SMALLEST.replace("/pg/main", r#"/pg/it's \"100%\" \\ ä"#);
    let config = parse(&text).unwrap();
    let again = parse(&config.shown().to_string()).unwrap();
    assert_eq!(again.clusters[0].pgdata, Path::new(r#"/pg/it's "100%" \ ä"#));
    assert_eq!(again.clusters[0].pgdata, config.clusters[0].pgdata);
    let lines = SMALLEST.replace("[[", "connection = \"host=h\\n\\tuser=u\"\n[[");
    let again = parse(&parse(&lines).unwrap().shown().to_string()).unwrap();
    assert_eq!(again.clusters[0].connection.as_deref(), Some("host=h\n\tuser=u"));
}

#[test]
fn the_configuration_as_json_lists_every_setting_with_its_source() {
    let config = parse(&format!("{SMALLEST}[wal]\ntimeout = '1500ms'")).unwrap();
    let json = serde_json::to_value(config.shown()).unwrap();
    assert_eq!(json["path"], FILE);
    let setting = |key: &str| {
        let settings = json["settings"].as_array().unwrap();
        let found = settings.iter().find(|setting| setting["key"] == key).expect(key);
        (found["value"].clone(), found["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(setting("wal.timeout"), (1.5.into(), "line 8".into()));
    assert_eq!(setting("wal.level"), (1.into(), "default".into()));
    assert_eq!(setting("cluster.main.connection"), (().into(), "default".into()));
    assert_eq!(setting("repository.local.url"), ("file:///backup".into(), "line 6".into()));
    assert_eq!(setting("repository.local.retention.keep_last"), (().into(), "default".into()));
}

#[test]
fn a_cluster_is_found_by_its_name_or_by_the_working_directory_through_links() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("data")).unwrap();
    fs::create_dir(at("data2")).unwrap();
    symlink(at("data"), at("link")).unwrap();
    symlink(at("data"), at("link2")).unwrap();
    let text = format!(
        "[cluster.one]\npgdata = {:?}\n[cluster.two]\npgdata = {:?}\n[cluster.gone]\npgdata = {:?}\n",
        at("link"),
        at("data2"),
        at("gone"),
    );
    let config = parse(&format!("{SMALLEST}{text}").replace("/pg/main", "/nowhere/main")).unwrap();
    let found = |name, from: PathBuf| config.cluster(name, &from).map(|cluster| cluster.name.as_str());
    for from in ["data", "link", "link2", "data/../link"] {
        assert_eq!(found(None, at(from)).unwrap(), "one", "{from}");
    }
    assert_eq!(found(None, at("data2")).unwrap(), "two");
    assert_eq!(found(Some("two"), at("data")).unwrap(), "two");
    for (name, from) in [(Some("three"), at("data")), (None, at(".")), (None, at("gone")), (None, at("none"))]
    {
        let error = found(name, from).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.advice().unwrap().contains("main, one, two, gone"), "{error}");
    }
}

#[test]
fn two_clusters_that_lead_to_one_directory_must_be_named() {
    let directory = TempDir::new().unwrap();
    let link = directory.path().join("link");
    symlink(directory.path(), &link).unwrap();
    let more = format!("[cluster.other]\npgdata = {link:?}\n");
    let text = format!("{SMALLEST}{more}").replace("/pg/main", directory.path().to_str().unwrap());
    let error = parse(&text).unwrap().cluster(None, &link).unwrap_err().to_string();
    assert!(error.contains("main and other have the same pgdata"), "{error}");
}

#[test]
fn the_only_cluster_needs_no_name_when_that_is_asked_for() {
    let root = Path::new("/");
    let one = parse(SMALLEST).unwrap();
    assert_eq!(one.cluster(None, root).unwrap_err().kind(), Kind::Usage);
    assert_eq!(one.sole_cluster(None, root).unwrap().name, "main");
    assert_eq!(one.sole_cluster(Some("other"), root).unwrap_err().kind(), Kind::Usage);
    let two = parse(&format!("{SMALLEST}[cluster.two]\npgdata = '/pg/two'")).unwrap();
    let error = two.sole_cluster(None, root).unwrap_err();
    assert!(error.advice().unwrap().contains("--cluster"), "{error}");
}

#[test]
fn an_unknown_repository_is_a_usage_error_that_lists_the_known_ones() {
    let error = parse(LARGEST).unwrap().repository("x").unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("local, away"), "{error}");
}

#[test]
fn the_file_is_that_of_the_option_then_of_the_environment_then_the_one_in_etc() {
    let option = || Some(PathBuf::from("/o"));
    assert_eq!(locate(option(), Some("/e".into())), Path::new("/o"));
    assert_eq!(locate(None, Some("/e".into())), Path::new("/e"));
    assert_eq!(locate(None, Some("".into())), Path::new(FILE));
    assert_eq!(locate(None, None), Path::new(FILE));
}

#[test]
fn durations_are_read_and_written_with_their_unit() {
    for (text, milliseconds) in [
        ("300ms", 300),
        ("50s", 50_000),
        ("5m", 300_000),
        ("12h", 43_200_000),
        ("14d", 1_209_600_000),
        ("0s", 0),
    ] {
        let duration = Duration::from_millis(milliseconds);
        assert_eq!(parse_duration(text).unwrap(), duration);
        assert_eq!(duration_text(duration), text);
    }
    assert_eq!(parse_duration("8w").unwrap(), parse_duration("56d").unwrap());
    assert_eq!(duration_text(Duration::from_millis(90_500)), "90500ms");
    for text in [
        "",
        "5",
        "s",
        "-5s",
        "+5s",
        "1.5h",
        "5 s",
        "5S",
        "5y",
        "5s5",
        "٣s",
        "36501d",
        "99999999999999999999s",
    ] {
        let error = parse_duration(text).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(&format!("{text:?} is not a duration")), "{error}");
        assert!(error.advice().is_some());
    }
}

#[test]
fn sizes_are_read_with_decimal_and_binary_units() {
    for (text, bytes) in [
        ("512B", 512),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("16MiB", 16 << 20),
        ("1GB", 1_000_000_000),
        ("1GiB", 1 << 30),
        ("2TB", 2_000_000_000_000),
        ("2TiB", 2 << 40),
        ("1PiB", 1 << 50),
    ] {
        assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
    }
    for text in ["", "1", "MB", "1 MB", "1mb", "1.5GB", "-1MB", "16384PiB", "99999999999999999999B"] {
        let error = parse_size(text).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(&format!("{text:?} is not a size")), "{error}");
    }
}
