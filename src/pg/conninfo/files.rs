//! The password file `.pgpass` and the service file `pg_service.conf` (`passwordFromFile` and
//! `parseServiceFile` in libpq's fe-connect.c).

use super::{Endpoint, Host, LibpqFile, Secret, config};
use crate::error::{Doing, Kind, Result};
use crate::fs::named;
use crate::fs::read_limited;
use std::path::PathBuf;

/// Maximum size of these files in bytes, so that a wrong path (`/dev/zero`, a dump) is not read as
/// a whole.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Lines of a password file: `host:port:database:user:password`.
pub(super) struct Passwords(Vec<[Field; 5]>);

#[derive(Default)]
struct Field {
    text: Vec<u8>,
    /// Whether the field is a `*` that is not escaped.
    is_any: bool,
}

impl Field {
    fn matches(&self, text: &str) -> bool {
        self.is_any || self.text == text.as_bytes()
    }
}

impl Passwords {
    /// Reads a password file. A file that was not named and does not exist has no passwords.
    ///
    /// # Errors
    ///
    /// The text of a warning for a file that is ignored; like libpq, ignores a file that other
    /// users may read.
    pub(super) fn read(file: &LibpqFile) -> std::result::Result<Passwords, String> {
        let path = file.path.display();
        let ignored = |why: &str| format!("password file {path} is not used: {why}");
        let (opened, stat) = match named::open_with_stat(&file.path) {
            Ok(Some(opened)) => opened,
            Ok(None) if !file.named => return Ok(Passwords(Vec::new())),
            Ok(None) => return Err(ignored("it does not exist")),
            Err(error) => return Err(ignored(&error.to_string())),
        };
        if stat.st_mode & 0o077 != 0 {
            return Err(ignored("group or others have access; its mode must be 0600 or less"));
        }
        let bytes = read_limited(&opened, &file.path, MAX_FILE_SIZE);
        let bytes = bytes.map_err(|error| ignored(&error.to_string()))?;
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(Passwords(lines.filter_map(line).collect()))
    }

    /// Returns the password of the first line that matches. The host of a socket is its directory,
    /// or `localhost`.
    pub(super) fn find(&self, target: &Endpoint, dbname: &str, user: &str) -> Option<Secret> {
        let port = target.port.to_string();
        let names: Vec<String> = match &target.host {
            Host::Name(name) | Host::Address(_, Some(name)) => vec![name.clone()],
            Host::Address(address, None) => vec![address.to_string()],
            Host::Socket(path) => vec!["localhost".into(), path.display().to_string()],
        };
        let line = self.0.iter().find(|[host, at, database, role, _]| {
            names.iter().any(|name| host.matches(name))
                && at.matches(&port)
                && database.matches(dbname)
                && role.matches(user)
        })?;
        let password = &line[4].text;
        (!password.is_empty()).then(|| Secret::new(password.clone()))
    }
}

/// Parses a line of five fields; `None` for comments and shorter lines. `\` escapes the next byte.
#[allow(clippy::indexing_slicing, reason = "the loop ends before the index is that of a sixth field")]
fn line(line: &[u8]) -> Option<[Field; 5]> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b"#") {
        return None;
    }
    let mut fields: [Field; 5] = Default::default();
    let mut index = 0;
    let mut bytes = line.iter().copied();
    let mut raw_length = 0;
    while let Some(byte) = bytes.next() {
        if byte == b':' {
            fields[index].is_any = raw_length == 1 && fields[index].text == b"*";
            index += 1;
            raw_length = 0;
            if index == fields.len() {
                break;
            }
            continue;
        }
        raw_length += 1;
        let byte = match byte {
            b'\\' => {
                raw_length += 1;
                bytes.next().unwrap_or(b'\\')
            }
            byte => byte,
        };
        fields[index].text.push(byte);
    }
    (index >= 4).then_some(fields)
}

/// Reads the settings of a service: the section `[name]` with lines `keyword=value`, of the first
/// file that has it.
///
/// # Errors
///
/// `Config` when no file has the section, or one cannot be read or parsed.
pub(super) fn service(name: &str, places: &[PathBuf]) -> Result<Vec<(String, String)>> {
    for path in places {
        let text = named::read_text(path, MAX_FILE_SIZE);
        let Some(text) = text.doing("read the service file").map_err(|e| e.with_kind(Kind::Config))? else {
            continue;
        };
        let mut inside = false;
        let mut found = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(section) = line.strip_prefix('[') {
                if inside {
                    break;
                }
                inside = section.strip_suffix(']') == Some(name);
                if inside {
                    found = Some(Vec::new());
                }
            } else if inside {
                let Some((keyword, value)) = line.split_once('=') else {
                    let place = format!("service file {} line {}", path.display(), number + 1);
                    return Err(config(format!("{place} is not keyword=value")));
                };
                if let Some(settings) = &mut found {
                    settings.push((keyword.trim().to_string(), value.trim().to_string()));
                }
            }
        }
        if let Some(settings) = found {
            return Ok(settings);
        }
    }
    Err(config(format!("service {name} is not defined in any service file")).hint(
        "define it in ~/.pg_service.conf or the file of PGSERVICEFILE: [name], then keyword=value lines",
    ))
}
