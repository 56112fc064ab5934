//! Words and operators of a command that PostgreSQL gives to the shell: `archive_command` and
//! `restore_command`, and the quotes of a word in a command that is shown. Follows the quoting and tokens of POSIX (Shell Command Language, 2.2 and 2.3);
//! expands nothing.

/// Returns a word as a shell reads it back: in single quotes unless it needs none.
pub fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:@,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A shell command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShellCommand {
    /// Words without their quotes, and without redirections and their targets.
    pub words: Vec<String>,
    /// Operators that join commands or group them: `|`, `||`, `&&`, `;`, `&`, `(`, a line break.
    pub operators: Vec<String>,
}

impl ShellCommand {
    /// Parses a command; `None` when a quote is not closed.
    pub fn parse(text: &str) -> Option<ShellCommand> {
        let mut parser = Parser { chars: text.trim().chars().peekable(), ..Parser::default() };
        parser.run()?;
        Some(parser.command)
    }

    /// Returns the program of the first command: its first word that is not an assignment.
    pub fn program(&self) -> Option<&str> {
        self.words.iter().map(String::as_str).find(|word| !is_assignment(word))
    }

    /// Whether the exit status of the first command may be lost: another command follows it.
    pub fn has_several(&self) -> bool {
        !self.operators.is_empty()
    }

    /// Whether a word has this text.
    pub fn mentions(&self, text: &str) -> bool {
        self.words.iter().any(|word| word.contains(text))
    }

    /// Whether PostgreSQL replaces the placeholder `%letter` in a word; `%%` stands for `%`.
    pub fn has_placeholder(&self, letter: char) -> bool {
        self.words.iter().any(|word| {
            let mut chars = word.chars();
            while let Some(char) = chars.next() {
                if char == '%' && chars.next() == Some(letter) {
                    return true;
                }
            }
            false
        })
    }
}

/// Whether a word is `NAME=value` in front of a command.
fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
        && name.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_')
}

struct Parser<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    command: ShellCommand,
    /// The word that is being read; `None` between words.
    word: Option<String>,
    /// Whether a part of the word is quoted.
    is_quoted: bool,
    /// Whether the next word is the target of a redirection.
    is_target: bool,
}

impl Default for Parser<'_> {
    fn default() -> Self {
        Parser {
            chars: "".chars().peekable(),
            command: ShellCommand::default(),
            word: None,
            is_quoted: false,
            is_target: false,
        }
    }
}

impl Parser<'_> {
    fn run(&mut self) -> Option<()> {
        while let Some(char) = self.chars.next() {
            match char {
                '\\' => match self.chars.next() {
                    // A line that is continued.
                    Some('\n') => {}
                    Some(escaped) => self.quoted().push(escaped),
                    None => self.quoted().push('\\'),
                },
                '\'' => self.single()?,
                '"' => self.double()?,
                ' ' | '\t' | '\r' => self.end_word(),
                '#' if self.word.is_none() => while self.chars.next_if(|char| *char != '\n').is_some() {},
                '|' | '&' | ';' | '(' | ')' | '\n' => self.operator(char),
                '<' | '>' => self.redirection(),
                other => self.word.get_or_insert_default().push(other),
            }
        }
        self.end_word();
        Some(())
    }

    /// The word, of which a part is quoted from now on.
    fn quoted(&mut self) -> &mut String {
        self.is_quoted = true;
        self.word.get_or_insert_default()
    }

    fn single(&mut self) -> Option<()> {
        self.quoted();
        loop {
            match self.chars.next()? {
                '\'' => return Some(()),
                other => self.quoted().push(other),
            }
        }
    }

    fn double(&mut self) -> Option<()> {
        self.quoted();
        loop {
            match self.chars.next()? {
                '"' => return Some(()),
                '\\' => match self.chars.next()? {
                    '\n' => {}
                    escaped @ ('$' | '`' | '"' | '\\') => self.quoted().push(escaped),
                    other => {
                        self.quoted().push('\\');
                        self.quoted().push(other);
                    }
                },
                other => self.quoted().push(other),
            }
        }
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.is_target)
        {
            self.command.words.push(word);
        }
        self.is_quoted = false;
    }

    fn operator(&mut self, first: char) {
        self.end_word();
        let mut operator = first.to_string();
        if matches!(first, '|' | '&' | ';')
            && let Some(second) = self.chars.next_if_eq(&first)
        {
            operator.push(second);
        }
        // A separator behind the last command joins nothing; `&` leaves it in the background.
        if self.chars.peek().is_some() || !matches!(operator.as_str(), ";" | "\n") {
            self.command.operators.push(operator);
        }
    }

    /// A redirection: digits right in front of it are the number of a file descriptor.
    fn redirection(&mut self) {
        let is_number = |word: &String| word.chars().all(|char| char.is_ascii_digit());
        if !self.is_quoted && self.word.as_ref().is_some_and(is_number) {
            self.word = None;
        }
        self.end_word();
        while self.chars.next_if(|char| matches!(char, '<' | '>' | '&' | '|')).is_some() {}
        self.is_target = true;
    }
}
