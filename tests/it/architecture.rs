//! The structure of the sources: which room may name which, import circles, unique type names,
//! openings of doc comments, and the files that may exist. What clippy can check stands in
//! `.clippy.toml` and in `[lints]` of `Cargo.toml`.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Entries of the top level; dot-files are free, `target` is cargo's.
const TOP: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "bin",
    "docs",
    "packaging",
    "postgresql-conf-examples",
    "src",
    "target",
    "tests",
];

/// Names that say nothing.
const NAMELESS: &[&str] = &["utils", "util", "common", "types", "helpers", "helper", "core"];

/// Type names that several rooms use for one idea.
const SHARED_NAMES: &[&str] = &[
    "Options", // what an operation is asked to do
    "Run",     // the private state of one operation under way
];

/// Words with which no doc comment of a public item begins: a subject or a verb is missing.
const NO_SUBJECT: &[&str] = &[
    "also", "as", "behind", "by", "for", "from", "how", "in", "it", "nobody", "of", "so", "somebody", "that",
    "those", "through", "what", "when", "where", "which", "who", "whoever", "with", "without",
];

#[test]
fn rooms_name_only_the_rooms_below_them() {
    let rooms = rooms();
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let Some(room) = source.module.first() else { continue };
        let Some((_, allowed)) = rooms.iter().find(|(name, _)| name == room) else {
            wrong.push(format!("{}: no room of the table in src/lib.rs is called {room}", source.name));
            continue;
        };
        for (line, path) in source.paths() {
            let Some(named) = path.first() else { continue };
            let is_allowed = *allowed == ["everything"] || allowed.contains(named);
            if named != room && !is_allowed {
                wrong.push(format!("{}:{line}: {room} must not name {named}", source.name));
            }
        }
    }
    for source in sources(&["bin"]) {
        for (line, path) in paths_after(&source.tokens, &["walkeep"]) {
            if path.first().is_some_and(|named| named != "cli") {
                wrong.push(format!("{}:{line}: an entry point must name cli alone", source.name));
            }
        }
    }
    report(wrong);
}

/// What clippy holds in every other room, for the one that is exempt from its list of methods
/// because it reads the environment and the clock.
#[test]
fn the_command_line_reaches_files_by_the_room_for_them() {
    let mut wrong = Vec::new();
    for source in sources(&["src/cli", "bin"]) {
        for (line, path) in paths_after(&source.tokens, &["std", "rustix"]) {
            let is_by_path = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["fs", "File" | "FileType" | "Stat" | "StatVfs" | "Access"] => false,
                ["fs", name, ..] => !name.starts_with('f') && !name.ends_with("at"),
                ["os", "unix", "fs", name, ..] => !name.ends_with("Ext"),
                _ => false,
            };
            if is_by_path {
                wrong.push(format!("{}:{line}: {}: use crate::fs", source.name, path.join("::")));
            }
        }
        let mut visitor = FileCalls { source: &source, wrong: &mut wrong };
        syn::visit::Visit::visit_file(&mut visitor, &source.file);
    }
    report(wrong);
}

/// Calls that look at or open what is at a path.
struct FileCalls<'a> {
    source: &'a Source,
    wrong: &'a mut Vec<String>,
}

impl<'ast> syn::visit::Visit<'ast> for FileCalls<'_> {
    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        const CALLS: [&str; 9] = [
            "canonicalize",
            "exists",
            "is_dir",
            "is_file",
            "is_symlink",
            "read_dir",
            "read_link",
            "symlink_metadata",
            "try_exists",
        ];
        let name = call.method.to_string();
        if CALLS.contains(&&name[..]) && call.args.is_empty() {
            let line = call.method.span().start().line;
            self.wrong.push(format!("{}:{line}: .{name}(): use crate::fs::named", self.source.name));
        }
        syn::visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        let words: Vec<String> = path.path.segments.iter().map(|part| part.ident.to_string()).collect();
        if let [.., kind, name] = &words[..]
            && kind == "File"
            && name != "from"
        {
            let line = path.path.segments[0].ident.span().start().line;
            self.wrong.push(format!("{}:{line}: File::{name}: use crate::fs", self.source.name));
        }
        syn::visit::visit_expr_path(self, path);
    }
}

#[test]
fn the_map_declares_only_rooms() {
    let rooms: BTreeSet<String> = rooms().into_iter().map(|(room, _)| room).collect();
    let map = source(&root().join("src/lib.rs"));
    let mut declared = BTreeSet::new();
    for item in &map.file.items {
        let syn::Item::Mod(module) = item else { panic!("src/lib.rs: an item that is not a module") };
        declared.insert(module.ident.to_string());
    }
    assert_eq!(declared, rooms, "the modules of src/lib.rs, and the rooms of its table");
}

/// Imports of a parent module by its children are free: it holds what they share. So are its
/// imports of them.
#[test]
fn no_files_of_a_room_import_each_other_in_a_circle() {
    let sources = sources(&["src"]);
    let names: BTreeMap<&[String], &str> =
        sources.iter().map(|source| (&source.module[..], &source.name[..])).collect();
    let exports: BTreeMap<&[String], BTreeMap<String, Vec<String>>> =
        sources.iter().map(|source| (&source.module[..], source.exports())).collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in &sources {
        let is_parent = names
            .keys()
            .any(|module| module.len() > source.module.len() && module.starts_with(&source.module));
        if is_parent {
            continue;
        }
        for (_, path) in source.paths() {
            let target = defining(&path, &names, &exports);
            if source.module.starts_with(target) || !names.contains_key(target) {
                continue;
            }
            imports.entry(&source.name).or_default().insert(names[target]);
        }
    }
    let mut wrong = Vec::new();
    for file in imports.keys() {
        if let Some(circle) = circle(file, &imports) {
            wrong.push(circle.join(" -> "));
        }
    }
    report(wrong);
}

#[test]
fn every_type_has_a_name_of_its_own() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources(&["src"]) {
        for item in &source.file.items {
            let name = match item {
                syn::Item::Struct(item) => &item.ident,
                syn::Item::Enum(item) => &item.ident,
                syn::Item::Trait(item) => &item.ident,
                syn::Item::Type(item) => &item.ident,
                _ => continue,
            };
            let place = format!("{}:{}", source.name, name.span().start().line);
            places.entry(name.to_string()).or_default().push(place);
        }
    }
    let twice =
        |(name, places): &(String, Vec<String>)| places.len() > 1 && !SHARED_NAMES.contains(&&name[..]);
    let wrong = places.into_iter().filter(twice);
    report(wrong.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect());
}

#[test]
fn doc_comments_of_public_items_open_with_a_subject_or_a_verb() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let mut visitor = Documented { source: &source, wrong: &mut wrong };
        syn::visit::Visit::visit_file(&mut visitor, &source.file);
    }
    report(wrong);
}

#[test]
fn only_cli_names_the_argument_parser() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        if source.module.first().is_some_and(|room| room == "cli") {
            continue;
        }
        for parser in ["clap", "clap_complete", "clap_mangen", "tracing_subscriber", "indicatif"] {
            for (line, _) in paths_after(&source.tokens, &[parser]) {
                wrong.push(format!("{}:{line}: only cli may name {parser}", source.name));
            }
        }
    }
    report(wrong);
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut wrong = Vec::new();
    for source in sources(&["src", "bin", "tests"]) {
        if !source.text.starts_with("//! ") {
            wrong.push(format!("{}:1: does not begin with a `//! ` line", source.name));
        }
    }
    report(wrong);
}

#[test]
fn names_say_something() {
    let mut wrong = Vec::new();
    for source in sources(&["src", "bin", "tests"]) {
        for part in Path::new(&source.name).with_extension("").components() {
            let part = part.as_os_str().to_string_lossy().into_owned();
            if NAMELESS.contains(&part.as_str()) {
                wrong.push(format!("{}:1: nothing may be called {part}", source.name));
            }
        }
        each_identifier(&source.tokens, &mut |word, line| {
            if word.ends_with("Manager") || word.ends_with("Handler") {
                wrong.push(format!("{}:{line}: nothing may be called {word}", source.name));
            }
        });
    }
    report(wrong);
}

#[test]
fn the_top_of_the_repository_holds_what_was_agreed() {
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(root()).expect("list the repository") {
        let name = entry.expect("list the repository").file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !TOP.contains(&name.as_ref()) {
            wrong.push(format!("{name}:1: not among the entries of the top level"));
        }
    }
    report(wrong);
}

/// `SECURITY.md` names the tests that hold what it promises, as `module::test`.
#[test]
fn every_promise_of_the_security_policy_has_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("SECURITY.md")).expect("read SECURITY.md");
    let table = text.split("| threat | defence | tests |").nth(1).expect("the table of threats");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 15, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let tests = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default();
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("SECURITY.md: no test in the row {row}"));
        }
        for test in named {
            let (module, name) = test.rsplit_once("::").expect("module::test");
            let file = root().join("tests/it").join(module.replace("::", "/")).with_extension("rs");
            let source = std::fs::read_to_string(&file).unwrap_or_default();
            if !source.contains(&format!("#[test]\nfn {name}()")) {
                wrong.push(format!("SECURITY.md: {test} is not a test"));
            }
        }
    }
    report(wrong);
}

#[track_caller]
fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rooms of the table in `src/lib.rs`, each with the rooms that it may name.
fn rooms() -> Vec<(String, Vec<String>)> {
    let map = std::fs::read_to_string(root().join("src/lib.rs")).expect("read src/lib.rs");
    let words = |cell: &str| -> Vec<String> {
        let letters = |c: char| c.is_ascii_lowercase() || c == '_';
        cell.split(|c| !letters(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let mut rooms = Vec::new();
    for line in map.lines().filter(|line| line.starts_with("//! | ") && line.contains('`')) {
        let cells: Vec<&str> = line.split('|').collect();
        let [_, room, _, named, _] = cells[..] else { panic!("not three columns: {line}") };
        let [room] = &words(room)[..] else { panic!("not one room: {line}") };
        rooms.push((room.clone(), words(named)));
    }
    assert!(rooms.len() > 10, "the table of src/lib.rs was not found");
    rooms
}

/// One source file.
struct Source {
    /// Path in the repository: `src/wal/push.rs`.
    name: String,
    /// Place among the modules of the crate: `["wal", "push"]`.
    module: Vec<String>,
    text: String,
    tokens: TokenStream,
    file: syn::File,
}

/// Every Rust file below some directories of the repository.
fn sources(directories: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for directory in directories {
        collect(&root().join(directory), &mut found);
    }
    found.sort();
    found.iter().map(|path| source(path)).collect()
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn source(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).expect("read a source file");
    let name = path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned();
    let stem = Path::new(&name).with_extension("");
    let parts = stem.components().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
    Source {
        module: parts.filter(|part| part != "mod" && part != "lib").collect(),
        tokens: text.parse().unwrap_or_else(|error| panic!("{name}: {error}")),
        file: syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}")),
        name,
        text,
    }
}

impl Source {
    /// The paths of this crate that the file names, from the crate's root, with their lines.
    fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut found = paths_after(&self.tokens, &["crate", "super", "self"]);
        for (_, path) in &mut found {
            let from_here = matches!(path.first().map(String::as_str), Some("super" | "self"));
            if from_here {
                let up = path.iter().take_while(|part| *part == "super").count();
                let rest = path.iter().skip_while(|part| matches!(part.as_str(), "super" | "self")).cloned();
                let base = &self.module[..self.module.len().saturating_sub(up)];
                *path = base.iter().cloned().chain(rest).collect();
            }
        }
        found.retain(|(_, path)| !path.is_empty());
        found
    }

    /// The names that a module hands on (`pub use archive::Archive`), with the paths that they
    /// stand for.
    fn exports(&self) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        for item in &self.file.items {
            let syn::Item::Use(item) = item else { continue };
            if matches!(item.vis, syn::Visibility::Inherited) {
                continue;
            }
            each_use(&item.tree, &mut Vec::new(), &mut |path, name| {
                let path = path.iter().filter(|part| *part != "self").cloned();
                found.insert(name, self.module.iter().cloned().chain(path).collect());
            });
        }
        found
    }
}

fn each_use(tree: &syn::UseTree, before: &mut Vec<String>, found: &mut impl FnMut(&[String], String)) {
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            each_use(&path.tree, before, found);
            before.pop();
        }
        syn::UseTree::Name(name) => {
            before.push(name.ident.to_string());
            found(before, name.ident.to_string());
            before.pop();
        }
        syn::UseTree::Rename(name) => {
            before.push(name.ident.to_string());
            found(before, name.rename.to_string());
            before.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| each_use(tree, before, found)),
        syn::UseTree::Glob(_) => {}
    }
}

/// The paths behind any of these first words, with their lines; `crate` itself is left out, `super`
/// stays. Groups (`crate::{a, b::c}`) are taken apart. Macros are read like everything else.
fn paths_after(tokens: &TokenStream, first: &[&str]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => found.extend(paths_after(&group.stream(), first)),
            TokenTree::Ident(word)
                if first.iter().any(|first| word == first) && !follows_path(&tokens, at) =>
            {
                let begin =
                    if word == "super" || word == "self" { vec![word.to_string()] } else { Vec::new() };
                at = walk(&tokens, at + 1, begin, word.span().start().line, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon =
        |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(at) && is_colon(at + 1)
}

fn follows_path(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && is_colons(tokens, at - 2)
}

/// Reads `::a::b` or `::{…}` from `at` on; returns the place behind it.
fn walk(
    tokens: &[TokenTree],
    mut at: usize,
    mut path: Vec<String>,
    line: usize,
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    while is_colons(tokens, at) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(word)) => path.push(word.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let members: Vec<TokenTree> = group.stream().into_iter().collect();
                for member in
                    members.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','))
                {
                    if let Some(TokenTree::Ident(word)) = member.first() {
                        let mut path = path.clone();
                        path.push(word.to_string());
                        walk(member, 1, path, word.span().start().line, found);
                    }
                }
                return at + 3;
            }
            _ => break,
        }
        at += 3;
    }
    if !path.iter().all(|part| part == "self") {
        found.push((line, path));
    }
    at
}

fn each_identifier(tokens: &TokenStream, found: &mut impl FnMut(String, usize)) {
    for token in tokens.clone() {
        match token {
            TokenTree::Group(group) => each_identifier(&group.stream(), found),
            TokenTree::Ident(word) => found(word.to_string(), word.span().start().line),
            _ => {}
        }
    }
}

/// The module that defines what a path names, through the names that modules hand on.
fn defining<'a>(
    path: &[String],
    names: &BTreeMap<&'a [String], &str>,
    exports: &BTreeMap<&'a [String], BTreeMap<String, Vec<String>>>,
) -> &'a [String] {
    let deepest = names.keys().filter(|module| path.starts_with(module)).max_by_key(|module| module.len());
    let module: &'a [String] = deepest.copied().unwrap_or_default();
    let handed_on = path.get(module.len()).and_then(|name| exports.get(module)?.get(name));
    match handed_on {
        Some(real) if real[..] != *path => defining(real, names, exports),
        _ => module,
    }
}

/// The shortest way from a file back to itself.
fn circle(file: &str, imports: &BTreeMap<&str, BTreeSet<&str>>) -> Option<Vec<String>> {
    let mut ways: Vec<Vec<&str>> = vec![vec![file]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in imports.get(way[way.len() - 1]).into_iter().flatten() {
                if *next == file {
                    return Some(way.iter().chain([next]).map(|name| (*name).to_owned()).collect());
                }
                if seen.insert(*next) {
                    longer.push(way.iter().chain([next]).copied().collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// Finds public items whose doc comments open without a subject.
struct Documented<'a> {
    source: &'a Source,
    wrong: &'a mut Vec<String>,
}

impl Documented<'_> {
    fn check(&mut self, attributes: &[syn::Attribute]) {
        for attribute in attributes {
            let syn::Meta::NameValue(pair) = &attribute.meta else { continue };
            let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { continue };
            if !pair.path.is_ident("doc") {
                continue;
            }
            let text = text.value();
            let first = text.split_whitespace().next().unwrap_or_default().trim_matches(',').to_lowercase();
            if NO_SUBJECT.contains(&&first[..]) || text.trim().to_lowercase().starts_with("the same") {
                let line = text_line(attribute);
                self.wrong.push(format!("{}:{line}: opens without a subject:{text}", self.source.name));
            }
            return;
        }
    }
}

fn text_line(attribute: &syn::Attribute) -> usize {
    attribute.pound_token.span.start().line
}

fn is_public(visibility: &syn::Visibility) -> bool {
    !matches!(visibility, syn::Visibility::Inherited)
}

impl<'ast> syn::visit::Visit<'ast> for Documented<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let (visibility, attributes) = match item {
            syn::Item::Struct(item) => (&item.vis, &item.attrs),
            syn::Item::Enum(item) => (&item.vis, &item.attrs),
            syn::Item::Trait(item) => (&item.vis, &item.attrs),
            syn::Item::Type(item) => (&item.vis, &item.attrs),
            syn::Item::Fn(item) => (&item.vis, &item.attrs),
            syn::Item::Const(item) => (&item.vis, &item.attrs),
            syn::Item::Static(item) => (&item.vis, &item.attrs),
            _ => return syn::visit::visit_item(self, item),
        };
        if is_public(visibility) {
            self.check(attributes);
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if is_public(&field.vis) {
            self.check(&field.attrs);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.check(&variant.attrs);
        syn::visit::visit_variant(self, variant);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if is_public(&function.vis) {
            self.check(&function.attrs);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.check(&function.attrs);
    }
}

#[test]
fn the_reader_of_sources_sees_what_matters() {
    let tokens: TokenStream =
        "use crate::{error::{Kind, Error}, pg};\nlet s = \"crate::cli\"; // crate::cli\n\
         fn f() { crate::wal::g(); format!(\"{}\", crate::repo::h()) }\nuse super::super::notify;"
            .parse()
            .expect("tokens");
    let file = syn::parse_file("").expect("an empty file");
    let module = vec!["repo".to_owned(), "key".to_owned()];
    let source = Source { name: "src/repo/key.rs".into(), module, text: String::new(), tokens, file };
    let named: Vec<(usize, String)> =
        source.paths().into_iter().map(|(line, path)| (line, path[0].clone())).collect();
    let expected = [(1, "error"), (1, "error"), (1, "pg"), (3, "wal"), (3, "repo"), (4, "notify")];
    assert_eq!(named, expected.map(|(line, name)| (line, name.to_owned())));
    let imports = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["c"])),
        ("c", BTreeSet::from(["a"])),
    ]);
    assert_eq!(circle("a", &imports).expect("a circle"), ["a", "b", "c", "a"]);
}
