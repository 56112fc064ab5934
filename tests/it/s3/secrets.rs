//! Secrets stay where they are: not in messages, not in arguments, not in the configuration that is
//! shown.

use super::*;
use crate::support::http::{Reply, service};

/// Nothing of the keys is in what a program said. An access key is no secret, and still nobody's
/// business.
#[track_caller]
fn keeps_silent(outcome: &Outcome, keys: &[&Keys]) {
    for keys in keys {
        for text in [Some(&keys.secret), Some(&keys.id), keys.token.as_ref()].into_iter().flatten() {
            let said = outcome.stdout.contains(text.as_str()) || outcome.stderr.contains(text.as_str());
            assert!(!said, "{text} was told\n{outcome}");
        }
    }
}

#[test]
fn no_failure_tells_a_key() {
    if !s3::is_own() {
        return;
    }
    let mut remote = Remote::new().within(SOON);
    let environment = Keys::temporary("SPOKEN");
    for (name, value) in environment.variables() {
        remote.archive.set_env(&name, value);
    }
    let everybody = [&server().keys, &environment];
    let (segment, path) = remote.next();
    let signature = format!(
        "<Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match.</Message>\
         <AWSAccessKeyId>{}</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256</StringToSign></Error>",
        server().keys.id
    );
    let faults = [
        Rule::on("", "").error(403, "AccessDenied"),
        Rule::on("", "").answer(Reply::new(403, signature)),
        Rule::on("", "").error(400, "ExpiredToken"),
        Rule::on("", "").error(404, "NoSuchBucket"),
        Rule::on("", "").error(503, "SlowDown"),
        Rule::on("", "").reset_request(0),
    ];
    for by_files in [true, false] {
        if !by_files {
            let without =
                |repository: repo::Remote| repository.without("access_key_file").without("secret_key_file");
            remote.archive.set_remote(without);
        }
        // What may pass is waited for, once is enough.
        for rule in &faults[..if by_files { faults.len() } else { 4 }] {
            let fault = remote.proxy().inject(rule.clone());
            keeps_silent(&remote.archive.push(&path).refused(), &everybody);
            keeps_silent(&remote.archive.fetch_fails(&segment.name()), &everybody);
            if !by_files {
                for verb in ["init", "list"] {
                    keeps_silent(&remote.archive.walkeep(&[verb, "--verbose"]).failed(), &everybody);
                }
            }
            assert!(fault.was_hit());
            remote.proxy().clear();
        }
    }
    keeps_silent(&remote.archive.walkeep(&["config"]).ok(), &everybody);
    keeps_silent(&remote.archive.walkeep(&["config", "--json"]).ok(), &everybody);
    keeps_silent(&remote.archive.push(&path).ok(), &everybody);
}

#[test]
fn a_file_that_does_not_hold_a_key_is_not_shown() {
    let mut remote = Remote::new();
    let texts =
        ["half a secret\nand another line\n", "two words", "", "\u{7f}control", "caf\u{e9} with \u{1F511}"];
    for text in texts {
        let file = remote.scratch.write("odd", text);
        for name in ["secret_key_file", "access_key_file"] {
            let right = remote.bucket.repository(PREFIX);
            remote.archive.set_remote(|_| right.line(&format!("{name} = {file:?}")));
            let outcome = remote.push(&remote.segment(2)).refused();
            assert!(!outcome.stderr.contains("wJal") && !outcome.stderr.contains("K7MD"), "{outcome}");
            assert!(outcome.stderr.contains("odd") || text.contains('\u{1F511}'), "which file?\n{outcome}");
        }
    }
    let bytes = remote.scratch.write("odd", b"\xff\xfe\x00secretsecret");
    remote.archive.set_remote(|repository| repository.line(&format!("secret_key_file = {bytes:?}")));
    let outcome = remote.push(&remote.segment(2)).refused();
    assert!(!outcome.stderr.contains("secretsecret"), "{outcome}");
}

#[test]
fn no_program_has_a_key_among_its_arguments() {
    let remote = Remote::new();
    let (_, path) = remote.next();
    let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").hold());
    let run = remote.archive.pushing(&path);
    let child = run.spawn();
    fault.await_hit();
    let keys = &server().keys;
    let mut seen = 0;
    for process in std::fs::read_dir("/proc").expect("list processes").flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(&keys.secret) && !line.contains(&keys.id), "{line}");
        seen += usize::from(line.contains("walpush"));
    }
    assert!(seen > 0, "the push was not among the processes");
    remote.proxy().clear();
    run.finish(child).ok();
}

#[test]
fn what_a_store_says_cannot_break_out_of_its_line() {
    let mut remote = Remote::new();
    let body = format!(
        "<Error><Code>AccessDenied</Code><Message>no\nwalpush: all is well\r\n\u{1b}[2J{}</Message></Error>",
        "x".repeat(100_000)
    );
    let store = service(move |_, _| Reply::new(403, body.clone()));
    remote.archive.set_remote(|repository| repository.line(&format!("endpoint = {:?}", store.url())));
    for outcome in
        [remote.push(&remote.segment(2)).refused(), remote.archive.fetch_fails(&remote.segment(2).name())]
    {
        assert!(
            !outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains("\nwalpush: all is well"),
            "{outcome}"
        );
        assert!(outcome.stderr.len() < 4000, "{} bytes of message", outcome.stderr.len());
    }
}
