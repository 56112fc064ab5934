//! Records of the WAL, as far as times of commits need them. Source: PostgreSQL's `xlogrecord.h`, `xlog_internal.h`
//! and `xact.h`.

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
    /// The time of the last commit or abort: what a recovery target time is compared with.
    pub last_transaction_end: Option<jiff::Timestamp>,
}

impl Tail {
    pub fn of(segment: &[u8]) -> Tail {
        let mut tail = Tail::default();
        let mut last = None;
        let mut reader = Reader::new(segment);
        while let Some((at, record)) = reader.as_mut().and_then(Reader::next) {
            tail.last_record = Some(at);
            last = transaction_end(&record).or(last);
        }
        tail.last_transaction_end = last
            .and_then(|last: i64| last.checked_add(EPOCH))
            .and_then(|last| jiff::Timestamp::from_microsecond(last).ok());
        tail
    }
}

/// Microseconds since 2000 of a commit or abort record.
fn transaction_end(record: &[u8]) -> Option<i64> {
    let kind = record[16] & KIND;
    if record[17] != TRANSACTIONS || ![COMMIT, ABORT, COMMIT_PREPARED, ABORT_PREPARED].contains(&kind) {
        return None;
    }
    let mut at = RECORD_HEADER;
    let length = loop {
        match *record.get(at)? {
            DATA_SHORT => break usize::from(*record.get(at + 1)?),
            DATA_LONG => break u32::from_le_bytes(array(record, at + 1)) as usize,
            ORIGIN => at += 3,
            TOPLEVEL_XID => at += 5,
            // Such a record never has blocks.
            _ => return None,
        }
    };
    let data = record.len().checked_sub(length).filter(|begin| *begin >= RECORD_HEADER && length >= 8)?;
    Some(i64::from_le_bytes(array(record, data)))
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
        let header = SegmentHeader::parse(segment).ok()?;
        let page_size = header.block_size as usize;
        if !page_size.is_power_of_two() || page_size < 1024 || !segment.len().is_multiple_of(page_size) {
            return None;
        }
        let mut reader = Reader {
            segment,
            page_size,
            magic: u16::from_le_bytes(array(segment, 0)),
            address: header.page_address,
            at: LONG_HEADER,
        };
        if u16::from_le_bytes(array(segment, 2)) & CONTINUES != 0 {
            let rest = u32::from_le_bytes(array(segment, 16)) as usize;
            reader.skip(rest)?;
            reader.align();
        }
        Some(reader)
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
        self.enter_page()?;
        let begin = Lsn(self.address + self.at as u64);
        // The length never crosses a page, since records begin at multiples of eight.
        let length = u32::from_le_bytes(array(self.segment.get(self.at..self.at + 4)?, 0)) as usize;
        if length < RECORD_HEADER || length > self.segment.len() {
            return None;
        }
        let mut record = Vec::with_capacity(length);
        while record.len() < length {
            self.enter_page()?;
            let step = (length - record.len()).min(self.page_size - self.at % self.page_size);
            record.extend_from_slice(self.segment.get(self.at..self.at + step)?);
            self.at += step;
        }
        self.align();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[RECORD_HEADER..]), &record[..20]);
        (crc == u32::from_le_bytes(array(&record, 20))).then_some((begin, record))
    }
}
