//! Tests at run time.

use std::borrow::Cow;

use crate::{
    compare::{Comparator, Matching, Way, wildcards},
    date::Moment,
    error::RunError,
    fields::{Addr, addresses, exists, values},
    interpreter::{Fact, Run, Stop, Tracked, World},
    program::{AddressPart, Test, UniqueId, Zone},
    text::Text,
};

impl<W: World> Run<'_, W> {
    pub fn test(&mut self, test: &Test) -> Result<bool, Stop> {
        self.spend(1)?;
        match test {
            Test::Constant(value) => Ok(*value),
            Test::Not(test) => Ok(!self.test(test)?),
            Test::All(tests) => {
                for test in tests {
                    if !self.test(test)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Test::Any(tests) => {
                for test in tests {
                    if self.test(test)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Test::Exists { headers } => {
                for name in self.expand_all(headers)? {
                    self.look_at_header()?;
                    if !exists(self.world.header(), &name) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Test::Size { over, limit } => {
                let size = self.world.size();
                Ok(if *over { size > *limit } else { size < *limit })
            }
            Test::Header { headers, index, matching } => {
                let mut found = Vec::new();
                for name in self.expand_all(headers)? {
                    self.look_at_header()?;
                    let values = values(self.world.header(), &name);
                    match index {
                        Some(index) => found.extend(index.pick(values)),
                        None => found.extend(values),
                    }
                }
                self.compare(found.into_iter().map(Cow::Owned), matching, true)
            }
            Test::Address { headers, part, index, matching } => {
                let mut found = Vec::new();
                for name in self.expand_all(headers)? {
                    self.look_at_header()?;
                    let fields = addresses(self.world.header(), &name);
                    match index {
                        Some(index) => found.extend(index.pick(fields).unwrap_or_default()),
                        None => found.extend(fields.into_iter().flatten()),
                    }
                }
                let parts = found.iter().filter_map(|address| address_part(address, *part));
                self.compare(parts.map(Cow::Owned), matching, true)
            }
            Test::Envelope { parts, part, matching } => {
                let mut found = Vec::new();
                for name in self.expand_all(parts)? {
                    let path = match name.to_ascii_lowercase().as_str() {
                        "from" => self.world.reverse_path(),
                        "to" => self.world.forward_path(),
                        _ => continue,
                    };
                    found.extend(address_part(&Addr::of_path(path), *part));
                }
                self.compare(found.into_iter().map(Cow::Owned), matching, true)
            }
            Test::Body { transform, matching } => self.body(transform, matching),
            Test::Date { header, zone, part, index, matching } => {
                let name = self.expand(header)?;
                self.look_at_header()?;
                let mut fields = values(self.world.header(), &name);
                if let Some(index) = index {
                    fields = index.pick(fields).into_iter().collect();
                }
                let moments = fields.iter().filter_map(|value| Moment::of_field(value));
                let parts: Vec<_> = moments.map(|moment| Cow::Owned(zoned(moment, *zone).part(*part))).collect();
                self.compare(parts.into_iter(), matching, true)
            }
            Test::CurrentDate { zone, part, matching } => {
                let now = zoned(Moment { at: self.world.now(), zone: 0 }, *zone);
                self.compare([Cow::Owned(now.part(*part))].into_iter(), matching, true)
            }
            Test::Strings { sources, matching } => {
                let mut sources = self.expand_all(sources)?;
                if let Way::Count(_) = matching.way {
                    // RFC 5229 §5: an empty string counts for nothing.
                    sources.retain(|s| !s.is_empty());
                }
                self.compare(sources.into_iter().map(Cow::Owned), matching, true)
            }
            Test::HasFlag { variables, matching } => self.has_flag(variables, matching),
            Test::MailboxExists { mailboxes } => {
                for name in self.expand_all(mailboxes)? {
                    match self.world.has_mailbox(&name) {
                        Some(true) => {}
                        Some(false) => return Ok(false),
                        None => return Err(Stop::Needs(Fact::Mailbox(name))),
                    }
                }
                Ok(true)
            }
            Test::Duplicate { handle, id, seconds, last } => self.duplicate(handle.as_ref(), id, *seconds, *last),
            Test::Environment { item, matching } => {
                let item = self.expand(item)?.to_ascii_lowercase();
                let value = self.world.environment(&item);
                self.compare(value.into_iter().map(Cow::Owned), matching, true)
            }
        }
    }

    /// One walk over the header.
    fn look_at_header(&mut self) -> Result<(), RunError> {
        self.spend(1 + self.world.header().len() / 64)
    }

    fn has_flag(&mut self, variables: &[Text], matching: &Matching) -> Result<bool, Stop> {
        let mut found = Vec::new();
        match variables {
            [] => found.extend(self.flags_of("")),
            names => {
                for name in self.expand_all(names)? {
                    found.extend(self.flags_of(&name));
                }
            }
        }
        if matches!(matching.way, Way::Count(_)) {
            return self.compare(found.into_iter().map(Cow::Owned), matching, false);
        }
        // Keys are lists of flags too (RFC 5232 §4).
        let keys = self.expand_all(&matching.keys)?;
        let words = keys.iter().flat_map(|key| key.split_ascii_whitespace()).map(Text::literal).collect();
        let matching = Matching { keys: words, ..*matching };
        self.compare(found.into_iter().map(Cow::Owned), &matching, true)
    }

    /// RFC 7352 §3: the ids of this run are tracked when it has ended well, so a second test for
    /// one id has the answer of the first.
    fn duplicate(&mut self, handle: Option<&Text>, id: &UniqueId, seconds: u64, last: bool) -> Result<bool, Stop> {
        let handle = handle.map(|h| self.expand(h)).transpose()?.unwrap_or_default();
        let id = match id {
            UniqueId::Given(text) => self.expand(text)?,
            UniqueId::Header(name) => {
                let name = self.expand(name)?;
                self.look_at_header()?;
                match values(self.world.header(), &name).into_iter().next().filter(|v| !v.is_empty()) {
                    Some(value) => value,
                    None => return Ok(false),
                }
            }
        };
        let key = format!("{}:{handle}{id}", handle.len());
        let Some(is_tracked) = self.world.is_tracked(&key) else { return Err(Stop::Needs(Fact::Tracked(key))) };
        if !self.tracked.iter().any(|t| t.key == key) {
            if self.tracked.len() >= 32 {
                return Err(RunError::TooManyActions(32).into());
            }
            self.tracked.push(Tracked { key, seconds, renew: last });
        }
        Ok(is_tracked)
    }

    /// Whether any value fits any key. A wildcard match is remembered when `captures` (RFC 5229 §3.2).
    pub fn compare<'v>(
        &mut self,
        values: impl Iterator<Item = Cow<'v, str>>,
        matching: &Matching,
        captures: bool,
    ) -> Result<bool, Stop> {
        let keys = self.expand_all(&matching.keys)?;
        if let Way::Count(relation) = matching.way {
            // RFC 5231 §4.2: how many there are, as a number.
            let count = values.count().to_string();
            return Ok(keys.iter().any(|key| relation.holds(matching.comparator.order(&count, key))));
        }
        let folded: Vec<Cow<'_, str>> = keys.iter().map(|key| matching.comparator.fold(key)).collect();
        for value in values {
            for key in &folded {
                if self.compare_one(&value, key, matching, captures)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn compare_one(&mut self, value: &str, key: &str, matching: &Matching, captures: bool) -> Result<bool, Stop> {
        self.spend(1 + value.len() / 256)?;
        let comparator = matching.comparator;
        match matching.way {
            Way::Is if comparator == Comparator::AsciiNumeric => Ok(comparator.order(value, key).is_eq()),
            Way::Is => Ok(value.len() == key.len() && comparator.fold(value) == key),
            Way::Contains => {
                let folded = comparator.fold(value);
                Ok(memchr::memmem::find(folded.as_bytes(), key.as_bytes()).is_some())
            }
            Way::Matches => {
                let folded = comparator.fold(value);
                let mut looked = 0usize;
                let spans = wildcards(&folded, key, || {
                    looked += 1;
                    if looked.is_multiple_of(16) { self.spend(1) } else { Ok(()) }
                })?;
                let Some(spans) = spans else { return Ok(false) };
                if captures {
                    // Folding changes no octet's place.
                    let cut = |(from, to): (usize, usize)| value.get(from..to).unwrap_or_default().to_owned();
                    let taken: usize = spans.iter().map(|(from, to)| to - from).sum();
                    self.spend(spans.len() + taken / 64)?;
                    self.matches = std::iter::once(value.to_owned()).chain(spans.into_iter().map(cut)).collect();
                }
                Ok(true)
            }
            Way::Value(relation) => Ok(relation.holds(comparator.order(value, key))),
            Way::Count(_) => Ok(false),
        }
    }
}

fn zoned(moment: Moment, zone: Zone) -> Moment {
    match zone {
        Zone::Fixed(zone) => moment.in_zone(zone),
        Zone::Original => moment,
    }
}

/// RFC 5233 §4: without a separator there is no detail.
fn address_part(address: &Addr, part: AddressPart) -> Option<String> {
    match part {
        AddressPart::All => Some(address.all()),
        AddressPart::LocalPart => Some(address.local.clone()),
        AddressPart::Domain => Some(address.domain.clone()),
        AddressPart::User => Some(address.local.split('+').next().unwrap_or_default().to_owned()),
        AddressPart::Detail => address.local.split_once('+').map(|(_, detail)| detail.to_owned()),
    }
}
