//! What can be pushed, and what is sent away: names, sizes, headers, clusters, versions.

use super::*;
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn every_kind_of_wal_file_comes_back_as_it_was() {
    let site = Site::new();
    let segment = site.segment(2).noise();
    site.push(&segment).ok();
    site.holds(&segment.name(), &segment.bytes());
    let partial = site.segment(3);
    let name = format!("{}.partial", partial.name());
    site.archive.push(site.data.write_other(&name, partial.bytes())).ok();
    site.holds(&name, &partial.bytes());
    for (name, text) in [("00000002.history", HISTORY), ("000000010000000000000002.00000028.backup", LABEL)] {
        site.archive.push(site.data.write_other(name, text)).ok();
        site.holds(name, text.as_bytes());
        site.archive.push(site.data.write_other(name, text)).ok();
    }
    assert_eq!(site.archive.stored().len(), 4);
}

#[test]
fn stored_wal_is_read_with_zstd_alone() {
    let site = Site::new();
    let segment = site.segment(2);
    site.push(&segment).ok();
    let object = site.archive.object(&segment.name());
    let copy = site.scratch.join("copy.zst");
    std::fs::copy(&object, &copy).expect("copy the object");
    let output = std::process::Command::new("zstd").arg("-dcq").arg(&copy).output();
    let output = output.expect("start zstd");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout == segment.bytes());
}

#[test]
fn every_segment_size_and_version_comes_back_across_the_end_of_a_log() {
    for (major, megabytes) in [(15, 1), (16, 2), (17, 16), (18, 64), (19, 4)] {
        let site = Site::with(major, SYSTEM + u64::from(major), megabytes);
        let in_log = 4096 / megabytes;
        for number in [in_log - 1, in_log, 0x1A2B * in_log + 3] {
            let segment = site.segment(number);
            site.push(&segment).ok();
            site.holds(&segment.name(), &segment.bytes());
        }
    }
}

#[test]
fn a_segment_of_one_gigabyte_comes_back() {
    let site = Site::with(15, SYSTEM, 1024);
    let segment = site.segment(4);
    assert_eq!(segment.name(), "000000010000000100000000");
    let source = site.data.path.join(site.data.write(&segment));
    site.archive.push(&source).ok();
    site.archive.fetch(&segment.name()).ok();
    assert_eq!(sha256_file(&site.archive.destination()), sha256_file(&source));
}

#[test]
fn files_that_are_no_wal_are_refused_and_leave_nothing() {
    let site = Site::new();
    let segment = site.segment(2);
    let bytes = segment.bytes();
    let name = segment.name();
    let other = |name: &str, bytes: &[u8]| PathBuf::from(site.data.write_other(name, bytes));
    let mut files = vec![
        PathBuf::from("/etc/passwd"),
        other(&format!("archive_status/{name}.ready"), b""),
        other("../000000010000000000000002.tmp", &bytes),
        other("00000001000000000000000a", &bytes),
        other("00000001000000000000002", &bytes),
        other("0000000100000000000000002", &bytes),
        other(&format!("{name}.gz"), &bytes),
        other(&format!("{name}.zst"), &bytes),
        other(&format!("{name}.PARTIAL"), &bytes),
        other(&format!("{name}.0000028.backup"), LABEL.as_bytes()),
        other("0000002.history", HISTORY.as_bytes()),
        other("00000002.HISTORY", HISTORY.as_bytes()),
        other("000000010000000000000003", b""),
        other("000000010000000000000004", &bytes[..40]),
        other("000000010000000000000005", &vec![0; 1 << 20]),
        PathBuf::from("pg_wal/000000010000000000000006"),
        PathBuf::from(""),
        PathBuf::from("."),
        PathBuf::from("pg_wal"),
    ];
    site.scratch.mkdir(site.data.path.join("pg_wal/000000010000000000000007"));
    files.push("pg_wal/000000010000000000000007".into());
    let before = site.archive.snapshot();
    for file in files {
        let outcome = site.archive.pushing(&file).deadline(Duration::from_secs(20)).go().refused();
        assert_eq!(site.archive.snapshot(), before, "{outcome}");
    }
}

#[test]
fn a_fifo_named_like_a_segment_does_not_hang_the_push() {
    let site = Site::new();
    let name = "pg_wal/000000010000000000000002";
    Run::new("mkfifo").arg(name).cwd(&site.data.path).go().ok();
    site.archive.pushing(name).deadline(Duration::from_secs(20)).go().refused();
    assert_no_trace(&site.archive, "000000010000000000000002");
}

#[test]
fn a_symlink_to_a_segment_is_stored_whole_or_refused() {
    let site = Site::new();
    let segment = site.segment(2);
    let elsewhere = segment.write_to(&site.scratch.join("elsewhere"));
    let link = site.data.path.join("pg_wal").join(segment.name());
    std::os::unix::fs::symlink(&elsewhere, &link).expect("make a symlink");
    match site.archive.push(&link).code() {
        Some(0) => site.holds(&segment.name(), &segment.bytes()),
        _ => assert_no_trace(&site.archive, &segment.name()),
    }
}

#[test]
fn a_segment_of_the_wrong_size_is_refused() {
    let site = Site::with(15, SYSTEM, 16);
    let segment = site.segment(2);
    let bytes = segment.bytes();
    let longer = [bytes.as_slice(), &[0; 8192]].concat();
    for wrong in [&bytes[..8 << 20], &bytes[..(16 << 20) - 1], &longer] {
        site.archive.push(site.data.write_other(&segment.name(), wrong)).refused();
        assert_no_trace(&site.archive, &segment.name());
    }
    // A size that PostgreSQL does not know, although file and header agree.
    let mut strange = bytes[..12 << 20].to_vec();
    strange[32..36].copy_from_slice(&(12u32 << 20).to_le_bytes());
    site.archive.push(site.data.write_other(&segment.name(), strange)).refused();
    let partial = format!("{}.partial", segment.name());
    site.archive.push(site.data.write_other(&partial, &bytes[..8 << 20])).refused();
    assert_eq!(site.archive.stored(), []);
}

#[test]
fn a_segment_whose_header_does_not_fit_its_name_is_refused() {
    let site = Site::new();
    let segment = site.segment(5);
    let wrong = |change: &dyn Fn(&mut Segment)| {
        let mut other = segment.clone();
        change(&mut other);
        other.bytes()
    };
    for (what, bytes) in [
        ("another position", wrong(&|s| s.number = 6)),
        ("a later timeline", wrong(&|s| s.timeline = 2)),
        ("another version", wrong(&|s| s.major = 17)),
        ("another cluster", wrong(&|s| s.system_identifier += 1)),
        ("a short header", wrong(&|s| s.info = 0)),
    ] {
        let outcome = site.archive.push(site.data.write_other(&segment.name(), bytes));
        assert!(matches!(outcome.code(), Some(1..=125)), "{what}\n{outcome}");
        outcome.told();
        assert_no_trace(&site.archive, &segment.name());
    }
    // 16 MB segments end at FF; a name behind that is no place in the WAL.
    let sixteen = Site::with(15, SYSTEM, 16);
    let bytes = sixteen.segment(0x100).bytes();
    sixteen.archive.push(sixteen.data.write_other("000000010000000000000100", bytes)).refused();
}

#[test]
fn the_first_segment_of_a_new_timeline_is_accepted_with_the_old_one_in_its_header() {
    let site = Site::new();
    for (number, info) in [(7, 2), (8, 6), (9, 7)] {
        let mut segment = site.segment(number).header_timeline(1);
        segment.timeline = 2;
        segment.info = info;
        site.push(&segment).ok();
        site.holds(&segment.name(), &segment.bytes());
    }
}

#[test]
fn a_segment_of_another_cluster_is_refused_and_both_identifiers_are_shown() {
    let site = Site::new();
    let foreign = Segment::new(42, 15).megabytes(1).at(1, 2);
    let outcome = site.push(&foreign).refused();
    outcome.says("42").says(&SYSTEM.to_string());
    assert_no_trace(&site.archive, &foreign.name());
}

#[test]
fn another_cluster_with_the_same_configuration_cannot_push() {
    let site = Site::new();
    let other = site.other(15, 42);
    let segment = other.segment(2);
    let file = other.write(&segment);
    let run = Run::of("walpush").arg("--config").arg(site.archive.config());
    let run = run.args(["--cluster", "main"]).arg(file).cwd(&other.path);
    run.go().refused().says("42").says(&SYSTEM.to_string());
    assert_no_trace(&site.archive, &segment.name());
}

#[test]
fn system_identifiers_above_the_signed_range_work() {
    let site = Site::with(17, 0xFEDC_BA98_7654_3210, 1);
    let segment = site.segment(3);
    site.push(&segment).ok();
    site.holds(&segment.name(), &segment.bytes());
    let foreign = Segment::new(0x8000_0000_0000_0000, 17).megabytes(1).at(1, 4);
    let outcome = site.push(&foreign).refused();
    outcome.says("9223372036854775808").says("18364758544493064720");
}

#[test]
fn after_an_upgrade_nothing_is_pushed_until_the_new_version_is_registered() {
    let mut site = Site::new();
    let old = site.segment(2);
    site.push(&old).ok();
    // pg_upgrade makes a new cluster with a new identifier, whose WAL has the old names again.
    let new = site.other(18, SYSTEM + 1);
    site.archive.set_pgdata(&new.path);
    let segment = new.segment(2).mark("of 18");
    let file = new.write(&segment);
    let before = site.archive.snapshot();
    site.archive.push(&file).refused();
    site.archive.init().failed().says("--upgrade");
    assert_eq!(site.archive.snapshot(), before);

    site.archive.run("walkeep").args(["init", "--upgrade"]).go().ok();
    site.archive.push(&file).ok();
    let fetched = |data: &DataDir| {
        let run = Run::of("walfetch").arg("--config").arg(site.archive.config());
        let run = run.args(["--cluster", "main", &old.name(), "pg_wal/RECOVERYXLOG"]);
        run.cwd(&data.path).go().ok();
        read(data.path.join("pg_wal/RECOVERYXLOG"))
    };
    assert!(fetched(&new) == segment.bytes());
    assert!(fetched(&site.data) == old.bytes());
}

#[test]
fn the_environment_of_the_server_changes_nothing() {
    let site = Site::new();
    let file = site.data.write(&site.segment(2));
    let mut run = site.archive.pushing(&file);
    for (name, value) in [
        ("PGHOST", "/nonexistent"),
        ("PGUSER", "nobody"),
        ("PGPORT", "1"),
        ("PGDATA", "/nonexistent"),
        ("TZ", "Nowhere/Never"),
        ("LC_ALL", "tr_TR.UTF-8"),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("HOME", "/nonexistent"),
        ("TMPDIR", "/nonexistent"),
        ("RUST_BACKTRACE", "full"),
    ] {
        run = run.env(name, value);
    }
    run.go().ok();
    let bare = site.archive.fetching("000000010000000000000002", "pg_wal/RECOVERYXLOG");
    bare.under(["env", "-i"]).go().ok();
}

#[test]
fn the_signals_that_the_archiver_ignores_change_nothing() {
    let site = Site::new();
    let file = site.data.write(&site.segment(2));
    let shell = r#"trap "" INT ALRM PIPE XFSZ TTIN TTOU; exec "$@""#;
    site.archive.pushing(&file).under(["sh", "-c", shell, "sh"]).go().ok();
    site.holds("000000010000000000000002", &site.segment(2).bytes());
}

#[test]
fn symlinked_data_and_wal_directories_work() {
    let mut site = Site::new();
    let wal = site.data.path.join("pg_wal");
    std::fs::rename(&wal, site.scratch.join("wal")).expect("move pg_wal");
    std::os::unix::fs::symlink(site.scratch.join("wal"), &wal).expect("link pg_wal");
    let link = site.scratch.join("link");
    std::os::unix::fs::symlink(&site.data.path, &link).expect("link the data directory");

    let first = site.segment(2);
    site.archive.run("walpush").arg(site.data.write(&first)).cwd(&link).go().ok();
    site.archive.set_pgdata(&link);
    let second = site.segment(3);
    site.archive.run("walpush").arg(site.data.write(&second)).cwd(&site.data.path).go().ok();
    site.holds(&first.name(), &first.bytes());
    site.holds(&second.name(), &second.bytes());
}

#[test]
fn elsewhere_a_push_takes_an_absolute_path_and_no_relative_one() {
    let site = Site::new();
    let file = site.data.write(&site.segment(2));
    let run = |path: PathBuf| {
        let run = site.archive.run("walpush").args(["--cluster", "main"]).arg(path);
        run.cwd("/").go()
    };
    run(PathBuf::from(&file)).refused();
    run(site.data.path.join(&file)).ok();
    site.holds("000000010000000000000002", &site.segment(2).bytes());
}

#[test]
fn the_cluster_is_found_by_the_working_directory_and_a_copy_elsewhere_is_refused() {
    let site = Site::new();
    let file = site.data.path.join(site.data.write(&site.segment(2)));
    let run = Run::of("walpush").arg(&file).env("WALKEEP_CONFIG", site.archive.config());
    run.clone().cwd(&site.data.path).go().ok();
    run.clone().cwd("/").go().ok();
    // A data directory that no cluster names: perhaps a copy, which must not archive by accident.
    let copy = site.other(15, site.data.system_identifier);
    run.cwd(&copy.path).go().refused().says("--cluster");
    let unknown = site.archive.run("walpush").args(["--cluster", "nosuch"]).arg(&file);
    unknown.go().refused().says("nosuch");
}

#[test]
fn wrong_use_and_wrong_configuration_are_failures_that_the_server_counts() {
    let site = Site::new();
    let file = site.data.write(&site.segment(2));
    for arguments in [&[][..], &["a", "b"], &["--nosuch", "a"], &["--config"]] {
        let outcome = Run::of("walpush").args(arguments).cwd(&site.data.path).go();
        assert!(matches!(outcome.code(), Some(1..=125)), "{outcome}");
    }
    let text = std::fs::read_to_string(site.archive.config()).expect("read the configuration");
    for wrong in [text.replace("push_ahead", "push_ahaed"), format!("{text}\n[["), String::new()] {
        scratch::write(site.archive.config(), wrong);
        site.archive.push(&file).refused();
    }
    std::fs::remove_file(site.archive.config()).expect("remove the configuration");
    let missing = site.archive.push(&file).refused();
    missing.says("walkeep.toml");
    assert_no_trace(&site.archive, "000000010000000000000002");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.archive.config()).expect("read the configuration");
    let text = text.replace("push_ahead", "push_ahaed");
    let line = 1 + text.lines().position(|line| line.contains("push_ahaed")).expect("the key");
    scratch::write(site.archive.config(), text);
    let outcome = site.archive.push(site.data.write(&site.segment(2))).refused();
    outcome.says("push_ahaed").says("push_ahead").says(&line.to_string());
}

#[test]
fn help_and_version_are_there() {
    for name in ["walpush", "walfetch", "walkeep"] {
        let help = Run::of(name).arg("--help").go().ok();
        assert!(help.stdout.contains("--config"), "{help}");
        let version = Run::of(name).arg("--version").go().ok();
        assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version}");
    }
}

#[test]
fn registering_again_changes_nothing_and_another_cluster_is_refused() {
    let mut site = Site::new();
    site.pushed(&[2]);
    let before = site.archive.snapshot();
    site.archive.init().ok();
    assert_eq!(site.archive.snapshot(), before);
    let other = site.other(15, 42);
    site.archive.set_pgdata(&other.path);
    site.archive.init().failed();
    assert_eq!(site.archive.snapshot(), before);
}

#[test]
fn a_damaged_control_file_registers_nothing_and_pushes_nothing() {
    let site = Site::new();
    let file = site.data.write(&site.segment(2));
    let mut control = read(site.data.path.join("global/pg_control"));
    control[0] ^= 1;
    scratch::write(&site.data.path.join("global/pg_control"), control);
    site.archive.push(&file).refused();
    assert_no_trace(&site.archive, "000000010000000000000002");
    let fresh = Archive::build(&site.data.path).unregistered();
    let before = fresh.snapshot();
    fresh.init().failed();
    assert_eq!(fresh.snapshot(), before);
}

#[test]
fn history_files_of_every_shape_that_postgresql_writes_are_taken() {
    let site = Site::new();
    // Reasons carry the name of a restore point in the encoding of the server; people add comments.
    for (name, text) in [
        ("00000002.history", &b"1\t0/3000000\tat restore point \"caf\xe9\"\n"[..]),
        (
            "00000003.history",
            b"# by hand\n\n1\t0/3000000\tbefore 2024-05-17 10:00:00+02\n\n2\t1A/2B000000\tx\n",
        ),
        ("0000000A.history", b"1\t0/3000000\tbefore transaction 777\n9\tFF/FFFFFFFF\tno newline at the end"),
        ("0000000B.history", b"1 0/3000000 after LSN 0/3000000\r\n10 0/4000000 x\r\n"),
    ] {
        site.archive.push(site.data.write_other(name, text)).ok();
        site.holds(name, text);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_never_stored_as_a_mixture() {
    let site = Site::with(15, SYSTEM, 4);
    let old = site.segment(2).noise();
    let file = site.data.path.join(site.data.write(&old));
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace = strace.detached().only(&file).inject("read,pread64,readv:delay_enter=300000");
    let run = site.archive.pushing(&file);
    let child = strace.spawn(&run);
    // Behind the header and the first piece, before the last one.
    until("a piece of the file was read", || {
        let length = |call: &strace::Call| call.result.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        strace.calls().iter().any(|call| call.name.contains("read") && length(call) > Some(4096))
    });
    let mut new = read(&file);
    for at in [200, new.len() / 2, new.len() - 200] {
        new[at] ^= 1;
    }
    scratch::write(&file, &new);
    if run.finish(child).code() == Some(0) {
        let stored = site.archive.fetched(&old.name());
        assert!(stored == old.bytes() || stored == new, "half of one and half of the other");
    } else {
        assert_no_trace(&site.archive, &old.name());
        site.archive.push(&file).ok();
        site.holds(&old.name(), &new);
    }
}
