//! AUTH: the exchange is the Directory's, we carry it.

use tonic::{Code, Status};
use tracing::{debug, info};

use super::Driver;
use crate::{directory::Progress, refusal::Refusal};

impl Driver {
    pub(super) async fn authenticate(&mut self, mechanism: String, initial: Option<Vec<u8>>) {
        // Only where -PLUS was offered is there anything to bind to.
        let offers_plus = self.parts.config.mechanisms.iter().any(|m| m.ends_with("-PLUS"));
        let binding = self.tls.as_ref().and_then(|t| t.channel_binding).filter(|_| offers_plus);
        let tls = self.tls.as_ref();
        match self.parts.directory.authenticate(mechanism, initial, self.peer, tls, binding).await {
            Ok((exchange, progress)) => {
                self.exchange = Some(exchange);
                self.auth_progress(progress);
            }
            Err(status) => self.auth_unavailable(&status),
        }
    }

    pub(super) async fn auth_response(&mut self, response: Vec<u8>) {
        let Some(exchange) = &mut self.exchange else {
            return self.auth_unavailable(&Status::internal("no exchange"));
        };
        match exchange.respond(response).await {
            Ok(progress) => self.auth_progress(progress),
            Err(status) => self.auth_unavailable(&status),
        }
    }

    fn auth_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Challenge(challenge) => return self.session.auth_challenge(&challenge),
            Progress::Success(account) => {
                self.account = Some(account);
                self.session.auth_succeeded();
            }
            Progress::Failure => {
                info!(client.address = %self.peer, smtp.reply_code = 535, "login refused");
                let reply = self.refuse(Refusal::bad_credentials());
                self.session.auth_failed(reply);
            }
        }
        self.exchange = None;
    }

    fn auth_unavailable(&mut self, status: &Status) {
        debug!(error = %status, "cannot authenticate");
        self.exchange = None;
        let reply = self.refuse(match status.code() {
            Code::ResourceExhausted => Refusal::login_throttled(),
            _ => Refusal::cannot_authenticate(),
        });
        self.session.auth_failed(reply);
    }
}
