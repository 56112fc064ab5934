//! What is no proof that a segment is missing. PostgreSQL takes status 1 for the end of the archive
//! and opens the database, so everything here has to be another one.

use super::*;
use crate::support::http::{Reply, service};

/// An archive with segments 2 and 3.
fn archive() -> (Remote, Vec<String>) {
    let remote = Remote::new();
    let names = remote.pushed(&[2, 3]);
    (remote, names)
}

#[test]
fn a_missing_segment_is_the_end_when_the_store_says_so() {
    let (remote, names) = archive();
    remote.archive.fetch_ends(&remote.segment(4).name());
    remote.archive.fetch_ends("00000002.history");
    remote.holds(&names[1], &remote.segment(3).bytes());
    remote.bucket.delete(&remote.bucket.key(&names[0]));
    remote.archive.fetch_fails(&names[0]).says(&names[1]);
}

#[test]
fn a_bucket_that_is_gone_is_no_end_of_the_archive() {
    let (remote, names) = archive();
    remote.bucket.remove();
    for name in [&names[0], &remote.segment(4).name(), "00000002.history"] {
        remote.archive.fetch_fails(name).says(&remote.bucket.name);
    }
    remote.push(&remote.segment(4)).refused().says(&remote.bucket.name);
    // A bucket of that name that somebody made again is not the archive.
    assert_eq!(server().request("PUT", &format!("/{}", remote.bucket.name), "", b"").status, 200);
    remote.archive.fetch_fails(&names[0]);
    remote.archive.fetch_fails(&remote.segment(4).name());
    remote.push(&remote.segment(4)).refused();
    assert_eq!(remote.bucket.keys(), Vec::<String>::new(), "nothing may be stored there");
}

#[test]
fn a_prefix_that_was_mistyped_is_no_end_of_the_archive() {
    let (mut remote, names) = archive();
    let wrong = remote.bucket.repository("archiv");
    remote.archive.set_remote(|_| wrong);
    remote.archive.fetch_fails(&names[0]);
    remote.archive.fetch_fails(&remote.segment(4).name());
    remote.push(&remote.segment(4)).refused();
    assert!(remote.stored().iter().all(|key| key.starts_with("archive/")), "{:?}", remote.stored());
}

#[test]
fn a_web_server_in_place_of_the_store_is_no_end_of_the_archive() {
    let (mut remote, names) = archive();
    remote.deadline(SOON);
    let page = "<html><head><title>404 Not Found</title></head><body><center>nginx</center></body></html>";
    let replies = [
        Reply::new(404, page).header("Content-Type", "text/html"),
        Reply::new(404, ""),
        Reply::new(200, "<html>Welcome!</html>").header("Content-Type", "text/html"),
        Reply::new(204, ""),
        Reply::new(302, "").header("Location", "/login"),
    ];
    for reply in replies {
        let story = format!("{reply:?}");
        let web = service(move |_, _| reply.clone());
        remote.archive.set_remote(|repository| repository.line(&format!("endpoint = {:?}", web.url())));
        let refused = remote.archive.fetch_fails(&names[0]);
        assert!(!refused.stderr.contains("<html"), "{story}: a page has no place in a log\n{refused}");
        remote.archive.fetch_fails(&remote.segment(4).name());
        remote.push(&remote.segment(4)).refused();
    }
}

#[test]
fn only_the_one_answer_means_that_a_segment_is_missing() {
    let (mut remote, names) = archive();
    remote.deadline(SOON);
    let missing = remote.segment(4).name();
    let answers = [
        (404, "NoSuchBucket"),
        (404, "NoSuchUpload"),
        (404, "NoSuchVersion"),
        (404, "Whatever"),
        (403, "AccessDenied"),
        (403, "AllAccessDisabled"),
        (403, "InvalidObjectState"),
        (403, "InvalidAccessKeyId"),
        (400, "NoSuchKey"),
        (410, "Gone"),
        (405, "MethodNotAllowed"),
        (301, "PermanentRedirect"),
    ];
    // Of the segment, of what may lie behind it, and of the identity.
    for rule in
        [Rule::on("", &missing), Rule::on("GET", "").query("list-type"), Rule::on("GET", "/identity/")]
    {
        for (status, code) in answers {
            let fault = remote.proxy().inject(rule.clone().error(status, code));
            let outcome = remote.archive.fetch_fails(&missing);
            assert!(fault.was_hit(), "{status} {code} met no request\n{outcome}");
            remote.proxy().clear();
        }
    }
    remote.deadline(LATE);
    remote.archive.fetch_ends(&missing);
    remote.holds(&names[0], &remote.segment(2).bytes());
}

#[test]
fn a_key_that_may_not_list_is_found_out_before_it_hides_a_hole() {
    // Without s3:ListBucket a missing object is answered like a forbidden one.
    let remote = Remote::unregistered(1, |repository| repository);
    let missing = Rule::on("GET", "/-probe/").error(403, "AccessDenied");
    let fault = remote.proxy().inject(missing);
    remote.archive.init().failed().says("hint:").says("s3:ListBucket");
    assert!(fault.was_hit(), "init does not look for what is not there");
    assert!(!remote.bucket.keys().iter().any(|key| key.contains("identity")), "nothing is registered");
    remote.proxy().clear();
    remote.archive.init().ok();
    let names = remote.pushed(&[2]);
    let missing = remote.segment(3).name();
    remote.proxy().inject(Rule::on("", &missing).error(403, "AccessDenied"));
    remote.archive.fetch_fails(&missing).says("s3:ListBucket");
    remote.holds(&names[0], &remote.segment(2).bytes());
}

#[test]
fn a_segment_in_an_archive_class_is_there_and_told() {
    let (remote, names) = archive();
    let answer = Reply::error(403, "InvalidObjectState");
    let fault = remote.proxy().inject(Rule::on("GET", &names[0]).answer(answer));
    remote.archive.fetch_fails(&names[0]).says("hint:").says("GLACIER");
    assert!(fault.was_hit());
}
