//! Carries out what rules decided: all of it in the transaction that settles the delivery.

mod places;

use std::collections::BTreeMap;

use proto::spool::DeliveryId;
use sieve::Action;
use sqlx::PgConnection;
use tonic::Status;

use self::places::{Folder, Placement, default_box, find_box, insert, leave_what_fits, placement};
use super::{
    decide::{Decision, Facts, confine},
    digest,
    letters::{Answer, Redirection},
    runner::{Loaded, Runner},
};
use crate::{
    content::plain,
    database::status,
    spool::{over_quota, release},
};

/// What became of a delivery.
pub enum Settled {
    Done {
        mailboxes: usize,
    },
    /// Somebody else did it, or it is held.
    Gone,
    /// The account is gone.
    Homeless,
    /// What the script took for new has been seen meanwhile.
    Again,
}

/// A line of the journey: name and text.
type Line = (&'static str, String);

#[derive(Default)]
struct Plan {
    placements: Vec<Placement>,
    redirection: Redirection,
    answer: Option<Answer>,
    lines: Vec<Line>,
    /// A report of success was promised.
    promised: bool,
}

impl Runner {
    pub(super) async fn carry_out(
        &self,
        row: &Loaded,
        id: &DeliveryId,
        mut decision: Decision,
        facts: &Facts,
    ) -> Result<Settled, Status> {
        let mut lines: Vec<Line> = Vec::new();
        if let Some(why) = &decision.failure {
            self.metrics.rule("failed");
            tracing::info!(mail.queue_id = %id.queue_id, "a script failed, the message is kept");
            lines.push(("rule-failed", format!("script {:?}: {why}; the message is kept", row.script_name)));
        }
        if row.junk {
            lines.extend(confine(&mut decision).into_iter().map(|note| ("rule", note.to_owned())));
        }
        if let [Action::Reject { reason }] = decision.actions.as_slice() {
            // RFC 5429 §2.1: a DSN, because the door has said 250 long ago.
            let words = format!("550 5.7.1 rejected by the recipient: {}", reason.trim());
            let bounced = self.bouncer.bounce(id, "5.7.1", &words).await?;
            self.metrics.rule("reject");
            return Ok(if bounced { Settled::Done { mailboxes: 0 } } else { Settled::Gone });
        }
        let mut plan = self.plan(row, facts, &decision, lines.clone()).await?;
        let mut tx = self.pool.begin().await.map_err(status)?;
        let settled = match self.write(&mut tx, row, &decision, facts, &mut plan).await {
            Err(e) if !over_quota(&e).is_empty() => {
                // A mailbox of ours that it was to go to is full: then nothing is sent at all.
                tx.rollback().await.map_err(status)?;
                stay(&mut decision);
                lines.push(("rule", "not sent on: a mailbox that it goes to is full".to_owned()));
                plan = self.plan(row, facts, &decision, lines).await?;
                tx = self.pool.begin().await.map_err(status)?;
                self.write(&mut tx, row, &decision, facts, &mut plan).await.map_err(status)?
            }
            written => written.map_err(status)?,
        };
        if !matches!(settled, Settled::Done { .. }) {
            return Ok(settled);
        }
        tx.commit().await.map_err(status)?;
        self.count(&plan);
        if plan.promised {
            self.bouncer.successes.notify_one();
        }
        let letters = [plan.redirection.letter.as_ref(), plan.answer.as_ref().map(|a| &a.letter)];
        let letters: Vec<_> = letters.into_iter().flatten().map(|letter| &letter.ready).collect();
        if !letters.is_empty() {
            self.accepting.hand_out(&letters).await;
        }
        Ok(settled)
    }

    fn count(&self, plan: &Plan) {
        for (name, _) in &plan.lines {
            match *name {
                "redirected" | "discarded" => self.metrics.rule(name),
                "delivered" => self.metrics.rule("filed"),
                _ => {}
            }
        }
        if plan.answer.is_some() {
            self.metrics.rule("vacation");
        }
    }

    /// Everything that can be prepared before rows are locked.
    async fn plan(&self, row: &Loaded, facts: &Facts, decision: &Decision, lines: Vec<Line>) -> Result<Plan, Status> {
        let mut plan = Plan { lines, ..Plan::default() };
        let mut redirects = Vec::new();
        for action in &decision.actions {
            match action {
                Action::Keep { flags } => plan.placements.push(placement(None, false, flags)),
                Action::FileInto { mailbox, create, flags } => {
                    plan.placements.push(placement(Some(mailbox), *create, flags));
                }
                Action::Redirect { address } => redirects.push(address.as_str()),
                Action::Vacation(reply) => match self.answer(row, facts, reply.clone()).await? {
                    Ok(answer) => plan.answer = Some(answer),
                    Err(why) => plan.lines.push(("vacation", format!("not answered: {why}"))),
                },
                Action::Reject { .. } => {}
            }
        }
        if !redirects.is_empty() {
            plan.redirection = self.redirect(row, facts, &redirects).await?;
        }
        for (address, why) in &plan.redirection.refused {
            plan.lines.push(("rule", format!("not redirected to {address}: {why}")));
        }
        if let Some(letter) = &plan.redirection.letter {
            let to = plan.redirection.to.join(", ");
            plan.lines.push(("redirected", format!("to {to} as {}", letter.queue_id)));
        } else if !redirects.is_empty() && plan.placements.is_empty() {
            // What can go nowhere else stays.
            plan.placements.push(Placement::default());
        }
        Ok(plan)
    }

    async fn write(
        &self,
        tx: &mut PgConnection,
        row: &Loaded,
        decision: &Decision,
        facts: &Facts,
        plan: &mut Plan,
    ) -> Result<Settled, sqlx::Error> {
        // As the common statement does it: the delivery first, then mailboxes in their order.
        let mine: Option<i32> = sqlx::query_scalar(
            "select number from deliveries where queue_id = $1 and number = $2 and account_id = $3 and not held
             for update skip locked",
        )
        .bind(row.queue_id)
        .bind(row.number)
        .bind(row.account_id)
        .fetch_optional(&mut *tx)
        .await?;
        if mine.is_none() {
            return Ok(Settled::Gone);
        }
        if !track(tx, row, decision, facts).await? {
            return Ok(Settled::Again);
        }
        let Some(home) = default_box(tx, row).await? else { return Ok(Settled::Homeless) };
        let mut places: BTreeMap<i64, (String, Placement)> = BTreeMap::new();
        for placement in std::mem::take(&mut plan.placements) {
            let found = find_box(tx, row, &placement).await?;
            let place = match (&placement.name, found) {
                (_, Some(place)) => place,
                (None, None) => Folder { id: home.id, name: home.name.clone() },
                (Some(name), None) => {
                    plan.lines.push(("rule", format!("mailbox {name:?} does not exist")));
                    Folder { id: home.id, name: home.name.clone() }
                }
            };
            places.insert(place.id, (place.name, placement));
        }
        leave_what_fits(tx, row, &mut places, &mut plan.lines).await?;
        insert(tx, row, &places).await?;
        if let Some((name, _)) = places.values().next() {
            plan.promised = promise(tx, row, name).await?;
        }
        plan.lines.extend(places.values().map(|(name, _)| ("delivered", format!("into {name}"))));
        self.send(tx, row, plan).await?;
        if places.is_empty() {
            if plan.redirection.letter.is_none() {
                plan.lines.push(("discarded", "by a rule of the recipient".to_owned()));
            }
            release(&mut *tx, &[row.queue_id]).await?;
        }
        settle(tx, row, &plan.lines).await?;
        Ok(Settled::Done { mailboxes: places.len() })
    }

    async fn send(&self, tx: &mut PgConnection, row: &Loaded, plan: &mut Plan) -> Result<(), sqlx::Error> {
        if let Some(answer) = &plan.answer {
            // RFC 5230 §4.2: whoever was answered in this time is not answered again.
            let due: Option<bool> = sqlx::query_scalar(
                "insert into vacation_answers (account_id, key, until) values ($1, $2, now() + make_interval(secs => $3))
                 on conflict (account_id, key) do update set until = excluded.until where vacation_answers.until <= now()
                 returning true",
            )
            .bind(row.account_id)
            .bind(&answer.key)
            .bind(answer.seconds as f64)
            .fetch_optional(&mut *tx)
            .await?;
            if due.is_some() {
                let line = format!("answered to {} as {}", row.reverse_path, answer.letter.queue_id);
                plan.lines.push(("vacation", line));
            } else {
                plan.lines.push(("vacation", "not answered: the sender was answered before".to_owned()));
                plan.answer = None;
            }
        }
        let letters = [plan.redirection.letter.as_ref(), plan.answer.as_ref().map(|a| &a.letter)];
        let letters: Vec<_> = letters.into_iter().flatten().map(|letter| &letter.ready).collect();
        self.accepting.write_within(tx, &letters).await
    }
}

/// Without what is sent.
fn stay(decision: &mut Decision) {
    decision.actions.retain(|a| !matches!(a, Action::Redirect { .. } | Action::Vacation(_)));
    if decision.actions.is_empty() {
        decision.actions.push(Action::Keep { flags: Vec::new() });
    }
}

/// Remembers ids; false when one that was new has come meanwhile (RFC 7352 §3).
async fn track(tx: &mut PgConnection, row: &Loaded, decision: &Decision, facts: &Facts) -> Result<bool, sqlx::Error> {
    for tracked in &decision.tracked {
        let was_known = facts.tracked.get(&tracked.key).copied().unwrap_or(false);
        if was_known && !tracked.renew {
            continue;
        }
        let written: Option<bool> = sqlx::query_scalar(
            "insert into sieve_tracked (account_id, key, until) values ($1, $2, now() + make_interval(secs => $3))
             on conflict (account_id, key) do update set until = excluded.until where sieve_tracked.until <= now() or $4
             returning true",
        )
        .bind(row.account_id)
        .bind(digest(&[&tracked.key]))
        .bind(tracked.seconds as f64)
        .bind(was_known)
        .fetch_optional(&mut *tx)
        .await?;
        if written.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// RFC 3461 §5.2.2, NOTIFY=SUCCESS: as the common statement does it.
async fn promise(tx: &mut PgConnection, row: &Loaded, mailbox: &str) -> Result<bool, sqlx::Error> {
    if row.reverse_path.is_empty() || !dsn::wants_success(&row.notify) {
        return Ok(false);
    }
    sqlx::query(
        "insert into success_reports (queue_id, number, recipient, orcpt, mailbox) values ($1, $2, $3, $4, $5)
         on conflict do nothing",
    )
    .bind(row.queue_id)
    .bind(row.number)
    .bind(&row.recipient)
    .bind(&row.orcpt)
    .bind(mailbox)
    .execute(tx)
    .await?;
    Ok(true)
}

async fn settle(tx: &mut PgConnection, row: &Loaded, lines: &[Line]) -> Result<(), sqlx::Error> {
    let detail = match row.script_name.as_str() {
        "" => String::new(),
        name => serde_json::json!({ "script": name }).to_string(),
    };
    sqlx::query(
        "with told as (
             insert into journey (queue_id, name, service, recipient, text, detail)
             select $1, name, 'mda', $3, text, $6 from unnest($4::text[], $5::text[]) with ordinality as l (name, text, nth)
             order by nth
         )
         delete from deliveries where queue_id = $1 and number = $2",
    )
    .bind(row.queue_id)
    .bind(row.number)
    .bind(&row.recipient)
    .bind(lines.iter().map(|(name, _)| *name).collect::<Vec<_>>())
    .bind(lines.iter().map(|(_, text)| plain(text)).collect::<Vec<_>>())
    .bind(plain(&detail))
    .execute(tx)
    .await?;
    Ok(())
}
