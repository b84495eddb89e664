//! From the final dot to the commit: check, sign or judge, prepend, accept.

use std::{borrow::Cow, net::IpAddr};

use address::Address;
use bytes::Bytes;
use listener::TlsInfo;
use proto::{
    auth::{VerifyParameters, VerifyResponse, verify_response::Action},
    directory::Account,
    spool::Event,
};
use runtime::telemetry;
use serde_json::json;
use smtp::server::Hello;
use tracing::info;

use crate::{
    Role, checker,
    content::Content,
    filters::Filters,
    headers::{self, Hop},
    refusal::Refusal,
    session::Parts,
    transaction::Transaction,
};

/// Each costs a question to the Directory.
const MAX_FROM: usize = 10;

/// A message whose content has arrived, with what is known about its way here.
pub struct Arrival<'a> {
    pub role: Role,
    pub peer: IpAddr,
    pub tls: Option<&'a TlsInfo>,
    /// Who submits it.
    pub account: Option<&'a Account>,
    pub hello: &'a Hello,
    pub transaction: &'a Transaction,
    /// `C:` and `S:` lines so far.
    pub dialogue: Vec<String>,
}

/// What is to be stored, our own fields first, and what the door decided.
struct Prepared {
    pieces: Vec<Bytes>,
    junk: bool,
}

impl Parts {
    /// `Ok` means committed (Invariant 1).
    pub async fn receive(&self, arrival: Arrival<'_>, content: &Content, filters: &mut Filters) -> Result<(), Refusal> {
        let at_ms = jiff::Timestamp::now().as_millisecond();
        let header = content.header();
        // RFC 5322 §2.2.3: it would be read as the end of a field of ours.
        if matches!(header.first(), Some(b' ' | b'\t')) {
            return Err(Refusal::begins_folded());
        }
        if headers::is_loop(&header, self.config.max_hops) {
            return Err(Refusal::mail_loop());
        }
        let transaction = arrival.transaction;
        let is_binary = || smtp::server::is_binary(content.pieces().iter().map(|piece| &piece[..]));
        if transaction.mail.binary && transaction.leaves_us() && is_binary() {
            return Err(Refusal::binary_elsewhere());
        }
        let mut prepared = match arrival.account {
            Some(account) => self.submitted(&arrival, account, &header, content).await?,
            None => self.incoming(&arrival, &header, content).await?,
        };
        let queue_id = transaction.queue_id.to_string();
        let wanted = filters.message(&self.metrics, content, &queue_id).await?;
        prepared.junk |= wanted.is_junk;
        // Below our own fields, above the message.
        prepared.pieces.insert(1, wanted.fields.into());
        let mut envelope = arrival.transaction.envelope();
        envelope.account_id = arrival.account.map_or(0, |a| a.account_id);
        envelope.junk = prepared.junk;
        envelope.refuse_over_quota = true;
        // Recipients that were refused, then what was found about the message.
        envelope.events = vec![received_event(&arrival, at_ms)];
        envelope.events.extend(arrival.transaction.take_told().0);
        envelope.events.extend(wanted.event);
        let trace_id = telemetry::trace_id(&envelope.traceparent).to_owned();
        self.spool.accept(envelope, &prepared.pieces).await.map_err(|status| {
            info!(mail.queue_id = %arrival.transaction.queue_id, error = %status, "not accepted");
            // Only now the size is known.
            match status.code() {
                tonic::Code::PermissionDenied => Refusal::over_quota(self.config.over_quota),
                _ => Refusal::of_status(&status),
            }
        })?;
        let size = prepared.pieces.iter().map(Bytes::len).sum();
        self.metrics.accept(arrival.role, size);
        info!(
            mail.queue_id = %arrival.transaction.queue_id,
            trace_id,
            size,
            recipients = arrival.transaction.count(),
            port = arrival.role.name(),
            smtp.reply_code = 250,
            "accepted"
        );
        Ok(())
    }

    /// Mail from anybody for us: a verdict decides before we take responsibility, so that
    /// a refusal stays in the session and bothers no innocent third.
    async fn incoming(&self, arrival: &Arrival<'_>, header: &Bytes, content: &Content) -> Result<Prepared, Refusal> {
        if self.config.trace_from.iter().any(|network| network.contains(&arrival.peer)) {
            let claimed = message::field(header, telemetry::TRACE_HEADER).and_then(|v| std::str::from_utf8(v).ok());
            telemetry::link_to(&arrival.transaction.span, claimed.unwrap_or_default());
        }
        let parameters = VerifyParameters {
            peer: arrival.peer.to_string(),
            helo: arrival.hello.name.clone(),
            reverse_path: arrival.transaction.reverse_path(),
            authserv_id: self.config.hostname.clone(),
            seal_domain: if self.config.seal_forwards { arrival.transaction.forwarder() } else { None }
                .unwrap_or_default(),
            quarantine_rejects: arrival.transaction.quarantine_rejects(),
        };
        // Only signatures, those that are there and the seal, speak about the body.
        let alone = [header.clone()];
        let is_hashed = !parameters.seal_domain.is_empty() || headers::may_be_signed(header);
        let told = if is_hashed { content.pieces() } else { &alone };
        let verdict = self.checker.verify(parameters, told).await.map_err(|s| Refusal::of_status(&s))?;
        arrival.transaction.tell(verdict_event(&verdict));
        let span = &arrival.transaction.span;
        span.record("mail.spf", &verdict.spf).record("mail.dkim", &verdict.dkim).record("mail.dmarc", &verdict.dmarc);
        span.record("mail.action", action(&verdict));
        let mut junk = checker::judge(&verdict)?;
        if let Some(scanned) = self.guard.scan(arrival, content).await? {
            junk |= scanned.is_junk;
            arrival.transaction.tell(scanned.event);
        }
        // A seal stands above what it speaks about (RFC 8617 §5.1).
        let mut prefix = verdict.arc_set.clone();
        prefix.push_str(&self.received_field(arrival));
        prefix.push_str(&verdict.authentication_results);
        if !prefix.ends_with("\r\n") {
            prefix.push_str("\r\n");
        }
        let cleaned = headers::without_forged_results(header, &self.config.hostname);
        let pieces = assemble(prefix, cleaned, content);
        Ok(Prepared { pieces, junk })
    }

    /// Mail from one of ours (RFC 6409): who it claims to be from, what is missing, our signature.
    async fn submitted(
        &self,
        arrival: &Arrival<'_>,
        account: &Account,
        header: &Bytes,
        content: &Content,
    ) -> Result<Prepared, Refusal> {
        let from = message::from_addresses(header);
        if from.len() > MAX_FROM {
            return Err(Refusal::too_many_from());
        }
        for address in &from {
            let allowed = self.directory.may_send_as(account.account_id, address).await;
            if !allowed.map_err(|s| Refusal::of_status(&s))? {
                return Err(Refusal::from_not_owned());
            }
        }
        if self.config.scan.as_ref().is_some_and(|scan| scan.submissions)
            && let Some(scanned) = self.guard.scan(arrival, content).await?
        {
            arrival.transaction.tell(scanned.event);
        }
        let first = from.first().and_then(|a| a.parse::<Address>().ok()).ok_or_else(Refusal::no_from)?;
        let queue_id = arrival.transaction.queue_id.to_string();
        let (added, kept) = headers::repair(header, &queue_id, &self.config.hostname, &now());
        let kept = match headers::without_forged_results(&kept, &self.config.hostname) {
            Cow::Borrowed(_) => kept,
            Cow::Owned(cleaned) => Cow::Owned(cleaned),
        };
        let mut pieces = assemble(added, kept, content);
        let signature = self.checker.sign(first.domain().as_str(), &pieces).await;
        let mut prefix = self.received_field(arrival);
        prefix.push_str(&signature.map_err(|s| Refusal::of_status(&s))?);
        pieces.insert(0, prefix.into());
        Ok(Prepared { pieces, junk: false })
    }

    fn received_field(&self, arrival: &Arrival<'_>) -> String {
        headers::received(&Hop {
            helo: &arrival.hello.name,
            peer: arrival.peer,
            tls: arrival.tls.map(|t| (t.version, t.cipher.as_str())),
            hostname: &self.config.hostname,
            extended: arrival.hello.extended,
            authenticated: arrival.account.is_some(),
            smtputf8: arrival.transaction.mail.smtputf8,
            queue_id: &arrival.transaction.queue_id.to_string(),
            sole_recipient: arrival.transaction.sole_recipient(),
            date: &now(),
        })
    }
}

/// What comes first, then the message; the content is only copied where its header changed.
fn assemble(prefix: String, header: Cow<'_, [u8]>, content: &Content) -> Vec<Bytes> {
    let mut pieces = vec![Bytes::from(prefix)];
    match header {
        Cow::Borrowed(_) => pieces.extend_from_slice(content.pieces()),
        Cow::Owned(header) => pieces.extend(std::iter::once(Bytes::from(header)).chain(content.body())),
    }
    pieces
}

/// RFC 5322 §3.3.
fn now() -> String {
    let zoned = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    // Fails only for years that the format cannot write.
    jiff::fmt::rfc2822::to_string(&zoned).unwrap_or_default()
}

fn received_event(arrival: &Arrival<'_>, at_ms: i64) -> Event {
    let how = arrival.tls.map_or("without TLS", |t| t.version);
    let mut dialogue = arrival.dialogue.clone();
    // Nobody reads this unless it is committed, and then it is what the client hears.
    dialogue.push(format!("S: 250 2.0.0 Ok: queued as {}", arrival.transaction.queue_id));
    let detail = json!({
        "peer": arrival.peer.to_string(),
        "helo": arrival.hello.name,
        "port": arrival.role.name(),
        "tls": shown_tls(arrival.tls),
        "account": arrival.account.map(|a| &a.address),
    });
    Event {
        name: "received".into(),
        service: "smtp-ingress".into(),
        text: format!("from {} [{}] on the {} port, {how}", arrival.hello.name, arrival.peer, arrival.role.name()),
        detail: detail.to_string(),
        dialogue,
        at_ms,
        ..Event::default()
    }
}

/// As the journey has it.
pub fn shown_tls(tls: Option<&TlsInfo>) -> Option<serde_json::Value> {
    tls.map(|t| json!({ "version": t.version, "cipher": t.cipher }))
}

fn action(verdict: &VerifyResponse) -> &'static str {
    match verdict.action() {
        Action::Accept => "accept",
        Action::Quarantine => "quarantine",
        Action::Reject => "reject",
        Action::Defer => "defer",
        Action::Unspecified => "action_unspecified",
    }
}

fn verdict_event(verdict: &VerifyResponse) -> Event {
    let action = action(verdict);
    let detail = json!({
        "action": action,
        "spf": verdict.spf,
        "dkim": verdict.dkim,
        "dmarc": verdict.dmarc,
        "arc": verdict.arc,
        "iprev": verdict.iprev,
        "override": verdict.r#override,
        "sealed": !verdict.arc_set.is_empty(),
        "from_domain": verdict.from_domain,
        "reason": verdict.reason,
        // With the signatures' domains and selectors: whoever asks why can look at their keys.
        "results": verdict.authentication_results.split_whitespace().collect::<Vec<_>>().join(" "),
    });
    Event {
        name: "verdict".into(),
        service: "auth-checker".into(),
        text: format!("{action}: spf={} dkim={} dmarc={}", verdict.spf, verdict.dkim, verdict.dmarc),
        detail: detail.to_string(),
        at_ms: jiff::Timestamp::now().as_millisecond(),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_header_copies_nothing() {
        let content = Content::new(vec![Bytes::from_static(b"A: b\r\n\r\nbody")]).expect("small");
        let pieces = assemble("P: q\r\n".into(), Cow::Borrowed(b"A: b\r\n\r\n"), &content);
        assert_eq!(pieces[1].as_ptr(), content.pieces()[0].as_ptr());
        let pieces = assemble(String::new(), Cow::Owned(b"\r\n".to_vec()), &content);
        assert_eq!(pieces.concat(), b"\r\nbody");
    }

    #[test]
    fn dates_are_rfc_5322() {
        let date = now();
        assert!(date.ends_with(" +0000"), "{date}");
        let parsed = jiff::fmt::rfc2822::parse(&date).expect("a date").timestamp();
        assert!((jiff::Timestamp::now().as_second() - parsed.as_second()).abs() < 600, "{date}");
    }
}
