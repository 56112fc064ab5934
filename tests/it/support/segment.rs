//! WAL files and data directories made without PostgreSQL: what a server of any major version and
//! WAL segment size would leave there, as far as an archive can see. One test holds them against a
//! real server's.

use super::scratch::{self, Scratch};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use walkeep::pg::version::Version;

const MB: u64 = 1 << 20;

/// The magic number of a WAL page.
fn magic(major: u16) -> u16 {
    let version = Version::of_major(u32::from(major));
    version.expect("a supported version of PostgreSQL").wal_magic
}

/// A segment whose long page header is right and whose records are zeros, unless told.
#[derive(Clone)]
pub struct Segment {
    pub system_identifier: u64,
    pub major: u16,
    pub size: u64,
    pub timeline: u32,
    /// Position in the WAL, counted in segments.
    pub number: u64,
    /// The timeline in the header: in the first segment of a new timeline still the old one.
    pub header_timeline: Option<u32>,
    /// `xlp_info`: bit 2 (long header) is always set, others vary.
    pub info: u16,
    /// Something to tell apart two segments of one name.
    pub mark: Vec<u8>,
    /// Whether the rest is noise that no codec makes smaller.
    pub noise: bool,
}

impl Segment {
    /// The first segment of timeline 1 that a server would archive; 16 MB.
    pub fn new(system_identifier: u64, major: u16) -> Segment {
        Segment {
            system_identifier,
            major,
            size: 16 * MB,
            timeline: 1,
            number: 1,
            header_timeline: None,
            info: 2,
            mark: Vec::new(),
            noise: false,
        }
    }

    pub fn megabytes(mut self, megabytes: u64) -> Segment {
        self.size = megabytes * MB;
        self
    }

    /// Another place in the WAL.
    pub fn at(mut self, timeline: u32, number: u64) -> Segment {
        self.timeline = timeline;
        self.number = number;
        self
    }

    pub fn mark(mut self, mark: impl Into<Vec<u8>>) -> Segment {
        self.mark = mark.into();
        self
    }

    pub fn noise(mut self) -> Segment {
        self.noise = true;
        self
    }

    pub fn header_timeline(mut self, timeline: u32) -> Segment {
        self.header_timeline = Some(timeline);
        self
    }

    /// The file name: timeline, then the two halves of the position as segments of this size count
    /// them.
    pub fn name(&self) -> String {
        let in_log = (1 << 32) / self.size;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / in_log, self.number % in_log)
    }

    /// The long page header.
    pub fn header(&self) -> [u8; 40] {
        let mut header = [0; 40];
        header[0..2].copy_from_slice(&magic(self.major).to_le_bytes());
        header[2..4].copy_from_slice(&self.info.to_le_bytes());
        let timeline = self.header_timeline.unwrap_or(self.timeline);
        header[4..8].copy_from_slice(&timeline.to_le_bytes());
        header[8..16].copy_from_slice(&(self.number * self.size).to_le_bytes());
        header[24..32].copy_from_slice(&self.system_identifier.to_le_bytes());
        header[32..36].copy_from_slice(&(self.size as u32).to_le_bytes());
        header[36..40].copy_from_slice(&8192u32.to_le_bytes());
        header
    }

    /// The whole file; for large ones see [`Segment::write_to`].
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        if self.noise {
            noise(&mut bytes, self.number ^ self.size);
        }
        bytes[..40].copy_from_slice(&self.header());
        bytes[100..100 + self.mark.len()].copy_from_slice(&self.mark);
        bytes
    }

    /// Writes it under its own name into a directory; zeros become a hole in the file.
    pub fn write_into(&self, directory: &Path) -> PathBuf {
        self.write_to(&directory.join(self.name()))
    }

    /// Writes it under any path.
    pub fn write_to(&self, path: &Path) -> PathBuf {
        if self.noise {
            scratch::write(path, self.bytes());
        } else {
            scratch::write(path, self.header());
            let file = std::fs::OpenOptions::new().write(true).open(path).expect("open a segment");
            file.set_len(self.size).expect("give a segment its size");
            file.write_all_at(&self.mark, 100).expect("mark a segment");
        }
        path.to_owned()
    }
}

/// Fills with bytes that no codec makes smaller: always the same for the same seed.
pub fn noise(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for eight in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes()[..eight.len()]);
    }
}

/// What an archive sees of a data directory whose server is down: `PG_VERSION`,
/// `global/pg_control`, `pg_wal`.
pub struct DataDir {
    pub path: PathBuf,
    pub system_identifier: u64,
    pub major: u16,
    /// The WAL segment size in bytes.
    pub segment_size: u64,
}

impl DataDir {
    /// Makes one in `scratch`, with WAL segments of `megabytes`.
    pub fn create(
        scratch: &Scratch,
        name: &str,
        major: u16,
        system_identifier: u64,
        megabytes: u64,
    ) -> DataDir {
        let path = scratch.mkdir(name);
        scratch.mkdir(path.join("global"));
        scratch.mkdir(path.join("pg_wal"));
        scratch.mkdir(path.join("pg_wal/archive_status"));
        scratch::write(&path.join("PG_VERSION"), format!("{major}\n"));
        let control = pg_control(major, system_identifier, megabytes * MB);
        scratch::write(&path.join("global/pg_control"), control);
        DataDir { path, system_identifier, major, segment_size: megabytes * MB }
    }

    /// A segment of this cluster, at a place of timeline 1.
    pub fn segment(&self, number: u64) -> Segment {
        let mut segment = Segment::new(self.system_identifier, self.major).at(1, number);
        segment.size = self.segment_size;
        segment
    }

    /// Writes a segment into `pg_wal` and returns the path that PostgreSQL would give for `%p`.
    pub fn write(&self, segment: &Segment) -> String {
        let name = segment.name();
        segment.write_to(&self.path.join("pg_wal").join(&name));
        format!("pg_wal/{name}")
    }

    /// Writes any other file of `pg_wal`, and returns its `%p`.
    pub fn write_other(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        scratch::write(&self.path.join("pg_wal").join(name), bytes);
        format!("pg_wal/{name}")
    }
}

/// `global/pg_control` as a cluster of this version has it after a clean stop. Offsets are those of
/// `struct ControlFileData` on a 64-bit machine; PostgreSQL 18 put one more field before the last
/// two, and 19 one into `checkPointCopy` and one behind `relseg_size`.
pub fn pg_control(major: u16, system_identifier: u64, segment_size: u64) -> Vec<u8> {
    let (version, catalog, crc_at): (u32, u32, usize) = match major {
        15 => (1300, 202_209_061, 288),
        16 => (1300, 202_307_071, 288),
        17 => (1700, 202_406_281, 288),
        18 => (1800, 202_506_291, 292),
        19 => (1905, 202_610_061, 308),
        _ => panic!("no pg_control of PostgreSQL {major} here"),
    };
    let mut file = vec![0; 8192];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    let redo = 8 * segment_size + 0x28;
    let (grown, more) = if major >= 19 { (8, 12) } else { (0, 0) };
    put(0, &system_identifier.to_le_bytes());
    put(8, &version.to_le_bytes());
    put(12, &catalog.to_le_bytes());
    put(16, &1u32.to_le_bytes()); // state: shut down
    put(24, &1_700_000_000u64.to_le_bytes()); // time
    put(32, &redo.to_le_bytes()); // checkPoint
    put(40, &redo.to_le_bytes()); // checkPointCopy.redo
    put(48, &1u32.to_le_bytes()); // its timeline
    put(52, &1u32.to_le_bytes()); // and the one before
    put(56, &[1]); // fullPageWrites
    put(64, &724u64.to_le_bytes()); // nextXid
    put(72, &13_573u32.to_le_bytes()); // nextOid
    put(76, &1u32.to_le_bytes()); // nextMulti
    put(84, &716u32.to_le_bytes()); // oldestXid
    put(88, &1u32.to_le_bytes()); // and its database
    put(92, &1u32.to_le_bytes()); // oldestMulti
    put(96, &1u32.to_le_bytes()); // and its database
    put(104 + grown, &1_700_000_000u64.to_le_bytes()); // time of the checkpoint
    put(128 + grown, &1000u64.to_le_bytes()); // unloggedLSN
    put(172 + grown, &1u32.to_le_bytes()); // wal_level: replica
    put(180 + grown, &100u32.to_le_bytes()); // max_connections
    put(184 + grown, &8u32.to_le_bytes()); // max_worker_processes
    put(188 + grown, &10u32.to_le_bytes()); // max_wal_senders
    put(196 + grown, &64u32.to_le_bytes()); // max_locks_per_transaction
    put(204 + grown, &8u32.to_le_bytes()); // maxAlign
    put(208 + grown, &1_234_567.0f64.to_le_bytes()); // floatFormat
    put(216 + grown, &8192u32.to_le_bytes()); // blcksz
    put(220 + grown, &131_072u32.to_le_bytes()); // relseg_size
    put(224 + more, &8192u32.to_le_bytes()); // xlog_blcksz
    put(228 + more, &(segment_size as u32).to_le_bytes()); // xlog_seg_size
    put(232 + more, &64u32.to_le_bytes()); // nameDataLen
    put(236 + more, &32u32.to_le_bytes()); // indexMaxKeys
    put(240 + more, &1996u32.to_le_bytes()); // toast_max_chunk_size
    put(244 + more, &2048u32.to_le_bytes()); // loblksize
    put(248 + more, &[1]); // float8ByVal
    let crc = crc32c::crc32c(&file[..crc_at]);
    file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    file
}
