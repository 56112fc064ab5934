//! HTTPS: who is believed, and that nothing talks anybody out of it.

use super::*;
use crate::support::http::Reply;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Certificates that were made for the tests.
pub struct Authority {
    scratch: Scratch,
}

impl Authority {
    pub fn new() -> Authority {
        let scratch = Scratch::new();
        let script = r#"
            set -e; cd "$1"
            for ca in ca other; do
              openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$ca" -keyout $ca.key -out $ca.crt
            done
            sign() { # name, subject alternative name
              openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout $1.key -out $1.csr
              printf "subjectAltName=$2" > $1.ext
              openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile $1.ext -out $1.crt
            }
            sign right IP:127.0.0.1
            sign elsewhere DNS:s3.example.test
            for name in 127.0.0.1 127.0.0.2; do # a certificate that vouches for itself
              openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=self" \
                -addext "subjectAltName=IP:$name" -keyout $name.key -out $name.crt
            done
            printf 'no certificate\n' > empty.crt
            chmod 644 *.crt
        "#;
        let output = Command::new("sh").args(["-c", script, "sh"]).arg(scratch.path()).output();
        let output = output.expect("start openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Authority { scratch }
    }

    pub fn certificate(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}.crt"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}.key"))
    }

    fn proxy(&self, name: &str) -> Proxy {
        Proxy::with_tls(server().url(), &self.certificate(name), &self.key(name))
    }
}

fn ca_file(path: &Path) -> String {
    format!("ca_file = {path:?}")
}

/// An archive whose endpoint is this.
fn behind(proxy: &Proxy, lines: &[String]) -> Remote {
    let endpoint = format!("endpoint = {:?}", proxy.url());
    Remote::unregistered(1, |repository| {
        lines.iter().fold(repository.line(&endpoint), |repository, line| repository.line(line))
    })
}

#[test]
fn an_authority_of_ones_own_is_believed_when_it_is_named() {
    let authority = Authority::new();
    let proxy = authority.proxy("right");
    let remote = behind(&proxy, &[ca_file(&authority.certificate("ca"))]);
    remote.archive.init().ok();
    let names = remote.pushed(&[2]);
    remote.holds(&names[0], &remote.segment(2).bytes());
    remote.archive.fetch_ends(&remote.segment(3).name());
    assert_eq!(proxy.count("PUT", "/wal/"), 1);
}

#[test]
fn an_authority_that_nobody_named_is_refused_and_so_is_another_name() {
    let authority = Authority::new();
    let (ca, other) = (authority.certificate("ca"), authority.certificate("other"));
    let cases = [("right", None), ("right", Some(&other)), ("elsewhere", Some(&ca))];
    for (certificate, trusted) in cases {
        let proxy = authority.proxy(certificate);
        let lines: Vec<String> = trusted.into_iter().map(|path| ca_file(path)).collect();
        let remote = behind(&proxy, &lines);
        remote.archive.init().failed().says("hint:").says("ca_file");
        remote.push(&remote.segment(2)).refused().says("hint:").says("ca_file");
        remote.archive.fetch_fails(&remote.segment(2).name());
        assert_eq!(proxy.count("", ""), 0, "{certificate}: a request was sent");
    }
}

#[test]
fn a_certificate_that_signed_itself_is_believed_when_it_is_named_and_is_for_this_host() {
    let authority = Authority::new();
    let own = authority.certificate("127.0.0.1");
    let proxy = authority.proxy("127.0.0.1");
    let remote = behind(&proxy, &[ca_file(&own)]);
    remote.archive.init().ok();
    remote.pushed(&[2]);
    let elsewhere = authority.certificate("127.0.0.2");
    for (certificate, trusted) in [("127.0.0.1", &elsewhere), ("127.0.0.2", &own), ("127.0.0.2", &elsewhere)]
    {
        let proxy = authority.proxy(certificate);
        let remote = behind(&proxy, &[ca_file(trusted)]);
        remote.archive.init().failed().says("hint:").says("ca_file");
        assert_eq!(proxy.count("", ""), 0, "{certificate}: a request was sent");
    }
}

#[test]
fn a_file_that_holds_no_authority_is_told() {
    let authority = Authority::new();
    let proxy = authority.proxy("right");
    let nowhere = authority.scratch.join("nowhere.crt");
    for file in [authority.certificate("empty"), nowhere] {
        let remote = behind(&proxy, &[ca_file(&file)]);
        remote.push(&remote.segment(2)).refused().says(file.to_str().expect("a path"));
        remote.archive.fetch_fails(&remote.segment(2).name()).says(file.to_str().expect("a path"));
    }
}

#[test]
fn nothing_that_is_encrypted_is_redirected_to_where_it_is_not() {
    let authority = Authority::new();
    let proxy = authority.proxy("right");
    let remote = behind(&proxy, &[ca_file(&authority.certificate("ca"))]);
    remote.archive.init().ok();
    let names = remote.pushed(&[2]);
    remote.proxy().forget();
    for status in [301, 302, 307, 308] {
        for place in ["/wal/", "/identity/"] {
            let key = remote.bucket.key(place);
            let location = format!("{}/{}/{key}", remote.proxy().url(), remote.bucket.name);
            let redirect = Reply::error(status, "TemporaryRedirect").header("Location", location);
            let fault = proxy.inject(Rule::on("", place).answer(redirect));
            // The file that is there speaks for itself; that one is missing does not.
            let wanted = if place == "/wal/" { names[0].clone() } else { remote.segment(9).name() };
            remote.archive.fetch_fails(&wanted);
            remote.push(&remote.segment(2)).refused();
            assert!(fault.was_hit());
            proxy.clear();
        }
    }
    assert_eq!(remote.proxy().lines(), Vec::<String>::new(), "a request went out unencrypted");
}
