//! Many objects: none is missed where a listing goes from folder to folder and from page to page.

use super::*;

/// A folder holds 4096 segments of 1 MB, a page of a listing 1000.
const LAST: u64 = 9000;

#[test]
fn each_of_many_segments_is_counted_and_the_one_that_is_missing_is_named() {
    let site = Site::new();
    let first = site.pushed(&[1]).remove(0);
    let stored = site.archive.object(&first);
    let timeline = stored.parent().and_then(|folder| folder.parent()).expect("a folder").to_owned();
    let missing = 4096 + 904;
    let mut bytes = stored.metadata().expect("the first one").len();
    for number in (2..=LAST).filter(|number| *number != missing) {
        let name = site.segment(number).name();
        let folder = timeline.join(&name[8..16]);
        std::fs::create_dir_all(&folder).expect("make a folder");
        let content = vec![b'x'; number as usize % 7];
        bytes += content.len() as u64;
        std::fs::write(folder.join(&name), content).expect("write an object");
    }
    // What has no name of ours is not counted, whatever it is.
    std::fs::write(timeline.join("00000000/.hidden"), "no object").expect("write a file");
    let next = site.segment(LAST + 1).name();
    std::os::unix::fs::symlink(&stored, timeline.join(&next[8..16]).join(next)).expect("a link");
    let report = status_is(&site.archive, 3, &[]);
    let repository = &report["clusters"][0]["repositories"][0];
    assert_eq!(repository["stored"]["wal"], bytes, "{report:#}");
    assert_eq!(repository["newest"], site.segment(LAST).name(), "{report:#}");
    let name = site.segment(missing).name();
    assert_eq!(
        repository["gaps"],
        serde_json::json!([{"timeline": 1, "first": name, "last": name}]),
        "{report:#}"
    );
}
