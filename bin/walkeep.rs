//! The program `walkeep`, with every command but `walpush` and `walfetch`; see `walkeep::cli`.

fn main() -> std::process::ExitCode {
    walkeep::cli::walkeep()
}
