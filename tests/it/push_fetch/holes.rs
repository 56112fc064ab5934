//! "There is no such file" ends a recovery. It is said only where the archive ends, never where it
//! has a hole.

use super::*;

#[test]
fn behind_the_last_segment_the_archive_ends() {
    let site = Site::new();
    site.archive.fetch_ends(&site.segment(2).name());
    site.pushed(&[2, 3]);
    site.archive.fetch_ends(&site.segment(4).name());
    site.archive.fetch_ends(&site.segment(9_000_000).name());
    let mut other = site.segment(2);
    other.timeline = 2;
    site.archive.fetch_ends(&other.name());
}

#[test]
fn a_missing_segment_with_a_later_one_behind_it_is_a_hole() {
    let site = Site::new();
    site.pushed(&[2, 5]);
    for number in [0, 1, 3, 4] {
        let outcome = site.archive.fetch_fails(&site.segment(number).name());
        outcome.says(&site.segment(number).name());
    }
    site.archive.fetch_ends(&site.segment(6).name());
    site.pushed(&[3, 4]);
    site.holds(&site.segment(3).name(), &site.segment(3).bytes());
}

#[test]
fn a_hole_is_seen_across_the_end_of_a_log_and_for_every_segment_size() {
    for megabytes in [1, 16, 64] {
        let site = Site::with(15, SYSTEM, megabytes);
        let in_log = 4096 / megabytes;
        site.pushed(&[in_log - 2, 3 * in_log]);
        for number in [in_log - 1, in_log, 2 * in_log + 1, 3 * in_log - 1] {
            site.archive.fetch_fails(&site.segment(number).name());
        }
        site.archive.fetch_ends(&site.segment(3 * in_log + 1).name());
    }
}

#[test]
fn a_hole_belongs_to_its_timeline() {
    let site = Site::new();
    site.pushed(&[2]);
    let mut later = site.segment(7).header_timeline(1);
    later.timeline = 2;
    site.push(&later).ok();
    // Timeline 1 ended behind segment 2, as far as anybody knows; 2 began with 7.
    site.archive.fetch_ends(&site.segment(3).name());
    let mut before = later.clone();
    before.number = 6;
    site.archive.fetch_fails(&before.name());
    let mut behind = later.clone();
    behind.number = 8;
    site.archive.fetch_ends(&behind.name());
}

#[test]
fn partial_segments_and_labels_are_no_later_segments() {
    let site = Site::new();
    site.pushed(&[2]);
    let partial = site.segment(5);
    let name = format!("{}.partial", partial.name());
    site.archive.push(site.data.write_other(&name, partial.bytes())).ok();
    site.archive.fetch_ends(&partial.name());
    let label = format!("{}.00000028.backup", site.segment(2).name());
    site.archive.push(site.data.write_other(&label, LABEL)).ok();
    site.archive.fetch_ends(&site.segment(3).name());
}

#[test]
fn a_missing_history_file_with_a_higher_one_is_a_hole() {
    let site = Site::new();
    for number in [3, 5] {
        let name = format!("{number:08X}.history");
        site.archive.push(site.data.write_other(&name, "1\t0/3000000\tx\n")).ok();
    }
    site.archive.fetch_fails("00000002.history");
    site.archive.fetch_fails("00000004.history");
    site.archive.fetch_ends("00000001.history");
    site.archive.fetch_ends("00000006.history");
    site.holds("00000003.history", b"1\t0/3000000\tx\n");
}

#[test]
fn timelines_are_counted_in_hexadecimal() {
    let site = Site::new();
    site.archive.push(site.data.write_other("00000010.history", "1\t0/3000000\tx\n")).ok();
    site.archive.fetch_fails("00000009.history");
    site.archive.fetch_fails("0000000A.history");
    site.archive.fetch_fails("0000000F.history");
    site.archive.fetch_ends("00000011.history");
}

#[test]
fn a_missing_label_or_partial_segment_ends_nothing_and_is_a_plain_no() {
    let site = Site::new();
    site.pushed(&[2]);
    site.archive.fetch_ends(&format!("{}.00000028.backup", site.segment(2).name()));
    site.archive.fetch_ends(&format!("{}.partial", site.segment(3).name()));
}
