//! The page: the state of each cluster and what would be lost now, then the content of each of its
//! repositories.

use super::html::Html;
use super::{ClusterView, Holdings, Known, bytes_text, count, coverage, history, sizes, tables};
use crate::error::{Error, Result};
use crate::observe::{Facts, Finding, Light, RepositoryFacts, RepositoryStock, size_text, span};
use base64::Engine;
use jiff::Timestamp;
use sha2::Digest;

const STYLE: &str = include_str!("page.css");

const HEAD: &str = "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
    <meta name=\"color-scheme\" content=\"light dark\">\n\
    <meta name=\"referrer\" content=\"no-referrer\">\n\
    <meta name=\"robots\" content=\"noindex\">\n";

/// Fill patterns of bars, so that they differ without colour too.
const PATTERNS: &str = "<svg class=\"patterns\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>\
    <pattern id=\"stripes\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
    <rect width=\"6\" height=\"6\"/><path d=\"M0 0V6\"/></pattern>\
    <pattern id=\"dots\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">\
    <rect width=\"6\" height=\"6\"/><circle cx=\"3\" cy=\"3\" r=\"1.6\"/></pattern>\
    <pattern id=\"bars\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(-45)\">\
    <rect width=\"5\" height=\"5\"/><path d=\"M0 0V5\"/></pattern></defs></svg>\n";

/// The worst light of all clusters; green when there are none.
pub fn light(clusters: &[ClusterView]) -> Light {
    clusters.iter().map(|cluster| cluster.health.light()).max().unwrap_or(Light::Green)
}

/// Builds the page; `now` is the time that it shows as its own.
pub fn page(clusters: &[ClusterView], now: Timestamp) -> String {
    let mut html = Html::default();
    html.markup("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy())]);
    html.markup(HEAD);
    html.leaf("title", &[], format!("walkeep: {}", light(clusters).as_str()));
    html.markup("\n<style>");
    html.markup(STYLE);
    html.markup("</style>\n</head>\n<body>\n");
    html.markup(PATTERNS);
    html.element("header", &[], |html| {
        html.leaf("h1", &[], "Backups and WAL");
        html.element("p", &[], |html| {
            html.text("Collected ");
            tables::time(html, now);
            html.text(format!(" by walkeep {}. Times are in UTC.", env!("CARGO_PKG_VERSION")));
        });
        html.element("nav", &[("aria-label", &"clusters")], |html| {
            html.element("ul", &[], |html| {
                for (number, cluster) in clusters.iter().enumerate() {
                    html.element("li", &[], |html| {
                        tables::light(html, cluster.health.light());
                        html.text(" ");
                        let place = format!("#c{number}");
                        html.leaf("a", &[("href", &place)], &cluster.health.facts.cluster);
                    });
                }
            });
        });
    });
    html.element("main", &[], |html| {
        for (number, cluster) in clusters.iter().enumerate() {
            html.element("section", &[("id", &format!("c{number}"))], |html| {
                draw_cluster(html, number, cluster)
            });
        }
    });
    html.markup("\n</body>\n</html>\n");
    html.into_string()
}

/// The content security policy: nothing may be loaded, and only the style of the page applies.
fn policy() -> String {
    let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

fn draw_cluster(html: &mut Html, number: usize, cluster: &ClusterView) {
    let health = &cluster.health;
    let facts = &health.facts;
    html.element("h2", &[], |html| {
        html.text(format!("Cluster {} ", facts.cluster));
        tables::light(html, health.light());
    });
    let mut reasons: Vec<&Finding> =
        health.findings.iter().filter(|found| found.light > Light::Green).collect();
    reasons.sort_by_key(|found| std::cmp::Reverse(found.light));
    if reasons.is_empty() {
        html.leaf("p", &[], "Archiving and backups are as they should be.");
    } else {
        html.element("ul", &[("class", &"reasons")], |html| {
            reasons.iter().for_each(|found| reason(html, found))
        });
    }
    html.leaf("h3", &[], "What would be lost now");
    lost(html, cluster);
    html.leaf("h3", &[], "The server");
    let of_server = health.findings.iter().filter(|finding| finding.repository.is_none());
    tables::findings(html, "Checks of the server", of_server);
    for (place, (repository, holdings)) in facts.repositories.iter().zip(&cluster.holdings).enumerate() {
        let id = format!("c{number}r{place}");
        html.element("section", &[("id", &id)], |html| {
            html.element("h3", &[], |html| {
                html.text(format!("Repository {} ", repository.name));
                tables::light(
                    html,
                    of_repository(&health.findings, repository)
                        .map(|f| f.light)
                        .max()
                        .unwrap_or(Light::Green),
                );
            });
            let optional = if repository.is_required { "" } else { ", optional" };
            html.leaf("p", &[("class", &"note")], format!("{}{optional}", repository.url));
            let name = format!("Checks of repository {}", repository.name);
            tables::findings(html, &name, of_repository(&health.findings, repository));
            match (&repository.stock, holdings) {
                (Ok(stock), Some(Ok(holdings))) => draw_repository(html, &id, facts, stock, holdings),
                (_, Some(Err(error))) => unread(html, error),
                _ => {}
            }
        });
    }
}

fn of_repository<'f>(
    findings: &'f [Finding],
    repository: &'f RepositoryFacts,
) -> impl Iterator<Item = &'f Finding> {
    findings.iter().filter(|finding| finding.repository.as_deref() == Some(&repository.name))
}

fn reason(html: &mut Html, found: &Finding) {
    html.element("li", &[], |html| {
        tables::light(html, found.light);
        let place = found.repository.as_ref().map_or_else(String::new, |name| format!("repository {name}, "));
        html.text(format!(" {place}{}: {}", found.name, found.detail));
        if let Some(hint) = &found.hint {
            html.leaf("p", &[("class", &"note")], format!("hint: {hint}"));
        }
    });
}

fn unread(html: &mut Html, error: &Error) {
    html.element("p", &[], |html| {
        html.leaf("strong", &[("class", &"bad")], "The repository could not be read: ");
        html.text(error);
    });
    if let Some(hint) = error.advice() {
        html.leaf("p", &[("class", &"note")], format!("hint: {hint}"));
    }
}

/// The time up to which a repository restores everything: the end of its newest window, if a good
/// backup lies in that window.
fn restorable_until(repository: &RepositoryFacts, holdings: &Option<Result<Holdings>>) -> Option<Timestamp> {
    let (stock, holdings) = (repository.stock.as_ref().ok()?, holdings.as_ref()?.as_ref().ok()?);
    let window = holdings.window.as_ref()?;
    let is_inside = |at: Timestamp| window.from <= at && at <= window.to;
    stock.backups.iter().any(|backup| backup.is_good() && is_inside(backup.ended)).then_some(window.to)
}

/// Writes the newest moment that each repository can restore, and what is not in any of them yet.
fn lost(html: &mut Html, cluster: &ClusterView) {
    let facts = &cluster.health.facts;
    let known = || facts.repositories.iter().zip(&cluster.holdings);
    let newest = known().filter_map(|(repository, holdings)| restorable_until(repository, holdings)).max();
    html.element("p", &[], |html| match newest {
        Some(newest) => {
            html.text("If server and disks were lost now, every transaction that had ended by ");
            tables::time(html, newest);
            html.text(format!(" could be restored: {} before this page was made. ", ago(facts, newest)));
            html.text(waiting(facts));
        }
        None => html.leaf(
            "strong",
            &[("class", &"bad")],
            "No repository that answers has a good backup from which WAL leads to its newest moment: what was written \
             since the last good backup would be lost, and everything if there is none.",
        ),
    });
    if cluster.holdings.len() > 1 {
        let columns = ["repository", "restores everything until", "before now", "segments behind the server"];
        tables::table(
            html,
            "What each repository restores",
            &columns,
            known(),
            |html, (repository, holdings)| {
                html.leaf("th", &[("scope", &"row")], &repository.name);
                match restorable_until(repository, holdings) {
                    Some(to) => {
                        tables::moment(html, to);
                        tables::number(html, ago(facts, to));
                    }
                    None => {
                        tables::bad(html, if holdings.is_some() { "nothing" } else { "not known" });
                        tables::cell(html, "");
                    }
                }
                let behind = repository.stock.as_ref().ok().and_then(|stock| stock.behind);
                tables::number(
                    html,
                    behind.map_or_else(|| "not known".to_owned(), |behind| behind.to_string()),
                );
            },
        );
    }
}

/// A sentence about the WAL that only the server has.
fn waiting(facts: &Facts) -> String {
    let current = facts.server.as_ref().ok().and_then(|server| server.current);
    let written = current.map(|name| format!("what {name}, which is being written, already has"));
    match (&facts.queue, written) {
        (Ok(queue), written) if queue.ready > 0 => format!(
            "What was committed later would be lost: {} of {} that wait to be archived{}.",
            count(queue.ready, "WAL file"),
            size_text(queue.bytes),
            written.map_or_else(String::new, |written| format!(", and {written}"))
        ),
        (Ok(_), None) => "No finished WAL waits to be archived.".to_owned(),
        (Ok(_), Some(written)) => {
            format!("What was committed later would be lost: no finished WAL waits, so only {written}.")
        }
        (Err(trouble), _) => format!(
            "What was committed later would be lost; how much that is cannot be known: {}.",
            trouble.why
        ),
    }
}

fn ago(facts: &Facts, then: Timestamp) -> String {
    span(facts.now.duration_since(then).as_secs_f64().max(0.0))
}

fn draw_repository(html: &mut Html, id: &str, facts: &Facts, stock: &RepositoryStock, holdings: &Holdings) {
    let backups = Known::all(holdings, stock);
    figures(html, facts, stock, holdings);
    html.leaf("h4", &[], "Backups");
    for (name, error) in &holdings.damaged {
        html.element("p", &[], |html| {
            html.leaf("strong", &[("class", &"bad")], format!("The record of {name} cannot be read: "));
            html.text(error);
        });
    }
    if backups.is_empty() {
        html.leaf("p", &[], "There are no backups.");
    } else {
        history::draw(html, id, holdings, &backups, facts.now);
        tables::backups(html, holdings, &backups);
        if !holdings.windows.is_empty() {
            tables::windows(html, holdings);
        }
    }
    html.leaf("h4", &[], "WAL");
    coverage::draw(html, id, holdings);
    if !backups.is_empty() {
        html.leaf("h4", &[], "Sizes");
        sizes::backups(html, id, &backups);
    }
    html.leaf("h4", &[], "Drills");
    if holdings.drills.is_empty() {
        html.leaf("p", &[], "There are no drills yet: `walkeep drill` proves that a backup restores.");
    } else {
        sizes::drills(html, id, holdings);
        tables::drills(html, holdings);
    }
}

/// Writes the key figures of a repository.
fn figures(html: &mut Html, facts: &Facts, stock: &RepositoryStock, holdings: &Holdings) {
    let good = stock.last_good().map(|(_, since)| format!("{} ago", ago(facts, since)));
    let window =
        holdings.window.as_ref().map(|window| span(window.to.duration_since(window.from).as_secs_f64()));
    let proved = stock.drill.as_ref().and_then(|drill| drill.last_proved);
    let none = || "none".to_owned();
    let all = [
        ("backups", holdings.records.len().to_string()),
        ("last good backup", good.unwrap_or_else(none)),
        ("restorable window", window.unwrap_or_else(none)),
        ("backups take", size_text(holdings.backup_bytes)),
        ("WAL takes", size_text(holdings.wal_bytes)),
        (
            "added in a day",
            stock.growth.map_or_else(|| "not known yet".to_owned(), |growth| bytes_text(growth * 86_400.0)),
        ),
        ("last proved by a drill", proved.map_or_else(none, |at| format!("{} ago", ago(facts, at)))),
    ];
    html.element("dl", &[("class", &"figures")], |html| {
        for (name, value) in all {
            html.element("div", &[], |html| {
                html.leaf("dt", &[], name);
                html.leaf("dd", &[], value);
            });
        }
    });
}
