//! What an account may send.

use proto::admin::{Account, SetSendingLimitRequest};
use sqlx::PgPool;
use tonic::Status;

use super::{accounts, address};
use crate::{database::status, ids};

pub async fn set_limit(pool: &PgPool, request: SetSendingLimitRequest) -> Result<Account, Status> {
    let address = address(&request.address)?;
    sqlx::query("update accounts set daily_recipients = $2 where address = $1")
        .bind(address.key())
        .bind(ids::signed(request.daily_recipients)?)
        .execute(pool)
        .await
        .map_err(status)?;
    accounts::one(pool, &address).await
}
