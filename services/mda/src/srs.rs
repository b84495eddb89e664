//! The Sender Rewriting Scheme: a reverse-path of ours that leads back to the one of a message
//! that we forward, so that SPF passes at the next hop and bounces find their way. Pure.
//!
//! ```text
//! SRS0=hash=day=origin.example=local@ours          first forwarder
//! SRS1=hash=first.example==hash=day=…=local@ours   any later one: back to the first
//! SRS0=hash=day=kept=token@ours                    would not fit into 64 octets, see `forward`
//! ```
//! The hash covers all behind it in lower case, because hosts on the way may fold it.

use address::{Address, Domain};
use aws_lc_rs::hmac;

/// Base 32 in lower case; 30 bits of hash are more than anybody guesses over SMTP within a day.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const HASH: usize = 6;
/// Days are counted modulo this, in two characters.
const DAYS: u16 = 1024;
/// No domain, because it has no dot.
const KEPT: &str = "kept";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Address(Address),
    /// What `Rewritten::Kept` named.
    Kept(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewritten {
    Address(Address),
    /// The address, and the token under which the original is to be kept.
    Kept(Address, String),
}

/// Whether it looks like one of ours or another forwarder's.
pub fn is_srs(address: &Address) -> bool {
    scheme(address.local_part()).is_some()
}

/// `SRS0=rest` is `(0, "=rest")`; `-` and `+` may stand for the first `=`.
fn scheme(local: &str) -> Option<(u8, &str)> {
    let tag = local.get(..4)?;
    let rest = local.get(4..).filter(|r| r.starts_with(['=', '+', '-']))?;
    match tag {
        t if t.eq_ignore_ascii_case("SRS0") => Some((0, rest)),
        t if t.eq_ignore_ascii_case("SRS1") => Some((1, rest)),
        _ => None,
    }
}

/// The reverse-path under which `reverse_path`'s mail leaves `ours`. None when `ours` is too long
/// for anything.
pub fn rewrite(key: &[u8], reverse_path: &Address, ours: &Domain, today: u16) -> Option<Rewritten> {
    let (domain, local) = (reverse_path.domain().as_str(), reverse_path.local_part());
    let rewritten = match scheme(local) {
        Some((0, rest)) => signed(key, 1, &format!("{domain}={rest}")),
        // Our predecessor's own hash means nothing to us; the first forwarder's stays.
        Some((_, rest)) => match rest.get(1..).and_then(|r| r.split_once('=')) {
            Some((_hash, first_and_rest)) => signed(key, 1, first_and_rest),
            None => signed(key, 0, &format!("{}={domain}={local}", day(today))),
        },
        None => signed(key, 0, &format!("{}={domain}={local}", day(today))),
    };
    if let Ok(address) = Address::new(rewritten, ours.clone()) {
        return Some(Rewritten::Address(address));
    }
    let token = encode(hmac_of(key, &reverse_path.to_string()).as_ref(), 20);
    let short = signed(key, 0, &format!("{}={KEPT}={token}", day(today)));
    Some(Rewritten::Kept(Address::new(short, ours.clone()).ok()?, token))
}

/// Back to the origin, if one of the keys signed it and it is not older than `max_days`.
pub fn reverse(keys: &[Vec<u8>], address: &Address, today: u16, max_days: u16) -> Option<Origin> {
    let (number, rest) = scheme(address.local_part())?;
    let (hash, covered) = rest.get(1..)?.split_once('=')?;
    let is_ours = |key: &Vec<u8>| {
        let expected = hash_of(key, number, covered);
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_bytes(), hash.to_ascii_lowercase().as_bytes())
            .is_ok()
    };
    if !keys.iter().any(is_ours) {
        return None;
    }
    if number == 1 {
        let (first, rest) = covered.split_once('=')?;
        return Address::new(format!("SRS0{rest}"), first.parse().ok()?).ok().map(Origin::Address);
    }
    let (then, origin) = covered.split_once('=')?;
    let age = (today + DAYS - parse_day(then)?) % DAYS;
    if age > max_days {
        return None;
    }
    let (domain, local) = origin.split_once('=')?;
    if domain == KEPT {
        return Some(Origin::Kept(local.to_ascii_lowercase()));
    }
    Address::new(local, domain.parse().ok()?).ok().map(Origin::Address)
}

fn signed(key: &[u8], number: u8, covered: &str) -> String {
    format!("SRS{number}={}={covered}", hash_of(key, number, covered))
}

fn hash_of(key: &[u8], number: u8, covered: &str) -> String {
    encode(hmac_of(key, &format!("SRS{number}={}", covered.to_lowercase())).as_ref(), HASH)
}

fn hmac_of(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// The first characters, five bits each.
fn encode(octets: &[u8], length: usize) -> String {
    let bit = |n: usize| octets.get(n / 8).map_or(0, |o| usize::from(o >> (7 - n % 8) & 1));
    let value = |at: usize| (0..5).fold(0, |value, n| value << 1 | bit(at * 5 + n));
    (0..length).map(|at| char::from(ALPHABET[value(at)])).collect()
}

fn day(today: u16) -> String {
    let digit = |n: u16| char::from(ALPHABET[usize::from(n % 32)]);
    format!("{}{}", digit(today / 32), digit(today))
}

fn parse_day(text: &str) -> Option<u16> {
    let digit = |c: u8| ALPHABET.iter().position(|a| *a == c.to_ascii_lowercase()).and_then(|p| u16::try_from(p).ok());
    match text.as_bytes() {
        [high, low] => Some(digit(*high)? * 32 + digit(*low)?),
        _ => None,
    }
}

/// Today, as addresses have it.
pub fn today(unix_seconds: i64) -> u16 {
    u16::try_from((unix_seconds / 86_400).rem_euclid(i64::from(DAYS))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn address(text: &str) -> Address {
        text.parse().expect("valid")
    }

    fn there(text: &str, ours: &str, today: u16) -> Address {
        match rewrite(KEY, &address(text), &ours.parse().expect("valid"), today) {
            Some(Rewritten::Address(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn back(address: &Address, today: u16) -> Option<Origin> {
        reverse(&[b"a newer one".to_vec(), KEY.to_vec()], address, today, 21)
    }

    #[test]
    fn there_and_back() {
        for origin in ["Alice@sender.com", "a=b+c@x-y.example", r#""a b"@sender.com"#] {
            let forwarded = there(origin, "forwarder.org", 1000);
            assert!(forwarded.local_part().starts_with("SRS0=") && forwarded.domain().as_str() == "forwarder.org");
            let parsed = address(&forwarded.to_string());
            assert_eq!(back(&parsed, 1000), Some(Origin::Address(address(origin))), "{forwarded}");
            // Hosts on the way may fold the case.
            let folded = address(&forwarded.to_string().to_lowercase());
            assert!(matches!(back(&folded, 1000), Some(Origin::Address(a)) if a.key() == address(origin).key()));
        }
    }

    #[test]
    fn days_run_over_and_out() {
        let forwarded = there("a@b.com", "ours.org", 1020);
        assert!(back(&forwarded, 1020).is_some() && back(&forwarded, 17).is_some());
        assert_eq!(back(&forwarded, 18), None, "22 days later");
        assert_eq!(back(&forwarded, 1019), None, "from tomorrow");
    }

    #[test]
    fn nothing_of_it_can_be_changed() {
        let forwarded = there("alice@sender.com", "ours.org", 5).to_string();
        for at in 5..forwarded.find('@').expect("has one") {
            let mut changed = forwarded.clone().into_bytes();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(changed).expect("ASCII");
            if let Ok(address) = changed.parse() {
                assert_eq!(back(&address, 5), None, "{changed}");
            }
        }
        for garbage in ["SRS0=", "SRS0=x", "SRS0==x", "SRS1=a=b", "SRS0=abcdef=aa=b=c", "SRS2=a=b=c=d"] {
            assert_eq!(back(&address(&format!("{garbage}@ours.org")), 5), None);
        }
    }

    #[test]
    fn later_forwarders_lead_back_to_the_first() {
        let first = there("u@b.com", "f1.org", 7);
        let second = there(&first.to_string(), "f2.org", 7);
        assert!(second.local_part().starts_with("SRS1=") && second.local_part().contains("=f1.org=="));
        assert_eq!(back(&second, 7), Some(Origin::Address(first.clone())));
        let third = there(&second.to_string(), "f3.org", 900);
        assert_eq!(back(&third, 900), Some(Origin::Address(first.clone())), "straight to the first");
        assert_eq!(back(&first, 7), Some(Origin::Address(address("u@b.com"))));
    }

    #[test]
    fn what_does_not_fit_is_kept() {
        let long = format!("{}@{}.example", "x".repeat(50), "y".repeat(30));
        match rewrite(KEY, &address(&long), &"ours.org".parse().expect("valid"), 7) {
            Some(Rewritten::Kept(forwarded, token)) => {
                assert_eq!(back(&forwarded, 7), Some(Origin::Kept(token)));
            }
            other => panic!("{other:?}"),
        }
    }
}
