//! DMARC policy discovery: the DNS tree walk (RFC 9989 §4.10) with our rules for silence.
//!
//! mail-auth walks too, but takes any failure on the way up, also of `_dmarc.com`, as "cannot be
//! evaluated". A name server that only knows some zones refuses such names, and a record that
//! was found below them would be lost. So the walk is done here first, all names at once, and
//! its answers are handed to mail-auth as a cache.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, sync::Arc, time::Instant};

use dns::LookupError;
use mail_auth::{
    DnsError, Error, ResolverCache, Txt,
    common::parse::TxtRecordParser as _,
    dmarc::{Dmarc, Psd},
};

/// More author domains than this are nothing that mail programs write.
pub(crate) const MAX_AUTHOR_DOMAINS: usize = 5;

/// The distinct domains of the From addresses, in their order, in lower case.
pub(crate) fn author_domains(from: &[String]) -> Vec<String> {
    let mut domains: Vec<String> = Vec::new();
    for (_, domain) in from.iter().filter_map(|address| address.rsplit_once('@')) {
        let domain = domain.trim_end_matches('.').to_lowercase();
        if !domain.is_empty() && !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains
}

/// The answers of one walk, under their full names (`_dmarc.example.com.`).
#[derive(Clone, Default)]
pub(crate) struct Records(HashMap<Box<str>, Txt>);

impl Records {
    pub async fn walk(resolver: &dns::Resolver, domain: &str) -> Self {
        let names = walk_names(domain);
        let asked = names.iter().map(|name| async move { resolver.txt(&format!("_dmarc.{name}")).await });
        let answers = futures::future::join_all(asked).await;
        Self(settle(names, answers))
    }

    /// Where a record was found.
    pub fn domain_of(&self, wanted: &Arc<Dmarc>) -> Option<String> {
        let found = self.0.iter().find(|(_, record)| matches!(record, Txt::Dmarc(r) if Arc::ptr_eq(r, wanted)));
        found.and_then(|(name, _)| name.strip_prefix("_dmarc.")?.strip_suffix('.').map(str::to_owned))
    }

    /// RFC 9989 §4.10.2: from the longest name up; the domain itself when there is no record.
    pub fn organizational<'d>(&self, domain: &'d str) -> &'d str {
        let mut found = domain;
        let mut below = domain;
        for name in walk_names(domain) {
            if let Some(Txt::Dmarc(record)) = self.0.get(format!("_dmarc.{name}.").as_str()) {
                match record.psd {
                    Psd::No => return name,
                    Psd::Yes => return below,
                    Psd::Default => found = name,
                }
            }
            below = name;
        }
        found
    }
}

/// The names to ask, the longest first; eight at most (RFC 9989 §4.10).
fn walk_names(domain: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = Some(domain);
    while let Some(name) = rest.filter(|n| !n.is_empty()) {
        names.push(name);
        rest = name.split_once('.').map(|(_, parent)| parent);
    }
    if names.len() > 8 {
        names.drain(1..names.len() - 7);
    }
    names
}

fn settle(names: Vec<&str>, answers: Vec<Result<Vec<Vec<u8>>, LookupError>>) -> HashMap<Box<str>, Txt> {
    let none = || Txt::Error(Error::Dns(DnsError::InvalidRecordType));
    let mut found = false;
    let mut records = HashMap::new();
    for (name, answer) in names.into_iter().zip(answers) {
        let is_top_level = !name.contains('.');
        let record = match answer {
            Ok(texts) => match one_record(&texts) {
                Some(record) => {
                    found = true;
                    Txt::Dmarc(Arc::new(record))
                }
                None => none(),
            },
            Err(LookupError::Refused { .. }) if found || is_top_level => none(),
            Err(error) if error.is_transient() && !(found && is_top_level) => {
                Txt::Error(Error::Dns(DnsError::Resolver(error.to_string())))
            }
            Err(_) => none(),
        };
        records.insert(format!("_dmarc.{name}.").into_boxed_str(), record);
    }
    records
}

/// Several records at one name are as good as none (RFC 9989 §4.10).
fn one_record(texts: &[Vec<u8>]) -> Option<Dmarc> {
    let mut valid = texts.iter().filter_map(|text| Dmarc::parse(text).ok());
    valid.next().filter(|_| valid.next().is_none())
}

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    // Lives for one message; the resolver below has the real cache.
    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<Vec<Vec<u8>>, LookupError> {
        Err(LookupError::Refused { name: "x".into() })
    }

    fn record(text: &str) -> Result<Vec<Vec<u8>>, LookupError> {
        Ok(vec![text.as_bytes().to_vec()])
    }

    fn kinds(answers: Vec<Result<Vec<Vec<u8>>, LookupError>>) -> Vec<&'static str> {
        let names = vec!["a.example.com", "example.com", "com"];
        let records = settle(names.clone(), answers);
        let kind = |name: &&str| match records.get(format!("_dmarc.{name}.").as_str()) {
            Some(Txt::Dmarc(_)) => "record",
            Some(Txt::Error(Error::Dns(DnsError::Resolver(_)))) => "unknown",
            _ => "none",
        };
        names.iter().map(kind).collect()
    }

    #[test]
    fn walks_up_and_skips_the_middle_of_long_names() {
        assert_eq!(walk_names("a.example.com"), ["a.example.com", "example.com", "com"]);
        let long = walk_names("1.2.3.4.5.6.7.8.9.10");
        assert_eq!(long.len(), 8);
        assert_eq!(long[..2], ["1.2.3.4.5.6.7.8.9.10", "4.5.6.7.8.9.10"]);
        assert!(walk_names("").is_empty());
    }

    #[test]
    fn a_refusal_above_a_record_is_no_record() {
        assert_eq!(kinds(vec![Ok(vec![]), record("v=DMARC1; p=reject"), refused()]), ["none", "record", "none"]);
        assert_eq!(kinds(vec![record("v=DMARC1; p=none"), refused(), refused()]), ["record", "none", "none"]);
    }

    #[test]
    fn a_refusal_without_a_record_leaves_it_unknown() {
        assert_eq!(kinds(vec![refused(), refused(), refused()]), ["unknown", "unknown", "none"]);
    }

    #[test]
    fn organizational_domains() {
        let of = |domain: &'static str, records: &[(&'static str, &str)]| {
            let names = walk_names(domain);
            let text = |name: &&str| records.iter().find(|(n, _)| n == name).map(|(_, text)| *text);
            let answers = names.iter().map(|n| text(n).map_or_else(|| Ok(vec![]), record)).collect();
            Records(settle(names, answers)).organizational(domain)
        };
        assert_eq!(of("a.mail.example.com", &[("example.com", "v=DMARC1; p=none")]), "example.com");
        assert_eq!(of("a.mail.example.com", &[]), "a.mail.example.com");
        let bank = [("bank.example", "v=DMARC1; p=reject; psd=y"), ("giant.bank.example", "v=DMARC1; p=none")];
        assert_eq!(of("mail.giant.bank.example", &bank), "giant.bank.example");
        assert_eq!(of("mail.mega.bank.example", &bank), "mega.bank.example");
        let split = [("a.example.com", "v=DMARC1; p=none; psd=n"), ("example.com", "v=DMARC1; p=none")];
        assert_eq!(of("b.a.example.com", &split), "a.example.com");
    }

    #[test]
    fn two_records_are_none() {
        let two = Ok(vec![b"v=DMARC1; p=reject".to_vec(), b"v=DMARC1; p=none".to_vec()]);
        assert_eq!(kinds(vec![two, record("v=spf1 -all"), Ok(vec![])]), ["none", "none", "none"]);
    }

    #[test]
    fn author_domains_are_distinct() {
        let from = ["a@Example.com", "b@example.com.", "no-at", "c@other.org"].map(String::from);
        assert_eq!(author_domains(&from), ["example.com", "other.org"]);
    }
}
