//! Answers that DNSSEC vouches for (RFC 4035), as DANE needs them (RFC 7672 §2.1).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    lookup::Lookup,
    net::{DnsError, NetError},
    proto::{
        dnssec::{Proof, TrustAnchors},
        rr::{Name, RData, RecordType},
    },
};
use tokio::sync::Mutex;

use crate::{
    BuildError, Config, LookupError,
    resolver::{absolute, build},
};

/// So often it is tried whether signatures come through at all.
const PROBE_EVERY: Duration = Duration::from_secs(300);

/// What a zone says, and whether it can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    Secure(T),
    /// The zone is provably not signed.
    Insecure,
    /// There is no such record.
    None,
}

/// A TLSA record (RFC 6698 §2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlsa {
    pub usage: u8,
    pub selector: u8,
    pub matching: u8,
    pub data: Vec<u8>,
}

/// A validating stub resolver with a cache of its own; clones share it.
///
/// Its errors are transient: a bogus answer may be an attack or a zone in trouble, and neither
/// may cost mail or its protection (RFC 7672 §2.1.1).
#[derive(Clone)]
pub struct SecureResolver {
    inner: TokioResolver,
    works: Arc<AtomicBool>,
    probed: Arc<Mutex<Option<Instant>>>,
}

impl SecureResolver {
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        let anchors = match &config.trust_anchor {
            Some(file) => TrustAnchors::from_file(file)
                .map_err(|e| BuildError::TrustAnchor { file: file.display().to_string(), words: e.to_string() })?,
            None => TrustAnchors::default(),
        };
        let inner = build(config, Some(Arc::new(anchors)))?;
        Ok(Self { inner, works: Arc::default(), probed: Arc::default() })
    }

    /// Whether signatures have ever come through to us. Once they did, it stays so: then a name
    /// server that drops them is no reason to go without.
    pub async fn works(&self) -> bool {
        if self.works.load(Ordering::Relaxed) {
            return true;
        }
        let mut probed = self.probed.lock().await;
        if self.works.load(Ordering::Relaxed) || probed.is_some_and(|at| at.elapsed() < PROBE_EVERY) {
            return self.works.load(Ordering::Relaxed);
        }
        *probed = Some(Instant::now());
        let works = match self.inner.lookup(Name::root(), RecordType::DNSKEY).await {
            Ok(keys) => keys.answers().iter().any(|k| k.record_type() == RecordType::DNSKEY && k.proof.is_secure()),
            Err(e) => {
                tracing::debug!(error = %e, "the root's keys");
                false
            }
        };
        if works {
            tracing::info!("DNSSEC works");
        } else {
            tracing::warn!("no DNSSEC signatures from the name servers: DANE is off until there are");
        }
        self.works.store(works, Ordering::Relaxed);
        works
    }

    /// Whether the MX records of `domain` are signed.
    pub async fn mx_is_secure(&self, domain: &str) -> Result<bool, LookupError> {
        match self.lookup(domain, RecordType::MX, "MX").await? {
            Answer::Secure(_) => Ok(true),
            Answer::Insecure => Ok(false),
            // The implicit MX: its address decides.
            Answer::None => self.address_is_secure(domain).await,
        }
    }

    /// RFC 7672 §2.2.2: a host whose addresses are not signed is not asked for TLSA records.
    pub async fn address_is_secure(&self, host: &str) -> Result<bool, LookupError> {
        for kind in [RecordType::A, RecordType::AAAA] {
            match self.lookup(host, kind, "address").await? {
                Answer::Secure(_) => return Ok(true),
                Answer::Insecure => return Ok(false),
                Answer::None => {}
            }
        }
        Ok(false)
    }

    /// The TLSA records of a host's port; unsigned ones do not count.
    pub async fn tlsa(&self, host: &str, port: u16) -> Result<Answer<Vec<Tlsa>>, LookupError> {
        let name = format!("_{port}._tcp.{host}");
        let Answer::Secure(answer) = self.lookup(&name, RecordType::TLSA, "TLSA").await? else {
            return Ok(Answer::None);
        };
        let records: Vec<Tlsa> = answer
            .answers()
            .iter()
            .filter(|record| record.proof.is_secure())
            .filter_map(|record| match &record.data {
                RData::TLSA(tlsa) => Some(Tlsa {
                    usage: tlsa.cert_usage.into(),
                    selector: tlsa.selector.into(),
                    matching: tlsa.matching.into(),
                    data: tlsa.cert_data.clone(),
                }),
                _ => None,
            })
            .collect();
        Ok(if records.is_empty() { Answer::None } else { Answer::Secure(records) })
    }

    async fn lookup(&self, name: &str, record: RecordType, kind: &'static str) -> Result<Answer<Lookup>, LookupError> {
        match self.inner.lookup(absolute(name)?, record).await {
            Ok(answer) => {
                let proofs = answer.answers().iter().filter(|r| r.record_type() != RecordType::RRSIG).map(|r| r.proof);
                match proofs.min() {
                    None => Ok(Answer::None),
                    Some(Proof::Secure) => Ok(Answer::Secure(answer)),
                    Some(Proof::Insecure) => Ok(Answer::Insecure),
                    Some(Proof::Bogus | Proof::Indeterminate) => Err(LookupError::Bogus { name: name.to_owned() }),
                }
            }
            Err(NetError::Dns(DnsError::Nsec { proof: Proof::Insecure, .. })) => Ok(Answer::None),
            Err(NetError::Dns(DnsError::Nsec { .. } | DnsError::DnssecBogus)) => {
                Err(LookupError::Bogus { name: name.to_owned() })
            }
            Err(source) => match LookupError::from_net(name, kind, source) {
                LookupError::NoData { .. } | LookupError::NoSuchName { .. } => Ok(Answer::None),
                other => Err(other),
            },
        }
    }
}
