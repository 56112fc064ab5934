//! Connection strings: what libpq takes is taken the same way, what cannot be done is refused by
//! name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use walkeep::error::{Kind, Result};
use walkeep::pg::conninfo::{ConnInfo, Environment, Host, RootCert, SessionAttrs, SslMode};

fn parse_in(text: &str, variables: &[(&str, &str)], home: Option<&Path>) -> Result<ConnInfo> {
    let variable =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    ConnInfo::parse(
        text,
        &Environment { variable: &variable, home: home.map(Into::into), user: Some("os".into()) },
    )
}

fn parse(text: &str) -> Result<ConnInfo> {
    parse_in(text, &[], None)
}

fn refused(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(error.kind(), Kind::Config, "{text}: {error}");
    format!("{error} / {}", error.advice().unwrap_or_default())
}

fn password(info: &ConnInfo, index: usize) -> Option<&str> {
    let password = info.targets[index].password.as_ref()?;
    Some(std::str::from_utf8(password.reveal()).unwrap())
}

#[test]
fn an_empty_string_means_the_local_server_and_the_users_own_name() {
    let info = parse("").unwrap();
    let hosts: Vec<String> = info.targets.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["socket /var/run/postgresql/.s.PGSQL.5432", "socket /tmp/.s.PGSQL.5432"]);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("os", "os"));
    assert_eq!(info.tls.mode, SslMode::Prefer);
    assert_eq!(info.connect_timeout, None);
    assert_eq!(parse("user=bk").unwrap().dbname, "bk");
}

#[test]
fn keywords_and_values_are_quoted_as_libpq_quotes_them() {
    let info = parse(
        r" host = '/run/my dir' port=5433 user='o\'hara' password = p\ w\\d dbname='' options='-c a=b'",
    )
    .unwrap();
    assert_eq!(info.targets[0].host, Host::Socket("/run/my dir".into()));
    assert_eq!(info.targets[0].port, 5433);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("o'hara", "o'hara"));
    assert_eq!(password(&info, 0), Some(r"p w\d"));
    assert_eq!(info.options.as_deref(), Some("-c a=b"));
}

#[test]
fn several_hosts_keep_their_order_ports_and_addresses() {
    let info =
        parse("host=a,/sock,10.0.0.3 port=1,,3 target_session_attrs=primary connect_timeout=7").unwrap();
    let hosts: Vec<String> = info.targets.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["host a port 1", "socket /sock/.s.PGSQL.5432", "host 10.0.0.3 port 3"]);
    assert_eq!(info.target_session_attrs, SessionAttrs::Primary);
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(7)));
    let info = parse("host=a,b hostaddr=10.0.0.1,::1 port=9").unwrap();
    assert_eq!(info.targets[1].host, Host::Address("::1".parse().unwrap(), Some("b".into())));
    assert_eq!(info.targets[1].port, 9);
    assert!(refused("host=a,b port=1,2,3").contains("different numbers"));
    assert!(refused("host=a,b hostaddr=10.0.0.1").contains("different numbers"));
}

#[test]
fn a_uri_says_the_same_as_keywords() {
    let info =
        parse("postgresql://bk:p%40ss@db1:5433,[::1]/main?sslmode=verify-full&connect_timeout=3").unwrap();
    let hosts: Vec<String> = info.targets.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["host db1 port 5433", "host ::1 port 5432"]);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("bk", "main"));
    assert_eq!(password(&info, 1), Some("p@ss"));
    assert_eq!(info.tls.mode, SslMode::VerifyFull);
    let info = parse("postgres://%2Fvar%2Flib/x?user=u&ssl=true").unwrap();
    assert_eq!(info.targets[0].host, Host::Socket("/var/lib".into()));
    assert_eq!(info.tls.mode, SslMode::Require);
    assert_eq!(parse("postgresql://").unwrap().targets.len(), 2);
}

#[test]
fn a_mistake_is_named_with_the_nearest_keyword() {
    assert!(refused("hots=a").contains("unknown keyword hots / did you mean host?"));
    assert!(refused("postgresql://h/d?sslmod=require").contains("did you mean sslmode?"));
    assert!(refused("sslmode=verify").contains("verify-ca"));
    assert!(refused("host").contains("no = after word 1"));
    assert!(refused("host='x").contains("no end"));
    assert!(refused("port=0").contains("1 to 65535"));
    assert!(refused("port=65536").contains("1 to 65535"));
    assert!(refused("connect_timeout=soon").contains("connect_timeout"));
    assert!(refused("hostaddr=db1").contains("hostaddr"));
    assert!(refused("postgresql://h/%zz").contains("%25"));
    assert!(refused("postgresql://[::1/d").contains("]"));
}

#[test]
fn what_would_be_weaker_than_asked_is_refused() {
    for text in [
        "requirepeer=root",
        "sslcrldir=/crl",
        "require_auth=scram-sha-256",
        "gssencmode=require",
        "sslpassword=x",
    ] {
        assert!(refused(text).contains("support"), "{text}");
    }
    assert!(refused("sslrootcert=system sslmode=require").contains("verify-full"));
    let info = parse("sslrootcert=system").unwrap();
    assert_eq!((info.tls.root, info.tls.mode), (RootCert::System, SslMode::VerifyFull));
    assert!(
        refused("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2").contains("no version")
    );
    parse("gssencmode=prefer client_encoding=latin1").unwrap();
}

#[test]
fn no_error_and_no_debug_output_shows_a_password() {
    let secret = "canary";
    for text in [
        "password=a canary=b",
        "password=a canary",
        "password='canary",
        "postgresql://u:p@canary@h/d",
        "postgresql://u:canary",
        "postgresql://u:%canary@h/d",
        "password=canary port=x",
    ] {
        let shown = refused(text);
        assert!(!shown.contains(secret), "{text}: {shown}");
    }
    let info = parse("password=canary").unwrap();
    assert!(!format!("{info:?}").contains(secret));
}

#[test]
fn the_environment_gives_what_the_string_leaves_out() {
    let variables = [
        ("PGHOST", "db9"),
        ("PGPORT", "6000"),
        ("PGUSER", "env"),
        ("PGPASSWORD", "pw"),
        ("PGSSLMODE", "require"),
        ("PGCONNECT_TIMEOUT", "4"),
        ("PGAPPNAME", ""),
    ];
    let info = parse_in("user=str", &variables, None).unwrap();
    assert_eq!(info.targets[0].to_string(), "host db9 port 6000");
    assert_eq!(info.user, "str");
    assert_eq!(password(&info, 0), Some("pw"));
    assert_eq!(info.tls.mode, SslMode::Require);
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(4)));
    assert_eq!(info.application_name, None);
    assert_eq!(parse_in("", &[("PGREQUIREPEER", "x")], None).unwrap_err().kind(), Kind::Config);
}

#[test]
fn a_password_file_is_read_by_libpqs_rules_and_only_when_it_is_private() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    let lines = "# comment:*:*:*:no\nshort:line\ndb1:5432:*:bk:one\n*:5433:*:bk:two\\:\\\\x\nlocalhost:*:*:bk:three\n[:*:*:bk:no\ndb2:*:\\*:bk:no\ndb2:*:*:bk:four:rest\n";
    fs::write(&file, lines).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let info =
        parse_in("host=db1,db1,/x,db2,db3 port=5432,5433,1,2,3 user=bk", &[], Some(home.path())).unwrap();
    let found: Vec<Option<&str>> = (0..5).map(|index| password(&info, index)).collect();
    assert_eq!(found, [Some("one"), Some(r"two:\x"), Some("three"), Some("four"), None]);
    assert!(info.warnings.is_empty());
    let info = parse_in("host=db1 user=other", &[], Some(home.path())).unwrap();
    assert_eq!(password(&info, 0), None);

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let info = parse_in("host=db1 user=bk", &[], Some(home.path())).unwrap();
    assert_eq!(password(&info, 0), None);
    assert!(info.warnings[0].contains("0600"), "{:?}", info.warnings);
    let info = parse_in("host=db1 user=bk passfile=/nowhere/pgpass", &[], None).unwrap();
    assert!(info.warnings[0].contains("/nowhere/pgpass"), "{:?}", info.warnings);
}

#[test]
fn a_service_stands_between_the_string_and_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pg_service.conf");
    fs::write(&file, "[other]\nhost=no\n\n[main]\n# comment\nhost=db5\nport = 7\nuser=svc\n[last]\nport=9\n")
        .unwrap();
    let variables = [("PGHOST", "env"), ("PGDATABASE", "envdb")];
    let info = parse_in("service=main user=me", &variables, Some(home.path())).unwrap();
    assert_eq!(info.targets[0].to_string(), "host db5 port 7");
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("me", "envdb"));
    let error = parse_in("service=gone", &[], Some(home.path())).unwrap_err();
    assert!(error.to_string().contains("service gone"), "{error}");
    let file = file.to_str().unwrap();
    let info = parse_in("service=last", &[("PGSERVICEFILE", file)], None).unwrap();
    assert_eq!(info.targets[0].port, 9);
}
