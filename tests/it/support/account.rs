//! Who runs the servers and the programs under test. PostgreSQL refuses to run as root, so where
//! the tests run as root everything is started as the user `postgres`; otherwise as whoever runs
//! the tests.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The user behind every server and program of the tests.
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    /// Whether the tests themselves run as root: only then can they mount, change owners and become
    /// this user.
    pub root: bool,
}

/// The account of this test process, found out once.
pub fn account() -> &'static Account {
    static ACCOUNT: OnceLock<Account> = OnceLock::new();
    ACCOUNT.get_or_init(|| {
        let root = id(&["-u"]) == "0";
        let who: &[&str] = if root { &["postgres"] } else { &[] };
        let ask = |flag: &'static str| id(&[&[flag], who].concat());
        Account { uid: number(&ask("-u")), gid: number(&ask("-g")), name: ask("-un"), root }
    })
}

fn id(arguments: &[&str]) -> String {
    let output = Command::new("id").args(arguments).output().expect("start id");
    assert!(
        output.status.success(),
        "id {arguments:?}: {} (the tests need the user postgres when they run as root)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("id answered {text:?}"))
}

/// What keeps a program away from the AWS settings of whoever runs the tests, and of the machine.
const NO_AWS: [(&str, &str); 3] = [
    ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"),
    ("AWS_CONFIG_FILE", "/nonexistent"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// A command like [`command`] that runs as the user who runs the tests.
fn own_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(NO_AWS).current_dir("/");
    command
}

/// A command that runs as the account, in `/`, with nothing in its environment but a short `PATH`
/// and no AWS.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = own_command(program);
    let account = account();
    if account.root {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// A command like [`command`] that runs as another user and group, or as root.
pub fn command_as(program: impl AsRef<OsStr>, user: u32, group: u32) -> Command {
    let mut command = command(program);
    command.uid(user).gid(group);
    command
}

/// Gives a path to the account; does nothing where the tests run as the account already.
pub fn give(path: &Path) {
    let account = account();
    if account.root {
        std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))
            .unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

/// Gives a directory and everything below it to the account.
pub fn give_all(path: &Path) {
    give(path);
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).expect("list what is given away") {
            give_all(&entry.expect("list what is given away").path());
        }
    }
}
