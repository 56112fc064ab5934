//! A pooler between walkeep and the server: begin and end of a backup would reach different
//! processes.

use super::*;

const PORT: &str = "6432";

/// A running pgbouncer; ended when dropped.
struct Pooler {
    child: Child,
    scratch: Scratch,
}

impl Pooler {
    /// None where pgbouncer is not installed; then the test's output says so.
    fn start(server: &Cluster, mode: &str, size: u32) -> Option<Pooler> {
        let program = "/usr/sbin/pgbouncer";
        if !std::path::Path::new(program).exists() {
            skipped("pgbouncer", "pgbouncer is not installed");
            return None;
        }
        let scratch = Scratch::new();
        let place = scratch.path().display();
        let config = scratch.write(
            "pgbouncer.ini",
            format!(
                "[databases]\npostgres = host={} user=postgres dbname=postgres\n[pgbouncer]\n\
                 listen_port = {PORT}\nunix_socket_dir = {place}\nauth_type = any\npool_mode = {mode}\n\
                 default_pool_size = {size}\nlogfile = {place}/log\n",
                server.socket().display()
            ),
        );
        let child = Run::new(program).arg(config).spawn();
        let pooler = Pooler { child, scratch };
        until("the pooler listens", || pooler.scratch.join(format!(".s.PGSQL.{PORT}")).exists());
        Some(pooler)
    }

    fn connection(&self) -> String {
        format!("host={} port={PORT} user=postgres dbname=postgres", self.scratch.path().display())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        run::signal(self.child.id(), "KILL");
        let _ = self.child.wait();
    }
}

#[test]
fn a_pooler_that_gives_each_transaction_another_process_is_refused() {
    let live = Live::new();
    let before = live.archive.snapshot();
    // One process for all, enough for all while nobody else is there, and others that are busy.
    for (mode, size, busy) in [
        ("transaction", 1, false),
        ("transaction", 20, false),
        ("transaction", 3, true),
        ("statement", 5, false),
    ] {
        let Some(pooler) = Pooler::start(&live.server, mode, size) else {
            return;
        };
        let others =
            pg::tool("pgbench").args(["-U", "postgres", "-p", PORT, "-h"]).arg(pooler.scratch.path());
        let script = pooler.scratch.write("script.sql", "select pg_backend_pid();\n");
        let others = others.args(["-n", "-c", "4", "-T", "300", "-f"]).arg(script).arg("postgres");
        let others = busy.then(|| others.spawn());
        if busy {
            let clients = "select count(*) > 1 from pg_stat_activity where application_name = 'pgbench'";
            live.server.await_sql(clients, "t");
        }
        let archive = Archive::build(live.server.data()).connection(pooler.connection());
        let archive = archive.root(live.archive.root()).unregistered();
        let outcome = live::backing_up(&archive).go();
        if let Some(mut others) = others {
            run::signal(others.id(), "KILL");
            let _ = others.wait();
        }
        let outcome = outcome.is(1).told();
        for words in ["connection pooler", "hint:", "let `connection` lead to the server itself"] {
            assert!(outcome.stderr.contains(words), "{mode} of {size}, busy: {busy}\n{outcome}");
        }
        assert!(live.archive.snapshot() == before, "{outcome}");
    }
    live.backup();
}

#[test]
fn a_pooler_that_gives_each_session_a_process_is_as_good_as_none() {
    let live = Live::new();
    let Some(pooler) = Pooler::start(&live.server, "session", 5) else {
        return;
    };
    let archive = Archive::build(live.server.data()).connection(pooler.connection());
    let archive = archive.root(live.archive.root()).unregistered();
    live::backing_up(&archive).go().ok();
    live.restore(&[]).verified();
}
