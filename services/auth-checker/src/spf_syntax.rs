//! The strict grammar of SPF records (RFC 7208 §12).
//!
//! A syntax error anywhere in a record is permerror (§4.6), and so are two records (§4.5).
//! mail-auth 0.13.3 skips unknown mechanisms, wraps octets of addresses and takes the first
//! record, so the records are looked at here first, and the wrong ones are told to it through
//! its cache.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use mail_auth::{Error, ResolverCache, Txt};

/// As many names as one evaluation may look up (RFC 7208 §4.6.4), and its first.
const MAX_NAMES: usize = 11;

/// Names whose records are wrong.
#[derive(Default)]
pub(crate) struct Wrong(HashSet<Box<str>>);

impl Wrong {
    /// Looks at the record of a domain and of all it includes or redirects to by a plain name.
    /// What DNS does not answer here, the evaluation itself will find out.
    pub async fn find(resolver: &dns::Resolver, domain: &str) -> Self {
        let mut wrong = Self::default();
        let mut names = vec![domain.trim_end_matches('.').to_ascii_lowercase()];
        let mut next = 0;
        while next < names.len().min(MAX_NAMES) {
            let name = names[next].clone();
            next += 1;
            let Ok(texts) = resolver.txt(&name).await else { continue };
            let records: Vec<&[u8]> = texts.iter().map(Vec::as_slice).filter(|t| is_spf(t)).collect();
            match records[..] {
                [] => (),
                [record] if is_valid(record) => {
                    for target in plain_targets(record) {
                        if !names.contains(&target) {
                            names.push(target);
                        }
                    }
                }
                _ => drop(wrong.0.insert(format!("{name}.").into())),
            }
        }
        wrong
    }
}

impl ResolverCache<Box<str>, Txt> for Wrong {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.contains(name).then(|| Txt::Error(Error::ParseError))
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

/// `v=spf1`, then a space or the end (RFC 7208 §4.5).
fn is_spf(text: &[u8]) -> bool {
    let version = text.get(..6).is_some_and(|v| v.eq_ignore_ascii_case(b"v=spf1"));
    version && text.get(6).is_none_or(|c| *c == b' ')
}

fn terms(record: &[u8]) -> impl Iterator<Item = &str> {
    let text = std::str::from_utf8(record).unwrap_or("\u{fffd}");
    text.split(' ').skip(1).filter(|t| !t.is_empty())
}

fn is_valid(record: &[u8]) -> bool {
    let is_once = |modifier: &str| terms(record).filter(|t| has_prefix(t, modifier)).count() <= 1;
    record.is_ascii()
        && is_once("redirect=")
        && is_once("exp=")
        && terms(record).all(|t| is_modifier(t).unwrap_or_else(|| is_directive(t)))
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix))
}

/// Nothing when it is no modifier.
fn is_modifier(term: &str) -> Option<bool> {
    let (name, value) = term.split_once('=')?;
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return None;
    }
    let needs_domain = ["redirect", "exp"].iter().any(|m| name.eq_ignore_ascii_case(m));
    Some(if needs_domain { is_domain_spec(value) } else { is_macro_string(value) })
}

fn is_directive(term: &str) -> bool {
    let mechanism = term.strip_prefix(['+', '-', '~', '?']).unwrap_or(term);
    let end = mechanism.find([':', '/']).unwrap_or(mechanism.len());
    let (name, rest) = mechanism.split_at(end);
    match name.to_ascii_lowercase().as_str() {
        "all" => rest.is_empty(),
        "include" | "exists" => rest.strip_prefix(':').is_some_and(is_domain_spec),
        "ptr" => rest.is_empty() || rest.strip_prefix(':').is_some_and(is_domain_spec),
        "a" | "mx" => is_host(rest),
        "ip4" => rest.strip_prefix(':').is_some_and(|n| is_network(n, |a| a.parse::<Ipv4Addr>().is_ok(), 32)),
        "ip6" => rest.strip_prefix(':').is_some_and(|n| is_network(n, |a| a.parse::<Ipv6Addr>().is_ok(), 128)),
        _ => false,
    }
}

/// `[":" domain-spec] [dual-cidr-length]`
fn is_host(rest: &str) -> bool {
    let (domain, cidr) = rest.split_at(outside_macros(rest, '/').unwrap_or(rest.len()));
    let domain_ok = domain.is_empty() || domain.strip_prefix(':').is_some_and(is_domain_spec);
    domain_ok && (cidr.is_empty() || is_dual_cidr(cidr))
}

fn is_dual_cidr(cidr: &str) -> bool {
    let (v4, v6) = cidr.split_once("//").map_or((cidr, None), |(v4, v6)| (v4, Some(v6)));
    let v4_ok = if v4.is_empty() { v6.is_some() } else { v4.strip_prefix('/').is_some_and(|l| is_length(l, 32)) };
    v4_ok && v6.is_none_or(|l| is_length(l, 128))
}

fn is_network(network: &str, is_address: impl Fn(&str) -> bool, max: u8) -> bool {
    match network.split_once('/') {
        Some((address, length)) => is_address(address) && is_length(length, max),
        None => is_address(network),
    }
}

fn is_length(text: &str, max: u8) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain && text.parse::<u8>().is_ok_and(|n| n <= max)
}

/// The first `wanted` that is not within `%{…}`, where it may be a delimiter.
fn outside_macros(text: &str, wanted: char) -> Option<usize> {
    let mut within = false;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '{' => within = true,
            '}' => within = false,
            _ => (),
        }
        (c == wanted && !within).then_some(at)
    })
}

/// Ends in a macro or in a top label that no address could be (RFC 7208 §7.1).
fn is_domain_spec(text: &str) -> bool {
    if !is_macro_string(text) {
        return false;
    }
    if text.ends_with('}') {
        return true;
    }
    let Some((_, top)) = text.strip_suffix('.').unwrap_or(text).rsplit_once('.') else { return false };
    !top.is_empty()
        && top.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !top.starts_with('-')
        && !top.ends_with('-')
        && !top.bytes().all(|b| b.is_ascii_digit())
}

fn is_macro_string(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let Some(length) = macro_length(&rest[at..]) else { return false };
        rest = &rest[at + length..];
    }
    text.bytes().all(|b| (0x21..=0x7e).contains(&b))
}

/// `%%`, `%_`, `%-` or `%{` letter, digits, `r`, delimiters `}`.
fn macro_length(text: &str) -> Option<usize> {
    let after = text.strip_prefix('%')?;
    if after.starts_with(['%', '_', '-']) {
        return Some(2);
    }
    let inner = after.strip_prefix('{')?;
    let end = inner.find('}')?;
    let body = &inner[..end];
    let tail = body.strip_prefix(|c: char| "slodiphvcrt".contains(c.to_ascii_lowercase()))?;
    let tail = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    let tail = tail.strip_prefix(['r', 'R']).unwrap_or(tail);
    tail.chars().all(|c| ".-+,/_=".contains(c)).then_some(end + 3)
}

/// `include:` and `redirect=` without macros.
fn plain_targets(record: &[u8]) -> impl Iterator<Item = String> {
    terms(record).filter_map(|term| {
        let term = term.strip_prefix(['+', '-', '~', '?']).unwrap_or(term);
        let at = ["include:", "redirect="].into_iter().find(|p| has_prefix(term, p))?.len();
        let target = term.get(at..)?;
        (!target.contains('%')).then(|| target.trim_end_matches('.').to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_grammar_has() {
        for record in [
            "v=spf1",
            "v=spf1 -all",
            "V=SPF1 +A ~mx ?PTR include:a.com -ALL",
            "v=spf1 a/24 mx//64 a:b.com/24//64 a:%{d}/24 ptr:b.com",
            "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ip4:192.0.2.1 exists:%{ir}.%{l1r+-}._spf.%{d2}",
            "v=spf1 redirect=_spf.a.com. exp=explain._spf.%{d} moo.cow-far_out=man:dog/cat",
            "v=spf1  a   -all ",
        ] {
            assert!(is_spf(record.as_bytes()) && is_valid(record.as_bytes()), "{record}");
        }
    }

    #[test]
    fn what_it_has_not() {
        for term in [
            "unknown:x",
            "unknown",
            "ip4:300.1.1.1",
            "ip4:1.2.3",
            "ip4:1.2.3.4/33",
            "ip4:1.2.3.4/032",
            "ip4",
            "ip6:::/129",
            "a:",
            "a:b",
            "a:1.2.3.4",
            "a/33",
            "a//129",
            "a/24/64",
            "include",
            "include:",
            "exists:a.com/24",
            "all:x",
            "all/8",
            "-redirect=a.com",
            "redirect=",
            "redirect=a.com redirect=b.com",
            "exp=a.com exp=b.com",
            "a:%{x}.com",
            "a:%a.com",
            "a:%{d.com",
            "1x=y",
            "mx:a\u{e9}.com",
        ] {
            assert!(!is_valid(format!("v=spf1 {term} -all").as_bytes()), "{term}");
        }
        assert!(!is_spf(b"v=spf10 -all") && !is_spf(b"v=spf"));
    }

    #[test]
    fn targets_are_plain_names() {
        let record = b"v=spf1 ?include:A.com. include:%{d}.b.com -all redirect=c.com";
        assert_eq!(plain_targets(record).collect::<Vec<_>>(), ["a.com", "c.com"]);
    }
}
