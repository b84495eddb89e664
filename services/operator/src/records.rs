//! Where published records are looked up; judged by [`dns::published`].

use dns::LookupError;
pub use dns::published::{State, Wanted, compare};

/// Where records are looked up.
#[tonic::async_trait]
pub trait Zone: Send + Sync {
    /// Texts of the TXT records; none is an empty list.
    async fn txt(&self, name: &str) -> Result<Vec<String>, LookupError>;
    /// Hosts of the MX records; none is an empty list.
    async fn mx(&self, name: &str) -> Result<Vec<String>, LookupError>;
}

#[tonic::async_trait]
impl Zone for dns::Resolver {
    async fn txt(&self, name: &str) -> Result<Vec<String>, LookupError> {
        let texts = none_is_empty(dns::Resolver::txt(self, name).await)?;
        Ok(texts.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect())
    }

    async fn mx(&self, name: &str) -> Result<Vec<String>, LookupError> {
        let records = none_is_empty(dns::Resolver::mx(self, name).await)?;
        Ok(records.into_iter().map(|mx| mx.host).collect())
    }
}

fn none_is_empty<T>(answer: Result<Vec<T>, LookupError>) -> Result<Vec<T>, LookupError> {
    match answer {
        Err(LookupError::NoSuchName { .. } | LookupError::NoData { .. }) => Ok(Vec::new()),
        answer => answer,
    }
}
