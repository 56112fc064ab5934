//! The smallest server that these tests need.

use super::connect;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use walkeep::pg::client::Session;

pub(super) const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A private server in a directory under /tmp; stopped and removed at the end, also of a panic.
pub(super) struct Server {
    pub(super) directory: tempfile::TempDir,
    pub(super) port: u16,
}

impl Server {
    /// `ways_in` are lines of pg_hba.conf; the superuser `boss` comes in by the socket.
    pub(super) fn start(ways_in: &str, settings: &str) -> Server {
        let directory = tempfile::Builder::new().prefix("client-").tempdir_in("/tmp").unwrap();
        if let Some((uid, gid)) = postgres() {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Server { directory, port };
        let data = server.path("data");
        run(&format!("{BIN}/initdb -D {} -U boss -A trust --no-sync --locale=C -E UTF8", data.display()));
        fs::write(data.join("pg_hba.conf"), format!("{ways_in}\nlocal all boss trust\n")).unwrap();
        server.set(&format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\n{settings}",
            server.directory.path().display()
        ));
        server.own();
        run(&format!("{BIN}/pg_ctl -D {} -w -l {}/log start", data.display(), data.display()));
        server
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn set(&self, settings: &str) {
        fs::write(self.path("data/postgresql.auto.conf"), format!("{settings}\n")).unwrap();
    }

    /// Gives everything to the server's user.
    pub(super) fn own(&self) {
        if postgres().is_some() {
            let status = Command::new("chown").arg("-R").arg("postgres:").arg(self.directory.path()).status();
            assert!(status.unwrap().success());
        }
    }

    pub(super) fn socket(&self) -> String {
        format!("host={} port={}", self.directory.path().display(), self.port)
    }

    pub(super) fn tcp(&self, host: &str) -> String {
        format!("host={host} hostaddr=127.0.0.1 port={} dbname=postgres", self.port)
    }

    pub(super) fn boss(&self) -> Session {
        connect(&format!("{} user=boss dbname=postgres", self.socket())).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.path("data");
        let _ = as_server(&format!("{BIN}/pg_ctl -D {} -m immediate stop", data.display())).output();
    }
}

/// The user and group to run servers as, which refuse to run as root.
pub(super) fn postgres() -> Option<(u32, u32)> {
    let number = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    (number(&["-u"])? == 0).then(|| Some((number(&["-u", "postgres"])?, number(&["-g", "postgres"])?)))?
}

pub(super) fn as_server(line: &str) -> Command {
    let mut command = match postgres() {
        Some(_) => {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh", "-c", line]);
            command
        }
        None => {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            command
        }
    };
    command.current_dir("/");
    command
}

pub(super) fn run(line: &str) {
    let output = as_server(line).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
}
