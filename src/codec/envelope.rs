//! The header that every object of a repository begins with: a zstd skippable frame of fixed length
//! around one JSON object, so that `zstd -dc` gives the content and `head -c 512` says what it is.

use super::compress::Compressor;
use super::hash::{ContentHash, Hasher};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Bytes of the header with its frame.
pub const HEADER_SIZE: usize = 512;

/// Skippable frame number 7, and the length of what follows.
const FRAME: [u8; 8] = [0x57, 0x2A, 0x4D, 0x18, 0xF8, 0x01, 0, 0];

/// What sort of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    Identity,
    Wal,
    Backup,
    Manifest,
    Pack,
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
        let room = HEADER_SIZE - FRAME.len() - 1;
        if json.len() > room {
            return Err(damage(format!(
                "the header of {} takes {} bytes, {room} fit",
                self.name,
                json.len()
            )));
        }
        bytes[..FRAME.len()].copy_from_slice(&FRAME);
        bytes[FRAME.len()..FRAME.len() + json.len()].copy_from_slice(&json);
        bytes[HEADER_SIZE - 1] = b'\n';
        Ok(bytes)
    }

    /// Reads the first [`HEADER_SIZE`] bytes of an object. Refuses another format and encryption by name.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let json = bytes
            .get(..HEADER_SIZE)
            .and_then(|bytes| bytes.strip_prefix(&FRAME))
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
pub fn seal(mut header: Header, content: &[u8], compressor: &mut Compressor) -> Result<Vec<u8>> {
    header.size = Some(content.len() as u64);
    header.sha256 = Some(ContentHash::of(content));
    let mut object = header.encode()?.to_vec();
    compressor.frame(content, &mut object)?;
    Ok(object)
}

/// The content of an object, decompressed while it is read. [`Content::finish`] says whether it was
/// what the header promised; nothing read before may be used until then.
pub struct Content<R: Read> {
    pub header: Header,
    size: u64,
    sha256: ContentHash,
    decoder: zstd::stream::read::Decoder<'static, std::io::BufReader<R>>,
}

impl<R: Read> Content<R> {
    /// Reads the header of an object, and gets ready to read the rest.
    pub fn open(mut object: R) -> Result<Content<R>> {
        let mut bytes = [0; HEADER_SIZE];
        read_full(&mut object, &mut bytes).and_then(|got| match got {
            HEADER_SIZE => Ok(()),
            _ => Err(damage(format!("it has only {got} bytes"))),
        })?;
        let header = Header::decode(&bytes)?;
        let (Some(size), Some(sha256)) = (header.size, header.sha256) else {
            return Err(damage("its header says neither size nor hash"));
        };
        let decoder = zstd::stream::read::Decoder::new(object).map_err(|e| Error::io("start zstd", &e))?;
        Ok(Content { header, size, sha256, decoder })
    }

    /// Bytes that the content should have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills the buffer unless the content ends before; says how much it read.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        read_full(&mut self.decoder, buffer)
    }

    /// Compares with what the caller has read: `read` bytes with this hash.
    pub fn finish(mut self, read: u64, sha256: ContentHash) -> Result<Header> {
        let more = read_full(&mut self.decoder, &mut [0; 1])?;
        if read != self.size || more != 0 {
            return Err(damage(format!(
                "its content has {}{read} bytes, its header says {}",
                if more == 0 { "" } else { "more than " },
                self.size
            )));
        }
        if sha256 != self.sha256 {
            return Err(damage(format!("its content has SHA-256 {sha256}, its header says {}", self.sha256)));
        }
        Ok(self.header)
    }

    /// The whole content at once, checked, when it has at most `limit` bytes.
    pub fn read_all(mut self, limit: u64) -> Result<(Header, Vec<u8>)> {
        if self.size > limit {
            return Err(damage(format!("its header says {} bytes, at most {limit} are possible", self.size)));
        }
        let mut content = vec![0; self.size as usize];
        let got = self.read(&mut content)?;
        let mut hasher = Hasher::default();
        hasher.update(&content[..got]);
        let header = self.finish(got as u64, hasher.finish())?;
        Ok((header, content))
    }
}

/// Reads until the buffer is full or the source ends. What zstd refuses is damage; a failure of the
/// source keeps its own kind.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error().is_some() => return Err(Error::io("read", &e)),
            Err(e) => return Err(damage(format!("it cannot be decompressed: {e}"))),
        }
    }
    Ok(filled)
}
