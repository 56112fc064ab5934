//! Reads contents piece by piece and hashes them: one content on two threads, or several contents
//! side by side on one thread. Does not know the source of the pieces, and how they are processed
//! further.
//!
//! For a single content, the calling thread reads and a second thread hashes. The further work on a
//! piece (compression, a write) is done by the second thread if it is idle at that moment, else by
//! the calling thread: neither waits for the other as long as there is work.

use super::hash::{ContentHash, Hasher};
use crate::error::{Error, Result};
use crate::runtime::thread;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

/// A piece of a content.
#[derive(Clone, Copy)]
pub struct ContentPiece<'a> {
    /// Number of pieces in front of it.
    pub number: usize,
    /// Number of bytes in front of it.
    pub offset: u64,
    pub bytes: &'a [u8],
}

/// Reads and hashes one content. `read` replaces its argument by the next piece, and returns false
/// at the end. Each piece is processed by `here`, on this thread, or by `there`, on the second
/// thread, in any order. Up to `queue` pieces wait for the second thread.
///
/// # Errors
///
/// The first error of `read` and `here`, else that of `there`.
pub fn hash_on_two_threads(
    queue: usize,
    mut read: impl FnMut(&mut Vec<u8>) -> Result<bool>,
    mut here: impl FnMut(ContentPiece<'_>) -> Result<()>,
    mut there: impl FnMut(ContentPiece<'_>) -> Result<()> + Send,
) -> Result<ContentHash> {
    let (sender, receiver) = mpsc::sync_channel::<(usize, u64, Arc<Vec<u8>>, bool)>(queue);
    // Number of pieces that were sent to the second thread and are not finished.
    let backlog = AtomicUsize::new(0);
    thread::scope(|scope| {
        let backlog = &backlog;
        let hash = move || {
            let mut hasher = Hasher::default();
            for (number, offset, buffer, is_taken) in receiver {
                hasher.update(&buffer);
                if is_taken {
                    there(ContentPiece { number, offset, bytes: &buffer })?;
                }
                drop(buffer);
                backlog.fetch_sub(1, Ordering::Release);
            }
            Ok::<_, Error>(hasher.finish())
        };
        let second = scope.spawn("hash", hash)?;
        let mut send_all = || -> Result<()> {
            // Buffers that the second thread has dropped are reused.
            let mut buffers: Vec<Arc<Vec<u8>>> = Vec::new();
            let (mut number, mut offset) = (0, 0);
            loop {
                let free = buffers.iter().position(|buffer| Arc::strong_count(buffer) == 1);
                let mut buffer = free.map_or_else(Arc::default, |free| buffers.swap_remove(free));
                if !read(Arc::make_mut(&mut buffer))? {
                    return Ok(());
                }
                let is_idle = backlog.fetch_add(1, Ordering::AcqRel) == 0;
                if sender.send((number, offset, Arc::clone(&buffer), is_idle)).is_err() {
                    return Ok(()); // `there` failed, and its error is returned below
                }
                if !is_idle {
                    here(ContentPiece { number, offset, bytes: &buffer })?;
                }
                number += 1;
                offset += buffer.len() as u64;
                buffers.push(buffer);
            }
        };
        let sent = send_all();
        drop(sender);
        let hashed = second.join()?;
        sent?;
        hashed
    })
}

/// Reads and hashes several contents side by side on this thread, which takes less time in total
/// than one after the other. Each round processes one piece of every content: `read` replaces its
/// second argument by the piece, or returns false at the end; `hashed` is called with the piece
/// after it was added to the hash. `end` is called with each content and its hash, or with the
/// error that `read` or `hashed` returned for the content.
pub fn hash_side_by_side<S>(
    contents: impl IntoIterator<Item = S>,
    mut read: impl FnMut(&mut S, &mut Vec<u8>) -> Result<bool>,
    mut hashed: impl FnMut(&mut S, &[u8]) -> Result<()>,
    mut end: impl FnMut(S, Result<ContentHash>),
) {
    let lane = |content| Some((content, Hasher::default(), Vec::new()));
    let mut lanes: Vec<Option<(S, Hasher, Vec<u8>)>> = contents.into_iter().map(lane).collect();
    loop {
        for lane in &mut lanes {
            let read = lane.as_mut().map(|(content, _, piece)| read(content, piece));
            if let Some(Ok(false) | Err(_)) = read
                && let Some((content, hasher, _)) = lane.take()
            {
                end(content, read.transpose().map(|_| hasher.finish()));
            }
        }
        if lanes.iter().all(Option::is_none) {
            return;
        }
        let pieces = lanes.iter_mut().flatten();
        Hasher::update_together(pieces.map(|(_, hasher, piece)| (hasher, &piece[..])));
        for lane in &mut lanes {
            let result = lane.as_mut().map(|(content, _, piece)| hashed(content, piece));
            if let Some(Err(error)) = result
                && let Some((content, ..)) = lane.take()
            {
                end(content, Err(error));
            }
        }
    }
}
