//! The format of the repository: bytes that were written once and are read for ever, and a real
//! repository read with public tools alone, as `FORMAT.md` says.

use crate::support::live::{self, Story, record_of, unpacked};
use crate::support::repo::files;
use crate::support::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walkeep::codec::compress::{Compression, Compressor};
use walkeep::codec::envelope::{Header, ObjectKind};
use walkeep::codec::hash::{ContentHash, Hasher, LANES, block_hash};
use walkeep::pg::lsn::Lsn;
use walkeep::pg::segment::{SegmentName, SegmentSize, TimelineId};
use walkeep::repo::drills::{Check, Chosen, Drill, Outcome};
use walkeep::repo::entry::{Dir, Entry, Extent, FileEntry, Owner, StoredPath};
use walkeep::repo::manifest;
use walkeep::repo::record::{Record, Settings, State, WalRange};
use walkeep::repo::{Lineage, Repository};

const SYSTEM: u64 = 7_300_000_000_000_000_001;
const ID: &str = "20261121T081502Z-1f3a9c";
/// A backup of the same content, its manifest told by that of the first.
const SECOND: &str = "20261121T082502Z-2e4b8d";
const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n";

/// The committed objects, as a repository.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/repository")
}

/// A frame of raw blocks.
fn stored_frame(content: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut compressor = Compressor::new(Compression::Stored).expect("a compressor");
    compressor.frame(content, &mut frame).expect("a frame");
    frame
}

/// Writes a repository of two backups and their WAL from a fixed input.
fn write_repository(root: &Path) {
    let lineage = Lineage { system_identifier: SYSTEM, major: 15 };
    let store_of = walkeep::storage::Directory::new(root);
    let repository = Repository::new("golden", "main", true, Arc::new(store_of));
    let time = |text: &str| text.parse().expect("a time");
    let fresh = "0123456789abcdef0123456789abcdef";
    repository.register(lineage, false, time("2026-11-21T08:00:00Z"), fresh).expect("register");
    let archive = repository.open(lineage).expect("open");

    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let control = read(data.path.join("global/pg_control"));
    let contents: [(&str, Vec<u8>); 4] = [
        ("PG_VERSION", b"15\n".to_vec()),
        ("global/pg_control", control),
        ("base/1/1259", [vec![1; 8192], vec![2; 8192], vec![3; 100]].concat()),
        ("backup_label", LABEL.as_bytes().to_vec()),
    ];
    // Two frames: small files share the first one, the second is a piece of the large file.
    let header = archive.header(ObjectKind::Pack, format!("{ID}/pack/000001"));
    let mut pack = header.encode().expect("a header").to_vec();
    let mut shared = Vec::new();
    let mut skips = Vec::new();
    for (_, bytes) in &contents {
        skips.push(shared.len() as u32);
        shared.extend_from_slice(&bytes[..bytes.len().min(8192)]);
    }
    let mut frames = Vec::new();
    for frame in [&shared[..], &contents[2].1[8192..]] {
        let offset = pack.len() as u64;
        pack.extend(stored_frame(frame));
        frames.push((offset, (pack.len() as u64 - offset) as u32));
    }
    archive.put_data(&format!("{ID}/pack/000001"), &pack).expect("store the pack");

    let stored = manifest::StoredPack {
        size: pack.len() as u64,
        content: contents.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
    };
    let owner = Owner { owner: "postgres".into(), group: "postgres".into() };
    let file = |((path, bytes), skip): (&(&str, Vec<u8>), u32)| {
        let mut at = vec![Extent { pack: 0, offset: frames[0].0, length: frames[0].1, skip, blocks: 1 }];
        if bytes.len() > 8192 {
            at.push(Extent { pack: 0, offset: frames[1].0, length: frames[1].1, skip: 0, blocks: 2 });
        }
        FileEntry {
            path: StoredPath(path.as_bytes().to_vec()),
            size: bytes.len() as u64,
            mode: 0o600,
            owner: owner.clone(),
            modified: 1_763_712_902,
            crc32c: Some(crc32c::crc32c(bytes)),
            block: 8192,
            hashes: bytes.chunks(8192).map(block_hash).collect(),
            at,
        }
    };
    let bases = manifest::Bases::default();
    let manifest_of = |id| {
        let mut writer = manifest::Writer::new(&archive, id, &bases).expect("a manifest");
        let pack_key = |_| Ok(format!("data/{ID}/pack/000001"));
        for path in ["", "base", "base/1", "global", "pg_wal", "pg_tblspc"] {
            let dir = Dir { path: StoredPath(path.into()), mode: 0o700, owner: owner.clone() };
            writer.entry(Entry::Dir(dir), pack_key).expect("a directory");
        }
        for file in contents.iter().zip(skips.clone()).map(file) {
            writer.entry(Entry::File(file), pack_key).expect("a file");
        }
        writer.finish(|_| Some(stored)).expect("the end of the manifest")
    };
    let manifest::Written { parts, totals, .. } = manifest_of(ID);
    let segment = Segment::new(SYSTEM, 15).megabytes(1).at(1, 32);
    let name = segment.name().parse().expect("a segment");
    let record = Record {
        id: ID.into(),
        state: State::Complete,
        start_time: time("2026-11-21T08:15:02Z"),
        stop_time: time("2026-11-21T08:15:03.5Z"),
        start_lsn: "0/2000028".parse().expect("an LSN"),
        stop_lsn: "0/2000100".parse().expect("an LSN"),
        timeline: TimelineId(1),
        system_identifier: SYSTEM,
        pg_version: "15.18".into(),
        size: totals.bytes,
        stored: pack.len() as u64,
        new_bytes: pack.len() as u64,
        files: totals.files,
        labels: [("reason".to_owned(), "golden".to_owned())].into(),
        parent: None,
        manifest: parts,
        packs: None,
        segment_size: SegmentSize::try_from(1 << 20).expect("a size"),
        wal: WalRange { first: name, last: name },
        settings: Settings {
            time_zone: "Etc/UTC".into(),
            block_size: 8192,
            data_checksums: true,
            checksum_states: None,
            data_directory: "/srv/golden".into(),
            config_file: "/srv/golden/postgresql.conf".into(),
            from_standby: false,
            wal_directory: None,
            outside: Vec::new(),
        },
        tablespaces: Vec::new(),
        databases: Vec::new(),
        damaged: Vec::new(),
    };
    archive.put_record(&record).expect("store the record");
    manifest::read(&archive, &record, |part| {
        bases.add(&part, &record.manifest[0]);
        Ok(())
    })
    .expect("read the manifest");
    let second = Record {
        id: SECOND.into(),
        start_time: time("2026-11-21T08:25:02Z"),
        stop_time: time("2026-11-21T08:25:03.5Z"),
        parent: Some(ID.into()),
        manifest: manifest_of(SECOND).parts,
        ..record
    };
    assert!(second.manifest[0].base.is_some());
    archive.put_record(&second).expect("store the record");
    let check = |ok, name: &str, detail: &str| Check { name: name.into(), ok, detail: detail.into() };
    let drill = Drill {
        backup: Some(ID.into()),
        chosen: Chosen::Newest,
        target: "end".into(),
        outcome: Outcome::Proved,
        host: "golden".into(),
        begun: time("2026-11-21T09:00:00Z"),
        ended: time("2026-11-21T09:00:07.5Z"),
        bytes: totals.bytes,
        segments: 1,
        expected_lsn: Some("0/2000100".parse().expect("an LSN")),
        reached_lsn: Some("0/2000100".parse().expect("an LSN")),
        restore_seconds: Some(1.5),
        recovery_seconds: Some(2.25),
        check_seconds: None,
        checks: vec![check(Some(true), "read", "3 tables"), check(None, "amcheck", "not installed")],
    };
    archive.remember_drill(&drill).expect("remember the drill");
}

const LABEL: &str = "\
START WAL LOCATION: 0/2000028 (file 000000010000000000000020)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-21 08:15:02 UTC
LABEL: walkeep
START TIMELINE: 1
";

/// Adds WAL by the program itself: a history file as it is, and a compressed segment.
fn push_wal(root: &Path) {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let segment = data.write(&Segment::new(SYSTEM, 15).megabytes(1).at(1, 32));
    scratch::write(&data.path.join("pg_wal/00000002.history"), HISTORY);
    for (compression, file) in [("none", data.path.join("pg_wal/00000002.history")), ("zstd", segment.into())]
    {
        let archive = Archive::build(&data.path).root(root);
        let archive = archive.wal(&format!("compression = {compression:?}")).unregistered();
        archive.push(file).ok();
    }
}

/// Writes the whole repository; the account owns it.
fn written() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let root = scratch.mkdir("repository");
    write_repository(&root);
    account::give_all(&root);
    push_wal(&root);
    (scratch, root)
}

/// The objects below a root, without temporary files.
fn objects(root: &Path) -> Vec<PathBuf> {
    let all = files(root).into_iter().filter(|path| !path.starts_with(root.join(".tmp")));
    all.map(|path| path.strip_prefix(root).expect("below").to_owned()).collect()
}

#[test]
fn the_bytes_that_are_written_are_those_of_the_first_day() {
    let (_scratch, root) = written();
    if std::env::var_os("WALKEEP_GOLDEN_WRITE").is_some() {
        for object in objects(&root) {
            let to = golden().join(&object);
            std::fs::create_dir_all(to.parent().expect("a directory")).expect("make a directory");
            std::fs::write(to, read(root.join(&object))).expect("write a golden object");
        }
    }
    assert_eq!(objects(&root), objects(&golden()));
    for object in objects(&root) {
        let (new, old) = (read(root.join(&object)), read(golden().join(&object)));
        let name = object.display();
        // Those of a codec may change with its version; the header says what they are, and must
        // not.
        let is_compressed = name.to_string().contains("/manifest/") || name.to_string().contains("/wal/0");
        if is_compressed {
            assert_eq!(new[..512], old[..512], "the header of {name}");
            assert_eq!(unpacked(&root.join(&object)), unpacked(&golden().join(&object)), "{name}");
        } else {
            assert!(new == old, "{name} is written differently");
        }
    }
}

/// The committed repository where the programs can read it, and a configuration for it.
fn committed() -> (Scratch, Archive) {
    let scratch = Scratch::new();
    let root = scratch.join("repository");
    scratch::copy_tree(&golden(), &root);
    account::give_all(&root);
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let archive = Archive::build(&data.path).root(root).unregistered();
    (scratch, archive)
}

#[test]
fn what_was_written_on_the_first_day_is_still_read() {
    let (scratch, archive) = committed();
    assert_eq!(archive.fetched("00000002.history"), HISTORY.as_bytes());
    let segment = Segment::new(SYSTEM, 15).megabytes(1).at(1, 32);
    assert!(archive.fetched(&segment.name()) == segment.bytes());
    let list = live::json(&archive.walkeep(&["list", "--json"]).ok());
    let backup = &list["repositories"][0]["backups"][0];
    assert_eq!((&backup["id"], &backup["drill"]["outcome"]), (&ID.into(), &"proved".into()), "{list}");
    assert_eq!(backup["drill"]["recovery_seconds"], 2.25, "{list}");
    if !account::account().root && account::account().name != "postgres" {
        skipped("root", "the files belong to postgres, who is not here");
        return;
    }
    for id in [ID, SECOND] {
        let to = scratch.join(id);
        live::restoring(&archive, &to, &[id, "--immediate"]).go().ok();
        assert_eq!(read(to.join("PG_VERSION")), b"15\n");
        assert_eq!(read(to.join("backup_label")), LABEL.as_bytes());
        assert_eq!(read(to.join("base/1/1259")), [vec![1; 8192], vec![2; 8192], vec![3; 100]].concat());
    }
}

/// Changes the header of an object, which keeps its length.
fn change_header(object: &Path, change: impl Fn(&mut serde_json::Value)) {
    let mut bytes = read(object);
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..512]).expect("a header");
    change(&mut header);
    let mut text = header.to_string().into_bytes();
    text.resize(503, b' ');
    text.push(b'\n');
    bytes[8..512].copy_from_slice(&text);
    std::fs::remove_file(object).expect("remove the object");
    scratch::write(object, bytes);
}

/// Runs what reads the object of this kind; it has to refuse, and the message names the reason.
#[track_caller]
fn assert_refused(folder: &str, change: impl Fn(&mut serde_json::Value) + Copy, reason: &str) {
    let (scratch, archive) = committed();
    let object = files(archive.root()).into_iter().find(|path| path.to_string_lossy().contains(folder));
    let object = object.expect("an object");
    change_header(&object, change);
    if folder == "/manifest/" {
        // The record vouches for the stored bytes.
        let record = record_of(archive.root(), ID);
        let old = read(&record);
        let mut fields: serde_json::Value = serde_json::from_slice(&unpacked(&record)).expect("JSON");
        fields["manifest"][0]["sha256"] = sha256(&read(&object)).into();
        let text = fields.to_string();
        let mut new = old[..512].to_vec();
        new.extend(zstd::bulk::compress(text.as_bytes(), 1).expect("compress"));
        std::fs::remove_file(&record).expect("remove the record");
        scratch::write(&record, new);
        change_header(&record, |header| {
            header["size"] = text.len().into();
            header["sha256"] = sha256(text.as_bytes()).into();
        });
    }
    scratch.mkdir(archive.root().join(".tmp"));
    let before = archive.snapshot();
    if folder.starts_with("/wal/") {
        let name = object.file_name().and_then(|name| name.to_str()).expect("a name");
        archive.fetch_fails(name).says(reason);
        let to = archive.destination();
        assert!(!to.exists());
    } else {
        let to = scratch.join("restored");
        let outcome = live::restoring(&archive, &to, &[ID, "--immediate"]).go().is(1).told();
        assert!(outcome.stderr.contains(reason), "{folder}: no word of {reason:?}\n{outcome}");
        assert!(!to.join("global/pg_control").exists());
    }
    assert!(archive.snapshot() == before);
}

const KINDS: [&str; 5] = ["/identity/", "/wal/history/", "/wal/00000001/", "/backup/", "/manifest/"];

#[test]
fn a_later_format_is_refused_by_its_number() {
    for folder in KINDS {
        assert_refused(folder, |header| header["walkeep"] = 2.into(), "format 2");
    }
}

#[test]
fn an_encrypted_object_is_refused_by_name() {
    for folder in KINDS {
        assert_refused(folder, |header| header["cipher"] = serde_json::json!({"name": "x"}), "encrypted");
    }
}

#[test]
fn a_pack_of_a_later_format_or_encrypted_is_refused_by_name() {
    assert_refused("/pack/", |header| header["walkeep"] = 2.into(), "format 2");
    assert_refused("/pack/", |header| header["cipher"] = serde_json::json!({"name": "x"}), "encrypted");
}

#[test]
fn nothing_is_pushed_into_a_repository_of_a_later_format() {
    let (scratch, archive) = committed();
    change_header(&archive.identity(), |header| header["walkeep"] = 2.into());
    let before = archive.snapshot();
    let data = DataDir::create(&scratch, "other", 15, SYSTEM, 1);
    let file = data.write(&Segment::new(SYSTEM, 15).megabytes(1).at(1, 33));
    archive.push(data.path.join(file)).refused().says("format 2");
    archive.init().failed().says("format 2");
    assert!(archive.snapshot() == before);
}

#[test]
fn sha_256_of_any_length_is_what_everybody_else_says() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(ContentHash::of(b"abc").to_string(), abc, "FIPS 180-4's own example");
    let content: Vec<u8> = (0..70_000_u64).map(|at| (at * at / 32) as u8).collect();
    for length in (0..200).chain([4095, 4096, 4097, 65_536, 70_000]) {
        let content = &content[..length];
        assert_eq!(ContentHash::of(content).to_string(), sha256(content), "{length} bytes");
        let mut hasher = Hasher::default();
        content.chunks(length % 97 + 1).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.finish().to_string(), sha256(content), "{length} bytes in pieces");
    }
}

#[test]
fn contents_that_are_hashed_side_by_side_have_the_hashes_that_they_have_alone() {
    let contents: Vec<Vec<u8>> = (0..2 * LANES + 1)
        .map(|content| (0..20_000 + 777 * content).map(|at| (at * 31 + content * at / 7) as u8).collect())
        .collect();
    // Pieces that are whole blocks for all, for some, and for none; and contents that end before
    // others.
    for count in 1..=contents.len() {
        for pieces in [[4096, 4096], [128, 4096], [64, 65], [1, 100], [8192, 63]] {
            let mut hashers = vec![Hasher::default(); count];
            let mut at = vec![0; count];
            while at.iter().zip(&contents).any(|(at, content)| *at < content.len()) {
                let mut now = Vec::new();
                for (index, (at, content)) in at.iter_mut().zip(&contents).enumerate() {
                    let begin = *at;
                    *at = content.len().min(begin + pieces[index % 2]);
                    now.push(&content[begin..*at]);
                }
                Hasher::update_together(hashers.iter_mut().zip(now));
            }
            for (hasher, content) in hashers.into_iter().zip(&contents) {
                assert_eq!(hasher.finish().to_string(), sha256(content), "{count} in pieces of {pieces:?}");
            }
        }
    }
}

#[test]
fn a_header_is_what_the_page_says() {
    let header = Header {
        walkeep: 1,
        kind: ObjectKind::Wal,
        name: "000000010000000000000020".into(),
        system_identifier: SYSTEM,
        pg: 15,
        size: Some(3),
        sha256: Some(ContentHash::of(b"abc")),
        base: None,
        cipher: None,
    };
    let bytes = header.encode().expect("a header");
    assert_eq!(bytes.len(), 512);
    assert_eq!(bytes[..8], [0x57, 0x2A, 0x4D, 0x18, 0xF8, 1, 0, 0]);
    assert_eq!(bytes[511], b'\n');
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..]).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({
            "walkeep": 1, "kind": "wal", "name": "000000010000000000000020",
            "system_identifier": "7300000000000000001", "pg": 15, "size": 3,
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        })
    );
    let stored = [bytes.to_vec(), stored_frame(b"abc")].concat();
    let scratch = Scratch::new();
    assert_eq!(unpacked(&scratch.write("object", stored)), b"abc");
}

/// A shell script with nothing but public tools.
#[track_caller]
fn shell(script: &str, arguments: &[&Path]) -> String {
    let run = Run::new("/bin/sh").args(["-euc", script, "sh"]).args(arguments);
    run.go().ok().stdout.trim().to_owned()
}

#[test]
fn a_repository_is_read_with_public_tools_alone() {
    let story = Story::get();
    let archive = story.archive();
    let root = archive.root();
    // Every object is a stream, and its header says what it is.
    for object in objects(root) {
        let path = root.join(&object);
        let header = shell(
            r#"head -c 512 "$1" | tail -c +9 | jq -r '[.walkeep, .kind, .sha256, .name] | @tsv'"#,
            &[&path],
        );
        let fields: Vec<&str> = header.split('\t').collect();
        let kind = object.components().nth(2).expect("a folder").as_os_str().to_string_lossy().into_owned();
        assert_eq!(fields[0], "1");
        assert!(
            fields[1] == kind
                || kind.starts_with(fields[1])
                || kind == "data"
                || object.starts_with("main/identity"),
            "{header} in {object:?}"
        );
        assert!(object.to_string_lossy().ends_with(fields[3]), "{header} in {object:?}");
        if fields[1] != "pack" {
            assert_eq!(sha256(&unpacked(&path)), fields[2], "{object:?}");
        }
    }
    // A backup: record, manifest, and a file of several runs of blocks.
    let record = record_of(root, &story.b);
    let base = root.join(objects(root)[0].components().take(1).collect::<PathBuf>());
    let lineage = base.join(format!("{}-15", story.server.system_identifier()));
    let by_hand = r#"
        record="$1" archive="$2"
        cd "$3"
        zstd -dc < "$record" | jq -r '.manifest[] | ., .base // empty | "\(.sha256)  '"$archive"'/\(.key)"' | sha256sum --quiet -c
        part="$archive/$(zstd -dc < "$record" | jq -r '.manifest[0].key')"
        base="$archive/$(zstd -dc < "$record" | jq -r '.manifest[0].base.key')"
        zstd -dc < "$base" > base; zstd -dcq --patch-from=base < "$part" > part
        file=$(cat part | jq -c 'select(.file) | .file | select(.path | startswith("base/5/")) | select(.path | test("^base/5/[0-9]+$"))' | jq -cs 'max_by(.size)')
        block=$(echo "$file" | jq .block)
        out=$(mktemp)
        echo "$file" | jq -r '.at[] | "\(.[0]) \(.[1]) \(.[2]) \(.[3]) \(.[4])"' | while read -r number offset length skip blocks; do
            pack="$archive/$(cat part | jq -r 'select(.pack) | .pack | select(.number == '"$number"') | .key')"
            dd if="$pack" iflag=skip_bytes,count_bytes,fullblock bs=64K skip="$offset" count="$length" 2>/dev/null \
                | zstd -dc | tail -c +$((skip + 1)) | head -c $((blocks * block))
        done > "$out"
        echo "$file" | jq -r '.crc32c'
        echo "$out"
        echo "$file" | jq -r '.size'
        stat -c %s "$out"
        echo "$file" | jq -r '.path'
    "#;
    let scratch = Scratch::new();
    let lines = shell(by_hand, &[&record, &lineage, &scratch.join("")]);
    let lines: Vec<&str> = lines.lines().collect();
    let bytes = std::fs::read(lines[1]).expect("what was put together by hand");
    std::fs::remove_file(lines[1]).expect("remove it");
    assert_eq!(lines[0], crc32c::crc32c(&bytes).to_string());
    assert_eq!(lines[2], lines[3]);
    // One block of it, by the line of FORMAT.md, with its BLAKE3.
    let manifest = live::manifest(root, &story.b);
    let file = manifest.iter().filter_map(|line| line.get("file")).find(|file| file["path"] == lines[4]);
    let file = file.expect("the file");
    let numbers: Vec<String> =
        file["at"][0].as_array().expect("a run").iter().map(|n| n.to_string()).collect();
    let one = format!(
        r#"dd if="$1" bs=1 skip={} count={} 2>/dev/null | zstd -dc | tail -c +$(({}+1)) | head -c 8192 > "$2""#,
        numbers[1], numbers[2], numbers[3]
    );
    let named =
        manifest.iter().filter_map(|line| line.get("pack")).find(|pack| pack["number"] == file["at"][0][0]);
    let pack = lineage.join(named.and_then(|pack| pack["key"].as_str()).expect("the pack"));
    shell(&one, &[&pack, &scratch.join("block")]);
    let block = read(scratch.join("block"));
    use base64::Engine as _;
    let hashes = base64::engine::general_purpose::STANDARD.decode(file["hashes"].as_str().expect("text"));
    assert_eq!(hashes.expect("base64")[..16], blake3::hash(&block).as_bytes()[..16]);
}

#[test]
fn the_lines_of_a_manifest_have_the_members_of_the_page() {
    let live = Live::with(Cluster::build().wal_segsize(1), |server| {
        server.set("allow_in_place_tablespaces", "on");
    });
    let place = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace space location '{}'", place.display()));
    live.server.psql("create tablespace here location ''");
    let id = live.backup_id();
    let manifest = live::manifest(live.archive.root(), &id);
    let first = &manifest[0]["part"];
    assert_eq!((first["backup"].as_str(), first["number"].as_u64()), (Some(id.as_str()), Some(1)));
    assert_eq!(first["hash"], "blake3-128");
    let tablespaces: Vec<_> = manifest.iter().filter_map(|line| line.get("tablespace")).collect();
    assert_eq!(tablespaces.len(), 2, "{tablespaces:?}");
    let there = tablespaces.iter().any(|t| t["location"].as_str() == place.to_str() && t["oid"].is_u64());
    assert!(there, "FORMAT.md: {{\"oid\":16396,\"location\":\"/srv/ts\"}}, and not {tablespaces:?}");
    let in_place = tablespaces.iter().any(|t| t["in_place"] == true && t.get("location").is_none());
    assert!(in_place, "FORMAT.md: in_place, and not {tablespaces:?}");
}

#[test]
fn a_standby_backup_that_ends_on_a_boundary_needs_the_segment_behind_it() {
    let size = SegmentSize::try_from(16 << 20).expect("a segment size");
    let segment = |number| SegmentName::of_number(TimelineId(1), number, size);
    let range = |stop, from_standby| {
        WalRange::of_backup(TimelineId(1), Lsn(0x0200_0028)..Lsn(stop), from_standby, size)
    };
    assert_eq!(range(0x0400_0000, false), WalRange { first: segment(2), last: segment(3) });
    assert_eq!(range(0x0400_0000, true), WalRange { first: segment(2), last: segment(4) });
    assert_eq!(range(0x0400_0001, true), WalRange { first: segment(2), last: segment(4) });
}
