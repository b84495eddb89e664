//! The gRPC service Rules: scripts, vacation and forward of an account.

use address::Address;
use chrono::{DateTime, Utc};
use proto::rules::{
    AccountRules, ActivateScriptRequest, ActivateScriptResponse, CheckScriptRequest, CheckScriptResponse,
    DeleteScriptRequest, DeleteScriptResponse, Forward, GetRulesRequest, GetScriptRequest, GetScriptResponse,
    ListScriptsRequest, ListScriptsResponse, ListedScript, Owner, PutScriptRequest, PutScriptResponse,
    RenameScriptRequest, RenameScriptResponse, SetForwardRequest, SetVacationRequest, Vacation, owner::By,
    rules_server,
};
use sieve::Script;
use sqlx::{FromRow, PgConnection, PgPool};
use tonic::{Request, Response, Status};

use super::{Config, decide::MAX_FORWARDS};
use crate::{database::status, ids};

pub struct Service {
    pub pool: PgPool,
    pub config: Config,
}

/// Octets of a vacation's text, and of its subject.
const MAX_VACATION: usize = 32 << 10;
const MAX_SUBJECT: usize = 400;
const MAX_DAYS: u32 = 90;

#[derive(FromRow)]
struct Row {
    script: String,
    vacation_on: bool,
    vacation_subject: String,
    vacation_text: String,
    vacation_days: i32,
    vacation_from: Option<DateTime<Utc>>,
    vacation_until: Option<DateTime<Utc>>,
    forward_to: Vec<String>,
    forward_keep: bool,
}

impl From<Row> for AccountRules {
    fn from(row: Row) -> Self {
        let ms = |at: Option<DateTime<Utc>>| at.map_or(0, |at| at.timestamp_millis());
        Self {
            active_script: row.script,
            vacation: Some(Vacation {
                on: row.vacation_on,
                subject: row.vacation_subject,
                text: row.vacation_text,
                days: row.vacation_days.unsigned_abs(),
                from_ms: ms(row.vacation_from),
                until_ms: ms(row.vacation_until),
            }),
            forward: Some(Forward { to: row.forward_to, keep: row.forward_keep }),
        }
    }
}

/// RFC 5804 §1.6.
fn check_name(name: &str) -> Result<(), Status> {
    let is_odd = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if name.is_empty() || name.chars().count() > 128 || name.chars().any(is_odd) {
        return Err(Status::invalid_argument("script name: expected 1 to 128 characters without controls"));
    }
    Ok(())
}

fn no_script(name: &str) -> Status {
    Status::not_found(format!("script {name:?} does not exist"))
}

impl Service {
    /// Locks the account, so that what is counted stays true.
    async fn account(&self, tx: &mut PgConnection, owner: Option<Owner>) -> Result<(i64, Address), Status> {
        let (id, address) = match owner.and_then(|o| o.by) {
            Some(By::AccountId(id)) => (Some(ids::signed(id)?), None),
            Some(By::Address(text)) => {
                let parsed: Address =
                    text.parse().map_err(|e| Status::invalid_argument(format!("address {text:?}: {e}")))?;
                (None, Some(parsed))
            }
            None => return Err(Status::invalid_argument("whose rules are meant is missing")),
        };
        let found: Option<(i64, String)> =
            sqlx::query_as("select id, address from accounts where id = $1 or address = $2 for no key update")
                .bind(id)
                .bind(address.as_ref().map(Address::key))
                .fetch_optional(tx)
                .await
                .map_err(status)?;
        let (id, found) = found.ok_or_else(|| match address {
            Some(address) => Status::not_found(format!("account {address} does not exist")),
            None => Status::not_found("the account does not exist"),
        })?;
        Ok((id, found.parse().map_err(|_| Status::internal("the account has no address"))?))
    }

    fn check(&self, script: &str) -> Result<(), Status> {
        if script.len() > self.config.max_script_bytes {
            return Err(Status::resource_exhausted(format!(
                "the script has {} bytes, {} are allowed",
                script.len(),
                self.config.max_script_bytes
            )));
        }
        if script.contains('\0') {
            return Err(Status::invalid_argument("the script has a NUL character"));
        }
        Script::compile(script).map(drop).map_err(|e| Status::invalid_argument(e.to_string()))
    }

    async fn rules(&self, tx: &mut PgConnection, account_id: i64) -> Result<AccountRules, Status> {
        let row: Option<Row> = sqlx::query_as("select * from rules where account_id = $1")
            .bind(account_id)
            .fetch_optional(tx)
            .await
            .map_err(status)?;
        Ok(row.map(Into::into).unwrap_or_default())
    }

    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, Status> {
        self.pool.begin().await.map_err(status)
    }
}

async fn exists(tx: &mut PgConnection, account_id: i64, name: &str) -> Result<bool, Status> {
    sqlx::query_scalar("select exists (select from sieve_scripts where account_id = $1 and name = $2)")
        .bind(account_id)
        .bind(name)
        .fetch_one(tx)
        .await
        .map_err(status)
}

async fn is_active(tx: &mut PgConnection, account_id: i64, name: &str) -> Result<bool, Status> {
    sqlx::query_scalar("select exists (select from rules where account_id = $1 and script = $2)")
        .bind(account_id)
        .bind(name)
        .fetch_one(tx)
        .await
        .map_err(status)
}

async fn activate(tx: &mut PgConnection, account_id: i64, name: &str) -> Result<(), Status> {
    sqlx::query(
        "insert into rules (account_id, script) values ($1, $2)
         on conflict (account_id) do update set script = excluded.script",
    )
    .bind(account_id)
    .bind(name)
    .execute(tx)
    .await
    .map_err(status)?;
    Ok(())
}

#[tonic::async_trait]
impl rules_server::Rules for Service {
    async fn check_script(
        &self,
        request: Request<CheckScriptRequest>,
    ) -> Result<Response<CheckScriptResponse>, Status> {
        self.check(&request.into_inner().script)?;
        Ok(Response::new(CheckScriptResponse {}))
    }

    async fn put_script(&self, request: Request<PutScriptRequest>) -> Result<Response<PutScriptResponse>, Status> {
        let request = request.into_inner();
        check_name(&request.name)?;
        if request.only_ask {
            if request.size > self.config.max_script_bytes as u64 {
                let most = self.config.max_script_bytes;
                return Err(Status::resource_exhausted(format!("a script may have {most} bytes")));
            }
        } else {
            self.check(&request.script)?;
        }
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.owner).await?;
        let others: i64 = sqlx::query_scalar("select count(*) from sieve_scripts where account_id = $1 and name <> $2")
            .bind(account_id)
            .bind(&request.name)
            .fetch_one(&mut *tx)
            .await
            .map_err(status)?;
        if others >= i64::from(self.config.max_scripts) {
            return Err(Status::resource_exhausted(format!("an account may have {} scripts", self.config.max_scripts)));
        }
        if !request.only_ask {
            sqlx::query(
                "insert into sieve_scripts (account_id, name, script) values ($1, $2, $3)
                 on conflict (account_id, name) do update set script = excluded.script, changed_at = now()",
            )
            .bind(account_id)
            .bind(&request.name)
            .bind(&request.script)
            .execute(&mut *tx)
            .await
            .map_err(status)?;
            tx.commit().await.map_err(status)?;
        }
        Ok(Response::new(PutScriptResponse {}))
    }

    async fn get_script(&self, request: Request<GetScriptRequest>) -> Result<Response<GetScriptResponse>, Status> {
        let request = request.into_inner();
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.owner).await?;
        let script: Option<String> =
            sqlx::query_scalar("select script from sieve_scripts where account_id = $1 and name = $2")
                .bind(account_id)
                .bind(request.name.replace('\0', ""))
                .fetch_optional(&mut *tx)
                .await
                .map_err(status)?;
        let script = script.ok_or_else(|| no_script(&request.name))?;
        Ok(Response::new(GetScriptResponse { script }))
    }

    async fn list_scripts(
        &self,
        request: Request<ListScriptsRequest>,
    ) -> Result<Response<ListScriptsResponse>, Status> {
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.into_inner().owner).await?;
        let rows: Vec<(String, bool, i32)> = sqlx::query_as(
            "select name, name = coalesce((select script from rules r where r.account_id = $1), ''), octet_length(script)
             from sieve_scripts where account_id = $1 order by name",
        )
        .bind(account_id)
        .fetch_all(&mut *tx)
        .await
        .map_err(status)?;
        let scripts = rows
            .into_iter()
            .map(|(name, active, size)| ListedScript { name, active, size: u64::from(size.unsigned_abs()) })
            .collect();
        Ok(Response::new(ListScriptsResponse { scripts }))
    }

    async fn delete_script(
        &self,
        request: Request<DeleteScriptRequest>,
    ) -> Result<Response<DeleteScriptResponse>, Status> {
        let request = request.into_inner();
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.owner).await?;
        let name = request.name.replace('\0', "");
        if !name.is_empty() && is_active(&mut tx, account_id, &name).await? {
            return Err(Status::failed_precondition(format!("script {name:?} is active")));
        }
        let done = sqlx::query("delete from sieve_scripts where account_id = $1 and name = $2")
            .bind(account_id)
            .bind(&name)
            .execute(&mut *tx)
            .await
            .map_err(status)?;
        if done.rows_affected() == 0 {
            return Err(no_script(&name));
        }
        tx.commit().await.map_err(status)?;
        Ok(Response::new(DeleteScriptResponse {}))
    }

    async fn rename_script(
        &self,
        request: Request<RenameScriptRequest>,
    ) -> Result<Response<RenameScriptResponse>, Status> {
        let request = request.into_inner();
        check_name(&request.new_name)?;
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.owner).await?;
        let name = request.name.replace('\0', "");
        if !exists(&mut tx, account_id, &name).await? {
            return Err(no_script(&name));
        }
        if exists(&mut tx, account_id, &request.new_name).await? {
            return Err(Status::already_exists(format!("script {:?} exists", request.new_name)));
        }
        let was_active = is_active(&mut tx, account_id, &name).await?;
        sqlx::query("update sieve_scripts set name = $3 where account_id = $1 and name = $2")
            .bind(account_id)
            .bind(&name)
            .bind(&request.new_name)
            .execute(&mut *tx)
            .await
            .map_err(status)?;
        if was_active {
            activate(&mut tx, account_id, &request.new_name).await?;
        }
        tx.commit().await.map_err(status)?;
        Ok(Response::new(RenameScriptResponse {}))
    }

    async fn activate_script(
        &self,
        request: Request<ActivateScriptRequest>,
    ) -> Result<Response<ActivateScriptResponse>, Status> {
        let request = request.into_inner();
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.owner).await?;
        let name = request.name.replace('\0', "");
        if !name.is_empty() && !exists(&mut tx, account_id, &name).await? {
            return Err(no_script(&name));
        }
        activate(&mut tx, account_id, &name).await?;
        tx.commit().await.map_err(status)?;
        Ok(Response::new(ActivateScriptResponse {}))
    }

    async fn get_rules(&self, request: Request<GetRulesRequest>) -> Result<Response<AccountRules>, Status> {
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.into_inner().owner).await?;
        self.rules(&mut tx, account_id).await.map(Response::new)
    }

    async fn set_vacation(&self, request: Request<SetVacationRequest>) -> Result<Response<AccountRules>, Status> {
        let request = request.into_inner();
        let wanted = request.vacation.unwrap_or_default();
        if wanted.on && wanted.text.trim().is_empty() {
            return Err(Status::invalid_argument("vacation: expected a text"));
        }
        if wanted.text.len() > MAX_VACATION || wanted.subject.len() > MAX_SUBJECT || wanted.days > MAX_DAYS {
            return Err(Status::invalid_argument(format!(
                "vacation: expected at most {MAX_VACATION} bytes of text, {MAX_SUBJECT} of subject and {MAX_DAYS} days"
            )));
        }
        let time = |ms: i64| match ms {
            0 => Ok(None),
            ms => DateTime::from_timestamp_millis(ms)
                .map(Some)
                .ok_or_else(|| Status::invalid_argument("vacation: the time is out of range")),
        };
        let (from, until) = (time(wanted.from_ms)?, time(wanted.until_ms)?);
        if let (Some(from), Some(until)) = (from, until)
            && from >= until
        {
            return Err(Status::invalid_argument("vacation: expected its end after its beginning"));
        }
        let mut tx = self.begin().await?;
        let (account_id, _) = self.account(&mut tx, request.owner).await?;
        sqlx::query(
            "insert into rules (account_id, vacation_on, vacation_subject, vacation_text, vacation_days, vacation_from,
                                vacation_until)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (account_id) do update
             set vacation_on = excluded.vacation_on, vacation_subject = excluded.vacation_subject,
                 vacation_text = excluded.vacation_text, vacation_days = excluded.vacation_days,
                 vacation_from = excluded.vacation_from, vacation_until = excluded.vacation_until",
        )
        .bind(account_id)
        .bind(wanted.on)
        .bind(wanted.subject.replace('\0', ""))
        .bind(wanted.text.replace('\0', ""))
        .bind(i32::try_from(wanted.days).unwrap_or_default())
        .bind(from)
        .bind(until)
        .execute(&mut *tx)
        .await
        .map_err(status)?;
        // A new absence is answered anew.
        if wanted.on {
            sqlx::query("delete from vacation_answers where account_id = $1")
                .bind(account_id)
                .execute(&mut *tx)
                .await
                .map_err(status)?;
        }
        let rules = self.rules(&mut tx, account_id).await?;
        tx.commit().await.map_err(status)?;
        Ok(Response::new(rules))
    }

    async fn set_forward(&self, request: Request<SetForwardRequest>) -> Result<Response<AccountRules>, Status> {
        let request = request.into_inner();
        let wanted = request.forward.unwrap_or_default();
        if wanted.to.len() > MAX_FORWARDS {
            return Err(Status::invalid_argument(format!("forward: expected at most {MAX_FORWARDS} addresses")));
        }
        let mut tx = self.begin().await?;
        let (account_id, own) = self.account(&mut tx, request.owner).await?;
        let mut to: Vec<String> = Vec::new();
        for text in &wanted.to {
            let address: Address =
                text.parse().map_err(|e| Status::invalid_argument(format!("forward address {text:?}: {e}")))?;
            if address.key() == own.key() {
                return Err(Status::invalid_argument(format!("forward: {address} is the account itself")));
            }
            if !to.iter().any(|t| t.eq_ignore_ascii_case(&address.to_string())) {
                to.push(address.to_string());
            }
        }
        sqlx::query(
            "insert into rules (account_id, forward_to, forward_keep) values ($1, $2, $3)
             on conflict (account_id) do update
             set forward_to = excluded.forward_to, forward_keep = excluded.forward_keep",
        )
        .bind(account_id)
        .bind(&to)
        .bind(wanted.keep)
        .execute(&mut *tx)
        .await
        .map_err(status)?;
        let rules = self.rules(&mut tx, account_id).await?;
        tx.commit().await.map_err(status)?;
        Ok(Response::new(rules))
    }
}
