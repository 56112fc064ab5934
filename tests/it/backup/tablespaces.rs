//! Tablespaces at places whose names are bytes and no text.

use super::*;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const PLACES: [(&str, &[u8]); 4] = [
    ("latin", b"d\xe9j\xe0 \\vu"),
    ("blanks", b" two  blanks "),
    ("newline", b"new\n\nline"),
    ("backslash", b"\\x5c\\ back\\slash\\n\\"),
];

/// A server with tablespaces at strange places, a table in each, and a database in LATIN1.
struct Strange {
    live: Live,
    /// Name, OID, location.
    spaces: Vec<(&'static str, String, PathBuf)>,
}

impl Strange {
    fn new() -> Strange {
        let live = Live::new();
        let server = &live.server;
        server.psql("create database latin encoding 'LATIN1' locale 'C' template template0");
        let mut spaces = Vec::new();
        for (name, bytes) in PLACES {
            let place = server.scratch().mkdir(OsStr::from_bytes(bytes));
            // Only there the server takes every byte.
            let psql =
                pg::tool("psql").args(["-X", "-U", "postgres", "-d", "latin", "-h"]).arg(server.socket());
            psql.args(["-c", &format!("create tablespace {name} location {}", literal(&place))]).go().ok();
            server.psql(&format!("create table t_{name} (i int primary key) tablespace {name}"));
            let oid = server.psql(&format!("select oid from pg_tablespace where spcname = '{name}'"));
            spaces.push((name, oid, place));
        }
        let strange = Strange { live, spaces };
        strange.add();
        strange
    }

    fn add(&self) {
        for (name, ..) in PLACES {
            let rows = format!("select count(*) + 1, count(*) + 1000 from t_{name}");
            let sql = format!("insert into t_{name} select generate_series(a, b) from ({rows}) as r (a, b)");
            self.live.server.psql(&sql);
        }
    }

    /// All tables have their rows, and all tablespaces are at these places.
    #[track_caller]
    fn is_whole(&self, server: &Cluster, place: impl Fn(usize) -> PathBuf) {
        for (number, (name, oid, _)) in self.spaces.iter().enumerate() {
            let rows = |server: &Cluster| server.psql(&format!("select count(*), sum(i) from t_{name}"));
            assert_eq!(rows(server), rows(&self.live.server), "{name}");
            let link = std::fs::read_link(server.data().join("pg_tblspc").join(oid)).expect("a link");
            assert_eq!(link, place(number), "{name}");
        }
    }
}

/// A path as SQL in LATIN1, byte by byte.
fn literal(path: &Path) -> String {
    let byte = |byte: &u8| match byte.is_ascii_alphanumeric() || b"/.-_".contains(byte) {
        true => char::from(*byte).to_string(),
        false => format!("\\{byte:03o}"),
    };
    format!("E'{}'", path.as_os_str().as_bytes().iter().map(byte).collect::<String>())
}

#[test]
fn tablespaces_at_places_that_are_no_text_come_back_elsewhere_and_in_their_old_place() {
    let strange = Strange::new();
    let live = &strange.live;
    // Whichever encoding the database has that the session is in.
    let connection = live.server.connection().replace("dbname=postgres", "dbname=latin");
    let latin =
        Archive::build(live.server.data()).connection(connection).root(live.archive.root()).unregistered();
    let mut ids = Vec::new();
    for archive in [&live.archive, &latin] {
        ids.push(live::text(&live::json(&live::backing_up(archive).go().ok()), "id"));
        strange.add();
    }
    live.flush_wal();
    live.archive.walkeep(&["show", "latest"]).ok();
    live.archive.walkeep(&["verify"]).ok();
    for (round, id) in ids.iter().enumerate() {
        let scratch = Scratch::new();
        let new = |number: usize| scratch.join(OsStr::from_bytes(PLACES[number].1)).join("moved");
        let mut mappings = Vec::new();
        for (number, (_, oid, place)) in strange.spaces.iter().enumerate() {
            // By its number or by its place.
            let mut mapping = if round == 0 { OsString::from(oid) } else { place.clone().into_os_string() };
            mapping.push("=");
            mapping.push(new(number));
            mappings.extend([OsString::from("--tablespace"), mapping]);
        }
        let data = scratch.join("data");
        let outcome = live::restoring(&live.archive, &data, &[id]).args(mappings).go().ok();
        let places: Vec<PathBuf> = (0..PLACES.len()).map(new).collect();
        let copy = live::Restored { data, outcome, scratch }.verified().recovered();
        strange.is_whole(&copy, |number| places[number].clone());
        copy.stop(Stop::Fast);
    }

    // The disks are gone, and everything comes back to where it was.
    let rows: Vec<String> =
        PLACES.iter().map(|(name, _)| live.server.psql(&format!("select count(*) from t_{name}"))).collect();
    live.server.stop(Stop::Immediate);
    let data = live.server.data().to_owned();
    for place in strange.spaces.iter().map(|(_, _, place)| place).chain([&data]) {
        std::fs::remove_dir_all(place).expect("lose a directory");
    }
    live::restoring(&live.archive, &data, &[]).go().ok();
    pg::tool("pg_verifybackup").arg(&data).go().ok();
    assert!(live::recovers(&live.server), "{}", live.server.log_text());
    strange.is_whole(&live.server, |number| strange.spaces[number].2.clone());
    for ((name, _), rows) in PLACES.iter().zip(rows) {
        assert_eq!(live.server.psql(&format!("select count(*) from t_{name}")), rows, "{name}");
    }
}
