//! The moments that can be restored are the same wherever they are reported.

use super::*;
use crate::support::saga::Saga;
use jiff::{SignedDuration, Timestamp};

/// Removes the segment of timeline 2 behind backup `c`.
fn make_gap(archive: &Archive, saga: &Saga) -> String {
    let shown = live::json(&archive.walkeep(&["show", &saga.c, "--json"]).ok());
    let last = live::text(&shown["wal"], "last");
    let number = u64::from_str_radix(&last[16..], 16).expect("a number") + 1;
    let missing = format!("{}{number:08X}", &last[..16]);
    std::fs::remove_file(archive.object(&missing)).expect("remove a segment");
    missing
}

/// Archives a timeline 3 that leaves timeline 2 at its end, with one segment and without a record
/// in it.
fn begin_idle_timeline(archive: &Archive) {
    let list = live::json(&archive.walkeep(&["list", "--json"]).is(3));
    let backup = &list["repositories"][0]["backups"][0];
    let system: u64 = live::text(backup, "system_identifier").parse().expect("a number");
    let last = live::text(&list["repositories"][0]["wal"], "last");
    let (log, low) = (&last[8..16], &last[16..]);
    let part = |text| u64::from_str_radix(text, 16).expect("a number");
    let number = (part(log) << 12 | part(low)) + 1;
    let folder = archive.scratch().mkdir("timeline3");
    let segment = Segment::new(system, 15).megabytes(1).at(3, number);
    let mut history = archive.fetched("00000002.history");
    let lsn = number << 20;
    history.extend(format!("2\t{:X}/{:X}\tno recovery target\n", lsn >> 32, lsn & 0xFFFF_FFFF).bytes());
    let file = folder.join("00000003.history");
    std::fs::write(&file, history).expect("write a history");
    archive.push(&file).ok();
    archive.push(segment.write_into(&folder)).ok();
}

fn time(value: &Value, name: &str) -> Timestamp {
    live::text(value, name).parse().expect("a time")
}

#[test]
fn list_status_metrics_report_and_a_dry_run_agree_on_what_can_be_restored() {
    let saga = Saga::get();
    let archive = saga.archive();
    let missing = make_gap(&archive, &saga);
    begin_idle_timeline(&archive);

    let list = live::json(&archive.walkeep(&["list", "--json"]).is(3));
    let listed = &list["repositories"][0];
    let (window, windows) = (&listed["window"], listed["windows"].as_array().expect("windows"));
    let (from, to) = (time(window, "from"), time(window, "to"));
    assert_eq!(listed["wal"]["gaps"][0]["first"].as_str(), Some(missing.as_str()), "{list:#}");
    // One on timeline 1, one before the gap, one behind it; none on the timeline without
    // transactions.
    let timelines: Vec<&Value> = windows.iter().map(|window| &window["timeline"]).collect();
    assert_eq!(timelines, [1, 2, 2], "{list:#}");
    for window in windows {
        assert!(time(window, "from") <= time(window, "to"), "{list:#}");
    }
    // The newest one does not reach over the gap: it begins with the backup behind it.
    let newest = listed["backups"].as_array().and_then(|backups| backups.last()).expect("a backup");
    assert_eq!(newest["id"], saga.d, "{list:#}");
    assert_eq!(window["from"], newest["stop_time"], "{list:#}");
    assert!(from < to && windows[2]["to"] == window["to"], "{list:#}");

    let report = status_is(&archive, 3, &[]);
    let seen = &report["clusters"][0]["repositories"][0];
    assert_eq!(seen["window"], *window, "{report:#}");
    assert_eq!(seen["windows"], listed["windows"], "{report:#}");
    assert_eq!(seen["gaps"], listed["wal"]["gaps"], "{report:#}");

    let metrics = archive.walkeep(&["metrics"]).ok().stdout;
    for (name, expected) in [("begin", from), ("end", to)] {
        let name = format!("walkeep_window_{name}_timestamp_seconds{{");
        let line = metrics.lines().find(|line| line.starts_with(&name)).expect("a sample");
        let (_, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        assert!((value - expected.as_microsecond() as f64 / 1e6).abs() < 1e-3, "{line}: {list:#}");
    }

    let page = archive.walkeep(&["report", "--html", "-"]).ok().stdout;
    for window in windows.iter().chain([window]) {
        for moment in ["from", "to"] {
            let moment = live::text(window, moment);
            assert!(page.contains(&format!("<time datetime=\"{moment}\">")), "no {moment} in\n{page}");
        }
    }

    let directory = archive.scratch().join("nothing");
    let directory = directory.to_str().expect("a path");
    let dry_run = |time: Option<String>| {
        // The segment of the idle timeline holds no records, so the WAL is not read.
        let mut arguments = vec!["restore", "--to", directory, "--dry-run", "--quick", "--json"];
        arguments.extend(time.iter().flat_map(|time| ["--time", time.as_str()]));
        archive.walkeep(&arguments)
    };
    let plan = live::json(&dry_run(None).ok());
    assert_eq!((&plan["window"], &plan["timeline"]), (window, &Value::from(3)), "{plan:#}");
    // And on the timeline that is alive.
    let branches = live::json(&archive.walkeep(&["timelines", "--json"]).ok());
    for alive in [&branches["repositories"][0]["alive"], &listed["timeline"], &seen["timeline"]] {
        assert_eq!(*alive, plan["timeline"], "{branches:#}");
    }
    // The end is exact: recovery to it finds a transaction that ended later, and to the next moment
    // none.
    dry_run(Some(to.to_string())).ok();
    dry_run(Some((to + SignedDuration::from_micros(1)).to_string())).is(1).says("the last transaction");
}

#[test]
fn a_damaged_segment_at_the_end_is_reported_and_ends_the_window_before_it() {
    let saga = Saga::get();
    let archive = saga.archive();
    let before = live::json(&archive.walkeep(&["list", "--json"]).ok());
    let last = live::text(&before["repositories"][0]["wal"], "last");
    repo::damage(&archive.object(&last), repo::Damage::Flip(-6));
    let listed = archive.walkeep(&["list", "--json"]).is(3).says(&last);
    let list = live::json(&listed);
    let to = |list: &Value| time(&list["repositories"][0]["window"], "to");
    assert!(to(&list) < to(&before), "{list:#}");
    let report = status_is(&archive, 3, &[]);
    assert!(shows(&report, "damage", "red").contains(&last), "{report:#}");
    assert_eq!(report["clusters"][0]["repositories"][0]["window"], list["repositories"][0]["window"]);
}
