//! Parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531),
//! DSN (RFC 3461), AUTH (RFC 4954), BINARYMIME (RFC 3030), REQUIRETLS (RFC 8689),
//! FUTURERELEASE (RFC 4865), MT-PRIORITY (RFC 6710).

use super::{
    command::{Hold, MailFrom, RcptTo, SyntaxError},
    date_time,
};

/// `esmtp-param` words: keyword and value, each keyword once.
fn words(text: &str) -> Result<Vec<(String, &str)>, SyntaxError> {
    let mut found: Vec<(String, &str)> = Vec::new();
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let (keyword, value) = match word.split_once('=') {
            Some((_, "")) => return Err(SyntaxError::Parameter),
            Some((keyword, value)) => (keyword, value),
            None => (word, ""),
        };
        let valid = keyword.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
            && value.chars().all(|c| !c.is_control());
        let keyword = keyword.to_ascii_uppercase();
        if !valid || found.iter().any(|(k, _)| *k == keyword) {
            return Err(SyntaxError::Parameter);
        }
        found.push((keyword, value));
    }
    Ok(found)
}

pub fn mail(text: &str, mail: &mut MailFrom) -> Result<(), SyntaxError> {
    for (keyword, value) in words(text)? {
        match keyword.as_str() {
            "SIZE" if value.len() <= 20 && value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() => {
                mail.size = Some(value.parse().unwrap_or(u64::MAX));
            }
            "BODY" if value.eq_ignore_ascii_case("8BITMIME") => mail.eight_bit = true,
            // Binary content needs all that 8-bit text needs.
            "BODY" if value.eq_ignore_ascii_case("BINARYMIME") => (mail.eight_bit, mail.binary) = (true, true),
            "BODY" if value.eq_ignore_ascii_case("7BIT") => {}
            "REQUIRETLS" if value.is_empty() => mail.require_tls = true,
            // RFC 4865 §4: one of the two, once; at most nine digits.
            "HOLDFOR" | "HOLDUNTIL" if mail.hold.is_some() => return Err(SyntaxError::Parameter),
            "HOLDFOR" if (1..=9).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()) => {
                mail.hold = value.parse().ok().map(Hold::For);
            }
            "HOLDUNTIL" => {
                let at = date_time::parse(value).ok_or(SyntaxError::Parameter)?;
                mail.hold = Some(Hold::Until(at));
            }
            "MT-PRIORITY" => mail.priority = Some(priority(value).ok_or(SyntaxError::Parameter)?),
            "SMTPUTF8" if value.is_empty() => mail.smtputf8 = true,
            "RET" if value.eq_ignore_ascii_case("FULL") || value.eq_ignore_ascii_case("HDRS") => {
                mail.ret = value.to_ascii_uppercase();
            }
            // RFC 3461 §4.4: at most 100 characters.
            "ENVID" if value.len() <= 100 && is_xtext(value) => value.clone_into(&mut mail.envid),
            // RFC 4954 §5: we trust nobody enough to take it over, so it is as if it were "<>".
            "AUTH" if value == "<>" || is_xtext(value) => {}
            "SIZE" | "BODY" | "SMTPUTF8" | "RET" | "ENVID" | "AUTH" | "REQUIRETLS" | "HOLDFOR" => {
                return Err(SyntaxError::Parameter);
            }
            _ => return Err(SyntaxError::UnknownParameter),
        }
    }
    Ok(())
}

pub fn rcpt(text: &str, rcpt: &mut RcptTo) -> Result<(), SyntaxError> {
    for (keyword, value) in words(text)? {
        match keyword.as_str() {
            "NOTIFY" if is_notify(value) => rcpt.notify = value.to_ascii_uppercase(),
            // RFC 3461 §4.2: at most 500 characters.
            "ORCPT" if value.len() <= 500 && is_orcpt(value) => value.clone_into(&mut rcpt.orcpt),
            "NOTIFY" | "ORCPT" => return Err(SyntaxError::Parameter),
            _ => return Err(SyntaxError::UnknownParameter),
        }
    }
    Ok(())
}

/// `-9` to `9` (RFC 6710 §6).
fn priority(value: &str) -> Option<i8> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let valid = digits.len() == 1 && digits.bytes().all(|b| b.is_ascii_digit());
    if valid { value.parse().ok() } else { None }
}

/// `NEVER`, or a list of the others without repetition (RFC 3461 §4.1).
fn is_notify(value: &str) -> bool {
    if value.eq_ignore_ascii_case("NEVER") {
        return true;
    }
    let mut seen = Vec::new();
    value.split(',').all(|word| {
        let word = word.to_ascii_uppercase();
        let fine = matches!(word.as_str(), "SUCCESS" | "FAILURE" | "DELAY") && !seen.contains(&word);
        seen.push(word);
        fine
    })
}

/// `addr-type ";" xtext` (RFC 3461 §4.2); `utf-8` addresses are encoded, too (RFC 6533 §3).
fn is_orcpt(value: &str) -> bool {
    value.split_once(';').is_some_and(|(kind, address)| {
        let atom = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !kind.is_empty() && kind.bytes().all(atom) && is_xtext(address)
    })
}

/// RFC 3461 §4: printable ASCII without `+` and `=`, or `+` and two hexadecimal digits.
fn is_xtext(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        match byte {
            b'+' if hex(bytes.next()) && hex(bytes.next()) => {}
            b'+' | b'=' => return false,
            b'!'..=b'~' => {}
            _ => return false,
        }
    }
    !value.is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mail_parameters() {
        let mut m = MailFrom::default();
        mail("SIZE=12 body=8bitmime SMTPUTF8 RET=hdrs ENVID=Q+2B AUTH=<>", &mut m).unwrap();
        assert_eq!((m.size, m.eight_bit, m.smtputf8), (Some(12), true, true));
        assert_eq!((m.ret.as_str(), m.envid.as_str()), ("HDRS", "Q+2B"));
        mail("SIZE=99999999999999999999", &mut m).unwrap();
        assert_eq!(m.size, Some(u64::MAX));
        for bad in ["SIZE=x", "SIZE", "SIZE=", "SIZE=1 SIZE=1", "BODY=BINARY", "RET=X", "ENVID=a+2", "ENVID=a=b", "=x"]
        {
            assert_eq!(mail(bad, &mut MailFrom::default()), Err(SyntaxError::Parameter), "{bad}");
        }
        let mut m = MailFrom::default();
        mail("BODY=BINARYMIME REQUIRETLS HOLDUNTIL=2026-11-01T10:00:00Z MT-PRIORITY=-3", &mut m).unwrap();
        assert_eq!((m.binary, m.require_tls, m.priority), (true, true, Some(-3)));
        assert_eq!(m.hold, Some(Hold::Until(1_793_527_200)));
        for bad in [
            "REQUIRETLS=1",
            "HOLDFOR=",
            "HOLDFOR=-1",
            "HOLDFOR=1234567890",
            "HOLDUNTIL=tomorrow",
            "HOLDUNTIL",
            "HOLDFOR=1 HOLDUNTIL=2026-11-01T10:00:00Z",
            "MT-PRIORITY=10",
            "MT-PRIORITY=+1",
            "MT-PRIORITY",
        ] {
            assert_eq!(mail(bad, &mut MailFrom::default()), Err(SyntaxError::Parameter), "{bad}");
        }
        assert_eq!(mail("X-Y=1", &mut MailFrom::default()), Err(SyntaxError::UnknownParameter));
    }

    #[test]
    fn rcpt_parameters() {
        let mut r = RcptTo::default();
        rcpt("NOTIFY=success,DELAY ORCPT=rfc822;Bob+2B1@x.example", &mut r).unwrap();
        assert_eq!((r.notify.as_str(), r.orcpt.as_str()), ("SUCCESS,DELAY", "rfc822;Bob+2B1@x.example"));
        for bad in
            ["NOTIFY=NEVER,SUCCESS", "NOTIFY=DELAY,DELAY", "NOTIFY=", "ORCPT=bob@x.example", "ORCPT=;x", "ORCPT=a;+xx"]
        {
            assert_eq!(rcpt(bad, &mut RcptTo::default()), Err(SyntaxError::Parameter), "{bad}");
        }
        assert_eq!(rcpt("SIZE=1", &mut RcptTo::default()), Err(SyntaxError::UnknownParameter));
    }
}
