//! Which servers are believed, and how encrypted ways in are found.

use super::*;
use std::process::Command;

/// Authorities `ca` and `other`, and certificates signed by `ca`, made with the openssl command
/// line.
fn certificates(server: &Server) {
    let script = r#"
        set -e; cd "$1"; mkdir tls; cd tls
        for ca in ca other; do
          openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$ca" -keyout $ca.key -out $ca.crt
        done
        sign() { # name, subject, extensions
          openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout $1.key -out $1.csr
          printf "$3" > $1.ext
          openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 $4 -extfile $1.ext -out $1.crt
        }
        sign server /CN=ignored.test "subjectAltName=DNS:db.test,DNS:*.wild.test,IP:127.0.0.1" -sha384
        sign common /CN=common.test "keyUsage=digitalSignature"
        sign old /CN=db.test ""
        sign bk /CN=bk "keyUsage=digitalSignature"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=self.test -keyout self.key -out self.crt
        printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=30\ncrlnumber=number\n' > ca.cnf
        : > index; echo 01 > number
        revoke() { openssl ca -config ca.cnf -cert ca.crt -keyfile ca.key "$@"; }
        revoke -gencrl -out good.crl; revoke -revoke server.crt; revoke -gencrl -out revoked.crl
        chmod 600 *.key
    "#;
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(server.directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.own();
}

/// A server that offers TLS with the named certificate.
pub(super) fn tls_server(ways_in: &str, certificate: &str) -> Server {
    let server = Server::start(ways_in, "");
    certificates(&server);
    offer_tls(&server, certificate);
    server
}

fn offer_tls(server: &Server, certificate: &str) {
    let directory = server.path("tls");
    let directory = directory.display();
    server.set(&format!(
        "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\nssl = on\n\
         ssl_cert_file = '{directory}/{certificate}.crt'\nssl_key_file = '{directory}/{certificate}.key'\n\
         ssl_ca_file = '{directory}/ca.crt'",
        server.port,
        server.directory.path().display()
    ));
    server.own();
    run(&format!(
        "{BIN}/pg_ctl -D {} -w restart -l {}",
        server.path("data").display(),
        server.path("log").display()
    ));
}

#[test]
fn verify_full_takes_the_right_host_of_the_right_authority_and_nothing_else() {
    let server = tls_server("hostssl all bk 127.0.0.1/32 scram-sha-256", "server");
    server.boss().batch("CREATE ROLE bk LOGIN PASSWORD 'pw'", None).unwrap();
    let root = |name: &str| format!("sslrootcert={}", server.path(&format!("tls/{name}.crt")).display());
    let way = |host: &str, tls: &str| format!("{} user=bk password=pw {tls}", server.tcp(host));
    let (ca, other) = (root("ca"), root("other"));

    for host in ["db.test", "DB.test", "any.wild.test", "127.0.0.1"] {
        let session =
            connect(&way(host, &format!("sslmode=verify-full {ca} channel_binding=require"))).unwrap();
        assert!(session.is_encrypted());
        assert_eq!(text(&session, "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "true");
    }
    for host in ["evil.test", "ignored.test", "a.b.wild.test", "wild.test"] {
        let error = refused(&way(host, &format!("sslmode=verify-full {ca}")));
        assert_eq!(error.kind(), Kind::Identity, "{host}: {error}");
        assert!(error.to_string().contains("db.test"), "{error}");
        connect(&way(host, &format!("sslmode=verify-ca {ca}"))).unwrap();
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refused(&way("db.test", &format!("sslmode={mode} {other}")));
        assert_eq!(error.kind(), Kind::Identity, "{mode}: {error}");
    }
    let error = refused(&way("db.test", "sslrootcert=system"));
    assert_eq!(error.kind(), Kind::Identity, "{error}");
    for mode in ["verify-ca", "verify-full"] {
        assert_eq!(refused(&way("db.test", &format!("sslmode={mode}"))).kind(), Kind::Config);
    }
    for mode in ["require", "verify-ca"] {
        let error = refused(&way("db.test", &format!("sslmode={mode} sslrootcert=/nowhere.crt")));
        assert_eq!(error.kind(), Kind::Config, "{error}");
    }
    assert!(connect(&way("db.test", "sslmode=require")).unwrap().is_encrypted());
    for version in ["TLSv1.2", "TLSv1.3"] {
        let tls = format!(
            "sslmode=verify-full {ca} ssl_min_protocol_version={version} ssl_max_protocol_version={version}"
        );
        let session = connect(&way("db.test", &tls)).unwrap();
        assert_eq!(text(&session, "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), version);
    }
    // No name to compare: libpq refuses as well.
    let error = refused(&format!("hostaddr=127.0.0.1 port={} user=bk sslmode=verify-full {ca}", server.port));
    assert_eq!(error.kind(), Kind::Config, "{error}");
}

#[test]
fn a_root_certificate_in_the_home_directory_is_used_without_being_named() {
    let server = tls_server("hostssl all bk 127.0.0.1/32 trust", "server");
    server.boss().batch("CREATE ROLE bk LOGIN", None).unwrap();
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".postgresql")).unwrap();
    for (ca, works) in [("ca", true), ("other", false)] {
        fs::copy(server.path(&format!("tls/{ca}.crt")), home.path().join(".postgresql/root.crt")).unwrap();
        let text = format!("{} user=bk sslmode=require", server.tcp("db.test"));
        let info = ConnInfo::parse(&text, &environment(Some(home.path()))).unwrap();
        assert_eq!(Session::connect(&info, &SessionOptions::default()).is_ok(), works, "{ca}");
    }
}

#[test]
fn certificates_as_administrators_make_them_are_understood() {
    let server = tls_server("hostssl all bk 127.0.0.1/32 trust", "common");
    server.boss().batch("CREATE ROLE bk LOGIN", None).unwrap();
    let root = |name: &str| format!("sslrootcert={}", server.path(&format!("tls/{name}.crt")).display());
    let way = |host: &str, tls: &str| format!("{} user=bk {tls}", server.tcp(host));
    // Only a common name, as in PostgreSQL's own documentation.
    connect(&way("common.test", &format!("sslmode=verify-full {}", root("ca")))).unwrap();
    let error = refused(&way("evil.test", &format!("sslmode=verify-full {}", root("ca"))));
    assert_eq!(error.kind(), Kind::Identity, "{error}");
    assert!(error.to_string().contains("common.test"), "{error}");
    // Self-signed, and its own authority.
    offer_tls(&server, "self");
    connect(&way("self.test", &format!("sslmode=verify-full {}", root("self")))).unwrap();
    assert_eq!(
        refused(&way("evil.test", &format!("sslmode=verify-full {}", root("self")))).kind(),
        Kind::Identity
    );
    // The TLS library has no variant for this cause, which is recognized by its name: an update
    // must not lose it.
    let error = refused(&way("self.test", &format!("sslmode=verify-full {}", root("ca"))));
    assert_eq!(error.kind(), Kind::Identity);
    assert!(error.to_string().contains("its certificate is that of an authority"), "{error}");
    // Version 1, from `openssl x509 -req` without extensions.
    offer_tls(&server, "old");
    assert!(connect(&way("db.test", "sslmode=require")).unwrap().is_encrypted());
    let error = refused(&way("db.test", &format!("sslmode=verify-full {}", root("ca"))));
    assert!(error.advice().unwrap().contains("subjectAltName"), "{error:?}");
}

#[test]
fn prefer_and_allow_find_the_way_that_the_server_offers_and_require_stays_firm() {
    let server = Server::start("host all bk 127.0.0.1/32 trust", "");
    server.boss().batch("CREATE ROLE bk LOGIN", None).unwrap();
    let way = |tls: &str| format!("{} user=bk {tls}", server.tcp("db.test"));
    for mode in ["disable", "allow", "prefer"] {
        assert!(!connect(&way(&format!("sslmode={mode}"))).unwrap().is_encrypted());
    }
    let error = refused(&way("sslmode=require"));
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.advice().unwrap().contains("ssl = on"), "{error:?}");

    certificates(&server);
    let hba = |line: &str| {
        fs::write(server.path("data/pg_hba.conf"), format!("{line}\nlocal all boss trust\n")).unwrap()
    };
    hba("hostssl all bk 127.0.0.1/32 trust");
    offer_tls(&server, "server");
    for mode in ["allow", "prefer", "require"] {
        assert!(connect(&way(&format!("sslmode={mode}"))).unwrap().is_encrypted(), "{mode}");
    }
    let error = refused(&way("sslmode=disable"));
    assert_eq!(error.kind(), Kind::Denied, "{error}");

    hba("hostnossl all bk 127.0.0.1/32 trust");
    offer_tls(&server, "server");
    let other = format!("sslrootcert={}", server.path("tls/other.crt").display());
    for tls in ["sslmode=allow", "sslmode=prefer", &format!("sslmode=prefer {other}")] {
        assert!(!connect(&way(tls)).unwrap().is_encrypted(), "{tls}");
    }
    assert_eq!(refused(&way("sslmode=require")).kind(), Kind::Denied);
}

#[test]
fn a_client_certificate_lets_its_owner_in() {
    let server = tls_server("hostssl all bk 127.0.0.1/32 cert", "server");
    server.boss().batch("CREATE ROLE bk LOGIN", None).unwrap();
    let file = |name: &str| server.path(&format!("tls/{name}")).display().to_string();
    let way = format!("{} user=bk sslmode=verify-full sslrootcert={}", server.tcp("db.test"), file("ca.crt"));
    let mine = format!("{way} sslcert={} sslkey={}", file("bk.crt"), file("bk.key"));
    assert_eq!(text(&connect(&mine).unwrap(), "SELECT current_user::text"), "bk");
    assert_eq!(refused(&way).kind(), Kind::Denied);
    let strange = format!("{way} sslcert={} sslkey={}", file("common.crt"), file("common.key"));
    assert_eq!(refused(&strange).kind(), Kind::Denied);
    let unknown = format!("{way} sslcert={} sslkey={}", file("self.crt"), file("self.key"));
    let error = refused(&unknown);
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.advice().unwrap().contains("ssl_ca_file"), "{error:?}");
    assert_eq!(refused(&format!("{way} sslcert=/nowhere sslkey=/nowhere")).kind(), Kind::Config);
    fs::set_permissions(file("bk.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(&mine);
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.advice().unwrap().contains("chmod 0600"), "{error:?}");
}

#[test]
fn a_revoked_certificate_is_not_believed() {
    let server = tls_server("hostssl all bk 127.0.0.1/32 trust", "server");
    server.boss().batch("CREATE ROLE bk LOGIN", None).unwrap();
    let tls = server.path("tls");
    let way = |list: &str| {
        let (way, tls) = (server.tcp("db.test"), tls.display());
        format!("{way} user=bk sslmode=verify-full sslrootcert={tls}/ca.crt sslcrl={tls}/{list}")
    };
    connect(&way("good.crl")).unwrap();
    let error = refused(&way("revoked.crl"));
    assert_eq!(error.kind(), Kind::Identity, "{error}");
    assert!(error.to_string().to_lowercase().contains("revoked"), "{error}");
    assert_eq!(refused(&way("missing.crl")).kind(), Kind::Config);
}
