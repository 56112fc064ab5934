//! `check --wal`: what another server has archived in the place of this one.

use super::*;
use std::path::Path;

/// A copy of the stopped data directory that archives as the original does.
fn clone_of(live: &Live) -> Cluster {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    scratch::copy_tree(live.server.data(), &data);
    Cluster::over(scratch, data)
}

#[test]
fn the_right_server_gets_its_place_back_from_a_clone_that_archived_first() {
    let live = healthy();
    let (server, archive) = (&live.server, &live.archive);
    server.psql("create table t as select 1 as i");
    live.flush_wal();
    server.stop(Stop::Fast);
    let clone = clone_of(&live);
    clone.start();
    for _ in 0..3 {
        clone.psql("insert into t values (7)");
        let name = clone.switch_wal();
        clone.await_archived(&name);
    }
    clone.stop(Stop::Fast);
    server.start();
    server.psql("insert into t values (2)");
    let name = server.switch_wal();
    server.await_sql("select failed_count > 0 from pg_stat_archiver", "t");
    let log = server.log_text();
    assert!(log.contains("walpush: hint:") && log.contains("walkeep check --wal"), "{log}");
    shows(&check(archive, 3), "archiver", "failed", &name);
    let report = live::json(&archive.walkeep(&["check", "--wal", "--json"]).is(3));
    let foreign = report["foreign"].as_array().expect("a list");
    // Also the segment that the server has not reached yet.
    assert!(foreign.len() >= 3, "{report:#}");
    assert!(foreign.iter().any(|foreign| foreign["name"] == *name), "{report:#}");
    let names: Vec<String> = foreign.iter().map(|foreign| live::text(foreign, "name")).collect();
    let originals: Vec<Vec<u8>> = names.iter().map(|name| read(archive.object(name))).collect();
    archive.walkeep(&["check", "--wal", "--move-aside"]).ok();
    let kept: Vec<Vec<u8>> = repo::files(&archive.root().join("main"))
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "aside"))
        .map(|path: std::path::PathBuf| read(Path::new(&path)))
        .collect();
    assert!(originals.iter().all(|original| kept.contains(original)), "something was deleted");
    server.psql("insert into t values (3)");
    let last = server.switch_wal();
    server.await_archived(&last);
    check(archive, 0);
    live.backup();
    for verb in ["list", "status", "verify"] {
        archive.walkeep(&[verb]).ok();
    }
    archive.walkeep(&["check", "--wal"]).ok();
    let restored = live.restore(&[]).recovered();
    assert_eq!(restored.psql("select string_agg(i::text, ',' order by i) from t"), "1,2,3");
}
