//! The envelope of objects: each object of a repository begins with a header, a zstd skippable
//! frame of fixed length around one JSON object. `zstd -dc` prints the content, and `head -c 512`
//! the header. Does not know the meaning of contents.

use super::compress::{self, Compressor, Decompressor, FRAME, frame_length};
use super::hash::ContentHash;
use super::pair::{ContentPiece, hash_on_two_threads, hash_side_by_side};
use crate::error::{Error, Kind, Result, part};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// Version of the repository format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Size of the header with its frame, in bytes.
pub const HEADER_SIZE: usize = 512;

/// Magic number of skippable frame 7, and the length of what follows (RFC 8878, 3.1.2).
const MAGIC: [u8; 8] = [0x57, 0x2A, 0x4D, 0x18, 0xF8, 0x01, 0, 0];

/// Size of a trailer, in bytes.
pub const TRAILER_SIZE: usize = 16;

/// Magic number of skippable frame 6, and the length of what follows.
const TRAILER_MAGIC: [u8; 8] = [0x56, 0x2A, 0x4D, 0x18, 8, 0, 0, 0];

/// Whether bytes begin with a zstd skippable frame (RFC 8878, section 3.1.2).
fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..])
}

/// Returns the trailer of an object of `stored` bytes, header and trailer included: a zstd skippable
/// frame with this number. Truncation shows without reading the content.
pub fn trailer(stored: u64) -> [u8; TRAILER_SIZE] {
    let mut bytes = [0; TRAILER_SIZE];
    for (byte, value) in bytes.iter_mut().zip(TRAILER_MAGIC.into_iter().chain(stored.to_le_bytes())) {
        *byte = value;
    }
    bytes
}

/// Kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    Identity,
    Wal,
    Backup,
    Manifest,
    Pack,
    Pin,
    /// Announcement of a running operation.
    Active,
    /// Results of verifications.
    Verify,
    /// History of drills.
    Drill,
    /// Fence in the place of the record of a backup that a prune considered stale.
    GivenUp,
    /// Mark of a retired timeline.
    Retired,
}

/// Header of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub walkeep: u32,
    pub kind: ObjectKind,
    /// Last part, or parts, of the key of the object.
    pub name: String,
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// Major version of PostgreSQL.
    pub pg: u32,
    /// Size of the content in bytes; `None` for packs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of the content; `None` for packs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<ContentHash>,
    /// Key, relative to the archive, of the object that this one is a delta of
    /// ([`compress::patch`]); `None` if the object can be read alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Present if the content is encrypted, which a later version of this program may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<serde_json::Value>,
}

/// A 64-bit number as a string of decimal digits: many JSON readers round large numbers.
pub mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the digits.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    /// Reads the digits.
    ///
    /// # Errors
    ///
    /// Those of the deserializer, and one for anything but a number of 64 bits.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn damage(message: impl Into<String>) -> Error {
    Error::new(Kind::Damage, message)
}

impl Header {
    /// Encodes the header with its frame.
    ///
    /// # Errors
    ///
    /// `Refused` when the text is too long, which a very long name makes it.
    pub fn encode(&self) -> Result<[u8; HEADER_SIZE]> {
        let mut bytes = [b' '; HEADER_SIZE];
        let json = serde_json::to_vec(self).map_err(|e| Error::defect(e.to_string()))?;
        let room = HEADER_SIZE - MAGIC.len() - 1;
        if json.len() > room {
            let message = format!("the header of {} needs {} bytes, {room} fit", self.name, json.len());
            return Err(Error::new(Kind::Refused, message));
        }
        for (byte, value) in bytes.iter_mut().zip(MAGIC.iter().chain(&json)) {
            *byte = *value;
        }
        bytes[HEADER_SIZE - 1] = b'\n';
        Ok(bytes)
    }

    /// Decodes the header from the first [`HEADER_SIZE`] bytes of an object.
    ///
    /// # Errors
    ///
    /// `Damage` when it is not a header, `Refused` for another format and for encryption.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let json = bytes
            .get(..HEADER_SIZE)
            .and_then(|bytes| bytes.strip_prefix(&MAGIC))
            .ok_or_else(|| damage("it does not begin with a walkeep header"))?;
        #[derive(Deserialize)]
        struct Version {
            walkeep: u32,
        }
        let unreadable = |e: serde_json::Error| damage(format!("its header cannot be read: {e}"));
        let version: Version = serde_json::from_slice(json).map_err(unreadable)?;
        check_format(version.walkeep)?;
        let header: Header = serde_json::from_slice(json).map_err(unreadable)?;
        if header.cipher.is_some() {
            return Err(Error::new(
                Kind::Refused,
                "it is encrypted, which this version of walkeep does not support",
            )
            .hint("install a newer walkeep"));
        }
        Ok(header)
    }
}

/// Checks the version of the repository format.
///
/// # Errors
///
/// `Refused` for a version that this program does not know.
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

/// Encodes a content that is in memory as an object. Sets size and hash in the header.
///
/// # Errors
///
/// Those of [`Header::encode`] and [`Compressor::frame`].
pub fn seal(header: Header, content: &[u8], compressor: &mut Compressor) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    compressor.frame(content, &mut frame)?;
    whole(header, content, &frame)
}

/// Encodes a content as a delta of `base`, otherwise like [`seal`]. `base` is the content of the
/// object that the header names as its base.
///
/// # Errors
///
/// Those of [`Header::encode`] and [`compress::patch`].
pub fn seal_patch(header: Header, content: &[u8], base: &[u8]) -> Result<Vec<u8>> {
    whole(header, content, &compress::patch(base, content)?)
}

fn whole(mut header: Header, content: &[u8], frame: &[u8]) -> Result<Vec<u8>> {
    header.size = Some(content.len() as u64);
    header.sha256 = Some(ContentHash::of(content));
    Ok([&header.encode()?[..], frame].concat())
}

/// Content of an object, decompressed frame by frame. No part of the content may be used before
/// [`Content::read`] has returned Ok: only then size and hash are known to match the header.
pub struct Content<R: Read> {
    pub header: Header,
    size: u64,
    sha256: ContentHash,
    source: R,
    /// Bytes that were read and are not yet decompressed.
    ahead: Vec<u8>,
    is_at_end: bool,
    /// Number of bytes of the object that were decoded, header included.
    consumed: u64,
    /// Number of frames that were decoded, and of bytes in them.
    frames: u64,
    decoded: u64,
    decompressor: Decompressor,
}

/// Number of bytes that are read from the source at a time.
const READ_SIZE: usize = 256 << 10;

/// Number of frames that an object may have however short they are.
const MAX_SMALL_FRAMES: u64 = 1024;

/// Minimum number of bytes in a frame on average, of objects with more frames. Short frames cost
/// time: the bytes behind each are moved.
const MIN_FRAME: u64 = 4096;

/// Number of decompressed frames that wait for the hash.
const QUEUE_CAPACITY: usize = 2;

impl<R: Read> Content<R> {
    /// Reads the header of an object; [`Content::read`] then reads the content.
    ///
    /// # Errors
    ///
    /// Those of the source and of [`Header::decode`].
    pub fn open(mut object: R) -> Result<Content<R>> {
        let mut bytes = [0; HEADER_SIZE];
        let got = read_full(&mut object, &mut bytes)?;
        if got < HEADER_SIZE {
            return Err(damage(format!("it has only {got} bytes, less than a header")));
        }
        let header = Header::decode(&bytes)?;
        let (Some(size), Some(sha256)) = (header.size, header.sha256) else {
            return Err(damage("its header has no size or no hash"));
        };
        Ok(Content {
            header,
            size,
            sha256,
            source: object,
            ahead: Vec::new(),
            is_at_end: false,
            consumed: HEADER_SIZE as u64,
            frames: 0,
            decoded: 0,
            decompressor: Decompressor::default(),
        })
    }

    /// Size of the content according to the header, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Decodes the whole content of a delta against `base`, and checks it.
    ///
    /// # Errors
    ///
    /// `Damage` when the content is not that of the header, or has more than `limit` bytes; errors
    /// of the source.
    pub fn read_patch(mut self, base: &[u8], limit: u64) -> Result<(Header, Vec<u8>)> {
        self.source.read_to_end(&mut self.ahead).map_err(|e| Error::io("read", &e))?;
        let content = compress::unpatch(base, &self.ahead, in_memory(limit)?)?;
        let sha256 = ContentHash::of(&content);
        Ok((self.check(content.len() as u64, sha256)?, content))
    }

    /// Replaces `out` by the content of the next frame; returns false at the end.
    fn next_frame(&mut self, limit: usize, out: &mut Vec<u8>) -> Result<bool> {
        let length = loop {
            match frame_length(&self.ahead) {
                Some(length) if self.ahead.starts_with(&TRAILER_MAGIC) => {
                    self.consumed += length as u64;
                    if self.ahead.get(..length) != Some(&trailer(self.consumed)[..]) {
                        return Err(damage("its trailer is damaged, or does not end it"));
                    }
                    self.ahead.drain(..length);
                }
                Some(_) if is_skippable(&self.ahead) => {
                    return Err(damage("it has a skippable frame that is not a trailer"));
                }
                Some(length) => break length,
                None if self.is_at_end && self.ahead.is_empty() => return Ok(false),
                None if self.is_at_end => return Err(damage("it ends in the middle of a frame")),
                None if self.ahead.len() > limit + (limit >> 2) + READ_SIZE => {
                    return Err(damage("it has no zstd frame where one is expected"));
                }
                None => {
                    // As many bytes again: looking for the end of a frame begins anew each time. Reads
                    // into spare capacity, which does not have to be zeroed first.
                    let wanted = READ_SIZE.max(self.ahead.len());
                    self.ahead.reserve_exact(wanted);
                    let mut part = self.source.by_ref().take(wanted as u64);
                    let got = part.read_to_end(&mut self.ahead).map_err(|e| Error::io("read", &e))?;
                    self.is_at_end = got < wanted;
                }
            }
        };
        self.decompressor.frame(part(&self.ahead, 0..length)?, limit, out)?;
        self.ahead.drain(..length);
        self.consumed += length as u64;
        self.frames += 1;
        self.decoded += out.len() as u64;
        if self.frames > MAX_SMALL_FRAMES + self.decoded / MIN_FRAME {
            return Err(damage("it has too many frames for its content"));
        }
        Ok(true)
    }

    /// Reads all of the content, whose frames hold at most [`FRAME`] bytes each, and checks it.
    /// `each` is called with the pieces and their offsets, on two threads and in any order. The
    /// pieces must not be used unless this function returns Ok.
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
        let each = |piece: ContentPiece<'_>| each(piece.bytes, piece.offset);
        let sha256 = hash_on_two_threads(QUEUE_CAPACITY, next, each, each)?;
        self.check(size, sha256)
    }

    /// Reads several objects side by side, each in order, on this thread alone. Takes less time in
    /// total than [`Content::read`] for each of many objects. The first argument of `each` is the
    /// index of the object. The results are in the order of `contents`.
    pub fn read_together(
        contents: Vec<Content<R>>,
        mut each: impl FnMut(usize, &[u8], u64) -> Result<()>,
    ) -> Vec<Result<Header>> {
        let unread = |_: &Content<R>| Err(Error::defect("an object was not read"));
        let mut results: Vec<Result<Header>> = contents.iter().map(unread).collect();
        let lanes = contents.into_iter().zip(&mut results).enumerate();
        hash_side_by_side(
            lanes.map(|(index, (content, result))| ObjectLane { index, content, result, size: 0 }),
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

    /// Reads the whole content into memory, and checks it.
    ///
    /// # Errors
    ///
    /// `Damage` when the content is not that of the header, or has more than `limit` bytes; errors
    /// of the source.
    pub fn read_all(mut self, limit: u64) -> Result<(Header, Vec<u8>)> {
        if self.size > limit {
            return Err(damage(format!(
                "its header has a size of {} bytes, where at most {limit} are possible",
                self.size
            )));
        }
        let mut content = Vec::new();
        let mut piece = Vec::new();
        let limit = in_memory(limit)?;
        while self.next_frame(limit, &mut piece)? {
            if content.is_empty() {
                std::mem::swap(&mut content, &mut piece);
            } else {
                content.extend_from_slice(&piece);
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
                "its content has {size} bytes or more, not the {} of its header",
                self.size
            )));
        }
        if sha256 != self.sha256 {
            return Err(damage(format!(
                "its content has SHA-256 {sha256}, not the {} of its header",
                self.sha256
            )));
        }
        Ok(self.header)
    }
}

/// One of several objects that are read side by side.
struct ObjectLane<'r, R: Read> {
    index: usize,
    content: Content<R>,
    result: &'r mut Result<Header>,
    /// Number of bytes of content so far.
    size: u64,
}

/// Converts the size limit of a content that is kept in memory.
fn in_memory(limit: u64) -> Result<usize> {
    usize::try_from(limit).map_err(|_| Error::defect(format!("{limit} bytes cannot be addressed")))
}

/// Reads until the buffer is full or the source ends.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let Some(rest) = buffer.get_mut(filled..) else {
            break;
        };
        match source.read(rest) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", &e)),
        }
    }
    Ok(filled)
}
