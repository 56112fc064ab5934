//! The program `walkeep`, with all verbs of a user; see `walkeep::cli`.

fn main() -> std::process::ExitCode {
    walkeep::cli::walkeep()
}
