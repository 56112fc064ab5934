//! Names of the objects of an archive: keys as values.

use super::key;
use crate::pg::segment::{TimelineId, WalName};
use std::fmt;

/// The name of an object of an archive. Displayed as its key, relative to the archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    Wal(WalName),
    /// The record of a backup, by id.
    Record(String),
    Manifest(String, u32),
    Pack(String, u32),
    Pin(String),
    /// The note of a verification about a backup.
    Verified(String),
    /// The note of a verification that found damage in a backup.
    FoundDamaged(String),
    /// The note of verifications about packs.
    VerifiedPacks,
    /// The note of verifications about WAL.
    VerifiedWal,
    /// The note of gaps that a backup has passed.
    KnownGaps,
    /// The seams that verifications have found in the WAL.
    Seams,
    /// The announcement of an operation.
    Active(String),
    /// The results of drills.
    Drills,
    /// The mark of a retired timeline.
    Retired(TimelineId),
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectName::Wal(name) => f.write_str(&key::wal(*name)),
            ObjectName::Record(id) => f.write_str(&key::backup(id)),
            ObjectName::Manifest(id, number) => f.write_str(&key::data(&key::manifest(id, *number))),
            ObjectName::Pack(id, number) => f.write_str(&key::data(&key::pack(id, *number))),
            ObjectName::Pin(id) => write!(f, "{}/{id}", key::PINS),
            ObjectName::Verified(id) => write!(f, "{}/{id}", key::VERIFIED),
            ObjectName::FoundDamaged(id) => write!(f, "{}/{id}", key::FOUND_DAMAGED),
            ObjectName::VerifiedPacks => f.write_str(key::VERIFIED_PACKS),
            ObjectName::VerifiedWal => f.write_str(key::VERIFIED_WAL),
            ObjectName::KnownGaps => f.write_str(key::KNOWN_GAPS),
            ObjectName::Seams => f.write_str(key::SEAMS),
            ObjectName::Active(name) => write!(f, "{}/{name}", key::ACTIVE),
            ObjectName::Drills => f.write_str(key::DRILLS),
            ObjectName::Retired(timeline) => f.write_str(&key::retired(*timeline)),
        }
    }
}

impl ObjectName {
    /// Parses a key that is relative to the archive; `None` for a key that walkeep does not write.
    /// Only the form that [`fmt::Display`] writes is accepted, so an object in a wrong place has no
    /// name.
    pub fn parse(key: &str) -> Option<ObjectName> {
        let (folder, rest) = key.split_once('/')?;
        let name = match folder {
            key::WAL => {
                let name = rest.rsplit('/').next()?;
                match name.strip_suffix(key::RETIRED) {
                    Some(digits) => ObjectName::Retired(TimelineId(u32::from_str_radix(digits, 16).ok()?)),
                    None => ObjectName::Wal(name.parse().ok()?),
                }
            }
            key::BACKUPS => ObjectName::Record(id(rest)?),
            key::PINS => ObjectName::Pin(id(rest)?),
            key::ACTIVE => ObjectName::Active(rest.to_owned()),
            key::DATA => {
                let mut parts = rest.split('/');
                let (id, kind, number) = (id(parts.next()?)?, parts.next()?, parts.next()?);
                match kind {
                    "manifest" => ObjectName::Manifest(id, number.parse().ok()?),
                    "pack" => ObjectName::Pack(id, number.parse().ok()?),
                    _ => return None,
                }
            }
            key::VERIFY => match rest.split_once('/') {
                None if key == key::VERIFIED_PACKS => ObjectName::VerifiedPacks,
                None if key == key::VERIFIED_WAL => ObjectName::VerifiedWal,
                None if key == key::KNOWN_GAPS => ObjectName::KnownGaps,
                None if key == key::SEAMS => ObjectName::Seams,
                Some(("damaged", rest)) => ObjectName::FoundDamaged(id(rest)?),
                Some(("backup", rest)) => ObjectName::Verified(id(rest)?),
                _ => return None,
            },
            _ if key == key::DRILLS => ObjectName::Drills,
            _ => return None,
        };
        (name.to_string() == key).then_some(name)
    }
}

/// Returns the id of a backup if the text can be one: `20261121T081502Z-1f3a9c`.
fn id(text: &str) -> Option<String> {
    let (time, random) = text.split_once('-')?;
    let time = time.strip_suffix('Z')?.as_bytes();
    let is_time = time.len() == 15
        && time
            .iter()
            .enumerate()
            .all(|(at, byte)| if at == 8 { *byte == b'T' } else { byte.is_ascii_digit() });
    let is_random = random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_time && is_random).then(|| text.to_owned())
}
