//! Where large bodies are, and how to get there.

use std::{path::Path as FilePath, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
};
use serde::Deserialize;

/// Keys below `content_store`. Without `url` all content is in Postgres.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `s3://bucket/prefix`, or `file:///folder` for one machine (or a file system that all machines share).
    /// Set once every `mda` has a version that knows it; what is stored there stays there.
    pub url: Option<String>,
    /// Of an S3 server that is not Amazon's, like `https://minio.example:9000`.
    pub endpoint: Option<String>,
    /// `AWS_REGION`, or us-east-1, when absent.
    pub region: Option<String>,
    /// Without keys: the variables `AWS_…`, a web identity (IRSA), or the node's role.
    pub access_key_id: Option<Secret>,
    pub secret_access_key: Option<Secret>,
    /// The bucket in the host name instead of the path.
    pub virtual_hosted: bool,
    /// Bodies below so many octets (compressed) stay in Postgres: they cost no further call.
    pub min_bytes: usize,
    /// Seconds for one object; then the store counts as away.
    pub timeout_seconds: u64,
    /// Seconds that an object outlives the last reference to it. A restored backup that is older may miss
    /// bodies: keep it above the age of the oldest backup that is to be of use.
    pub keep_seconds: u64,
    /// Seconds after which an object that no message refers to is taken for one of an Accept that never
    /// ended.
    pub orphan_seconds: u64,
    /// Seconds between two looks for these.
    pub sweep_seconds: u64,
}

/// Never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            virtual_hosted: false,
            min_bytes: 16 << 10,
            timeout_seconds: 20,
            keep_seconds: 14 * 86_400,
            orphan_seconds: 86_400,
            sweep_seconds: 600,
        }
    }
}

/// An opened place. Nothing was asked of it yet.
pub(super) struct Place {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: Path,
    /// Whether listings come in the order of names.
    pub is_sorted: bool,
}

impl Config {
    pub fn validate(&self) -> Result<(), String> {
        self.place()?;
        let bounds = [
            ("min_bytes", self.min_bytes as u64, 0, 128 << 20),
            ("timeout_seconds", self.timeout_seconds, 1, 300),
            ("keep_seconds", self.keep_seconds, 0, 10 * 365 * 86_400),
            // Twice what the database takes for new (migration 0120).
            ("orphan_seconds", self.orphan_seconds, 2 * 3_600, 365 * 86_400),
            ("sweep_seconds", self.sweep_seconds, 1, 7 * 86_400),
        ];
        for (key, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(format!("configuration key \"content_store.{key}\" = {value}: expected {least} to {most}"));
            }
        }
        Ok(())
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    pub(super) fn place(&self) -> Result<Option<Place>, String> {
        let Some(url) = &self.url else {
            return match self.endpoint {
                Some(_) => {
                    Err("configuration key \"content_store.url\" is missing: expected s3://bucket/prefix".into())
                }
                None => Ok(None),
            };
        };
        let wrong = |expected: &str| format!("configuration key \"content_store.url\" = {url:?}: expected {expected}");
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if bucket.is_empty() || !bucket.chars().all(is_name) {
                return Err(wrong("s3://bucket/prefix"));
            }
            let prefix = Path::parse(prefix).map_err(|_| wrong("s3://bucket/prefix without empty or strange parts"))?;
            let store = Arc::new(self.s3(bucket)?);
            return Ok(Some(Place { store, prefix, is_sorted: true }));
        }
        let Some(folder) = url.strip_prefix("file://").filter(|f| f.starts_with('/')) else {
            return Err(wrong("s3://bucket/prefix or file:///folder"));
        };
        if !FilePath::new(folder).is_dir() {
            return Err(wrong("a folder that is there"));
        }
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| wrong(&format!("a usable folder ({e})")))?;
        // Invariant 1: a file is there before the commit is.
        Ok(Some(Place { store: Arc::new(store.with_fsync(true)), prefix: Path::default(), is_sorted: false }))
    }

    fn s3(&self, bucket: &str) -> Result<object_store::aws::AmazonS3, String> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(id), Some(secret)) => {
                builder = builder.with_access_key_id(&id.0).with_secret_access_key(&secret.0);
            }
            (None, None) => {}
            _ => {
                return Err("configuration keys \"content_store.access_key_id\" and \
                            \"content_store.secret_access_key\": expected both or none"
                    .into());
            }
        }
        let mut plain = false;
        if let Some(endpoint) = &self.endpoint {
            plain = endpoint.starts_with("http://");
            let is_host = endpoint.split_once("://").is_some_and(|(_, host)| !host.trim_matches('/').is_empty());
            if !is_host || !(plain || endpoint.starts_with("https://")) {
                return Err(format!(
                    "configuration key \"content_store.endpoint\" = {endpoint:?}: expected https://host:port or \
                     http://host:port"
                ));
            }
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        let client = ClientOptions::new()
            .with_allow_http(plain)
            .with_connect_timeout(Duration::from_secs(3))
            .with_timeout(self.timeout());
        // What does not pass soon is our caller's to try again: a client waits at the other end.
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                ..BackoffConfig::default()
            },
            max_retries: 3,
            retry_timeout: self.timeout() / 2,
        };
        builder
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_client_options(client)
            .with_retry(retry)
            .build()
            .map_err(|e| format!("configuration key \"content_store\": {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        Config { url: Some(url.into()), ..Config::default() }
    }

    #[test]
    fn places_are_read_and_errors_name_the_key() {
        assert!(Config::default().validate().is_ok());
        let keys = |config: Config| Config {
            access_key_id: Some(Secret("id".into())),
            secret_access_key: Some(Secret("hidden".into())),
            ..config
        };
        let place = keys(config("s3://mail/site/one")).place().expect("s3").expect("a place");
        assert_eq!((place.prefix.as_ref(), place.is_sorted), ("site/one", true));
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("file://{}", folder.path().display());
        assert!(!config(&url).place().expect("file").expect("a place").is_sorted);
        for (wrong, key, expected) in [
            (config("s3://"), "content_store.url", "s3://bucket/prefix"),
            (config("s3://a b/"), "content_store.url", "s3://bucket/prefix"),
            (config("s3://a/b//c"), "content_store.url", "prefix"),
            (config("file://relative"), "content_store.url", "file:///folder"),
            (config("file:///not/there"), "content_store.url", "a folder that is there"),
            (config("gs://bucket"), "content_store.url", "s3://bucket/prefix or file:///folder"),
            (Config { endpoint: Some("http://x".into()), ..Config::default() }, "content_store.url", "missing"),
            (Config { endpoint: Some("minio:9000".into()), ..config("s3://m") }, "content_store.endpoint", "https://"),
            (
                Config { access_key_id: Some(Secret("id".into())), ..config("s3://m") },
                "content_store.secret_access_key",
                "both or none",
            ),
            (Config { orphan_seconds: 60, ..Config::default() }, "content_store.orphan_seconds", "7200"),
            (Config { timeout_seconds: 0, ..Config::default() }, "content_store.timeout_seconds", "1 to 300"),
        ] {
            let error = wrong.validate().expect_err(key);
            assert!(error.contains(key) && error.contains(expected), "{error}");
        }
        assert!(!format!("{:?}", keys(config("s3://mail"))).contains("hidden"), "secrets are not shown");
    }
}
