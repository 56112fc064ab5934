//! A real S3 server for the whole test process, a bucket for each test, and a small client of its
//! own to look into it and to damage what is there.
//!
//! The server is `tests/s3/server`, installed by `.ci/setup test`.
//! `WALKEEP_TEST_S3=http://HOST:PORT` names another one (Garage, Ceph), with an access key in
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` that may make buckets, and perhaps `AWS_REGION`.
//! Tests that need keys of their own or a store that knows no conditions are skipped there.

use super::http::{Head, Reply};
use super::proxy::Proxy;
use super::repo;
use super::scratch::Scratch;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use walkeep::storage::S3Options;

/// An access key with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    /// Of temporary ones.
    pub token: Option<String>,
}

impl Keys {
    /// Some that the tests' own server believes.
    pub fn made(name: &str) -> Keys {
        let id = format!("WALKEEP{name}");
        Keys { secret: super::sha256(format!("secret of {id}").as_bytes())[..40].to_owned(), id, token: None }
    }

    /// Some that it believes together with their session token.
    pub fn temporary(name: &str) -> Keys {
        let keys = Keys::made(&format!("TEMP{name}"));
        let token = super::sha256(format!("token of {}", keys.id).as_bytes());
        Keys { token: Some(token), ..keys }
    }

    /// As the environment names them.
    pub fn variables(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ACCESS_KEY_ID", Some(&self.id)),
            ("AWS_SECRET_ACCESS_KEY", Some(&self.secret)),
            ("AWS_SESSION_TOKEN", self.token.as_ref()),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))).collect()
    }
}

/// The server of this test process.
pub struct Server {
    url: String,
    pub keys: Keys,
    region: String,
    /// Whether it is the tests' own, with its shortcuts.
    own: bool,
    /// It ends when its standard input closes, and that is with this process.
    _process: Option<Child>,
}

/// Started by the first test that asks.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| match std::env::var("WALKEEP_TEST_S3") {
        Ok(url) if !url.is_empty() => {
            let variable =
                |name| std::env::var(name).unwrap_or_else(|_| panic!("WALKEEP_TEST_S3 needs {name}"));
            let (id, secret) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
            let region = std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned());
            Server { url, keys: Keys { id, secret, token: None }, region, own: false, _process: None }
        }
        _ => Server::start(),
    })
}

/// Whether the server is the tests' own; says that a test is skipped when it is not.
pub fn is_own() -> bool {
    if !server().own {
        super::skipped("s3", "this needs the tests' own S3 server");
    }
    server().own
}

impl Server {
    fn start() -> Server {
        let mut process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3/server"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the S3 server");
        let mut line = String::new();
        let said =
            process.stdout.take().map(BufReader::new).and_then(|mut out| out.read_line(&mut line).ok());
        let words: Vec<&str> = line.split_whitespace().collect();
        let [port, id, secret] = words[..] else {
            panic!("the S3 server does not run ({said:?}): `.ci/setup test` installs it");
        };
        let keys = Keys { id: id.to_owned(), secret: secret.to_owned(), token: None };
        let (url, region) = (format!("http://127.0.0.1:{port}"), "us-east-1".to_owned());
        Server { url, keys, region, own: true, _process: Some(process) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// A signed request.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Reply {
        let host = self.url.trim_start_matches("http://");
        let head = self.signed(method, host, path, query, body);
        let socket = TcpStream::connect(host).expect("connect to the S3 server");
        let mut bytes = Vec::new();
        head.write(&mut bytes).expect("write into memory");
        bytes.extend_from_slice(body);
        std::io::Write::write_all(&mut &socket, &bytes).expect("send to the S3 server");
        Reply::read(&mut BufReader::new(socket)).expect("an answer of the S3 server")
    }

    /// A request with Signature Version 4. The query has to be encoded and in order.
    fn signed(&self, method: &str, host: &str, path: &str, query: &str, body: &[u8]) -> Head {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let path = super::http::encoded(path).replace("%2F", "/");
        let hash = super::sha256(body);
        let names = "host;x-amz-content-sha256;x-amz-date";
        let headers = format!("host:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{now}\n");
        let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{hash}");
        let scope = format!("{}/{}/s3/aws4_request", &now[..8], self.region);
        let text = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{}", super::sha256(canonical.as_bytes()));
        let first = format!("AWS4{}", self.keys.secret).into_bytes();
        let key = scope.split('/').fold(first, |key, step| hmac(&key, step.as_bytes()));
        let signature: String =
            hmac(&key, text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut head = Head { line: format!("{method} {path}{mark}{query} HTTP/1.1"), headers: Vec::new() };
        head.set("Host", host);
        head.set("x-amz-date", &now);
        head.set("x-amz-content-sha256", hash);
        head.set("Content-Length", body.len().to_string());
        head.set("Connection", "close");
        head.set(
            "Authorization",
            format!(
                "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
                self.keys.id
            ),
        );
        head
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    let short = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block[..short.len()].copy_from_slice(&short);
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

/// A bucket of its own, with a fault proxy in front of it.
pub struct Bucket {
    pub name: String,
    pub proxy: Proxy,
    scratch: Scratch,
}

impl Bucket {
    pub fn new() -> Bucket {
        Bucket::named("bucket")
    }

    /// With a word of the test's in its name: `a.b`.
    pub fn named(word: &str) -> Bucket {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("walkeep-{word}-{}-{count}", std::process::id());
        let reply = server().request("PUT", &format!("/{name}"), "", b"");
        assert_eq!(reply.status, 200, "make a bucket: {}", reply.text());
        Bucket { name, proxy: Proxy::before(server().url()), scratch: Scratch::new() }
    }

    fn request(&self, method: &str, key: &str, query: &str, body: &[u8]) -> Reply {
        server().request(method, &format!("/{}/{key}", self.name), query, body)
    }

    /// Stores an object.
    #[track_caller]
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let reply = self.request("PUT", key, "", bytes);
        assert_eq!(reply.status, 200, "put {key}: {}", reply.text());
    }

    /// Stores many small ones.
    #[track_caller]
    pub fn fill(&self, keys: &[String], content: &str) {
        if server().own {
            let order = serde_json::json!({"bucket": self.name, "keys": keys, "content": content});
            let reply = server().request("POST", "/fill", "", order.to_string().as_bytes());
            assert_eq!(reply.status, 200, "{}", reply.text());
            return;
        }
        std::thread::scope(|scope| {
            for keys in keys.chunks(keys.len().div_ceil(16).max(1)) {
                scope.spawn(move || keys.iter().for_each(|key| self.put(key, content.as_bytes())));
            }
        });
    }

    /// An object's bytes, if there is such an object.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let reply = self.request("GET", key, "", b"");
        match reply.status {
            404 => None,
            200 => Some(reply.body),
            status => panic!("get {key}: {status} {}", reply.text()),
        }
    }

    #[track_caller]
    pub fn delete(&self, key: &str) {
        let reply = self.request("DELETE", key, "", b"");
        assert_eq!(reply.status, 204, "delete {key}: {}", reply.text());
    }

    /// What the server says of an object.
    pub fn headers(&self, key: &str) -> BTreeMap<String, String> {
        // As a GET: the reply to a HEAD has a length and no body.
        let reply = self.request("GET", key, "", b"");
        assert_eq!(reply.status, 200, "{key}: {}", reply.text());
        reply.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
    }

    /// Every key.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        let (mut keys, mut token) = (Vec::new(), None);
        loop {
            let from = token.map_or(String::new(), |token: String| {
                format!("continuation-token={}&", super::http::encoded(&token))
            });
            let reply = self.request("GET", "", &format!("{from}list-type=2"), b"");
            assert_eq!(reply.status, 200, "list: {}", reply.text());
            let text = reply.text();
            keys.extend(elements(&text, "Key"));
            token = elements(&text, "NextContinuationToken").pop();
            if token.is_none() {
                keys.sort();
                return keys;
            }
        }
    }

    /// Every object with its bytes: two are equal when nothing changed in between.
    pub fn snapshot(&self) -> BTreeMap<String, String> {
        let hash = |key: String| {
            let bytes = self.get(&key).unwrap_or_else(|| panic!("{key} is listed and not there"));
            (key, super::sha256(&bytes))
        };
        self.keys().into_iter().map(hash).collect()
    }

    /// Keys of multipart uploads that were begun and neither completed nor aborted.
    pub fn uploads(&self) -> Vec<String> {
        let reply = self.request("GET", "", "uploads=", b"");
        assert_eq!(reply.status, 200, "list uploads: {}", reply.text());
        elements(&reply.text(), "Key")
    }

    /// The one key with this in it.
    #[track_caller]
    pub fn key(&self, text: &str) -> String {
        let mut keys = self.keys();
        keys.retain(|key| key.contains(text));
        assert_eq!(keys.len(), 1, "a key with {text}: {keys:?}");
        keys.remove(0)
    }

    /// Changes an object's bytes in place.
    #[track_caller]
    pub fn damage(&self, key: &str, damage: repo::Damage) {
        let file = self.scratch.write("object", self.get(key).unwrap_or_else(|| panic!("no object {key}")));
        repo::damage(&file, damage);
        match damage {
            repo::Damage::Remove => self.delete(key),
            _ => self.put(key, &super::read(&file)),
        }
    }

    /// Removes it with everything in it.
    pub fn remove(&self) {
        self.keys().iter().for_each(|key| self.delete(key));
        let reply = server().request("DELETE", &format!("/{}", self.name), "", b"");
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    /// For the store itself, through the proxy.
    pub fn options(&self, prefix: &str) -> S3Options {
        let keys: BTreeMap<String, String> = server().keys.variables().into_iter().collect();
        S3Options {
            region: Some(server().region.clone()),
            endpoint: Some(self.proxy.url()),
            path_style: true,
            variable: Arc::new(move |name| keys.get(name).cloned()),
            ..S3Options::new(&self.name, prefix)
        }
    }

    /// For a configuration: the URL and the lines of its `[[repository]]`, with the keys in files.
    pub fn repository(&self, prefix: &str) -> repo::Remote {
        let id = self.scratch.write("access_key", format!("{}\n", server().keys.id));
        let secret = self.scratch.write("secret_key", format!("{}\n", server().keys.secret));
        repo::Remote::new(format!("s3://{}/{prefix}", self.name))
            .line(&format!("region = {:?}", server().region))
            .line(&format!("endpoint = {:?}", self.proxy.url()))
            .line("path_style = true")
            .line(&format!("access_key_file = {id:?}"))
            .line(&format!("secret_key_file = {secret:?}"))
    }
}

/// The texts of all elements of this name; enough XML for what S3 answers.
pub fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = xml.split(open.as_str()).skip(1);
    let texts = parts.filter_map(|part| Some(part.split_once(close.as_str())?.0));
    texts
        .map(|text| {
            let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&apos;", "'");
            text.replace("&quot;", "\"").replace("&amp;", "&")
        })
        .collect()
}

/// A moment far enough away for every timestamp of a test.
pub fn in_an_hour() -> jiff::Timestamp {
    jiff::Timestamp::now() + Duration::from_secs(3600)
}
