//! What is crafted: every member of every kind of object with every hostile value, and objects as a
//! whole. A case is a name and a change of a repository.

use super::world::{Crafted, frames, sealed, with_header};
use crate::support::*;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::sync::Arc;

/// A change of a repository.
pub struct Case {
    pub name: String,
    pub change: Box<dyn Fn(&Crafted) + Send + Sync>,
}

fn case(name: impl Into<String>, change: impl Fn(&Crafted) + Send + Sync + 'static) -> Case {
    Case { name: name.into(), change: Box::new(change) }
}

/// Values that take the place of a member: names, and JSON as text.
fn values() -> Vec<(&'static str, Arc<str>)> {
    let mut values: Vec<(&'static str, Arc<str>)> = [
        ("null", "null"),
        ("true", "true"),
        ("zero", "0"),
        ("minus one", "-1"),
        ("2^31", "2147483648"),
        ("2^32 - 1", "4294967295"),
        ("2^32", "4294967296"),
        ("2^53 + 1", "9007199254740993"),
        ("2^63", "9223372036854775808"),
        ("2^64 - 1", "18446744073709551615"),
        ("2^64", "18446744073709551616"),
        ("text of 2^64 - 1", "\"18446744073709551615\""),
        ("1e400", "1e400"),
        ("a fraction", "0.5"),
        ("nothing", "\"\""),
        ("above", "\"../../outside/x\""),
        ("a path", "\"/outside/x\""),
        ("NUL", "\"a\\u0000b\""),
        ("control characters", "\"\\u001b[2J\\u0007\\u009b\\u202e\""),
        ("an empty array", "[]"),
        ("an empty object", "{}"),
        ("the last LSN", "\"FFFFFFFF/FFFFFFFF\""),
        ("the first LSN", "\"0/0\""),
        ("the last segment", "\"FFFFFFFFFFFFFFFFFFFFFFFF\""),
        ("segment 0", "\"000000000000000000000000\""),
        ("the future", "\"9999-12-30T23:59:59Z\""),
        ("the past", "\"-009999-01-02T01:59:59Z\""),
        ("a reversed run", "{\"20261121T081502Z-1f3a9c\":[[9,1]]}"),
        ("a run of all", "{\"20261121T081502Z-1f3a9c\":[[0,4294967295]]}"),
        ("text that is not UTF-8", "\"\u{1}\""),
    ]
    .map(|(name, text)| (name, text.into()))
    .into();
    values.push(("a megabyte", format!("\"{}\"", "x".repeat(1 << 20)).into()));
    values.push(("deep", format!("{}{}", "[".repeat(5000), "]".repeat(5000)).into()));
    values
}

/// In place of a value while the text is made.
const HERE: &str = "@here@";

/// The JSON pointers of all members; of arrays only the first.
fn members(value: &Value, at: &str, found: &mut Vec<String>) {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.first().map(|item| ("0".to_owned(), item)).into_iter().collect(),
        _ => return,
    };
    for (name, value) in inside {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        members(value, &at, found);
        found.push(at);
    }
}

/// The text with another value of a member; `None`: without the member.
fn changed(value: &Value, pointer: &str, to: Option<&str>) -> Vec<u8> {
    let mut value = value.clone();
    let Some(to) = to else {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        match value.pointer_mut(parent).expect("its parent") {
            Value::Object(members) => drop(members.remove(name)),
            Value::Array(items) => drop(items.remove(0)),
            _ => panic!("{pointer} has no parent"),
        }
        return value.to_string().into_bytes();
    };
    *value.pointer_mut(pointer).expect("a member") = HERE.into();
    let text = value.to_string().replacen(&format!("\"{HERE}\""), to, 1).into_bytes();
    // The byte 1 stands for one that UTF-8 does not have.
    let is_odd = to == "\"\u{1}\"";
    text.into_iter().map(|byte| if byte == 1 && is_odd { 0xFF } else { byte }).collect()
}

/// Cases for every member of a JSON object with every value; `put` stores the text.
fn each_member(
    what: &str,
    sample: &Value,
    put: impl Fn(&Crafted, &[u8]) + Clone + Send + Sync + 'static,
) -> Vec<Case> {
    let mut found = Vec::new();
    members(sample, "", &mut found);
    let mut cases = Vec::new();
    let all = values();
    for pointer in found {
        let values = all.iter().map(|(name, text)| (*name, Some(Arc::clone(text))));
        for (name, text) in values.chain([("missing", None)]) {
            let (sample, pointer, put) = (sample.clone(), pointer.clone(), put.clone());
            let title = format!("{what}{pointer}: {name}");
            cases.push(case(title, move |c| put(c, &changed(&sample, &pointer, text.as_deref()))));
        }
    }
    cases
}

/// A content that is made when its case runs.
type Made = fn() -> Vec<u8>;

/// Cases for an object as a whole: not JSON, too much, twice the same member.
fn each_text(what: &str, put: impl Fn(&Crafted, &[u8]) + Clone + Send + Sync + 'static) -> Vec<Case> {
    let texts: [(&str, Made); 9] = [
        ("empty", Vec::new),
        ("null", || b"null".to_vec()),
        ("garbage", || b"\x00\xff\x1b[2J{".to_vec()),
        ("deep arrays", || "[".repeat(1_000_000).into_bytes()),
        ("deep objects", || "{\"a\":".repeat(100_000).into_bytes()),
        ("an empty object", || b"{}".to_vec()),
        ("an empty array", || b"[]".to_vec()),
        ("a member twice", || b"{\"id\":1,\"id\":2,\"at\":1,\"at\":2,\"drills\":[],\"drills\":[]}".to_vec()),
        ("300 MB of spaces", || vec![b' '; 300 << 20]),
    ];
    let case_of = |(name, text): (&str, Made)| {
        let put = put.clone();
        case(format!("{what}: {name}"), move |c: &Crafted| put(c, &text()))
    };
    texts.into_iter().map(case_of).collect()
}

/// A drill, a note, an announcement: samples of the small objects.
fn small_objects(c: &Crafted) -> Vec<(&'static str, String, Value)> {
    let id = c.full.clone();
    let (first, last) = (c.segments()[0].clone(), c.segments().pop().expect("a segment"));
    let at = "2026-01-01T00:00:00Z";
    let drill = json!({
        "backup": id, "chosen": "newest", "target": "end", "outcome": "proved", "host": "h", "begun": at,
        "ended": at, "bytes": 1, "segments": 1, "expected_lsn": "0/2000100", "reached_lsn": "0/2000100",
        "restore_seconds": 1.5, "recovery_seconds": 2.5, "check_seconds": null,
        "checks": [{"name": "read", "ok": true, "detail": "3 tables"}],
    });
    let active = json!({
        "operation": "restore", "host": "elsewhere", "beat": 7, "backup": null, "needs": [id],
        "process": {"boot": "x", "namespace": 1, "pid": 77, "started": 5}, "wal_from": "0/2000000",
        "removing": [], "decided": false, "left": false,
    });
    vec![
        ("pin", format!("pin/{id}"), json!({"until": at, "standalone": true})),
        ("active", "active/restore-0123456789abcdef".to_owned(), active),
        ("verify", format!("verify/backup/{id}"), json!({"at": at})),
        ("verify", format!("verify/damaged/{id}"), json!({"at": at, "problems": [format!("backup/{id}")]})),
        ("verify", "verify/packs".to_owned(), json!({id: [[1, 3, at]]})),
        ("verify", "verify/seams".to_owned(), json!([[last, "0/2000100"]])),
        ("verify", "verify/wal".to_owned(), json!([[first, last, at]])),
        ("verify", "verify/gaps".to_owned(), json!([{"timeline": 1, "first": first, "last": last}])),
        ("drill", "drill/history".to_owned(), json!({"drills": [drill]})),
        ("retired", "wal/history/00000009.retired".to_owned(), json!({"timeline": 9, "retired": at})),
    ]
}

/// All cases that tables make.
pub fn of_members(c: &Crafted) -> Vec<Case> {
    let mut cases = Vec::new();
    let record = c.record(&c.full);
    let put = |c: &Crafted, text: &[u8]| drop(c.put("backup", &format!("backup/{}", c.full), text));
    cases.extend(each_member("record", &record, put));
    cases.extend(each_text("record", put));
    let lines = c.manifest(&c.full);
    let kinds = ["part", "pack", "dir", "tablespace", "file", "use", "end"];
    for kind in kinds {
        let (index, line) =
            lines.iter().enumerate().rfind(|(_, line)| line.get(kind).is_some()).expect("one");
        let lines = lines.clone();
        let put = move |c: &Crafted, text: &[u8]| {
            c.forget_incremental();
            let mut all = Vec::new();
            for (at, line) in lines.iter().enumerate() {
                all.extend_from_slice(if at == index { text } else { &[] });
                if at != index {
                    all.extend(line.to_string().bytes());
                }
                all.push(b'\n');
            }
            c.put_manifest_text(&c.full, &all, c.record(&c.full));
        };
        cases.extend(each_member("manifest", line, put));
    }
    let put = |c: &Crafted, text: &[u8]| {
        c.forget_incremental();
        c.put_manifest_text(&c.full, text, c.record(&c.full));
    };
    cases.extend(each_text("manifest", put));
    for (kind, key, sample) in small_objects(c) {
        let what = key.replace(&c.full, "ID");
        let put = move |c: &Crafted, text: &[u8]| drop(c.put(kind, &key, text));
        cases.extend(each_member(&what, &sample, put.clone()));
        cases.extend(each_text(&what, put));
    }
    cases.extend(of_headers(c));
    cases
}

/// Cases for the members of headers.
fn of_headers(c: &Crafted) -> Vec<Case> {
    let segment = c.wal(&c.segments()[1]);
    let identity = format!("identity/{}-15", c.system);
    let (full, pack) = (format!("backup/{}", c.full), format!("data/{}/pack/000001", c.full));
    let manifest = format!("data/{}/manifest/000001", c.incremental);
    let mut cases = Vec::new();
    for key in [segment, identity, full, pack, manifest] {
        let sample = live::header(&c.path(&key));
        let what = format!("header of {}: ", key.split('/').take(1).collect::<String>());
        let put = move |c: &Crafted, text: &[u8]| {
            let old = read(c.path(&key));
            let text = String::from_utf8_lossy(text).into_owned();
            c.write(&key, &with_header(&text, &old[512..]));
        };
        cases.extend(each_member(&what, &sample, put));
    }
    cases
}

/// A line of a manifest for a file without content.
fn empty_file(path: &str) -> Value {
    json!({"file": {"path": path, "size": 0, "mode": 384, "owner": "postgres", "group": "postgres",
        "modified": 1_763_712_902, "crc32c": 0, "block": 8192, "hashes": "", "at": []}})
}

fn dir(path: &str) -> Value {
    json!({"dir": {"path": path, "mode": 448, "owner": "postgres", "group": "postgres"}})
}

/// Adds lines to a manifest: in front of the first file that follows their paths in the order of a
/// manifest, or else in front of the control file.
fn insert(lines: &mut Vec<Value>, line: Value) {
    let rank =
        |path: &str| -> Vec<u8> { path.bytes().map(|b| if b == b'/' { 1 } else { b.max(2) }).collect() };
    let path = |line: &Value| {
        line.get("file").or(line.get("dir")).and_then(|entry| Some(entry["path"].as_str()?.to_owned()))
    };
    let own = path(&line).map_or(Vec::new(), |path| rank(&path));
    let last = |path: &str| matches!(path, "global/pg_control" | "backup_label" | "tablespace_map");
    let at = lines.iter().position(|line| {
        path(line).is_some_and(|path| last(&path) || (line.get("file").is_some() && rank(&path) >= own))
    });
    lines.insert(at.expect("a control file"), line);
}

/// Cases of whole manifests: what a restore must not write.
pub fn of_paths() -> Vec<Case> {
    let mut cases = Vec::new();
    let names = [
        "postmaster.pid",
        "postmaster.opts",
        "walkeep.restoring",
        "backup_manifest",
        "recovery.signal",
        "standby.signal",
        "global/pg_control.walkeep",
        "postgresql.auto.conf",
        "current_logfiles",
        "current_logfiles.tmp",
        "postgresql.auto.conf.tmp",
        ".walkeep-tmp-1",
        "pg_tblspc/16384",
        "pg_tblspc/99",
        "pg_tblspc/16384/x",
        "pg_tblspc/16384/PG_15_202209061",
        "pg_tblspc/99/PG_15_1/x",
        "pg_wal/000000010000000000000001",
        "pg_wal/x",
        "pg_wal",
        "base",
        "PG_VERSION",
        "PG_VERSION/x",
        "global/pg_control",
        "backup_label",
        "tablespace_map",
        "../outside/x",
        "/outside/x",
        "a//b",
        "a/./b",
        "a/",
        "a/../../outside/x",
        "no/directory",
        "base/1",
        "base/1/",
        "base\u{1b}[2J",
        "walkeep.drill",
        "pg_wal/archive_status/x.ready",
        "promote",
        "pg_hba.conf",
        "",
    ];
    for name in names {
        cases.push(case(format!("a file {name:?}"), move |c| {
            c.change_manifest(|lines| insert(lines, empty_file(name)));
        }));
        cases.push(case(format!("a directory {name:?}"), move |c| {
            c.change_manifest(|lines| insert(lines, dir(name)));
        }));
    }
    for name in ["twice", "base/5/PG_VERSION", "global/1262", "PG_VERSION", "postgresql.auto.conf"] {
        cases.push(case(format!("two files {name:?}"), move |c| {
            c.change_manifest(|lines| {
                insert(lines, empty_file(name));
                insert(lines, empty_file(name));
            });
        }));
        cases.push(case(format!("a file and a directory {name:?}"), move |c| {
            c.change_manifest(|lines| {
                insert(lines, dir(name));
                insert(lines, empty_file(name));
            });
        }));
    }
    cases.push(case("a file in a file", |c| {
        c.change_manifest(|lines| {
            insert(lines, empty_file("base/5/zz"));
            insert(lines, empty_file("base/5/zz/1"));
        });
    }));
    for mode in [0o4755u32, 0o2755, 0o1777, 0o777, 0o700, 0o100_600, u32::MAX] {
        for kind in ["file", "dir"] {
            cases.push(case(format!("a {kind} with mode {mode:o}"), move |c| {
                c.change_manifest(|lines| {
                    let line = lines.iter_mut().rev().find_map(|line| line.get_mut(kind)).expect("one");
                    line["mode"] = mode.into();
                });
            }));
        }
    }
    let without = [
        "PG_VERSION",
        "global/pg_control",
        "backup_label",
        "global",
        "pg_wal",
        "pg_tblspc",
        "",
        "base",
        "base/5",
        "global/pg_filenode.map",
    ];
    for name in without {
        cases.push(case(format!("without {name:?}"), move |c| {
            c.change_manifest(|lines| {
                lines.retain(|line| line["file"]["path"] != name && line["dir"]["path"] != name);
            });
        }));
    }
    for location in ["/outside", "relative", "/a/../b", "", "/", "/tmp/\u{0}x", "/tmp/a\u{1b}[2J"] {
        cases.push(case(format!("two tablespaces, one in {location:?}"), move |c| {
            c.change_manifest(|lines| {
                lines.insert(1, json!({"tablespace": {"oid": 16_999, "location": location}}));
                lines.insert(1, json!({"tablespace": {"oid": 16_999, "location": location}}));
            });
        }));
    }
    for location in ["relative", "/a/../b", "/outside/\u{1b}[2J/x"] {
        cases.push(case(format!("a tablespace in {location:?}"), move |c| {
            c.change_manifest(|lines| {
                let at = lines.iter().rposition(|line| line.get("tablespace").is_some()).expect("one");
                lines.insert(at, json!({"tablespace": {"oid": 99, "location": location}}));
            });
        }));
    }
    cases.push(case("an empty list of parts", |c| c.set(&c.full, "/manifest", json!([]))));
    cases.push(case("a path that is not UTF-8 with ..", |c| {
        c.change_manifest(|lines| {
            let mut line = empty_file("x");
            let file = line["file"].as_object_mut().expect("an object");
            file.remove("path");
            file.insert("path_bytes".to_owned(), "/y4uL3g=".into());
            insert(lines, line);
        });
    }));
    cases.extend(of_blocks());
    cases
}

/// Cases of the places of blocks.
fn of_blocks() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut change = |name: &'static str, change: fn(&mut Value)| {
        cases.push(case(name, move |c| {
            c.change_manifest(|lines| {
                let files = lines.iter_mut().filter_map(|line| line.get_mut("file"));
                let file = files.into_iter().find(|file| file["path"] == "base/5/1259");
                change(file.expect("a relation"));
            });
        }));
    };
    change("a size of 2^63", |file| file["size"] = (1u64 << 63).into());
    change("a size that wraps", |file| file["size"] = u64::MAX.into());
    change("a size of one more", |file| file["size"] = (file["size"].as_u64().expect("a size") + 1).into());
    change("blocks of 0 bytes", |file| file["block"] = 0.into());
    change("blocks of 1 byte", |file| file["block"] = 1.into());
    change("blocks of 2 GB", |file| file["block"] = (1u64 << 31).into());
    change("a run of no blocks", |file| file["at"][0][4] = 0.into());
    change("a run of 4 G blocks", |file| file["at"][0][4] = u32::MAX.into());
    change("an offset of 2^64 - 1", |file| file["at"][0][1] = u64::MAX.into());
    change("an offset of 2^63", |file| file["at"][0][1] = (1u64 << 63).into());
    change("an offset behind the pack", |file| file["at"][0][1] = (1u64 << 33).into());
    change("a length of 0", |file| file["at"][0][2] = 0.into());
    change("a length of 2^32 - 1", |file| file["at"][0][2] = u32::MAX.into());
    change("one frame of two lengths", |file| {
        let mut other = file["at"][0].clone();
        let blocks = other[4].as_u64().expect("blocks");
        (other[2], other[3]) = (1.into(), (other[3].as_u64().expect("a skip") + 8192 * (blocks - 1)).into());
        (file["at"][0][4], other[4]) = ((blocks - 1).into(), 1.into());
        file["at"].as_array_mut().expect("extents").push(other);
    });
    change("a skip beyond", |file| file["at"][0][3] = u32::MAX.into());
    change("no such pack", |file| file["at"][0][0] = u32::MAX.into());
    change("no extents", |file| file["at"] = json!([]));
    change("no hashes", |file| file["hashes"] = "".into());
    change("another CRC", |file| file["crc32c"] = 1.into());
    change("modified at the end of time", |file| file["modified"] = i64::MAX.into());
    change("modified before time", |file| file["modified"] = i64::MIN.into());
    change("an unknown owner", |file| file["owner"] = "nobody here".into());
    change("an owner with NUL", |file| file["owner"] = "a\u{0}".into());
    cases
}

/// Cases of WAL, histories and names.
pub fn of_wal(c: &Crafted) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut history = |name: &'static str, timeline: u32, text: &'static str| {
        cases.push(case(format!("{timeline:08X}.history {name}"), move |c| {
            c.put("wal", &c.wal(&format!("{timeline:08X}.history")), text.as_bytes());
        }));
    };
    for timeline in [2, 3, 0x00FF_FFFF, u32::MAX] {
        history("of one line", timeline, "1\t0/3000000\tno recovery target specified\n");
    }
    history("of itself", 2, "2\t0/3000000\tx\n");
    history("of the future", 2, "9\t0/3000000\tx\n");
    history("of timeline 0", 2, "0\t0/3000000\tx\n");
    history("out of order", 4, "2\t0/3000000\tx\n1\t0/4000000\tx\n");
    history("that goes back", 4, "1\t0/4000000\tx\n2\t0/3000000\tx\n");
    history("without an end", 4, "1\tFFFFFFFF/FFFFFFFF\tx\n");
    history("at 0", 2, "1\t0/0\tx\n");
    history("that is empty", 2, "");
    history("of garbage", 2, "\u{1b}[2J\n");
    history("of timeline 1", 1, "1\t0/3000000\tx\n");
    history("of timeline 0 itself", 0, "1\t0/3000000\tx\n");
    history("of a parent without WAL", 9, "7\t0/3000000\tx\n");
    cases.push(case("a history of 1 MB", |c| {
        let text: String = (1..40_000).map(|line| format!("{line}\t0/{line:X}\tx\n")).collect();
        c.put("wal", &c.wal("0000FFFF.history"), text.as_bytes());
    }));
    cases.push(case("a history of 2 MB", |c| {
        c.put("wal", &c.wal("00000002.history"), "# \n".repeat(700_000).as_bytes());
    }));
    let segments = c.segments();
    let middle = segments[segments.len() / 2].clone();
    let mut segment = |name: &'static str, change: fn(&mut Vec<u8>)| {
        let middle = middle.clone();
        cases.push(case(format!("a segment {name}"), move |c| {
            let key = c.wal(&middle);
            let mut content = c.read(&key).1;
            change(&mut content);
            c.put("wal", &key, &content);
        }));
    };
    segment("of zeros", |content| content.fill(0));
    segment("of noise", |content| super::noise(content));
    segment("with noise behind its first header", |content| super::noise(&mut content[40..]));
    segment("with noise behind its first page", |content| super::noise(&mut content[8192..]));
    segment("with one page of noise", |content| super::noise(&mut content[16384..24576]));
    segment("with zeros behind its first page", |content| content[8192..].fill(0));
    segment("with the address of another page", |content| content[8192 + 8] ^= 0x20);
    segment("with the magic number of another version", |content| content[8192] ^= 1);
    segment("of another cluster", |content| content[24] ^= 1);
    segment("of another timeline", |content| content[4] = 9);
    segment("of another size", |content| content.truncate(1 << 19));
    segment("of no bytes", |content| content.clear());
    segment("of one byte more", |content| content.push(0));
    for (name, at) in [("before the backups", "0/100"), ("at the end", "0/FFFFFFFF")] {
        let all = segments.clone();
        cases.push(case(format!("WAL of a timeline that began {name}"), move |c| {
            c.put("wal", &c.wal("00000002.history"), format!("1\t{at}\tx\n").as_bytes());
            for segment in &all {
                let content = c.read(&c.wal(segment)).1;
                c.put("wal", &c.wal(&format!("00000002{}", &segment[8..])), &content);
            }
        }));
    }
    let planted = [
        "FFFFFFFFFFFFFFFFFFFFFFFF",
        "000000010000FFFF000000FF",
        "00000001FFFFFFFF00000FFF",
        "000000020000000000000002",
        "FFFFFFFF0000000000000002",
        "000000000000000000000002",
    ];
    for name in planted {
        let middle = middle.clone();
        cases.push(case(format!("a segment planted as {name}"), move |c| {
            let content = c.read(&c.wal(&middle)).1;
            c.put("wal", &c.wal(name), &content);
        }));
    }
    for name in [&segments[0], &middle, &segments[segments.len() - 1]] {
        let name = name.clone();
        cases.push(case(format!("{name} is missing"), move |c| c.remove(&c.wal(&name))));
    }
    cases.push(case("three million empty frames", {
        let middle = middle.clone();
        move |c| {
            let key = c.wal(&middle);
            let (header, content) = c.read(&key);
            let empty = zstd::bulk::compress(&[], 1).expect("compress");
            let mut object = empty.repeat(3_000_000);
            object.extend(frames(&content));
            c.write(&key, &with_header(&header.to_string(), &object));
        }
    }));
    cases.push(case("a frame that says 1 GB", {
        let middle = middle.clone();
        move |c| {
            let key = c.wal(&middle);
            let (header, _) = c.read(&key);
            let frame = zstd::bulk::compress(&vec![0; 1 << 30], 1).expect("compress");
            c.write(&key, &with_header(&header.to_string(), &frame));
        }
    }));
    cases
}

/// Cases of objects that are something else, cut, or changed in a bit.
pub fn of_objects(c: &Crafted) -> Vec<Case> {
    let mut cases = Vec::new();
    let segments = c.segments();
    let keys = [
        format!("identity/{}-15", c.system),
        format!("backup/{}", c.full),
        format!("backup/{}", c.incremental),
        format!("data/{}/manifest/000001", c.full),
        format!("data/{}/manifest/000001", c.incremental),
        format!("data/{}/pack/000001", c.full),
        c.wal(&segments[segments.len() / 2]),
        "verify/wal".to_owned(),
        "drill/history".to_owned(),
        format!("pin/{}", c.full),
        "active/restore-0123456789abcdef".to_owned(),
        "wal/history/00000002.history".to_owned(),
        "wal".to_owned(),
        "backup".to_owned(),
        "data".to_owned(),
    ];
    for key in keys {
        let what = key.replace(&c.full, "FULL").replace(&c.incremental, "INCREMENTAL");
        for kind in ["link", "dangling link", "FIFO", "directory", "link to itself", "link to a device"] {
            // What is missing between others is looked for again, which takes time.
            if key.starts_with("wal/0") && !matches!(kind, "link" | "FIFO") {
                continue;
            }
            let key = key.clone();
            cases.push(case(format!("{what} is a {kind}"), move |c| {
                let old = c.path(&key);
                let away = c.scratch.join("away");
                if old.exists() && std::fs::rename(&old, &away).is_err() {
                    return;
                }
                let path = c.vacant(&key);
                match kind {
                    "link" => symlink(&away, path).expect("link"),
                    "dangling link" => symlink("/nonexistent/x", path).expect("link"),
                    "FIFO" => drop(Run::new("mkfifo").arg(&path).go().ok()),
                    "directory" => drop(c.scratch.mkdir(&path)),
                    "link to itself" => symlink(path.file_name().expect("a name"), &path).expect("link"),
                    _ => symlink("/dev/zero", path).expect("link"),
                }
            }));
        }
        if !key.contains('/') || !c.path(&key).exists() {
            continue;
        }
        for (name, at) in [("in its header", 100), ("behind its header", 600), ("in the middle", 0)] {
            let key = key.clone();
            cases.push(case(format!("{what}: a bit {name}"), move |c| {
                let mut bytes = read(c.path(&key));
                let at = if at == 0 { bytes.len() / 2 } else { at };
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 0x10;
                }
                c.write(&key, &bytes);
            }));
        }
        for size in [0, 100, 511, 512, 600] {
            let key = key.clone();
            cases.push(case(format!("{what}: cut to {size} bytes"), move |c| {
                let bytes = read(c.path(&key));
                c.write(&key, &bytes[..size.min(bytes.len())]);
            }));
        }
    }
    cases
}

/// Cases that take time or memory.
pub fn of_size(c: &Crafted) -> Vec<Case> {
    let (first, id) = (c.segments()[0].clone(), c.full.clone());
    let mut cases = vec![
        case("WAL to the end of all timelines", |c| {
            let mut record = c.record(&c.full);
            record["stop_lsn"] = "FFFFFFFF/FFFFFFFF".into();
            record["wal"]["last"] = "00000001FFFFFFFF00000FFF".into();
            c.put_record(&c.full, &record.to_string());
        }),
        case("a backup on timeline 2^32 - 1", |c| {
            let mut record = c.record(&c.full);
            let name = |pointer: &str| {
                record.pointer(pointer).and_then(Value::as_str).expect("a name")[8..].to_owned()
            };
            let (first, last) = (name("/wal/first"), name("/wal/last"));
            record["timeline"] = u32::MAX.into();
            record["wal"] = json!({"first": format!("FFFFFFFF{first}"), "last": format!("FFFFFFFF{last}")});
            c.put_record(&c.full, &record.to_string());
        }),
        case("a part that has 2^63 bytes", |c| c.set(&c.full, "/manifest/0/size", (1u64 << 63).into())),
        case("a part that has 700 MB", |c| c.set(&c.full, "/manifest/0/size", (700u64 << 20).into())),
        case("a base that has 2^64 - 1 bytes", |c| {
            c.set(&c.incremental, "/manifest/0/base/size", u64::MAX.into());
        }),
        case("a delta that has 700 MB", |c| {
            let key = format!("data/{}/manifest/000001", c.incremental);
            let mut object = read(c.path(&key));
            object.resize(700 << 20, 0);
            c.write(&key, &object);
            c.set(&c.incremental, "/manifest/0/size", object.len().into());
            c.set(&c.incremental, "/manifest/0/sha256", sha256(&object).into());
        }),
        case("100000 labels", |c| {
            let labels: serde_json::Map<String, Value> =
                (0..100_000).map(|n| (format!("label {n}"), "x".into())).collect();
            c.set(&c.full, "/labels", labels.into());
        }),
        case("a million parts", |c| {
            let part = c.record(&c.full)["manifest"][0].clone();
            c.set(&c.full, "/manifest", vec![part; 60_000].into());
        }),
        case("a manifest of 140000 directories", |c| {
            c.change_manifest(|lines| {
                let at = lines.iter().position(|line| line.get("file").is_some()).expect("a file");
                lines.splice(at..at, (0..140_000).map(|n| dir(&format!("zz{n}"))));
            });
        }),
        case("a manifest of 5000 directories", |c| {
            c.change_manifest(|lines| {
                let at = lines.iter().position(|line| line.get("file").is_some()).expect("a file");
                lines.splice(at..at, (0..5000).map(|n| dir(&format!("zz{n}"))));
            });
        }),
        case("a manifest of 100 MB", |c| {
            c.forget_incremental();
            let text =
                "{\"dir\":{\"path\":\"a\",\"mode\":448,\"owner\":\"\",\"group\":\"\"}}\n".repeat(1_800_000);
            c.put_manifest_text(&c.full, text.as_bytes(), c.record(&c.full));
        }),
        case("a file in 5 million pieces", |c| {
            c.forget_incremental();
            let mut line = empty_file("base/5/zz");
            line["file"]["at"] = HERE.into();
            let pieces = format!("[{}]", vec!["[0,0,1,0,1]"; 5_000_000].join(","));
            let text = line.to_string().replace(&format!("\"{HERE}\""), &pieces);
            c.put_manifest_text(&c.full, text.as_bytes(), c.record(&c.full));
        }),
        case("an identity of 300 MB", |c| {
            let text = vec![b' '; 300 << 20];
            c.put("identity", &format!("identity/{}-15", c.system), &text);
        }),
        case("a header alone", |c| {
            let key = format!("backup/{}", c.full);
            let object = sealed(&c.header("backup", &key), b"");
            c.write(&key, &object[..512]);
        }),
    ];
    let at = ["1970-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "9999-12-30T23:59:59Z"];
    for at in at {
        let runs = json!([[first, "00000001FFFFFFFF00000FFF", at]]);
        cases.push(case(format!("a note of all WAL at {at}"), move |c| {
            c.put("verify", "verify/wal", runs.to_string().as_bytes());
        }));
        let many: Vec<Value> = (1..200u32)
            .map(|n| json!([format!("{n:08X}0000000000000000"), format!("{n:08X}FFFFFFFF00000FFF"), at]))
            .collect();
        cases.push(case(format!("a note of all WAL of 200 timelines at {at}"), move |c| {
            c.put("verify", "verify/wal", Value::from(many.clone()).to_string().as_bytes());
        }));
        let packs = json!({id.clone(): [[0, u32::MAX, at]]});
        cases.push(case(format!("a note of all packs at {at}"), move |c| {
            c.put("verify", "verify/packs", packs.to_string().as_bytes());
        }));
    }
    for (first, last) in [(0u32, u32::MAX), (1, u32::MAX), (9, 1), (2, 2)] {
        let id = id.clone();
        cases.push(case(format!("packs from {first} to {last}"), move |c| {
            c.set(&c.full, "/packs", json!({id.clone(): [[first, last]]}));
        }));
    }
    cases.push(case("a note of a gap of everything", |c| {
        let gap = json!([{"timeline": u32::MAX, "first": "FFFFFFFF0000000000000000", "last": "FFFFFFFFFFFFFFFF00000FFF"}]);
        c.put("verify", "verify/gaps", gap.to_string().as_bytes());
    }));
    cases.push(case("a retired timeline 2^32 - 1", |c| {
        c.put(
            "retired",
            "wal/history/FFFFFFFF.retired",
            b"{\"timeline\":4294967295,\"retired\":\"2026-01-01T00:00:00Z\"}",
        );
    }));
    cases
}
