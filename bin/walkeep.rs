//! Everything else; see `walkeep::cli`.

fn main() -> std::process::ExitCode {
    walkeep::cli::walkeep()
}
