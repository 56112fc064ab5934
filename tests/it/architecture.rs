//! The shape of the house, read from the sources: which room may name which, what only one room may do, and which
//! files there may be. Every violation is shown with its file and line.

use std::path::{Path, PathBuf};

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

/// What stands at the top of the repository; dot-files are free, `target` is cargo's.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "bin",
    "postgresql-conf-examples",
    "tests",
    "README.md",
    "Makefile",
    "CHANGELOG.md",
    "LICENSE",
    "target",
];

/// Names that say nothing.
const NAMELESS: &[&str] = &["utils", "util", "common", "types", "helpers", "helper", "core"];

/// What only `cli` does: it talks, reads the environment and the clock, and ends the program.
const ONLY_CLI: &[&str] = &[
    "clap::",
    "clap_complete::",
    "clap_mangen::",
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
    "io::stdout",
    "io::stderr",
    "std::env",
    "env::var",
    "env::args",
    "env::current_dir",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "process::exit",
];

/// What only `durable.rs` does: the renames and syncs of the program.
const ONLY_DURABLE: &[&str] = &[
    "fs::rename",
    "rename(",
    "renameat",
    "hard_link",
    "linkat",
    "sync_all",
    "sync_data",
    "fsync(",
    "fdatasync(",
    "syncfs(",
];

#[test]
fn rooms_name_only_the_rooms_below_them() {
    let mut wrong = Vec::new();
    let rooms = rooms();
    for source in sources("src") {
        let Some(room) = source.room() else {
            continue;
        };
        let Some((_, allowed)) = rooms.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: no room of the table is called {room}", source.name));
            continue;
        };
        for (line, named) in source.rooms_named() {
            if named != room && *allowed != ["everything"] && !allowed.contains(&named) {
                wrong.push(format!("{}:{line}: {room} must not name {named}", source.name));
            }
        }
    }
    for source in sources("bin") {
        for (line, named) in source.after("walkeep::") {
            if named != "cli" {
                wrong.push(format!("{}:{line}: an entry point must not name {named}", source.name));
            }
        }
    }
    report(wrong);
}

#[test]
fn the_map_declares_only_rooms() {
    let map = Source::read(&root().join("src/lib.rs"));
    let rooms = rooms();
    let mut wrong = Vec::new();
    for (number, line) in map.code.lines().enumerate() {
        let line = line.trim();
        let room = line
            .strip_prefix("pub mod ")
            .or_else(|| line.strip_prefix("mod "))
            .and_then(|rest| rest.strip_suffix(';'));
        let is_room = room.is_some_and(|room| rooms.iter().any(|(name, _)| name == room));
        if !line.is_empty() && !line.starts_with('#') && !is_room {
            wrong.push(format!("src/lib.rs:{}: not the declaration of a room: {line}", number + 1));
        }
    }
    report(wrong);
}

#[test]
fn only_cli_talks_and_asks_the_environment_and_the_clock() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        if source.room().as_deref() != Some("cli") {
            wrong.extend(source.uses(ONLY_CLI, "only cli may use"));
        }
        wrong.extend(source.uses(&["dbg!", "todo!", "unimplemented!"], "nobody may leave behind"));
    }
    report(wrong);
}

#[test]
fn only_durable_renames_links_and_syncs() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        if source.name != "src/fs/durable.rs" {
            wrong.extend(source.uses(ONLY_DURABLE, "only fs/durable.rs may use"));
        }
    }
    report(wrong);
}

#[test]
fn nothing_panics_on_purpose_outside_tests() {
    let mut wrong = Vec::new();
    for source in sources("src").into_iter().chain(sources("bin")) {
        wrong.extend(source.uses(&[".unwrap()", ".expect(", ".unwrap_err()"], "not outside tests:"));
    }
    report(wrong);
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut wrong = Vec::new();
    for source in sources("src").into_iter().chain(sources("bin")).chain(sources("tests")) {
        if !source.text.starts_with("//! ") {
            wrong.push(format!("{}:1: does not begin with a `//! ` line", source.name));
        }
    }
    report(wrong);
}

#[test]
fn names_say_something() {
    let mut wrong = Vec::new();
    for source in sources("src").into_iter().chain(sources("bin")).chain(sources("tests")) {
        for part in Path::new(&source.name).with_extension("").components() {
            let part = part.as_os_str().to_string_lossy().into_owned();
            if NAMELESS.contains(&part.as_str()) {
                wrong.push(format!("{}:1: nothing may be called {part}", source.name));
            }
        }
        for (number, line) in source.code.lines().enumerate() {
            for word in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
                if word.ends_with("Manager") || word.ends_with("Handler") {
                    wrong.push(format!("{}:{}: nothing may be called {word}", source.name, number + 1));
                }
            }
        }
        for (line, module) in source.after("mod ") {
            if NAMELESS.contains(&module.as_str()) {
                wrong.push(format!("{}:{line}: nothing may be called {module}", source.name));
            }
        }
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

#[track_caller]
fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One source file: as written, and as code alone.
struct Source {
    /// Relative to the repository: `src/wal/push.rs`.
    name: String,
    text: String,
    /// The text with comments, literals and what is compiled for tests alone turned into spaces; lines stay.
    code: String,
}

/// Every Rust file below a directory of the repository.
fn sources(directory: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(directory), &mut found);
    found.sort();
    found.iter().map(|path| Source::read(path)).collect()
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

impl Source {
    fn read(path: &Path) -> Source {
        let text = std::fs::read_to_string(path).expect("read a source file");
        let name = path.strip_prefix(root()).unwrap_or(path);
        Source {
            name: name.to_string_lossy().into_owned(),
            code: without_tests(&without_literals(&text)),
            text,
        }
    }

    /// Where it stands among the modules: `["wal", "push"]`.
    fn module(&self) -> Vec<String> {
        let path = Path::new(&self.name).with_extension("");
        let parts = path.components().skip(1);
        let mut parts: Vec<String> =
            parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        parts.retain(|part| part != "mod");
        parts
    }

    /// The room it belongs to; none for the map.
    fn room(&self) -> Option<String> {
        self.module().into_iter().next().filter(|room| room != "lib")
    }

    /// The rooms it names, with their lines.
    fn rooms_named(&self) -> Vec<(usize, String)> {
        let mut named = self.after("crate::");
        let up = "super::".repeat(self.module().len());
        named.extend(self.after(&up));
        named.retain(|(_, name)| !matches!(name.as_str(), "super" | "self"));
        named
    }

    /// The names that follow a path prefix, alone or in the first level of a `{…}` group, with their lines.
    fn after(&self, prefix: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices(prefix) {
            let before = self.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let line = self.code[..at].matches('\n').count() + 1;
            let rest = self.code[at + prefix.len()..].trim_start();
            match rest.strip_prefix('{') {
                None => found.extend(identifier(rest).map(|name| (line, name))),
                Some(group) => {
                    for (offset, member) in first_level(group) {
                        let line = line + group[..offset].matches('\n').count();
                        found.extend(identifier(member).map(|name| (line, name)));
                    }
                }
            }
        }
        found
    }

    /// The uses of some pieces of code, as violations.
    fn uses(&self, pieces: &[&str], why: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in self.code.lines().enumerate() {
            for piece in pieces {
                let used = line.match_indices(piece).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    piece.starts_with('.') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                });
                if used {
                    found.push(format!("{}:{}: {why} {piece}", self.name, number + 1));
                }
            }
        }
        found
    }
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The members of a `{…}` group whose opening brace was just read, with their offsets.
fn first_level(group: &str) -> Vec<(usize, &str)> {
    let (mut depth, mut begin, mut members) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                members.push((begin, &group[begin..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push((begin, &group[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
    }
    members
        .into_iter()
        .map(|(begin, member)| {
            let trimmed = member.trim_start();
            (begin + member.len() - trimmed.len(), trimmed)
        })
        .collect()
}

/// The same text with comments, strings and characters turned into spaces.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = literal(rest, code.chars().next_back());
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            blank(&rest[..length], &mut code);
            rest = &rest[length..];
        }
    }
    code
}

fn blank(text: &str, into: &mut String) {
    into.extend(text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
}

/// How long the comment, string or character is that begins here; 0 when none does.
fn literal(rest: &str, before: Option<char>) -> usize {
    let until = |from: usize, end: &str| {
        let found = rest[from..].find(end);
        found.map(|at| from + at + end.len()).unwrap_or(rest.len())
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until(2, "*/");
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word && (rest.starts_with("r\"") || rest.starts_with("r#") || rest.starts_with("br")) {
        let after = rest.trim_start_matches('b').trim_start_matches('r');
        let hashes = after.len() - after.trim_start_matches('#').len();
        let begin = rest.len() - after.len() + hashes;
        if rest[begin..].starts_with('"') {
            return until(begin + 1, &format!("\"{}", "#".repeat(hashes)));
        }
        return 0;
    }
    if rest.starts_with('"') {
        return string(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    0
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal; a lifetime is none.
fn character(rest: &str) -> usize {
    let mut inside = rest.char_indices().skip(1);
    match inside.next() {
        Some((_, '\\')) => rest[3..].find('\'').map(|at| at + 4).unwrap_or(0),
        Some(_) => match inside.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

/// The same code with every item behind `#[cfg(test)]` turned into spaces.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let length = item(&rest[at + MARK.len()..]) + MARK.len();
        blank(&rest[at..at + length], &mut kept);
        rest = &rest[at + length..];
    }
    kept.push_str(rest);
    kept
}

/// How long the item is: up to its `;`, or to the brace that closes it.
fn item(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[test]
fn the_reader_of_sources_sees_what_matters() {
    let code = without_literals(
        "use crate::{error::{Kind, Error}, pg};\nlet s = \"crate::cli\"; // crate::cli\nlet c = '\"'; 'a: loop {}\n\
         let r = r#\"a\"crate::cli\"#; x::<'static>();\n#[cfg(test)]\nmod tests {\n use crate::cli; }\nfn f() { crate::wal::g() }",
    );
    let source = Source { name: "src/repo/key.rs".into(), text: String::new(), code: without_tests(&code) };
    let expected = [(1, "error"), (1, "pg"), (8, "wal")].map(|(line, name)| (line, name.to_owned()));
    assert_eq!(source.rooms_named(), expected);
    assert_eq!(source.room().as_deref(), Some("repo"));
    let upward = Source {
        name: "src/repo/key.rs".into(),
        text: String::new(),
        code: "use super::super::cli;\nuse super::identity;".into(),
    };
    assert_eq!(upward.rooms_named(), [(1, "cli".to_owned())]);
}
