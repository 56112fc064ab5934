//! Writes `backup_manifest`, which `pg_verifybackup` reads. Source: PostgreSQL's documentation,
//! "Backup Manifest Format", and `backup_manifest.c`.

use super::{lsn::Lsn, segment::TimelineId};
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// File in the manifest.
pub struct ManifestFile<'a> {
    /// Path relative to the data directory; need not be UTF-8.
    pub path: &'a [u8],
    /// Size in bytes.
    pub size: u64,
    /// Time of the last modification, in seconds since 1970.
    pub modified: i64,
    /// CRC-32C of the content; `None` lets `pg_verifybackup` check the size only.
    pub crc32c: Option<u32>,
}

/// Writer of a manifest: files in any order, then [`ManifestWriter::finish`].
pub struct ManifestWriter<W> {
    out: W,
    hash: Sha256,
    files: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest. `major` decides the version of the format: 2, with the system identifier,
    /// since PostgreSQL 17.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(out: W, major: u32, system_identifier: u64) -> io::Result<ManifestWriter<W>> {
        let mut writer = ManifestWriter { out, hash: Sha256::new(), files: 0 };
        if major >= 17 {
            writer.write(&format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n\"Files\": ["
            ))?;
        } else {
            writer.write("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [")?;
        }
        Ok(writer)
    }

    /// Writes the line of a file.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn file(&mut self, file: &ManifestFile<'_>) -> io::Result<()> {
        let separator = if self.files == 0 { "" } else { "," };
        let path = match std::str::from_utf8(file.path) {
            Ok(path) => format!("\"Path\": {}", serde_json::Value::from(path)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex::encode(file.path)),
        };
        // pg_verifybackup ignores the time, so a time outside of the calendar's range is replaced
        // by the nearest end of the range.
        let nearest = if file.modified < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        let modified = jiff::Timestamp::from_second(file.modified).unwrap_or(nearest);
        // The bytes of the number in memory (`pg_checksum_final`).
        let checksum = file.crc32c.map_or_else(String::new, |crc| {
            let crc = hex::encode(crc.to_ne_bytes());
            format!(", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\"")
        });
        let line = format!(
            "{separator}\n{{ {path}, \"Size\": {}, \"Last-Modified\": \"{}\"{checksum} }}",
            file.size,
            modified.strftime("%Y-%m-%d %H:%M:%S GMT"),
        );
        self.files += 1;
        self.write(&line)
    }

    /// Ends the manifest with the WAL that the backup needs, oldest timeline first, and returns
    /// `out`.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn finish(mut self, wal: &[(TimelineId, Lsn, Lsn)]) -> io::Result<W> {
        self.write("\n],\n\"WAL-Ranges\": [")?;
        for (index, (timeline, start, end)) in wal.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            self.write(&format!(
                "{separator}\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
            ))?;
        }
        self.write("\n],\n")?;
        let checksum = hex::encode(self.hash.finalize());
        writeln!(self.out, "\"Manifest-Checksum\": \"{checksum}\"}}")?;
        Ok(self.out)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.hash.update(text);
        self.out.write_all(text.as_bytes())
    }
}
