fn main() -> std::process::ExitCode {
    walkeep::cli::walpush()
}
