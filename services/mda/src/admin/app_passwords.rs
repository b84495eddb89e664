//! Passwords for one program each.

use address::Address;
use proto::admin::{
    AppPassword, CreateAppPasswordRequest, CreateAppPasswordResponse, DeleteAppPasswordResponse,
    ListAppPasswordsResponse,
};
use sqlx::{FromRow, PgPool};
use tonic::Status;

use super::{accounts, address};
use crate::{content::plain, database::status, directory::app_digest, ids};

const SERVICES: [&str; 3] = ["smtp", "imap", "pop3"];
const MAX_OF_ACCOUNT: i64 = 100;
const MAX_NAME: usize = 200;
/// 20 of 32 characters are 100 bits: nobody guesses them, so a fast digest is enough.
const LENGTH: usize = 20;
/// Without those that look alike.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";

#[derive(FromRow)]
struct Row {
    id: i64,
    name: String,
    services: Vec<String>,
    created_at_ms: i64,
    used_at_ms: i64,
}

impl From<Row> for AppPassword {
    fn from(row: Row) -> Self {
        let Row { id, name, services, created_at_ms, used_at_ms } = row;
        Self { id: ids::unsigned(id), name, services, created_at_ms, used_at_ms }
    }
}

macro_rules! columns {
    () => {
        "id, name, services, (extract(epoch from created_at) * 1000)::bigint as created_at_ms,
         coalesce((extract(epoch from used_at) * 1000)::bigint, 0) as used_at_ms"
    };
}

fn make() -> Result<String, Status> {
    let mut random = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Status::unavailable("no randomness"))?;
    let letters = random.map(|byte| ALPHABET[usize::from(byte % 32)] as char);
    Ok(letters.chunks(5).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-"))
}

pub async fn create(pool: &PgPool, request: CreateAppPasswordRequest) -> Result<CreateAppPasswordResponse, Status> {
    let address = address(&request.address)?;
    if let Some(wrong) = request.services.iter().find(|s| !SERVICES.contains(&s.as_str())) {
        return Err(Status::invalid_argument(format!("service {wrong:?}: expected smtp, imap or pop3")));
    }
    if request.name.is_empty() || request.name.len() > MAX_NAME {
        return Err(Status::invalid_argument(format!("name: expected 1 to {MAX_NAME} octets")));
    }
    let services: Vec<&str> = match request.services.is_empty() {
        true => SERVICES.to_vec(),
        false => request.services.iter().map(String::as_str).collect(),
    };
    let password = make()?;
    let row: Option<Row> = sqlx::query_as(concat!(
        "insert into app_passwords (account_id, name, digest, services)
         select a.id, $2, $3, $4 from accounts a
         where a.address = $1 and (select count(*) from app_passwords p where p.account_id = a.id) < $5
         returning ",
        columns!()
    ))
    .bind(address.key())
    .bind(plain(&request.name))
    .bind(app_digest(&password).to_vec())
    .bind(services)
    .bind(MAX_OF_ACCOUNT)
    .fetch_optional(pool)
    .await
    .map_err(status)?;
    match row {
        Some(row) => Ok(CreateAppPasswordResponse { app_password: Some(row.into()), password }),
        None => {
            accounts::one(pool, &address).await?;
            Err(Status::failed_precondition(format!("{address} has {MAX_OF_ACCOUNT} app passwords already")))
        }
    }
}

pub async fn list(pool: &PgPool, address: &Address) -> Result<ListAppPasswordsResponse, Status> {
    let account = accounts::one(pool, address).await?;
    let rows: Vec<Row> =
        sqlx::query_as(concat!("select ", columns!(), " from app_passwords where account_id = $1 order by id"))
            .bind(ids::signed(account.account_id)?)
            .fetch_all(pool)
            .await
            .map_err(status)?;
    Ok(ListAppPasswordsResponse { app_passwords: rows.into_iter().map(Into::into).collect() })
}

pub async fn delete(pool: &PgPool, address: &Address, id: u64) -> Result<DeleteAppPasswordResponse, Status> {
    let account = accounts::one(pool, address).await?;
    let gone = sqlx::query("delete from app_passwords where account_id = $1 and id = $2")
        .bind(ids::signed(account.account_id)?)
        .bind(ids::signed(id)?)
        .execute(pool)
        .await
        .map_err(status)?
        .rows_affected();
    match gone {
        0 => Err(Status::not_found(format!("{address} has no app password {id}"))),
        _ => Ok(DeleteAppPasswordResponse {}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_and_no_two_alike() {
        let (one, other) = (make().expect("random"), make().expect("random"));
        assert_eq!(one.len(), LENGTH + 3);
        assert_ne!(one, other);
        assert_eq!(app_digest(&one), app_digest(&one.replace('-', " ")));
        assert_ne!(app_digest(&one), app_digest(&other));
    }
}
