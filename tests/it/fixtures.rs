//! The fixtures against the real thing: what is made without PostgreSQL has to look like
//! PostgreSQL's.

use crate::support::*;

#[test]
fn a_real_server_starts_answers_and_leaves_nothing_behind() {
    let server = Cluster::build().wal_segsize(1).checksums().create();
    server.start();
    assert_eq!(server.psql("select 1, 'a'"), "1|a");
    assert_eq!(server.psql("show data_checksums"), "on");
    let (pid, place) = (server.pid().expect("a postmaster"), server.scratch().path().to_owned());
    drop(server);
    until("the server is gone", || !wait::is_running(pid));
    assert!(!place.exists());
}

#[test]
fn made_control_files_are_those_of_postgresql() {
    let scratch = Scratch::new();
    let fake = DataDir::create(&scratch, "fake", 15, 0xF123_4567_89AB_CDEF, 64);
    let shown = pg::tool("pg_controldata").arg(&fake.path).go().ok().stdout;
    assert!(!shown.contains("WARNING"), "{shown}");
    for line in [
        "Database system identifier:           17375808098319191535",
        "Bytes per WAL segment:                67108864",
        "Database cluster state:               shut down",
        "Latest checkpoint's REDO WAL file:    000000010000000000000008",
        "Maximum size of a TOAST chunk:        1996",
        "Float8 argument passing:              by value",
    ] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
}

#[test]
fn made_segments_have_the_header_of_a_real_one() {
    let server = Cluster::build().wal_segsize(1).create();
    let real = std::fs::read_dir(server.wal())
        .expect("list pg_wal")
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().len() == 24)
        .min_by_key(|entry| entry.file_name()) // those behind it are recycled and not written yet
        .expect("initdb leaves a segment");
    let name = real.file_name().into_string().expect("a name");
    let number = u64::from_str_radix(&name[16..], 16).expect("a number");
    let mut made = Segment::new(server.system_identifier(), 15).megabytes(1).at(1, number);
    assert_eq!(made.name(), name);
    let bytes = read(real.path());
    made.info = u16::from_le_bytes([bytes[2], bytes[3]]);
    let mut header = made.header();
    header[16..20].copy_from_slice(&bytes[16..20]); // the rest of a record from the segment before
    assert_eq!(header, bytes[..40]);
}

#[test]
fn the_last_segments_of_a_log_have_the_names_that_postgresql_gives() {
    for (megabytes, last) in [(1, "00000FFF"), (16, "000000FF"), (64, "0000003F"), (1024, "00000003")] {
        let in_log = 4096 / megabytes;
        let segment = Segment::new(1, 15).megabytes(megabytes);
        let name = segment.clone().at(1, in_log - 1).name();
        assert_eq!(name, format!("0000000100000000{last}"));
        assert_eq!(segment.at(1, in_log).name(), "000000010000000100000000");
    }
}

#[test]
fn traces_show_calls_and_their_faults() {
    let Some(strace) = Strace::new() else {
        return;
    };
    let scratch = Scratch::new();
    let file = scratch.write("a", "a");
    let strace = strace.trace("unlink,unlinkat").inject("unlink,unlinkat:error=EIO:when=1");
    let traced = strace.go(&Run::new("rm").arg(&file));
    traced.outcome.clone().is(1);
    assert!(traced.was_hit(), "{}", traced.story());
    let call = traced.calls.iter().find(|call| call.injected).expect("the fault");
    assert!(call.paths().contains(&file), "{}", traced.story());
    assert!(!call.succeeded());
}

#[test]
fn a_required_tool_is_named_or_among_all() {
    let cases = [
        ("", "strace", false),
        ("strace", "strace", true),
        ("root, tmpfs", "tmpfs", true),
        ("root,tmpfs", "strace", false),
        ("all", "strace", true),
        ("all", "chromium", false),
        ("all,chromium", "chromium", true),
    ];
    for (list, tool, expected) in cases {
        assert_eq!(requires(list, tool), expected, "{list:?} {tool}");
    }
}
