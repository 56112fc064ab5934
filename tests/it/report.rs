//! `walkeep report`: one page that shows what there is, says it without colour, needs nothing but
//! itself, and believes no name.

mod browser;
mod made;
mod page;

use crate::support::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Writes the page; its text, which has to be as every page is.
#[track_caller]
fn report(archive: &Archive) -> String {
    text_of(&written(archive))
}

/// Writes the page and says where it is.
#[track_caller]
fn written(archive: &Archive) -> PathBuf {
    let file = archive.scratch().mkdir("page").join("walkeep.html");
    let run = Run::of("walkeep").arg("--config").arg(archive.config()).args(["report", "--html"]).arg(&file);
    let outcome = run.go().ok();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "{outcome}");
    file
}

#[track_caller]
fn text_of(file: &Path) -> String {
    let page = String::from_utf8(read(file)).expect("text");
    needs_nothing_else(&page);
    is_well_formed(&page);
    page
}

/// What a browser would load, run or follow.
#[track_caller]
fn needs_nothing_else(page: &str) {
    let policy =
        "http-equiv=\"Content-Security-Policy\" content=\"default-src &#39;none&#39;; style-src &#39;sha256-";
    assert!(page.contains(policy), "no policy");
    let elements = elements(page);
    for Element { name, attributes, .. } in &elements {
        for word in ["script", "img", "link", "iframe", "object", "embed", "use", "image", "base", "form"] {
            assert_ne!(name, word);
        }
        for (attribute, value) in attributes {
            assert!(
                !["src", "srcset", "xlink:href", "style"].contains(&attribute.as_str()),
                "{name} {attribute}"
            );
            assert!(!attribute.starts_with("on"), "{name} {attribute}");
            assert!(attribute != "href" || value.starts_with('#'), "{name} leads to {value}");
        }
    }
    let (_, style) = page.split_once("<style>").expect("a style");
    let (style, _) = style.split_once("</style>").expect("its end");
    assert!(!style.contains("@import") && style.matches("url(").count() == style.matches("url(#").count());
}

struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    is_empty: bool,
    is_end: bool,
}

/// The tags of a page, strictly read: `<` begins one and nothing else, attributes stand in quotes
/// and come once.
#[track_caller]
fn elements(page: &str) -> Vec<Element> {
    let mut found = Vec::new();
    let (before, rest) = page.split_once("<style>").expect("a style");
    let (_, behind) = rest.split_once("</style>").expect("its end");
    let page = format!("{before}{behind}");
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").expect("a doctype");
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>'), "not escaped: {text}");
        let (tag, behind) = rest[at + 1..].split_once('>').expect("the end of a tag");
        rest = behind;
        let is_end = tag.starts_with('/');
        let is_empty = tag.ends_with('/');
        let tag = tag.trim_matches('/');
        let (name, mut list) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "no name of an element: {tag}");
        let mut attributes = BTreeMap::new();
        while !list.trim().is_empty() {
            let (name, value) = list.trim_start().split_once("=\"").expect("name=\"value\"");
            let (value, behind) = value.split_once('"').expect("the end of a value");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-'), "{tag}");
            assert!(attributes.insert(name.to_owned(), value.to_owned()).is_none(), "twice: {name} in {tag}");
            list = behind;
        }
        found.push(Element { name: name.to_owned(), attributes, is_empty, is_end });
    }
    found
}

/// Every element is closed, no id comes twice, what is referred to is there, and every chart has
/// its words.
#[track_caller]
fn is_well_formed(page: &str) {
    let elements = elements(page);
    let mut open: Vec<&str> = Vec::new();
    let mut ids = BTreeSet::new();
    for element in &elements {
        match element {
            Element { is_end: true, name, .. } => assert_eq!(open.pop(), Some(name.as_str())),
            Element { is_empty: true, .. } => {}
            Element { name, .. } if name == "meta" => {}
            Element { name, .. } => open.push(name),
        }
        if let Some(id) = element.attributes.get("id") {
            assert!(ids.insert(id.as_str()), "twice: {id}");
        }
        if element.name == "svg" && !element.is_end {
            let is_hidden = element.attributes.contains_key("aria-hidden");
            let is_named = element.attributes.contains_key("aria-labelledby");
            assert!(is_hidden != is_named, "{:?}", element.attributes);
        }
    }
    assert_eq!(open, [""; 0]);
    for element in &elements {
        let names = element.attributes.get("aria-labelledby").into_iter().flat_map(|names| names.split(' '));
        let place = element.attributes.get("href").map(|place| place.trim_start_matches('#'));
        for id in names.chain(place) {
            assert!(ids.contains(id), "there is no {id}");
        }
    }
    let count =
        |name: &str| elements.iter().filter(|element| element.name == name && !element.is_end).count();
    assert_eq!((count("h1"), count("main"), count("html")), (1, 1, 1));
    assert_eq!(count("table"), count("caption"));
    assert!(!page.contains("NaN") && !page.contains("inf"), "a number that is none");
}
