//! Values of `repo` on random input, each against a simple model.

use crate::support::each_pack;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use walkeep::codec::hash::block_hash;
use walkeep::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use walkeep::repo::catalog::Inventory;
use walkeep::repo::data::{Data, NamedPacks, named};
use walkeep::repo::entry::{Extent, FileEntry, Owner, StoredPath};
use walkeep::repo::pack_name;
use walkeep::repo::packset::PackSet;
use walkeep::repo::ranges::{mismatched_blocks, stored_ranges};

const IDS: [&str; 3] = ["20261121T081502Z-1f3a9c", "20261122T081502Z-2f3a9c", "20261123T081502Z-3f3a9c"];

fn packs() -> impl Strategy<Value = Vec<(usize, u32)>> {
    prop::collection::vec((0..IDS.len(), 1..40_u32), 0..80)
}

fn set(packs: &[(usize, u32)]) -> PackSet {
    let mut set = PackSet::default();
    for (id, number) in packs {
        set.insert(&format!("data/{}", pack_name(IDS[*id], *number))).expect("the key of a pack");
    }
    set
}

fn segments() -> impl Strategy<Value = BTreeSet<(u32, u64)>> {
    prop::collection::btree_set((1..4_u32, 0..40_u64), 0..80)
}

fn size() -> SegmentSize {
    SegmentSize::try_from(1 << 20).expect("a size")
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::of_number(TimelineId(timeline), number, size())
}

fn inventory(segments: &BTreeSet<(u32, u64)>) -> Inventory {
    let mut inventory = Inventory::new(size());
    for (timeline, number) in segments {
        let stored = jiff::Timestamp::from_second(*number as i64).expect("a time");
        inventory.add(WalName::Segment(name(*timeline, *number)), stored, 10);
    }
    inventory
}

/// The segments of an inventory, one by one.
fn listed(inventory: &Inventory) -> Vec<(u32, u64)> {
    let runs =
        inventory.runs().iter().flat_map(|(timeline, runs)| runs.iter().map(move |run| (timeline.0, run)));
    runs.flat_map(|(timeline, run)| {
        (run.first.number(size())..=run.last.number(size())).map(move |number| (timeline, number))
    })
    .collect()
}

proptest! {
    #[test]
    fn a_set_of_packs_is_compared_with_a_listing_by_runs(wanted in packs(), listed in packs()) {
        let set = set(&wanted);
        let mut data: BTreeMap<String, Data> = BTreeMap::new();
        for (id, number) in &listed {
            data.entry(IDS[*id].to_owned()).or_default().packs.insert(*number, u64::from(*number) + 7);
        }
        let has = |id: &str, number: u32| data.get(id).is_some_and(|data| data.packs.contains_key(&number));
        let mut found = Vec::new();
        for pack in named(&set, &data) {
            match pack {
                NamedPacks::Listed(id, number, size) => {
                    prop_assert!(has(id, number));
                    prop_assert_eq!(size, u64::from(number) + 7);
                    found.push((id, number));
                }
                NamedPacks::Missing(id, first, last) => {
                    prop_assert!((first..=last).all(|number| !has(id, number)));
                    found.extend((first..=last).map(|number| (id, number)));
                }
            }
        }
        prop_assert_eq!(found, each_pack(&set).collect::<Vec<_>>());
    }

    #[test]
    fn a_set_of_packs_holds_what_was_added(packs in packs(), more in packs()) {
        let mut model: BTreeSet<(&str, u32)> = packs.iter().map(|(id, number)| (IDS[*id], *number)).collect();
        let mut set = set(&packs);
        prop_assert_eq!(each_pack(&set).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
        set.extend(&self::set(&more));
        model.extend(more.iter().map(|(id, number)| (IDS[*id], *number)));
        prop_assert_eq!(each_pack(&set).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!((set.len(), set.is_empty()), (model.len() as u64, model.is_empty()));
        for (id, number) in IDS.iter().flat_map(|id| (0..42).map(move |number| (*id, number))) {
            prop_assert_eq!(set.contains(id, number), model.contains(&(id, number)));
        }
        // The runs are sorted and apart: one set has one form.
        let json = serde_json::to_string(&set).expect("JSON");
        prop_assert_eq!(&serde_json::from_str::<PackSet>(&json).expect("a set"), &set);
        let runs: BTreeMap<String, Vec<(u32, u32)>> = serde_json::from_str(&json).expect("runs");
        for pair in runs.values().flat_map(|runs| runs.windows(2)) {
            prop_assert!(pair[0].1 + 1 < pair[1].0, "{}", json);
        }
    }

    #[test]
    fn an_inventory_holds_what_was_added_and_its_gaps_are_the_rest(segments in segments()) {
        let inventory = inventory(&segments);
        prop_assert_eq!(listed(&inventory), segments.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(inventory.bytes, 10 * segments.len() as u64);
        let mut filled = segments.clone();
        let mut whole = inventory.clone();
        for gap in inventory.gaps() {
            let numbers = gap.first.number(size())..=gap.last.number(size());
            for number in numbers {
                prop_assert!(filled.insert((gap.timeline.0, number)), "{:?} is no gap", gap);
            }
            whole = whole.filled(&gap);
        }
        prop_assert_eq!(listed(&whole), filled.iter().copied().collect::<Vec<_>>());
        prop_assert!(whole.gaps().is_empty());
        prop_assert!(whole.runs().values().all(|runs| runs.len() == 1));
    }

    #[test]
    fn an_inventory_without_a_segment_lacks_that_one(segments in segments(), timeline in 1..4_u32, number in 0..40_u64) {
        let mut model = segments.clone();
        model.remove(&(timeline, number));
        let without = inventory(&segments).without(name(timeline, number));
        prop_assert_eq!(listed(&without), model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn each_wanted_block_of_a_file_is_read_once_and_in_its_place(
        // Pack, frame in it, blocks of the frame before, blocks.
        extents in prop::collection::vec((0..3_u32, 0..6_u64, 0..3_u32, 1..5_u32), 1..20),
        short in 0..8192_u64,
    ) {
        let file = file(&extents, short);
        let numbers: Vec<usize> = file.extents().flat_map(|(blocks, _)| blocks).collect();
        prop_assert_eq!(&numbers, &(0..file.hashes.len()).collect::<Vec<_>>());
        let is_wanted = |block: usize| !block.is_multiple_of(3);
        let ranges = stored_ranges([&file], |_, _, blocks| {
            blocks.filter(|block| is_wanted(*block)).map(|block| block..block + 1).collect::<Vec<_>>()
        });
        let mut seen = Vec::new();
        for range in &ranges {
            prop_assert!(range.begin < range.end);
            for frame in &range.frames {
                prop_assert!(range.begin <= frame.offset && frame.offset + u64::from(frame.length) <= range.end);
                for wanted in &frame.pieces {
                    prop_assert_eq!(wanted.offset..wanted.offset + wanted.length as u64, file.bytes_of(&wanted.blocks));
                    let holds = file.extents().any(|(blocks, extent)| {
                        (extent.pack, extent.offset) == (range.pack, frame.offset)
                            && blocks.start <= wanted.blocks.start
                            && wanted.blocks.end <= blocks.end
                            && wanted.skip == extent.skip as usize + (wanted.blocks.start - blocks.start) * 8192
                    });
                    prop_assert!(holds, "{:?}", wanted.blocks);
                    seen.extend(wanted.blocks.clone());
                }
            }
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, numbers.into_iter().filter(|block| is_wanted(*block)).collect::<Vec<_>>());
    }

    #[test]
    fn mismatched_blocks_reach_from_the_first_to_the_last(
        bad in prop::collection::btree_set(0..12_usize, 0..4), rest in 1..512_usize,
    ) {
        let mut bytes: Vec<u8> = (0..11 * 512 + rest).map(|at| (at / 512) as u8).collect();
        let expected: Vec<_> = bytes.chunks(512).map(block_hash).collect();
        for block in &bad {
            bytes[block * 512] ^= 1;
        }
        let found = mismatched_blocks(&bytes, 512, &expected);
        prop_assert_eq!(found, bad.first().zip(bad.last()).map(|(first, last)| *first..last + 1));
    }
}

/// A file of these extents, the last block of which is short.
fn file(extents: &[(u32, u64, u32, u32)], short: u64) -> FileEntry {
    let blocks: u32 = extents.iter().map(|(_, _, _, blocks)| blocks).sum();
    let mut file = FileEntry {
        path: StoredPath(b"base/1/1259".to_vec()),
        size: u64::from(blocks) * 8192 - short,
        mode: 0o600,
        owner: Owner { owner: "postgres".into(), group: "postgres".into() },
        modified: 0,
        crc32c: None,
        block: 8192,
        hashes: vec![block_hash(b""); blocks as usize],
        at: Vec::new(),
    };
    for (pack, frame, skipped, blocks) in extents {
        let offset = 512 + frame * 200_000;
        file.add(Extent { pack: *pack, offset, length: 1000, skip: skipped * 8192, blocks: *blocks });
    }
    file
}
