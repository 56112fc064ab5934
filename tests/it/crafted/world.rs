//! A small repository of real backups, and objects in a copy of it that are written anew by
//! `FORMAT.md`, with right hashes and headers, whatever they contain.

use crate::support::live::{self, parts_of};
use crate::support::repo::files;
use crate::support::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use walkeep::codec::envelope::{HEADER_SIZE, ObjectKind, seal_patch};
use walkeep::repo::{Lineage, header};

/// Begin of the paths of files that the small backups do not have.
const LEFT_OUT: [&str; 3] = ["base/1/", "base/4/", "base/5/"];

/// A repository with a full backup, an incremental one, whose manifest is a delta of that of the
/// first, and WAL behind them. Most files of the cluster are left out of the manifests.
pub struct World {
    pub server: Cluster,
    scratch: Scratch,
    pub full: String,
    pub incremental: String,
    /// Stored segments.
    pub segments: Vec<String>,
    lineage: Lineage,
}

impl World {
    /// The one of this moment, removed when the last test is done.
    pub fn get() -> Arc<World> {
        static MADE: Mutex<Weak<World>> = Mutex::new(Weak::new());
        let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.upgrade().unwrap_or_else(|| {
            let world = Arc::new(World::make());
            *made = Arc::downgrade(&world);
            world
        })
    }

    fn make() -> World {
        let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
            server.set("allow_in_place_tablespaces", "on");
        });
        let server = &live.server;
        server.psql("create tablespace here location ''");
        server.psql("create table t (i int) tablespace here");
        server.psql("insert into t select generate_series(1, 100)");
        let full = live.backup_id();
        server.psql("insert into t select generate_series(1, 100)");
        server.switch_wal();
        let incremental = live.backup_id();
        server.psql("insert into t select generate_series(1, 100)");
        live.flush_wal();
        let system = server.psql("select system_identifier from pg_control_system()");
        live.server.stop(Stop::Fast);
        let scratch = Scratch::new();
        let root = scratch.join("repository");
        scratch::copy_tree(live.archive.root(), &root);
        for folder in ["active", "verify"] {
            let _ = std::fs::remove_dir_all(files_below(&root).join(folder));
        }
        let lineage = Lineage { system_identifier: system.parse().expect("a number"), major: 15 };
        let segments = Vec::new();
        let mut world = World { server: live.server, scratch, full, incremental, segments, lineage };
        world.reduce();
        world.segments = world.copy().segments();
        world
    }

    /// Takes most files out of the manifests.
    fn reduce(&self) {
        let crafted = Crafted::over(self, self.scratch.join("repository"));
        let manifests = [&self.full, &self.incremental].map(|id| (id, live::manifest(&crafted.root, id)));
        for (id, lines) in manifests {
            let lines: Vec<Value> = lines.into_iter().filter(|line| !is_left_out(line)).collect();
            crafted.put_manifest(id, &lines);
        }
        let base = crafted.record(&self.full)["manifest"][0].clone();
        let key = format!("data/{}/manifest/000001", self.incremental);
        let mut header = header(self.lineage, ObjectKind::Manifest, &key[5..]);
        header.base = Some(base["key"].as_str().expect("a key").to_owned());
        let text = live::unpacked(&crafted.path(&key));
        let base_text = live::unpacked(&crafted.path(header.base.as_deref().expect("a base")));
        let object = seal_patch(header, &text, &base_text).expect("a delta");
        crafted.write(&key, &object);
        let mut record = crafted.record(&self.incremental);
        record["manifest"] =
            json!([{"key": key, "size": object.len(), "sha256": sha256(&object), "base": base}]);
        crafted.put_record(&self.incremental, &record.to_string());
        account::give_all(&crafted.root);
    }

    /// A copy of the repository.
    pub fn copy(&self) -> Crafted {
        let crafted = Crafted::over(self, PathBuf::new());
        let root = crafted.scratch.join("repository");
        // Objects are replaced and never changed.
        let from = self.scratch.join("repository");
        let status = std::process::Command::new("cp").args(["-al", "-T"]).args([&from, &root]).status();
        let status = status.expect("start cp");
        assert!(status.success(), "link {}", root.display());
        Crafted { root, ..crafted }
    }
}

/// The folder of the lineage in a repository.
fn files_below(root: &Path) -> PathBuf {
    let folders = std::fs::read_dir(root.join("main")).expect("list").flatten().map(|entry| entry.path());
    folders.into_iter().find(|path| !path.ends_with("identity")).expect("a lineage")
}

/// Whether the small backups do not have a line of the manifest.
fn is_left_out(line: &Value) -> bool {
    let path = line["file"]["path"].as_str().unwrap_or("");
    let is_relation =
        path.starts_with("global/") && path[7..].starts_with(|first: char| first.is_ascii_digit());
    (LEFT_OUT.iter().any(|folder| path.starts_with(folder)) || is_relation)
        && !matches!(path, "base/5/PG_VERSION" | "base/5/1259" | "global/1262")
}

/// A copy of the repository that a test changes.
pub struct Crafted {
    pub scratch: Scratch,
    pub root: PathBuf,
    pub full: String,
    pub incremental: String,
    pub system: u64,
    folder: String,
}

impl Crafted {
    fn over(world: &World, root: PathBuf) -> Crafted {
        Crafted {
            scratch: Scratch::new(),
            root,
            full: world.full.clone(),
            incremental: world.incremental.clone(),
            system: world.lineage.system_identifier,
            folder: world.lineage.to_string(),
        }
    }

    /// The path of an object, by its key below the folder of the lineage.
    pub fn path(&self, key: &str) -> PathBuf {
        match key.strip_prefix("identity/") {
            Some(name) => self.root.join("main/identity").join(name),
            None => self.root.join("main").join(&self.folder).join(key),
        }
    }

    /// The keys of all objects that begin with `folder`.
    pub fn keys(&self, folder: &str) -> Vec<String> {
        let below = self.root.join("main").join(&self.folder);
        let key = |path: PathBuf| Some(path.strip_prefix(&below).ok()?.to_str()?.to_owned());
        files(&below).into_iter().filter_map(key).filter(|key| key.starts_with(folder)).collect()
    }

    /// The stored segments, in order.
    pub fn segments(&self) -> Vec<String> {
        let name = |key: String| Some(key.rsplit('/').next()?.to_owned()).filter(|name| name.len() == 24);
        self.keys("wal/").into_iter().filter_map(name).collect()
    }

    /// The key of a WAL file.
    pub fn wal(&self, name: &str) -> String {
        match name.len() {
            24.. => format!("wal/{}/{}/{name}", &name[..8], &name[8..16]),
            _ => format!("wal/history/{name}"),
        }
    }

    /// Removes what is at a key, whatever it is.
    pub fn remove(&self, key: &str) {
        let path = self.path(key);
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
    }

    /// Makes the folder of a key, and nothing at the key itself. Returns its path.
    pub fn vacant(&self, key: &str) -> PathBuf {
        self.remove(key);
        let path = self.path(key);
        let mut missing = Vec::new();
        let mut folder = path.parent();
        while let Some(absent) = folder.filter(|folder| !folder.exists()) {
            missing.push(absent);
            folder = absent.parent();
        }
        for folder in missing.into_iter().rev() {
            self.scratch.mkdir(folder);
        }
        path
    }

    /// Writes an object as these bytes.
    pub fn write(&self, key: &str, bytes: &[u8]) {
        scratch::write(&self.vacant(key), bytes);
    }

    /// The header of an object, and its content.
    pub fn read(&self, key: &str) -> (Value, Vec<u8>) {
        let path = self.path(key);
        (live::header(&path), live::unpacked(&path))
    }

    /// The header that an object has to have.
    pub fn header(&self, kind: &str, key: &str) -> Value {
        let name = match key.strip_prefix("data/") {
            Some(name) => name,
            None => key.rsplit('/').next().unwrap_or(key),
        };
        json!({"walkeep": 1, "kind": kind, "name": name, "system_identifier": self.system.to_string(), "pg": 15})
    }

    /// Writes an object with a right header.
    pub fn put(&self, kind: &str, key: &str, content: &[u8]) -> Vec<u8> {
        let object = sealed(&self.header(kind, key), content);
        self.write(key, &object);
        object
    }

    /// Content of a backup's record.
    pub fn record(&self, id: &str) -> Value {
        serde_json::from_slice(&self.read(&format!("backup/{id}")).1).expect("a record")
    }

    pub fn put_record(&self, id: &str, text: &str) {
        self.put("backup", &format!("backup/{id}"), text.as_bytes());
    }

    /// Changes a member of a backup's record.
    pub fn set(&self, id: &str, pointer: &str, value: Value) {
        let mut record = self.record(id);
        *record.pointer_mut(pointer).expect("a member") = value;
        self.put_record(id, &record.to_string());
    }

    /// The lines of the manifest of a backup.
    pub fn manifest(&self, id: &str) -> Vec<Value> {
        live::manifest(&self.root, id)
    }

    /// Gives a backup this manifest in one part. The packs, the table of packs and the end are made
    /// from the files, and the record agrees with it.
    pub fn put_manifest(&self, id: &str, lines: &[Value]) {
        let mut record = self.record(id);
        let mut packs: Vec<String> = Vec::new();
        let mut uses: BTreeMap<String, u64> = BTreeMap::new();
        let mut text = vec![json!({"part": {"backup": id, "number": 1, "hash": "blake3-128"}})];
        let (mut files, mut dirs, mut bytes) = (0, 0, 0u64);
        let mut named: Vec<String> = Vec::new();
        for line in lines {
            let mut line = line.clone();
            if line.get("part").is_some() {
                named.clear();
            }
            if let Some(key) = line["pack"]["key"].as_str() {
                named.push(key.to_owned());
            }
            dirs += u64::from(line.get("dir").is_some());
            if line.get("part").or(line.get("pack")).or(line.get("use")).or(line.get("end")).is_some() {
                continue;
            }
            let kind = if line.get("config").is_some() { "config" } else { "file" };
            if let Some(file) = line.get_mut(kind) {
                let size = file["size"].as_u64().unwrap_or(0);
                if kind == "file" {
                    files += 1;
                    bytes = bytes.saturating_add(size);
                }
                let mut left = size;
                let block = file["block"].as_u64().unwrap_or(8192);
                for extent in file["at"].as_array_mut().into_iter().flatten() {
                    let number = extent[0].as_u64().unwrap_or(0) as usize;
                    let key = named.get(number).cloned().unwrap_or_else(|| named[0].clone());
                    let number = packs.iter().position(|pack| *pack == key).unwrap_or_else(|| {
                        text.push(json!({"pack": {"number": packs.len(), "key": key}}));
                        packs.push(key.clone());
                        packs.len() - 1
                    });
                    extent[0] = number.into();
                    let live = extent[4].as_u64().unwrap_or(0).saturating_mul(block).min(left);
                    left -= live;
                    *uses.entry(key).or_default() += live;
                }
            }
            text.push(line);
        }
        let mut runs: BTreeMap<String, Vec<[u64; 2]>> = BTreeMap::new();
        for (key, live) in uses {
            let size = std::fs::metadata(self.path(&key)).map_or(0, |meta| meta.len());
            text.push(json!({"use": {"pack": key, "size": size, "content": live.max(1), "live": live}}));
            let mut parts = key.split('/').skip(1);
            let (backup, number) = (parts.next().expect("a backup"), parts.nth(1).expect("a number"));
            let number: u64 = number.parse().expect("a number");
            runs.entry(backup.to_owned()).or_default().push([number, number]);
        }
        text.push(json!({"end": {"files": files, "dirs": dirs, "bytes": bytes}}));
        (record["files"], record["size"]) = (files.into(), bytes.into());
        record["packs"] = json!(runs);
        record["tablespaces"] = lines
            .iter()
            .filter_map(|line| line.get("tablespace"))
            .map(|tablespace| {
                let mut known = tablespace.clone();
                known["size"] = 0.into();
                known
            })
            .collect();
        let text: Vec<String> = text.iter().map(Value::to_string).collect();
        self.put_manifest_text(id, (text.join("\n") + "\n").as_bytes(), record);
    }

    /// Gives a backup this text as its manifest in one part. The record names it, and is otherwise
    /// as it is given.
    pub fn put_manifest_text(&self, id: &str, text: &[u8], mut record: Value) {
        for part in parts_of(&self.root, id, "manifest") {
            std::fs::remove_file(part).expect("remove a part");
        }
        let key = format!("data/{id}/manifest/000001");
        let object = self.put("manifest", &key, text);
        record["manifest"] = json!([{"key": key, "size": object.len(), "sha256": sha256(&object)}]);
        self.put_record(id, &record.to_string());
    }

    /// Changes the lines of the manifest of the full backup. The incremental one is removed: its
    /// manifest is a delta.
    pub fn change_manifest(&self, change: impl FnOnce(&mut Vec<Value>)) {
        self.forget_incremental();
        let mut lines = self.manifest(&self.full);
        change(&mut lines);
        self.put_manifest(&self.full, &lines);
    }

    /// Removes the incremental backup.
    pub fn forget_incremental(&self) {
        self.remove(&format!("backup/{}", self.incremental));
        self.remove(&format!("data/{}", self.incremental));
    }
}

/// An object with this header, size and hash set, and this content.
pub fn sealed(header: &Value, content: &[u8]) -> Vec<u8> {
    let mut header = header.clone();
    header["size"] = content.len().into();
    header["sha256"] = sha256(content).into();
    with_header(&header.to_string(), &frames(content))
}

/// A content as zstd frames.
pub fn frames(content: &[u8]) -> Vec<u8> {
    let none = content.is_empty().then_some(content);
    none.into_iter()
        .chain(content.chunks(1 << 20))
        .flat_map(|piece| zstd::bulk::compress(piece, 1).expect("compress"))
        .collect()
}

/// Bytes of an object with this text as its header. A text that is too long is cut.
pub fn with_header(text: &str, rest: &[u8]) -> Vec<u8> {
    let mut object = vec![0x57, 0x2A, 0x4D, 0x18, 0xF8, 0x01, 0, 0];
    object.extend(text.bytes().chain(std::iter::repeat(b' ')).take(HEADER_SIZE - 9));
    object.push(b'\n');
    object.extend_from_slice(rest);
    object
}
