//! Rspamd's HTTP protocol: the message goes to `/checkv2`, an action comes back.

use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::{
    Request, Uri,
    body::Frame,
    header::{CONTENT_LENGTH, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use proto::spool::Event;
use serde::Deserialize;
use serde_json::json;

use crate::{config::Scan, content::Content, receive::Arrival, refusal::Refusal};

const MAX_ANSWER: usize = 1 << 20;

pub struct Scanner {
    config: Scan,
    uri: Uri,
}

/// What was found, for the mailbox and the journey.
pub struct Scanned {
    pub is_junk: bool,
    pub event: Event,
    action: String,
}

/// Of Rspamd's answer what concerns us.
#[derive(Debug, Deserialize)]
struct Answer {
    action: String,
    #[serde(default)]
    score: f64,
    #[serde(default)]
    required_score: f64,
    #[serde(default)]
    symbols: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

impl Scanner {
    /// The URL was checked with the configuration.
    pub fn new(config: Scan) -> Self {
        let uri = config.rspamd_url.parse().unwrap_or_default();
        Self { config, uri }
    }

    pub fn fails_open(&self) -> bool {
        self.config.fail_open
    }

    pub async fn scan(&self, arrival: &Arrival<'_>, content: &Content) -> anyhow::Result<Scanned> {
        let limit = Duration::from_secs(self.config.timeout_seconds);
        let answer = tokio::time::timeout(limit, self.ask(arrival, content)).await.context("no answer in time")??;
        Ok(scanned(answer))
    }

    async fn ask(&self, arrival: &Arrival<'_>, content: &Content) -> anyhow::Result<Answer> {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let tcp = tokio::net::TcpStream::connect((host, self.uri.port_u16().unwrap_or(80))).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let driver = tokio::spawn(connection);
        let pieces =
            content.pieces().to_vec().into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
        let body = StreamBody::new(futures::stream::iter(pieces));
        let mut request = Request::post("/checkv2").header(CONTENT_LENGTH, content.len()).body(body)?;
        let mut add = |name: &'static str, value: &str| {
            // What is no header value, such as an address in UTF-8, Rspamd does without.
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().append(HeaderName::from_static(name), value);
            }
        };
        add("host", self.uri.authority().map_or("", |a| a.as_str()));
        add("ip", &arrival.peer.to_string());
        add("helo", &arrival.hello.name);
        add("from", &arrival.transaction.reverse_path());
        arrival.transaction.recipients().for_each(|r| add("rcpt", r));
        add("queue-id", &arrival.transaction.queue_id.to_string());
        if let Some(account) = arrival.account {
            add("user", &account.address);
        }
        let answer = sender.send_request(request).await?;
        anyhow::ensure!(answer.status().is_success(), "Rspamd answered {}", answer.status());
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        driver.abort();
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }
}

fn scanned(answer: Answer) -> Scanned {
    let symbols: Vec<&String> = answer.symbols.keys().collect();
    let detail = json!({
        "action": answer.action,
        "score": answer.score,
        "required_score": answer.required_score,
        "symbols": symbols,
    });
    Scanned {
        is_junk: matches!(answer.action.as_str(), "add header" | "rewrite subject"),
        event: Event {
            name: "scanned".into(),
            service: "smtp-ingress".into(),
            text: format!("{}: score {:.1} of {:.1}", answer.action, answer.score, answer.required_score),
            detail: detail.to_string(),
            ..Event::default()
        },
        action: answer.action,
    }
}

impl Scanned {
    /// Rspamd's actions, as far as they are refusals.
    pub fn judge(self) -> Result<Self, Refusal> {
        match self.action.as_str() {
            "reject" => Err(Refusal::spam()),
            "soft reject" | "greylist" => Err(Refusal::scan_deferred()),
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(action: &str) -> Result<bool, &'static str> {
        let text =
            format!("{{\"action\":\"{action}\",\"score\":7.5,\"required_score\":15.0,\"symbols\":{{\"A\":{{}}}}}}");
        let answer = serde_json::from_str(&text).expect("an answer");
        scanned(answer).judge().map(|s| s.is_junk).map_err(|r| r.reason)
    }

    #[test]
    fn actions() {
        assert_eq!(outcome("no action"), Ok(false));
        assert_eq!(outcome("add header"), Ok(true));
        assert_eq!(outcome("rewrite subject"), Ok(true));
        assert_eq!(outcome("reject"), Err("spam"));
        assert_eq!(outcome("soft reject"), Err("scan_deferred"));
        assert_eq!(outcome("greylist"), Err("scan_deferred"));
    }
}
