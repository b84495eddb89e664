use std::{fmt, str::FromStr};

/// What is wrong with an address, in words a reply can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("address has no @")]
    NoAt,
    #[error("local part is empty or longer than 64 octets")]
    LocalPartLength,
    #[error("local part has a character that must be quoted")]
    LocalPartSyntax,
    #[error("domain is empty or longer than 255 octets")]
    DomainLength,
    #[error("domain is not a host name or an address literal")]
    DomainSyntax,
}

/// A domain name in lower case, without the final dot, or an address literal (`[192.0.2.1]`).
///
/// Internationalised names stay in the form they came in; only ASCII is folded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

impl Domain {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    pub fn is_literal(&self) -> bool {
        self.0.starts_with('[')
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return parse_literal(inner).map(|()| Self(text.to_ascii_lowercase()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > 255 {
            return Err(AddressError::DomainLength);
        }
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                // Underscore is no host name, but real zones have it.
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (!c.is_ascii() && !c.is_whitespace() && !c.is_control()))
        };
        if name.split('.').all(label_ok) {
            Ok(Self(name.to_ascii_lowercase()))
        } else {
            Err(AddressError::DomainSyntax)
        }
    }
}

fn parse_literal(inner: &str) -> Result<(), AddressError> {
    let is_address = match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse::<std::net::Ipv6Addr>().is_ok(),
        _ => inner.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    if is_address { Ok(()) } else { Err(AddressError::DomainSyntax) }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mailbox address as RFC 5321 §4.1.2 writes it, without angle brackets.
///
/// The local part keeps the case it came with, because only the final host may interpret it
/// (RFC 5321 §2.3.11); [`Address::key`] is what our own directory compares.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Without quotes: `"a b"@example.com` has the local part `a b`.
    local: String,
    domain: Domain,
}

impl Address {
    pub fn new(local: impl Into<String>, domain: Domain) -> Result<Self, AddressError> {
        let local = local.into();
        if local.is_empty() || local.len() > 64 {
            return Err(AddressError::LocalPartLength);
        }
        if local.chars().any(|c| c.is_control()) {
            return Err(AddressError::LocalPartSyntax);
        }
        Ok(Self { local, domain })
    }

    pub fn local_part(&self) -> &str {
        &self.local
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The form in which our directory stores and compares addresses: all lower case.
    pub fn key(&self) -> String {
        format!("{}@{}", self.local.to_lowercase(), self.domain)
    }

    /// The local part up to the sub-address separator: `bob+news` is Bob's (RFC 5233 §1).
    pub fn without_subaddress(&self) -> Option<Self> {
        let (user, _detail) = self.local.split_once('+')?;
        Self::new(user, self.domain.clone()).ok()
    }

    /// Whether it can travel without SMTPUTF8 (RFC 6531 §3.2).
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.as_str().is_ascii()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoAt)?;
        let local = match local.strip_prefix('"').and_then(|l| l.strip_suffix('"')) {
            Some(quoted) => unquote(quoted)?,
            None if is_dot_string(local) => local.to_owned(),
            None if local.is_empty() => return Err(AddressError::LocalPartLength),
            None => return Err(AddressError::LocalPartSyntax),
        };
        Self::new(local, domain.parse()?)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            return write!(f, "{}@{}", self.local, self.domain);
        }
        f.write_str("\"")?;
        for c in self.local.chars() {
            if c == '"' || c == '\\' {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

/// Dot-string (RFC 5321 §4.1.2), with the UTF-8 that RFC 6531 §3.3 adds.
fn is_dot_string(local: &str) -> bool {
    !local.is_empty()
        && local.split('.').all(|atom| {
            !atom.is_empty()
                && atom.chars().all(|c| {
                    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
                })
        })
}

fn unquote(quoted: &str) -> Result<String, AddressError> {
    let mut out = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().ok_or(AddressError::LocalPartSyntax)?),
            '"' => return Err(AddressError::LocalPartSyntax),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    #[test]
    fn keeps_case_of_the_local_part_and_folds_the_domain() {
        let a = address("Bob.Smith@EXAMPLE.com.").expect("valid");
        assert_eq!(a.to_string(), "Bob.Smith@example.com");
        assert_eq!(a.key(), "bob.smith@example.com");
    }

    #[test]
    fn quoted_local_parts_round_trip() {
        for text in [r#""a b"@example.com"#, r#""a\"b"@example.com"#, r#""a@b"@example.com"#] {
            assert_eq!(address(text).expect("valid").to_string(), text);
        }
        assert_eq!(address(r#""plain"@example.com"#).expect("valid").to_string(), "plain@example.com");
    }

    #[test]
    fn refuses_what_the_grammar_refuses() {
        assert_eq!(address("bob"), Err(AddressError::NoAt));
        assert_eq!(address("@example.com"), Err(AddressError::LocalPartLength));
        assert_eq!(address("a..b@example.com"), Err(AddressError::LocalPartSyntax));
        assert_eq!(address("a b@example.com"), Err(AddressError::LocalPartSyntax));
        assert_eq!(address("a@"), Err(AddressError::DomainLength));
        assert_eq!(address("a@-x.com"), Err(AddressError::DomainSyntax));
        assert_eq!(address("a@[192.0.2.999]"), Err(AddressError::DomainSyntax));
        assert_eq!(address(&format!("{}@example.com", "x".repeat(65))), Err(AddressError::LocalPartLength));
    }

    #[test]
    fn address_literals_and_utf8() {
        assert!(address("a@[192.0.2.1]").expect("valid").domain().is_literal());
        assert!(address("a@[IPv6:2001:db8::1]").expect("valid").domain().is_literal());
        assert!(!address("jörg@example.com").expect("valid").is_ascii());
    }

    #[test]
    fn subaddress() {
        let base = address("bob+news@example.com").expect("valid").without_subaddress().expect("has one");
        assert_eq!(base.to_string(), "bob@example.com");
        assert_eq!(address("bob@example.com").expect("valid").without_subaddress(), None);
    }
}
