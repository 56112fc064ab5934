//! The program `walpush`, PostgreSQL's `archive_command`; see `walkeep::cli`.

fn main() -> std::process::ExitCode {
    walkeep::cli::walpush()
}
