use crate::Reply;

/// What a server offered in its EHLO reply (RFC 5321 §4.1.1.1). Empty after HELO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub starttls: bool,
    pub dsn: bool,
    pub enhanced_status_codes: bool,
    /// BDAT (RFC 3030).
    pub chunking: bool,
    /// RFC 8689; counts inside TLS only.
    pub requiretls: bool,
    /// SASL mechanisms that a smarthost offers and we speak (RFC 4954).
    pub auth_plain: bool,
    pub auth_login: bool,
    /// Offered at all (RFC 1870 §3).
    pub size: bool,
    /// Octets; `None` when the server names no limit.
    pub max_size: Option<u64>,
}

impl Capabilities {
    pub(super) fn parse(reply: &Reply) -> Self {
        let mut found = Self::default();
        // The first line is the server's name and greeting.
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => found.pipelining = true,
                "8BITMIME" => found.eight_bit_mime = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "STARTTLS" => found.starttls = true,
                "DSN" => found.dsn = true,
                "ENHANCEDSTATUSCODES" => found.enhanced_status_codes = true,
                "CHUNKING" => found.chunking = true,
                "REQUIRETLS" => found.requiretls = true,
                "AUTH" => {
                    for mechanism in words {
                        found.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                        found.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                    }
                }
                "SIZE" => {
                    found.size = true;
                    // RFC 1870 §3: zero means no fixed maximum.
                    found.max_size = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_keywords_in_any_case() {
        let reply = Reply::basic(250, ["DSN.example greets", "pipelining", "SIZE 1000", "8bitMIME", "X-NEW thing"]);
        let found = Capabilities::parse(&reply);
        assert!(found.pipelining && found.eight_bit_mime && found.size && !found.dsn && !found.starttls);
        assert_eq!(found.max_size, Some(1000));
        assert_eq!(Capabilities::parse(&Reply::basic(250, ["x", "SIZE 0"])).max_size, None);
    }
}
