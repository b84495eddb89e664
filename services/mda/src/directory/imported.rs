//! Password hashes from other servers, as Dovecot writes them: `{SCHEME}hash`, or crypt's own form.
//!
//! They are taken as they are and replaced at the first login, which is when the password is known.

use argon2::{
    Argon2,
    password_hash::{PasswordVerifier as _, phc::PasswordHash},
};
use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, pbkdf2};
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// What a login may cost us: whoever imports hashes chooses it, and everybody waits.
const MAX_BCRYPT_COST: u32 = 15;
const MAX_ROUNDS: u32 = 2_000_000;
const MAX_ARGON2_KIB: u32 = 1 << 20;

enum Hash<'a> {
    Argon2(Box<PasswordHash>),
    /// `$5$` and `$6$`.
    ShaCrypt(&'a str),
    Bcrypt(&'a str),
    Pbkdf2 {
        salt: &'a str,
        rounds: std::num::NonZeroU32,
        key: Vec<u8>,
    },
    /// The digest of password and salt; the salt may be empty.
    Digest {
        algorithm: &'static digest::Algorithm,
        digest: Vec<u8>,
        salt: Vec<u8>,
    },
}

/// Says what is wrong with a hash, without the hash.
pub fn check(stored: &str) -> Result<(), String> {
    parse(stored).map(drop)
}

/// Slow by design: not for an async thread.
pub fn is_right(password: &str, stored: &str) -> bool {
    let Ok(hash) = parse(stored) else { return false };
    match hash {
        Hash::Argon2(hash) => Argon2::default().verify_password(password.as_bytes(), &*hash).is_ok(),
        Hash::ShaCrypt(hash) => sha_crypt::ShaCrypt::default().verify_password(password.as_bytes(), hash).is_ok(),
        Hash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
        Hash::Pbkdf2 { salt, rounds, key } => {
            pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA1, rounds, salt.as_bytes(), password.as_bytes(), &key).is_ok()
        }
        Hash::Digest { algorithm, digest: expected, salt } => {
            let mut context = digest::Context::new(algorithm);
            context.update(password.as_bytes());
            context.update(&salt);
            verify_slices_are_equal(context.finish().as_ref(), &expected).is_ok()
        }
    }
}

const EXPECTED: &str = "expected {ARGON2ID}, {SHA512-CRYPT}, {SHA256-CRYPT}, {BLF-CRYPT}, {BCRYPT}, {CRYPT}, {PBKDF2}, \
                        {SSHA}, {SSHA256}, {SSHA512}, {SHA}, {SHA256} or {SHA512} and a hash";

fn parse(stored: &str) -> Result<Hash<'_>, String> {
    let (scheme, hash) = match stored.strip_prefix('{').and_then(|s| s.split_once('}')) {
        Some((scheme, hash)) => (scheme.to_ascii_uppercase(), hash),
        None if stored.starts_with('$') => ("CRYPT".to_owned(), stored),
        None => return Err(EXPECTED.into()),
    };
    let (scheme, encoding) = scheme.split_once('.').unwrap_or((&scheme, "B64"));
    let plain = |algorithm, salted| digest_of(algorithm, hash, encoding, salted);
    match scheme {
        "ARGON2ID" | "ARGON2I" | "CRYPT" if hash.starts_with("$argon2") => argon2_of(hash),
        "SHA512-CRYPT" | "CRYPT" if hash.starts_with("$6$") => sha_crypt_of(hash),
        "SHA256-CRYPT" | "CRYPT" if hash.starts_with("$5$") => sha_crypt_of(hash),
        "BLF-CRYPT" | "BCRYPT" | "CRYPT" if hash.starts_with("$2") => bcrypt_of(hash),
        "PBKDF2" => pbkdf2_of(hash),
        "SSHA" => plain(&digest::SHA1_FOR_LEGACY_USE_ONLY, true),
        "SSHA256" => plain(&digest::SHA256, true),
        "SSHA512" => plain(&digest::SHA512, true),
        "SHA" | "SHA1" => plain(&digest::SHA1_FOR_LEGACY_USE_ONLY, false),
        "SHA256" => plain(&digest::SHA256, false),
        "SHA512" => plain(&digest::SHA512, false),
        _ => Err(EXPECTED.into()),
    }
}

fn argon2_of(hash: &str) -> Result<Hash<'static>, String> {
    let parsed = PasswordHash::new(hash).map_err(|e| format!("Argon2 hash: {e}"))?;
    let memory = parsed.params.get_decimal("m").unwrap_or_default();
    if memory > MAX_ARGON2_KIB {
        return Err(format!("Argon2 hash: m = {memory} KiB, expected at most {MAX_ARGON2_KIB}"));
    }
    Ok(Hash::Argon2(Box::new(parsed)))
}

fn sha_crypt_of(hash: &str) -> Result<Hash<'_>, String> {
    let mut fields = hash.split('$').skip(2);
    let mut salt = fields.next().unwrap_or_default();
    if let Some(rounds) = salt.strip_prefix("rounds=") {
        let rounds: u32 = rounds.parse().map_err(|_| "SHA-crypt hash: rounds is no number")?;
        if !(1_000..=MAX_ROUNDS).contains(&rounds) {
            return Err(format!("SHA-crypt hash: rounds = {rounds}, expected 1,000 to {MAX_ROUNDS}"));
        }
        salt = fields.next().unwrap_or_default();
    }
    let digest = fields.next().unwrap_or_default();
    let length = if hash.starts_with("$6$") { 86 } else { 43 };
    if salt.is_empty() || salt.len() > 16 || digest.len() != length || fields.next().is_some() {
        return Err("SHA-crypt hash: expected $6$salt$digest or $5$salt$digest".into());
    }
    Ok(Hash::ShaCrypt(hash))
}

fn bcrypt_of(hash: &str) -> Result<Hash<'_>, String> {
    let parts: bcrypt::HashParts = hash.parse().map_err(|e| format!("bcrypt hash: {e}"))?;
    if parts.get_cost() > MAX_BCRYPT_COST {
        return Err(format!("bcrypt hash: cost {}, expected at most {MAX_BCRYPT_COST}", parts.get_cost()));
    }
    Ok(Hash::Bcrypt(hash))
}

/// `$1$salt$rounds$hex`, with SHA-1.
fn pbkdf2_of(hash: &str) -> Result<Hash<'_>, String> {
    let wrong = || "PBKDF2 hash: expected $1$salt$rounds$hex".to_owned();
    let mut fields = hash.strip_prefix("$1$").ok_or_else(wrong)?.split('$');
    let (Some(salt), Some(rounds), Some(key), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(wrong());
    };
    let rounds: u32 = rounds.parse().map_err(|_| wrong())?;
    if rounds > MAX_ROUNDS {
        return Err(format!("PBKDF2 hash: {rounds} rounds, expected at most {MAX_ROUNDS}"));
    }
    let rounds = std::num::NonZeroU32::new(rounds).ok_or_else(wrong)?;
    let key = hex(key).filter(|k| k.len() == 20).ok_or_else(wrong)?;
    Ok(Hash::Pbkdf2 { salt, rounds, key })
}

fn digest_of(
    algorithm: &'static digest::Algorithm,
    hash: &str,
    encoding: &str,
    salted: bool,
) -> Result<Hash<'static>, String> {
    let bytes = match encoding {
        "B64" | "BASE64" => BASE64_STANDARD.decode(hash).ok(),
        "HEX" => hex(hash),
        _ => None,
    };
    let bytes = bytes.ok_or("digest: expected base64 (or, with .HEX, hexadecimal digits)")?;
    match bytes.split_at_checked(algorithm.output_len()) {
        Some((digest, salt)) if salted != salt.is_empty() => {
            Ok(Hash::Digest { algorithm, digest: digest.to_vec(), salt: salt.to_vec() })
        }
        _ => Err("digest: its length does not fit its scheme".into()),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pair = |p: &[u8]| Some(digit(*p.first()?)? << 4 | digit(*p.get(1)?)?);
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of "secret", from `doveadm pw` and `openssl passwd`.
    const HASHES: [&str; 10] = [
        "{SHA512-CRYPT}$6$sXTHd1sxd/bx0NhI$Dn/l2Eq5nTOCt9TCW6fdEo2hFEFe65qtvnsGrY.iBroixrZ3W4vdhXpct7VqQeHLyhZPGi3S1yO6R7m0TQQIZ0",
        "{SHA256-CRYPT}$5$rC/VtNn4O9hTsbyv$Yzc6w.6ME7uBt3AapdpX82ESk5T4KmPI9XCErXK4wq9",
        "{BLF-CRYPT}$2y$05$.6DlZNWP2Kqqrg93xnCKXe.4LFSU/08pRUQRkvVD8olRO3G8o5LzK",
        "{PBKDF2}$1$TTVclm5Nmi57Nu0h$5000$1fff145a21677a7031a10356fbb83c6b363d5603",
        "{SSHA}uXVVDbpKH1nM+5U0Y9lAy2bUhLEHUX1/",
        "{SSHA256}u+sZmX1p1/V9PpMkM6LCVHmQW/33I919n5OWD9q7B7tnsjWR",
        "{SSHA512}o62d56LMXkxkb35IOI4XAqi/wFYT7tPF07fnGWsoDgBCdR33yID17Z56CYMhgRHZmHUgdejqtu4cd/HPiqbaRTRm/7I=",
        "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "{SHA256.HEX}2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
        "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.",
    ];

    #[test]
    fn hashes_of_other_servers() {
        for hash in HASHES {
            assert_eq!(check(hash), Ok(()), "{hash}");
            assert!(is_right("secret", hash), "{hash}");
            assert!(!is_right("Secret", hash) && !is_right("", hash), "{hash}");
        }
    }

    #[test]
    fn what_is_no_hash_or_too_dear_is_refused() {
        for wrong in [
            "",
            "secret",
            "{PLAIN}secret",
            "{MD5}x",
            "{SSHA}",
            "{SSHA}e5HM2zVRPZdJvHzZ7mA=",
            "{SHA512-CRYPT}$5$x$y",
            "{SHA512-CRYPT}$6$salt$short",
            "{SHA512-CRYPT}$6$rounds=999999999$saltsalt$x",
            "{BLF-CRYPT}$2y$05$short",
            "{BLF-CRYPT}$2y$31$e5HM2zVRPZdJvHzZ7mAe5uHM2zVRPZdJvHzZ7mAe5HM2zVRPZdJvH",
            "{PBKDF2}$1$salt$5000$zz",
            "{PBKDF2}$1$salt$99999999$0123456789012345678901234567890123456789",
            "{ARGON2ID}$argon2id$v=19$m=999999999,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
            "{é",
            "{SHA.HEX}é",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
            assert!(!is_right("secret", wrong), "{wrong}");
        }
    }
}
