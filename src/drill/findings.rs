//! What the checks of a recovered server have found.

/// Maximum number of lines that [`summarize`] shows.
const MAX_LINES: usize = 20;

/// CheckFindings, each as a line.
#[derive(Default)]
pub struct CheckFindings {
    /// Damage: the backup or its WAL is wrong.
    pub bad: Vec<String>,
    /// Parts that could not be checked, although everything was read.
    pub notes: Vec<String>,
    /// Parts that could not be read: nothing is known of them.
    pub unread: Vec<String>,
}

/// Joins the first lines, and adds the number of the others.
pub fn summarize(lines: &[String]) -> String {
    let shown = lines.iter().take(MAX_LINES).cloned().collect::<Vec<_>>().join("; ");
    match lines.len().saturating_sub(MAX_LINES) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
