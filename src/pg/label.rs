//! `backup_label` and `tablespace_map`. Source: PostgreSQL's `xlogbackup.c` and `xlogrecovery.c`.

use super::{lsn::Lsn, segment::TimelineId};
use crate::error::{Error, Kind, Result};

/// Fields of `backup_label` (`build_backup_content`). The file itself is stored byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Start of redo: the first WAL that the backup needs.
    pub start: Lsn,
    /// Position of the checkpoint record.
    pub checkpoint: Lsn,
    pub timeline: TimelineId,
    /// Whether the backup was taken from a standby.
    pub from_standby: bool,
}

impl Label {
    /// Parses a label.
    ///
    /// # Errors
    ///
    /// `Damage` for a missing field or a value of another form.
    pub fn parse(text: &[u8]) -> Result<Label> {
        let text = String::from_utf8_lossy(text);
        let field = |key: &str| -> Result<&str> {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .map(str::trim)
                .ok_or_else(|| Error::new(Kind::Damage, format!("backup_label has no `{key}`")))
        };
        let position = |text: &str| text.parse::<Lsn>().map_err(|error| error.with_kind(Kind::Damage));
        let start = field("START WAL LOCATION")?; // 0/2000028 (file 000000010000000000000002)
        let start = start.split_once(' ').map_or(start, |(start, _)| start);
        let timeline = field("START TIMELINE")?;
        Ok(Label {
            start: position(start)?,
            checkpoint: position(field("CHECKPOINT LOCATION")?)?,
            timeline: TimelineId(timeline.parse().map_err(|_| {
                Error::new(Kind::Damage, format!("backup_label: `{timeline}` is not a timeline"))
            })?),
            from_standby: field("BACKUP FROM")? == "standby",
        })
    }
}

/// Line of `tablespace_map`: a link in `pg_tblspc` and its target, in bytes, since a path need not
/// be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceLink {
    pub oid: u32,
    pub location: Vec<u8>,
}

/// Parses a tablespace map: lines of `OID location` with one space between, and a `\` before each
/// backslash, newline and carriage return of the location (`read_tablespace_map`).
///
/// # Errors
///
/// `Damage` for a line of another form.
pub fn parse_tablespace_map(text: &[u8]) -> Result<Vec<TablespaceLink>> {
    let mut links = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for &byte in text {
        match byte {
            _ if escaped => {
                line.push(byte);
                escaped = false;
            }
            b'\\' => escaped = true,
            b'\n' => links.push(parse_link(&std::mem::take(&mut line))?),
            _ => line.push(byte),
        }
    }
    if !line.is_empty() {
        links.push(parse_link(&line)?);
    }
    Ok(links)
}

fn parse_link(line: &[u8]) -> Result<TablespaceLink> {
    let damaged = || {
        let line = String::from_utf8_lossy(line);
        Error::new(Kind::Damage, format!("tablespace_map: `{line}` is not a link"))
    };
    let mut parts = line.splitn(2, |byte| *byte == b' ');
    let oid = parts.next().and_then(|oid| std::str::from_utf8(oid).ok()?.parse().ok());
    match (oid, parts.next()) {
        (Some(oid), Some(location)) => Ok(TablespaceLink { oid, location: location.to_vec() }),
        _ => Err(damaged()),
    }
}

/// Formats a tablespace map like the server.
pub fn format_tablespace_map(links: &[TablespaceLink]) -> Vec<u8> {
    let mut text = Vec::new();
    for link in links {
        text.extend_from_slice(format!("{} ", link.oid).as_bytes());
        for &byte in &link.location {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'\n');
    }
    text
}
