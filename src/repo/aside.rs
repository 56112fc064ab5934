//! WAL files that are moved aside: out of the way of the server whose names they took. Nothing is
//! deleted: the object is stored under another key first, byte for byte.

use super::Archive;
use super::key;
use super::name::ObjectName;
use super::object::missing;
use crate::codec::hash::ContentHash;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::WalName;
use crate::storage::{Object, Put};
use std::io::Read;

/// Number of bytes that are compared at a time.
const COMPARED_CHUNK: u64 = 256 << 10;

impl Archive {
    /// Returns the hash of the content of a WAL file, from its header; `None` when the file does not
    /// exist.
    ///
    /// # Errors
    ///
    /// `Damage` when the header has no hash or cannot be read.
    pub fn wal_hash(&self, name: WalName) -> Result<Option<ContentHash>> {
        let Some(stored) = self.get_wal(name)? else {
            return Ok(None);
        };
        let no_hash = || Error::new(Kind::Damage, format!("the header of {name} has no SHA-256"));
        stored.header.sha256.ok_or_else(no_hash).map(Some)
    }

    /// Moves a WAL file aside: to a key with the hash of its content. Returns that key, relative to
    /// the archive.
    ///
    /// # Errors
    ///
    /// `Absent` when the file does not exist. Those of the store; the file is then still under its
    /// name.
    pub fn move_aside(&self, name: WalName) -> Result<String> {
        let doing = || format!("move {name} aside in repository {}", self.repository().name());
        let hash = self.wal_hash(name).doing(doing)?.ok_or_else(missing)?;
        let aside = key::aside(name, hash);
        let open = || self.open_object(&key::wal(name))?.ok_or_else(missing);
        let mut bytes = Vec::new();
        open().doing(doing)?.read_to_end(&mut bytes).doing(doing)?;
        if self.put_object(&aside, &bytes).doing(doing)? == Put::Exists {
            let there = self.open_object(&aside).doing(doing)?.ok_or_else(missing)?;
            if !has_bytes(there, &bytes).doing(doing)? {
                return Err(
                    Error::new(Kind::Conflict, format!("{aside} exists with other bytes")).doing(doing())
                );
            }
        }
        self.remove(&[ObjectName::Wal(name)]).doing(doing)?;
        Ok(aside)
    }
}

/// Whether an object has exactly these bytes.
fn has_bytes(mut object: Object, bytes: &[u8]) -> Result<bool> {
    let mut rest = bytes;
    loop {
        let mut chunk = Vec::new();
        (&mut object).take(COMPARED_CHUNK).read_to_end(&mut chunk).doing("read the object")?;
        match rest.strip_prefix(chunk.as_slice()) {
            Some(left) if !chunk.is_empty() => rest = left,
            Some(left) => return Ok(left.is_empty()),
            None => return Ok(false),
        }
    }
}
