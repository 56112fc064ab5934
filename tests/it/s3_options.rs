//! What the settings of an S3 repository make of a request: who signs it, for which region, where it goes and with
//! which headers. The server here only listens; it answers that nothing is there and that everything was stored.

use crate::support::{Run, Scratch};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use walkeep::error::{Error, Kind};
use walkeep::storage::{Body, Checksums, Key, Mode, Put, S3, S3Options, Storage};

const ABSENT: &str = "<Error><Code>NoSuchKey</Code><Message>no</Message></Error>";

/// A request as it arrived.
#[derive(Debug)]
struct Request {
    line: String,
    /// Under lower-case names.
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Access key and region of the signature.
    fn signer(&self) -> (String, String) {
        let authorization = self.header("authorization").expect("it is signed");
        let (_, scope) = authorization.split_once("Credential=").expect("a credential");
        let mut parts = scope.split('/');
        let key = parts.next().expect("a key").to_owned();
        (key, parts.nth(1).expect("a region").to_owned())
    }
}

/// A server that keeps what it was asked.
struct Listener {
    endpoint: String,
    requests: mpsc::Receiver<Request>,
}

impl Listener {
    fn start() -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let mut reader = BufReader::new(connection);
                while let Some(request) = receive(&mut reader) {
                    let answer = match request.line.starts_with("PUT ") {
                        true => "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n".to_owned(),
                        false => {
                            format!(
                                "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{ABSENT}",
                                ABSENT.len()
                            )
                        }
                    };
                    if reader.get_mut().write_all(answer.as_bytes()).is_err() || sender.send(request).is_err()
                    {
                        return;
                    }
                }
            }
        });
        Listener { endpoint, requests }
    }

    fn next(&self) -> Request {
        self.requests.recv_timeout(Duration::from_secs(30)).expect("a request")
    }

    /// Options for a bucket here, with an environment that has only these variables.
    fn options(&self, variables: &[(&str, &str)]) -> S3Options {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: BTreeMap<String, String> = variables.iter().map(owned).collect();
        S3Options {
            endpoint: Some(self.endpoint.clone()),
            path_style: true,
            variable: Arc::new(move |name| variables.get(name).cloned()),
            ..S3Options::new("bucket", "some/prefix")
        }
    }
}

fn receive(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line: line.trim().to_owned(), headers, body })
}

const ENVIRONMENT: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "ENVKEY"), ("AWS_SECRET_ACCESS_KEY", "envsecret"), ("AWS_REGION", "eu-north-1")];

fn key() -> Key {
    Key::new("main/object").expect("a key")
}

/// Asks for an object that is not there.
fn ask(options: S3Options) {
    assert!(S3::new(options).get(&key(), None).expect("an answer").is_none());
}

fn refusal(options: S3Options) -> Error {
    S3::new(options).get(&key(), None).err().expect("a refusal")
}

/// Two key files, and options that name them.
fn key_files(listener: &Listener, access: &str, secret: &str) -> (Scratch, S3Options) {
    let scratch = Scratch::new();
    let options = S3Options {
        access_key_file: Some(scratch.write("access", access)),
        secret_key_file: Some(scratch.write("secret", secret)),
        ..listener.options(&ENVIRONMENT)
    };
    (scratch, options)
}

#[test]
fn the_environment_signs_when_nothing_else_is_named() {
    let listener = Listener::start();
    let mut variables = ENVIRONMENT.to_vec();
    variables.push(("AWS_SESSION_TOKEN", "token"));
    ask(listener.options(&variables));
    let request = listener.next();
    assert!(request.line.starts_with("GET /bucket/some/prefix/main/object"), "{}", request.line);
    assert_eq!(request.signer(), ("ENVKEY".into(), "eu-north-1".into()));
    assert_eq!(request.header("x-amz-security-token"), Some("token"));
}

#[test]
fn key_files_and_settings_stand_before_the_environment() {
    let listener = Listener::start();
    let (_scratch, options) = key_files(&listener, "FILEKEY\n", " filesecret \n");
    ask(S3Options { region: Some("eu-west-3".into()), ..options });
    let request = listener.next();
    assert_eq!(request.signer(), ("FILEKEY".into(), "eu-west-3".into()));
    assert_eq!(request.header("x-amz-security-token"), None);
}

#[test]
fn key_files_that_hold_no_key_are_named_and_not_repeated() {
    let listener = Listener::start();
    let refused = |access: &str, secret: &str, spoil: fn(&Path), expected: &str| {
        let (scratch, options) = key_files(&listener, access, secret);
        spoil(&scratch.join("secret"));
        let error = refusal(options);
        assert_eq!(error.kind(), Kind::Config, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error} {error:?} {:?}", error.advice()).contains("hunter2"), "{error:?}");
    };
    refused("", "hunter2", |_| (), "access: it has to hold one key and nothing else");
    refused("KEY", "hunter2\nhunter2\n", |_| (), "secret: it has to hold one key and nothing else");
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o604)).expect("open it to everybody");
    };
    refused("KEY", "hunter2", open, "secret: it holds a secret, and every user may open it (mode 0604)");
    refused("KEY", "hunter2", |path| std::fs::remove_file(path).expect("remove it"), "secret: no such file");
}

#[test]
fn no_secret_is_in_debug_output() {
    let listener = Listener::start();
    let options = listener.options(&[("AWS_SECRET_ACCESS_KEY", "hunter2")]);
    assert!(!format!("{options:?}").contains("hunter2"));
}

#[test]
fn a_region_is_asked_for_only_where_there_is_no_endpoint() {
    let listener = Listener::start();
    let keys = &ENVIRONMENT[..2];
    ask(listener.options(keys));
    assert_eq!(listener.next().signer().1, "us-east-1");
    let error = refusal(S3Options { endpoint: None, ..listener.options(keys) });
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("the region of the bucket is not known"), "{error}");
}

#[test]
fn the_endpoint_of_the_environment_is_taken_unless_one_is_set() {
    let listener = Listener::start();
    let mut variables = ENVIRONMENT.to_vec();
    variables.push(("AWS_ENDPOINT_URL", &listener.endpoint));
    ask(S3Options { endpoint: None, ..listener.options(&variables) });
    listener.next();
    variables.push(("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"));
    let error = refusal(S3Options { endpoint: None, ..listener.options(&variables) });
    assert_eq!(error.kind(), Kind::Unavailable);
    ask(listener.options(&variables));
    listener.next();
}

#[test]
fn what_is_stored_carries_its_sum_its_class_and_its_encryption() {
    let listener = Listener::start();
    let body = b"content".to_vec();
    let sum = crate::support::sha256(&body);
    let put = |options: S3Options, mode: Mode| {
        let stored = S3::new(options).put(&key(), &body as &dyn Body, mode).expect("stored");
        assert_eq!(stored, Put::Stored);
        let request = listener.next();
        assert_eq!(request.body, body);
        assert_eq!(request.header("x-amz-content-sha256"), Some(&*sum));
        request
    };
    let plain = put(listener.options(&ENVIRONMENT), Mode::Create);
    assert_eq!(plain.header("if-none-match"), Some("*"));
    assert!(plain.header("x-amz-checksum-sha256").is_some());
    for absent in
        ["x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-trailer", "transfer-encoding"]
    {
        assert_eq!(plain.header(absent), None, "{absent}");
    }
    let options = S3Options {
        storage_class: Some("STANDARD_IA".into()),
        sse: Some("aws:kms".into()),
        sse_kms_key_id: Some("arn:key".into()),
        checksums: Checksums::None,
        ..listener.options(&ENVIRONMENT)
    };
    let full = put(options, Mode::Replace);
    assert_eq!(full.header("if-none-match"), None);
    assert_eq!(full.header("x-amz-storage-class"), Some("STANDARD_IA"));
    assert_eq!(full.header("x-amz-server-side-encryption"), Some("aws:kms"));
    assert_eq!(full.header("x-amz-server-side-encryption-aws-kms-key-id"), Some("arn:key"));
    assert!(!full.headers.keys().any(|name| name.contains("checksum")), "{:?}", full.headers);
}

/// `walkeep list` of a repository at the listener, configured with this line besides.
fn list(scratch: &Scratch, listener: &Listener, more: &str) -> Run {
    let text = format!(
        "[cluster.main]\npgdata = \"/nowhere\"\n[[repository]]\nname = \"away\"\nurl = \"s3://bucket/prefix\"\n\
         endpoint = \"{}\"\npath_style = true\n{more}",
        listener.endpoint
    );
    Run::of("walkeep").args(["list", "--config"]).arg(scratch.write("walkeep.toml", text))
}

#[test]
fn a_profile_gives_key_and_region() {
    let (listener, scratch) = (Listener::start(), Scratch::new());
    let credentials = "[default]\naws_access_key_id = A\naws_secret_access_key = hunter2\n\
                       [backup]\naws_access_key_id = PROFILEKEY\naws_secret_access_key = hunter2\n";
    let config = "[profile backup]\nregion = eu-south-1\n";
    let outcome = list(&scratch, &listener, "profile = \"backup\"\n")
        .env("AWS_SHARED_CREDENTIALS_FILE", scratch.write("credentials", credentials))
        .env("AWS_CONFIG_FILE", scratch.write("config", config))
        .env("AWS_ACCESS_KEY_ID", "ENVKEY")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .go();
    assert!(!outcome.to_string().contains("hunter2"), "{outcome}");
    assert_eq!(listener.next().signer(), ("PROFILEKEY".into(), "eu-south-1".into()));
}

#[test]
fn without_any_credentials_it_says_where_they_may_come_from() {
    let (listener, scratch) = (Listener::start(), Scratch::new());
    let outcome = list(&scratch, &listener, "").env("AWS_EC2_METADATA_DISABLED", "true").go();
    outcome.is(2).says("find credentials: there are none").says("access_key_file");
}
