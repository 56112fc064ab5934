//! Stored bytes that are not what they were: they are never handed over, and never taken for an
//! end.

use super::repo::{Damage, damage, swap};
use super::*;

/// Damages the object, fetches, and accepts only two ends: an error, or exactly the right bytes.
#[track_caller]
fn never_wrong(site: &Site, segment: &Segment, kind: Damage) -> Outcome {
    let object = site.archive.object(&segment.name());
    let intact = read(&object);
    damage(&object, kind);
    let outcome = site.archive.fetch(&segment.name());
    if outcome.code() == Some(0) {
        let delivered = read(site.archive.destination());
        assert!(delivered == segment.bytes(), "{kind:?}: wrong bytes were handed over\n{outcome}");
    } else {
        assert_eq!(outcome.code(), Some(200), "{kind:?}\n{outcome}");
        assert!(!site.archive.destination().exists(), "{kind:?}\n{outcome}");
    }
    let _ = std::fs::remove_file(&object);
    scratch::write(&object, intact);
    outcome
}

fn site(compression: &str) -> Site {
    Site::build(|build| build.wal(&format!("compression = \"{compression}\"")))
}

#[test]
fn a_flipped_bit_anywhere_is_never_handed_over() {
    for compression in ["zstd", "none"] {
        let site = site(compression);
        for (segment, is_dense) in [(site.segment(2).noise(), true), (site.segment(3), false)] {
            site.push(&segment).ok();
            let object = read(site.archive.object(&segment.name()));
            let size = object.len() as i64;
            // A decoder ignores this bit of the first byte behind the magic number (RFC 8878, 3.1.1.1.1).
            let has_no_meaning = |at: i64| object[..at as usize].ends_with(&[0x28, 0xB5, 0x2F, 0xFD]);
            let content = (512..size).step_by(1.max((size as usize - 512) / 12));
            for at in content.chain([512, size / 2, size - 1, size - 4]) {
                let outcome = never_wrong(&site, &segment, Damage::Flip(at));
                // Frames that hold next to nothing have bits without a meaning: then what is
                // delivered is right.
                if is_dense && !has_no_meaning(at) {
                    assert_ne!(outcome.code(), Some(0), "{compression}: byte {at} of {size}");
                    outcome.fatal();
                }
            }
            for at in (0..512).step_by(9) {
                never_wrong(&site, &segment, Damage::Flip(at));
            }
            site.holds(&segment.name(), &segment.bytes());
        }
    }
}

#[test]
fn a_shortened_emptied_or_zeroed_object_is_never_handed_over() {
    for compression in ["zstd", "none"] {
        let site = site(compression);
        for segment in [site.segment(2).noise(), site.segment(3)] {
            site.push(&segment).ok();
            for at in [1, 8, 511, 512, 513, -1, -5, -40] {
                never_wrong(&site, &segment, Damage::Truncate(at)).fatal();
            }
            never_wrong(&site, &segment, Damage::Empty).fatal();
            never_wrong(&site, &segment, Damage::Grow);
        }
        let segment = site.segment(2).noise();
        for length in [16, 8192, 500_000, 1 << 24] {
            never_wrong(&site, &segment, Damage::ZeroTail(length)).fatal();
        }
    }
}

#[test]
fn a_damaged_object_is_an_error_that_names_it() {
    let site = Site::new();
    let name = site.pushed(&[2]).remove(0);
    damage(&site.archive.object(&name), Damage::Flip(-10));
    site.archive.fetch_fails(&name).says(&name);
}

#[test]
fn an_object_under_another_name_is_never_handed_over() {
    let site = Site::new();
    let names = site.pushed(&[4, 5]);
    let (four, five) = (site.archive.object(&names[0]), site.archive.object(&names[1]));
    swap(&four, &five);
    for name in &names {
        site.archive.fetch_fails(name);
    }
    swap(&four, &five);
    // A segment of a later timeline under the name of an earlier one.
    let mut later = site.segment(6);
    later.timeline = 2;
    site.push(&later).ok();
    std::fs::remove_file(&five).expect("remove an object");
    std::fs::copy(site.archive.object(&later.name()), &five).expect("plant an object");
    site.archive.fetch_fails(&names[1]);
    site.holds(&names[0], &site.segment(4).bytes());
}

#[test]
fn files_without_a_page_header_are_known_by_their_name_as_well() {
    let site = Site::new();
    for (name, text) in
        [("00000003.history", HISTORY.to_owned()), ("00000004.history", format!("{HISTORY}# 4"))]
    {
        site.archive.push(site.data.write_other(name, text)).ok();
    }
    swap(&site.archive.object("00000003.history"), &site.archive.object("00000004.history"));
    site.archive.fetch_fails("00000003.history");
    site.archive.fetch_fails("00000004.history");
    // The unfinished segment that a promotion leaves has the header of the finished one.
    let (partial, whole) = (site.segment(5).mark("half"), site.segment(5).mark("whole"));
    let name = format!("{}.partial", partial.name());
    site.archive.push(site.data.write_other(&name, partial.bytes())).ok();
    site.push(&whole).ok();
    swap(&site.archive.object(&name), &site.archive.object(&whole.name()));
    site.archive.fetch_fails(&name);
    site.archive.fetch_fails(&whole.name());
}

#[test]
fn history_files_and_labels_are_checked_as_well() {
    let site = Site::new();
    for (name, text) in [("00000002.history", HISTORY), ("000000010000000000000002.00000028.backup", LABEL)] {
        site.archive.push(site.data.write_other(name, text)).ok();
        let object = site.archive.object(name);
        let intact = read(&object);
        for kind in [Damage::Flip(-6), Damage::Truncate(-6), Damage::Empty, Damage::ZeroTail(8)] {
            damage(&object, kind);
            site.archive.fetch_fails(name);
            std::fs::remove_file(&object).expect("remove the object");
            scratch::write(&object, &intact);
        }
        site.holds(name, text.as_bytes());
    }
}

#[test]
fn a_plain_file_put_into_the_archive_by_hand_is_never_handed_over() {
    let site = Site::new();
    let segment = site.segment(2);
    site.push(&segment).ok();
    let object = site.archive.object(&segment.name());
    std::fs::remove_file(&object).expect("remove the object");
    // Not even the right one: nothing proves it.
    segment.write_to(&object);
    site.archive.fetch_fails(&segment.name());
    std::fs::remove_file(&object).expect("remove the object");
    std::fs::create_dir(&object).expect("make a directory");
    site.archive.fetch_fails(&segment.name());
}
