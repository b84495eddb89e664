use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::Capabilities;
use crate::Reply;

/// Who we are to a smarthost.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// One AUTH exchange (RFC 4954): PLAIN (RFC 4616) in one step, else LOGIN in three.
pub(super) struct Login {
    credentials: Credentials,
    /// What LOGIN is still to be told, the next at the end.
    rest: Vec<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.credentials.fmt(f)
    }
}

impl Login {
    pub fn new(credentials: &Credentials) -> Self {
        Self { credentials: credentials.clone(), rest: Vec::new() }
    }

    /// The AUTH command; none without TLS or a mechanism we speak.
    pub fn start(&mut self, offered: &Capabilities, encrypted: bool) -> Option<String> {
        let Credentials { user, password } = &self.credentials;
        if !encrypted {
            None
        } else if offered.auth_plain {
            Some(format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}"))))
        } else if offered.auth_login {
            self.rest = vec![STANDARD.encode(password), STANDARD.encode(user)];
            Some("AUTH LOGIN".to_owned())
        } else {
            None
        }
    }

    /// The next line after a challenge.
    pub fn answer(&mut self, reply: &Reply) -> Option<String> {
        if reply.code == 334 { self.rest.pop() } else { None }
    }
}
