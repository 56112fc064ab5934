//! The page in a real browser: it complains of nothing, asks nobody, and shows something, light and
//! dark, wide and narrow. `WALKEEP_TEST_CHROMIUM` names another one than Debian's; without any this
//! is left out, with words. `WALKEEP_TEST_KEEP=1` leaves the pictures for a look.

use super::made::years;
use super::*;
use std::time::Duration;

/// Chromium starts slowly on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of a picture on which there is something: one colour takes a few hundred bytes.
const SOMETHING: u64 = 20_000;

fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WALKEEP_TEST_CHROMIUM") {
        return Some(path.into());
    }
    let known = ["/usr/bin/chromium", "/usr/bin/chromium-headless-shell"];
    known.into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// One look at a page.
fn look(browser: &Path, page: &Path, name: &str, arguments: &[&str]) {
    let scratch = Scratch::new();
    let picture = page.with_file_name(format!("{name}.png"));
    let run = Run::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args(["--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", scratch.mkdir("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()));
    let outcome = run.env("HOME", scratch.path()).deadline(PATIENCE).go().ok();
    // What the page does against its own policy, or gets wrong, stands there.
    let complaints: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert_eq!(complaints, [""; 0], "{outcome}");
    let size = picture.metadata().unwrap_or_else(|error| panic!("{name}: {error}\n{outcome}")).len();
    assert!(size > SOMETHING, "{name} has {size} bytes");
}

#[test]
fn a_browser_shows_the_page_and_has_nothing_to_complain_of() {
    let Some(browser) = chromium() else {
        return skipped(
            "chromium",
            "there is no chromium; install it, or name one with WALKEEP_TEST_CHROMIUM",
        );
    };
    let archive = years(40);
    let lost = archive.stored().into_iter().nth(3).expect("a segment").1;
    std::fs::remove_file(lost).expect("remove a segment");
    let page = written(&archive);
    look(&browser, &page, "light", &["--window-size=1100,4200"]);
    look(&browser, &page, "dark", &["--window-size=1100,4200", "--blink-settings=preferredColorScheme=0"]);
    look(&browser, &page, "narrow", &["--window-size=500,4200"]);
    let pictures = ["light", "dark", "narrow"].map(|name| read(page.with_file_name(format!("{name}.png"))));
    assert!(pictures[0] != pictures[1] && pictures[0] != pictures[2], "they are all the same");
}
