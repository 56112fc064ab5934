//! Writer of HTML. Markup comes only from literals of the program; every other value is written as
//! text or as the value of an attribute, and is escaped. There is no way to write a value
//! unescaped.

use std::fmt::{self, Display, Write};

/// Name and value of an attribute.
pub type Attribute<'a> = (&'static str, &'a dyn Display);

#[derive(Default)]
pub struct Html(String);

impl Html {
    /// Appends literal markup.
    pub fn markup(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Appends escaped text.
    pub fn text(&mut self, text: impl Display) {
        // Writing to a string does not fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
    }

    /// Appends an element around what `content` appends.
    pub fn element(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        content: impl FnOnce(&mut Html),
    ) {
        self.open(name, attributes);
        self.0.push('>');
        content(self);
        let _ = write!(self.0, "</{name}>");
    }

    /// Appends an element that contains only text.
    pub fn leaf(&mut self, name: &'static str, attributes: &[Attribute<'_>], text: impl Display) {
        self.element(name, attributes, |html| html.text(text));
    }

    /// Appends an element without content: a `meta`, an SVG shape.
    pub fn empty(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.open(name, attributes);
        self.0.push_str("/>");
    }

    /// Appends a region that scrolls sideways where its content is too wide, by keyboard too.
    pub fn scroll(&mut self, name: &str, content: impl FnOnce(&mut Html)) {
        let attributes: [Attribute<'_>; 4] =
            [("class", &"scroll"), ("tabindex", &0), ("role", &"region"), ("aria-label", &name)];
        self.element("div", &attributes, content);
    }

    pub fn into_string(self) -> String {
        self.0
    }

    fn open(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        let _ = write!(self.0, "<{name}");
        for (attribute, value) in attributes {
            let _ = write!(self.0, " {attribute}=\"");
            self.text(value);
            self.0.push('"');
        }
    }
}

struct Escaped<'h>(&'h mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(c),
                // HTML forbids control characters, and those that change the writing direction
                // could hide text.
                c if c.is_control() => self.0.push(char::REPLACEMENT_CHARACTER),
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    self.0.push(char::REPLACEMENT_CHARACTER);
                }
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}
