//! That no password leaves the configuration.

use super::{FILE, LARGEST, SMALLEST, load, parse, refused};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use walkeep::error::Kind;

#[test]
fn no_damage_to_a_file_crashes_the_program_or_shows_its_password() {
    let text = LARGEST.replace("host=", "password=hunter2 host=").replace("T0000", "hunter2");
    for at in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
        let (before, after) = text.split_at(at);
        let shorter: String = after.chars().skip(1).collect();
        for damaged in [before.to_owned(), format!("{before}{shorter}"), format!("{before}\"{after}")] {
            match parse(&damaged) {
                Err(error) => {
                    let told = format!("{error} {:?} {error:?}", error.advice());
                    assert!(!told.contains("hunter2"), "{told}");
                }
                Ok(config) => drop(config.shown().to_string()),
            }
        }
    }
}

#[test]
fn a_password_is_masked_in_what_is_shown_and_in_debug_output() {
    for (connection, masked) in [
        ("password=hunter2", "password=********"),
        ("host=h password = hunter2 user=u", "host=h password = ******** user=u"),
        ("user=u password='hunter2 \\\\' hunter2' port=1", "user=u password=******** port=1"),
        ("password=hunter2\\\\ hunter2", "password=********"),
        ("PASSWORD=hunter2", "PASSWORD=********"),
        ("sslpassword=hunter2 passfile=/f", "sslpassword=******** passfile=/f"),
        ("pasword=hunter2", "pasword=********"),
        ("postgresql://u:hunter2@h:1,g:2/db?a=b", "postgresql://u:********@h:1,g:2/db?a=b"),
        ("postgres://u:hunter2:?hunter2@/db", "postgres://u:********@/db"),
        ("postgres://h/db?user=u&password=hunter2&x=y", "postgres://h/db?user=u&password=********&x=y"),
        ("postgres://h?p%61ssword=hunter2", "postgres://h?p%61ssword=********"),
        ("postgres://u:p@h/db?password=hunter2", "postgres://u:********@h/db?password=********"),
    ] {
        let text = SMALLEST.replace("[[", &format!("connection = \"{connection}\"\n[["));
        let config = parse(&text).unwrap();
        let shown = config.shown().to_string();
        assert!(shown.contains(&format!("connection = \"{masked}\"  # line 4\n")), "{shown}");
        let json = serde_json::to_string(&config.shown()).unwrap();
        assert!(json.contains(masked), "{json}");
        let debug = format!("{config:?} {:?}", config.shown());
        assert!(debug.contains(masked), "{debug}");
        assert!(!format!("{shown}{json}{debug}").contains("hunter2"));
    }
}

/// The same password in every notation that libpq reads.
fn notations(password: &str) -> Vec<String> {
    let escaped = |special: &[char]| -> String {
        let escape = |c: char| if special.contains(&c) { format!("\\{c}") } else { c.to_string() };
        password.chars().map(escape).collect()
    };
    let bare = escaped(&['\\', '\'', ' ', '\t', '\n']);
    let quoted = escaped(&['\\', '\'']);
    let everything: String = password.chars().map(|c| format!("\\{c}")).collect();
    let percent: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let uri: String = password
        .bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let mut all = Vec::new();
    for value in [bare, format!("'{quoted}'"), everything.clone(), format!("'{everything}'")] {
        for equals in ["=", " = ", "\t=\n"] {
            for keyword in ["password", "sslpassword"] {
                all.push(format!("{keyword}{equals}{value}"));
                all.push(format!("host=h user='u u' {keyword}{equals}{value} port=1"));
                // White space after a quote is not needed.
                all.push(format!("user='u'{keyword}{equals}{value}"));
            }
        }
    }
    for value in [percent, uri] {
        for scheme in ["postgres", "postgresql"] {
            all.push(format!("{scheme}://u:{value}@h:1,g/db?application_name=x"));
            all.push(format!("{scheme}://:{value}@"));
            all.push(format!("{scheme}://h/db?password={value}"));
            all.push(format!("{scheme}://u@[::1]:1/db?x=y&p%61ssword={value}&port=2"));
            all.push(format!("{scheme}://?sslpassword={value}"));
        }
    }
    all
}

#[test]
fn a_password_is_masked_in_every_notation_that_libpq_reads() {
    for password in [
        "hunter2",
        "hunter2 'x",
        "\\hunter2\\",
        "a@hunter2:/?&=%",
        "hun'ter2\tä hunter2",
        "'hunter2'",
        "=hunter2",
    ] {
        for connection in notations(password) {
            let pairs = walkeep::pg::conninfo::pairs_with_spans(&connection).expect("a connection string");
            let read = pairs.iter().find(|pair| pair.keyword.ends_with("password"));
            assert_eq!(read.map(|pair| pair.value.as_str()), Some(password), "{connection}");
            let value = serde_json::Value::from(connection.as_str());
            let config = parse(&SMALLEST.replace("[[", &format!("connection = {value}\n[["))).unwrap();
            let json = serde_json::to_string(&config.shown()).unwrap();
            let shown = format!("{} {json} {config:?} {:?}", config.shown(), config.shown());
            assert!(shown.contains("********"), "{shown}");
            for piece in ["hunter", "ter2", "\\h\\u", "%68%75", "x'"] {
                assert!(!shown.contains(piece), "{connection}: {shown}");
            }
        }
    }
}

#[test]
fn a_connection_without_a_password_is_shown_as_it_is() {
    for connection in [
        "",
        " ",
        "host=/run user=u",
        "host = h  port= 1",
        "user='a b' password=''",
        "service=x",
        "postgresql://",
        "postgres://u@h/db",
        "postgres://u:@h/db?sslmode=require",
        "passfile=/f",
    ] {
        let text = SMALLEST.replace("[[", &format!("connection = \"{connection}\"\n[["));
        let shown = parse(&text).unwrap().shown().to_string();
        assert!(shown.contains(&format!("connection = \"{connection}\"  # line 4\n")), "{shown}");
    }
}

#[test]
fn a_connection_that_libpq_would_not_understand_is_refused_without_showing_it() {
    for connection in [
        "hunter2",
        "password hunter2",
        "password='hunter2",
        "=hunter2",
        "host=h hunter2",
        "postgres://u:p@hunter2@h/db",
        "postgres://u:hun/ter2@h/db",
        "POSTGRES://u:hunter2@h?a=b",
        "password=hunter2\\u0000",
    ] {
        let text = SMALLEST.replace("[[", &format!("connection = \"{connection}\"\n[["));
        let error = refused(&text);
        let told = format!("{error} {:?}", error.advice());
        assert!(told.starts_with(&format!("{FILE}:4: cluster.main.connection: ")), "{told}");
        assert!(!told.contains("hunter2") && !told.contains("ter2"), "{told}");
    }
}

#[test]
fn credentials_in_an_address_are_refused_without_showing_them() {
    for text in [
        SMALLEST.replace("file:///backup", "s3://key:hunter2@bucket/x"),
        SMALLEST.replace("file:///backup", "https://key:hunter2@host/x"),
        SMALLEST.replace("file:///backup", "s3://bucket\"\nendpoint = \"https://key:hunter2@host"),
    ] {
        let error = refused(&text);
        let told = format!("{error} {:?}", error.advice());
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_file_with_a_password_must_not_be_open_to_every_user() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("w.toml");
    let write = |text: &str, mode| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let secret = SMALLEST.replace("[[", "connection = 'password=hunter2'\n[[");
    for mode in [0o644, 0o604, 0o602, 0o666] {
        write(&secret, mode);
        let error = load(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        let told = format!("{error} {:?}", error.advice());
        assert!(told.contains("cluster.main.connection"), "{told}");
        assert!(told.contains("chmod 0640"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    for mode in [0o640, 0o600, 0o400] {
        write(&secret, mode);
        load(&path).unwrap();
    }
    write(SMALLEST, 0o644);
    load(&path).unwrap();
}

#[test]
fn the_address_of_a_webhook_is_a_secret() {
    let with = |url: &str| format!("{SMALLEST}[notify]\nwebhook = '{url}'\n");
    for (url, shown) in [
        ("https://hooks.example.com/services/hunter2", "https://hooks.example.com/********"),
        ("https://hooks.example.com:8443/?token=hunter2", "https://hooks.example.com:8443/********"),
        ("http://[::1]:80/hunter2", "http://[::1]:80/********"),
    ] {
        let config = parse(&with(url)).unwrap();
        let told = format!("{} {config:?} {:?}", config.shown(), config.shown());
        assert!(told.contains(&format!("webhook = \"{shown}\"  # line 8\n")), "{told}");
        assert!(
            !told.contains("hunter2") && !serde_json::to_string(&config.shown()).unwrap().contains("hunter2")
        );
    }
    for url in [
        "hunter2",
        "https://",
        "ftp://h/hunter2",
        "https://u:hunter2@h/",
        "https://h/hun ter2",
        "//h/hunter2",
        "https:///hunter2",
    ] {
        let error = refused(&with(url));
        let told = format!("{error} {:?}", error.advice());
        assert!(told.starts_with(&format!("{FILE}:8: notify.webhook: ")), "{told}");
        assert!(!told.contains("hunter2") && !told.contains("ter2"), "{told}");
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("w.toml");
    fs::write(&path, with("https://h/hunter2")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = load(&path).unwrap_err();
    let told = format!("{error} {:?}", error.advice());
    assert!(
        told.contains("notify.webhook") && told.contains("chmod 0640") && !told.contains("hunter2"),
        "{told}"
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    load(&path).unwrap();
}
