//! Records of the WAL: their ends, the times of commits and aborts, and the tablespaces that they
//! create. Source: PostgreSQL's `xlogrecord.h`, `xlog_internal.h`, `xact.h` and `tablespace.h`.

use super::bytes::{array_at, u16_at, u32_at, u64_at};
use super::lsn::Lsn;
use super::wal::{HEADER_SIZE as LONG_HEADER, SegmentHeader};

/// Size in bytes of a page header that is not the first of its segment (`SizeOfXLogShortPHD`).
const SHORT_HEADER: usize = 24;
/// Size of a record's header in bytes (`SizeOfXLogRecord`), and offsets of its fields: length,
/// info, resource manager, CRC.
const RECORD_HEADER: usize = 24;
const LENGTH: usize = 0;
const INFO: usize = 16;
const RESOURCE_MANAGER: usize = 17;
const CRC: usize = 20;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
const CONTINUES: u16 = 0x0001;

/// Resource manager of transactions (`RM_XACT_ID`), and its kinds of records in the upper bits of
/// the info.
const TRANSACTIONS: u8 = 1;
const KIND: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;

/// Resource manager of tablespaces (`RM_TBLSPC_ID`), and the kind of record that creates one.
const TABLESPACES: u8 = 5;
const CREATE_TABLESPACE: u8 = 0x00;

/// `XLOG_SWITCH`: the record that ends a segment early, of resource manager 0.
const SWITCH: u8 = 0x40;

/// Maximum length of a record in bytes (`XLogRecordMaxSize`).
const MAX_LENGTH: usize = 1020 << 20;

/// Maximum length in bytes of a record that is collected across segments; the records whose meaning
/// this program needs are shorter.
const MAX_SPANNING_LENGTH: usize = 64 << 20;

/// Ids of the headers before a record's data (`XLR_BLOCK_ID_…`).
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOPLEVEL_XID: u8 = 252;

/// 2000-01-01, the epoch of PostgreSQL's timestamps, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;

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
        let mut last = None;
        let mut reader = RecordReader::new(segment);
        while let Some((lsn, record)) = reader.as_mut().and_then(RecordReader::next) {
            if lsn >= limit {
                break;
            }
            tail.last_record = Some(lsn);
            tail.next_record = reader.as_mut().map(|reader| reader.next_begin(&record));
            last = transaction_end(&record).map(|ended| (lsn, ended)).or(last);
        }
        tail.last_transaction =
            last.and_then(|(lsn, ended)| Some(TransactionEnd { lsn, time: timestamp(ended)? }));
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

/// Meaning of a record, as far as this program needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Commit or abort, at this time.
    TransactionEnd(jiff::Timestamp),
    /// Creation of a tablespace; its replay creates a link to `location`.
    Tablespace { oid: u32, location: Vec<u8> },
    /// Anything else.
    Other,
}

/// Complete record with a correct CRC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRecord {
    pub begin: Lsn,
    /// Position that a server reports when it has replayed the record.
    pub end: Lsn,
    pub meaning: Meaning,
}

/// Reader of consecutive segments and of the records that span them.
#[derive(Debug, Default)]
pub struct RecordScan {
    /// Record that continues in the next segment.
    open: Option<PartialRecord>,
}

impl RecordScan {
    /// Reads the next segment. Calls `each` with every record that ends in it, up to the first
    /// bytes that are not a record.
    pub fn segment(&mut self, segment: &[u8], mut each: impl FnMut(FoundRecord)) {
        let open = self.open.take();
        let Some((mut reader, rest)) = RecordReader::open(segment) else {
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
                self.open = (open.length <= MAX_SPANNING_LENGTH).then_some(open);
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

/// Time of a commit or abort record, in microseconds since 2000; `None` for other records.
fn transaction_end(record: &[u8]) -> Option<i64> {
    let kind = record.get(INFO)? & KIND;
    if *record.get(RESOURCE_MANAGER)? != TRANSACTIONS
        || ![COMMIT, ABORT, COMMIT_PREPARED, ABORT_PREPARED].contains(&kind)
    {
        return None;
    }
    array_at(main_data(record)?, 0).map(i64::from_le_bytes)
}

/// Tablespace that a record creates; `None` for other records.
fn tablespace(record: &[u8]) -> Option<Meaning> {
    if *record.get(RESOURCE_MANAGER)? != TABLESPACES || record.get(INFO)? & 0xF0 != CREATE_TABLESPACE {
        return None;
    }
    let data = main_data(record)?;
    let location = data.get(4..)?.split(|byte| *byte == 0).next()?.to_vec();
    Some(Meaning::Tablespace { oid: u32_at(data, 0)?, location })
}

/// Main data of a record without blocks; `None` for a record with blocks.
fn main_data(record: &[u8]) -> Option<&[u8]> {
    let mut at = RECORD_HEADER;
    let length = loop {
        match *record.get(at)? {
            DATA_SHORT => break usize::from(*record.get(at + 1)?),
            DATA_LONG => break usize::try_from(u32_at(record, at + 1)?).ok()?,
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

/// Record whose beginning, or all of it, has been read.
#[derive(Debug)]
struct PartialRecord {
    begin: Lsn,
    length: usize,
    bytes: Vec<u8>,
}

impl PartialRecord {
    fn missing(&self) -> usize {
        self.length - self.bytes.len()
    }

    /// Start and bytes of the record, if its CRC is correct.
    fn checked(self) -> Option<(Lsn, Vec<u8>)> {
        let record = self.bytes;
        let crc = crc32c::crc32c_append(crc32c::crc32c(record.get(RECORD_HEADER..)?), record.get(..CRC)?);
        (crc == u32_at(&record, CRC)?).then_some((self.begin, record))
    }
}

/// Reader of the records of one segment, up to the first record that is incomplete or wrong.
struct RecordReader<'a> {
    segment: &'a [u8],
    page_size: usize,
    magic: u16,
    address: u64,
    at: usize,
}

impl<'a> RecordReader<'a> {
    fn new(segment: &'a [u8]) -> Option<RecordReader<'a>> {
        let (mut reader, rest) = RecordReader::open(segment)?;
        if rest > 0 {
            reader.skip(rest)?;
            reader.align();
        }
        Some(reader)
    }

    /// Reads the first page header. Returns the reader, positioned after the header, and the number
    /// of bytes that belong to the last record of the previous segment.
    fn open(segment: &'a [u8]) -> Option<(RecordReader<'a>, usize)> {
        let header = SegmentHeader::parse(segment).ok()?;
        header.page_address.checked_add(segment.len() as u64)?; // no position in it is beyond 64 bits
        let page_size = usize::try_from(header.block_size).ok()?;
        if !page_size.is_power_of_two() || page_size < 1024 || !segment.len().is_multiple_of(page_size) {
            return None;
        }
        let reader = RecordReader {
            segment,
            page_size,
            magic: u16_at(segment, 0)?,
            address: header.page_address,
            at: LONG_HEADER,
        };
        let continues = u16_at(segment, 2)? & CONTINUES != 0;
        let rest = if continues { usize::try_from(u32_at(segment, 16)?).ok()? } else { 0 };
        Some((reader, rest))
    }

    /// Skips the page header if a page begins here; `None` if the page does not belong to this WAL.
    fn enter_page(&mut self) -> Option<()> {
        if self.at.is_multiple_of(self.page_size) {
            let header = self.segment.get(self.at..self.at + SHORT_HEADER)?;
            // The end of the WAL is followed by pages of an older segment.
            let address = self.address + self.at as u64;
            if u16_at(header, 0)? != self.magic || u64_at(header, 8)? != address {
                return None;
            }
            self.at += SHORT_HEADER;
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

    /// Returns the next record and its start.
    fn next(&mut self) -> Option<(Lsn, Vec<u8>)> {
        let open = self.next_open().filter(|open| open.missing() == 0)?;
        self.align();
        open.checked()
    }

    /// Returns the next record, as far as it lies in the segment.
    fn next_open(&mut self) -> Option<PartialRecord> {
        self.enter_page()?;
        let begin = Lsn(self.address + self.at as u64);
        // The length never crosses a page, since records begin at multiples of eight.
        let length = usize::try_from(u32_at(self.segment, self.at + LENGTH)?).ok()?;
        if !(RECORD_HEADER..=MAX_LENGTH).contains(&length) {
            return None;
        }
        let mut open =
            PartialRecord { begin, length, bytes: Vec::with_capacity(length.min(self.segment.len())) };
        self.fill(&mut open);
        Some(open)
    }

    /// Reads the rest of a record, up to its end or the end of the segment.
    fn fill(&mut self, open: &mut PartialRecord) {
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

    /// Ends the segment behind a segment switch: the rest of the segment belongs to that record.
    fn finish_switch(&mut self, record: &[u8]) {
        if record.get(RESOURCE_MANAGER) == Some(&0) && record.get(INFO).is_some_and(|i| i & 0xF0 == SWITCH) {
            self.at = self.segment.len();
        }
    }

    /// Returns the position behind the record that ends here, and behind the page header there.
    fn next_begin(&mut self, record: &[u8]) -> Lsn {
        self.finish_switch(record);
        let header = match self.at {
            at if at == self.segment.len() => LONG_HEADER,
            at if at.is_multiple_of(self.page_size) => SHORT_HEADER,
            _ => 0,
        };
        Lsn(self.address + (self.at + header) as u64)
    }

    /// Interprets the record that ends here.
    fn found(&mut self, begin: Lsn, record: &[u8]) -> FoundRecord {
        self.finish_switch(record);
        let end = Lsn(self.address + self.at as u64);
        let time = transaction_end(record).and_then(timestamp).map(Meaning::TransactionEnd);
        let meaning = time.or_else(|| tablespace(record)).unwrap_or(Meaning::Other);
        FoundRecord { begin, end, meaning }
    }
}
