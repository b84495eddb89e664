//! MX selection (RFC 5321 §5.1).
//!
//! Turns an answer set into the ordered list of hosts to try. A null MX (RFC 7505) is a
//! permanent refusal; no MX at all falls back to the domain's own address. Pure: the caller
//! brings the records and the randomness.

/// More hosts than this are not tried in one attempt: a hostile zone lists thousands.
pub const MAX_HOSTS: usize = 16;

/// One MX record: `host` in lower case without the final dot, empty for the root (null MX).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mx {
    pub preference: u16,
    pub host: String,
}

/// Permanent: the zone says that no mail can go there from here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// RFC 7505; the reply code for it is 556 5.1.10.
    #[error("{domain} accepts no mail (null MX)")]
    NullMx { domain: String },
    /// We are the best host ourselves, yet do not know the domain as local (RFC 5321 §5.1).
    #[error("mail for {domain} loops back to this host")]
    Loop { domain: String },
}

impl RouteError {
    /// The enhanced status code (RFC 3463, RFC 7505 §5).
    pub fn status(&self) -> &'static str {
        match self {
            Self::NullMx { .. } => "5.1.10",
            Self::Loop { .. } => "5.4.6",
        }
    }
}

/// The hosts to try for `domain`, best first; never empty.
///
/// `records` is what the zone said, in any order; empty means the implicit MX. `own_names` are
/// our host names in lower case: they and everything not better than they are dropped.
/// `entropy` shuffles hosts of equal preference.
pub fn hosts(domain: &str, mut records: Vec<Mx>, own_names: &[&str], entropy: u64) -> Result<Vec<String>, RouteError> {
    if records.is_empty() {
        records.push(Mx { preference: 0, host: domain.to_owned() });
    }
    // A root among real hosts is a mistake of the zone, a root alone a refusal (RFC 7505 §3).
    records.retain(|mx| !mx.host.is_empty());
    if records.is_empty() {
        return Err(RouteError::NullMx { domain: domain.to_owned() });
    }

    shuffle(&mut records, entropy);
    records.sort_by_key(|mx| mx.preference);

    if let Some(own) = records.iter().filter(|mx| own_names.contains(&mx.host.as_str())).map(|mx| mx.preference).min() {
        records.retain(|mx| mx.preference < own);
        if records.is_empty() {
            return Err(RouteError::Loop { domain: domain.to_owned() });
        }
    }

    let mut hosts: Vec<String> = Vec::new();
    for mx in records {
        if hosts.len() < MAX_HOSTS && !hosts.contains(&mx.host) {
            hosts.push(mx.host);
        }
    }
    Ok(hosts)
}

/// Fisher–Yates, driven by a splitmix64 sequence.
fn shuffle(records: &mut [Mx], entropy: u64) {
    let mut state = entropy;
    for last in (1..records.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        records.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mx(preference: u16, host: &str) -> Mx {
        Mx { preference, host: host.into() }
    }

    #[test]
    fn best_preference_first() {
        let records = vec![mx(30, "c.example"), mx(10, "a.example"), mx(20, "b.example")];
        assert_eq!(hosts("example.com", records, &[], 7).unwrap(), ["a.example", "b.example", "c.example"]);
    }

    #[test]
    fn no_mx_means_the_domain_itself() {
        assert_eq!(hosts("example.com", vec![], &[], 0).unwrap(), ["example.com"]);
    }

    #[test]
    fn implicit_mx_that_is_ourselves_is_a_loop() {
        let error = hosts("mx.example.com", vec![], &["mx.example.com"], 0).unwrap_err();
        assert_eq!(error.status(), "5.4.6");
    }

    #[test]
    fn null_mx_refuses() {
        let error = hosts("example.com", vec![mx(0, "")], &[], 0).unwrap_err();
        assert_eq!(error, RouteError::NullMx { domain: "example.com".into() });
        assert_eq!(error.status(), "5.1.10");
    }

    #[test]
    fn a_root_among_real_hosts_is_ignored() {
        assert_eq!(hosts("example.com", vec![mx(0, ""), mx(10, "a.example")], &[], 0).unwrap(), ["a.example"]);
    }

    #[test]
    fn equal_preferences_share_the_load() {
        let records = || vec![mx(20, "z.example"), mx(10, "a.example"), mx(10, "b.example"), mx(10, "c.example")];
        let mut firsts = [0u32; 3];
        for entropy in 0..3_000 {
            let order = hosts("example.com", records(), &[], entropy).unwrap();
            assert_eq!(order[3], "z.example");
            firsts[usize::from(order[0].as_bytes()[0] - b'a')] += 1;
        }
        assert!(firsts.iter().all(|n| (800..1_200).contains(n)), "{firsts:?}");
    }

    #[test]
    fn drops_ourselves_and_everything_not_better() {
        let records =
            || vec![mx(10, "a.example"), mx(20, "us.example"), mx(20, "peer.example"), mx(30, "worse.example")];
        for entropy in 0..20 {
            assert_eq!(hosts("example.com", records(), &["us.example"], entropy).unwrap(), ["a.example"]);
        }
        let error = hosts("example.com", records()[1..].to_vec(), &["us.example"], 0).unwrap_err();
        assert_eq!(error, RouteError::Loop { domain: "example.com".into() });
    }

    #[test]
    fn bounded_and_without_duplicates() {
        let many = (0..1_000).map(|n| mx(n, &format!("h{}.example", n / 2))).collect();
        let order = hosts("example.com", many, &[], 0).unwrap();
        assert_eq!(order.len(), MAX_HOSTS);
        assert_eq!(order[..2], ["h0.example", "h1.example"]);
    }
}
