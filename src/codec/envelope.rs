//! The header that every object of a repository begins with: a zstd skippable frame of fixed length
//! around one JSON object, so that `zstd -dc` gives the content and `head -c 512` says what it is.

use super::compress::{self, Compressor, Decompressor, FRAME, frame_length};
use super::hash::ContentHash;
use super::pair::{Piece, hash_on_two_threads, hash_side_by_side};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Bytes of the header with its frame.
pub const HEADER_SIZE: usize = 512;

/// Skippable frame number 7, and the length of what follows.
const MAGIC: [u8; 8] = [0x57, 0x2A, 0x4D, 0x18, 0xF8, 0x01, 0, 0];

/// What sort of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    Identity,
    Wal,
    Backup,
    Manifest,
    Pack,
    Pin,
    /// An operation announces itself.
    Active,
    /// What a verification remembers.
    Verify,
    /// What drills found.
    Drill,
    /// Stands where the record of a backup would be that was taken for dead.
    GivenUp,
}

/// What an object says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub walkeep: u32,
    pub kind: ObjectKind,
    /// The last parts of the key.
    pub name: String,
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// Major version of PostgreSQL.
    pub pg: u32,
    /// Bytes of the content; not for packs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Of the content; not for packs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<ContentHash>,
    /// The key, relative to the archive, of the object without whose content this one's cannot be told: its frame is a
    /// [`compress::patch`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Says that the rest is encrypted, by a later version of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<serde_json::Value>,
}

/// A 64-bit number as a string of decimal digits: JSON readers lose digits of large numbers.
pub mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn damage(message: impl Into<String>) -> Error {
    Error::new(Kind::Damage, message)
}

impl Header {
    pub fn encode(&self) -> Result<[u8; HEADER_SIZE]> {
        let mut bytes = [b' '; HEADER_SIZE];
        let json = serde_json::to_vec(self).map_err(|e| damage(e.to_string()))?;
        let room = HEADER_SIZE - MAGIC.len() - 1;
        if json.len() > room {
            return Err(damage(format!(
                "the header of {} takes {} bytes, {room} fit",
                self.name,
                json.len()
            )));
        }
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        bytes[MAGIC.len()..MAGIC.len() + json.len()].copy_from_slice(&json);
        bytes[HEADER_SIZE - 1] = b'\n';
        Ok(bytes)
    }

    /// Reads the first [`HEADER_SIZE`] bytes of an object. Refuses another format and encryption by name.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let json = bytes
            .get(..HEADER_SIZE)
            .and_then(|bytes| bytes.strip_prefix(&MAGIC))
            .ok_or_else(|| damage("there is no walkeep header at its start"))?;
        #[derive(Deserialize)]
        struct Version {
            walkeep: u32,
        }
        let unreadable = |e: serde_json::Error| damage(format!("its header cannot be read: {e}"));
        let version: Version = serde_json::from_slice(json).map_err(unreadable)?;
        check_format(version.walkeep)?;
        let header: Header = serde_json::from_slice(json).map_err(unreadable)?;
        if header.cipher.is_some() {
            return Err(Error::new(Kind::Refused, "it is encrypted, and this walkeep cannot decrypt")
                .hint("install a newer walkeep"));
        }
        Ok(header)
    }
}

/// Refuses a format that this program does not know.
pub fn check_format(format: u32) -> Result<()> {
    if format == FORMAT {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("it has repository format {format}, this walkeep knows format {FORMAT}"),
    )
    .hint("install a newer walkeep"))
}

/// Makes a whole object of a content that fits in memory; fills in size and hash.
pub fn seal(header: Header, content: &[u8], compressor: &mut Compressor) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    compressor.frame(content, &mut frame)?;
    whole(header, content, &frame)
}

/// As [`seal`], by what the content has in common with that of the object that the header names as its base.
pub fn seal_patch(header: Header, content: &[u8], base: &[u8]) -> Result<Vec<u8>> {
    whole(header, content, &compress::patch(base, content)?)
}

fn whole(mut header: Header, content: &[u8], frame: &[u8]) -> Result<Vec<u8>> {
    header.size = Some(content.len() as u64);
    header.sha256 = Some(ContentHash::of(content));
    Ok([&header.encode()?[..], frame].concat())
}

/// The content of an object, decompressed frame by frame. Nothing of it may be used before
/// [`Content::read`] has said that it is what the header promised.
pub struct Content<R: Read> {
    pub header: Header,
    size: u64,
    sha256: ContentHash,
    source: R,
    /// Read and not yet decompressed.
    ahead: Vec<u8>,
    is_at_end: bool,
    decompressor: Decompressor,
}

/// Bytes read from the source at a time.
const READ: usize = 256 << 10;

/// Number of decompressed frames that wait for the hash.
const QUEUE: usize = 2;

impl<R: Read> Content<R> {
    /// Reads the header of an object, and gets ready to read the rest.
    pub fn open(mut object: R) -> Result<Content<R>> {
        let mut bytes = [0; HEADER_SIZE];
        let got = read_full(&mut object, &mut bytes)?;
        if got < HEADER_SIZE {
            return Err(damage(format!("it has only {got} bytes")));
        }
        let header = Header::decode(&bytes)?;
        let (Some(size), Some(sha256)) = (header.size, header.sha256) else {
            return Err(damage("its header says neither size nor hash"));
        };
        Ok(Content {
            header,
            size,
            sha256,
            source: object,
            ahead: Vec::new(),
            is_at_end: false,
            decompressor: Decompressor::default(),
        })
    }

    /// Bytes that the content should have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The whole content at once, checked, when it has at most `limit` bytes, told by that of the base.
    pub fn read_patch(mut self, base: &[u8], limit: u64) -> Result<(Header, Vec<u8>)> {
        self.source.read_to_end(&mut self.ahead).map_err(|e| Error::io("read", &e))?;
        let content = compress::unpatch(base, &self.ahead, limit as usize)?;
        let sha256 = ContentHash::of(&content);
        Ok((self.check(content.len() as u64, sha256)?, content))
    }

    /// Replaces `out` by the content of the next frame; false at the end.
    fn next_frame(&mut self, limit: usize, out: &mut Vec<u8>) -> Result<bool> {
        let length = loop {
            match frame_length(&self.ahead) {
                Some(length) => break length,
                None if self.is_at_end && self.ahead.is_empty() => return Ok(false),
                None if self.is_at_end => return Err(damage("it ends in the middle of a frame")),
                None if self.ahead.len() > limit + (limit >> 2) + READ => {
                    return Err(damage("it has no frame where one should be"));
                }
                None => {
                    // Into spare capacity, which nobody has to fill with zeros first.
                    self.ahead.reserve_exact(READ);
                    let mut part = self.source.by_ref().take(READ as u64);
                    let got = part.read_to_end(&mut self.ahead).map_err(|e| Error::io("read", &e))?;
                    self.is_at_end = got < READ;
                }
            }
        };
        self.decompressor.frame(&self.ahead[..length], limit, out)?;
        self.ahead.drain(..length);
        Ok(true)
    }

    /// Reads all of the content, whose frames hold at most [`FRAME`] bytes each, and checks it. `each` gets the
    /// pieces with their offsets, on two threads and in any order: what it makes of them is worth nothing unless
    /// this returns Ok.
    ///
    /// # Errors
    ///
    /// `Damage` when the content is not that of the header; errors of the source and of `each`.
    pub fn read(mut self, each: impl Fn(&[u8], u64) -> Result<()> + Sync) -> Result<Header> {
        let mut size = 0;
        let next = |piece: &mut Vec<u8>| {
            if !self.next_frame(FRAME, piece)? {
                return Ok(false);
            }
            size += piece.len() as u64;
            Ok(size <= self.size)
        };
        let each = |piece: Piece<'_>| each(piece.bytes, piece.offset);
        let sha256 = hash_on_two_threads(QUEUE, next, each, each)?;
        self.check(size, sha256)
    }

    /// Reads several objects side by side, each in order, on this thread alone: less work in all than
    /// [`Content::read`] when there are many. `each` gets the index of the object first. The results are in the
    /// order of `contents`.
    pub fn read_together(
        contents: Vec<Content<R>>,
        mut each: impl FnMut(usize, &[u8], u64) -> Result<()>,
    ) -> Vec<Result<Header>> {
        let unread = |_: &Content<R>| Err(Error::defect("an object was not read"));
        let mut results: Vec<Result<Header>> = contents.iter().map(unread).collect();
        let lanes = contents.into_iter().zip(&mut results).enumerate();
        hash_side_by_side(
            lanes.map(|(index, (content, result))| Lane { index, content, result, size: 0 }),
            |lane, piece| {
                if lane.size > lane.content.size || !lane.content.next_frame(FRAME, piece)? {
                    return Ok(false);
                }
                each(lane.index, piece, lane.size)?;
                lane.size += piece.len() as u64;
                Ok(true)
            },
            |_, _| Ok(()),
            |lane, sha256| *lane.result = sha256.and_then(|sha256| lane.content.check(lane.size, sha256)),
        );
        results
    }

    /// The whole content at once, checked, when it has at most `limit` bytes.
    pub fn read_all(mut self, limit: u64) -> Result<(Header, Vec<u8>)> {
        if self.size > limit {
            return Err(damage(format!("its header says {} bytes, at most {limit} are possible", self.size)));
        }
        let mut content = Vec::new();
        let mut piece = Vec::new();
        while self.next_frame(limit as usize, &mut piece)? {
            match content.is_empty() {
                true => std::mem::swap(&mut content, &mut piece),
                false => content.extend_from_slice(&piece),
            }
            if content.len() as u64 > self.size {
                break;
            }
        }
        let sha256 = ContentHash::of(&content);
        let header = self.check(content.len() as u64, sha256)?;
        Ok((header, content))
    }

    fn check(self, size: u64, sha256: ContentHash) -> Result<Header> {
        if size != self.size {
            return Err(damage(format!(
                "its content has {size} bytes or more, its header says {}",
                self.size
            )));
        }
        if sha256 != self.sha256 {
            return Err(damage(format!("its content has SHA-256 {sha256}, its header says {}", self.sha256)));
        }
        Ok(self.header)
    }
}

/// One of several objects that are read side by side.
struct Lane<'r, R: Read> {
    index: usize,
    content: Content<R>,
    result: &'r mut Result<Header>,
    /// Bytes of content so far.
    size: u64,
}

/// Reads until the buffer is full or the source ends.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", &e)),
        }
    }
    Ok(filled)
}
