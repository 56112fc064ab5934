//! The plan against a model that tries everything: random histories with timelines, holes, shared
//! packs, pins, running operations, and clocks that lie.

use super::world::{DAY, MB, World, at, id, segment, size};
use crate::support::each_pack;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use walkeep::pg::segment::{TimelineId, WalName};
use walkeep::repo::ObjectName;
use walkeep::repo::branches::ServerTimeline;
use walkeep::repo::pin::Pin;
use walkeep::retention::{Plan, Policy, Reason, Stock, Wishes};

/// Histories that are made up; a failure names the one that it needs.
const SEEDS: u64 = 4000;

/// Names the day, week, month or year of a moment.
type Period = Box<dyn Fn(i64) -> String>;

fn make(stock: &Stock, policy: &Policy, now: i64) -> Plan {
    Plan::make(stock, policy, &Wishes::default(), at(now)).expect("a plan")
}

fn kept(plan: &Plan) -> BTreeSet<String> {
    plan.kept.iter().map(|kept| kept.id.clone()).collect()
}

/// What the rules that go by numbers and calendar keep, for each timeline that may be alive.
fn model(world: &World, policy: &Policy, of: &BTreeSet<String>, now: i64) -> BTreeSet<String> {
    let possible = world.stock.branches(at(now)).possible();
    possible.into_iter().flat_map(|living| model_of(world, policy, of, living, now)).collect()
}

/// Found by asking for every backup how many better ones there are: those that lead to the living
/// timeline are better than all others.
fn model_of(
    world: &World,
    policy: &Policy,
    of: &BTreeSet<String>,
    living: TimelineId,
    now: i64,
) -> BTreeSet<String> {
    let mut backups: Vec<_> = world.stock.backups.iter().filter(|backup| of.contains(&backup.id)).collect();
    let history = world.stock.history(living);
    backups.sort_by_key(|backup| {
        (history.contains(backup.timeline, backup.stop_lsn), backup.timeline, backup.start_lsn)
    });
    let periods: [(Option<u32>, Period); 4] = [
        (policy.keep_daily, Box::new(|t| at(t).strftime("%Y-%m-%d").to_string())),
        (policy.keep_weekly, Box::new(|t| at(t).strftime("%G-%V").to_string())),
        (policy.keep_monthly, Box::new(|t| at(t).strftime("%Y-%m").to_string())),
        (policy.keep_yearly, Box::new(|t| at(t).strftime("%Y").to_string())),
    ];
    let mut keep = BTreeSet::new();
    for (index, backup) in backups.iter().enumerate() {
        let later = &backups[index + 1..];
        if (later.len() as u32) < policy.keep_last.unwrap_or(0) {
            keep.insert(backup.id.clone());
        }
        for (count, period) in &periods {
            let of = |backup: &walkeep::retention::Backup| period(world.ended[&backup.id].min(now));
            let later: BTreeSet<String> = later.iter().map(|backup| of(backup)).collect();
            if !later.contains(&of(backup)) && (later.len() as u32) < count.unwrap_or(0) {
                keep.insert(backup.id.clone());
            }
        }
    }
    keep
}

/// The newest of these backups that leads to a timeline.
fn newest_for(world: &World, timeline: TimelineId, of: &BTreeSet<String>) -> Option<String> {
    let history = world.stock.history(timeline);
    let leads = |backup: &&walkeep::retention::Backup| {
        of.contains(&backup.id) && history.contains(backup.timeline, backup.stop_lsn)
    };
    world.stock.backups.iter().rev().find(leads).map(|backup| backup.id.clone())
}

/// What holds whatever the clocks say.
#[track_caller]
fn check_always(seed: u64, world: &World, policy: &Policy, plan: &Plan, now: i64) {
    let all: BTreeSet<String> = world.stock.backups.iter().map(|backup| backup.id.clone()).collect();
    let kept = kept(plan);
    let removed: BTreeSet<String> = plan.remove.backups.iter().cloned().collect();
    assert_eq!(&all - &removed, kept, "seed {seed}: kept and removed are not all");
    assert!(kept.is_disjoint(&removed), "seed {seed}");
    let whole = world.whole();
    let unknown = world.has_lost() || world.stock.in_use.iter().any(|user| user.needs.is_none());
    if whole.is_empty() || policy.is_empty() || unknown {
        assert_eq!(kept, all, "seed {seed}: nothing may go");
        assert!(plan.remove.wal.is_empty(), "seed {seed}: no WAL may go");
    } else {
        assert!(!whole.is_disjoint(&kept), "seed {seed}: no whole backup is left");
        let branches = world.stock.branches(at(now));
        for timeline in branches.possible().into_iter().chain(branches.newest_wal()) {
            let newest = newest_for(world, timeline, &whole);
            let is_kept = newest.is_none_or(|newest| kept.contains(&newest));
            assert!(is_kept, "seed {seed}: the newest whole one of timeline {timeline} is gone");
        }
        // The server wrote last on this timeline, unless that segment is lost.
        if world.has_last() {
            let newest = newest_for(world, TimelineId(world.living), &whole);
            let is_kept = newest.is_none_or(|newest| kept.contains(&newest));
            assert!(is_kept, "seed {seed}: the newest whole one of the server is gone");
        }
    }
    for (id, pin) in &world.stock.pins {
        assert!(!pin.holds(at(now)) || kept.contains(id), "seed {seed}: {id} is pinned");
    }
    for user in &world.stock.in_use {
        assert!(user.needs.iter().flatten().all(|id| kept.contains(id)), "seed {seed}: in use");
    }
    check_packs(seed, world, plan, &kept, unknown);
    check_wal(seed, world, policy, plan, &whole, now);
    let after = world.without(&plan.remove);
    assert_eq!(after.whole(), &whole & &kept, "seed {seed}: a kept backup is no longer whole");
}

fn check_packs(seed: u64, world: &World, plan: &Plan, kept: &BTreeSet<String>, unknown: bool) {
    let mut live: BTreeSet<ObjectName> = BTreeSet::new();
    for backup in world.stock.backups.iter().filter(|backup| kept.contains(&backup.id)) {
        live.extend(each_pack(&backup.packs).map(|(id, number)| ObjectName::Pack(id.to_owned(), number)));
        live.extend(backup.manifest.keys().map(|(id, number)| ObjectName::Manifest(id.clone(), *number)));
    }
    for (id, data) in &world.stock.data {
        let making = world.stock.in_use.iter().any(|user| user.backup.as_ref() == Some(id));
        if making || unknown {
            live.extend(data.packs.keys().map(|number| ObjectName::Pack(id.clone(), *number)));
            live.extend(data.manifests.keys().map(|number| ObjectName::Manifest(id.clone(), *number)));
        }
    }
    let gone: BTreeSet<ObjectName> = plan.remove.data.iter().map(|(name, _)| name.clone()).collect();
    let stored = world.stock.data.iter().flat_map(|(id, data)| {
        let packs = data.packs.keys().map(|number| ObjectName::Pack(id.clone(), *number));
        packs.chain(data.manifests.keys().map(|number| ObjectName::Manifest(id.clone(), *number)))
    });
    for name in stored {
        assert_eq!(!live.contains(&name), gone.contains(&name), "seed {seed}: {name}");
    }
}

/// Segment by segment: exactly what is of no use to anybody goes.
fn check_wal(seed: u64, world: &World, policy: &Policy, plan: &Plan, whole: &BTreeSet<String>, now: i64) {
    let gone: BTreeSet<ObjectName> = plan.remove.wal.iter().map(|(name, _)| name.clone()).collect();
    let because: BTreeMap<&String, &Vec<Reason>> =
        plan.kept.iter().map(|kept| (&kept.id, &kept.because)).collect();
    let backups = || world.stock.backups.iter().filter(|backup| because.contains_key(&backup.id));
    let forward = |backup: &&walkeep::retention::Backup| because[&backup.id][..] != [Reason::PinStandalone];
    for (name, _) in &world.stock.wal {
        let (WalName::Segment(segment) | WalName::Backup(segment, _)) = *name else {
            assert!(!gone.contains(&ObjectName::Wal(*name)), "seed {seed}: history files stay");
            continue;
        };
        let number = segment.number(size());
        let stays = policy.is_empty()
            || whole.is_empty()
            || world.has_lost()
            || backups().filter(forward).any(|backup| backup.first() <= number)
            || world.stock.in_use.iter().any(|user| user.wal_from.is_none_or(|lsn| lsn.0 / MB <= number))
            || backups().any(|backup| {
                world.stock.pins.get(&backup.id).is_some_and(|pin| pin.standalone && pin.holds(at(now)))
                    && (backup.first()..=backup.wal.last.number(size())).contains(&number)
                    && segment.timeline <= backup.timeline
            });
        assert_eq!(!stays, gone.contains(&ObjectName::Wal(*name)), "seed {seed}: {name}");
    }
    let order: Vec<u64> = plan
        .remove
        .wal
        .iter()
        .filter_map(|(name, _)| match name {
            ObjectName::Wal(WalName::Segment(name) | WalName::Backup(name, _)) => Some(name.number(size())),
            _ => None,
        })
        .collect();
    assert!(order.is_sorted(), "seed {seed}: a crash would leave holes");
}

/// Every moment of the window that could be restored still can.
#[track_caller]
fn check_window(seed: u64, world: &World, plan: &Plan, from: i64) {
    let after = world.without(&plan.remove);
    for ((timeline, number), moment) in &world.moments {
        if *moment > from && world.reaches(*timeline, *number) {
            assert!(
                after.reaches(*timeline, *number),
                "seed {seed}: {} of {} is no longer restorable",
                segment(*timeline, *number),
                at(*moment)
            );
        }
    }
}

#[test]
fn the_plan_agrees_with_a_model_that_tries_everything() {
    for seed in 0..SEEDS {
        let mut world = World::make(seed, false);
        let policy = world.policy();
        let now = world.end + (seed % 20) as i64 * DAY;
        let plan = make(&world.stock, &policy, now);
        check_always(seed, &world, &policy, &plan, now);
        let again = make(&world.without(&plan.remove).stock, &policy, now);
        assert!(again.remove.is_empty(), "seed {seed}: a second prune removes {:?}", again.remove);
        let kept = kept(&plan);
        let all = world.stock.backups.iter().map(|backup| backup.id.clone()).collect();
        assert!(!world.has_lost() || plan.remove.is_empty(), "seed {seed}: it may need anything");
        let wanted = &model(&world, &policy, &world.whole(), now) | &model(&world, &policy, &all, now);
        assert!(wanted.is_subset(&kept), "seed {seed}: {:?} missing", &wanted - &kept);
        match policy.keep_within {
            Some(within) => check_window(seed, &world, &plan, now - within.as_secs() as i64),
            None if !policy.is_empty() && !world.has_lost() => {
                for kept in &plan.kept {
                    let by_rule = kept.because.iter().any(|reason| *reason <= Reason::KeepYearly);
                    assert_eq!(by_rule, wanted.contains(&kept.id), "seed {seed}: {}", kept.id);
                }
            }
            None => {}
        }
    }
}

#[test]
fn clocks_that_lie_cost_no_backup_that_a_number_keeps() {
    for seed in 0..SEEDS {
        let mut world = World::make(seed, true);
        let policy = world.policy();
        let now = world.end + (seed % 800) as i64 * DAY - 400 * DAY;
        let plan = make(&world.stock, &policy, now);
        check_always(seed, &world, &policy, &plan, now);
        let last = Policy { keep_last: policy.keep_last, ..Policy::default() };
        assert!(model(&world, &last, &world.whole(), now).is_subset(&kept(&plan)), "seed {seed}");
    }
}

#[test]
fn a_clock_that_jumps_ahead_does_not_let_the_window_go() {
    for seed in 0..SEEDS / 4 {
        let world = World::make(seed, false);
        let policy = Policy { keep_within: Some(Duration::from_secs(7 * DAY as u64)), ..Policy::default() };
        let plan = make(&world.stock, &policy, world.end + 400 * DAY);
        check_window(seed, &world, &plan, world.end - 7 * DAY);
    }
}

#[test]
fn a_server_whose_clock_was_late_or_early_once_keeps_the_window() {
    for seed in 0..SEEDS / 4 {
        let mut world = World::make(seed, false);
        let count = world.stock.backups.len();
        if count == 0 {
            continue;
        }
        let (liar, days) = (seed as usize % count, if seed % 2 == 0 { 400 } else { -400 });
        let backup = &mut world.stock.backups[liar];
        backup.stop_time = at(backup.stop_time.as_second() + days * DAY);
        let policy = Policy { keep_within: Some(Duration::from_secs(7 * DAY as u64)), ..Policy::default() };
        let plan = make(&world.stock, &policy, world.end);
        check_window(seed, &world, &plan, world.end - 7 * DAY);
    }
}

#[test]
fn the_backup_before_the_window_is_kept_and_the_one_before_that_is_not() {
    let mut world = three_backups([10, 8, 3]);
    let policy = Policy { keep_within: Some(Duration::from_secs(7 * DAY as u64)), ..Policy::default() };
    let plan = make(&world.stock, &policy, world.end);
    assert_eq!(plan.remove.backups, [id(0)]);
    assert_eq!(plan.remove.segments(), 2);
    // Pinned with its own WAL alone it stays, and so does that.
    world.stock.pins.insert(id(0), Pin { until: None, standalone: true });
    let plan = make(&world.stock, &policy, world.end);
    assert!(plan.remove.backups.is_empty());
    assert_eq!(plan.remove.segments(), 1, "{:?}", plan.remove.wal);
}

#[test]
fn the_last_whole_backup_stays_whatever_the_rules_and_damaged_ones_do_not_count() {
    let mut world = three_backups([10, 8, 3]);
    world.stock.backups[1].is_complete = false;
    world.stock.backups[2].is_complete = false;
    let policy = Policy { keep_last: Some(1), ..Policy::default() };
    let plan = make(&world.stock, &policy, world.end);
    assert_eq!(kept(&plan), [id(0), id(2)].into());
    // By name neither it nor a pinned one goes.
    let discard = |ids: &[u64]| Wishes { discard: ids.iter().map(|n| id(*n)).collect(), ..Wishes::default() };
    let now = at(world.end);
    assert!(Plan::make(&world.stock, &policy, &discard(&[0]), now).is_err());
    let plan = Plan::make(&world.stock, &policy, &discard(&[1]), now).expect("a plan");
    assert_eq!(plan.remove.backups, [id(1)]);
    world.stock.pins.insert(id(1), Pin { until: None, standalone: false });
    assert!(Plan::make(&world.stock, &policy, &discard(&[1]), now).is_err());
}

#[test]
fn a_record_that_cannot_be_read_keeps_everything_until_it_is_given_up() {
    let mut world = three_backups([10, 8, 3]);
    let unreadable = world.stock.backups.remove(1).id;
    world.stock.unreadable.push(unreadable.clone());
    let policy = Policy { keep_last: Some(1), ..Policy::default() };
    let plan = make(&world.stock, &policy, world.end);
    assert!(plan.remove.is_empty());
    assert_eq!(plan.problems.len(), 1);
    let wishes = Wishes { discard: [unreadable.clone()].into(), ..Wishes::default() };
    let plan = Plan::make(&world.stock, &policy, &wishes, at(world.end)).expect("a plan");
    assert_eq!(plan.remove.backups, [unreadable]);
    assert_eq!(kept(&plan).len(), 2);
}

#[test]
fn a_dead_branch_takes_no_place_from_the_server_that_goes_on() {
    // A promotion by mistake after the first backup; its branch is backed up, far ahead.
    let mut world = three_backups([10, 3, 2]);
    let fork = world.stock.backups[0].first() + 1;
    world.fork(2, 1, fork);
    world.end = super::world::START + 11 * DAY;
    world.simple_backup_on(2, fork + 30);
    world.end = super::world::START + 20 * DAY;
    world.finish();
    let living: BTreeSet<String> = [id(1), id(2)].into();
    let dead = id(3);
    for policy in [
        Policy { keep_last: Some(2), ..Policy::default() },
        Policy { keep_daily: Some(2), ..Policy::default() },
    ] {
        let plan = make(&world.stock, &policy, world.end);
        assert_eq!(kept(&plan), living, "{policy:?}");
    }
    // One that is kept all the same is shown as what it is.
    world.stock.pins.insert(dead.clone(), Pin { until: None, standalone: false });
    let plan = make(&world.stock, &Policy { keep_last: Some(1), ..Policy::default() }, world.end);
    let dead_ones: Vec<_> = plan.kept.iter().filter(|kept| kept.dead == Some(TimelineId(2))).collect();
    assert_eq!(dead_ones.len(), 1, "{plan:?}");
    assert_eq!(dead_ones[0].id, dead);
    // A backup that was made when the clock was a year ahead is not the newest for ever.
    let position = world.stock.backups.iter().position(|backup| backup.id == dead).expect("there");
    world.stock.pins.clear();
    world.stock.backups[position].stop_time = at(world.end + 365 * DAY);
    let plan = make(&world.stock, &Policy { keep_last: Some(2), ..Policy::default() }, world.end);
    assert_eq!(kept(&plan), living);
}

#[test]
fn the_line_of_a_backup_that_was_just_taken_is_kept_even_if_other_wal_is_newer() {
    // The server of timeline 2 goes on archiving; nobody knows which one is meant.
    let mut world = three_backups([10, 3, 2]);
    let fork = world.stock.backups[0].first() + 1;
    world.fork(2, 1, fork);
    world.end = super::world::START + 19 * DAY;
    world.simple_backup_on(2, fork + 30);
    world.stock.backups.iter_mut().find(|b| b.id == id(3)).expect("there").stop_time =
        at(super::world::START + 11 * DAY);
    world.end = super::world::START + 20 * DAY;
    world.finish();
    let plan = make(&world.stock, &Policy { keep_last: Some(1), ..Policy::default() }, world.end);
    assert_eq!(kept(&plan), [id(2), id(3)].into());
    // The server decides.
    world.stock.server = ServerTimeline::running(TimelineId(1));
    let plan = make(&world.stock, &Policy { keep_last: Some(1), ..Policy::default() }, world.end);
    assert_eq!(kept(&plan), [id(2), id(3)].into(), "WAL still arrives on timeline 2");
    world.stock.retired.insert(TimelineId(2));
    let plan = make(&world.stock, &Policy { keep_last: Some(1), ..Policy::default() }, world.end);
    assert_eq!(kept(&plan), [id(2)].into());
}

/// Backups that ended so many days ago, each with a segment of its own and one behind it.
fn three_backups(ages: [i64; 3]) -> World {
    let mut world = World::empty();
    for age in ages {
        world.end = super::world::START + (20 - age) * DAY;
        world.simple_backup();
    }
    world.end = super::world::START + 20 * DAY;
    world.finish();
    world
}

#[test]
fn timelines_that_nobody_lived_on_since_the_window_began_let_go_of_their_backups() {
    let mut world = World::empty();
    world.end = super::world::START;
    world.simple_backup();
    world.simple_backup();
    let abandoned = world.stock.backups[1].id.clone();
    // Back to between the two.
    let fork = world.stock.backups[1].first();
    world.fork(2, 1, fork);
    world.end += 20 * DAY;
    world.simple_backup_on(2, fork + 5);
    world.finish();
    let policy = Policy { keep_within: Some(Duration::from_secs(30 * DAY as u64)), ..Policy::default() };
    let plan = make(&world.stock, &policy, world.end);
    assert_eq!(kept(&plan).len(), 3, "the branch was alive within the window");
    let policy = Policy { keep_within: Some(Duration::from_secs(7 * DAY as u64)), ..Policy::default() };
    let plan = make(&world.stock, &policy, world.end);
    assert_eq!(plan.remove.backups, [abandoned]);
    assert!(world.stock.histories.contains_key(&TimelineId(2)));
}
