//! Keys of SEARCH that look into messages, decided where the messages are: what does not match need
//! not travel. The decision is the `imap` crate's, the same as in a gateway.

use bytes::Bytes;
use imap::{
    Flags,
    search::{Facts, Key, Needle},
};
use proto::mailboxes::{Filter, filter::Where};
use tonic::Status;

/// All of them have to match.
pub struct Filters(Vec<Key>);

impl Filters {
    pub fn of(filters: &[Filter]) -> Result<Self, Status> {
        let key = |filter: &Filter| {
            let needle = Needle::new(filter.text.as_bytes());
            match filter.r#where() {
                Where::Header => Ok(Key::Header(filter.field.clone(), needle)),
                Where::Body => Ok(Key::Body(needle)),
                Where::Text => Ok(Key::Text(needle)),
                Where::Unspecified => Err(Status::invalid_argument("filter: expected where to look")),
            }
        };
        filters.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn match_all(&self, header: &Bytes, body: &Bytes) -> bool {
        let none = Flags::default();
        let mut facts = Facts::new(0, &none, 0, 0, 0);
        facts.header = header;
        facts.body = body;
        self.0.iter().all(|key| key.matches(&facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_has_to_match() {
        let filter = |place: Where, field: &str, text: &str| Filter {
            r#where: place.into(),
            field: field.to_owned(),
            text: text.to_owned(),
        };
        let matches = |filters: &[Filter]| {
            let (header, body) = (Bytes::from_static(b"Subject: One Two\r\n\r\n"), Bytes::from_static(b"three\r\n"));
            Filters::of(filters).expect("valid").match_all(&header, &body)
        };
        assert!(matches(&[filter(Where::Header, "subject", "one t"), filter(Where::Body, "", "thr")]));
        assert!(matches(&[filter(Where::Text, "", "two"), filter(Where::Header, "Subject", "")]));
        assert!(!matches(&[filter(Where::Header, "subject", "one"), filter(Where::Body, "", "two")]));
        assert!(Filters::of(&[filter(Where::Unspecified, "", "x")]).is_err());
    }
}
