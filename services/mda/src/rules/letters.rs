//! Messages that rules send: redirected ones and answers.

use address::Address;
use chrono::Utc;
use proto::{
    directory::resolution::Kind,
    spool::{Envelope, Event, Recipient, target::To},
};
use sieve::{Reply, Respond};
use sqlx::types::Uuid;
use tonic::Status;

use super::{
    RedirectSender,
    decide::Facts,
    digest,
    runner::{Loaded, Runner},
};
use crate::{
    directory::resolve,
    ids,
    spool::{Draft, Ready},
};

/// Hops after which nothing is sent on any more (RFC 5321 §6.3 asks for 100 at least to accept).
const MAX_HOPS: usize = 50;

/// One message that is accepted when the delivery is settled.
pub struct Letter {
    pub ready: Ready,
    pub queue_id: String,
}

/// A message on its way to others.
#[derive(Default)]
pub struct Redirection {
    pub letter: Option<Letter>,
    pub to: Vec<String>,
    /// Those it does not go to, and why.
    pub refused: Vec<(String, &'static str)>,
}

/// An answer, which is given unless the sender had one before.
pub struct Answer {
    pub letter: Letter,
    /// Of the memory of answers.
    pub key: String,
    pub seconds: i64,
}

fn new_queue_id() -> String {
    ids::show(Uuid::now_v7())
}

impl Runner {
    /// RFC 5228 §4.2. A message that passed here before has our mark, and stays: no circle of
    /// redirections lasts.
    pub(super) async fn redirect(&self, row: &Loaded, facts: &Facts, to: &[&str]) -> Result<Redirection, Status> {
        let mut out = Redirection::default();
        let mut recipients = Vec::new();
        let marks = message::fields(&facts.header).filter(|f| f.is("Delivered-To"));
        let is_ours = |mark: message::Field<'_>| mark.value.trim_ascii().eq_ignore_ascii_case(row.address.as_bytes());
        let trouble = if marks.into_iter().any(is_ours) {
            Some("the message was redirected here before")
        } else if message::count_fields(&facts.header, "Received") > MAX_HOPS {
            Some("the message has too many hops")
        } else {
            None
        };
        for address in to {
            let refusal = match (trouble, address.parse::<Address>()) {
                (Some(trouble), _) => Some(trouble),
                (None, Err(_)) => Some("it is no address"),
                (None, Ok(parsed)) => {
                    let forwarder = &self.bouncer.forwarder;
                    let (kind, targets) = resolve::destination(&self.pool, forwarder, &parsed).await?;
                    if targets.is_empty() {
                        Some(match kind {
                            Kind::OverQuota => "its mailbox is full",
                            Kind::Disabled => "it takes no mail",
                            _ => "it does not exist",
                        })
                    } else {
                        let notify = if row.notify.eq_ignore_ascii_case("NEVER") { "NEVER" } else { "" };
                        recipients.push(Recipient {
                            forward_path: parsed.to_string(),
                            targets,
                            notify: notify.into(),
                            ..Recipient::default()
                        });
                        None
                    }
                }
            };
            match refusal {
                Some(why) => out.refused.push(((*address).to_owned(), why)),
                None => out.to.push((*address).to_owned()),
            }
        }
        if recipients.is_empty() {
            return Ok(out);
        }
        let body = self.body(row.queue_id, u64::MAX).await?;
        let content = [format!("Delivered-To: {}\r\n", row.address).as_bytes(), &facts.header, &body].concat();
        let domain = row.address.parse::<Address>().ok().map(|a| a.domain().clone());
        let (reverse_path, remote_path) = match self.config.redirect_sender {
            RedirectSender::Account if !row.reverse_path.is_empty() => (row.address.clone(), None),
            // What leaves us gets a reverse-path that SPF lets us use, as mail to an alias does (SRS).
            _ => {
                let mut paths = self.bouncer.forwarder.reverse_paths(&row.reverse_path, &[domain]).await?;
                (row.reverse_path.clone(), paths.pop().flatten())
            }
        };
        let queue_id = new_queue_id();
        let envelope = Envelope {
            queue_id: queue_id.clone(),
            reverse_path,
            recipients,
            account_id: ids::unsigned(row.account_id),
            // Whoever sends it on keeps it instead, and its sender hears nothing of a mailbox unknown to him.
            refuse_over_quota: true,
            eight_bit: row.eight_bit,
            smtputf8: row.smtputf8,
            require_tls: row.require_tls,
            traceparent: row.traceparent.clone(),
            events: vec![self.begin(row, "redirected from")],
            ..Envelope::default()
        };
        let ready =
            self.accepting.ready_from(Draft { envelope, content: content.into() }, remote_path.as_ref()).await?;
        out.letter = Some(Letter { ready, queue_id });
        Ok(out)
    }

    fn begin(&self, row: &Loaded, how: &str) -> Event {
        Event {
            name: "received".into(),
            service: "mda".into(),
            text: format!("{how} {} by the rules of {}", ids::show(row.queue_id), row.address),
            ..Event::default()
        }
    }

    /// `Err` within is why there is no answer (RFC 5230 §4.5, §4.6).
    pub(super) async fn answer(
        &self,
        row: &Loaded,
        facts: &Facts,
        mut reply: Reply,
    ) -> Result<Result<Answer, &'static str>, Status> {
        if let Some(why) = sieve::why_not(&reply, &facts.header, &row.reverse_path, &[&row.address, &row.recipient]) {
            return Ok(Err(why));
        }
        let Ok(sender) = row.reverse_path.parse::<Address>() else { return Ok(Err("its reverse-path is no address")) };
        let targets = resolve::targets_of(&self.pool, &self.bouncer.forwarder, &sender).await?;
        if targets.is_empty() {
            return Ok(Err("its sender does not exist"));
        }
        let from = self.own_address(row, reply.from.take()).await?;
        let queue_id = new_queue_id();
        let content = reply.to_message(&Respond {
            address: &from,
            to: &row.reverse_path,
            date: &Utc::now().to_rfc2822(),
            message_id: &format!("{queue_id}@{}", self.hostname),
            header: &facts.header,
        });
        let domain = from.rsplit('@').next().unwrap_or_default();
        let content = self.bouncer.signer.sign(domain, content).await;
        let envelope = Envelope {
            queue_id: queue_id.clone(),
            // RFC 3834 §3.3: an answer to an answer has nowhere to go.
            reverse_path: String::new(),
            recipients: vec![Recipient {
                forward_path: row.reverse_path.clone(),
                targets,
                notify: "NEVER".into(),
                ..Recipient::default()
            }],
            account_id: ids::unsigned(row.account_id),
            eight_bit: !content.is_ascii(),
            smtputf8: !(from.is_ascii() && row.reverse_path.is_ascii()),
            traceparent: row.traceparent.clone(),
            events: vec![self.begin(row, "answer to")],
            ..Envelope::default()
        };
        let key = digest(&[&reply.key(), &row.reverse_path.to_lowercase()]);
        let ready = self.accepting.ready(Draft { envelope, content: content.into() }).await?;
        let seconds = i64::try_from(reply.seconds).unwrap_or(i64::MAX);
        Ok(Ok(Answer { letter: Letter { ready, queue_id }, key, seconds }))
    }

    /// Nobody answers in another's name: what leads elsewhere is the account's own address.
    async fn own_address(&self, row: &Loaded, wanted: Option<String>) -> Result<String, Status> {
        if let Some(parsed) = wanted.as_ref().and_then(|w| w.parse::<Address>().ok()) {
            let targets = resolve::targets_of(&self.pool, &self.bouncer.forwarder, &parsed).await?;
            let leads_here = |t: &proto::spool::Target| matches!(t.to, Some(To::AccountId(id)) if ids::signed(id).ok() == Some(row.account_id));
            if targets.iter().any(leads_here) {
                return Ok(parsed.to_string());
            }
        }
        Ok(row.address.clone())
    }
}
