use hickory_resolver::{
    net::{DnsError, NetError},
    proto::op::ResponseCode,
};

/// Why a question has no useful answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Transient: timeout, SERVFAIL; the zone or the server may recover.
    #[error("name server did not answer for {name}")]
    Unreachable {
        name: String,
        #[source]
        source: NetError,
    },
    /// Transient: the server will not look for it (REFUSED); a name server that only knows some
    /// zones says so for all others.
    #[error("name server refused to look up {name}")]
    Refused { name: String },
    /// Transient: the zone is signed, this answer is not as it should be (RFC 4035 §4.3).
    #[error("DNSSEC does not vouch for the answer about {name}")]
    Bogus { name: String },
    /// Permanent: NXDOMAIN (RFC 8020).
    #[error("{name} does not exist in the DNS")]
    NoSuchName { name: String },
    /// Permanent: the name exists, but has no record of the kind asked for.
    #[error("{name} has no {kind} record")]
    NoData { name: String, kind: &'static str },
    /// Permanent: cannot be asked at all.
    #[error("{name} is not a domain name")]
    InvalidName { name: String },
}

impl LookupError {
    /// Whether the same question may be answered later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { .. } | Self::Bogus { .. })
    }

    pub(crate) fn from_net(name: &str, kind: &'static str, source: NetError) -> Self {
        let name = name.to_owned();
        match &source {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::NoSuchName { name },
                ResponseCode::NoError => Self::NoData { name, kind },
                ResponseCode::Refused => Self::Refused { name },
                _ => Self::Unreachable { name, source },
            },
            NetError::Dns(DnsError::ResponseCode(ResponseCode::NXDomain)) => Self::NoSuchName { name },
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => Self::Refused { name },
            _ => Self::Unreachable { name, source },
        }
    }
}
