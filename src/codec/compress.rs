//! zstd frames.

use crate::error::{Error, Kind, Result};
use zstd::zstd_safe;

/// How content is compressed. Every variant gives valid zstd frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd at this level, negative levels included.
    Zstd(i32),
    /// Frames of raw blocks: no work, no gain, and still `zstd -dc` reads them.
    Stored,
}

/// Bytes of content in a frame of something large.
pub const FRAME: usize = 1 << 20;

/// A raw block holds at most this much (RFC 8878, `Block_Maximum_Size`).
const RAW_BLOCK: usize = 128 << 10;

/// zstd looks where a block of 128 KiB had better be divided, and never in a smaller one. At level 1 that costs a tenth of the
/// time and gains nothing with data pages; and shorter matches than its own 7 bytes, of which a smaller table is enough, save up to
/// a quarter of the bytes in the same time: what repeats in pages, line pointers and tuple headers, is short.
const UNSPLIT: u32 = 120 << 10;

/// A compressor that is used again and again; making one costs more than a small frame.
pub struct Compressor(Inner);

enum Inner {
    Zstd(zstd_safe::CCtx<'static>),
    Stored,
}

fn failed(code: usize) -> Error {
    Error::new(Kind::Damage, format!("zstd: {}", zstd_safe::get_error_name(code)))
}

impl Compressor {
    pub fn new(compression: Compression) -> Result<Compressor> {
        let Compression::Zstd(level) = compression else {
            return Ok(Compressor(Inner::Stored));
        };
        use zstd_safe::CParameter::{CompressionLevel, HashLog, MaxBlockSize, MinMatch};
        let mut context = zstd_safe::CCtx::create();
        context.set_parameter(CompressionLevel(level)).map_err(failed)?;
        if level == 1 {
            for parameter in [MinMatch(5), HashLog(13), MaxBlockSize(UNSPLIT)] {
                context.set_parameter(parameter).map_err(failed)?;
            }
        }
        Ok(Compressor(Inner::Zstd(context)))
    }

    /// Replaces `out` by one frame that holds all of `content`.
    pub fn frame(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        match &mut self.0 {
            Inner::Stored => store(content, out),
            Inner::Zstd(context) => {
                // Into spare capacity, which nobody has to fill with zeros first.
                out.reserve(zstd_safe::compress_bound(content.len()));
                context.compress2(out, content).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Appends one frame of raw blocks to `out`: a frame header with the content's size and no window, then blocks.
fn store(content: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&0xFD2F_B528u32.to_le_bytes());
    out.push(0b1110_0000); // eight bytes of content size, single segment, no checksum
    out.extend_from_slice(&(content.len() as u64).to_le_bytes());
    let mut blocks = content.chunks(RAW_BLOCK).peekable();
    if blocks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0]); // one last block with nothing in it
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        out.extend_from_slice(&((block.len() as u32) << 3 | last).to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
}

/// Bytes of the frame that these bytes begin with; `None` when it is not all there, or is none.
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    zstd_safe::find_frame_compressed_size(bytes).ok()
}

/// One frame that holds all of `content` by what it has in common with `base`, as `zstd --patch-from` makes it: only who
/// has `base` can read it.
pub fn patch(base: &[u8], content: &[u8]) -> Result<Vec<u8>> {
    use zstd_safe::CParameter::{CompressionLevel, EnableLongDistanceMatching, WindowLog};
    let reach = (base.len() + content.len()).next_power_of_two().trailing_zeros();
    let mut context = zstd_safe::CCtx::create();
    // Matches are long and far away, as they are in two editions of one text; a higher level finds hardly more.
    for parameter in [CompressionLevel(1), EnableLongDistanceMatching(true), WindowLog(reach.clamp(10, 27))] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(base).map_err(failed)?;
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    context.compress2(&mut out, content).map_err(failed)?;
    Ok(out)
}

/// The content of a frame that [`patch`] made, which may not exceed `limit` bytes.
pub fn unpatch(base: &[u8], frame: &[u8], limit: usize) -> Result<Vec<u8>> {
    let size = content_size(frame, limit)?;
    let mut context = zstd_safe::DCtx::create();
    context.ref_prefix(base).map_err(failed)?;
    let mut out = Vec::with_capacity(size);
    let got = context.decompress(&mut out, frame).map_err(failed)?;
    check_size(got, size)?;
    Ok(out)
}

/// A decompressor of whole frames that is used again and again.
#[derive(Default)]
pub struct Decompressor(zstd_safe::DCtx<'static>);

impl Decompressor {
    /// Replaces `out` by the content of one frame, which may not exceed `limit` bytes.
    pub fn frame(&mut self, frame: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<()> {
        let size = content_size(frame, limit)?;
        out.clear();
        out.reserve(size);
        let got = self.0.decompress(out, frame).map_err(failed)?;
        check_size(got, size)
    }

    /// Fills `out` with the content of one frame, which has to be exactly that long: see [`content_size`].
    pub fn frame_into(&mut self, frame: &[u8], out: &mut [u8]) -> Result<()> {
        let got = self.0.decompress(out, frame).map_err(failed)?;
        check_size(got, out.len())
    }
}

fn check_size(got: usize, size: usize) -> Result<()> {
    if got == size {
        return Ok(());
    }
    Err(Error::new(Kind::Damage, format!("the frame holds {got} bytes instead of {size}")))
}

/// Bytes of content that a frame says it has; an error when these are more than `limit`.
pub fn content_size(frame: &[u8], limit: usize) -> Result<usize> {
    let size = zstd_safe::get_frame_content_size(frame).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= limit)
        .ok_or_else(|| Error::new(Kind::Damage, "the frame does not say a size that can be right"))
}
