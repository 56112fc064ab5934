//! Bytes that change on their way or where they lie.

use super::*;
use crate::support::repo::Damage;

#[test]
fn bytes_that_arrive_changed_are_refused_and_sent_again() {
    for checksums in ["header", "none"] {
        let remote = Remote::with(|repository| repository.line(&format!("checksums = {checksums:?}")));
        let (segment, path) = remote.next();
        let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").nth(1).flip(600));
        remote.archive.push(&path).ok();
        assert!(fault.was_hit());
        remote.holds(&segment.name(), &segment.bytes());
        remote.proxy().clear();
        // And when they always do.
        let mut remote = remote.within(SOON);
        remote.proxy().inject(Rule::on("PUT", "/wal/").flip(600));
        remote.push(&remote.segment(3)).refused();
        remote.deadline(LATE);
        remote.archive.fetch_ends(&remote.segment(3).name());
    }
}

#[test]
fn a_store_that_knows_no_checksum_headers_is_used_without_them() {
    let remote = Remote::unregistered(1, |repository| repository);
    for header in ["x-amz-checksum-sha256", "x-amz-sdk-checksum-algorithm", "x-amz-trailer"] {
        remote.proxy().inject(Rule::on("", "").header(header, "").error(501, "NotImplemented"));
    }
    remote.archive.init().failed();
    let mut remote = remote;
    remote.archive.set_remote(|repository| repository.line("checksums = \"none\""));
    remote.archive.init().ok();
    let names = remote.pushed(&[2]);
    remote.holds(&names[0], &remote.segment(2).bytes());
}

#[test]
fn a_store_that_says_it_got_something_else_is_not_believed_before_it_was_read() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    let other = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").reply_header("x-amz-checksum-sha256", other));
    remote.archive.push(&path).refused().says("SHA-256");
    assert!(fault.was_hit());
    // The next attempt finds it there, reads it and compares.
    remote.proxy().forget();
    remote.archive.push(&path).ok();
    assert_eq!(remote.proxy().count("GET", &segment.name()), 1, "believed without a look at what is there");
}

#[test]
fn damage_in_the_bucket_is_never_handed_over() {
    let remote = Remote::new();
    let segment = remote.segment(2).noise();
    remote.push(&segment).ok();
    let key = remote.bucket.key(&segment.name());
    let intact = remote.bucket.get(&key).expect("the object");
    for damage in [
        Damage::Flip(-100),
        Damage::Flip(20),
        Damage::Truncate(-1),
        Damage::Truncate(600),
        Damage::Empty,
        Damage::Grow,
    ] {
        remote.bucket.damage(&key, damage);
        remote.archive.fetch_fails(&segment.name());
        remote.push(&segment).refused();
        remote.bucket.put(&key, &intact);
    }
    remote.holds(&segment.name(), &segment.bytes());
    remote.push(&segment).ok();
}

#[test]
fn the_configured_storage_class_and_encryption_are_asked_for() {
    if !s3::is_own() {
        return;
    }
    let remote = Remote::with(|repository| {
        let repository = repository.line("storage_class = \"STANDARD_IA\"").line("sse = \"aws:kms\"");
        repository.line("sse_kms_key_id = \"arn:aws:kms:us-east-1:123456789012:key/0815\"")
    });
    let names = remote.pushed(&[2]);
    let headers = remote.bucket.headers(&remote.bucket.key(&names[0]));
    let found = |name: &str| headers.get(name).map(String::as_str);
    assert_eq!(found("x-amz-storage-class"), Some("STANDARD_IA"));
    assert_eq!(found("x-amz-server-side-encryption"), Some("aws:kms"));
}
