//! One SASL exchange, and the check of the password at its end.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use address::Address;
use proto::directory::{Account, AuthenticateRequest, AuthenticateResponse, authenticate_response::Step as Answer};
use sqlx::PgPool;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::password;
use crate::{database::status, ids};

/// An exchange that stalls is dropped.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(120);
/// One answer for every kind of wrong, in the same time: nobody learns which accounts exist.
const WRONG: &str = "authentication failed";

/// Verifies passwords off the async threads, a few at a time. A success is remembered for a while
/// by hash and password, so that a client that comes every minute costs little; a new password
/// has a new hash and so cuts it at once.
#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    known: moka::sync::Cache<[u8; 32], ()>,
}

impl Default for Passwords {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            turns: Arc::new(Semaphore::new(cores)),
            known: moka::sync::Cache::builder().max_capacity(100_000).time_to_live(Duration::from_secs(300)).build(),
        }
    }
}

impl Passwords {
    pub async fn is_right(&self, given: String, stored: String) -> Result<bool, Status> {
        let key = fingerprint(&given, &stored);
        if self.known.contains_key(&key) {
            return Ok(true);
        }
        let _turn = self.turns.acquire().await.map_err(|_| Status::unavailable("shutting down"))?;
        let is_right = tokio::task::spawn_blocking(move || password::is_right(&given, &stored))
            .await
            .map_err(|_| Status::internal("password check"))?;
        if is_right {
            self.known.insert(key, ());
        }
        Ok(is_right)
    }

    pub async fn hash(&self, given: String) -> Result<String, Status> {
        let _turn = self.turns.acquire().await.map_err(|_| Status::unavailable("shutting down"))?;
        tokio::task::spawn_blocking(move || password::hash(&given))
            .await
            .map_err(|_| Status::internal("password hash"))?
            .map_err(Status::invalid_argument)
    }
}

fn fingerprint(given: &str, stored: &str) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(stored.as_bytes());
    context.update(&[0]);
    context.update(given.as_bytes());
    let mut key = [0; 32];
    key.iter_mut().zip(context.finish().as_ref()).for_each(|(k, h)| *k = *h);
    key
}

pub struct Exchange {
    pub pool: PgPool,
    pub passwords: Passwords,
}

impl Exchange {
    pub async fn run(
        self,
        mut requests: Streaming<AuthenticateRequest>,
        answers: mpsc::Sender<Result<AuthenticateResponse, Status>>,
    ) {
        let exchange = self.exchange(&mut requests, &answers);
        let end = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("exchange took too long")));
        // A client that went away needs no answer.
        let _ = answers.send(end.map(|step| AuthenticateResponse { step: Some(step) })).await;
    }

    async fn exchange(
        &self,
        requests: &mut Streaming<AuthenticateRequest>,
        answers: &mpsc::Sender<Result<AuthenticateResponse, Status>>,
    ) -> Result<Answer, Status> {
        let first = requests.message().await?.ok_or_else(|| Status::invalid_argument("empty stream"))?;
        let Ok(mechanism) = first.mechanism.parse::<sasl::Mechanism>() else {
            return Ok(Answer::Failure("mechanism is not offered".into()));
        };
        let initial = first.has_response.then_some(&first.response[..]);
        let (mut server, mut step) = sasl::Server::start(mechanism, initial);
        loop {
            match step {
                sasl::Step::Challenge(challenge) => {
                    let answer = AuthenticateResponse { step: Some(Answer::Challenge(challenge.into())) };
                    answers.send(Ok(answer)).await.map_err(|_| Status::cancelled("client is gone"))?;
                    let next = requests.message().await?.ok_or_else(|| Status::cancelled("client is gone"))?;
                    step = server.step(&next.response);
                }
                sasl::Step::Verify(login) => return self.verify(login).await,
                sasl::Step::Failed(reason) => return Ok(Answer::Failure(reason.to_string())),
            }
        }
    }

    async fn verify(&self, login: sasl::Login) -> Result<Answer, Status> {
        let key = login.authcid.parse::<Address>().map(|a| a.key()).unwrap_or_default();
        let account: Option<(i64, String, String, bool)> =
            sqlx::query_as("select id, address, password, disabled from accounts where address = $1")
                .bind(key)
                .fetch_optional(&self.pool)
                .await
                .map_err(status)?;
        // Acting for another is not offered (RFC 4616 §2: authzid).
        let acts_as_self = login.authzid.is_empty() || login.authzid.eq_ignore_ascii_case(&login.authcid);
        let stored = account.as_ref().map_or_else(nobody, |(_, _, stored, _)| stored.clone());
        let is_right = self.passwords.is_right(login.password, stored).await?;
        match account {
            Some((id, address, _, false)) if is_right && acts_as_self => {
                Ok(Answer::Success(Account { account_id: ids::unsigned(id), address }))
            }
            _ => Ok(Answer::Failure(WRONG.into())),
        }
    }
}

/// A hash that is checked when there is no account, so that it takes as long.
fn nobody() -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| password::hash("of nobody").unwrap_or_default()).clone()
}
