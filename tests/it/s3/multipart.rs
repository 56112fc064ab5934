//! Uploads in parts that were never completed.

use super::*;
use crate::support::s3::in_an_hour;
use walkeep::storage::{S3, Storage};

/// A segment of 128 MB of noise, which is sent in parts.
fn large() -> (Remote, Segment, String) {
    let remote = Remote::unregistered(128, |repository| repository);
    remote.archive.init().ok();
    let segment = remote.segment(2).noise();
    let path = remote.data.write(&segment);
    (remote, segment, path)
}

#[test]
fn a_push_that_is_killed_between_two_parts_leaves_nothing_that_anybody_sees() {
    let (remote, segment, path) = large();
    let before = remote.bucket.keys();
    let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").query("partNumber=2").hold());
    let run = remote.archive.pushing(&path);
    let child = run.spawn();
    fault.await_hit();
    run::signal(child.id(), "KILL");
    run.finish(child);
    remote.proxy().clear();
    assert_eq!(remote.bucket.keys(), before, "part of a segment is visible");
    remote.archive.fetch_ends(&segment.name());
    let uploads = remote.bucket.uploads();
    assert_eq!(uploads.len(), 1, "the fault was meant to leave an upload behind: {uploads:?}");
    // What is young may belong to somebody who is still at it; of others nothing is touched.
    let store = S3::new(remote.bucket.options(PREFIX));
    let clean = |store: &S3, before| store.clean(before).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(clean(&store, jiff::Timestamp::UNIX_EPOCH), 0);
    assert_eq!(clean(&S3::new(remote.bucket.options("archiv")), in_an_hour()), 0);
    assert_eq!(clean(&S3::new(remote.bucket.options("archive/main2")), in_an_hour()), 0);
    assert_eq!(remote.bucket.uploads(), uploads);
    assert_eq!(clean(&store, in_an_hour()), 1);
    assert_eq!(remote.bucket.uploads(), Vec::<String>::new());
    remote.archive.push(&path).ok();
    remote.holds(&segment.name(), &segment.bytes());
    assert_eq!(remote.bucket.uploads(), Vec::<String>::new());
}

#[test]
fn a_part_that_fails_for_good_takes_the_whole_upload_away() {
    let (remote, segment, path) = large();
    let fault =
        remote.proxy().inject(Rule::on("PUT", "/wal/").query("partNumber=2").error(403, "AccessDenied"));
    remote.archive.push(&path).refused().says("s3:PutObject");
    assert!(fault.was_hit());
    assert_eq!(remote.stored(), Vec::<String>::new());
    assert_eq!(remote.bucket.uploads(), Vec::<String>::new());
    remote.archive.fetch_ends(&segment.name());
}

#[test]
fn a_part_that_fails_for_a_moment_is_sent_again_and_the_others_are_not() {
    let (remote, segment, path) = large();
    remote.proxy().forget();
    let parts = [("partNumber=1&", 1), ("partNumber=3&", 2)];
    let faults = parts.map(|(part, times)| {
        remote.proxy().inject(Rule::on("PUT", "/wal/").query(part).up_to(times).error(503, "SlowDown"))
    });
    remote.archive.push(&path).ok();
    assert!(faults.iter().zip(parts).all(|(fault, (_, times))| fault.hits() == times));
    remote.holds(&segment.name(), &segment.bytes());
    assert_eq!(remote.proxy().count("PUT", "partNumber=2&"), 1, "sent twice: {:?}", remote.proxy().lines());
    assert_eq!(remote.bucket.uploads(), Vec::<String>::new());
}
