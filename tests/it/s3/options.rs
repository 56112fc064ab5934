//! What settings and environment make of a request, seen by a server that only listens: it answers
//! that nothing is there and that everything was stored.

use super::*;
use crate::support::http::{Head, Reply, Server, service};
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use walkeep::error::{Error, Kind};
use walkeep::storage::{Checksums, Key, Mode, Put, S3, S3Options, Storage};

struct Listener {
    server: Server,
    requests: mpsc::Receiver<(Head, Vec<u8>)>,
}

impl Listener {
    fn start() -> Listener {
        let (sender, requests) = mpsc::channel();
        let server = service(move |head, body| {
            // Nobody asks for requests behind the end of a test.
            let _ = sender.send((head.clone(), body.to_vec()));
            match head.method() {
                "PUT" => Reply::new(200, "").header("ETag", "\"1\""),
                _ => Reply::error(404, "NoSuchKey"),
            }
        });
        Listener { server, requests }
    }

    fn next(&self) -> (Head, Vec<u8>) {
        self.requests.recv_timeout(Duration::from_secs(30)).expect("a request")
    }

    /// The region that the next request is signed for.
    fn region(&self) -> String {
        let (head, _) = self.next();
        let signed = head.get("authorization").expect("a signature");
        signed.split('/').nth(2).expect("a region").to_owned()
    }

    /// A bucket here, with an environment that has these variables and two keys.
    fn options(&self, variables: &[(&str, String)]) -> S3Options {
        let mut all: BTreeMap<String, String> = Keys::made("OPTIONS").variables().into_iter().collect();
        all.extend(variables.iter().map(|(name, value)| (name.to_string(), value.clone())));
        S3Options {
            endpoint: Some(self.server.url()),
            path_style: true,
            variable: Arc::new(move |name| all.get(name).cloned()),
            ..S3Options::new("bucket", "some/prefix")
        }
    }
}

fn key() -> Key {
    Key::new("main/object").expect("a key")
}

/// Asks for an object that is not there.
#[track_caller]
fn ask(options: S3Options) {
    assert!(S3::new(options).get(&key(), None).expect("an answer").is_none());
}

#[track_caller]
fn refusal(options: S3Options) -> Error {
    S3::new(options).get(&key(), None).err().expect("a refusal")
}

#[test]
fn no_secret_is_in_debug_output() {
    let options = Listener::start().options(&[]);
    assert!(!format!("{options:?}").contains(&Keys::made("OPTIONS").secret));
}

#[test]
fn a_region_has_to_be_named_only_where_there_is_no_endpoint() {
    let listener = Listener::start();
    ask(listener.options(&[]));
    assert_eq!(listener.region(), "us-east-1");
    let far = [("AWS_REGION", "eu-north-1".to_owned())];
    ask(listener.options(&far));
    assert_eq!(listener.region(), "eu-north-1");
    ask(S3Options { region: Some("eu-west-3".into()), ..listener.options(&far) });
    assert_eq!(listener.region(), "eu-west-3");
    let error = refusal(S3Options { endpoint: None, ..listener.options(&[]) });
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("the region of the bucket is unknown"), "{error}");
}

#[test]
fn the_endpoint_of_the_environment_is_taken_unless_one_is_set() {
    let listener = Listener::start();
    let general = ("AWS_ENDPOINT_URL", listener.server.url());
    ask(S3Options { endpoint: None, ..listener.options(std::slice::from_ref(&general)) });
    listener.next();
    let variables = [general, ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1".to_owned())];
    let error = refusal(S3Options { endpoint: None, ..listener.options(&variables) });
    assert_eq!(error.kind(), Kind::Unavailable);
    ask(listener.options(&variables));
    listener.next();
}

#[test]
fn a_request_has_the_headers_that_were_asked_for_and_no_others() {
    let listener = Listener::start();
    let body = b"content".to_vec();
    let put = |options: S3Options, mode: Mode| {
        assert_eq!(S3::new(options).put(&key(), &body, mode).expect("stored"), Put::Stored);
        let (head, sent) = listener.next();
        assert_eq!(sent, body);
        assert_eq!(head.get("x-amz-content-sha256"), Some(sha256(&body).as_str()));
        head
    };
    let plain = put(listener.options(&[]), Mode::Create);
    assert_eq!(plain.path(), "/bucket/some/prefix/main/object");
    assert_eq!(plain.get("if-none-match"), Some("*"));
    assert!(plain.get("x-amz-checksum-sha256").is_some());
    // Some stores take no chunks, some know no trailers.
    for name in [
        "x-amz-storage-class",
        "x-amz-server-side-encryption",
        "x-amz-trailer",
        "content-encoding",
        "transfer-encoding",
    ] {
        assert_eq!(plain.get(name), None, "{name}");
    }
    let options = S3Options {
        storage_class: Some("STANDARD_IA".into()),
        sse: Some("aws:kms".into()),
        sse_kms_key_id: Some("arn:key".into()),
        checksums: Checksums::None,
        ..listener.options(&[])
    };
    let full = put(options, Mode::Replace);
    assert_eq!(full.get("if-none-match"), None);
    assert_eq!(full.get("x-amz-storage-class"), Some("STANDARD_IA"));
    assert_eq!(full.get("x-amz-server-side-encryption"), Some("aws:kms"));
    assert_eq!(full.get("x-amz-server-side-encryption-aws-kms-key-id"), Some("arn:key"));
    assert!(!full.headers.iter().any(|(name, _)| name.contains("checksum")), "{:?}", full.headers);
}
