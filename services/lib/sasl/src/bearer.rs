//! OAUTHBEARER (RFC 7628) and its elder XOAUTH2: a token instead of a password.

use std::fmt;

/// What the client shows; nothing of it is verified yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Whom it wants to be; empty where the token alone says it.
    pub authzid: String,
    /// The access token, such as a JWT.
    pub token: String,
}

/// Without the token, so that it reaches no log.
impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("authzid", &self.authzid).finish_non_exhaustive()
    }
}

/// What a refused token is answered with (RFC 7628 §3.2.2), before the client says it has read it.
pub const REFUSED: &[u8] = br#"{"status":"invalid_token","schemes":"bearer","scope":"mail"}"#;

/// `gs2-header kvsep *kvpair kvsep` (RFC 7628 §3.1).
pub fn oauthbearer(message: &[u8]) -> Option<Bearer> {
    let message = std::str::from_utf8(message).ok()?;
    let (header, pairs) = message.split_once('\u{1}')?;
    // Channel binding is not defined for it (§3.1: "n" or "y").
    let authzid = header.strip_prefix("n,").or_else(|| header.strip_prefix("y,"))?.strip_suffix(',')?;
    let authzid = match authzid {
        "" => String::new(),
        text => text.strip_prefix("a=").filter(|a| !a.is_empty())?.replace("=2C", ",").replace("=3D", "="),
    };
    Some(Bearer { authzid, token: token(pairs)? })
}

/// `user=ADDRESS ^A auth=Bearer TOKEN ^A ^A`.
pub fn xoauth2(message: &[u8]) -> Option<Bearer> {
    let message = std::str::from_utf8(message).ok()?;
    let (user, pairs) = message.strip_prefix("user=")?.split_once('\u{1}')?;
    Some(Bearer { authzid: user.to_owned(), token: token(pairs)? })
}

fn token(pairs: &str) -> Option<String> {
    let pairs = pairs.strip_suffix("\u{1}\u{1}")?;
    let value = pairs.split('\u{1}').find_map(|pair| pair.strip_prefix("auth="))?;
    let (scheme, token) = value.split_once(' ')?;
    // RFC 6750 §2.1: b68token.
    let valid = !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b));
    (scheme.eq_ignore_ascii_case("Bearer") && valid).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(authzid: &str, token: &str) -> Option<Bearer> {
        Some(Bearer { authzid: authzid.into(), token: token.into() })
    }

    #[test]
    fn both_forms() {
        // The example of RFC 7628 §4.1.
        let message =
            b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2\x01\x01";
        assert_eq!(oauthbearer(message), bearer("user@example.com", "vF9dft4qmTc2"));
        assert_eq!(oauthbearer(b"n,,\x01auth=bearer a.b-c\x01\x01"), bearer("", "a.b-c"));
        assert_eq!(xoauth2(b"user=bob@x\x01auth=Bearer t\x01\x01"), bearer("bob@x", "t"));
        for bad in [
            b"".as_slice(),
            b"n,,\x01\x01",
            b"n,,\x01auth=Basic x\x01\x01",
            b"n,,\x01auth=Bearer \x01\x01",
            b"n,,\x01auth=Bearer a b\x01\x01",
            b"p=x,,\x01auth=Bearer t\x01\x01",
            b"n,,\x01auth=Bearer t\x01",
            b"\xff",
        ] {
            assert_eq!(oauthbearer(bad), None);
            assert_eq!(xoauth2(bad), None);
        }
        assert!(!format!("{:?}", bearer("", "tokentoken")).contains("tokentoken"));
    }
}
