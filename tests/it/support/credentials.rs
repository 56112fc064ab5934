//! Whoever hands out temporary credentials in the clouds, as small services on the loopback
//! interface: a container's and an instance's metadata, and the exchange of a web identity.

use super::http::{Head, Reply, Server, service};
use super::s3::Keys;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a container has to show.
pub const CONTAINER_TOKEN: &str = "only this container";
/// What an instance's metadata gives before it gives anything else.
const SESSION: &str = "session-of-the-metadata";
const ROLE: &str = "role-of-the-instance";
/// What is exchanged for credentials.
pub const WEB_IDENTITY: &str = "eyJhbGciOiJub25lIn0.a-web-identity.";
pub const WEB_ROLE: &str = "arn:aws:iam::123456789012:role/walkeep";

/// Hands out other keys each time it is asked, each for so long.
pub struct Issuer {
    server: Server,
    book: Arc<Book>,
}

struct Book {
    name: &'static str,
    lifetime: Mutex<Duration>,
    issued: AtomicUsize,
}

impl Book {
    fn keys(&self, number: usize) -> Keys {
        Keys::temporary(&format!("{}{number}", self.name))
    }

    /// New keys, and when they expire.
    fn issue(&self) -> (Keys, String) {
        let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        let lifetime = *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner);
        let end = jiff::Timestamp::now() + lifetime;
        (self.keys(number), end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    fn json(&self) -> Reply {
        let (keys, end) = self.issue();
        let body = serde_json::json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": "2024-05-17T10:00:00Z",
            "AccessKeyId": keys.id,
            "SecretAccessKey": keys.secret,
            "Token": keys.token,
            "Expiration": end,
        });
        Reply::new(200, body.to_string()).header("Content-Type", "application/json")
    }
}

impl Issuer {
    fn start(
        name: &'static str,
        lifetime: Duration,
        answer: impl Fn(&Book, &Head, &[u8]) -> Option<Reply> + Send + Sync + 'static,
    ) -> Issuer {
        let book = Arc::new(Book { name, lifetime: Mutex::new(lifetime), issued: AtomicUsize::new(0) });
        let open = book.clone();
        let nothing = || Reply::new(404, "nothing here");
        let server = service(move |head, body| answer(&open, head, body).unwrap_or_else(nothing));
        Issuer { server, book }
    }

    /// A container's: `GET /credentials`.
    pub fn container(lifetime: Duration) -> Issuer {
        Issuer::start("CONTAINER", lifetime, |book, head, _| {
            let known = head.get("authorization") == Some(CONTAINER_TOKEN);
            match (head.path().as_str(), known) {
                ("/credentials", true) => Some(book.json()),
                ("/credentials", false) => Some(Reply::new(401, "who are you?")),
                _ => None,
            }
        })
    }

    /// An instance's, of the kind that wants a session first.
    pub fn instance(lifetime: Duration) -> Issuer {
        Issuer::start("INSTANCE", lifetime, |book, head, _| {
            let path = head.path();
            if (head.method(), path.as_str()) == ("PUT", "/latest/api/token") {
                let reply = Reply::new(200, SESSION);
                return Some(reply.header("x-aws-ec2-metadata-token-ttl-seconds", "21600"));
            }
            if head.get("x-aws-ec2-metadata-token") != Some(SESSION) {
                return Some(Reply::new(401, ""));
            }
            match path.strip_prefix("/latest/meta-data/iam/security-credentials/")? {
                "" => Some(Reply::new(200, ROLE)),
                ROLE => Some(book.json()),
                _ => None,
            }
        })
    }

    /// The exchange of a web identity.
    pub fn web_identity(lifetime: Duration) -> Issuer {
        Issuer::start("WEB", lifetime, |book, _, body| {
            let form = super::http::decoded(&String::from_utf8_lossy(body));
            let right = ["Action=AssumeRoleWithWebIdentity", WEB_ROLE, WEB_IDENTITY];
            if !right.iter().all(|part| form.contains(part)) {
                return Some(Reply::error(400, "InvalidIdentityToken"));
            }
            let (keys, end) = book.issue();
            let token = keys.token.unwrap_or_default();
            let body = format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId>\
                 <SecretAccessKey>{}</SecretAccessKey><SessionToken>{token}</SessionToken>\
                 <Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>",
                keys.id, keys.secret
            );
            Some(Reply::new(200, body).header("Content-Type", "text/xml"))
        })
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// How often it handed out keys.
    pub fn issued(&self) -> usize {
        self.book.issued.load(Ordering::SeqCst)
    }

    /// What it handed out at this time, from 1.
    pub fn keys(&self, number: usize) -> Keys {
        self.book.keys(number)
    }

    /// How long the next ones hold.
    pub fn set_lifetime(&self, lifetime: Duration) {
        *self.book.lifetime.lock().unwrap_or_else(PoisonError::into_inner) = lifetime;
    }
}
