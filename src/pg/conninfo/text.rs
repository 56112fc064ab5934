//! The two ways to write a connection string, taken apart into keywords and values. Knows no keyword's
//! meaning. After conninfo_parse and conninfo_uri_parse_options of libpq's fe-connect.c.

use super::config;
use crate::error::Result;

/// Keywords and values in the order in which they are written.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => words(text),
    }
}

/// `host=/tmp user = 'o\'hara'`
fn words(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_ascii_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(config(format!("no = after word {}", pairs.len() + 1)).hint(
                "write keyword=value …, values with spaces in single quotes, or a URI postgresql://…",
            ));
        }
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_ascii_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => {
                    return Err(config(format!("the quote after {keyword}= has no end")));
                }
                None => break,
            }
        }
        pairs.push((keyword, value));
    }
}

/// `user:password@host:port,host:port/dbname?keyword=value&…`
fn uri(rest: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut add = |keyword: &str, value: &str| -> Result<()> {
        if !value.is_empty() {
            pairs.push((keyword.to_string(), decode(value)?));
        }
        Ok(())
    };
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, servers) = match authority.split_once('@') {
        Some((login, servers)) => (login, servers),
        None => ("", authority),
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    add("user", user)?;
    add("password", password)?;
    let servers: Vec<(&str, &str)> = servers.split(',').map(server).collect::<Result<_>>()?;
    let join = |parts: Vec<&str>| match parts.iter().all(|part| part.is_empty()) {
        true => String::new(),
        false => parts.join(","),
    };
    add("host", &join(servers.iter().map(|(host, _)| *host).collect()))?;
    add("port", &join(servers.iter().map(|(_, port)| *port).collect()))?;
    add("dbname", dbname)?;
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let Some((keyword, value)) = parameter.split_once('=') else {
            return Err(config("a parameter of the URI has no value"));
        };
        match (decode(keyword)?.as_str(), value) {
            ("ssl", "true") => add("sslmode", "require")?, // JDBC's spelling, which libpq takes too
            (keyword, value) => add(keyword, value)?,
        }
    }
    Ok(pairs)
}

/// `host:port`, `[address]:port`
fn server(text: &str) -> Result<(&str, &str)> {
    if let Some(inner) = text.strip_prefix('[') {
        let Some((address, rest)) = inner.split_once(']') else {
            return Err(config("the address of the URI has no ]"));
        };
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err(config("something stands between ] and the port of the URI")),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => {
                return Err(config("a % of the URI is not followed by two hexadecimal digits")
                    .hint("write a % itself as %25"));
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| config("the URI is not UTF-8"))
}
