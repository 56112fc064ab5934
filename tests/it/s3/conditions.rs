//! Stores that answer a conditional create as if there were no condition: two writers would lose
//! data there.

use super::*;
use std::sync::Barrier;

/// A store of that kind, with this in the configuration.
fn deaf(line: &str) -> Remote {
    let remote = Remote::unregistered(1, |repository| repository.line(line));
    remote.proxy().inject(Rule::on("", "").deaf());
    remote
}

#[test]
fn init_refuses_a_store_that_would_let_two_writers_replace_each_other() {
    if !s3::is_own() {
        return;
    }
    let remote = deaf("conditional_create = true");
    for _ in 0..2 {
        remote.archive.init().failed().says("If-None-Match").says("hint:").says("conditional_create = false");
        let keys = remote.bucket.keys();
        assert!(!keys.iter().any(|key| key.contains("identity")), "nothing may be registered: {keys:?}");
    }
}

#[test]
fn init_refuses_a_store_that_knows_no_conditional_create() {
    if !s3::is_own() {
        return;
    }
    let remote = Remote::unregistered(1, |repository| repository);
    remote.proxy().inject(Rule::on("PUT", "").header("if-none-match", "").error(501, "NotImplemented"));
    remote.archive.init().failed().says("hint:").says("conditional_create = false");
}

#[test]
fn without_conditions_everything_works_when_it_is_asked_for() {
    if !s3::is_own() {
        return;
    }
    let remote = deaf("conditional_create = false");
    remote.archive.init().ok();
    remote.archive.init().ok();
    let names = remote.pushed(&[2, 3]);
    remote.push(&remote.segment(2)).ok();
    remote.push(&remote.segment(3).mark("of another server")).refused().says("hint:");
    remote.holds(&names[1], &remote.segment(3).bytes());
    remote.archive.fetch_ends(&remote.segment(4).name());
    remote.archive.fetch_ends("00000002.history");
    let keys = remote.bucket.keys();
    assert!(
        !keys.iter().any(|key| key.contains("/-claim/")),
        "a writer that is done leaves no claim: {keys:?}"
    );
}

#[test]
fn of_two_servers_that_archive_one_name_one_is_refused() {
    let mut remotes = vec![Remote::unregistered(1, |repository| repository)];
    if s3::is_own() {
        remotes.push(deaf("conditional_create = false"));
    }
    for remote in remotes {
        remote.archive.init().ok();
        for number in 2..5 {
            let segments = [remote.segment(number).mark("one"), remote.segment(number).mark("other")];
            let directories = ["one", "other"].map(|name| remote.scratch.mkdir(format!("{name}{number}")));
            let start = Barrier::new(2);
            let outcomes = std::thread::scope(|scope| {
                let push = |(segment, directory): (&Segment, &std::path::PathBuf)| {
                    let run = remote.archive.pushing(segment.write_into(directory));
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        run.go()
                    })
                };
                let pushes: Vec<_> = segments.iter().zip(&directories).map(push).collect();
                pushes.into_iter().map(|push| push.join().expect("a push")).collect::<Vec<_>>()
            });
            let won: Vec<usize> = (0..2).filter(|&at| outcomes[at].code() == Some(0)).collect();
            assert_eq!(won.len(), 1, "{}\n{}", outcomes[0], outcomes[1]);
            outcomes[1 - won[0]].clone().refused();
            remote.holds(&segments[0].name(), &segments[won[0]].bytes());
        }
    }
}

#[test]
fn a_writer_that_was_killed_holds_up_nobody_with_the_same_file() {
    if !s3::is_own() {
        return;
    }
    let remote = deaf("conditional_create = false");
    remote.archive.init().ok();
    let (segment, path) = remote.next();
    // It has announced itself, and dies before it stores.
    let fault =
        remote.proxy().inject(Rule::on("PUT", &format!("/{}", segment.name())).query("").nth(2).hold());
    let run = remote.archive.pushing(&path);
    let child = run.spawn();
    fault.await_hit();
    run::signal(child.id(), "KILL");
    run.finish(child);
    assert_eq!(remote.bucket.keys().iter().filter(|key| key.contains("/-claim/")).count(), 1);
    assert_eq!(remote.stored().iter().filter(|key| !key.contains("/-claim/")).count(), 0);
    remote.proxy().clear();
    remote.proxy().inject(Rule::on("", "").deaf());
    remote.archive.push(&path).ok();
    remote.holds(&segment.name(), &segment.bytes());
}
