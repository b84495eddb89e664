//! Runs the checks of one message, as many at once as depend on each other's answers.

use std::{collections::HashSet, net::IpAddr};

use mail_auth::{
    ArcOutput, AuthenticatedMessage, AuthenticationResults, DkimOutput, DkimResult, DmarcOutput, Error,
    MessageAuthenticator, Parameters, SpfOutput, arc::ArcError, dmarc::verify::DmarcParameters,
    spf::verify::SpfParameters,
};

use crate::{
    arc,
    config::{Config, DnsFailure},
    dmarc::{MAX_AUTHOR_DOMAINS, Records, author_domains},
    findings::{self, Dmarc, Findings},
    observed::Observed,
    sign::Key,
    spf_syntax::Wrong,
    trailing_space, verdict,
};

/// A longer chain is not looked at; each set costs a lookup and an RSA operation.
const MAX_ARC_SETS: usize = 20;

/// Who brought the message, as the SMTP session knows it.
pub(crate) struct Session {
    pub peer: IpAddr,
    pub helo: String,
    /// Empty for the null reverse-path.
    pub reverse_path: String,
    pub authserv_id: String,
}

impl Session {
    /// The domain that SPF speaks about, and DMARC compares: of MAIL FROM, or HELO when the
    /// reverse-path is null (RFC 7208 §2.4).
    pub fn spf_domain(&self) -> &str {
        self.reverse_path.rsplit_once('@').map_or(&self.helo, |(_, domain)| domain)
    }
}

/// What is known about a message, and what follows from it.
pub(crate) struct Checked {
    pub findings: Findings,
    /// Empty when no seal was wanted or possible.
    pub arc_set: String,
    pub observed: Option<Observed>,
}

impl Checked {
    pub fn unknown() -> Self {
        Self { findings: Findings::unknown(), arc_set: String::new(), observed: None }
    }
}

pub(crate) struct Checker {
    resolver: dns::Resolver,
    authenticator: MessageAuthenticator,
    max_signatures: usize,
    dns_failure: DnsFailure,
    trusted_sealers: HashSet<String>,
    looks_at_names: bool,
}

impl Checker {
    pub fn new(resolver: dns::Resolver, config: &Config) -> Self {
        Self {
            authenticator: MessageAuthenticator(resolver.inner().clone()),
            resolver,
            max_signatures: config.max_signatures,
            dns_failure: config.dns_failure,
            trusted_sealers: config.trusted_arc_sealers.iter().map(|d| d.to_ascii_lowercase()).collect(),
            looks_at_names: config.iprev,
        }
    }

    /// Questions that another call was asking already.
    pub fn joined(&self) -> u64 {
        self.resolver.joined()
    }

    /// Never fails: what cannot be told is a result too.
    pub async fn check(&self, session: &Session, content: &[u8], seal: Option<(&str, &Key)>) -> Checked {
        let Some(mut message) = trailing_space::parse(content) else {
            // Without a single header field there is nothing that DKIM or DMARC could speak about.
            let ((spf, helo), iprev) = tokio::join!(self.spf(session), self.iprev(session));
            let findings = Findings {
                spf: findings::spf(spf.result()),
                spf_helo: findings::spf(helo.result()),
                signatures: Vec::new(),
                arc: None,
                vouched_by: None,
                iprev,
                dmarc: Dmarc { result: "none", domain: String::new(), policy: None },
            };
            return Checked { findings, arc_set: String::new(), observed: None };
        };
        let authors = author_domains(&message.from);
        self.bound_signatures(&mut message, &authors);

        let first_author = authors.first().map_or("", String::as_str);
        let signatures = async {
            self.fetch_keys(&message).await;
            self.authenticator.verify_dkim(Parameters::new(&message)).await
        };
        let (records, (spf, helo), dkim, chain, iprev) = tokio::join!(
            Records::walk(&self.resolver, first_author),
            self.spf(session),
            signatures,
            self.arc(&message),
            self.iprev(session),
        );

        let mut evaluated = None;
        let dmarc = match authors.as_slice() {
            [] => Dmarc { result: "none", domain: String::new(), policy: None },
            [author] => {
                let output = self.dmarc(&message, &records, &dkim, session, &spf).await;
                let dmarc = findings::dmarc(&output, author);
                evaluated = Some(output);
                dmarc
            }
            [_, ..] if authors.len() > MAX_AUTHOR_DOMAINS => {
                Dmarc { result: "permerror", domain: String::new(), policy: None }
            }
            [_, ..] => self.strictest(&message, &authors, records.clone(), &dkim, session, &spf).await,
        };
        let passed = chain.as_ref().is_some_and(|chain| *chain.result() == DkimResult::Pass);
        let findings = Findings {
            spf: findings::spf(spf.result()),
            spf_helo: findings::spf(helo.result()),
            signatures: dkim.iter().map(findings::signature).collect(),
            arc: chain.as_ref().map(|chain| findings::dkim(chain.result()).0),
            vouched_by: match (passed && dmarc.result == "fail", &authors[..]) {
                (true, [author]) => arc::vouched_by(&message, &self.trusted_sealers, author),
                _ => None,
            },
            iprev,
            dmarc,
        };
        let arc_set = seal.and_then(|(domain, key)| {
            let results = told(session, &spf, &dkim, first_author, evaluated.as_ref());
            arc::seal(content, &results, chain.as_ref(), domain, key.clone())
        });
        let observed = evaluated.and_then(|output| {
            let record = output.dmarc_record_cloned()?;
            Observed::new(records.domain_of(&record)?, &record, &output, session, &findings)
        });
        Checked { findings, arc_set: arc_set.unwrap_or_default(), observed }
    }

    /// Every author counts, or a second From address would switch DMARC off.
    async fn strictest(
        &self,
        message: &AuthenticatedMessage<'_>,
        authors: &[String],
        mut records: Records,
        dkim: &[DkimOutput<'_>],
        session: &Session,
        spf: &SpfOutput,
    ) -> Dmarc {
        let first = authors.first().map(String::as_str).unwrap_or_default();
        let mut all = Vec::new();
        for author in authors {
            let mut single = message.clone();
            single.from = vec![format!("author@{author}")];
            if author != first {
                records = Records::walk(&self.resolver, author).await;
            }
            let output = self.dmarc(&single, &records, dkim, session, spf).await;
            all.push(findings::dmarc(&output, author));
        }
        let none = Dmarc { result: "none", domain: first.to_owned(), policy: None };
        verdict::strictest(all, self.dns_failure).unwrap_or(none)
    }

    /// mail-auth asks the resolver itself; asked through ours first, the same key is fetched once
    /// for all messages that arrive together.
    async fn fetch_keys(&self, message: &AuthenticatedMessage<'_>) {
        let names: HashSet<String> =
            message.dkim_headers.iter().map(|h| format!("{}._domainkey.{}", h.header.s, h.header.d)).collect();
        let asked = names.iter().take(self.max_signatures).map(|name| self.resolver.txt(name));
        futures::future::join_all(asked).await;
    }

    async fn iprev(&self, session: &Session) -> Option<&'static str> {
        if !self.looks_at_names {
            return None;
        }
        let output = self.authenticator.verify_iprev(Parameters::new(session.peer)).await;
        Some(findings::iprev(output.result()))
    }

    /// MAIL FROM's result and HELO's; for the null reverse-path both are HELO's.
    async fn spf(&self, session: &Session) -> (SpfOutput, SpfOutput) {
        let (ip, helo, host) = (session.peer, session.helo.as_str(), session.authserv_id.as_str());
        let helo_check = async {
            let wrong = Wrong::find(&self.resolver, helo).await;
            let parameters = Parameters::new(SpfParameters::verify_ehlo(ip, helo, host));
            self.authenticator.verify_spf(parameters.with_txt_cache(&wrong)).await
        };
        if session.reverse_path.is_empty() {
            let output = helo_check.await;
            return (output.clone(), output);
        }
        let mail_from = async {
            let wrong = Wrong::find(&self.resolver, session.spf_domain()).await;
            let parameters = Parameters::new(SpfParameters::verify_mail_from(ip, helo, host, &session.reverse_path));
            self.authenticator.verify_spf(parameters.with_txt_cache(&wrong)).await
        };
        tokio::join!(mail_from, helo_check)
    }

    /// None when no ARC set is there.
    async fn arc<'x>(&self, message: &'x AuthenticatedMessage<'x>) -> Option<ArcOutput<'x>> {
        if message.as_headers.is_empty() && message.ams_headers.is_empty() && !message.has_arc_errors {
            return None;
        }
        if message.as_headers.len() > MAX_ARC_SETS {
            return Some(ArcOutput::default().with_result(DkimResult::Fail(Error::Arc(ArcError::ChainTooLong))));
        }
        Some(self.authenticator.verify_arc(Parameters::new(message)).await)
    }

    async fn dmarc<'x>(
        &self,
        message: &'x AuthenticatedMessage<'x>,
        records: &Records,
        dkim: &'x [DkimOutput<'x>],
        session: &'x Session,
        spf: &'x SpfOutput,
    ) -> DmarcOutput {
        let parameters = DmarcParameters::new(message, dkim, session.spf_domain(), spf);
        self.authenticator.verify_dmarc(Parameters::new(parameters).with_txt_cache(records)).await
    }

    /// Keeps the signatures that can help: those of an author's domain go before others.
    fn bound_signatures(&self, message: &mut AuthenticatedMessage<'_>, authors: &[String]) {
        let related = |domain: &str| {
            let domain = domain.to_ascii_lowercase();
            authors.iter().any(|a| is_within(a, &domain) || is_within(&domain, a))
        };
        if message.dkim_headers.len() > self.max_signatures {
            message.dkim_headers.sort_by_key(|header| !related(&header.header.d));
            message.dkim_headers.truncate(self.max_signatures);
        }
        // Unreadable ones are reported too; a few tell enough.
        message.errors.truncate(self.max_signatures);
    }
}

fn is_within(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What a seal says about our findings (RFC 8617 §4.1.1).
fn told<'x>(
    session: &'x Session,
    spf: &SpfOutput,
    dkim: &[DkimOutput<'_>],
    author: &str,
    dmarc: Option<&DmarcOutput>,
) -> AuthenticationResults<'x> {
    let results = AuthenticationResults::new(&session.authserv_id);
    let results = if session.reverse_path.is_empty() {
        results.with_spf_ehlo_result(spf, session.peer, &session.helo)
    } else {
        results.with_spf_mailfrom_result(spf, session.peer, &session.reverse_path, &session.helo)
    };
    let results = results.with_dkim_results(dkim, author);
    match dmarc {
        Some(output) => results.with_dmarc_result(output),
        None => results,
    }
}
