//! Something else stands where an object was: a link, even to the right bytes, a FIFO or a
//! directory. Nothing waits for it, and `verify` calls bad what a restore would refuse.

use super::*;
use std::time::Duration;

#[test]
fn a_link_a_fifo_or_a_directory_in_the_place_of_an_object_is_a_problem() {
    let saga = Saga::get();
    let archive = saga.archive();
    let away = archive.scratch().join("away");
    let wal =
        |object: &&PathBuf| saga::key(&archive, object).starts_with("wal/") && !object.ends_with(".history");
    let all = objects(&archive);
    let segments: Vec<&PathBuf> = all.iter().filter(wal).collect();
    let segment = segments[segments.len() / 2];
    let pack = live::parts_of(archive.root(), &saga.d, "pack").remove(0);
    let manifest = live::parts_of(archive.root(), &saga.d, "manifest").remove(0);
    let record = live::record_of(archive.root(), &saga.d);
    for object in [segment, &pack, &manifest, &record] {
        for what in ["link", "fifo", "directory"] {
            std::fs::rename(object, &away).expect("move it away");
            match what {
                "link" => std::os::unix::fs::symlink(&away, object).expect("link"),
                "fifo" => drop(Run::new("mkfifo").arg(object).go().ok()),
                _ => std::fs::create_dir(object).expect("create"),
            }
            for quick in [&[][..], &["--quick"]] {
                let run = archive.run("walkeep").args(["verify", "--json"]).args(quick);
                let report = live::json(&run.deadline(Duration::from_secs(30)).go().is(3));
                let key = saga::key(&archive, object);
                let named = problems(&report).iter().any(|(problem, _)| *problem == key);
                assert!(named, "{what} {quick:?} {key}: {report:#}");
            }
            let _ = std::fs::remove_file(object).or_else(|_| std::fs::remove_dir(object));
            std::fs::rename(&away, object).expect("bring it back");
        }
    }
    verify(&archive, &[]);
}
