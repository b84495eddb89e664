//! MTA-STS (RFC 8461): its TXT record and its policy file. Pure.

use serde_json::{Value, json};

/// RFC 8461 §3.2: a year at most.
const MAX_AGE: u64 = 31_557_600;
/// Longer files are not read (§3.3 wants a limit).
pub(crate) const MAX_POLICY: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Failures prevent delivery.
    Enforce,
    /// Failures are only reported.
    Testing,
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub mode: Mode,
    /// Lower case: `mx.example.com` or `*.example.com`.
    pub mx: Vec<String>,
    /// Seconds.
    pub max_age: u64,
}

/// The id of the TXT record at `_mta-sts.` (§3.1); none when there is no record, or more than one.
pub(crate) fn record_id(texts: &[Vec<u8>]) -> Option<String> {
    let mut ids = texts.iter().filter_map(|text| {
        let text = std::str::from_utf8(text).ok()?;
        let mut fields = text.split(';').map(str::trim);
        if fields.next()? != "v=STSv1" {
            return None;
        }
        let id = fields.find_map(|f| f.strip_prefix("id"))?.trim_start().strip_prefix('=')?.trim_start();
        let is_valid = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
        is_valid.then(|| id.to_owned())
    });
    let id = ids.next()?;
    ids.next().is_none().then_some(id)
}

/// The policy file (§3.2): lines of `key: value`; unknown keys are for later versions.
pub(crate) fn parse(text: &str) -> Result<Policy, &'static str> {
    let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let (key, value) = line.split_once(':').ok_or("a line without a colon")?;
        let value = value.trim();
        match key.trim() {
            // Of repeated fields the first counts.
            "version" => version = version.or(Some(value)),
            "mode" => mode = mode.or(Some(value)),
            "max_age" => max_age = max_age.or(Some(value)),
            "mx" => mx.push(value.trim_end_matches('.').to_ascii_lowercase()),
            _ => {}
        }
    }
    if version != Some("STSv1") {
        return Err("version is not STSv1");
    }
    let mode = match mode {
        Some("enforce") => Mode::Enforce,
        Some("testing") => Mode::Testing,
        Some("none") => Mode::None,
        _ => return Err("mode is not enforce, testing or none"),
    };
    let max_age: u64 = max_age.and_then(|a| a.parse().ok()).ok_or("max_age is not a number")?;
    if mx.is_empty() && mode != Mode::None {
        return Err("no mx");
    }
    Ok(Policy { mode, mx, max_age: max_age.min(MAX_AGE) })
}

impl Policy {
    /// §4.1: a wildcard stands for exactly one label.
    pub fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => *pattern == host,
        })
    }

    /// For reports (RFC 8460 §4.4).
    pub fn report(&self, domain: &str) -> Value {
        let mode = match self.mode {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        };
        let mut lines = vec!["version: STSv1".to_owned(), format!("mode: {mode}")];
        lines.extend(self.mx.iter().map(|mx| format!("mx: {mx}")));
        lines.push(format!("max_age: {}", self.max_age));
        json!({ "policy-type": "sts", "policy-string": lines, "policy-domain": domain, "mx-host": self.mx })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_record() {
        let id = |texts: &[&str]| record_id(&texts.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(id(&["v=STSv1; id=20160831085700Z;"]).as_deref(), Some("20160831085700Z"));
        assert_eq!(id(&["v=spf1 -all", "v=STSv1;id=1"]).as_deref(), Some("1"));
        for wrong in
            [&["v=STSv1; id=1", "v=STSv1; id=2"][..], &["v=STSv1"], &["id=1; v=STSv1"], &["v=STSv1; id=a b"], &[]]
        {
            assert_eq!(id(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_policy() {
        let text = "version: STSv1\r\nmode: enforce\r\nmx: MX1.example.com\r\nmx: *.backup.example.com\r\nmax_age: 604800\r\nnew: x\r\n";
        let policy = parse(text).unwrap();
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, 604_800));
        for yes in ["mx1.example.com", "a.backup.example.com", "A.Backup.Example.Com."] {
            assert!(policy.allows(yes), "{yes}");
        }
        for no in ["mx2.example.com", "backup.example.com", "a.b.backup.example.com", "xbackup.example.com", ""] {
            assert!(!policy.allows(no), "{no}");
        }
        assert_eq!(parse("version: STSv1\nmode: none\nmax_age: 99999999999\n").unwrap().max_age, MAX_AGE);
        for wrong in [
            "",
            "version: STSv2\nmode: none\nmax_age: 1",
            "version: STSv1\nmode: enforce\nmax_age: 1",
            "version: STSv1\nmode: x\nmx: a\nmax_age: 1",
            "version: STSv1\nmode: none",
            "<html>",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
