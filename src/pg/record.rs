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

/// The same for a reader of single segments, of which many work at once: checkpoints and ends of
/// backups are far shorter.
const MAX_BRIEF_LENGTH: usize = 1 << 20;

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

/// Reader of one segment, in pieces, for its edges.
#[derive(Debug)]
pub struct EdgeScan {
    scan: RecordScan,
    /// `xl_prev` of the first record that begins in the segment.
    first: Option<Lsn>,
    /// Checkpoints, and ends of backups, that lie wholly in the segment.
    landmarks: Vec<FoundRecord>,
}

impl Default for EdgeScan {
    fn default() -> EdgeScan {
        let scan = RecordScan { is_brief: true, ..RecordScan::default() };
        EdgeScan { scan, first: None, landmarks: Vec::new() }
    }
}

impl EdgeScan {
    /// Reads the next piece, which begins at `offset` in the segment.
    pub fn piece(&mut self, offset: u64, piece: &[u8]) {
        let (first, landmarks) = (&mut self.first, &mut self.landmarks);
        // A single segment continues nothing, so it has no seam.
        let _ = self.scan.piece(offset, piece, |found| {
            first.get_or_insert(found.previous);
            if matches!(found.meaning, Meaning::Checkpoint { .. } | Meaning::BackupEnd { .. }) {
                landmarks.push(found);
            }
        });
    }

    /// Returns the checkpoints and the ends of backups that were found so far.
    pub fn take_landmarks(&mut self) -> Vec<FoundRecord> {
        std::mem::take(&mut self.landmarks)
    }

    /// Returns the edges; `None` when the segment has no record: nothing can be compared then.
    pub fn finish(self) -> Option<Edges> {
        let entry = self.scan.entry?;
        let open = self.scan.open.as_ref();
        let first_previous = self.first.or_else(|| open.and_then(PartialRecord::previous));
        if first_previous.is_none() && open.is_none() && entry.rest == 0 {
            return None;
        }
        Some(Edges {
            start: entry.start,
            rest: entry.rest,
            overwrites: entry.overwrites,
            first_previous,
            last: self.scan.last,
            open: open.map(|open| (open.begin, open.missing())),
            broken: self.scan.broken,
        })
    }
}

impl Edges {
    /// Whether a record that begins here continues in the next segment.
    pub fn opens(&self, begin: Lsn) -> bool {
        self.open.is_some_and(|(open, _)| open == Some(begin))
    }

    /// Whether a record that ends here may have begun in an earlier segment.
    pub fn may_end_earlier(&self, end: Lsn) -> bool {
        self.rest > 0 && end.0.saturating_sub(self.start.0) <= (LONG_HEADER + self.rest + 8) as u64
    }

    /// Reads the edges of a segment; see [`EdgeScan::finish`].
    pub fn of(segment: &[u8]) -> Option<Edges> {
        let mut scan = EdgeScan::default();
        scan.piece(0, segment);
        scan.finish()
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

/// Format of the pages of a segment.
#[derive(Debug, Clone, Copy)]
struct PageFormat {
    size: usize,
    magic: u16,
    major: u32,
    /// Bit of a page whose first record replaces the rest of one that was never completed
    /// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
    overwrite_flag: u16,
    segment_size: u64,
}

/// Reader of consecutive segments, whole or in pieces, and of the records that span them. A segment
/// at another position than behind the last one begins a new chain.
#[derive(Debug, Default)]
pub struct RecordScan {
    /// The last segment, and the format of its pages; `None` before the first one.
    entry: Option<SegmentEntry>,
    format: Option<PageFormat>,
    /// Position behind the last page that was read.
    next: Option<Lsn>,
    /// Bytes behind that position that are not a whole page.
    carry: Vec<u8>,
    /// Begin of the last complete record of the chain.
    last: Option<Lsn>,
    /// Record that continues.
    open: Option<PartialRecord>,
    /// Begin of a record that was never completed, which the next record has to name.
    aborted: Option<Lsn>,
    /// Position at which the chain ended before the end of a segment.
    broken: Option<Lsn>,
    /// Whether records longer than [`MAX_BRIEF_LENGTH`] that span pages are not kept.
    is_brief: bool,
    /// Whether the rest of the segment belongs to a segment switch.
    is_switched: bool,
    /// Whether the segment has to continue a chain and no record of it has been accepted yet.
    is_entering: bool,
}

/// End of the chain, at this position.
struct Broken(Lsn);

impl RecordScan {
    /// Reads the next segment; see [`RecordScan::piece`].
    pub fn segment(&mut self, segment: &[u8], each: impl FnMut(FoundRecord)) -> Option<Seam> {
        self.piece(0, segment, each)
    }

    /// Reads the next piece of a segment, which begins at `offset` in it; the first piece has the
    /// whole first page. Calls `each` with every record that ends in it, up to the first bytes that
    /// are not a record or do not continue the record before.
    ///
    /// Returns the seam between this segment and the one before, once. The end of the records within
    /// the last segment is not a seam: WAL may end there.
    pub fn piece(&mut self, offset: u64, piece: &[u8], mut each: impl FnMut(FoundRecord)) -> Option<Seam> {
        if offset == 0 {
            self.carry.clear();
            if let Some(seam) = self.begin(piece) {
                return Some(seam);
            }
        }
        let format = self.format?;
        if self.carry.is_empty() {
            let whole = piece.len() - piece.len() % format.size;
            let (pages, rest) = piece.split_at(whole);
            self.carry.extend_from_slice(rest);
            return self.pages(format, pages, &mut each);
        }
        let mut pages = std::mem::take(&mut self.carry);
        pages.extend_from_slice(piece);
        self.carry = pages.split_off(pages.len() - pages.len() % format.size);
        self.pages(format, &pages, &mut each)
    }

    /// Begins a segment with its first page.
    fn begin(&mut self, piece: &[u8]) -> Option<Seam> {
        let Some((entry, format)) = first_page(piece) else {
            // Not a segment at all: nothing continues here.
            return std::mem::take(self).next.map(|at| Seam { at });
        };
        let has_begun = self.last.is_some() || self.open.is_some();
        if self.next != Some(entry.start) || !has_begun {
            *self = RecordScan { is_brief: self.is_brief, ..RecordScan::default() };
        }
        self.is_entering = self.next.is_some();
        self.is_switched = false;
        (self.entry, self.format, self.next) = (Some(entry), Some(format), Some(entry.start));
        self.broken.map(|at| Seam { at })
    }

    /// Reads whole pages.
    fn pages(
        &mut self,
        format: PageFormat,
        pages: &[u8],
        each: &mut impl FnMut(FoundRecord),
    ) -> Option<Seam> {
        let (entry, start) = (self.entry?, self.next?);
        self.next = Some(Lsn(start.0.checked_add(pages.len() as u64)?));
        if self.broken.is_some() || self.is_switched || pages.is_empty() {
            return None;
        }
        let mut reader = RecordReader { pages, format, start, at: 0 };
        let read = if start == entry.start {
            reader.at = LONG_HEADER;
            self.enter(entry, &mut reader, each)
        } else {
            self.resume(&mut reader, each)
        };
        let read =
            read.and_then(|()| if self.open.is_none() { self.read(&mut reader, each) } else { Ok(()) });
        self.broken = read.err().map(|Broken(at)| at);
        self.broken.filter(|_| std::mem::take(&mut self.is_entering)).map(|at| Seam { at })
    }

    /// Reads the rest of a record that began in an earlier piece.
    fn resume(
        &mut self,
        reader: &mut RecordReader<'_>,
        each: &mut impl FnMut(FoundRecord),
    ) -> Result<(), Broken> {
        match self.open.take() {
            Some(open) => self.follow(reader, open, each),
            None => Ok(()),
        }
    }

    fn follow(
        &mut self,
        reader: &mut RecordReader<'_>,
        mut open: PartialRecord,
        each: &mut impl FnMut(FoundRecord),
    ) -> Result<(), Broken> {
        let begin = open.begin.unwrap_or(reader.start);
        match reader.follow(&mut open) {
            Follow::Complete => self.end_record(reader, open, each),
            Follow::Open => {
                let continues = open.previous().zip(self.last).is_none_or(|(a, b)| a == b);
                self.open = Some(open);
                if continues { Ok(()) } else { Err(Broken(begin)) }
            }
            Follow::Overwritten => {
                self.aborted = open.begin;
                Ok(())
            }
            Follow::Broken => Err(Broken(begin)),
        }
    }

    /// Enters a segment: reads the rest of a record that began before it.
    fn enter(
        &mut self,
        entry: SegmentEntry,
        reader: &mut RecordReader<'_>,
        each: &mut impl FnMut(FoundRecord),
    ) -> Result<(), Broken> {
        let SegmentEntry { start, rest, overwrites } = entry;
        match self.open.take() {
            Some(open) if overwrites => {
                self.aborted = open.begin;
                Ok(())
            }
            Some(open) if open.missing() == rest => self.follow(reader, open, each),
            None if rest == 0 => Ok(()),
            None if self.last.is_none() => self.follow(reader, PartialRecord::unknown(rest), each),
            open => {
                let at = open.as_ref().and_then(|open| open.begin).unwrap_or(start);
                self.open = open;
                Err(Broken(at))
            }
        }
    }

    /// Reads the records that begin in these pages.
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
            let most = if self.is_brief { MAX_BRIEF_LENGTH } else { MAX_KEPT_LENGTH };
            let open = PartialRecord::new(begin, reader.length().ok_or(Broken(begin))?, most);
            self.follow(reader, open, each)?;
            if self.open.is_some() {
                return Ok(());
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
        let meaning = Meaning::of(record, reader.format.major);
        let is_continuing = self.last.is_none_or(|last| last == previous)
            && self.aborted.take().is_none_or(|of| meaning == Meaning::OverwriteContrecord { aborted: of });
        if !is_continuing {
            return Err(Broken(begin));
        }
        let mut end = reader.position();
        if meaning == Meaning::Switch {
            // The rest of the segment belongs to this record.
            self.is_switched = true;
            reader.at = reader.pages.len();
            let segment_end = end.0.checked_next_multiple_of(reader.format.segment_size);
            end = Lsn(segment_end.ok_or(Broken(begin))?);
        }
        self.last = Some(begin);
        self.is_entering = false;
        each(FoundRecord { begin, end, next: reader.format.behind(end), previous, meaning });
        Ok(())
    }
}

impl PageFormat {
    /// Begin of the record behind one that ends here: behind the page header if a page begins here.
    fn behind(&self, end: Lsn) -> Lsn {
        let header = match end.0 {
            at if at.is_multiple_of(self.segment_size) => LONG_HEADER,
            at if at.is_multiple_of(self.size as u64) => SHORT_HEADER,
            _ => 0,
        };
        Lsn(end.0.saturating_add(header as u64))
    }
}

/// Decodes the first page header of a segment.
fn first_page(segment: &[u8]) -> Option<(SegmentEntry, PageFormat)> {
    let header = SegmentHeader::parse(segment).ok()?;
    let segment_size = header.segment_size.bytes();
    header.page_address.checked_add(segment_size)?; // no position in it is beyond 64 bits
    let size = usize::try_from(header.block_size).ok()?;
    if !size.is_power_of_two() || size < 1024 || segment_size < size as u64 {
        return None;
    }
    // PostgreSQL 19 removed the flag that had this bit before.
    let overwrite_flag = if header.major >= 19 { 0x0004 } else { 0x0008 };
    let flags = u16_at(segment, 2)?;
    let rest = if flags & CONTINUES == 0 { 0 } else { usize::try_from(u32_at(segment, 16)?).ok()? };
    let start = Lsn(header.page_address);
    let entry = SegmentEntry { start, rest, overwrites: flags & overwrite_flag != 0 };
    let format =
        PageFormat { size, magic: u16_at(segment, 0)?, major: header.major, overwrite_flag, segment_size };
    Some((entry, format))
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
    is_kept: bool,
    read: usize,
    /// Bytes of the record; only the header if it is not kept.
    bytes: Vec<u8>,
    /// CRC of the bytes behind the header.
    crc: u32,
}

impl PartialRecord {
    fn new(begin: Lsn, length: usize, most: usize) -> PartialRecord {
        let is_kept = length <= most;
        PartialRecord { begin: Some(begin), length, is_kept, read: 0, bytes: Vec::new(), crc: 0 }
    }

    fn unknown(length: usize) -> PartialRecord {
        PartialRecord { begin: None, length, is_kept: false, read: 0, bytes: Vec::new(), crc: 0 }
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
            self.bytes.extend_from_slice(if self.is_kept { piece } else { header });
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

/// Reader of consecutive pages of a segment.
struct RecordReader<'a> {
    pages: &'a [u8],
    format: PageFormat,
    /// Position of the first page.
    start: Lsn,
    at: usize,
}

impl<'a> RecordReader<'a> {
    fn is_at_end(&self) -> bool {
        self.at >= self.pages.len()
    }

    fn position(&self) -> Lsn {
        Lsn(self.start.0 + self.at as u64)
    }

    fn is_at_page(&self) -> bool {
        self.at.is_multiple_of(self.format.size)
    }

    fn in_page(&self) -> usize {
        self.format.size - self.at % self.format.size
    }

    /// Returns flags and `xlp_rem_len` of the page that begins here; `None` if the page does not
    /// belong to this WAL: the end of WAL is followed by pages of an older segment.
    fn page(&self) -> Option<(u16, usize)> {
        let header = self.pages.get(self.at..self.at + SHORT_HEADER)?;
        if u16_at(header, 0)? != self.format.magic || u64_at(header, 8)? != self.position().0 {
            return None;
        }
        Some((u16_at(header, 2)?, usize::try_from(u32_at(header, 16)?).ok()?))
    }

    /// Goes to the record that begins here, behind the page header if there is one, and returns its
    /// position.
    fn enter_record(&mut self) -> Result<Lsn, Broken> {
        if self.is_at_page() {
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
        let length = usize::try_from(u32_at(self.pages, self.at + LENGTH)?).ok()?;
        (RECORD_HEADER..=MAX_LENGTH).contains(&length).then_some(length)
    }

    /// Reads the record that begins here, if it lies in one page.
    fn whole(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let record =
            (length <= self.in_page()).then(|| self.pages.get(self.at..self.at + length)).flatten()?;
        self.at = (self.at + length).next_multiple_of(8);
        Some(record)
    }

    /// Reads a record as far as it lies in the segment, from where the reader is.
    fn follow(&mut self, open: &mut PartialRecord) -> Follow {
        while open.missing() > 0 {
            if self.is_at_end() {
                return Follow::Open;
            }
            if self.is_at_page() {
                match self.page() {
                    Some((flags, _)) if flags & self.format.overwrite_flag != 0 => {
                        return Follow::Overwritten;
                    }
                    Some((flags, rest)) if flags & CONTINUES != 0 && rest == open.missing() => {
                        self.at += SHORT_HEADER;
                    }
                    _ => return Follow::Broken,
                }
            }
            let step = open.missing().min(self.in_page());
            let Some(piece) = self.pages.get(self.at..self.at + step) else {
                return Follow::Broken;
            };
            open.push(piece);
            self.at += step;
        }
        self.at = self.at.next_multiple_of(8);
        Follow::Complete
    }
}
