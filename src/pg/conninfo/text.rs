//! The two notations of a connection string, `keyword=value …` and `postgresql://…`, parsed into
//! keywords and values. Does not know what a keyword means, except which ones hold a secret.
//! Follows conninfo_parse and conninfo_uri_parse_options of libpq's fe-connect.c.

use super::config;
use crate::error::{Error, Result};
use std::ops::Range;

/// One setting of a connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The keyword, decoded and not checked against libpq's list.
    pub keyword: String,
    /// The value without quotes, escapes and percent encoding.
    pub value: String,
    /// Range of the value in the connection string in bytes, with its quotes. The hosts and the
    /// ports of a URI have the same range.
    pub span: Range<usize>,
}

/// Parses a connection string. Returns the settings in the order in which they are written.
///
/// # Errors
///
/// `Config` for a string that libpq would reject; the message contains no value of the string.
pub fn pairs_with_spans(text: &str) -> Result<Vec<Pair>> {
    let whole = TextSpan { text, start: 0 };
    match whole.strip_prefix("postgresql://").or_else(|| whole.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => words(text),
    }
}

/// Returns the connection string with `mask` in place of every secret; `None` if the string has no
/// secret.
///
/// # Errors
///
/// Those of [`pairs_with_spans`]: a string that cannot be parsed must not be shown at all.
pub fn mask(text: &str, mask: &str) -> Result<Option<String>> {
    let mut masked = String::with_capacity(text.len());
    let mut rest = 0;
    for pair in pairs_with_spans(text)? {
        if is_secret(&pair.keyword) && !pair.value.is_empty() {
            masked.push_str(section(text, rest..pair.span.start)?);
            masked.push_str(mask);
            rest = pair.span.end;
        }
    }
    masked.push_str(section(text, rest..text.len())?);
    Ok((rest > 0).then_some(masked))
}

fn section(text: &str, range: Range<usize>) -> Result<&str> {
    text.get(range).ok_or_else(|| Error::defect("a value lies outside of its connection string"))
}

/// Whether the value of a keyword is masked. Also accepts misspelt keywords: a value too many is
/// masked rather than one too few.
fn is_secret(keyword: &str) -> bool {
    let keyword = keyword.to_ascii_lowercase();
    let suspicious = ["pas", "pwd", "secret", "scram", "token", "%"];
    keyword != "passfile" && suspicious.iter().any(|part| keyword.contains(part))
}

/// Parses `host=/tmp user = 'o\'hara'`.
fn words(text: &str) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some((_, c)) = chars.next_if(|(_, c)| *c != '=' && !c.is_ascii_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        let number = pairs.len() + 1;
        if chars.next().is_none_or(|(_, c)| c != '=') {
            return Err(config(format!("no = after word {number}")).hint(
                "write keyword=value …, values with spaces in single quotes, or a URI postgresql://…",
            ));
        }
        if keyword.is_empty() || !keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(config(format!("word {number} is not a keyword"))
                .hint("write keyword=value …, or a URI that begins with postgresql:// or postgres://"));
        }
        while chars.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        let start = chars.peek().map_or(text.len(), |(at, _)| *at);
        let is_quoted = chars.next_if(|(_, c)| *c == '\'').is_some();
        let mut value = String::new();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => value.extend(chars.next().map(|(_, c)| c)),
                Some((at, '\'')) if is_quoted => break at + 1,
                Some((at, c)) if !is_quoted && c.is_ascii_whitespace() => break at,
                Some((_, c)) => value.push(c),
                None if is_quoted => {
                    return Err(config(format!("the quote after {keyword}= has no end")));
                }
                None => break text.len(),
            }
        };
        pairs.push(Pair { keyword, value, span: start..end });
    }
}

/// A part of a connection string, and the number of bytes in front of it.
#[derive(Clone, Copy)]
struct TextSpan<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> TextSpan<'a> {
    fn strip_prefix(self, prefix: &str) -> Option<TextSpan<'a>> {
        let text = self.text.strip_prefix(prefix)?;
        Some(TextSpan { text, start: self.start + prefix.len() })
    }

    /// The parts before and after the first `separator`, an ASCII character.
    fn split_once(self, separator: char) -> Option<(TextSpan<'a>, TextSpan<'a>)> {
        let (before, after) = self.text.split_once(separator)?;
        let start = self.start + before.len() + separator.len_utf8();
        Some((TextSpan { text: before, ..self }, TextSpan { text: after, start }))
    }

    /// Splits like [`TextSpan::split_once`]. Without a separator, the first part is everything.
    fn split(self, separator: char) -> (TextSpan<'a>, TextSpan<'a>) {
        let end = TextSpan { text: "", start: self.start + self.text.len() };
        self.split_once(separator).unwrap_or((self, end))
    }

    fn span(self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

/// Parses `user:password@host:port,host:port/dbname?keyword=value&…`.
fn uri(rest: TextSpan<'_>) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut add = |keyword: &str, value: &str, span: Range<usize>| -> Result<()> {
        if !value.is_empty() {
            pairs.push(Pair { keyword: keyword.to_owned(), value: decode(value)?, span });
        }
        Ok(())
    };
    // There is a login if an @ comes before the first /.
    let (login, rest) = match rest.split_once('@') {
        Some((login, rest)) if !login.text.contains('/') => (login, rest),
        _ => (TextSpan { text: "", ..rest }, rest),
    };
    let (user, password) = login.split(':');
    add("user", user.text, user.span())?;
    add("password", password.text, password.span())?;
    let (rest, mut parameters) = rest.split('?');
    if rest.text.contains('@') {
        // Part of a password would pass for a name of a host or a database.
        return Err(config("an @ after the host of the URI")
            .hint("in a URI, write / and @ in a name or password as %2F and %40"));
    }
    let (hosts, dbname) = rest.split('/');
    let servers: Vec<(&str, &str)> = hosts.text.split(',').map(server).collect::<Result<_>>()?;
    let join = |parts: Vec<&str>| {
        if parts.iter().all(|part| part.is_empty()) { String::new() } else { parts.join(",") }
    };
    add("host", &join(servers.iter().map(|(host, _)| *host).collect()), hosts.span())?;
    add("port", &join(servers.iter().map(|(_, port)| *port).collect()), hosts.span())?;
    add("dbname", dbname.text, dbname.span())?;
    while !parameters.text.is_empty() {
        let (parameter, others) = parameters.split('&');
        parameters = others;
        if parameter.text.is_empty() {
            continue;
        }
        let Some((keyword, value)) = parameter.split_once('=') else {
            return Err(config("a parameter of the URI has no value"));
        };
        match (decode(keyword.text)?.as_str(), value.text) {
            ("ssl", "true") => add("sslmode", "require", value.span())?, // JDBC's spelling, which libpq takes too
            (keyword, text) => add(keyword, text, value.span())?,
        }
    }
    Ok(pairs)
}

/// Splits `host:port` or `[address]:port`.
fn server(text: &str) -> Result<(&str, &str)> {
    if let Some(inner) = text.strip_prefix('[') {
        let Some((address, rest)) = inner.split_once(']') else {
            return Err(config("the address of the URI has no ]"));
        };
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err(config("the URI has characters between ] and the port")),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

/// Decodes percent encoding as strictly as libpq does: two digits after each %, and no zero byte.
fn decode(text: &str) -> Result<String> {
    let is_byte = |rest: &str| {
        rest.get(..2).is_some_and(|digits| digits != "00" && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    if !text.split('%').skip(1).all(is_byte) {
        return Err(config("a % of the URI is not followed by two hexadecimal digits")
            .hint("write a % itself as %25"));
    }
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| config("the URI is not UTF-8"))?.into_owned())
}
