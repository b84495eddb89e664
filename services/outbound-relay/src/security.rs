//! Which transport security a host must offer: DANE (RFC 7672), then MTA-STS (RFC 8461), then
//! whatever it has (RFC 7435).

use dns::Answer;
use serde_json::json;

use crate::{
    Relay, dane,
    decision::Decision,
    lane::Lane,
    policy::RouteTls,
    sts::{Mode, Policy},
    sts_cache::Found,
    tls::Demand,
    tls_report::Subject,
};

/// For one host.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    pub start: Start,
    pub demand: Demand,
    /// What its success or failure is reported as.
    pub subject: Option<Subject>,
    /// The certificate is checked, and the host is who the domain meant (RFC 8689 §4.2.1).
    pub is_authenticated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Never,
    Opportunistic,
    Required,
}

/// What the domain says about all its hosts.
pub(crate) struct OfDomain {
    domain: String,
    sts: Found,
    /// The MX records are signed: only then can a host's TLSA records mean anything (RFC 7672 §2.2).
    is_signed: bool,
}

pub(crate) async fn of_domain(relay: &Relay, domain: &str) -> Result<OfDomain, Decision> {
    let mut of = OfDomain { domain: domain.to_owned(), sts: Found::default(), is_signed: false };
    if relay.config.dane && relay.secure.works().await {
        of.is_signed = relay
            .secure
            .mx_is_secure(domain)
            .await
            .map_err(|e| Decision::transient("4.7.5", format!("{e}: DANE cannot be ruled out")))?;
    }
    if relay.config.mta_sts {
        of.sts = relay.sts.policy(domain).await.map_err(|e| {
            tracing::warn!(error = %e, "MTA-STS policies cannot be asked");
            Decision::transient("4.3.0", "MTA-STS policies are not available now")
        })?;
        if let Some((result, words)) = &of.sts.trouble {
            let policy = json!({ "policy-type": "sts", "policy-domain": domain });
            relay.tls_results.failed(&Subject::new(domain, &policy), result, "", "", words);
        }
    }
    Ok(of)
}

impl OfDomain {
    /// An error means that this host must not be used now.
    pub async fn of_host(&self, relay: &Relay, host: &str, port: u16) -> Result<Security, Decision> {
        if let Some(dane) = self.dane(relay, host, port).await? {
            return Ok(dane);
        }
        let Some(policy) = &self.sts.policy else { return Ok(Security::opportunistic()) };
        let subject = Subject::new(&self.domain, &policy.report(&self.domain));
        if !policy.allows(host) {
            relay.tls_results.failed(&subject, "validation-failure", host, "", "host is not in the policy");
            if policy.mode == Mode::Enforce {
                let words = format!("{host} is not in the MTA-STS policy of {}", self.domain);
                return Err(Decision::transient("4.7.5", words));
            }
            return Ok(Security::opportunistic());
        }
        Ok(of_policy(policy, subject))
    }

    async fn dane(&self, relay: &Relay, host: &str, port: u16) -> Result<Option<Security>, Decision> {
        if !self.is_signed {
            return Ok(None);
        }
        let not_sure = |e: dns::LookupError| {
            let policy = json!({ "policy-type": "tlsa", "policy-domain": host });
            relay.tls_results.failed(&Subject::new(&self.domain, &policy), "dnssec-invalid", host, "", &e.to_string());
            Decision::transient("4.7.5", format!("{e}: DANE cannot be ruled out"))
        };
        if !relay.secure.address_is_secure(host).await.map_err(not_sure)? {
            return Ok(None);
        }
        let Answer::Secure(records) = relay.secure.tlsa(host, port).await.map_err(not_sure)? else { return Ok(None) };
        let usable = dane::usable(&records);
        let texts = records.iter().map(|r| {
            let data: String = r.data.iter().map(|b| format!("{b:02x}")).collect();
            format!("{} {} {} {data}", r.usage, r.selector, r.matching)
        });
        let policy = json!({
            "policy-type": "tlsa", "policy-domain": self.domain, "policy-string": texts.collect::<Vec<_>>(), "mx-host": [host],
        });
        let subject = Some(Subject::new(&self.domain, &policy));
        // RFC 7672 §2.2: records that nobody can use still promise TLS.
        if usable.is_empty() {
            let demand = Demand::Nothing;
            return Ok(Some(Security { start: Start::Required, demand, subject, is_authenticated: false }));
        }
        let names = vec![host.to_owned(), self.domain.clone()];
        let demand = Demand::Dane { records: usable, names };
        Ok(Some(Security { start: Start::Required, demand, subject, is_authenticated: true }))
    }
}

fn of_policy(policy: &Policy, subject: Subject) -> Security {
    let subject = Some(subject);
    match policy.mode {
        Mode::Enforce => Security { start: Start::Required, demand: Demand::Web, subject, is_authenticated: true },
        Mode::Testing | Mode::None => {
            Security { start: Start::Opportunistic, demand: Demand::Observe, subject, is_authenticated: false }
        }
    }
}

impl Security {
    pub fn opportunistic() -> Self {
        Self { start: Start::Opportunistic, demand: Demand::Nothing, subject: None, is_authenticated: false }
    }

    /// As the operator wants it for a route; credentials go over TLS only.
    pub fn of_route(tls: RouteTls, has_credentials: bool) -> Self {
        let (start, demand) = match tls {
            RouteTls::Never => (Start::Never, Demand::Nothing),
            RouteTls::Opportunistic if has_credentials => (Start::Required, Demand::Nothing),
            RouteTls::Opportunistic => (Start::Opportunistic, Demand::Nothing),
            RouteTls::Required => (Start::Required, Demand::Nothing),
            RouteTls::Verified => (Start::Required, Demand::Web),
        };
        Self { start, is_authenticated: demand == Demand::Web, demand, subject: None }
    }

    /// RFC 8689 §4.2.1: who demands TLS on the whole way also demands to know the host.
    pub fn permits(&self, lane: &Lane) -> Result<(), Decision> {
        if lane.require_tls && !self.is_authenticated {
            let words = "message requires TLS, and neither DANE nor MTA-STS vouches for the host";
            return Err(Decision::permanent("5.7.30", words));
        }
        Ok(())
    }
}
