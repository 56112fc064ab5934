//! Interpretation of keywords and values: the table of libpq's keywords, the sources of each value,
//! and its format.

use super::{
    ChannelBinding, ConnInfo, Endpoint, Environment, Host, LibpqFile, RootCert, Secret, SessionAttrs,
    SslMode, TcpOptions, TlsOptions, config, files, text,
};
use crate::error::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Support of a keyword of libpq.
enum Treat {
    Use,
    /// The keyword has no effect on this client.
    Ignore,
    /// Only these values are supported.
    Only(&'static [&'static str]),
}
use Treat::{Ignore, Only, Use};

/// libpq's keywords, their environment variables and their support (`PQconninfoOptions` in
/// fe-connect.c).
const KEYWORDS: &[(&str, &str, Treat)] = &[
    ("host", "PGHOST", Use),
    ("hostaddr", "PGHOSTADDR", Use),
    ("port", "PGPORT", Use),
    ("user", "PGUSER", Use),
    ("password", "PGPASSWORD", Use),
    ("passfile", "PGPASSFILE", Use),
    ("dbname", "PGDATABASE", Use),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Use),
    ("application_name", "PGAPPNAME", Use),
    ("fallback_application_name", "", Use),
    ("options", "PGOPTIONS", Use),
    ("sslmode", "PGSSLMODE", Use),
    ("sslrootcert", "PGSSLROOTCERT", Use),
    ("sslcert", "PGSSLCERT", Use),
    ("sslkey", "PGSSLKEY", Use),
    ("sslcrl", "PGSSLCRL", Use),
    ("sslsni", "PGSSLSNI", Use),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Use),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Use),
    ("channel_binding", "PGCHANNELBINDING", Use),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Use),
    ("keepalives", "", Use),
    ("keepalives_idle", "", Use),
    ("keepalives_interval", "", Use),
    ("keepalives_count", "", Use),
    ("tcp_user_timeout", "", Use),
    ("service", "PGSERVICE", Use),
    ("servicefile", "PGSERVICEFILE", Use),
    ("client_encoding", "PGCLIENTENCODING", Ignore), // always UTF8
    ("sslcompression", "PGSSLCOMPRESSION", Ignore),  // gone from the servers as well
    ("krbsrvname", "PGKRBSRVNAME", Ignore),
    ("gsslib", "PGGSSLIB", Ignore),
    ("gssdelegation", "PGGSSDELEGATION", Ignore),
    ("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"])),
    ("sslnegotiation", "PGSSLNEGOTIATION", Only(&["postgres"])),
    ("sslcertmode", "PGSSLCERTMODE", Only(&["allow"])),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Only(&["disable"])),
    ("sslpassword", "", Only(&[])),
    ("sslcrldir", "PGSSLCRLDIR", Only(&[])),
    ("requirepeer", "PGREQUIREPEER", Only(&[])),
    ("require_auth", "PGREQUIREAUTH", Only(&[])),
    ("replication", "", Only(&[])),
];

/// Usual directories of sockets: that of Debian and Red Hat, then PostgreSQL's default.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const DEFAULT_PORT: u16 = 5432;

/// Keywords and their values as text.
pub(super) struct Keywords(BTreeMap<&'static str, String>);

impl Keywords {
    /// Collects the values of the string, the service file and the environment, in this order of
    /// precedence.
    pub(super) fn collect(text: &str, environment: &Environment<'_>) -> Result<Keywords> {
        let mut settings = Keywords(BTreeMap::new());
        let mut after_password = false;
        for text::Pair { keyword, value, .. } in text::pairs_with_spans(text)? {
            let known = known(&keyword, after_password)?;
            after_password = known == "password";
            settings.0.insert(known, value); // the last value is used, as in libpq
        }
        let from_environment = |name: &str| (environment.variable)(name).filter(|v| !v.is_empty());
        let variable = |keyword: &str, name: &str| {
            settings.given(keyword).map(str::to_string).or_else(|| from_environment(name))
        };
        if let Some(service) = variable("service", "PGSERVICE") {
            let places = match variable("servicefile", "PGSERVICEFILE") {
                Some(file) => vec![PathBuf::from(file)],
                None => {
                    let home = environment.home.as_ref().map(|home| home.join(".pg_service.conf"));
                    let system = from_environment("PGSYSCONFDIR")
                        .map(|directory| Path::new(&directory).join("pg_service.conf"));
                    home.into_iter().chain(system).collect()
                }
            };
            for (keyword, value) in files::service(&service, &places)? {
                settings.0.entry(known(&keyword, false)?).or_insert(value);
            }
        }
        for (keyword, variable, _) in KEYWORDS.iter().filter(|(_, name, _)| !name.is_empty()) {
            if let Some(value) = from_environment(variable) {
                settings.0.entry(keyword).or_insert(value);
            }
        }
        settings.refuse_unsupported()?;
        Ok(settings)
    }

    fn refuse_unsupported(&self) -> Result<()> {
        for (keyword, _, treat) in KEYWORDS {
            let Some(value) = self.given(keyword) else {
                continue;
            };
            if let Only(values) = treat
                && !values.contains(&value)
            {
                let message = match values {
                    [] => format!("{keyword} is not supported"),
                    _ => format!("{keyword} is supported as {} only", values.join(" or ")),
                };
                return Err(config(message));
            }
        }
        Ok(())
    }

    /// Value of a keyword; `None` if it is empty, for which libpq uses the default.
    fn given(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Interprets the values.
    pub(super) fn resolve(&self, environment: &Environment<'_>) -> Result<ConnInfo> {
        let user = match (self.given("user"), &environment.user) {
            (Some(user), _) => user.to_string(),
            (None, Some(user)) => user.clone(),
            (None, None) => {
                return Err(config("no user name is given, and the operating system has none")
                    .hint("add user=… to the connection string"));
            }
        };
        let dbname = self.given("dbname").map_or_else(|| user.clone(), str::to_string);
        let mut info = ConnInfo {
            targets: self.targets()?,
            application_name: self
                .given("application_name")
                .or_else(|| self.given("fallback_application_name"))
                .map(str::to_string),
            options: self.given("options").map(str::to_string),
            connect_timeout: self.seconds("connect_timeout")?,
            target_session_attrs: self.session_attrs()?,
            tcp: self.tcp()?,
            tls: self.tls(environment)?,
            warnings: Vec::new(),
            user,
            dbname,
        };
        self.passwords(&mut info, environment);
        Ok(info)
    }

    /// Sets the passwords: the password of the connection string applies to every server, the
    /// password file has one for each server.
    fn passwords(&self, info: &mut ConnInfo, environment: &Environment<'_>) {
        if let Some(password) = self.given("password") {
            for target in &mut info.targets {
                target.password = Some(Secret::new(password));
            }
            return;
        }
        let file = match (self.given("passfile"), &environment.home) {
            (Some(path), _) => LibpqFile { path: path.into(), named: true },
            (None, Some(home)) => LibpqFile { path: home.join(".pgpass"), named: false },
            (None, None) => return,
        };
        match files::Passwords::read(&file) {
            Ok(passwords) => {
                for target in &mut info.targets {
                    target.password = passwords.find(target, &info.dbname, &info.user);
                }
            }
            Err(warning) => info.warnings.push(warning),
        }
    }

    fn targets(&self) -> Result<Vec<Endpoint>> {
        let list = |keyword| -> Vec<&str> {
            self.given(keyword).map_or_else(Vec::new, |list| list.split(',').map(str::trim).collect())
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
            return Err(config("host and hostaddr name different numbers of servers"));
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(config("host and port name different numbers of servers"));
        }
        let mut targets = Vec::new();
        for index in 0..count {
            // A single port applies to every server.
            let port = match ports.get(index).or(ports.first()).copied() {
                None | Some("") => DEFAULT_PORT,
                Some(digits) => digits
                    .parse()
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(|| config("port is not a number from 1 to 65535"))?,
            };
            let not_empty =
                |list: &[&str]| list.get(index).filter(|text| !text.is_empty()).map(|t| t.to_string());
            let name = not_empty(&names);
            let hosts = match not_empty(&addresses) {
                None => hosts(name)?,
                Some(address) => {
                    let address = address.parse().map_err(|_| config("hostaddr is not an address"))?;
                    vec![Host::Address(address, name)]
                }
            };
            targets.extend(hosts.into_iter().map(|host| Endpoint { host, port, password: None }));
        }
        Ok(targets)
    }

    fn session_attrs(&self) -> Result<SessionAttrs> {
        self.choice(
            "target_session_attrs",
            &[
                ("any", SessionAttrs::Any),
                ("read-write", SessionAttrs::ReadWrite),
                ("read-only", SessionAttrs::ReadOnly),
                ("primary", SessionAttrs::Primary),
                ("standby", SessionAttrs::Standby),
                ("prefer-standby", SessionAttrs::PreferStandby),
            ],
            SessionAttrs::Any,
        )
    }

    fn tcp(&self) -> Result<TcpOptions> {
        Ok(TcpOptions {
            keepalives: self.number("keepalives")? != Some(0),
            idle: self.seconds("keepalives_idle")?,
            interval: self.seconds("keepalives_interval")?,
            count: self.count("keepalives_count")?,
            user_timeout: self
                .number("tcp_user_timeout")?
                .and_then(|n| u64::try_from(n).ok())
                .filter(|n| *n > 0)
                .map(Duration::from_millis),
        })
    }

    fn tls(&self, environment: &Environment<'_>) -> Result<TlsOptions> {
        let root = match self.given("sslrootcert") {
            Some("system") => RootCert::System,
            _ => self.file("sslrootcert", environment, "root.crt").map_or(RootCert::None, RootCert::File),
        };
        // As in libpq: trust in all public authorities is worthless unless the name is checked too.
        let default = match root {
            RootCert::System => SslMode::VerifyFull,
            _ => SslMode::Prefer,
        };
        let modes = [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ];
        let mode = self.choice("sslmode", &modes, default)?;
        if root == RootCert::System && mode < SslMode::VerifyFull {
            return Err(config("sslrootcert=system needs sslmode=verify-full"));
        }
        let bindings = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        // Versions before 1.2 are not supported by the library.
        let versions = [("TLSv1", 1), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];
        let (min, max) = (
            self.choice("ssl_min_protocol_version", &versions, 2)?,
            self.choice("ssl_max_protocol_version", &versions, 3)?,
        );
        if max < 2 || min > max {
            return Err(config("ssl_min_protocol_version and ssl_max_protocol_version allow no version")
                .hint("TLSv1.2 and TLSv1.3 are supported"));
        }
        Ok(TlsOptions {
            mode,
            root,
            cert: self.file("sslcert", environment, "postgresql.crt"),
            key: self.file("sslkey", environment, "postgresql.key"),
            crl: self.file("sslcrl", environment, "root.crl"),
            sni: self.number("sslsni")? != Some(0),
            tls12: min <= 2,
            tls13: max >= 3,
            channel_binding: self.choice("channel_binding", &bindings, ChannelBinding::Prefer)?,
        })
    }

    fn file(&self, keyword: &str, environment: &Environment<'_>, default: &str) -> Option<LibpqFile> {
        if let Some(path) = self.given(keyword) {
            return Some(LibpqFile { path: path.into(), named: true });
        }
        let home = environment.home.as_ref()?;
        Some(LibpqFile { path: home.join(".postgresql").join(default), named: false })
    }

    fn choice<T: Copy>(&self, keyword: &str, choices: &[(&str, T)], default: T) -> Result<T> {
        let Some(value) = self.given(keyword) else {
            return Ok(default);
        };
        match choices.iter().find(|(name, _)| *name == value) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                Err(config(format!("{keyword} is not one of {}", names.join(", "))))
            }
        }
    }

    fn number(&self, keyword: &str) -> Result<Option<i64>> {
        self.given(keyword)
            .map(|value| value.trim().parse().map_err(|_| config(format!("{keyword} is not a number"))))
            .transpose()
    }

    /// Number of 32 bits; `None` for zero and less, which select the system's default in libpq.
    fn count(&self, keyword: &str) -> Result<Option<u32>> {
        let number = self.number(keyword)?.filter(|n| *n > 0);
        let count = number.map(u32::try_from).transpose();
        count.map_err(|_| config(format!("{keyword} is too large")))
    }

    /// Duration in whole seconds; `None` for zero and less, which set no limit in libpq.
    fn seconds(&self, keyword: &str) -> Result<Option<Duration>> {
        let number = self.number(keyword)?;
        Ok(number.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(Duration::from_secs))
    }
}

/// Interprets one name of `host`; `None` stands for the usual socket directories.
fn hosts(name: Option<String>) -> Result<Vec<Host>> {
    let Some(name) = name else {
        return Ok(SOCKET_DIRECTORIES.iter().map(|path| Host::Socket(path.into())).collect());
    };
    if name.starts_with('/') {
        return Ok(vec![Host::Socket(name.into())]);
    }
    if name.contains('@') {
        return Err(config("host contains an @").hint(
            "write an @ in the user name or password of a URI as %40; abstract sockets are not supported",
        ));
    }
    Ok(vec![match name.parse() {
        // An address is also the name to verify: certificates may contain addresses.
        Ok(address) => Host::Address(address, Some(name)),
        Err(_) => Host::Name(name),
    }])
}

/// Looks up a keyword in the table. The error does not name an unknown keyword after a password,
/// since it may be a part of the password.
fn known(keyword: &str, after_password: bool) -> Result<&'static str> {
    if let Some((name, _, _)) = KEYWORDS.iter().find(|(name, _, _)| *name == keyword) {
        return Ok(name);
    }
    if after_password {
        return Err(config("unknown keyword after password")
            .hint("put a value with spaces into single quotes, with \\ before ' and \\"));
    }
    let error = config(format!("unknown keyword {keyword}"));
    let nearest =
        KEYWORDS.iter().map(|(name, _, _)| (strsim::damerau_levenshtein(keyword, name), *name)).min();
    Err(match nearest {
        Some((distance, name)) if distance <= name.len().div_ceil(2) => {
            error.hint(format!("did you mean {name}?"))
        }
        _ => error,
    })
}
