//! `backup_label` and `tablespace_map`. Source: PostgreSQL's `xlogbackup.c` and `xlogrecovery.c`.

use super::{lsn::Lsn, segment::TimelineId};
use crate::error::{Error, Kind, Result};

/// What the server wrote into `backup_label`. The file itself is kept byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Redo starts here: the first WAL that the backup needs.
    pub start: Lsn,
    pub checkpoint: Lsn,
    pub timeline: TimelineId,
    pub from_standby: bool,
}

impl Label {
    pub fn parse(text: &[u8]) -> Result<Label> {
        let text = String::from_utf8_lossy(text);
        let field = |key: &str| -> Result<&str> {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .map(str::trim)
                .ok_or_else(|| Error::new(Kind::Damage, format!("backup_label has no `{key}`")))
        };
        let start = field("START WAL LOCATION")?;
        let start = start.split_whitespace().next().unwrap_or_default();
        let timeline = field("START TIMELINE")?;
        Ok(Label {
            start: start.parse().map_err(|e: Error| e.with_kind(Kind::Damage))?,
            checkpoint: field("CHECKPOINT LOCATION")?
                .parse()
                .map_err(|e: Error| e.with_kind(Kind::Damage))?,
            timeline: TimelineId(timeline.parse().map_err(|_| {
                Error::new(Kind::Damage, format!("backup_label: `{timeline}` is no timeline"))
            })?),
            from_standby: field("BACKUP FROM")? == "standby",
        })
    }
}

/// One line of `tablespace_map`: which directory a link in `pg_tblspc` leads to. Bytes, since a path
/// need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceLink {
    pub oid: u32,
    pub location: Vec<u8>,
}

/// Reads a tablespace map: `OID location`, one space between, `\` before a backslash, a newline or a
/// carriage return of the location.
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
        Error::new(Kind::Damage, format!("tablespace_map: `{line}` is no link"))
    };
    let space = line.iter().position(|&b| b == b' ').ok_or_else(damaged)?;
    let (oid, location) = line.split_at(space);
    let oid = std::str::from_utf8(oid).ok().and_then(|oid| oid.parse().ok());
    Ok(TablespaceLink {
        oid: oid.ok_or_else(damaged)?,
        location: location.get(1..).unwrap_or_default().to_vec(),
    })
}

/// Writes a tablespace map as the server does.
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
