//! What stands on the page.

use super::made::{HOSTILE, years};
use super::*;
use crate::support::saga::Saga;
use std::os::unix::fs::PermissionsExt;

/// How often something stands there.
fn times(page: &str, what: &str) -> usize {
    page.matches(what).count()
}

#[test]
fn a_cluster_that_is_well_is_shown_with_its_backup_and_what_would_be_lost() {
    let live = Live::new();
    let id = live.backup_id();
    live.flush_wal();
    until("nothing waits", || live.archive.walkeep(&["status", "--quiet"]).ok().stdout.is_empty());
    let before = live.archive.snapshot();
    let page = report(&live.archive);
    assert!(live.archive.snapshot() == before, "looking changed the repository");
    assert!(page.contains("<title>walkeep: green</title>"), "{page}");
    for words in [
        id.as_str(),
        "Cluster main",
        "Repository first",
        "Archiving and backups are as they should be.",
        "every transaction that had ended by",
        "no finished WAL waits, so only what",
        "1 backup: 1 full, 0 incremental",
        "nothing is missing",
        "There are no drills yet",
    ] {
        assert!(page.contains(words), "no {words:?} in\n{page}");
    }
    // What is listed and what is on the page are the same.
    let list = live::json(&live.archive.walkeep(&["list", "--json"]).ok());
    let to = live::text(&list["repositories"][0]["window"], "to");
    assert!(page.contains(&format!("<time datetime=\"{to}\">")), "no {to} in\n{page}");
    let stored = list["repositories"][0]["stored"]["backups"].as_u64().expect("bytes");
    assert!(page.contains(&indicatif_size(stored)), "{stored} in\n{page}");
}

/// As `list` prints it.
fn indicatif_size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.2} MiB")
}

#[test]
fn timelines_pins_and_full_backups_are_told_apart() {
    let saga = Saga::get();
    let archive = saga.archive();
    let page = report(&archive);
    for (id, _) in saga.backups() {
        assert!(page.contains(id), "{id} in\n{page}");
    }
    assert!(page.contains("4 backups: ") && page.contains(", 1 pinned"), "{page}");
    assert!(page.contains("timeline 1") && page.contains("timeline 2"), "{page}");
    assert!(page.contains("<td>for ever</td>"), "{page}");
    assert!(page.contains("the server"), "{page}");
}

#[test]
fn gaps_and_damage_are_named_and_drawn() {
    let live = Live::new();
    let id = live.backup_id();
    let lost = live.flush_wal();
    live.flush_wal();
    std::fs::remove_file(live.archive.object(&lost)).expect("remove a segment");
    let pack = live::parts_of(live.archive.root(), &id, "pack").remove(0);
    let bytes = read(&pack);
    std::fs::write(&pack, &bytes[..bytes.len() / 2]).expect("damage a pack");
    live.archive.walkeep(&["verify"]).is(3);
    let page = report(&live.archive);
    assert!(page.contains("<title>walkeep: red</title>"), "{page}");
    for words in [
        "1 gap with 1 segment missing",
        &format!("<title>missing: {lost} to {lost}</title>"),
        "MISSING",
        "found damaged",
        // The only backup that leads anywhere is no good.
        "would be lost, and everything if there is none.",
        ", 1 damaged",
        "hint: ",
    ] {
        assert!(page.contains(words), "no {words:?} in\n{page}");
    }
}

#[test]
fn a_repository_without_backups_and_one_that_is_away_have_their_words() {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, 7_300_000_000_000_000_001, 1);
    let roots = [scratch.mkdir("one"), scratch.mkdir("two")];
    let archive = Archive::build(&data.path).connection("host=/nowhere user=postgres");
    let archive = archive.root(&roots[0]).root(&roots[1]).create();
    std::fs::rename(&roots[1], scratch.join("away")).expect("take a repository away");
    let page = report(&archive);
    for words in [
        "There are no backups.",
        "There is no WAL.",
        "would be lost, and everything if there is none.",
        "Repository second",
        "there is no repository of cluster",
        "not known",
    ] {
        assert!(page.contains(words), "no {words:?} in\n{page}");
    }
    assert_eq!(times(&page, "<figure>"), 0);
}

#[test]
fn names_are_text_wherever_they_come_from() {
    let scratch = Scratch::new();
    let root = scratch.mkdir("<b>&'x");
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::build(server.data()).root(&root).for_server(&server);
    server.start();
    let label = |text: &str| format!("reason={text}");
    for text in HOSTILE {
        live::backing_up(&archive).args(["--label", &label(text)]).go().ok();
    }
    let page = report(&archive);
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    assert!(page.contains("&quot;&gt;&lt;img src=x onerror=alert(2)&gt;"), "{page}");
    assert!(page.contains("&lt;h1&gt;\u{fffd}\u{fffd}[31m&amp;amp;"), "{page}");
    assert!(page.contains("&lt;b&gt;&amp;&#39;x"), "{page}");
    assert!(!page.contains(['\u{202e}', '\u{1b}']));
}

#[test]
fn a_thousand_backups_make_a_page_that_can_be_read() {
    let archive = years(1000);
    let page = report(&archive);
    assert!(page.len() < 400_000, "{} bytes", page.len());
    for words in [
        "1004 backups: ",
        "A bar is the mean of 17 backups in a row.",
        "And 904 older backups",
        "The newest 60 of 100 drills",
        "And 60 older drills",
        "REFUTED",
        "could not tell",
        "rows: expected 17, found 18 &quot;&gt;&lt;img",
    ] {
        assert!(page.contains(words), "no {words:?} in the page");
    }
    let (_, chart) = page.split_once("-history-caption\">").expect("the chart");
    let (chart, _) = chart.split_once("</svg>").expect("its end");
    let marks =
        times(chart, "class=\"mark\"") + times(chart, "class=\"cross\"") + times(chart, "class=\"tick\"");
    assert!((20..200).contains(&marks), "{marks} marks");
}

#[test]
fn the_page_is_written_whole_or_not_at_all_and_goes_to_standard_output() {
    let saga = Saga::get();
    let archive = saga.archive();
    let file = written(&archive);
    assert_eq!(file.metadata().expect("the page").permissions().mode() & 0o777, 0o644);
    std::fs::write(&file, "older").expect("write an older page");
    text_of(&written(&archive));
    assert_eq!(repo::files(file.parent().expect("a directory")), std::slice::from_ref(&file));

    let page = archive.walkeep(&["report", "--html", "-"]).ok();
    assert!(page.stdout.starts_with("<!DOCTYPE html>"), "{page}");
    archive.walkeep(&["report", "--html", "/nowhere/page.html"]).is(1).told();
    archive.walkeep(&["report", "--html", "-", "--json"]).is(2).told();
    archive.walkeep(&["report"]).is(2);
    let said = archive.walkeep(&["report", "--html", file.to_str().expect("a path"), "--json"]).ok();
    let said = live::json(&said);
    assert_eq!(said["bytes"], file.metadata().expect("the page").len(), "{said}");
}

#[test]
fn every_cluster_is_on_the_page_unless_one_is_named() {
    let saga = Saga::get();
    let archive = saga.archive();
    let text = String::from_utf8(read(archive.config())).expect("text");
    let both =
        archive.scratch().write("both.toml", format!("{text}\n[cluster.other]\npgdata = \"/nowhere\"\n"));
    let run = |arguments: &[&str]| Run::of("walkeep").arg("--config").arg(&both).args(arguments).go();
    let page = run(&["report", "--html", "-"]).ok().stdout;
    is_well_formed(&page);
    assert!(page.contains("Cluster main") && page.contains("Cluster other"), "{page}");
    let page = run(&["report", "--html", "-", "--cluster", "main"]).ok().stdout;
    assert!(!page.contains("Cluster other"), "{page}");
}
