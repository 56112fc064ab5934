//! A disk that does not answer, as a network file system whose server is gone.

use super::Run;

/// Starts a program for which `openat2`, by which everything below a repository is opened, never
/// returns: a seccomp filter asks a listener that does not answer. The process can still be killed.
const SCRIPT: &str = r#"
my ($prctl, $seccomp, $fcntl) = `uname -m` =~ /x86_64/ ? (157, 317, 72) : (167, 277, 25);
my $filter = pack("(SCCL)4", 0x20,0,0,0, 0x15,0,1,437, 6,0,0,0x7fc00000, 6,0,0,0x7fff0000);
my $program = pack("Sx![P]P", 4, $filter);
syscall($prctl, 38, 1, 0, 0, 0);
my $listener = syscall($seccomp, 1, 8, $program);
die "seccomp: $!" if $listener < 0;
syscall($fcntl, $listener, 2, 0);
exec @ARGV;
"#;

/// What stands before a command whose disk does not answer.
pub fn prefix() -> Vec<String> {
    ["/usr/bin/perl", "-e", &SCRIPT.replace('\n', " "), "--"].map(str::to_owned).to_vec()
}

/// The start of this program on a disk that does not answer.
pub fn around(run: &Run) -> Run {
    run.clone().under(prefix())
}

/// Whether a process waits for the disk.
pub fn is_waiting(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut calls = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("syscall")).ok());
    calls.any(|call| call.starts_with("437 "))
}
