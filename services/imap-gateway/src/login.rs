//! LOGIN, AUTHENTICATE, STARTTLS (RFC 9051 §6.2).

use std::{io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proto::directory::Account;

use crate::{
    exchange::{Exchange, Step},
    failure::{Failure, Outcome},
    session::Session,
};

/// Slows down who tries passwords.
const FAILURE_DELAY: Duration = Duration::from_millis(500);

impl Session {
    pub(crate) async fn start_tls(&mut self, tag: &str) -> io::Result<()> {
        let refusal = match (&self.gateway.tls, self.secure, self.account.is_some()) {
            (_, true, _) => "BAD TLS is already active.",
            (_, _, true) => "BAD Already logged in.",
            (None, ..) => "NO [CANNOT] TLS is not configured.",
            (Some(tls), ..) => {
                imap::respond::line(&mut self.wire.out, tag, "OK Begin TLS negotiation now.");
                let info = self.wire.start_tls(tls).await?;
                self.channel_binding = info.channel_binding;
                self.secure = true;
                return Ok(());
            }
        };
        imap::respond::line(&mut self.wire.out, tag, refusal);
        Ok(())
    }

    /// LOGIN is PLAIN (RFC 4616) in other words.
    pub(crate) async fn login(&mut self, user: Vec<u8>, password: Vec<u8>) -> Outcome {
        if user.contains(&0) || password.contains(&0) {
            return Err(Failure::no("AUTHENTICATIONFAILED", "Authentication failed."));
        }
        let response = [&[0][..], &user, &[0], &password].concat();
        self.authenticate("PLAIN".to_owned(), Some(response)).await
    }

    pub(crate) async fn authenticate(&mut self, mechanism: String, initial: Option<Vec<u8>>) -> Outcome {
        if !self.may_login() {
            return Err(Failure::no("PRIVACYREQUIRED", "Passwords are taken over TLS only."));
        }
        let outcome = self.exchange(mechanism, initial).await;
        match outcome {
            Ok(Some(account)) => {
                self.gateway.metrics.login("success");
                self.logged_in(account.account_id);
                Ok(format!("OK [CAPABILITY {}] Logged in.", self.capabilities()))
            }
            Ok(None) => {
                self.gateway.metrics.login("credentials");
                tracing::info!(client.address = %self.peer, "login refused");
                self.failed_logins += 1;
                tokio::time::sleep(FAILURE_DELAY).await;
                Err(Failure::no("AUTHENTICATIONFAILED", "Authentication failed."))
            }
            Err(failure) => {
                if let Failure::No { .. } = failure {
                    self.gateway.metrics.login("unavailable");
                }
                Err(failure)
            }
        }
    }

    /// `None` when the credentials are wrong.
    async fn exchange(&mut self, mechanism: String, initial: Option<Vec<u8>>) -> Result<Option<Account>, Failure> {
        let (directory, timeout) = (self.gateway.directory.clone(), self.gateway.config.call_timeout());
        let gateway = self.gateway.clone();
        let turn = || async {
            let turn = tokio::time::timeout(timeout, gateway.logins.acquire()).await;
            turn.ok().and_then(Result::ok).ok_or(Failure::no("UNAVAILABLE", "Too many logins, try again later."))
        };
        // Given back while the client thinks, or many slow ones would keep all others out.
        let mut examined = turn().await?;
        let mut exchange =
            Exchange::begin(directory, mechanism, initial, self.peer, self.channel_binding, timeout).await?;
        loop {
            let step = exchange.step().await?;
            drop(examined);
            match step {
                Step::Success(account) => return Ok(Some(account)),
                Step::Failure => return Ok(None),
                Step::Challenge(challenge) => {
                    imap::respond::line(&mut self.wire.out, "+", STANDARD.encode(challenge));
                    self.wire.flush().await?;
                    let response = self.line().await?;
                    if response == b"*" {
                        return Err(Failure::Bad("Authentication cancelled."));
                    }
                    let response = STANDARD.decode(response).map_err(|_| Failure::Bad("Response is not base64."))?;
                    examined = turn().await?;
                    exchange.respond(response).await?;
                }
            }
        }
    }

    /// One line that is no command.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let found = self.wire.framer.poll_line();
            match found.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
                Some(line) => return Ok(line),
                None => tokio::time::timeout(self.gateway.config.login_timeout(), self.wire.read()).await??,
            }
        }
    }
}
