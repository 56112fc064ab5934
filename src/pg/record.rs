//! Records of the WAL: where they end, when transactions ended, which tablespaces are created. Source: PostgreSQL's
//! `xlogrecord.h`, `xlog_internal.h`, `xact.h` and `tablespace.h`.

use super::control::array;
use super::lsn::Lsn;
use super::wal::{HEADER_SIZE as LONG_HEADER, SegmentHeader};

/// Bytes of a page header, unless it is the first of its segment.
const SHORT_HEADER: usize = 24;
const RECORD_HEADER: usize = 24;

/// The page begins with the rest of a record of the page before.
const CONTINUES: u16 = 0x0001;

/// Resource manager of transactions; in the upper bits of the info, which kind of record.
const TRANSACTIONS: u8 = 1;
const KIND: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;

/// Resource manager of tablespaces, and the kind that creates one.
const TABLESPACES: u8 = 5;
const CREATE_TABLESPACE: u8 = 0x00;

/// The kind of record that ends a segment early, of the WAL's own resource manager.
const SWITCH: u8 = 0x40;

/// No record is longer (`XLogRecordMaxSize`).
const LONGEST: usize = 1020 << 20;

/// Nor is one that means something here; what is longer and spans segments is passed over.
const SPANNING: usize = 64 << 20;

/// Ids of what stands before a record's data.
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOPLEVEL_XID: u8 = 252;

/// PostgreSQL counts microseconds from 2000-01-01.
const EPOCH: i64 = 946_684_800_000_000;

/// What the end of a segment says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    /// Where the last record begins that lies wholly in this segment.
    pub last_record: Option<Lsn>,
    /// The last commit or abort: a recovery target time is compared with its time.
    pub last_transaction: Option<TransactionEnd>,
}

/// A commit or abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Where its record begins.
    pub lsn: Lsn,
    pub time: jiff::Timestamp,
}

impl Tail {
    /// The tail of all records of a segment that begin before `limit`.
    pub fn before(segment: &[u8], limit: Lsn) -> Tail {
        let mut tail = Tail::default();
        let mut last = None;
        let mut reader = Reader::new(segment);
        while let Some((lsn, record)) = reader.as_mut().and_then(Reader::next) {
            if lsn >= limit {
                break;
            }
            tail.last_record = Some(lsn);
            last = transaction_end(&record).map(|ended| (lsn, ended)).or(last);
        }
        tail.last_transaction =
            last.and_then(|(lsn, ended)| Some(TransactionEnd { lsn, time: timestamp(ended)? }));
        tail
    }
}

/// What a record means, as far as anybody here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A commit or an abort, at this time.
    TransactionEnd(jiff::Timestamp),
    /// A tablespace was created, at this place; replaying it makes a link to there.
    Tablespace {
        oid: u32,
        location: Vec<u8>,
    },
    Other,
}

/// A record that is whole and has the right CRC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub begin: Lsn,
    /// Where the server says that it is when it has replayed it.
    pub end: Lsn,
    pub meaning: Meaning,
}

/// Goes through segments that follow each other, and through records that span them.
#[derive(Debug, Default)]
pub struct Scan {
    open: Option<Open>,
}

impl Scan {
    /// The records that end in this segment. Those behind something that is no record are not found.
    pub fn segment(&mut self, segment: &[u8], mut each: impl FnMut(Found)) {
        let open = self.open.take();
        let Some((mut reader, rest)) = Reader::open(segment) else {
            return;
        };
        if rest > 0 {
            match open {
                Some(mut open) if open.missing() == rest => {
                    reader.fill(&mut open);
                    if open.missing() > 0 {
                        self.open = Some(open);
                        return;
                    }
                    reader.align();
                    if let Some((begin, record)) = open.checked() {
                        each(reader.found(begin, &record));
                    }
                }
                _ => {
                    if reader.skip(rest).is_none() {
                        return;
                    }
                    reader.align();
                }
            }
        }
        while let Some(open) = reader.next_open() {
            if open.missing() > 0 {
                self.open = (open.length <= SPANNING).then_some(open);
                return;
            }
            reader.align();
            let Some((begin, record)) = open.checked() else {
                return;
            };
            each(reader.found(begin, &record));
        }
    }
}

/// Microseconds since 2000 of a commit or abort record.
fn transaction_end(record: &[u8]) -> Option<i64> {
    let kind = record[16] & KIND;
    if record[17] != TRANSACTIONS || ![COMMIT, ABORT, COMMIT_PREPARED, ABORT_PREPARED].contains(&kind) {
        return None;
    }
    let data = main_data(record).filter(|data| data.len() >= 8)?;
    Some(i64::from_le_bytes(array(data, 0)))
}

/// The place of a tablespace that a record creates.
fn tablespace(record: &[u8]) -> Option<Meaning> {
    if record[17] != TABLESPACES || record[16] & 0xF0 != CREATE_TABLESPACE {
        return None;
    }
    let data = main_data(record).filter(|data| data.len() >= 4)?;
    let location = data.get(4..)?.split(|byte| *byte == 0).next()?.to_vec();
    Some(Meaning::Tablespace { oid: u32::from_le_bytes(array(data, 0)), location })
}

/// The data of a record that has no blocks.
fn main_data(record: &[u8]) -> Option<&[u8]> {
    let mut at = RECORD_HEADER;
    let length = loop {
        match *record.get(at)? {
            DATA_SHORT => break usize::from(*record.get(at + 1)?),
            DATA_LONG => break u32::from_le_bytes(array(record, at + 1)) as usize,
            ORIGIN => at += 3,
            TOPLEVEL_XID => at += 5,
            _ => return None,
        }
    };
    let begin = record.len().checked_sub(length).filter(|begin| *begin >= RECORD_HEADER)?;
    record.get(begin..)
}

fn timestamp(microseconds: i64) -> Option<jiff::Timestamp> {
    microseconds.checked_add(EPOCH).and_then(|last| jiff::Timestamp::from_microsecond(last).ok())
}

/// A record, as far as it has been read.
#[derive(Debug)]
struct Open {
    begin: Lsn,
    length: usize,
    bytes: Vec<u8>,
}

impl Open {
    fn missing(&self) -> usize {
        self.length - self.bytes.len()
    }

    /// A whole one whose CRC is right.
    fn checked(self) -> Option<(Lsn, Vec<u8>)> {
        let record = self.bytes;
        let crc = crc32c::crc32c_append(crc32c::crc32c(record.get(RECORD_HEADER..)?), record.get(..20)?);
        (crc == u32::from_le_bytes(array(&record, 20))).then_some((self.begin, record))
    }
}

/// Goes through the records of one segment; ends at the first that is not whole and right.
struct Reader<'a> {
    segment: &'a [u8],
    page_size: usize,
    magic: u16,
    address: u64,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(segment: &'a [u8]) -> Option<Reader<'a>> {
        let (mut reader, rest) = Reader::open(segment)?;
        if rest > 0 {
            reader.skip(rest)?;
            reader.align();
        }
        Some(reader)
    }

    /// Stands behind the first page header; and how many bytes of a record from before follow.
    fn open(segment: &'a [u8]) -> Option<(Reader<'a>, usize)> {
        let header = SegmentHeader::parse(segment).ok()?;
        let page_size = header.block_size as usize;
        if !page_size.is_power_of_two() || page_size < 1024 || !segment.len().is_multiple_of(page_size) {
            return None;
        }
        let reader = Reader {
            segment,
            page_size,
            magic: u16::from_le_bytes(array(segment, 0)),
            address: header.page_address,
            at: LONG_HEADER,
        };
        let continues = u16::from_le_bytes(array(segment, 2)) & CONTINUES != 0;
        let rest = if continues { u32::from_le_bytes(array(segment, 16)) as usize } else { 0 };
        Some((reader, rest))
    }

    /// Steps over the header of the page that begins here, if one does.
    fn enter_page(&mut self) -> Option<()> {
        if self.at.is_multiple_of(self.page_size) {
            let header = self.segment.get(self.at..self.at + SHORT_HEADER)?;
            let right = u16::from_le_bytes(array(header, 0)) == self.magic
                && u64::from_le_bytes(array(header, 8)) == self.address + self.at as u64;
            // What lies behind the end of the WAL is left over from an older segment.
            self.at += right.then_some(SHORT_HEADER)?;
        }
        Some(())
    }

    fn skip(&mut self, mut bytes: usize) -> Option<()> {
        while bytes > 0 {
            self.enter_page()?;
            let step = bytes.min(self.page_size - self.at % self.page_size);
            self.at += step;
            bytes -= step;
        }
        Some(())
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// The next record, and where it begins.
    fn next(&mut self) -> Option<(Lsn, Vec<u8>)> {
        let open = self.next_open().filter(|open| open.missing() == 0)?;
        self.align();
        open.checked()
    }

    /// The next record, as far as the segment has it.
    fn next_open(&mut self) -> Option<Open> {
        self.enter_page()?;
        let begin = Lsn(self.address + self.at as u64);
        // The length never crosses a page, since records begin at multiples of eight.
        let length = u32::from_le_bytes(array(self.segment.get(self.at..self.at + 4)?, 0)) as usize;
        if !(RECORD_HEADER..=LONGEST).contains(&length) {
            return None;
        }
        let mut open = Open { begin, length, bytes: Vec::with_capacity(length.min(self.segment.len())) };
        self.fill(&mut open);
        Some(open)
    }

    /// Reads on in a record, to its end or that of the segment.
    fn fill(&mut self, open: &mut Open) {
        while open.missing() > 0 && self.at < self.segment.len() {
            if self.enter_page().is_none() {
                return;
            }
            let step = open.missing().min(self.page_size - self.at % self.page_size);
            let Some(piece) = self.segment.get(self.at..self.at + step) else {
                return;
            };
            open.bytes.extend_from_slice(piece);
            self.at += step;
        }
    }

    /// What the record means that ends here.
    fn found(&mut self, begin: Lsn, record: &[u8]) -> Found {
        if record[17] == 0 && record[16] & 0xF0 == SWITCH {
            // The rest of the segment belongs to it.
            self.at = self.segment.len();
        }
        let end = Lsn(self.address + self.at as u64);
        let time = transaction_end(record).and_then(timestamp).map(Meaning::TransactionEnd);
        let meaning = time.or_else(|| tablespace(record)).unwrap_or(Meaning::Other);
        Found { begin, end, meaning }
    }
}
