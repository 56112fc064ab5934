//! Every usual way to be somebody, and that nobody stays it longer than it lasts.

use super::*;
use crate::support::credentials::{CONTAINER_TOKEN, Issuer, WEB_IDENTITY, WEB_ROLE};
use std::collections::BTreeSet;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// An archive whose configuration names no keys; registered by somebody who has some.
fn keyless() -> Remote {
    let mut remote = Remote::new();
    remote.archive.set_remote(|repository| repository.without("access_key_file").without("secret_key_file"));
    remote
}

/// The access keys that requests were signed with since the log was emptied.
fn signers(remote: &Remote) -> BTreeSet<String> {
    remote.proxy().log().iter().map(proxy::Seen::access_key).collect()
}

/// Pushes and fetches, which has to work, and was signed by this key alone.
#[track_caller]
fn works_as(remote: &Remote, keys: &Keys) {
    remote.proxy().forget();
    let names = remote.pushed(&[2]);
    remote.holds(&names[0], &remote.segment(2).bytes());
    assert_eq!(signers(remote), BTreeSet::from([keys.id.clone()]));
}

#[test]
fn keys_from_files_count_before_everything_else() {
    let mut remote = Remote::new();
    for (name, value) in Keys::made("NOBODY").variables() {
        remote.archive.set_env(&name, value);
    }
    works_as(&remote, &server().keys);
}

#[test]
fn keys_from_the_environment() {
    if !s3::is_own() {
        return;
    }
    for keys in [Keys::made("ENVIRONMENT"), Keys::temporary("ENVIRONMENT")] {
        let mut remote = keyless();
        for (name, value) in keys.variables() {
            remote.archive.set_env(&name, value);
        }
        works_as(&remote, &keys);
    }
}

#[test]
fn keys_from_a_profile_of_the_usual_files() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let entry = |name: &str, keys: &Keys| {
        format!("[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n", keys.id, keys.secret)
    };
    let (usual, chosen) = (Keys::made("USUAL"), Keys::made("CHOSEN"));
    let file = remote.scratch.write("credentials", entry("default", &usual) + &entry("chosen", &chosen));
    remote.archive.set_env("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string());
    works_as(&remote, &usual);
    remote.archive.set_remote(|repository| repository.line("profile = \"chosen\""));
    works_as(&remote, &chosen);
    // What the configuration names counts before the environment.
    for (name, value) in Keys::made("NOBODY").variables() {
        remote.archive.set_env(&name, value);
    }
    works_as(&remote, &chosen);
    remote.archive.set_remote(|repository| repository.line("profile = \"missing\""));
    let refused = remote.push(&remote.segment(3)).refused();
    assert!(refused.stderr.contains("missing"), "which profile?\n{refused}");
}

#[test]
fn the_region_of_a_profile() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let keys = Keys::made("REGION");
    let text = format!(
        "[profile far]\nregion = eu-central-1\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        keys.id, keys.secret
    );
    let file = remote.scratch.write("config", text);
    remote.archive.set_env("AWS_CONFIG_FILE", file.display().to_string());
    remote.archive.set_remote(|repository| repository.without("region").line("profile = \"far\""));
    works_as(&remote, &keys);
    let log = remote.proxy().log();
    let signed = log[0].head.get("authorization").unwrap_or_default();
    assert!(signed.contains("/eu-central-1/s3/"), "{signed}");
}

#[test]
fn keys_of_a_web_identity() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let issuer = Issuer::web_identity(HOUR);
    let token = remote.scratch.write("token", WEB_IDENTITY);
    remote.archive.set_env("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string());
    remote.archive.set_env("AWS_ROLE_ARN", WEB_ROLE);
    remote.archive.set_env("AWS_ENDPOINT_URL_STS", issuer.url());
    let names = remote.pushed(&[2]);
    assert_eq!(signers(&remote), BTreeSet::from([issuer.keys(1).id]));
    remote.holds(&names[0], &remote.segment(2).bytes());
    assert_eq!(issuer.issued(), 2, "one process asks once");
}

/// The variables of a container.
fn in_container(remote: &mut Remote, issuer: &Issuer) {
    remote.archive.set_env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/credentials", issuer.url()));
    remote.archive.set_env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN);
}

#[test]
fn keys_of_a_container() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let issuer = Issuer::container(HOUR);
    in_container(&mut remote, &issuer);
    remote.pushed(&[2]);
    assert_eq!(signers(&remote), BTreeSet::from([issuer.keys(1).id]));
    assert_eq!(issuer.issued(), 1);
}

#[test]
fn keys_of_an_instance() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let issuer = Issuer::instance(HOUR);
    remote.archive.set_env("AWS_EC2_METADATA_DISABLED", "false");
    remote.archive.set_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", issuer.url());
    remote.pushed(&[2]);
    assert_eq!(signers(&remote), BTreeSet::from([issuer.keys(1).id]));
}

#[test]
fn keys_that_the_store_calls_expired_are_asked_for_again() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let issuer = Issuer::container(HOUR);
    in_container(&mut remote, &issuer);
    let first = issuer.keys(1).id;
    for code in ["ExpiredToken", "InvalidToken"] {
        let expired = Rule::on("", "").header("authorization", &first).error(400, code);
        let fault = remote.proxy().inject(expired);
        remote.archive.fetch_ends(&remote.segment(9).name());
        if fault.was_hit() {
            assert_eq!(issuer.issued(), 2, "new ones were there to be had");
            assert!(signers(&remote).contains(&issuer.keys(2).id));
        }
        assert!(code != "ExpiredToken" || fault.was_hit());
    }
}

#[test]
fn keys_that_stay_expired_are_told() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let keys = Keys::temporary("OLD");
    for (name, value) in keys.variables() {
        remote.archive.set_env(&name, value);
    }
    remote.proxy().inject(Rule::on("", "").error(400, "ExpiredToken"));
    remote.push(&remote.segment(2)).refused().says("hint:").says("ExpiredToken");
    remote.archive.fetch_fails(&remote.segment(2).name());
}

#[test]
fn keys_that_run_out_during_the_work_are_renewed_in_time() {
    if !s3::is_own() {
        return;
    }
    let mut remote = keyless();
    let issuer = Issuer::container(Duration::from_millis(1500));
    in_container(&mut remote, &issuer);
    // The first answer takes until the first keys are over.
    let slow = Rule::on("GET", "/identity/").delay(Duration::from_secs(2));
    let fault = remote.proxy().inject(slow);
    let (_, path) = remote.next();
    let pushing = remote.archive.pushing(&path);
    let child = pushing.spawn();
    fault.await_hit();
    issuer.set_lifetime(HOUR);
    pushing.finish(child).ok();
    let signer = |place: &str| {
        let log = remote.proxy().log();
        let seen = log.iter().find(|seen| seen.line().contains(place));
        seen.unwrap_or_else(|| panic!("no request to {place}")).access_key()
    };
    assert_eq!(signer("/wal/"), issuer.keys(issuer.issued()).id);
    assert_ne!(signer("/wal/"), signer("/identity/"), "signed with keys that were over");
}

#[test]
fn who_is_nobody_is_told_what_to_name() {
    let remote = keyless();
    remote.push(&remote.segment(2)).refused().says("hint:").says("access_key_file");
    remote.archive.fetch_fails(&remote.segment(2).name()).says("access_key_file");
    assert_eq!(remote.proxy().count("", ""), 0, "nothing is sent without a signature");
}

#[test]
fn wrong_keys_are_no_end_of_the_archive() {
    let mut remote = Remote::new();
    let names = remote.pushed(&[2]);
    let unknown = remote.scratch.write("unknown", "AKIDUNKNOWN\n");
    let wrong = remote.scratch.write("wrong", "not-the-secret-of-this-key\n");
    for line in [format!("access_key_file = {unknown:?}"), format!("secret_key_file = {wrong:?}")] {
        let key = line.split(' ').next().expect("a key").to_owned();
        let right = remote.bucket.repository(PREFIX);
        remote.archive.set_remote(|_| right.line(&line));
        for name in [&names[0], &remote.segment(3).name()] {
            remote.archive.fetch_fails(name).says("hint:").says(&key);
        }
        remote.push(&remote.segment(3)).refused();
    }
}

#[test]
fn a_secret_that_everybody_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let mut remote = Remote::new();
    let secret = remote.scratch.write("open", server().keys.secret.as_bytes());
    remote.archive.set_remote(|repository| repository.line(&format!("secret_key_file = {secret:?}")));
    remote.pushed(&[2]);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    remote.push(&remote.segment(3)).refused().says("hint:").says("chmod");
    remote.archive.fetch_fails(&remote.segment(2).name());
    std::fs::remove_file(&secret).expect("remove the file");
    remote.push(&remote.segment(3)).refused().says("open");
    remote.archive.fetch_fails(&remote.segment(3).name());
}
