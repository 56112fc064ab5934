//! Records of the WAL: their chain, across pages and segments, and the places at which it breaks.
//! What a record means is in `record/meaning.rs`. Source: PostgreSQL's `xlogrecord.h`,
//! `xlog_internal.h` and `xlogreader.c`.
//!
//! A record continues the WAL when its `xl_prev` is the begin of the record before it
//! (`ValidXLogRecordHeader`), and a page when `xlp_rem_len` is what the open record lacks
//! (`XLogDecodeNextRecord`). A server writes anything else in one case: after a crash within a record
//! it goes on with the next page, which then has a flag, and whose first record names the record
//! that was never completed (`CreateOverwriteContrecordRecord` in `xlog.c`).

mod meaning;

pub use meaning::{Ending, Meaning, Parameters};

use super::bytes::{u16_at, u32_at, u64_at};
use super::lsn::Lsn;
use super::wal::{HEADER_SIZE as LONG_HEADER, SegmentHeader};

/// Size in bytes of a page header that is not the first of its segment (`SizeOfXLogShortPHD`).
const SHORT_HEADER: usize = 24;
/// Size of a record's header in bytes (`SizeOfXLogRecord`), and offsets of its fields.
const RECORD_HEADER: usize = 24;
const LENGTH: usize = 0;
const XID: usize = 4;
const PREVIOUS: usize = 8;
const INFO: usize = 16;
const RESOURCE_MANAGER: usize = 17;
const CRC: usize = 20;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
const CONTINUES: u16 = 0x0001;

/// Maximum length of a record in bytes (`XLogRecordMaxSize`).
const MAX_LENGTH: usize = 1020 << 20;

/// Maximum length in bytes of a record that spans pages and is kept in memory; of a longer one only
/// the CRC is computed, since the records whose meaning this program needs are shorter.
const MAX_KEPT_LENGTH: usize = 64 << 20;

/// Last records of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    /// Start of the last record that lies wholly in this segment.
    pub last_record: Option<Lsn>,
    /// Start of the record behind the last one, which is not in the segment. A segment switch takes
    /// the rest of its segment.
    pub next_record: Option<Lsn>,
    /// Last commit or abort; recovery compares its time with a recovery target time.
    pub last_transaction: Option<TransactionEnd>,
}

/// Commit or abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Start of its record.
    pub lsn: Lsn,
    pub time: jiff::Timestamp,
}

impl Tail {
    /// Reads the records of a segment that begin before `limit`, up to the first that is incomplete
    /// or wrong.
    pub fn before(segment: &[u8], limit: Lsn) -> Tail {
        let mut tail = Tail::default();
        // The only segment that this scan reads continues nothing, so it has no seam.
        let _ = RecordScan::default().segment(segment, |found| {
            if found.begin < limit {
                tail.last_record = Some(found.begin);
                tail.next_record = Some(found.next);
                if let Meaning::TransactionEnd(ending) = found.meaning {
                    tail.last_transaction = Some(TransactionEnd { lsn: found.begin, time: ending.time });
                }
            }
        });
        tail
    }

    /// Returns the latest time at which a recovery stops by itself: the microsecond before the last
    /// transaction, since an inclusive recovery to a time stops before the first transaction that
    /// ended later (`recoveryStopsBefore` in PostgreSQL's `xlogrecovery.c`). `None` when no
    /// transaction ended at `from` or behind it.
    pub fn last_moment(&self, from: Lsn) -> Option<jiff::Timestamp> {
        let last = self.last_transaction.filter(|last| last.lsn >= from)?;
        last.time.checked_sub(jiff::SignedDuration::from_micros(1)).ok()
    }
}

/// Complete record with a correct CRC that continues the record before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRecord {
    pub begin: Lsn,
    /// Position that a server reports when it has replayed the record.
    pub end: Lsn,
    /// Position at which the next record begins.
    pub next: Lsn,
    /// `xl_prev`: begin of the record before this one.
    pub previous: Lsn,
    pub meaning: Meaning,
}

/// Place at which a segment does not continue the WAL before it, so that recovery ends there: it was
/// written by another server, or the segment before it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seam {
    /// Position up to which recovery gets.
    pub at: Lsn,
}

/// Ends of a segment's records, to compare with those of the segment before it and behind it when
/// segments are not read in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edges {
    /// Position of the segment.
    start: Lsn,
    /// Bytes of a record that began before the segment.
    rest: usize,
    /// Whether the first record replaces the rest of one that was never completed.
    overwrites: bool,
    /// `xl_prev` of the first record that begins in the segment; `None` when the whole segment belongs
    /// to one record.
    first_previous: Option<Lsn>,
    /// Begin of the last complete record that began in the segment.
    last: Option<Lsn>,
    /// Begin and missing bytes of the record that continues in the next segment.
    open: Option<(Option<Lsn>, usize)>,
    /// Position at which the records end before the segment does.
    broken: Option<Lsn>,
}

impl Edges {
    /// Reads the records of a segment. `None` when it has none: nothing can be compared then.
    pub fn of(segment: &[u8]) -> Option<Edges> {
        let mut scan = RecordScan::default();
        let mut first = None;
        let _ = scan.segment(segment, |found| {
            first.get_or_insert(found.previous);
        });
        let entry = scan.entry?;
        let open = scan.open.as_ref();
        let first_previous = first.or_else(|| open.and_then(|open| open.previous()));
        if first_previous.is_none() && open.is_none() && entry.rest == 0 {
            return None;
        }
        Some(Edges {
            start: entry.start,
            rest: entry.rest,
            overwrites: entry.overwrites,
            first_previous,
            last: scan.last,
            open: open.map(|open| (open.begin, open.missing())),
            broken: scan.broken,
        })
    }

    /// Finds the seam between this segment and the next one. The begin of a record that fills whole
    /// segments is not known; then only its missing length is compared.
    pub fn seam_before(&self, next: &Edges) -> Option<Seam> {
        if let Some(at) = self.broken {
            return Some(Seam { at });
        }
        let missing = self.open.map_or(0, |(_, missing)| missing);
        if !next.overwrites && missing != next.rest {
            let at = self.open.and_then(|(begin, _)| begin).unwrap_or(next.start);
            return Some(Seam { at });
        }
        let before = match self.open {
            Some((begin, _)) if !next.overwrites => begin,
            _ => self.last,
        };
        let is_other = before.zip(next.first_previous).is_some_and(|(before, previous)| before != previous);
        is_other.then_some(Seam { at: next.start })
    }
}

/// Beginning of a segment.
#[derive(Debug, Clone, Copy)]
struct SegmentEntry {
    start: Lsn,
    rest: usize,
    overwrites: bool,
}

/// Reader of consecutive segments and of the records that span them. A segment at another position
/// than behind the last one begins a new chain.
#[derive(Debug, Default)]
pub struct RecordScan {
    /// The last segment; `None` before the first one.
    entry: Option<SegmentEntry>,
    /// Position behind it.
    next: Option<Lsn>,
    /// Begin of the last complete record of the chain.
    last: Option<Lsn>,
    /// Record that continues in the next segment.
    open: Option<PartialRecord>,
    /// Begin of a record that was never completed, which the next record has to name.
    aborted: Option<Lsn>,
    /// Position at which the chain ended before the end of a segment.
    broken: Option<Lsn>,
}

/// End of the chain, at this position.
struct Broken(Lsn);

impl RecordScan {
    /// Reads the next segment. Calls `each` with every record that ends in it, up to the first bytes
    /// that are not a record or do not continue the record before.
    ///
    /// Returns the seam between this segment and the one before. The end of the records within the
    /// last segment is not a seam: WAL may end there.
    pub fn segment(&mut self, segment: &[u8], mut each: impl FnMut(FoundRecord)) -> Option<Seam> {
        let Some(mut reader) = RecordReader::open(segment) else {
            // Not a segment at all: nothing continues here.
            return std::mem::take(self).next.map(|at| Seam { at });
        };
        let entry = reader.entry;
        let has_begun = self.last.is_some() || self.open.is_some();
        if self.next != Some(entry.start) || !has_begun {
            *self = RecordScan::default();
        }
        self.entry = Some(entry);
        self.next = Some(Lsn(entry.start.0 + segment.len() as u64));
        if let Some(at) = self.broken {
            return Some(Seam { at });
        }
        if let Err(Broken(at)) = self.enter(&mut reader, &mut each) {
            self.broken = Some(at);
            return (self.last.is_some() || self.open.is_some()).then_some(Seam { at });
        }
        if self.open.is_none() {
            self.broken = self.read(&mut reader, &mut each).err().map(|Broken(at)| at);
        }
        None
    }

    /// Reads the rest of a record that began before the segment.
    fn enter(
        &mut self,
        reader: &mut RecordReader<'_>,
        each: &mut impl FnMut(FoundRecord),
    ) -> Result<(), Broken> {
        let SegmentEntry { start, rest, overwrites } = reader.entry;
        let mut open = match self.open.take() {
            Some(open) if overwrites => {
                self.aborted = open.begin;
                return Ok(());
            }
            Some(open) if open.missing() == rest => open,
            None if rest == 0 => return Ok(()),
            None if self.last.is_none() => PartialRecord::unknown(rest),
            open => {
                let at = open.as_ref().and_then(|open| open.begin).unwrap_or(start);
                self.open = open;
                return Err(Broken(at));
            }
        };
        let begin = open.begin.unwrap_or(start);
        match reader.follow(&mut open) {
            Follow::Complete => self.end_record(reader, open, each),
            Follow::Open => {
                self.open = Some(open);
                Ok(())
            }
            Follow::Overwritten => {
                self.aborted = open.begin;
                Ok(())
            }
            Follow::Broken => Err(Broken(begin)),
        }
    }

    /// Reads the records that begin in the segment.
    fn read(
        &mut self,
        reader: &mut RecordReader<'_>,
        each: &mut impl FnMut(FoundRecord),
    ) -> Result<(), Broken> {
        while !reader.is_at_end() {
            let begin = reader.enter_record()?;
            if let Some(record) = reader.whole() {
                if !has_correct_crc(record) {
                    return Err(Broken(begin));
                }
                self.found(reader, begin, record, each)?;
                continue;
            }
            let mut open = PartialRecord::new(begin, reader.length().ok_or(Broken(begin))?);
            match reader.follow(&mut open) {
                Follow::Complete => self.end_record(reader, open, each)?,
                Follow::Open => {
                    let continues = open.previous().zip(self.last).is_none_or(|(a, b)| a == b);
                    self.open = Some(open);
                    return if continues { Ok(()) } else { Err(Broken(begin)) };
                }
                Follow::Overwritten => self.aborted = Some(begin),
                Follow::Broken => return Err(Broken(begin)),
            }
        }
        Ok(())
    }

    /// Takes a record that spanned pages and is complete now.
    fn end_record(
        &mut self,
        reader: &mut RecordReader<'_>,
        open: PartialRecord,
        each: &mut impl FnMut(FoundRecord),
    ) -> Result<(), Broken> {
        let Some(begin) = open.begin else {
            return Ok(()); // It began before the first segment, so its header is not known.
        };
        match open.checked() {
            Some(record) => self.found(reader, begin, &record, each),
            None => Err(Broken(begin)),
        }
    }

    /// Takes a record that ends where the reader is.
    fn found(
        &mut self,
        reader: &mut RecordReader<'_>,
        begin: Lsn,
        record: &[u8],
        each: &mut impl FnMut(FoundRecord),
    ) -> Result<(), Broken> {
        let previous = u64_at(record, PREVIOUS).map(Lsn).ok_or(Broken(begin))?;
        let meaning = Meaning::of(record, reader.major);
        let is_continuing = self.last.is_none_or(|last| last == previous)
            && self.aborted.take().is_none_or(|of| meaning == Meaning::OverwriteContrecord { aborted: of });
        if !is_continuing {
            return Err(Broken(begin));
        }
        if meaning == Meaning::Switch {
            // The rest of the segment belongs to this record.
            reader.at = reader.segment.len();
        }
        self.last = Some(begin);
        each(FoundRecord { begin, end: reader.position(), next: reader.next_begin(), previous, meaning });
        Ok(())
    }
}

/// Whether the CRC of a record is correct. It covers the header last, up to the CRC itself
/// (`ValidXLogRecord`).
fn has_correct_crc(record: &[u8]) -> bool {
    let of_data = record.get(RECORD_HEADER..).map(crc32c::crc32c);
    let crc = of_data.zip(record.get(..CRC)).map(|(crc, head)| crc32c::crc32c_append(crc, head));
    crc.is_some() && crc == u32_at(record, CRC)
}

/// Record that spans pages, as far as it has been read.
#[derive(Debug)]
struct PartialRecord {
    /// `None` for a record that began before the first segment.
    begin: Option<Lsn>,
    length: usize,
    read: usize,
    /// Bytes of the record; of a very long one only the header.
    bytes: Vec<u8>,
    /// CRC of the bytes behind the header.
    crc: u32,
}

impl PartialRecord {
    fn new(begin: Lsn, length: usize) -> PartialRecord {
        PartialRecord { begin: Some(begin), length, read: 0, bytes: Vec::new(), crc: 0 }
    }

    fn unknown(length: usize) -> PartialRecord {
        PartialRecord { begin: None, length, read: 0, bytes: Vec::new(), crc: 0 }
    }

    fn missing(&self) -> usize {
        self.length - self.read
    }

    fn previous(&self) -> Option<Lsn> {
        u64_at(&self.bytes, PREVIOUS).map(Lsn)
    }

    fn push(&mut self, piece: &[u8]) {
        let of_header = RECORD_HEADER.saturating_sub(self.read).min(piece.len());
        let (header, data) = piece.split_at(of_header);
        self.read += piece.len();
        if self.begin.is_some() {
            self.crc = crc32c::crc32c_append(self.crc, data);
            self.bytes.extend_from_slice(if self.length <= MAX_KEPT_LENGTH { piece } else { header });
        }
    }

    /// Bytes of the record, if its CRC is correct.
    fn checked(self) -> Option<Vec<u8>> {
        let crc = crc32c::crc32c_append(self.crc, self.bytes.get(..CRC)?);
        (crc == u32_at(&self.bytes, CRC)?).then_some(self.bytes)
    }
}

/// End of an attempt to complete a record.
enum Follow {
    Complete,
    /// The segment ends within the record.
    Open,
    /// The page here replaces the rest of the record, which was never written.
    Overwritten,
    /// The page here does not continue the record.
    Broken,
}

/// Reader of the pages of one segment.
struct RecordReader<'a> {
    segment: &'a [u8],
    page_size: usize,
    magic: u16,
    major: u32,
    /// Bit of a page whose first record replaces the rest of one that was never completed
    /// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
    overwrite_flag: u16,
    entry: SegmentEntry,
    at: usize,
}

impl<'a> RecordReader<'a> {
    /// Reads the first page header.
    fn open(segment: &'a [u8]) -> Option<RecordReader<'a>> {
        let header = SegmentHeader::parse(segment).ok()?;
        header.page_address.checked_add(segment.len() as u64)?; // no position in it is beyond 64 bits
        let page_size = usize::try_from(header.block_size).ok()?;
        if !page_size.is_power_of_two() || page_size < 1024 || !segment.len().is_multiple_of(page_size) {
            return None;
        }
        // PostgreSQL 19 removed the flag that had this bit before.
        let overwrite_flag = if header.major >= 19 { 0x0004 } else { 0x0008 };
        let flags = u16_at(segment, 2)?;
        let rest = if flags & CONTINUES == 0 { 0 } else { usize::try_from(u32_at(segment, 16)?).ok()? };
        Some(RecordReader {
            segment,
            page_size,
            magic: u16_at(segment, 0)?,
            major: header.major,
            overwrite_flag,
            entry: SegmentEntry {
                start: Lsn(header.page_address),
                rest,
                overwrites: flags & overwrite_flag != 0,
            },
            at: LONG_HEADER,
        })
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.segment.len()
    }

    fn position(&self) -> Lsn {
        Lsn(self.entry.start.0 + self.at as u64)
    }

    /// Position of the next record: behind the page header if a page begins here.
    fn next_begin(&self) -> Lsn {
        let header = match self.at {
            at if at == self.segment.len() => LONG_HEADER,
            at if at.is_multiple_of(self.page_size) => SHORT_HEADER,
            _ => 0,
        };
        Lsn(self.position().0 + header as u64)
    }

    /// Returns flags and `xlp_rem_len` of the page that begins here; `None` if the page does not
    /// belong to this WAL: the end of WAL is followed by pages of an older segment.
    fn page(&self) -> Option<(u16, usize)> {
        let header = self.segment.get(self.at..self.at + SHORT_HEADER)?;
        if u16_at(header, 0)? != self.magic || u64_at(header, 8)? != self.position().0 {
            return None;
        }
        Some((u16_at(header, 2)?, usize::try_from(u32_at(header, 16)?).ok()?))
    }

    /// Goes to the record that begins here, behind the page header if there is one, and returns its
    /// position.
    fn enter_record(&mut self) -> Result<Lsn, Broken> {
        if self.at.is_multiple_of(self.page_size) {
            let broken = Broken(self.position());
            match self.page() {
                Some((flags, _)) if flags & CONTINUES == 0 => self.at += SHORT_HEADER,
                _ => return Err(broken),
            }
        }
        let begin = self.position();
        self.length().map(|_| begin).ok_or(Broken(begin))
    }

    /// Length of the record that begins here. The field never crosses a page, since records begin at
    /// multiples of eight.
    fn length(&self) -> Option<usize> {
        let length = usize::try_from(u32_at(self.segment, self.at + LENGTH)?).ok()?;
        (RECORD_HEADER..=MAX_LENGTH).contains(&length).then_some(length)
    }

    /// Reads the record that begins here, if it lies in one page.
    fn whole(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let in_page = self.page_size - self.at % self.page_size;
        let record = (length <= in_page).then(|| self.segment.get(self.at..self.at + length)).flatten()?;
        self.at = (self.at + length).next_multiple_of(8);
        Some(record)
    }

    /// Reads a record as far as it lies in the segment, from where the reader is.
    fn follow(&mut self, open: &mut PartialRecord) -> Follow {
        while open.missing() > 0 {
            if self.is_at_end() {
                return Follow::Open;
            }
            if self.at.is_multiple_of(self.page_size) {
                match self.page() {
                    Some((flags, _)) if flags & self.overwrite_flag != 0 => return Follow::Overwritten,
                    Some((flags, rest)) if flags & CONTINUES != 0 && rest == open.missing() => {
                        self.at += SHORT_HEADER;
                    }
                    _ => return Follow::Broken,
                }
            }
            let step = open.missing().min(self.page_size - self.at % self.page_size);
            let Some(piece) = self.segment.get(self.at..self.at + step) else {
                return Follow::Broken;
            };
            open.push(piece);
            self.at += step;
        }
        self.at = self.at.next_multiple_of(8);
        Follow::Complete
    }
}
