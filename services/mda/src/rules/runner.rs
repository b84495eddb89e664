//! Deliveries to accounts with rules, one after the other.

use std::{collections::HashMap, io::Read as _, sync::Arc};

use chrono::{DateTime, Utc};
use proto::spool::DeliveryId;
use runtime::telemetry;
use sieve::{Fact, Script};
use sqlx::{FromRow, PgPool, types::Uuid};
use tonic::Status;
use tracing::Instrument as _;

use super::{
    Config,
    decide::{Decision, Facts, Programs, decide},
    digest,
    effects::Settled,
};
use crate::{
    bounce::Bouncer,
    content,
    database::status,
    ids,
    metrics::Metrics,
    spool::{Accepting, delivery_id},
    wakes::WakeHub,
};

/// Deliveries that are loaded at once; each brings a header along.
const CHUNK: usize = 32;
/// What one script may have looked up.
const MAX_FACTS: usize = 64;
/// Scripts that stay compiled.
const KEPT_SCRIPTS: u64 = 2_000;

#[derive(Clone)]
pub struct Runner {
    pub(super) pool: PgPool,
    pub(super) config: Config,
    pub(super) hostname: String,
    pub(super) bouncer: Bouncer,
    pub(super) accepting: Accepting,
    pub(super) metrics: Metrics,
    wakes: WakeHub,
    compiled: moka::sync::Cache<String, Arc<Script>>,
}

/// A delivery, its message, and the rules of its account.
#[derive(FromRow)]
pub(super) struct Loaded {
    pub queue_id: Uuid,
    pub number: i32,
    pub account_id: i64,
    pub recipient: String,
    pub notify: String,
    pub orcpt: String,
    pub reverse_path: String,
    pub junk: bool,
    pub size: i32,
    pub traceparent: String,
    pub eight_bit: bool,
    pub smtputf8: bool,
    pub require_tls: bool,
    pub header: Vec<u8>,
    pub address: String,
    pub tenant: String,
    pub script_name: String,
    pub script: Option<String>,
    pub vacation_on: bool,
    pub vacation_subject: String,
    pub vacation_text: String,
    pub vacation_days: i32,
    pub vacation_from: Option<DateTime<Utc>>,
    pub vacation_until: Option<DateTime<Utc>>,
    pub forward_to: Vec<String>,
    pub forward_keep: bool,
}

const LOAD: &str = "
select d.queue_id, d.number, d.account_id, d.recipient, d.notify, d.orcpt, s.reverse_path, s.junk, s.size, s.traceparent,
       s.eight_bit, s.smtputf8, s.require_tls, c.header, a.address, coalesce(t.name, '') as tenant,
       r.script as script_name, sc.script,
       r.vacation_on, r.vacation_subject, r.vacation_text, r.vacation_days, r.vacation_from, r.vacation_until,
       r.forward_to, r.forward_keep
from (select distinct * from unnest($1::uuid[], $2::int[]) as w (queue_id, number)) w
join deliveries d using (queue_id, number)
join rules r on r.account_id = d.account_id and r.is_active
join accounts a on a.id = d.account_id left join tenants t on t.id = a.tenant_id
join spool s using (queue_id) join contents c on c.id = d.queue_id
left join sieve_scripts sc on sc.account_id = r.account_id and sc.name = r.script
where not d.held and d.not_before <= now() and d.reserved >= 0
order by d.queue_id, d.number";

impl Runner {
    pub fn new(config: &crate::Config, bouncer: Bouncer, accepting: Accepting, wakes: WakeHub) -> Self {
        Self {
            pool: bouncer.pool.clone(),
            config: config.sieve.clone(),
            hostname: config.hostname.clone(),
            metrics: bouncer.metrics.clone(),
            bouncer,
            accepting,
            wakes,
            compiled: moka::sync::Cache::new(KEPT_SCRIPTS),
        }
    }

    /// Delivers those whose account has rules; gives back the others. What fails stays open and
    /// comes again.
    pub async fn deliver(&self, deliveries: Vec<DeliveryId>) -> Vec<DeliveryId> {
        let mut others = Vec::new();
        for chunk in deliveries.chunks(CHUNK) {
            let rows = match self.load(chunk).await {
                Ok(rows) => rows,
                Err(e) => {
                    tracing::warn!(error = %e, "rules cannot be read, not delivered, will be later");
                    return others;
                }
            };
            let ids: Vec<DeliveryId> = rows.iter().map(|row| delivery_id(row.queue_id, row.number)).collect();
            others.extend(chunk.iter().filter(|d| !ids.contains(d)).cloned());
            for (row, id) in rows.iter().zip(ids) {
                let span = tracing::info_span!("rules", mail.queue_id = %id.queue_id);
                telemetry::continue_from(&span, &row.traceparent);
                match self.one(row, &id).instrument(span).await {
                    Ok(Settled::Homeless) => others.push(id),
                    Ok(_) => {}
                    Err(e) => {
                        tracing::warn!(mail.queue_id = %id.queue_id, error = %e, "not delivered, will be later");
                        // The database refuses it; whatever else is the matter may pass.
                        if e.code() == tonic::Code::Internal {
                            crate::set_aside::refused(&self.pool, &id, e.message()).await;
                        }
                    }
                }
            }
        }
        others
    }

    async fn load(&self, deliveries: &[DeliveryId]) -> Result<Vec<Loaded>, sqlx::Error> {
        let (mut queue_ids, mut numbers) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            if let (Ok(queue_id), Ok(number)) = (ids::parse(&delivery.queue_id), i32::try_from(delivery.number)) {
                queue_ids.push(queue_id);
                numbers.push(number);
            }
        }
        sqlx::query_as(LOAD).bind(queue_ids).bind(numbers).fetch_all(&self.pool).await
    }

    async fn one(&self, row: &Loaded, id: &DeliveryId) -> Result<Settled, Status> {
        // Two messages with one id may run at once; the later finds out when it writes.
        for _ in 0..3 {
            let (decision, facts) = self.decide(row).await?;
            let settled = self.carry_out(row, id, decision, &facts).await?;
            match &settled {
                Settled::Again => continue,
                Settled::Done { mailboxes } if *mailboxes > 0 => {
                    self.metrics.delivered(std::iter::repeat_n((row.tenant.as_str(), row.size), *mailboxes));
                    self.wakes.changed([ids::unsigned(row.account_id)].into_iter()).await;
                }
                _ => {}
            }
            return Ok(settled);
        }
        Err(Status::aborted("an id is tracked and forgotten at once"))
    }

    /// Runs the rules, with more facts each time until there are enough.
    async fn decide(&self, row: &Loaded) -> Result<(Decision, Facts), Status> {
        let mut facts = Facts {
            header: content::decompress(&row.header, usize::try_from(row.size).unwrap_or_default())?,
            size: u64::from(row.size.unsigned_abs()),
            content: None,
            reverse_path: row.reverse_path.clone(),
            forward_path: row.recipient.clone(),
            now: Utc::now().timestamp(),
            hostname: self.hostname.clone(),
            domain: row.address.rsplit('@').next().unwrap_or_default().to_owned(),
            mailboxes: HashMap::new(),
            tracked: HashMap::new(),
        };
        let programs = self.programs(row);
        let limits = self.config.limits();
        for _ in 0..MAX_FACTS {
            let programs = programs.clone();
            // Bounded, but not for an async thread.
            let run = tokio::task::spawn_blocking(move || (decide(&programs, &facts, limits), facts));
            let (decided, known) = run.await.map_err(|_| Status::internal("a script ended its thread"))?;
            facts = known;
            match decided {
                Ok(decision) => return Ok((decision, facts)),
                Err(fact) => self.learn(row, fact, &mut facts).await?,
            }
        }
        let failure = Some(format!("the script asks for more than {MAX_FACTS} things"));
        let actions = vec![sieve::Action::Keep { flags: Vec::new() }];
        Ok((Decision { actions, failure, ..Decision::default() }, facts))
    }

    async fn learn(&self, row: &Loaded, fact: Fact, facts: &mut Facts) -> Result<(), Status> {
        match fact {
            Fact::Content => {
                let body = self.body(row.queue_id, self.config.body_bytes).await?;
                facts.content = Some([&facts.header[..], &body].concat());
            }
            Fact::Mailbox(name) => {
                let exists = sqlx::query_scalar(
                    "select exists (select from mailboxes where account_id = $1 and name = case when upper($2) = 'INBOX' then 'INBOX' else $2 end)",
                )
                .bind(row.account_id)
                .bind(content::plain(&name))
                .fetch_one(&self.pool)
                .await
                .map_err(status)?;
                facts.mailboxes.insert(name, exists);
            }
            Fact::Tracked(key) => {
                let is_tracked = sqlx::query_scalar(
                    "select exists (select from sieve_tracked where account_id = $1 and key = $2 and until > now())",
                )
                .bind(row.account_id)
                .bind(digest(&[&key]))
                .fetch_one(&self.pool)
                .await
                .map_err(status)?;
                facts.tracked.insert(key, is_tracked);
            }
        }
        Ok(())
    }

    /// The body's first octets.
    pub(super) async fn body(&self, queue_id: Uuid, most: u64) -> Result<Vec<u8>, Status> {
        let stored: Option<(Vec<u8>, Option<String>)> =
            sqlx::query_as("select body, object from contents where id = $1")
                .bind(queue_id)
                .fetch_optional(&self.pool)
                .await
                .map_err(status)?;
        let (body, object) = stored.ok_or_else(|| Status::aborted("the message is gone"))?;
        let stored = match &object {
            None => body.into(),
            // Enough of the frame: what cannot be compressed grows by less than this.
            Some(name) => {
                let enough = (most < u64::MAX >> 1).then(|| most + (most >> 7) + (256 << 10));
                self.accepting.objects().range(name, 0, enough).await?.0
            }
        };
        let damaged = |_| Status::data_loss("stored content is damaged");
        let mut body = Vec::new();
        zstd::stream::read::Decoder::new(&stored[..])
            .and_then(|decoder| decoder.take(most).read_to_end(&mut body))
            .map_err(damaged)?;
        Ok(body)
    }

    fn programs(&self, row: &Loaded) -> Programs {
        let forward = (!row.forward_to.is_empty())
            .then(|| sieve::Forward { to: row.forward_to.clone(), keep: row.forward_keep }.to_script());
        let vacation = row.vacation_on.then(|| {
            sieve::Vacation {
                subject: row.vacation_subject.clone(),
                text: row.vacation_text.clone(),
                days: row.vacation_days.unsigned_abs(),
                from: row.vacation_from.map(|at| at.timestamp()),
                until: row.vacation_until.map(|at| at.timestamp()),
            }
            .to_script()
        });
        Programs {
            forward: forward.and_then(|text| Some((self.compile(&text).ok()?, row.forward_keep))),
            vacation: vacation.and_then(|text| self.compile(&text).ok()),
            script: row.script.as_ref().map(|text| (row.script_name.clone(), self.compile(text))),
        }
    }

    fn compile(&self, text: &str) -> Result<Arc<Script>, String> {
        let key = digest(&[text]);
        if let Some(script) = self.compiled.get(&key) {
            return Ok(script);
        }
        let script = Arc::new(Script::compile(text).map_err(|e| e.to_string())?);
        self.compiled.insert(key, script.clone());
        Ok(script)
    }
}
