//! What users are told about a configuration that cannot be used.

use super::{FILE, SMALLEST, load, parse, refused};
use std::fs;
use tempfile::TempDir;
use walkeep::error::Kind;

/// That the smallest configuration is refused with `text` behind it.
#[track_caller]
fn refused_with(text: &str, message: &str, hint: &str) {
    let error = refused(&format!("{SMALLEST}{text}"));
    assert_eq!(error.to_string(), format!("{FILE}:{message}"));
    let advice = error.advice().unwrap();
    assert!(advice.contains(hint), "{advice}");
}

/// That `text` is refused, with an error of this place and message.
#[track_caller]
fn refused_as(text: &str, message: &str) {
    assert_eq!(refused(text).to_string(), format!("{FILE}{message}"));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    refused_with("[wal]\npushahead = 8", "8: wal.pushahead: unknown key", "`push_ahead`");
    refused_with("[vwal]", "7: vwal: unknown key", "`wal`");
    refused_with(
        "sekret_key_file = '/x'",
        "7: repository.local.sekret_key_file: unknown key",
        "`secret_key_file`",
    );
    refused_with(
        "[repository.retention]\nkeep_monthy = 1",
        "8: repository.local.retention.keep_monthy: unknown key",
        "`keep_monthly`",
    );
    refused_with("[cluster.\"a.b\"]\npg_data = ''", "8: cluster.\"a.b\".pg_data: unknown key", "`pgdata`");
    refused_with("\"\\n\" = 1", "7: repository.local.\"\\n\": unknown key", "nearest");
}

#[test]
fn notices_that_could_go_nowhere_or_say_nothing_are_refused() {
    let with = |line: &str| format!("[notify]\n{line}");
    refused_with(&with("webhok = 'x'"), "8: notify.webhok: unknown key", "`webhook`");
    refused_with(&with("command = '/bin/tell'"), "8: notify.command: expected a list", "`command = [");
    refused_with(&with("command = [['/bin/tell']]"), "8: notify.command: expected a list", "`command = [");
    for line in ["command = []", "command = ['tell']"] {
        refused_with(
            &with(line),
            "8: notify.command: the first item is not the absolute path of a program",
            "no shell",
        );
    }
    refused_with(
        &with("on = ['failures']"),
        "8: notify.on: \"failures\" is not a known value",
        "\"failure\", ",
    );
    refused_with(
        &with("format = 'mail'"),
        "8: notify.format: \"mail\" is not a known value",
        "\"json\", \"slack\"",
    );
    refused_with(&with("ca_file = '/x'"), "8: notify.ca_file: set without `webhook`", "`webhook`");
    refused_with(&with("timeout = '0s'"), "8: notify.timeout: \"0s\" is zero", "longer");
}

#[test]
fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
    refused_with(
        "[repository.retention]\nrequired = false",
        "8: repository.local.retention.required: unknown key",
        "belongs in `[[repository]]`",
    );
    refused_with("jobs = 2", "7: repository.local.jobs: unknown key", "in `[backup]`");
}

#[test]
fn keys_are_checked_before_any_value() {
    refused_with(
        "[wal]\ntimeout = 'soon'\n[backup]\nthreads = 2",
        "10: backup.threads: unknown key",
        "nearest",
    );
}

#[test]
fn tables_in_the_wrong_brackets_are_explained() {
    refused_with("[[wal]]", "7: wal: expected a table", "`[wal]`");
    refused_with("[backup.jobs]", "7: backup.jobs: expected a single value", "`jobs = …`");
    refused_with("[backup]\njobs = [1]", "8: backup.jobs: expected a single value", "jobs");
    refused_as("[cluster]\npgdata = '/x'", ":1: cluster: expected named tables");
    refused_as("[[cluster]]", ":1: cluster: expected named tables");
    refused_as("[repository]\nname = 'x'", ":1: repository: expected a list of tables");
    refused_as("repository = [1]", ":1: repository: expected a list of tables");
    refused_as("cluster = 1", ":1: cluster: expected named tables");
}

#[test]
fn values_of_the_wrong_type_are_refused_without_repeating_them() {
    let found = |key, expected, found| format!("8: {key}: expected {expected}, found {found}");
    let number = "a whole number";
    for (text, message) in [
        ("[wal]\nlevel = '3'", found("wal.level", number, "string")),
        ("[wal]\nlevel = 1.0", found("wal.level", number, "float")),
        ("[wal]\ntimeout = 50", found("wal.timeout", "a duration with its unit", "integer")),
        ("[wal]\nspool = 1", found("wal.spool", "text", "integer")),
        ("[wal]\ncompression = true", found("wal.compression", "text", "boolean")),
        ("[backup]\nverify_pages = 'yes'", found("backup.verify_pages", "true or false", "string")),
        ("[backup]\njobs = 2020-01-01", found("backup.jobs", number, "datetime")),
    ] {
        refused_with(text, &message, "write it as in");
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for (text, message, hint) in [
        ("[wal]\nlevel = 20", "8: wal.level: 20 is out of range", "1 to 19"),
        ("[wal]\nlevel = 0", "8: wal.level: 0 is out of range", "1 to 19"),
        ("[backup]\nlevel = -1", "8: backup.level: -1 is out of range", "1 to 19"),
        ("[backup]\njobs = 0", "8: backup.jobs: 0 is out of range", "1 to 1024"),
        ("[backup]\njobs = 1_025", "8: backup.jobs: 1025 is out of range", "1 to 1024"),
        ("[wal]\npush_ahead = -1", "8: wal.push_ahead: -1 is out of range", "0 to 1024"),
        ("[wal]\nfetch_ahead = 1025", "8: wal.fetch_ahead: 1025 is out of range", "0 to 1024"),
        (
            "[repository.retention]\nkeep_last = 0",
            "8: repository.local.retention.keep_last: 0 is out of range",
            "from 1",
        ),
        (
            "[wal]\nlevel = 99999999999999999999",
            "8: wal.level: 99999999999999999999 is out of range",
            "1 to 19",
        ),
    ] {
        refused_with(text, message, hint);
    }
}

#[test]
fn bad_durations_and_words_are_refused() {
    refused_with(
        "[wal]\ntimeout = '5 min'",
        "8: wal.timeout: \"5 min\" is not a duration: a whole number of ms, s, m, h, d or w, at most 100 years",
        "`50s`",
    );
    refused_with("[wal]\ntimeout = '0s'", "8: wal.timeout: \"0s\" is zero", "longer");
    refused_with(
        "[wal]\ncompression = 'lz4'",
        "8: wal.compression: \"lz4\" is not a known value",
        "\"zstd\", \"none\"",
    );
    refused_with(
        "[backup]\ncheckpoint = 'Fast'",
        "8: backup.checkpoint: \"Fast\" is not a known value",
        "\"fast\", \"spread\"",
    );
}

#[test]
fn a_missing_key_is_named_with_the_line_of_its_table() {
    refused_as(&SMALLEST.replace("pgdata", "#"), ":2: cluster.main.pgdata: missing");
    refused_as(&SMALLEST.replace("name", "#"), ":4: repository.name: missing");
    refused_as(&SMALLEST.replace("url", "#"), ":4: repository.local.url: missing");
    let (cluster, repository) = SMALLEST.split_at(SMALLEST.find("[[").unwrap());
    refused_as(cluster, ": repository: none is configured");
    refused_as(repository, ": cluster: none is configured");
    refused_as("", ": cluster: none is configured");
}

#[test]
fn a_configuration_in_which_nothing_must_be_stored_anywhere_is_refused() {
    let text = format!("{SMALLEST}required = false");
    refused_as(&text, ":4: repository: none is required");
}

#[test]
fn paths_must_be_absolute() {
    let path = "not an absolute path";
    refused_with("[wal]\nspool = 'spool'", &format!("8: wal.spool: {path}"), "from `/` on");
    refused_as(&SMALLEST.replace("/pg/main", "pg/main"), &format!(":3: cluster.main.pgdata: {path}"));
    refused_as(
        &SMALLEST.replace("file:///backup", "file://backup"),
        &format!(":6: repository.local.url: {path}"),
    );
}

#[test]
fn a_repository_that_is_no_place_is_refused() {
    for url in [
        "",
        "/backup",
        "file:/backup",
        "http://x/y",
        "s3:/bucket/x",
        "S3://bucket",
        "file:///",
        "s3://",
        "s3://Bucket/x",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://bucket/x?y=z",
    ] {
        let error = refused(&SMALLEST.replace("file:///backup", url));
        let place = format!("{FILE}:6: repository.local.url: ");
        assert!(error.to_string().starts_with(&place), "{url}: {error}");
    }
}

#[test]
fn repositories_that_are_one_and_the_same_are_refused() {
    let again = |name: &str, url: &str| format!("[[repository]]\nname = '{name}'\nurl = '{url}'");
    refused_with(
        &again("local", "file:///other"),
        "8: repository.local.name: another repository has the name local already",
        "name of its own",
    );
    refused_with(
        &again("other", "file:///backup/"),
        "9: repository.other.url: repository local is at the same place",
        "place of its own",
    );
    refused_with(
        "[cluster.other]\npgdata = '/pg/main/'",
        "8: cluster.other.pgdata: cluster main has the same data directory",
        "once",
    );
}

#[test]
fn settings_of_an_object_store_are_refused_for_a_directory() {
    refused_with(
        "region = 'eu'",
        "7: repository.local.region: not a setting of a `file://` repository",
        "remove `region`",
    );
}

#[test]
fn settings_of_an_object_store_must_fit_together() {
    let s3 = |more: &str| format!("{}{more}", SMALLEST.replace("file:///backup", "s3://bucket"));
    refused_as(
        &s3("access_key_file = '/a'"),
        ":7: repository.local.access_key_file: set without `secret_key_file`",
    );
    refused_as(
        &s3("sse = 'AES256'\nsse_kms_key_id = '1'"),
        ":8: repository.local.sse_kms_key_id: set without `sse = \"aws:kms\"`",
    );
    refused_as(&s3("sse = 'rot13'"), ":7: repository.local.sse: \"rot13\" is not a known value");
    refused_as(&s3("profile = ''"), ":7: repository.local.profile: empty");
    refused_as(
        &s3("endpoint = 's3.example.com'"),
        ":7: repository.local.endpoint: not the address of an object store",
    );
}

#[test]
fn names_that_are_no_safe_directory_are_refused() {
    let long = "x".repeat(64);
    for name in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", "a\\\\b", &long] {
        let error = refused(&SMALLEST.replace("cluster.main", &format!("cluster.\"{name}\"")));
        assert!(error.to_string().starts_with(&format!("{FILE}:2: cluster.")), "{error}");
        assert!(error.to_string().contains(": not a name: "), "{error}");
        let error = refused(&SMALLEST.replace("local", name));
        assert!(error.to_string().starts_with(&format!("{FILE}:5: repository.")), "{error}");
    }
    for name in ["a", "_", "0", "Main-1.b_c", &long[1..]] {
        let config = parse(&SMALLEST.replace("cluster.main", &format!("cluster.\"{name}\""))).unwrap();
        assert_eq!(config.clusters[0].name, name);
    }
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_the_line() {
    for (text, line) in [("[wal", 7), ("x", 7), ("[backup]\njobs = ", 8), ("[wal]\n[wal]", 8)] {
        let error = refused(&format!("{SMALLEST}{text}"));
        let place = format!("{FILE}:{line}: not valid TOML: ");
        assert!(error.to_string().starts_with(&place), "{text}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_missing_file_is_explained_with_the_three_places() {
    let directory = TempDir::new().unwrap();
    let error = load(&directory.path().join("none.toml")).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("none.toml"), "{error}");
    for place in ["--config", "$WALKEEP_CONFIG", FILE] {
        assert!(error.advice().unwrap().contains(place), "{place}");
    }
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let directory = TempDir::new().unwrap();
    let error = load(directory.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let path = directory.path().join("w.toml");
    fs::write(&path, b"\n# \xff\n").unwrap();
    let error = load(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("w.toml:2: not valid UTF-8"), "{error}");
    fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    let error = load(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
}

#[test]
fn files_of_other_systems_are_read_with_the_right_lines() {
    let text = format!("\u{feff}{SMALLEST}[wal]\nlevel = 77").replace('\n', "\r\n");
    refused_as(&text, ":8: wal.level: 77 is out of range");
}
