//! The numbers by which files of a major version are recognized, against the files of real servers
//! of every version that is installed.

use crate::support::*;
use walkeep::error::Kind;
use walkeep::pg::control::Control;
use walkeep::pg::version::VERSIONS;
use walkeep::pg::wal::SegmentHeader;

/// Values that no server has by default, in the order of the control file.
const SETTINGS: [(&str, u32); 5] = [
    ("max_connections", 77),
    ("max_worker_processes", 9),
    ("max_wal_senders", 5),
    ("max_prepared_transactions", 3),
    ("max_locks_per_transaction", 111),
];

fn newest_segment(server: &Cluster) -> Vec<u8> {
    read(server.wal().join(server.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")))
}

#[test]
fn the_files_of_every_version_are_what_the_table_says() {
    for version in VERSIONS {
        let Some(programs) = pg::version(version.major) else {
            continue;
        };
        let server = Cluster::build().programs(programs).create();
        for (name, value) in SETTINGS {
            server.set(name, &value.to_string());
        }
        server.start();
        let major = version.major;
        server.psql("create table t as select 1");
        let header = SegmentHeader::parse(&newest_segment(&server)).expect("the header of a segment");
        assert_eq!(header.major, major);
        let identifier = server.psql("select system_identifier from pg_control_system()");
        assert_eq!(header.system_identifier.to_string(), identifier, "{major}");
        let control = Control::read(server.data()).expect("the control file");
        let reported = server.psql("select pg_control_version, catalog_version_no from pg_control_system()");
        assert_eq!(reported, format!("{}|{}", version.control_version, control.catalog_version()), "{major}");
        assert_eq!(control.version(), version.control_version, "{major}");
        assert_eq!(control.least_settings(), SETTINGS, "{major}");
        assert!(control.is_in_production(), "{major}");
        // The end of recovery is behind a part of the structure that grew.
        server.stop(Stop::Fast);
        server.touch("standby.signal");
        server.start();
        let reached = server.psql("select min_recovery_end_lsn from pg_control_recovery()");
        let control = Control::read(server.data()).expect("the control file");
        assert_eq!(control.min_recovery_point(), reached.parse().expect("an LSN"), "{major}");
        assert!(control.min_recovery_point().0 > 0, "{major}");
    }
}

/// A control file with another version of its structure, and the right CRC.
fn with_control_version(number: u32) -> Vec<u8> {
    let mut bytes = segment::pg_control(18, 1, 1 << 24);
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..292]);
    bytes[292..296].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn another_version_is_refused_by_its_number() {
    let of_beta = Control::parse(with_control_version(1902)).expect_err("a beta's control file");
    assert_eq!(of_beta.kind(), Kind::Refused);
    assert!(of_beta.to_string().contains("1902"), "{of_beta}");
    assert!(of_beta.advice().is_some_and(|hint| hint.contains("15 to 19")), "{of_beta:?}");
    let mut header = Segment::new(1, 18).header();
    header[..2].copy_from_slice(&0xD121u16.to_le_bytes());
    let of_beta = SegmentHeader::parse(&header).expect_err("a beta's segment");
    assert!(of_beta.to_string().contains("D121"), "{of_beta}");
    for major in [14, 20] {
        let scratch = Scratch::new();
        scratch::write(&scratch.join("PG_VERSION"), format!("{major}\n"));
        let error = walkeep::pg::major_version(scratch.path()).expect_err("another version");
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains(&format!("PostgreSQL {major} is not supported")), "{error}");
    }
}

#[test]
fn init_of_a_beta_names_the_version_that_is_not_supported() {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 18, 7, 16);
    scratch::write(&data.path.join("global/pg_control"), with_control_version(1902));
    let archive = repo::Archive::build(&data.path).unregistered();
    archive.init().told().says("version 1902 of pg_control is not supported");
}
