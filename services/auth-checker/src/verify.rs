//! Runs the checks of one message, as many at once as depend on each other's answers.

use std::net::IpAddr;

use mail_auth::{
    AuthenticatedMessage, DkimOutput, MessageAuthenticator, Parameters, SpfOutput, dmarc::verify::DmarcParameters,
    spf::verify::SpfParameters,
};

use crate::{
    config::DnsFailure,
    dmarc::{MAX_AUTHOR_DOMAINS, Records, author_domains},
    findings::{self, Dmarc, Findings},
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
    fn spf_domain(&self) -> &str {
        self.reverse_path.rsplit_once('@').map_or(&self.helo, |(_, domain)| domain)
    }
}

pub(crate) struct Checker {
    resolver: dns::Resolver,
    authenticator: MessageAuthenticator,
    max_signatures: usize,
    dns_failure: DnsFailure,
}

impl Checker {
    pub fn new(resolver: dns::Resolver, max_signatures: usize, dns_failure: DnsFailure) -> Self {
        let authenticator = MessageAuthenticator(resolver.inner().clone());
        Self { resolver, authenticator, max_signatures, dns_failure }
    }

    /// Never fails: what cannot be told is a result too.
    pub async fn check(&self, session: &Session, content: &[u8]) -> Findings {
        let message = trailing_space::parse(content);
        let Some(mut message) = message else {
            // Without a single header field there is nothing that DKIM or DMARC could speak about.
            let (spf, helo) = self.spf(session).await;
            return Findings {
                spf: findings::spf(spf.result()),
                spf_helo: findings::spf(helo.result()),
                signatures: Vec::new(),
                arc: None,
                dmarc: Dmarc { result: "none", domain: String::new(), policy: None },
            };
        };
        let authors = author_domains(&message.from);
        self.bound_signatures(&mut message, &authors);

        let first_author = authors.first().map_or("", String::as_str);
        let (mut records, (spf, helo), dkim, arc) = tokio::join!(
            Records::walk(&self.resolver, first_author),
            self.spf(session),
            self.authenticator.verify_dkim(Parameters::new(&message)),
            self.arc(&message),
        );

        let dmarc = match authors.as_slice() {
            [] => Dmarc { result: "none", domain: String::new(), policy: None },
            [author] => self.dmarc(&message, author, &records, &dkim, session, &spf).await,
            [_, ..] if authors.len() > MAX_AUTHOR_DOMAINS => {
                Dmarc { result: "permerror", domain: String::new(), policy: None }
            }
            [_, ..] => {
                // Every author counts, or a second From address would switch DMARC off.
                let mut all = Vec::new();
                for author in &authors {
                    let mut single = message.clone();
                    single.from = vec![format!("author@{author}")];
                    if author != first_author {
                        records = Records::walk(&self.resolver, author).await;
                    }
                    all.push(self.dmarc(&single, author, &records, &dkim, session, &spf).await);
                }
                let none = Dmarc { result: "none", domain: first_author.to_owned(), policy: None };
                verdict::strictest(all, self.dns_failure).unwrap_or(none)
            }
        };
        Findings {
            spf: findings::spf(spf.result()),
            spf_helo: findings::spf(helo.result()),
            signatures: dkim.iter().map(findings::signature).collect(),
            arc,
            dmarc,
        }
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

    /// Information only: no sealer is trusted to overrule DMARC.
    async fn arc(&self, message: &AuthenticatedMessage<'_>) -> Option<&'static str> {
        if message.as_headers.is_empty() && message.ams_headers.is_empty() && !message.has_arc_errors {
            return None;
        }
        if message.as_headers.len() > MAX_ARC_SETS {
            return Some("fail");
        }
        let output = self.authenticator.verify_arc(Parameters::new(message)).await;
        Some(findings::dkim(output.result()).0)
    }

    async fn dmarc<'x>(
        &self,
        message: &'x AuthenticatedMessage<'x>,
        author: &str,
        records: &Records,
        dkim: &'x [DkimOutput<'x>],
        session: &'x Session,
        spf: &'x SpfOutput,
    ) -> Dmarc {
        let parameters = DmarcParameters::new(message, dkim, session.spf_domain(), spf);
        let output = self.authenticator.verify_dmarc(Parameters::new(parameters).with_txt_cache(records)).await;
        findings::dmarc(&output, author)
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
