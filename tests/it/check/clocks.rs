//! Clocks that do not agree.

use super::*;
use std::path::Path;

#[test]
fn a_host_whose_clock_is_wrong_is_told_by_the_server_s_and_the_repository_s() {
    if !Path::new("/usr/bin/faketime").exists() {
        return skipped("faketime", "faketime is not installed");
    }
    let live = healthy();
    let report = check(&live.archive, 0);
    shows(&report, "clock of the server", "ok", "");
    shows(&report, "clock of first", "ok", "");
    for (shift, words) in [("-1h", "ahead of this host"), ("+1h", "behind this host")] {
        let run = live.archive.run("walkeep").args(["check", "--json"]);
        // Waiting goes by the clock that only counts on.
        let run = run.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").under(["faketime", "-f", shift]);
        let report = live::json(&run.go().ok());
        shows(&report, "clock of the server", "warning", words);
        shows(&report, "clock of first", "warning", words);
    }
}
