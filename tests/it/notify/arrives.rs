//! What is told, and how often.

use super::*;
use crate::s3::tls::Authority;
use crate::support::repo::{Damage, damage};
use crate::support::saga::Saga;

const PRUNE: &[&str] = &["prune", "--quiet"];

#[test]
fn a_failure_is_told_once_and_its_end_once() {
    let receiver = Receiver::new();
    let told = Told::by_webhook(&receiver, "");
    told.works(PRUNE);
    assert_eq!(receiver.events(), [""; 0], "nothing had failed");
    let outcome = told.fails(PRUNE);
    assert_eq!(warnings(&outcome), 0, "{outcome}");
    told.fails(PRUNE);
    let mut came = receiver.heads();
    assert_eq!(came.len(), 1, "{came:?}");
    let (head, notice) = came.remove(0);
    assert_eq!((head.method(), head.get("content-type")), ("POST", Some("application/json")));
    assert_eq!(head.target(), format!("/services/{SECRET}?token={SECRET}"));
    for (name, value) in [("event", "failure"), ("cluster", "main"), ("verb", "prune")] {
        assert_eq!(notice[name], value, "{notice:#}");
    }
    assert_eq!((&notice["ok"], &notice["status"]), (&Value::Bool(false), &Value::from(1)), "{notice:#}");
    let text = live::text(&notice, "text");
    assert!(
        text.starts_with("walkeep prune of cluster main on ") && text.contains("there is no repository"),
        "{text}"
    );
    let details = notice["details"].as_array().expect("details");
    assert!(
        details.iter().any(|line| line.as_str().is_some_and(|line| line.contains("hint: "))),
        "{notice:#}"
    );
    let since = live::text(&notice, "since");

    told.works(PRUNE);
    told.works(PRUNE);
    let came = receiver.came();
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!((&came[0]["event"], &came[0]["ok"]), (&Value::from("recovery"), &Value::Bool(true)));
    assert_eq!(came[0]["since"], since, "{came:?}");
    // And another failure is another one.
    told.fails(PRUNE);
    assert_eq!(receiver.events(), ["failure"]);
}

#[test]
fn verbs_and_their_parts_do_not_speak_for_each_other() {
    let receiver = Receiver::new();
    let saga = Saga::get();
    let told = Told::over(saga.archive(), &format!("webhook = {:?}", receiver.url()));
    told.fails(&["verify", "--quiet"]);
    told.fails(PRUNE);
    assert_eq!(receiver.events(), ["failure", "failure"]);
    told.works(&["verify", "--quick", "--quiet"]);
    told.works(&["prune", "--dry-run"]);
    // Nor does what was asked for decide where files are written.
    told.archive.walkeep(&["verify", "--backup", "../../../backup"]).is(1);
    assert_eq!(receiver.events(), ["failure"]);
    let notes = repo::files(&told.archive.scratch().join("spool/notify"));
    let mut names: Vec<_> = notes.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["main.prune", "main.verify", "main.verify-.._.._.._backup"]);
    told.works(&["verify", "--quiet"]);
    assert_eq!(receiver.events(), ["recovery"]);
    // What a verification found is told in its words.
    let pack = live::parts_of(told.archive.root(), &saga.d, "pack").remove(0);
    damage(&pack, Damage::Flip(-9));
    told.archive.walkeep(&["verify", "--quiet"]).is(3);
    let came = receiver.came();
    assert_eq!(live::text(&came[0], "verb"), "verify");
    assert!(live::text(&came[0], "text").ends_with(" failed: it found a problem"), "{came:?}");
    assert!(came[0]["details"].to_string().contains("BAD"), "{came:?}");
}

#[test]
fn clusters_of_one_name_with_one_spool_do_not_speak_for_each_other() {
    let receiver = Receiver::new();
    let told = Told::by_webhook(&receiver, "");
    let other = Told::by_webhook(&receiver, "");
    let spool = |told: &Told| format!("{:?}", told.archive.scratch().join("spool"));
    let text = String::from_utf8(read(other.archive.config())).expect("text");
    scratch::write(other.archive.config(), text.replace(&spool(&other), &spool(&told)));
    told.fails(PRUNE);
    assert_eq!(receiver.events(), ["failure"]);
    other.works(PRUNE);
    other.fails(PRUNE);
    assert_eq!(receiver.events(), ["failure"]);
    told.works(PRUNE);
    assert_eq!(receiver.events(), ["recovery"]);
}

#[test]
fn a_failure_that_stays_is_told_again_after_a_while() {
    let receiver = Receiver::new();
    let told = Told::by_webhook(&receiver, "repeat = \"1ms\"");
    told.fails(PRUNE);
    told.fails(PRUNE);
    let came = receiver.came();
    assert_eq!(came.len(), 2, "{came:?}");
    assert_eq!(came[0]["since"], came[1]["since"], "{came:?}");
}

#[test]
fn only_what_is_wanted_is_told() {
    let receiver = Receiver::new();
    let told = Told::by_webhook(&receiver, "on = [\"recovery\"]");
    told.fails(PRUNE);
    told.works(PRUNE);
    assert_eq!(receiver.events(), [""; 0], "the end of what nobody heard of is no news");
    let told = Told::by_webhook(&receiver, "on = [\"failure\"]");
    for _ in 0..2 {
        told.fails(PRUNE);
        told.works(PRUNE);
    }
    assert_eq!(receiver.events(), ["failure", "failure"]);
}

#[test]
fn slack_gets_a_text_in_which_nothing_is_a_link_or_a_mention() {
    let receiver = Receiver::new();
    let told = Told::by_webhook(&receiver, "format = \"slack\"");
    let text = String::from_utf8(read(told.archive.config())).expect("text");
    let root = told.archive.root().display().to_string();
    let config = told.archive.scratch().write("other.toml", text.replace(&root, "/nowhere/<!channel>&"));
    let outcome = Run::of("walkeep").arg("--config").arg(&config).args(PRUNE).go().is(1);
    assert_eq!(warnings(&outcome), 0, "{outcome}");
    let came = receiver.came();
    let [Value::Object(fields)] = &came[..] else {
        panic!("{came:?}");
    };
    assert_eq!(fields.len(), 1, "{came:?}");
    let text = live::text(&came[0], "text");
    assert!(text.contains("of cluster main on ") && text.contains("\nhint: "), "{text}");
    assert!(text.contains("/nowhere/&lt;!channel&gt;&amp;") && !text.contains(['<', '>']), "{text}");
    assert_eq!(text.matches("there is no repository").count(), 1, "said twice: {text}");
}

#[test]
fn a_command_gets_the_notice_as_json_and_facts_without_a_shell() {
    let scratch = Scratch::new();
    let took = scratch.mkdir("took");
    let script = scratch.write(
        "tell",
        "#!/bin/sh\ncat > \"$1/notice\"\nenv > \"$1/environment\"\nprintf '%s' \"$2\" > \"$1/argument\"\necho words\n",
    );
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let told = Told::new(&format!("command = [{script:?}, {took:?}, \"$(id) `id` ; id\"]"));
    let outcome = told.fails(PRUNE);
    assert_eq!((outcome.stdout.as_str(), warnings(&outcome)), ("", 0), "{outcome}");
    let text = |name: &str| String::from_utf8(read(took.join(name))).expect("text");
    let notice: Value = serde_json::from_str(&text("notice")).expect("JSON");
    assert_eq!(notice["event"], "failure", "{notice:#}");
    let environment = text("environment");
    for line in [
        "WALKEEP_EVENT=failure",
        "WALKEEP_OK=false",
        "WALKEEP_CLUSTER=main",
        "WALKEEP_VERB=prune",
        "WALKEEP_STATUS=1",
    ] {
        assert!(environment.lines().any(|other| other == line), "no {line} in {environment}");
    }
    assert_eq!(text("argument"), "$(id) `id` ; id");
}

#[test]
fn https_is_believed_by_the_file_that_is_named_and_by_nothing_else() {
    let authority = Authority::new();
    let key = authority.key("right");
    let got: Arc<Mutex<u32>> = Arc::default();
    let book = got.clone();
    let tls = http::certificate(&authority.certificate("right"), &key);
    let server = Server::start("127.0.0.1", Some(tls), move |connection| {
        while let Some(head) = Head::read(&mut connection.wire)? {
            connection.body(&head)?;
            *book.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            connection.answer(&Reply::new(204, ""), &head)?;
        }
        Ok(())
    });
    let url = format!("{}/{SECRET}", server.url());
    let lines = |ca: &str| format!("webhook = {url:?}\nca_file = {:?}", authority.certificate(ca));
    let told = Told::new(&lines("other"));
    let outcome = told.fails(PRUNE);
    assert!(warnings(&outcome) == 1 && outcome.stderr.contains("certificate"), "{outcome}");
    let told = Told::new(&lines("ca"));
    assert_eq!(warnings(&told.fails(PRUNE)), 0);
    assert_eq!(*got.lock().unwrap_or_else(PoisonError::into_inner), 1);
}

#[test]
fn a_test_notice_shows_that_notices_arrive_and_a_status_that_they_do_not() {
    let receiver = Receiver::new();
    let told = Told::by_webhook(&receiver, "");
    let outcome = told.works(&["notify", "--test"]);
    assert!(outcome.stderr.contains("127.0.0.1"), "{outcome}");
    assert_eq!(receiver.events(), ["test"]);
    let report = live::json(&told.works(&["notify", "--test", "--json"]));
    assert_eq!(report["ok"], true, "{report}");
    drop(receiver);
    let outcome = shows_no_secret(told.archive.walkeep(&["notify", "--test"]).is(1));
    assert_eq!(warnings(&outcome), 1, "{outcome}");
    told.archive.walkeep(&["notify"]).is(2);
    Told::new("").archive.walkeep(&["notify", "--test"]).is(2).told().says("[notify]");
}

#[test]
fn status_tells_when_a_cluster_becomes_red_and_when_it_is_not_any_more() {
    let live = Live::new();
    live.backup();
    live.flush_wal();
    let receiver = Receiver::new();
    let mut archive = live.archive;
    archive.set_tail(&format!("\n[notify]\nwebhook = {:?}\n", receiver.url()));
    until("it is not red", || archive.walkeep(&["status"]).code() == Some(0));
    let away = archive.scratch().join("away");
    archive.walkeep(&["status", "--notify"]).ok();
    std::fs::rename(archive.root(), &away).expect("take the repository away");
    archive.walkeep(&["status"]).is(3);
    assert_eq!(receiver.events(), [""; 0], "nobody asked for it");
    for _ in 0..2 {
        archive.walkeep(&["status", "--notify", "--quiet"]).is(3);
    }
    let came = receiver.came();
    assert_eq!(came.len(), 1, "{came:?}");
    assert!(live::text(&came[0], "text").contains("repository first, repository: "), "{came:?}");
    std::fs::rename(&away, archive.root()).expect("bring it back");
    archive.walkeep(&["status", "--notify", "--nagios"]).ok();
    assert_eq!(receiver.events(), ["recovery"]);
}

#[test]
fn every_drill_is_told_with_its_words() {
    let story = Story::get();
    let receiver = Receiver::new();
    let mut archive = story.archive();
    let webhook = format!("\n[notify]\nwebhook = {:?}\n", receiver.url());
    let wrong = "[[drill.assert]]\nname = \"rows\"\ndatabase = \"postgres\"\nsql = \"select count(*) from t\"\nexpected = 17\n";
    let scratch = Scratch::new();
    let drill = |archive: &Archive, status: i32| {
        let run = Run::of("walkeep").arg("--config").arg(archive.config()).args([
            "drill",
            "--quiet",
            "--directory",
        ]);
        run.arg(scratch.path()).deadline(Duration::from_secs(180)).go().is(status);
    };
    archive.set_tail(&format!("{webhook}{wrong}"));
    drill(&archive, 3);
    archive.set_tail(&webhook);
    drill(&archive, 0);
    drill(&archive, 0);
    let came = receiver.came();
    let events: Vec<_> =
        came.iter().map(|notice| (live::text(notice, "event"), notice["ok"].as_bool())).collect();
    let drill = |ok: bool| ("drill".to_owned(), Some(ok));
    assert_eq!(events, [drill(false), drill(true), drill(true)], "{came:?}");
    let words = |notice: &Value| notice["details"].to_string();
    assert!(words(&came[0]).contains("REFUTED: backup ") && words(&came[0]).contains("FAILED  "), "{came:?}");
    assert!(words(&came[1]).contains("proved: backup ") && words(&came[1]).contains("restore "), "{came:?}");
}
