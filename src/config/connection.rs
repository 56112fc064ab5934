//! Connection strings of libpq, taken apart only as far as it takes to hide the secrets in them.

use super::MASK;

/// The error says what is wrong, without repeating any of the string.
type Result<T> = std::result::Result<T, &'static str>;

/// The connection string with every secret in it masked, or None if it has none. A string that libpq
/// would not understand is an error.
pub(super) fn mask(text: &str) -> Result<Option<String>> {
    let uri = ["postgresql://", "postgres://"]
        .into_iter()
        .find_map(|scheme| Some((scheme, text.strip_prefix(scheme)?)));
    let masked = match uri {
        Some((scheme, rest)) => format!("{scheme}{}", mask_uri(rest)?),
        None => mask_keywords(text)?,
    };
    Ok(Some(masked).filter(|masked| masked != text))
}

/// The connection string as anybody may see it.
pub(super) fn shown(text: &str) -> String {
    match mask(text) {
        Ok(None) => text.into(),
        Ok(Some(masked)) => masked,
        Err(_) => MASK.into(),
    }
}

/// Masks rather one value too many: also one under a misspelt name.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // No name of libpq needs percent encoding; one that has it hides something.
    let suspicious = ["pas", "pwd", "secret", "scram", "token", "%"];
    name != "passfile" && suspicious.iter().any(|part| name.contains(part))
}

/// `user:password@host:port,host:port/dbname?name=value&name=value`
fn mask_uri(rest: &str) -> Result<String> {
    // As libpq does: there is a login if an `@` comes before the first `/`.
    let (login, place) = match rest.split_once('@') {
        Some((login, place)) if !login.contains('/') => (Some(login), place),
        _ => (None, rest),
    };
    let (place, query) = match place.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (place, None),
    };
    if place.contains('@') {
        // libpq would cut the login elsewhere, and part of a password would pass for a host name.
        return Err("in a URI, `/` and `@` inside a name or password are written `%2F` and `%40`");
    }
    let mut masked = String::with_capacity(rest.len());
    if let Some(login) = login {
        match login.split_once(':') {
            Some((user, password)) if !password.is_empty() => {
                masked.extend([user, ":", MASK]);
            }
            _ => masked.push_str(login),
        }
        masked.push('@');
    }
    masked.push_str(place);
    let mut separator = '?';
    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        masked.push(separator);
        separator = '&';
        match parameter.split_once('=') {
            Some((name, value)) if is_secret(name) && !value.is_empty() => {
                masked.extend([name, "=", MASK]);
            }
            _ => masked.push_str(parameter),
        }
    }
    Ok(masked)
}

/// `name=value name = 'a value'`
fn mask_keywords(text: &str) -> Result<String> {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.trim_ascii_start().is_empty() {
        let (name, after) = rest
            .split_once('=')
            .filter(|(name, _)| is_keyword(name.trim_ascii()))
            .ok_or("it is neither a URI nor a list of `keyword=value`")?;
        let (space, value) = after.split_at(after.len() - after.trim_ascii_start().len());
        let (value, next) = split_value(value).ok_or("a quote in it is not closed")?;
        let hide = is_secret(name.trim_ascii()) && !matches!(value, "" | "''");
        masked.extend([name, "=", space, if hide { MASK } else { value }]);
        rest = next;
    }
    masked.push_str(rest);
    Ok(masked)
}

fn is_keyword(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Cuts behind the first value: a quoted one at its closing quote, another at white space. A
/// backslash takes the meaning from the character after it in both. None: the quote is not closed.
fn split_value(text: &str) -> Option<(&str, &str)> {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(usize::from(quoted)) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return text.split_at_checked(at + 1),
            _ if !quoted && character.is_ascii_whitespace() => return text.split_at_checked(at),
            _ => {}
        }
    }
    if quoted { None } else { Some((text, "")) }
}
