//! Exclusive creates on a store that ignores `If-None-Match`, as Garage and old versions of MinIO
//! do: a writer announces a create by a claim, a separate object, and backs off when another writer
//! has announced one.
//!
//! A create has five steps: (1) put a claim, (2) list the claims on the key and back off if there
//! is a rival, (3) check whether the key has an object, (4) put the object, (5) remove the claim. A
//! rival is a claim for other content: the name of a claim contains the hash of the content, since
//! two writers of the same bytes cannot harm each other.
//!
//! # Why at most one of two writers of different content succeeds
//!
//! The store only has to keep the third promise: an object can be read and is listed as soon as its
//! put has returned. Let A's claim be put before B's. If A's claim still exists when B lists the
//! claims, B backs off. If A's claim does not exist any more, either A has backed off and stores
//! nothing, or A's object was stored before: then B, which checks the key after the listing, finds
//! A's object. So at most one of them stores its object. If each sees the other's claim, both back
//! off and retry after waits of different lengths. A writer that has stored its object also removes
//! the other claims for the same content: the object exists by then, and a later writer finds it.
//!
//! # Orphaned claims and slow writers
//!
//! A claim stays when the put of its object failed without a clear answer, since the object may
//! still arrive, and when its writer crashed. Such a claim delays writers of other content for
//! [`CLAIM_TIMEOUT`], by the store's own clock, and `clean` removes it. A writer gives up when more
//! than [`WRITER_TIMEOUT`] passes between its claim and its put. A put that is sent in time but
//! arrives late is refused by the store: its signature expires after [`SIGNATURE_TIMEOUT`].

use super::{Body, ForeignEntry, Key, ListedObject, Mode, Object, PAGE, Page, Put, Storage, list_all, prove};
use crate::error::{Error, Kind, Result};
use crate::fs::folder::random_name;
use crate::runtime::clock::MonotonicTime;
use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::time::Duration;

/// Folder of all claims. No cluster's name begins with a dash.
const FOLDER: &str = "-claim";

/// Age of another claim, relative to the writer's own one, from which on it is an orphan.
const CLAIM_TIMEOUT: SignedDuration = SignedDuration::from_hours(1);

/// Maximum time between the claim and the put of a writer, which then gives up.
const WRITER_TIMEOUT: Duration = Duration::from_secs(1800);

/// Time for which a store accepts a signed request.
const SIGNATURE_TIMEOUT: Duration = Duration::from_secs(900);

// A put that begins in time has arrived, or is refused, before its claim is ignored.
const _: () =
    assert!(WRITER_TIMEOUT.as_secs() + SIGNATURE_TIMEOUT.as_secs() < CLAIM_TIMEOUT.as_secs().unsigned_abs());

/// A store on which writers announce their creates.
pub struct Claims<S> {
    store: S,
}

impl<S: Storage> Claims<S> {
    pub fn new(store: S) -> Claims<S> {
        Claims { store }
    }

    fn create(&self, key: &Key, body: &dyn Body) -> Result<Put> {
        if self.store.head(key)?.is_some() {
            return Ok(Put::Exists);
        }
        let claims = Key::new(format!("{FOLDER}/{key}"))?;
        let hash = hash(body)?;
        let claim = claims.join(format!("{hash}-{}", random_name()?))?;
        let begun = MonotonicTime::now();
        let content = b"a writer is about to create an object; see FORMAT.md\n".to_vec();
        let _: Put = self.store.put(&claim, &content, Mode::Replace)?;
        let looked = self.rivals(&claims, &claim, &hash).and_then(|same| Ok((same, self.store.head(key)?)));
        let (done, put) = match looked {
            Err(error) => (vec![claim], Err(error)),
            Ok((_, Some(_))) => (vec![claim], Ok(Put::Exists)),
            Ok((_, None)) if begun.elapsed() > WRITER_TIMEOUT => {
                let message = "too much time passed since this writer put its claim";
                (vec![claim], Err(Error::new(Kind::Unavailable, message)))
            }
            Ok((same, None)) => match self.store.put(key, body, Mode::Replace) {
                Ok(put) => (same, Ok(put)),
                Err(error) if is_certain(&error) => (vec![claim], Err(error)),
                // The object may be stored, or arrive later: the claim stays, so that no other
                // writer creates the object meanwhile.
                Err(error) => (Vec::new(), Err(error)),
            },
        };
        // A failure is not one of the put: the claim delays other writers until it expires.
        let _ = self.store.delete(&done);
        put
    }

    /// Returns the claims for the same content, including `own`.
    ///
    /// # Errors
    ///
    /// `Unavailable` when another writer has announced other content, or when the store does not
    /// list `own`.
    fn rivals(&self, claims: &Key, own: &Key, hash: &str) -> Result<Vec<Key>> {
        let (mut same, mut others, mut since) = (Vec::new(), Vec::new(), None);
        list_all(&self.store, claims, |entry| {
            if &entry.key == own {
                since = Some(entry.modified);
            }
            if entry.key.name().starts_with(hash) {
                same.push(entry.key);
            } else {
                others.push(entry.modified);
            }
            Ok(())
        })?;
        // Another writer of the same content may have stored the object and removed this claim;
        // then the next attempt finds the object.
        let since = since.ok_or_else(|| {
            Error::new(Kind::Unavailable, "the store does not list the claim that it has just stored")
                .hint("if this persists, the store is not a safe place for an archive")
        })?;
        if others.iter().any(|then| since.duration_since(*then) < CLAIM_TIMEOUT) {
            return Err(Error::new(Kind::Unavailable, "another writer is about to create this object"));
        }
        Ok(same)
    }
}

/// Whether a put that failed with this error has certainly stored nothing.
fn is_certain(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::Full | Kind::Refused | Kind::Config | Kind::Identity)
}

fn hash(body: &dyn Body) -> Result<String> {
    let mut sum = Sha256::new();
    body.open()?.for_each(|chunk| {
        sum.update(chunk);
        Ok(())
    })?;
    Ok(hex::encode(sum.finalize()))
}

impl<S: Storage> Storage for Claims<S> {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        match mode {
            Mode::Create => self.create(key, body),
            Mode::Replace => self.store.put(key, body, mode),
        }
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.store.get(key, range)
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        self.store.head(key)
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.store.list(folder, after, limit)
    }

    fn foreign(&self, folder: &Key) -> Result<Vec<ForeignEntry>> {
        self.store.foreign(folder)
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        self.store.delete(keys)
    }

    /// Removes the leftovers of the store, and orphaned claims.
    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        let mut orphans = Vec::new();
        list_all(&self.store, &Key::new(FOLDER)?, |entry| {
            if entry.modified < before {
                orphans.push(entry.key);
            }
            Ok(())
        })?;
        orphans.chunks(PAGE).try_for_each(|claims| self.store.delete(claims))?;
        Ok(orphans.len() as u64 + self.store.clean(before)?)
    }

    fn url(&self) -> String {
        self.store.url()
    }

    fn prepare(&self) -> Result<()> {
        self.store.prepare()
    }

    fn prove(&self) -> Result<()> {
        prove(self)
    }
}
