//! The DNS records that a verdict rests on: SPF of the reverse-path, DKIM keys, the DMARC policy.

use std::collections::BTreeSet;

use dns::LookupError;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::messages::{one, trace};
use crate::{
    App,
    problem::Problem,
    route::{Call, Json, Nothing},
};

const MAX_NAMES: usize = 20;

#[derive(Serialize, JsonSchema)]
pub struct Record {
    /// `SPF`, `DKIM` or `DMARC`.
    mechanism: &'static str,
    name: String,
    /// What is published now; null when nothing is.
    value: Option<String>,
    /// Why it could not be looked up; empty when it could.
    error: String,
}

pub async fn show(call: Call, _: Nothing, _: Nothing) -> Result<Json<Vec<Record>>, Problem> {
    let app = &call.app;
    let message = one(app, call.caller()?, call.part("queue_id")).await?;
    let mut names: BTreeSet<(&'static str, String)> = BTreeSet::new();
    if let Some((_, domain)) = message.sender.rsplit_once('@') {
        names.insert(("SPF", domain.to_lowercase()));
    }
    for event in trace(app, &message.queue_id).await?.iter().filter(|e| e.name == "verdict") {
        let Ok(detail) = serde_json::from_str::<Value>(&event.detail) else { continue };
        // Without a policy of its own a domain has that of one above it (RFC 9989 tree walk).
        if let Some(domain) = detail["from_domain"].as_str().filter(|d| !d.is_empty()) {
            let labels: Vec<&str> = domain.split('.').collect();
            let above = (0..labels.len().saturating_sub(1)).map(|i| labels[i..].join("."));
            names.extend(above.take(4).map(|d| ("DMARC", format!("_dmarc.{}", d.to_lowercase()))));
        }
        names.extend(keys(detail["results"].as_str().unwrap_or_default()).into_iter().map(|name| ("DKIM", name)));
    }
    let asked = names.into_iter().take(MAX_NAMES).map(|(mechanism, name)| look_up(app, mechanism, name));
    let mut records: Vec<Record> = futures::future::join_all(asked).await;
    // Of the tree walk only what decides: the first that is there.
    let mut has_policy = false;
    records.sort_by_key(|r| (r.mechanism, std::cmp::Reverse(r.name.len())));
    records.retain(|r| {
        r.mechanism != "DMARC"
            || (!has_policy && r.value.is_some() && {
                has_policy = true;
                true
            })
            || !r.error.is_empty()
    });
    Ok(Json(records))
}

/// Names of the keys that `Authentication-Results` speaks of (RFC 8601 §2.7.1): each `header.s` belongs
/// to the `header.d` of the same result.
fn keys(results: &str) -> Vec<String> {
    let mut names = Vec::new();
    for result in results.split(';').filter(|r| r.trim_start().starts_with("dkim=")) {
        let value = |key: &str| result.split_whitespace().find_map(|word| word.strip_prefix(key));
        if let (Some(domain), Some(selector)) = (value("header.d="), value("header.s=")) {
            names.push(format!("{selector}._domainkey.{domain}").to_lowercase());
        }
    }
    names
}

async fn look_up(app: &App, mechanism: &'static str, name: String) -> Record {
    let version = match mechanism {
        "SPF" => "v=spf1",
        "DMARC" => "v=DMARC1",
        _ => "",
    };
    match app.resolver.txt(&name).await {
        Ok(texts) => {
            let mut texts = texts.iter().map(|t| String::from_utf8_lossy(t).into_owned());
            Record { mechanism, value: texts.find(|t| t.starts_with(version)), name, error: String::new() }
        }
        Err(LookupError::NoSuchName { .. } | LookupError::NoData { .. }) => {
            Record { mechanism, name, value: None, error: String::new() }
        }
        Err(error) => Record { mechanism, name, value: None, error: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signature_names_its_key() {
        let results = "Authentication-Results: mx.example; spf=pass smtp.mailfrom=a@x.example; \
                       dkim=pass header.d=X.example header.s=one header.b=abc; dkim=fail (wrong) header.d=y.example; \
                       dkim=pass header.s=two header.d=z.example; dmarc=pass header.from=x.example";
        assert_eq!(keys(results), ["one._domainkey.x.example", "two._domainkey.z.example"]);
        assert_eq!(keys("dkim=none"), [""; 0]);
    }
}
