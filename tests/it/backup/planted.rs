//! Links, hard links and FIFOs that the server's user has put into the data directory.

use super::*;
use crate::support::account::account;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// A server, and a file that only root may read.
fn with_secret() -> Option<(Live, PathBuf)> {
    if !account().root {
        skipped("root", "only root reads what the server's user cannot read");
        return None;
    }
    // Root works as the owner of the repositories, and stays root when they have several.
    let (live, roots) = Live::with_two(|_| {});
    Run::new("chown").args(["-R", "0"]).arg(&roots[1]).by_root().go().ok();
    let secret = live.server.scratch().write("secret", "content of root");
    std::os::unix::fs::chown(&secret, Some(0), Some(0)).expect("chown");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("chmod");
    Some((live, secret))
}

fn planted(live: &Live) -> PathBuf {
    let oid = live.server.psql("select oid from pg_database where datname = 'postgres'");
    live.server.data().join("base").join(oid).join("99999")
}

#[test]
fn a_backup_by_root_takes_nothing_that_the_server_cannot_read() {
    let Some((live, secret)) = with_secret() else { return };
    let place = planted(&live);
    let private = secret.with_file_name("private");
    std::fs::create_dir(&private).expect("create a directory");
    std::fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).expect("chmod");
    for what in ["link", "hard link", "directory"] {
        match what {
            "link" => symlink(&secret, &place).expect("plant a link"),
            "hard link" => std::fs::hard_link(&secret, &place).expect("plant a hard link"),
            _ => symlink(&private, &place).expect("plant a link"),
        }
        live.backing_up().by_root().go().failed().says("cannot read");
        assert_eq!(live.records(), Vec::<String>::new(), "{what}");
        std::fs::remove_file(&place).expect("remove it");
    }
    // What the server can read itself is backed up as before.
    let own = live.server.scratch().write("own", "content of the server");
    symlink(&own, &place).expect("plant a link");
    let outcome = live.backing_up().by_root().go().ok().says("is a link");
    let restored = live.restore(&[]);
    let below = place.strip_prefix(live.server.data()).expect("below");
    assert_eq!(read(restored.data.join(below)), b"content of the server", "{outcome}");
}

#[test]
fn a_backup_by_root_reads_through_no_link_that_takes_the_place_of_a_file() {
    let Some((live, secret)) = with_secret() else { return };
    let place = planted(&live);
    let (link, file) = (place.with_extension("link"), place.with_extension("file"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                scratch::write(&file, "content of the server");
                std::fs::rename(&file, &place).expect("put the file there");
                symlink(&secret, &link).expect("make a link");
                std::fs::rename(&link, &place).expect("put the link there");
            }
        });
        for _ in 0..3 {
            let outcome = live.backing_up().by_root().go();
            if outcome.code() == Some(0) {
                let restored = live.restore(&[]);
                for path in repo::files(&restored.data) {
                    assert!(read(&path) != b"content of root", "{}", path.display());
                }
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_fifo_in_the_data_directory_holds_no_backup_up() {
    let live = Live::new();
    let place = planted(&live);
    Run::new("mkfifo").arg(&place).go().ok();
    live.backing_up().go().ok().says("is neither a file nor a directory");
}
