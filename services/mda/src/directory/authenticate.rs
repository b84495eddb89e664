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

use super::{
    issuer::Issuer,
    password,
    throttle::{Attempt, Throttle},
};
use crate::{database::status, ids};

/// Addresses of a certificate that are looked up.
const MAX_CERTIFIED: usize = 16;
/// An exchange that stalls is dropped.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(120);
/// One answer for every kind of wrong, in the same time: nobody learns which accounts exist.
const WRONG: &str = "authentication failed";
/// Checks that wait for a core; further ones hear "later" at once.
const MAX_WAITING: usize = 512;

/// A password, as it is stored: for PLAIN, and for SCRAM (RFC 5802).
pub struct Secrets {
    pub hash: String,
    pub scram: String,
}

/// Verifies passwords off the async threads, a few at a time. A success is remembered for a while
/// by hash and password, so that a client that comes every minute costs little; a new password
/// has a new hash and so cuts it at once.
#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
    known: moka::sync::Cache<[u8; 32], ()>,
    /// Read once from the table `secrets`.
    secret: Arc<tokio::sync::OnceCell<Vec<u8>>>,
}

impl Default for Passwords {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            turns: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            known: moka::sync::Cache::builder().max_capacity(100_000).time_to_live(Duration::from_secs(300)).build(),
            secret: Arc::default(),
        }
    }
}

impl Passwords {
    pub async fn is_right(&self, given: String, stored: String) -> Result<bool, Status> {
        let key = fingerprint(&given, &stored);
        if self.known.contains_key(&key) {
            return Ok(true);
        }
        let is_right = self.in_turn(move || password::is_right(&given, &stored)).await?;
        if is_right {
            self.known.insert(key, ());
        }
        Ok(is_right)
    }

    /// What is stored of a new password.
    pub async fn secrets(&self, given: String) -> Result<Secrets, Status> {
        self.in_turn(move || password::hash(&given).map(|hash| Secrets { hash, scram: password::scram(&given) }))
            .await?
            .map_err(Status::invalid_argument)
    }

    async fn scram(&self, given: String) -> Result<String, Status> {
        self.in_turn(move || password::scram(&given)).await
    }

    /// Off the async threads, as many at once as there are cores.
    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let _place = self.places.try_acquire().map_err(|_| Status::unavailable("too many logins at once"))?;
        let _turn = self.turns.acquire().await.map_err(|_| Status::unavailable("shutting down"))?;
        tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("password work"))
    }
}

fn fingerprint(given: &str, stored: &str) -> [u8; 32] {
    sha256(&[stored.as_bytes(), &[0], given.as_bytes()])
}

pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut key = [0; 32];
    key.iter_mut().zip(context.finish().as_ref()).for_each(|(k, h)| *k = *h);
    key
}

pub struct Exchange {
    pub pool: PgPool,
    pub passwords: Passwords,
    pub throttle: Throttle,
    pub issuer: Option<Issuer>,
}

/// Of an account, what a login needs.
#[derive(Default, sqlx::FromRow)]
struct Row {
    id: i64,
    address: String,
    password: String,
    scram: String,
    disabled: bool,
    send_only: bool,
    tenant_id: i64,
    daily_recipients: i64,
    /// The app password that was given, if it was one.
    app_password: Option<i64>,
}

impl Row {
    /// Whether it may log in there at all.
    fn admits(&self, service: &str) -> bool {
        !self.disabled && (!self.send_only || service == "smtp")
    }

    fn success(self) -> Answer {
        Answer::Success(Account {
            account_id: ids::unsigned(self.id),
            address: self.address,
            tenant_id: ids::unsigned(self.tenant_id),
            daily_recipients: ids::unsigned(self.daily_recipients),
        })
    }
}

type Answers = mpsc::Sender<Result<AuthenticateResponse, Status>>;

impl Exchange {
    pub async fn run(self, mut requests: Streaming<AuthenticateRequest>, answers: Answers) {
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
        answers: &Answers,
    ) -> Result<Answer, Status> {
        let first = requests.message().await?.ok_or_else(|| Status::invalid_argument("empty stream"))?;
        let mechanism = first.mechanism.parse::<sasl::Mechanism>();
        let needs_issuer = matches!(mechanism, Ok(sasl::Mechanism::OauthBearer | sasl::Mechanism::Xoauth2));
        let Some(mechanism) = mechanism.ok().filter(|_| !needs_issuer || self.issuer.is_some()) else {
            return Ok(Answer::Failure("mechanism is not offered".into()));
        };
        let initial = first.has_response.then_some(&first.response[..]);
        let (mut server, mut step) = sasl::Server::start_bound(mechanism, initial, &first.channel_binding);
        // SCRAM: whose proof is awaited.
        let mut candidate: Option<(Attempt, Option<Row>)> = None;
        loop {
            step = match step {
                sasl::Step::Challenge(challenge) => {
                    let answer = AuthenticateResponse { step: Some(Answer::Challenge(challenge.into())) };
                    answers.send(Ok(answer)).await.map_err(|_| Status::cancelled("client is gone"))?;
                    let next = requests.message().await?.ok_or_else(|| Status::cancelled("client is gone"))?;
                    server.step(&next.response)
                }
                sasl::Step::Verify(login) => return self.verify(login, &first.peer, &first.service).await,
                sasl::Step::FindVerifier { authzid, authcid } => {
                    let attempt = self.throttle.admit(&authcid, &first.peer).await?;
                    let account = self.find(&authcid).await?;
                    let account = account.filter(|a| a.admits(&first.service) && acts_as_self(&authzid, &authcid));
                    let known = account.as_ref().and_then(|a| a.scram.parse().ok());
                    let verifier = match known {
                        Some(verifier) => verifier,
                        None => sasl::scram::Verifier::invent(&self.secret().await?, &authcid),
                    };
                    candidate = Some((attempt, account));
                    server.verifier(verifier, &nonce())
                }
                sasl::Step::Proven => return self.proven(candidate).await,
                sasl::Step::CheckToken(bearer) => match self.token(&bearer, &first.peer, &first.service).await? {
                    Some(account) => return Ok(account.success()),
                    None => server.token_refused(),
                },
                sasl::Step::CheckCertificate { authzid } => {
                    return self.certified(&authzid, &first).await;
                }
                sasl::Step::Failed(reason) => {
                    if let (Some((attempt, _)), sasl::Reason::Wrong) = (&candidate, reason) {
                        self.throttle.failed(attempt).await;
                        return Ok(Answer::Failure(WRONG.into()));
                    }
                    return Ok(Answer::Failure(reason.to_string()));
                }
            }
        }
    }

    async fn verify(&self, login: sasl::Login, peer: &str, service: &str) -> Result<Answer, Status> {
        let attempt = self.throttle.admit(&login.authcid, peer).await?;
        let account = self.find_with(&login.authcid, Some((&login.password, service))).await?;
        let acts_as_self = acts_as_self(&login.authzid, &login.authcid);
        let is_app_password = account.as_ref().is_some_and(|a| a.app_password.is_some());
        let stored = account.as_ref().map_or_else(nobody, |a| a.password.clone());
        let is_right = is_app_password || self.passwords.is_right(login.password.clone(), stored).await?;
        match account.filter(|a| is_right && acts_as_self && a.admits(service)) {
            Some(account) => {
                self.throttle.succeeded(&attempt).await;
                if let Some(id) = account.app_password {
                    self.used(account.id, id).await;
                } else if !password::is_ours(&account.password) {
                    self.replace_imported(&account, login.password).await;
                } else if account.scram.is_empty() {
                    self.keep_verifier(&account, login.password).await;
                }
                Ok(account.success())
            }
            None => {
                self.throttle.failed(&attempt).await;
                Ok(Answer::Failure(WRONG.into()))
            }
        }
    }

    async fn proven(&self, candidate: Option<(Attempt, Option<Row>)>) -> Result<Answer, Status> {
        match candidate {
            Some((attempt, Some(account))) => {
                self.throttle.succeeded(&attempt).await;
                Ok(account.success())
            }
            // An invented verifier has no proof; nothing comes here without an account.
            _ => Ok(Answer::Failure(WRONG.into())),
        }
    }

    /// Whoever the issuer vouches for, when it is an account of ours, and the one that was asked for.
    async fn token(&self, bearer: &sasl::Bearer, peer: &str, service: &str) -> Result<Option<Row>, Status> {
        let Some(issuer) = &self.issuer else { return Ok(None) };
        // Who claims nobody is counted by where he is.
        let name = if bearer.authzid.is_empty() { peer } else { &bearer.authzid };
        let attempt = self.throttle.admit(name, peer).await?;
        let account = match issuer.check(&bearer.token).await? {
            Some(address) if acts_as_self(&bearer.authzid, &address) => self.find(&address).await?,
            _ => None,
        };
        let account = account.filter(|a| a.admits(service));
        match account.is_some() {
            true => self.throttle.succeeded(&attempt).await,
            false => self.throttle.failed(&attempt).await,
        }
        Ok(account)
    }

    /// The first of the certificate's addresses that is an account, and the one that was asked for.
    async fn certified(&self, authzid: &str, first: &AuthenticateRequest) -> Result<Answer, Status> {
        let addresses = &first.certificate_addresses;
        for address in addresses.iter().filter(|address| acts_as_self(authzid, address)).take(MAX_CERTIFIED) {
            if let Some(account) = self.find(address).await?.filter(|a| a.admits(&first.service)) {
                return Ok(account.success());
            }
        }
        Ok(Answer::Failure(WRONG.into()))
    }

    async fn find(&self, name: &str) -> Result<Option<Row>, Status> {
        self.find_with(name, None).await
    }

    /// Also looks whether what was given is one of the account's app passwords for the service.
    async fn find_with(&self, name: &str, given: Option<(&str, &str)>) -> Result<Option<Row>, Status> {
        let key = name.parse::<Address>().map(|a| a.key()).unwrap_or_default();
        sqlx::query_as(
            "select id, address, password, scram, disabled, send_only, tenant_id,
                    case when daily_recipients > 0 then daily_recipients
                         else (select t.daily_recipients from tenants t where t.id = a.tenant_id) end as daily_recipients,
                    (select p.id from app_passwords p
                     where p.account_id = a.id and p.digest = $2 and $3 = any (p.services)) as app_password
             from accounts a where address = $1",
        )
        .bind(key)
        .bind(given.map(|(password, _)| app_digest(password).to_vec()))
        .bind(given.map(|(_, service)| service))
        .fetch_optional(&self.pool)
        .await
        .map_err(status)
    }

    /// To the day, so that logins write nothing.
    async fn used(&self, account_id: i64, id: i64) {
        let noted = sqlx::query(
            "update app_passwords set used_at = now()
             where account_id = $1 and id = $2 and (used_at is null or used_at < now() - interval '1 day')",
        )
        .bind(account_id)
        .bind(id)
        .execute(&self.pool)
        .await;
        if let Err(error) = noted {
            tracing::debug!(%error, "use of an app password not noted");
        }
    }

    /// The password of an imported hash is known now.
    async fn replace_imported(&self, account: &Row, password: String) {
        let Ok(Secrets { hash, scram }) = self.passwords.secrets(password).await else { return };
        let replaced = sqlx::query("update accounts set password = $2, scram = $3 where id = $1 and password = $4")
            .bind(account.id)
            .bind(hash)
            .bind(scram)
            .bind(&account.password)
            .execute(&self.pool)
            .await;
        if let Err(error) = replaced {
            tracing::warn!(%error, "imported hash not replaced, the next login will try again");
        }
    }

    /// Passwords from before SCRAM, and imported ones, get their verifier when they are used.
    async fn keep_verifier(&self, account: &Row, password: String) {
        let Ok(scram) = self.passwords.scram(password).await else { return };
        let kept = sqlx::query("update accounts set scram = $2 where id = $1 and password = $3 and scram = ''")
            .bind(account.id)
            .bind(scram)
            .bind(&account.password)
            .execute(&self.pool)
            .await;
        if let Err(error) = kept {
            tracing::warn!(%error, "verifier not kept, the next login will try again");
        }
    }

    /// What invented verifiers are made from; the same on all pods.
    async fn secret(&self) -> Result<Vec<u8>, Status> {
        self.passwords
            .secret
            .get_or_try_init(|| {
                sqlx::query_scalar("select value from secrets where name = 'scram'").fetch_one(&self.pool)
            })
            .await
            .cloned()
            .map_err(status)
    }
}

/// App passwords are shown in groups; people type the dashes or do not.
pub fn app_digest(password: &str) -> [u8; 32] {
    let plain: String = password.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    sha256(&[b"app password", plain.as_bytes()])
}

/// Acting for another is not offered (RFC 4616 §2: authzid).
fn acts_as_self(authzid: &str, authcid: &str) -> bool {
    authzid.is_empty() || authzid.eq_ignore_ascii_case(authcid)
}

fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// A hash that is checked when there is no account, so that it takes as long.
fn nobody() -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| password::hash("of nobody").unwrap_or_default()).clone()
}
