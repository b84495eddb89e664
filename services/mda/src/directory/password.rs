//! What is stored of a password: Argon2id in PHC form, and a SCRAM verifier (RFC 5802).

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};

/// Slow by design: not for an async thread.
pub fn hash(password: &str) -> Result<String, String> {
    Argon2::default().hash_password(password.as_bytes()).map(|h| h.to_string()).map_err(|e| e.to_string())
}

/// For logins that do not send the password; slow as well.
pub fn scram(password: &str) -> String {
    use sasl::scram::{ITERATIONS, SALT, Verifier};
    let salt = uuid::Uuid::new_v4();
    Verifier::derive(password, salt.as_bytes().get(..SALT).unwrap_or_default(), ITERATIONS).to_string()
}

pub fn is_right(password: &str, stored: &str) -> bool {
    match is_ours(stored) {
        true => {
            PasswordHash::new(stored).is_ok_and(|p| Argon2::default().verify_password(password.as_bytes(), &p).is_ok())
        }
        false => super::imported::is_right(password, stored),
    }
}

/// Else it came from another server, and is replaced when the password is known.
pub fn is_ours(stored: &str) -> bool {
    stored.starts_with("$argon2id$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_itself_is_right() {
        let stored = hash("secret").expect("hashes");
        assert!(stored.starts_with("$argon2id$"));
        assert!(is_right("secret", &stored));
        assert!(!is_right("Secret", &stored) && !is_right("", &stored) && !is_right("secret", ""));
    }
}
