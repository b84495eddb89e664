//! What POP3 does for an account.

use proto::admin::{
    Account, Pop3, SetPop3Request,
    pop3::{Dele, Show},
};
use sqlx::PgPool;
use tonic::Status;

use super::{accounts, address};
use crate::database::status;

/// As the table has them; unspecified is nothing.
fn words(pop3: Pop3) -> (Option<&'static str>, Option<&'static str>) {
    let dele = match pop3.dele() {
        Dele::Unspecified => None,
        Dele::Expunge => Some("expunge"),
        Dele::Trash => Some("trash"),
    };
    let show = match pop3.show() {
        Show::Unspecified => None,
        Show::All => Some("all"),
        Show::Undeleted => Some("undeleted"),
        Show::Unseen => Some("unseen"),
    };
    (dele, show)
}

pub fn from_row(dele: &str, show: &str) -> Pop3 {
    let dele = if dele == "trash" { Dele::Trash } else { Dele::Expunge };
    let show = match show {
        "unseen" => Show::Unseen,
        "undeleted" => Show::Undeleted,
        _ => Show::All,
    };
    Pop3 { dele: dele.into(), show: show.into() }
}

pub async fn set(pool: &PgPool, request: SetPop3Request) -> Result<Account, Status> {
    let address = address(&request.address)?;
    let (dele, show) = words(request.pop3.unwrap_or_default());
    sqlx::query(
        "update accounts set pop3_dele = coalesce($2, pop3_dele), pop3_show = coalesce($3, pop3_show)
         where address = $1",
    )
    .bind(address.key())
    .bind(dele)
    .bind(show)
    .execute(pool)
    .await
    .map_err(status)?;
    accounts::one(pool, &address).await
}
