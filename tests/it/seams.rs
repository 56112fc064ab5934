//! WAL of two servers under consecutive names: nothing takes it for a whole.

use crate::support::live::{json, text};
use crate::support::*;
use serde_json::Value;

/// A server with a backup, and a copy of it that has archived into another repository since.
struct Two {
    live: Live,
    id: String,
    other: Archive,
}

/// Both have written six segments since the copy was made.
fn two() -> Two {
    let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
    live.server.psql("create table t as select generate_series(1, 100) i");
    let id = live.backup_id();
    live.flush_wal();
    live.server.stop(Stop::Fast);
    let copy = live.server.copied();
    let other = Archive::of_server(&copy);
    copy.start();
    live.server.start();
    for server in [&copy, &live.server] {
        for round in 0..6 {
            let rows = if std::ptr::eq(server, &copy) { 10 } else { 40 };
            server.psql(&format!("insert into t select generate_series(1, {rows}) + {round}"));
            let name = server.switch_wal();
            server.await_archived(&name);
        }
    }
    live.server.stop(Stop::Fast);
    Two { live, id, other }
}

impl Two {
    /// Puts the other server's object in the place of one of the first server's.
    fn replace(&self, name: &str) {
        std::fs::copy(self.other.object(name), self.live.archive.object(name)).expect("copy an object");
    }

    /// Names of the segments that both have, in order.
    fn both(&self) -> Vec<String> {
        let stored = self.live.archive.stored().into_iter().map(|(name, _)| name);
        stored.filter(|name| name.len() == 24 && self.other.find(name).is_some()).collect()
    }
}

fn problems(archive: &Archive) -> Vec<Value> {
    let outcome = archive.walkeep(&["verify", "--json"]).is(3);
    json(&outcome)["problems"].as_array().expect("problems").clone()
}

#[test]
fn segments_of_two_servers_are_no_chain_for_list_verify_restore_and_drill() {
    let two = two();
    let archive = &two.live.archive;
    archive.walkeep(&["list"]).ok();
    archive.walkeep(&["verify"]).ok();
    let both = two.both();
    two.replace(&both[1]);
    two.replace(&both[2]);
    // Without a verification: the newest segments are read.
    let list = json(&archive.walkeep(&["list", "--json"]).is(3));
    let gaps = &list["repositories"][0]["wal"]["gaps"];
    let seams: Vec<String> = gaps.as_array().unwrap().iter().map(|gap| text(gap, "first")).collect();
    assert_eq!(seams, [both[1].clone(), both[3].clone()], "{list:#}");
    assert!(gaps[0]["seam"].is_string(), "{list:#}");
    let found = problems(archive);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(found[0]["kind"], "seam");
    assert!(text(&found[0], "object").ends_with(&both[1]), "{found:#?}");
    assert_eq!(found[0]["backups"][0], two.id, "{found:#?}");
    let text = archive.walkeep(&["list"]).is(3).stdout;
    assert!(text.contains(&format!("seam: {}", both[1])), "{text}");
    let scratch = Scratch::new();
    let outcome = live::restoring(archive, &scratch.join("data"), &[]).go();
    assert!(outcome.code() != Some(0), "{outcome}");
    outcome.says("does not continue");
    // The end of the backup lies before the seam.
    two.live.restore(&["--immediate"]);
    let drills = scratch.mkdir("drills");
    let drill = archive.run("walkeep").args(["drill", "--directory"]).arg(&drills);
    assert_eq!(drill.deadline(std::time::Duration::from_secs(120)).go().code(), Some(3));
}

#[test]
fn a_seam_that_a_later_verification_does_not_read_again_is_not_forgotten() {
    let two = two();
    let archive = &two.live.archive;
    let both = two.both();
    two.replace(&both[2]);
    problems(archive);
    let again = json(&archive.walkeep(&["verify", "--since-last", "--json"]).is(3));
    assert!(again["problems"].to_string().contains("seam"), "{again:#}");
    archive.walkeep(&["list"]).is(3);
}

#[test]
fn a_backup_whose_wal_was_replaced_by_another_servers_is_bad() {
    let two = two();
    let archive = &two.live.archive;
    two.live.server.start();
    let id = two.live.backup_id();
    two.live.flush_wal();
    let record: Value =
        serde_json::from_str(&live::content(&live::record_of(archive.root(), &id))).expect("a record");
    let first = text(&record["wal"], "first");
    // A whole segment of the other server that has the same name.
    let mut bytes = live::unpacked(&two.other.object(&two.both()[3]));
    let position = u64::from_str_radix(&first[16..], 16).unwrap() << 20;
    for (page, chunk) in bytes.chunks_mut(8192).enumerate() {
        if chunk[8..16] != [0; 8] {
            chunk[8..16].copy_from_slice(&(position + page as u64 * 8192).to_le_bytes());
        }
    }
    repo::reseal(&archive.object(&first), &bytes);
    let found = problems(archive);
    let own = found.iter().find(|problem| text(problem, "object").ends_with(&id));
    let own = own.unwrap_or_else(|| panic!("{found:#?}"));
    assert_eq!(own["kind"], "inconsistent");
    assert!(text(own, "detail").contains("another server"), "{own:#}");
    assert_eq!(own["backups"][0], id.as_str());
}
