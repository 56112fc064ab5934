//! Notices that do not arrive: a warning, in time, and the verb ends as it would.

use super::*;

const PRUNE: &[&str] = &["prune", "--quiet"];
/// Far less than a server or a command that hangs would take.
const SOON: Duration = Duration::from_secs(20);

/// That a failure ends in time with its own status and one warning, which says this.
#[track_caller]
fn warns(told: &Told, words: &str) {
    let begun = Instant::now();
    let outcome = told.fails(PRUNE);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(warnings(&outcome) == 1 && outcome.stderr.contains(words), "no {words:?} in\n{outcome}");
}

/// The lines for a server that does this with each request.
fn webhook(server: &Server) -> String {
    format!("webhook = \"{}/{SECRET}\"\ntimeout = \"1s\"", server.url())
}

#[test]
fn a_server_that_hangs_is_not_waited_for() {
    // It reads what comes and never answers.
    let server = Server::start("127.0.0.1", None, |connection| {
        std::io::copy(&mut connection.wire, &mut std::io::sink()).map(drop)
    });
    warns(&Told::new(&webhook(&server)), "no answer from 127.0.0.1 within 1 s");
}

#[test]
fn a_server_that_is_not_there_refuses_or_answers_nonsense_is_a_warning() {
    let gone = webhook(&service(|_, _| Reply::new(200, "")));
    warns(&Told::new(&gone), "no answer from 127.0.0.1: ");
    let server = service(|_, _| Reply::new(403, "invalid_token"));
    warns(&Told::new(&webhook(&server)), "127.0.0.1 answers 403");
    let server = Server::start("127.0.0.1", None, |connection| {
        Head::read(&mut connection.wire)?;
        connection.writer().write_all(b"this is no HTTP\r\n\r\n")
    });
    warns(&Told::new(&webhook(&server)), "no answer from 127.0.0.1: ");
}

#[test]
fn redirects_are_not_followed() {
    let receiver = Receiver::new();
    let to = receiver.url();
    let server = service(move |_, _| Reply::new(307, "").header("Location", to.clone()));
    warns(&Told::new(&webhook(&server)), "redirects are not followed");
    assert_eq!(receiver.events(), [""; 0]);
}

#[test]
fn what_did_not_arrive_is_told_the_next_time() {
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (is_open, got) = (open.clone(), Arc::new(Mutex::new(Vec::new())));
    let book = got.clone();
    let server = service(move |_, body| {
        if !is_open.load(std::sync::atomic::Ordering::SeqCst) {
            return Reply::new(503, "");
        }
        let notice: Value = serde_json::from_slice(body).unwrap_or_default();
        book.lock().unwrap_or_else(PoisonError::into_inner).push(live::text(&notice, "event"));
        Reply::new(200, "")
    });
    let open = |is: bool| open.store(is, std::sync::atomic::Ordering::SeqCst);
    let told = Told::new(&webhook(&server));
    warns(&told, "answers 503");
    open(true);
    told.fails(PRUNE);
    open(false);
    assert_eq!(warnings(&told.works(PRUNE)), 1);
    open(true);
    told.works(PRUNE);
    told.works(PRUNE);
    assert_eq!(*got.lock().unwrap_or_else(PoisonError::into_inner), ["failure", "recovery"]);
}

#[test]
fn a_command_that_hangs_is_ended_with_its_children_and_one_that_fails_is_a_warning() {
    let scratch = Scratch::new();
    let pids = scratch.mkdir("pids");
    let script = scratch
        .write("hang", "#!/bin/sh\nsleep 1000 &\necho $! > \"$1/child\"\necho $$ > \"$1/self\"\nwait\n");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    warns(
        &Told::new(&format!("command = [{script:?}, {pids:?}]\ntimeout = \"1s\"")),
        "timed out after 1 s and was killed",
    );
    for name in ["child", "self"] {
        let pid = String::from_utf8(read(pids.join(name))).expect("text").trim().parse().expect("a number");
        until("it is gone", || !wait::is_running(pid));
    }
    warns(&Told::new("command = [\"/bin/false\"]"), "ended with exit status: 1");
    warns(&Told::new("command = [\"/nowhere/tell\"]"), "run /nowhere/tell");
}

#[test]
fn without_a_spool_a_failure_is_told_every_time_and_the_reason_said() {
    let receiver = Receiver::new();
    let mut told = Told::by_webhook(&receiver, "");
    told.archive.set_wal("spool = \"/nowhere/spool\"");
    told.archive.write_config();
    for _ in 0..2 {
        warns(&told, "/nowhere/spool");
    }
    assert_eq!(receiver.events(), ["failure", "failure"]);
}
