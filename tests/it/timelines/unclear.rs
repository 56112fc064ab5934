//! Backup and WAL on different branches, and no server that could tell which one is meant.

use super::*;

#[test]
fn without_a_server_two_branches_are_shown_and_not_guessed_about() {
    let accident = Accident::happens();
    let Accident { live, dead, .. } = &accident;
    accident.goes_on();
    // The other one archives last.
    add(dead, 1);
    flush(dead);
    accident.ends();
    live.server.stop(Stop::Immediate);
    let elsewhere =
        Archive::build(live.archive.scratch().join("nothing")).root(live.archive.root()).unregistered();
    let to = elsewhere.scratch().join("x");
    let restored = |arguments: &[&str]| restoring(&elsewhere, &to, arguments).go();
    let refused = restored(&["--dry-run"]).is(1).told();
    let refused = refused.says("timeline 1 has WAL to").says("timeline 2, which left timeline 1");
    refused.says("--timeline NUMBER").says("walkeep timelines --retire NUMBER");
    let walkeep =
        |arguments: &[&str]| Run::of("walkeep").arg("--config").arg(elsewhere.config()).args(arguments).go();
    for (timeline, expected) in [("1", 1), ("2", 2)] {
        let chosen = json(&restored(&["--timeline", timeline, "--dry-run", "--json"]).ok());
        assert_eq!(chosen["timeline"], expected);
    }
    walkeep(&["drill"]).is(1).told();
    // The data directory of the server tells, also when it is down.
    assert_eq!(plan(&live.archive, &[])["timeline"], 1);
    // The administrator tells.
    walkeep(&["timelines", "--retire", "2"]).ok();
    assert_eq!(json(&restored(&["--dry-run", "--json"]).ok())["timeline"], 1);
    walkeep(&["timelines", "--retire", "1"]).is(1).told();
}
