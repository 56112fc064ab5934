//! The same in a bucket, where reading is by ranges and an outage has many faces.

use super::*;
use crate::support::s3::Bucket;

#[test]
fn a_bucket_is_verified_as_a_directory_is() {
    let server = Cluster::build().wal_segsize(1).checksums().create();
    let bucket = Bucket::new();
    let archive = Archive::build(server.data()).remote(bucket.repository("archive")).for_server(&server);
    server.start();
    let mut ids = Vec::new();
    for _ in 0..2 {
        server.psql("create table if not exists t as select generate_series(1, 100000) i");
        ids.push(live::text(&live::json(&live::backing_up(&archive).go().ok()), "id"));
    }
    let last = server.switch_wal();
    server.await_archived(&last);
    verify(&archive, &[]);
    verify(&archive, &["--quick"]);
    // Each kind of object, damaged in the bucket.
    for part in [format!("data/{}/pack/000001", ids[0]), format!("data/{}/manifest/000001", ids[1]), last] {
        let key = bucket.keys().into_iter().find(|key| key.ends_with(&part)).expect("its key");
        let original = bucket.get(&key).expect("the object");
        bucket.damage(&key, Damage::Flip(original.len() as i64 - 40));
        let report = verify_is(&archive, 3, &[]);
        assert!(problems(&report).iter().any(|(object, _)| object.ends_with(&part)), "{part}: {report}");
        bucket.delete(&key);
        let report = verify_is(&archive, 3, &["--quick"]);
        assert!(problems(&report).iter().any(|(object, _)| object.ends_with(&part)), "{part}: {report}");
        bucket.put(&key, &original);
    }
    let report = verify(&archive, &[]);
    let again = verify(&archive, &["--since-last"]);
    let bytes = |report: &Value| report["checked"]["bytes"].as_u64().expect("a number");
    assert!(bytes(&again) < bytes(&report) / 4, "{again}");
    // What is forbidden is neither good nor bad.
    let fault = bucket.proxy.inject(Rule::on("GET", "/pack/").error(403, "AccessDenied"));
    let report = verify_is(&archive, 1, &[]);
    assert!(fault.was_hit());
    assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    assert!(report["unknown"].to_string().contains("/pack/"), "{report}");
}

/// A store that never gives out one object does not make a verification last: it ends soon, and says
/// which object that is.
#[test]
fn an_object_that_answers_503_for_ever_is_unknown_and_ends_soon() {
    let server = Cluster::build().wal_segsize(1).create();
    let bucket = Bucket::new();
    let archive = Archive::build(server.data()).remote(bucket.repository("archive")).for_server(&server);
    server.start();
    live::backing_up(&archive).go().ok();
    let last = server.switch_wal();
    server.await_archived(&last);
    let id = live::text(&live::json(&archive.walkeep(&["show", "latest", "--json"]).ok()), "id");
    for object in [last, format!("data/{id}/pack/000001"), format!("data/{id}/manifest/000001")] {
        let fault = bucket.proxy.inject(Rule::on("", &object).error(503, "SlowDown"));
        let begun = std::time::Instant::now();
        let report = verify_is(&archive, 1, &[]);
        assert!(begun.elapsed() < std::time::Duration::from_secs(45), "{object}: {:?}", begun.elapsed());
        assert!(fault.was_hit());
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
        assert!(report["unknown"].to_string().contains(&object), "{object}: {report}");
        bucket.proxy.clear();
    }
    verify(&archive, &[]);
}
