//! Names of shared objects (databases, roles, prepared transactions), which the catalogs hold in
//! the encoding of the database in which they were given: in a session of another database they are
//! bytes and not text.

/// Expression of SQL for the bytes of a name as ASCII text, whatever the encoding of the database.
/// Bytes outside of ASCII become `\351`, a backslash becomes two.
#[must_use]
pub fn escaped(name: &str) -> String {
    format!("encode(byteain(textout(replace({name}::text, '\\', '\\\\'))), 'escape')")
}

/// Returns the name that [`escaped`] shows as `text`; `None` when it is not UTF-8.
#[must_use]
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next()? {
            b'\\' => bytes.push(b'\\'),
            digit => {
                let digits = [digit, rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()?);
            }
        }
    }
    String::from_utf8(bytes).ok()
}
