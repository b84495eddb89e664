//! DKIM keys: pairs of RSA-2048 (RFC 8301) and Ed25519 (RFC 8463), made, replaced with an overlap,
//! removed.

use address::Domain;
use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use proto::admin::{DkimKey, DkimKeys, DnsRecord, RotateDkimRequest, dkim_key::State};
use sqlx::{FromRow, PgConnection, PgPool};
use tonic::Status;

use crate::{
    database::status,
    vault::{self, Vault},
};

pub struct KeyPair {
    pub algorithm: &'static str,
    /// PKCS#8.
    pub private_key: Vec<u8>,
    /// As `p=` has it.
    pub public_key: String,
}

/// Takes a second: not for an async thread.
pub fn generate() -> Result<[KeyPair; 2], Status> {
    let failed = |_| Status::internal("key generation");
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private: Pkcs8V1Der<'_> = rsa.as_der().map_err(failed)?;
    let public: PublicKeyX509Der<'_> = rsa.public_key().as_der().map_err(failed)?;
    let rsa = KeyPair {
        algorithm: "rsa",
        private_key: private.as_ref().to_vec(),
        public_key: STANDARD.encode(public.as_ref()),
    };
    let ed25519 = Ed25519KeyPair::generate().map_err(failed)?;
    let ed25519 = KeyPair {
        algorithm: "ed25519",
        private_key: ed25519.to_pkcs8().map_err(failed)?.as_ref().to_vec(),
        // The bare 32 octets (RFC 8463 §4).
        public_key: STANDARD.encode(ed25519.public_key().as_ref()),
    };
    Ok([rsa, ed25519])
}

const DAY: u64 = 24 * 60 * 60;
/// Until name servers have the new records, and their old answers have expired.
const PUBLISH: u64 = DAY;
/// Mail that the old keys signed is under way for as long as queues keep it (RFC 5321 §4.5.4.1).
const OVERLAP: u64 = 7 * DAY;
const LONGEST: u64 = 365 * DAY;
/// Selectors made on one day.
const MAX_SAME_DAY: usize = 20;

#[derive(FromRow)]
struct Row {
    selector: String,
    algorithm: String,
    public_key: String,
    created_at: DateTime<Utc>,
    active_from: DateTime<Utc>,
    retired_from: Option<DateTime<Utc>>,
    removed_from: Option<DateTime<Utc>>,
}

pub async fn list(pool: &PgPool, domain: &Domain) -> Result<DkimKeys, Status> {
    let rows: Vec<Row> = sqlx::query_as(
        "select selector, algorithm, public_key, created_at, active_from, retired_from, removed_from
         from dkim_keys where domain = $1 order by created_at, selector",
    )
    .bind(domain.as_str())
    .fetch_all(pool)
    .await
    .map_err(status)?;
    let key = |row: Row| {
        let now = Utc::now();
        let state = match &row {
            row if row.active_from > now => State::Pending,
            row if row.retired_from.is_some_and(|at| at <= now) => State::Retired,
            _ => State::Signing,
        };
        let ms = |at: Option<DateTime<Utc>>| at.map_or(0, |at| at.timestamp_millis());
        DkimKey {
            record: Some(record(domain, &row.selector, &row.algorithm, &row.public_key)),
            state: state.into(),
            created_at_ms: ms(Some(row.created_at)),
            active_from_ms: ms(Some(row.active_from)),
            retired_from_ms: ms(row.retired_from),
            removed_from_ms: ms(row.removed_from),
            selector: row.selector,
            algorithm: row.algorithm,
        }
    };
    Ok(DkimKeys { domain: domain.to_string(), keys: rows.into_iter().map(key).collect() })
}

/// What is published for a key (RFC 6376 §3.6.1).
pub fn record(domain: &Domain, selector: &str, algorithm: &str, public_key: &str) -> DnsRecord {
    DnsRecord {
        name: format!("{selector}._domainkey.{domain}"),
        r#type: "TXT".into(),
        value: format!("v=DKIM1; k={algorithm}; p={public_key}"),
    }
}

/// Adds a pair of keys to a domain that has none, or takes over from those it has.
pub async fn rotate(pool: &PgPool, vault: &Vault, domain: &Domain, request: &RotateDkimRequest) -> Result<(), Status> {
    let publish = seconds("publish_seconds", request.publish_seconds, PUBLISH)?;
    let overlap = seconds("overlap_seconds", request.overlap_seconds, OVERLAP)?;
    let pair = tokio::task::spawn_blocking(generate).await.map_err(|_| Status::internal("key generation"))??;
    let mut tx = pool.begin().await.map_err(status)?;
    let known: Option<String> = sqlx::query_scalar("select name from domains where name = $1 for update")
        .bind(domain.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(status)?;
    if known.is_none() {
        return Err(Status::not_found(format!("domain {domain} is not ours")));
    }
    let pending: bool =
        sqlx::query_scalar("select exists (select from dkim_keys where domain = $1 and active_from > now())")
            .bind(domain.as_str())
            .fetch_one(&mut *tx)
            .await
            .map_err(status)?;
    if pending {
        return Err(Status::failed_precondition(format!("domain {domain} has keys that wait for their time already")));
    }
    sqlx::query(
        "update dkim_keys set retired_from = now() + make_interval(secs => $2),
                              removed_from = now() + make_interval(secs => $2 + $3)
         where domain = $1 and retired_from is null",
    )
    .bind(domain.as_str())
    .bind(publish)
    .bind(overlap)
    .execute(&mut *tx)
    .await
    .map_err(status)?;
    for key in pair {
        insert(&mut tx, vault, domain, key, publish).await?;
    }
    tx.commit().await.map_err(status)
}

/// The first keys of a new domain sign at once.
pub async fn create(pool: &PgPool, vault: &Vault, domain: &Domain) -> Result<(), Status> {
    let pair = tokio::task::spawn_blocking(generate).await.map_err(|_| Status::internal("key generation"))??;
    let mut tx = pool.begin().await.map_err(status)?;
    sqlx::query("select from domains where name = $1 for update")
        .bind(domain.as_str())
        .execute(&mut *tx)
        .await
        .map_err(status)?;
    let has_keys: bool = sqlx::query_scalar("select exists (select from dkim_keys where domain = $1)")
        .bind(domain.as_str())
        .fetch_one(&mut *tx)
        .await
        .map_err(status)?;
    if !has_keys {
        for key in pair {
            insert(&mut tx, vault, domain, key, 0.0).await?;
        }
    }
    tx.commit().await.map_err(status)
}

async fn insert(tx: &mut PgConnection, vault: &Vault, domain: &Domain, key: KeyPair, wait: f64) -> Result<(), Status> {
    // Selectors tell what they are for and when they were made (RFC 6376 §3.1).
    let base = format!("{}-{}", key.algorithm, Utc::now().format("%Y%m%d"));
    for number in 1..=MAX_SAME_DAY {
        let selector = if number == 1 { base.clone() } else { format!("{base}-{number}") };
        let sealed = vault.seal(&vault::dkim_row(domain.as_str(), &selector), &key.private_key)?;
        let inserted = sqlx::query(
            "insert into dkim_keys (domain, selector, algorithm, private_key, public_key, active_from)
             values ($1, $2, $3, $4, $5, now() + make_interval(secs => $6)) on conflict do nothing",
        )
        .bind(domain.as_str())
        .bind(&selector)
        .bind(key.algorithm)
        .bind(sealed)
        .bind(&key.public_key)
        .bind(wait)
        .execute(&mut *tx)
        .await
        .map_err(status)?;
        if inserted.rows_affected() == 1 {
            return Ok(());
        }
    }
    Err(Status::resource_exhausted(format!("domain {domain} got {MAX_SAME_DAY} keys today")))
}

/// At once, for a key that others may know. The last one that signs stays.
pub async fn remove(pool: &PgPool, domain: &Domain, selector: &str) -> Result<(), Status> {
    let mut tx = pool.begin().await.map_err(status)?;
    sqlx::query("select from domains where name = $1 for update")
        .bind(domain.as_str())
        .execute(&mut *tx)
        .await
        .map_err(status)?;
    let removed: Option<(String, bool)> = sqlx::query_as(
        "delete from dkim_keys where domain = $1 and selector = $2 returning algorithm, active_from > now()",
    )
    .bind(domain.as_str())
    .bind(selector)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    let Some((algorithm, was_pending)) = removed else {
        return Err(Status::not_found(format!("domain {domain} has no key {selector:?}")));
    };
    if was_pending {
        // Nobody takes over, so nobody retires.
        sqlx::query(
            "update dkim_keys set retired_from = null, removed_from = null
             where domain = $1 and algorithm = $2 and retired_from > now()",
        )
        .bind(domain.as_str())
        .bind(&algorithm)
        .execute(&mut *tx)
        .await
        .map_err(status)?;
    }
    let signing: bool = sqlx::query_scalar(
        "select exists (select from dkim_keys where domain = $1 and active_from <= now()
                        and (retired_from is null or retired_from > now()))",
    )
    .bind(domain.as_str())
    .fetch_one(&mut *tx)
    .await
    .map_err(status)?;
    if !signing {
        return Err(Status::failed_precondition(format!(
            "key {selector:?} is the last one that signs for {domain}: rotate first, with no time to publish"
        )));
    }
    tx.commit().await.map_err(status)
}

fn seconds(name: &str, given: Option<u64>, default: u64) -> Result<f64, Status> {
    let value = given.unwrap_or(default);
    if value > LONGEST {
        return Err(Status::invalid_argument(format!("{name} = {value}: expected at most {LONGEST}")));
    }
    Ok(u32::try_from(value).map_or(0.0, f64::from))
}
