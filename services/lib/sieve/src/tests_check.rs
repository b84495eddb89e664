//! Tests (RFC 5228 §5 and extensions), checked.

use crate::{
    arguments::{Arguments, Kind, Tag},
    check::Checker,
    compare::{Comparator, Matching, Relation, Way},
    date::{DatePart, zone_minutes},
    error::ScriptError,
    extension::Extension,
    fields::may_hold_addresses,
    parser::Node,
    program::{AddressPart, Index, Test, Transform, UniqueId, Zone},
    text::Text,
};

const MATCHING: [Tag; 6] = [
    ("comparator", Kind::Text, None),
    ("is", Kind::Nothing, None),
    ("contains", Kind::Nothing, None),
    ("matches", Kind::Nothing, None),
    ("value", Kind::Text, Some(Extension::Relational)),
    ("count", Kind::Text, Some(Extension::Relational)),
];
const PARTS: [Tag; 5] = [
    ("all", Kind::Nothing, None),
    ("localpart", Kind::Nothing, None),
    ("domain", Kind::Nothing, None),
    ("user", Kind::Nothing, Some(Extension::SubAddress)),
    ("detail", Kind::Nothing, Some(Extension::SubAddress)),
];
const INDEX: [Tag; 2] =
    [("index", Kind::Number, Some(Extension::Index)), ("last", Kind::Nothing, Some(Extension::Index))];
const ZONE: Tag = ("zone", Kind::Text, None);
/// RFC 7352 §3.3.
const DUPLICATE_SECONDS: u64 = 7 * 86_400;
const DUPLICATE_MOST: u64 = 90 * 86_400;

impl Checker<'_> {
    pub fn test(&self, node: &Node) -> Result<Test, ScriptError> {
        let simple = |test| Arguments::read(self, node, &[])?.end(self, false).map(|()| test);
        match node.name.as_str() {
            "true" => simple(Test::Constant(true)),
            "false" => simple(Test::Constant(false)),
            "not" => {
                let [test] = node.tests.as_slice() else {
                    return Err(self.error(node.at, "expected one test after \"not\""));
                };
                Arguments::read(self, node, &[])?.end(self, true)?;
                Ok(Test::Not(Box::new(self.test(test)?)))
            }
            "allof" | "anyof" => {
                Arguments::read(self, node, &[])?.end(self, true)?;
                if node.tests.is_empty() {
                    return Err(self.error(node.at, format!("expected tests in parentheses after {:?}", node.name)));
                }
                let tests = node.tests.iter().map(|t| self.test(t)).collect::<Result<Vec<_>, _>>()?;
                Ok(if node.name == "allof" { Test::All(tests) } else { Test::Any(tests) })
            }
            "address" => self.address(node),
            "envelope" => self.envelope(node),
            "exists" => {
                let mut arguments = Arguments::read(self, node, &[])?;
                let headers = self.field_names(&arguments.words(self, "header field names")?)?;
                arguments.end(self, false)?;
                Ok(Test::Exists { headers })
            }
            "header" => {
                let mut arguments = Arguments::read(self, node, &[&MATCHING, &INDEX])?;
                let index = self.index(&arguments)?;
                let headers = self.field_names(&arguments.words(self, "header field names")?)?;
                Ok(Test::Header { headers, index, matching: self.keys(node, arguments)? })
            }
            "size" => {
                let mut arguments =
                    Arguments::read(self, node, &[&[("over", Kind::Nothing, None), ("under", Kind::Nothing, None)]])?;
                if arguments.has("over") == arguments.has("under") {
                    return Err(self.error(node.at, "\"size\" expected one of :over and :under"));
                }
                let (over, limit) = (arguments.has("over"), arguments.number(self, "a number of octets")?);
                arguments.end(self, false)?;
                Ok(Test::Size { over, limit })
            }
            "body" => self.body(node),
            "date" | "currentdate" => self.date(node),
            "string" => {
                self.needs(Extension::Variables, node.at, "\"string\"")?;
                let mut arguments = Arguments::read(self, node, &[&MATCHING])?;
                let sources = arguments.texts(self, "strings")?;
                Ok(Test::Strings { sources, matching: self.keys(node, arguments)? })
            }
            "hasflag" => {
                self.needs(Extension::Imap4Flags, node.at, "\"hasflag\"")?;
                let mut arguments = Arguments::read(self, node, &[&MATCHING])?;
                let variables = match arguments.left() {
                    0 | 1 => Vec::new(),
                    _ => {
                        self.needs(Extension::Variables, node.at, "the names of variables")?;
                        arguments.texts(self, "the names of variables")?
                    }
                };
                Ok(Test::HasFlag { variables, matching: self.keys(node, arguments)? })
            }
            "mailboxexists" => {
                self.needs(Extension::Mailbox, node.at, "\"mailboxexists\"")?;
                let mut arguments = Arguments::read(self, node, &[])?;
                let mailboxes = arguments.texts(self, "mailboxes")?;
                arguments.end(self, false)?;
                Ok(Test::MailboxExists { mailboxes })
            }
            "duplicate" => self.duplicate(node),
            "environment" => {
                self.needs(Extension::Environment, node.at, "\"environment\"")?;
                let mut arguments = Arguments::read(self, node, &[&MATCHING])?;
                let item = arguments.text(self, "the name of an item")?;
                Ok(Test::Environment { item, matching: self.keys(node, arguments)? })
            }
            name => Err(self.error(node.at, format!("unknown test {name:?}"))),
        }
    }

    fn address(&self, node: &Node) -> Result<Test, ScriptError> {
        let mut arguments = Arguments::read(self, node, &[&MATCHING, &PARTS, &INDEX])?;
        let (part, index) = (self.part(node, &arguments)?, self.index(&arguments)?);
        let words = arguments.words(self, "header field names")?;
        let headers = self.field_names(&words)?;
        // RFC 5228 §5.1: only fields that have addresses.
        for (text, (_, at)) in headers.iter().zip(&words) {
            if let Some(name) = text.constant().filter(|name| !may_hold_addresses(name)) {
                return Err(self.error(*at, format!("expected a header field with addresses, found {name:?}")));
            }
        }
        Ok(Test::Address { headers, part, index, matching: self.keys(node, arguments)? })
    }

    fn envelope(&self, node: &Node) -> Result<Test, ScriptError> {
        self.needs(Extension::Envelope, node.at, "\"envelope\"")?;
        let mut arguments = Arguments::read(self, node, &[&MATCHING, &PARTS])?;
        let part = self.part(node, &arguments)?;
        let mut parts = Vec::new();
        for (word, at) in arguments.words(self, "\"from\" or \"to\"")? {
            let text = self.text(word, at)?;
            let is_known = |name: &str| name.eq_ignore_ascii_case("from") || name.eq_ignore_ascii_case("to");
            if text.constant().is_some_and(|name| !is_known(name)) {
                return Err(self.error(at, format!("expected \"from\" or \"to\", found {word:?}")));
            }
            parts.push(text);
        }
        Ok(Test::Envelope { parts, part, matching: self.keys(node, arguments)? })
    }

    fn body(&self, node: &Node) -> Result<Test, ScriptError> {
        self.needs(Extension::Body, node.at, "\"body\"")?;
        let transforms: [Tag; 3] =
            [("raw", Kind::Nothing, None), ("content", Kind::Texts, None), ("text", Kind::Nothing, None)];
        let arguments = Arguments::read(self, node, &[&MATCHING, &transforms])?;
        let content = arguments.tag_texts(self, "content")?;
        let transform = match (arguments.has("raw"), content, arguments.has("text")) {
            (true, None, false) => Transform::Raw,
            (false, Some(types), false) => Transform::Content(types),
            (false, None, _) => Transform::Text,
            _ => return Err(self.error(node.at, "\"body\" expected one of :raw, :content and :text")),
        };
        Ok(Test::Body { transform, matching: self.keys(node, arguments)? })
    }

    /// RFC 5260 §4, §5.
    fn date(&self, node: &Node) -> Result<Test, ScriptError> {
        self.needs(Extension::Date, node.at, &format!("{:?}", node.name))?;
        let original: Tag = ("originalzone", Kind::Nothing, None);
        let of_header = node.name == "date";
        let own: &[Tag] = if of_header { &[ZONE, original] } else { &[ZONE] };
        let index: &[Tag] = if of_header { &INDEX } else { &[] };
        let mut arguments = Arguments::read(self, node, &[&MATCHING, own, index])?;
        let zone = match (arguments.tag_word("zone"), arguments.has("originalzone")) {
            (Some(_), true) => return Err(self.error(node.at, "expected :zone or :originalzone, not both")),
            (Some(zone), false) => Zone::Fixed(zone_minutes(zone.as_bytes()).ok_or_else(|| {
                self.error(arguments.place("zone"), format!("expected a zone like \"+0100\", found {zone:?}"))
            })?),
            (None, true) => Zone::Original,
            (None, false) => Zone::Fixed(0),
        };
        let index = self.index(&arguments)?;
        let header = match of_header {
            true => self.field_names(&[arguments.word(self, "a header field name")?])?.pop(),
            false => None,
        };
        let (word, at) = arguments.word(self, "a part of a date")?;
        let part = DatePart::of(word).ok_or_else(|| {
            self.error(at, format!("expected a part of a date such as \"year\" or \"weekday\", found {word:?}"))
        })?;
        let matching = self.keys(node, arguments)?;
        Ok(match header {
            Some(header) => Test::Date { header, zone, part, index, matching },
            None => Test::CurrentDate { zone, part, matching },
        })
    }

    fn duplicate(&self, node: &Node) -> Result<Test, ScriptError> {
        self.needs(Extension::Duplicate, node.at, "\"duplicate\"")?;
        let arguments = Arguments::read(
            self,
            node,
            &[&[
                ("handle", Kind::Text, None),
                ("header", Kind::Text, None),
                ("uniqueid", Kind::Text, None),
                ("seconds", Kind::Number, None),
                ("last", Kind::Nothing, None),
            ]],
        )?;
        let id = match (arguments.tag_word("header"), arguments.tag_text(self, "uniqueid")?) {
            (Some(_), Some(_)) => return Err(self.error(node.at, "expected :header or :uniqueid, not both")),
            (None, Some(given)) => UniqueId::Given(given),
            (header, None) => {
                let word = (header.unwrap_or("Message-ID"), arguments.place("header"));
                UniqueId::Header(self.field_names(&[word])?.pop().unwrap_or_else(|| Text::literal("Message-ID")))
            }
        };
        let seconds = arguments.tag_number("seconds").unwrap_or(DUPLICATE_SECONDS).min(DUPLICATE_MOST);
        let (handle, last) = (arguments.tag_text(self, "handle")?, arguments.has("last"));
        arguments.end(self, false)?;
        Ok(Test::Duplicate { handle, id, seconds, last })
    }

    fn part(&self, node: &Node, arguments: &Arguments<'_>) -> Result<AddressPart, ScriptError> {
        let all = [
            ("all", AddressPart::All),
            ("localpart", AddressPart::LocalPart),
            ("domain", AddressPart::Domain),
            ("user", AddressPart::User),
            ("detail", AddressPart::Detail),
        ];
        let mut given = all.into_iter().filter(|(tag, _)| arguments.has(tag));
        match (given.next(), given.next()) {
            (_, Some(_)) => Err(self.error(node.at, format!("{:?} expected one part of an address", node.name))),
            (part, None) => Ok(part.map_or(AddressPart::All, |(_, part)| part)),
        }
    }

    fn index(&self, arguments: &Arguments<'_>) -> Result<Option<Index>, ScriptError> {
        let last = arguments.has("last");
        match arguments.tag_number("index") {
            Some(0) => Err(self.error(arguments.place("index"), "expected an index from 1")),
            Some(number) => Ok(Some(Index { number, last })),
            None if last => Err(self.error(arguments.place("last"), "expected \":index\" with \":last\"")),
            None => Ok(None),
        }
    }

    /// The last argument, and how it is compared.
    fn keys(&self, node: &Node, mut arguments: Arguments<'_>) -> Result<Matching, ScriptError> {
        let keys = arguments.texts(self, "keys to compare with")?;
        let given = ["is", "contains", "matches", "value", "count"].into_iter().filter(|tag| arguments.has(tag));
        if given.count() > 1 {
            return Err(self.error(node.at, format!("{:?} expected one match type", node.name)));
        }
        let relation = |tag: &str| {
            let word = arguments.tag_word(tag).unwrap_or_default();
            Relation::of(word).ok_or_else(|| {
                let what = format!("expected \"gt\", \"ge\", \"lt\", \"le\", \"eq\" or \"ne\", found {word:?}");
                self.error(arguments.place(tag), what)
            })
        };
        let way = if arguments.has("contains") {
            Way::Contains
        } else if arguments.has("matches") {
            Way::Matches
        } else if arguments.has("value") {
            Way::Value(relation("value")?)
        } else if arguments.has("count") {
            Way::Count(relation("count")?)
        } else {
            Way::Is
        };
        let comparator = match arguments.tag_word("comparator") {
            None | Some("i;ascii-casemap") => Comparator::AsciiCasemap,
            Some("i;octet") => Comparator::Octet,
            Some("i;ascii-numeric") => {
                let at = arguments.place("comparator");
                self.needs(Extension::AsciiNumeric, at, "\"i;ascii-numeric\"")?;
                if matches!(way, Way::Contains | Way::Matches) {
                    // RFC 4790 §9.1: it has no substrings.
                    return Err(self.error(at, "expected another comparator: numbers have no substrings"));
                }
                Comparator::AsciiNumeric
            }
            Some(name) => {
                let what = format!(
                    "expected the comparator \"i;octet\", \"i;ascii-casemap\" or \"i;ascii-numeric\", found {name:?}"
                );
                return Err(self.error(arguments.place("comparator"), what));
            }
        };
        arguments.end(self, false)?;
        Ok(Matching { way, comparator, keys })
    }
}
