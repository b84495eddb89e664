//! As much of XML as reports need: elements with text. No attributes, no entities but the five.

use quick_xml::{Reader, events::Event as Xml};

use crate::ReportError;

/// Deeper elements are nothing that reports have.
const MAX_DEPTH: usize = 16;
/// Text of one element that is kept.
const MAX_ELEMENT: usize = 4_096;

pub struct Writer {
    text: String,
    depth: usize,
}

impl Writer {
    pub fn new() -> Self {
        Self { text: String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"), depth: 0 }
    }

    pub fn open(&mut self, name: &str) {
        self.indent();
        self.text.push_str(&format!("<{name}>\n"));
        self.depth += 1;
    }

    pub fn close(&mut self, name: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.indent();
        self.text.push_str(&format!("</{name}>\n"));
    }

    pub fn text(&mut self, name: &str, value: &str) {
        self.indent();
        // XML 1.0 §2.2 has no other control characters, not even as references.
        let legal: String =
            value.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect();
        self.text.push_str(&format!("<{name}>{}</{name}>\n", quick_xml::escape::escape(legal.as_str())));
    }

    pub fn some_text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }

    pub fn finish(self) -> String {
        self.text
    }

    fn indent(&mut self) {
        self.text.push_str(&"  ".repeat(self.depth));
    }
}

/// What is met, with the names of the elements around it.
pub enum Event<'a> {
    Text(&'a [&'a str], &'a str),
    End(&'a [&'a str]),
}

/// Calls for each element's text, which comes whole, and for each end.
pub fn read(document: &[u8], mut each: impl FnMut(Event<'_>) -> Result<(), ReportError>) -> Result<(), ReportError> {
    let syntax = |e: String| ReportError::Syntax(crate::cut(&e));
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let document = std::str::from_utf8(document).map_err(|e| syntax(e.to_string()))?;
    let mut reader = Reader::from_str(document);
    let mut path: Vec<String> = Vec::new();
    let mut text = String::new();
    let mut is_empty = true;
    loop {
        match reader.read_event().map_err(|e| syntax(e.to_string()))? {
            Xml::Start(start) => {
                if path.len() == MAX_DEPTH {
                    return Err(syntax(format!("more than {MAX_DEPTH} levels")));
                }
                path.push(start.local_name().as_ref().to_owned());
                text.clear();
                is_empty = false;
            }
            Xml::End(_) => {
                let names: Vec<&str> = path.iter().map(String::as_str).collect();
                each(Event::Text(&names, &text))?;
                each(Event::End(&names))?;
                path.pop();
                text.clear();
            }
            Xml::Text(more) => add(&mut text, &more),
            Xml::CData(more) => add(&mut text, &more),
            Xml::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref().map_err(|e| syntax(e.to_string()))? {
                    Some(c) => c.to_string(),
                    None => quick_xml::escape::resolve_predefined_entity(&reference)
                        .ok_or_else(|| syntax("an entity of its own".to_owned()))?
                        .to_owned(),
                };
                add(&mut text, &resolved);
            }
            Xml::Eof if path.is_empty() && !is_empty => return Ok(()),
            Xml::Eof => return Err(syntax("it ends too early".to_owned())),
            Xml::DocType(_) => return Err(syntax("a document type of its own".to_owned())),
            Xml::Empty(_) | Xml::Comment(_) | Xml::Decl(_) | Xml::PI(_) => (),
        }
    }
}

fn add(text: &mut String, more: &str) {
    let room = MAX_ELEMENT.saturating_sub(text.len());
    text.push_str(more.get(..more.floor_char_boundary(room)).unwrap_or_default());
}
