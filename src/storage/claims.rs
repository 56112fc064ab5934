//! Exclusive creates on a store that ignores the condition, as Garage and old versions of MinIO do: whoever wants
//! to create announces it first, in an object of its own, and gives way to any other who has.
//!
//! A create is: (1) put a claim, (2) list the claims on the key and give way to a rival, (3) look whether the key
//! has an object, (4) put the object, (5) remove the claim. A rival is a claim for other content: claims have
//! the content's hash in their names, since two writers of the same bytes cannot harm each other.
//!
//! # Why two writers of different content are never both told that theirs is stored
//!
//! All that is asked of the store is the third promise: what was put is at once listed and read. Let A's claim be
//! there before B's. If it still is when B lists, B gives way. If it is not, A has given way and stores nothing, or
//! A's put was answered before: then B, which looks at the key after it has listed, finds A's object. So not both of
//! them store. If each sees the other, both give way and come back after waits of different lengths.
//! Whoever has stored removes the claims of others for the same content too: the object is there by then, and
//! who comes later finds it.
//!
//! # Writers that end or fall silent
//!
//! A claim stays when its put failed without a clear answer, since the object may still arrive, and when its writer
//! crashed. It holds up writers of other content for [`FORGOTTEN`], by the store's own clock, and is removed by
//! `clean`. A writer that finds itself delayed for half of that between its claim and its put gives up. What is left is
//! a put that is under way for longer and then arrives; but a signature is void after a quarter of an hour.

use super::{
    Body, Bytes, Key, ListedObject, Mode, Object, PAGE, Page, Put, Storage, list_all, prove, random_name,
};
use crate::error::{Error, Kind, Result};
use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The folder of all claims. No cluster's name begins like this.
const FOLDER: &str = "-claim";

/// A claim that is older than one's own by this much belongs to nobody any more.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(1);

/// A writer that was held up for so long gives up, well before others forget it.
const HELD_UP: Duration = Duration::from_secs(1800);

/// A store on which writers announce themselves before they create.
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
        let begun = Instant::now();
        let content = b"a writer is about to create an object; see FORMAT.md\n".to_vec();
        self.store.put(&claim, &content, Mode::Replace)?;
        let looked = self.rivals(&claims, &claim, &hash).and_then(|same| Ok((same, self.store.head(key)?)));
        let (done, put) = match looked {
            Err(error) => (vec![claim], Err(error)),
            Ok((_, Some(_))) => (vec![claim], Ok(Put::Exists)),
            Ok((_, None)) if begun.elapsed() > HELD_UP => {
                let message = "too much time went by since this writer announced itself";
                (vec![claim], Err(Error::new(Kind::Unavailable, message)))
            }
            Ok((same, None)) => match self.store.put(key, body, Mode::Replace) {
                Ok(put) => (same, Ok(put)),
                Err(error) if is_certain(&error) => (vec![claim], Err(error)),
                // It may have happened, or be about to: until that is known nobody else may create.
                Err(error) => (Vec::new(), Err(error)),
            },
        };
        // A claim that stays is in the way of others for a while, and is no reason to fail.
        let _ = self.store.delete(&done);
        put
    }

    /// The claims for the same content, one's own among them. Fails when another writer has announced other content.
    fn rivals(&self, claims: &Key, own: &Key, hash: &str) -> Result<Vec<Key>> {
        let (mut same, mut others, mut since) = (Vec::new(), Vec::new(), None);
        list_all(&self.store, claims, |entry| {
            if &entry.key == own {
                since = Some(entry.modified);
            }
            match entry.key.name().starts_with(hash) {
                true => same.push(entry.key),
                false => others.push(entry.modified),
            }
            Ok(())
        })?;
        // Who stored the same content has removed this claim too, and the next attempt finds the object.
        let since = since.ok_or_else(|| {
            Error::new(Kind::Unavailable, "the store does not list the claim that it has just stored")
                .hint("if it stays like this, the store is no safe place for an archive")
        })?;
        match others.iter().any(|then| since.duration_since(*then) < FORGOTTEN) {
            false => Ok(same),
            true => Err(Error::new(Kind::Unavailable, "another writer is about to create this object")),
        }
    }
}

/// Whether a put that failed like this has surely not happened.
fn is_certain(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::Full | Kind::Refused | Kind::Config | Kind::Identity)
}

fn hash(body: &dyn Body) -> Result<String> {
    let mut sum = Sha256::new();
    match body.open()? {
        Bytes::Whole(bytes) => sum.update(bytes),
        Bytes::Stream(mut stream) => {
            let mut chunk = vec![0; 64 << 10];
            loop {
                match stream.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(got) => sum.update(&chunk[..got]),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Error::io("read what is to be stored", &e)),
                }
            }
        }
    }
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

    fn delete(&self, keys: &[Key]) -> Result<()> {
        self.store.delete(keys)
    }

    /// Removes forgotten claims too.
    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        let mut forgotten = Vec::new();
        list_all(&self.store, &Key::new(FOLDER)?, |entry| {
            if entry.modified < before {
                forgotten.push(entry.key);
            }
            Ok(())
        })?;
        forgotten.chunks(PAGE).try_for_each(|claims| self.store.delete(claims))?;
        Ok(forgotten.len() as u64 + self.store.clean(before)?)
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
