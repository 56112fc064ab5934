//! The program `walfetch`, PostgreSQL's `restore_command`; see `walkeep::cli`.

fn main() -> std::process::ExitCode {
    walkeep::cli::walfetch()
}
