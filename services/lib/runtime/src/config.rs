//! Configuration: defaults, then one YAML file, then the environment.
//!
//! The file has a section for each service, so that one file can serve all of them:
//! ```yaml
//! smtp-ingress:
//!   hostname: mx.example.com
//!   runtime: { log: debug }
//! ```
//! and `POSTROAD_HOSTNAME=mx.example.com POSTROAD_RUNTIME__LOG=debug` says the same.

use std::{net::SocketAddr, num::NonZeroU16, path::Path};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format as _},
};
use serde::Deserialize;

/// A service's own configuration: `#[serde(default, deny_unknown_fields)]` with a field
/// `runtime: runtime::Config`.
pub trait ServiceConfig: serde::de::DeserializeOwned + Send + 'static {
    fn runtime(&self) -> &Config;

    /// What types cannot say: relations between keys. Names the key, the value, what was expected.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Keys below `runtime`, the same for every service.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `/livez`, `/readyz`, `/metrics`.
    pub http_listen: SocketAddr,
    /// Filter of log lines and spans, as in `RUST_LOG` (which goes before it).
    pub log: String,
    /// OTLP over gRPC, such as `http://tempo:4317`. `OTEL_EXPORTER_OTLP_ENDPOINT` when absent;
    /// without either, traces are not exported.
    pub otlp_endpoint: Option<String>,
    /// Share of messages whose trace is exported, 0 to 1; of the others what went wrong.
    pub trace_ratio: f64,
    /// Seconds to finish running work after SIGTERM.
    pub drain_seconds: u64,
    /// Threads that run sessions; when absent half as many as there are cores, at least one.
    pub worker_threads: Option<NonZeroU16>,
    /// Certificates for calls between services; plain text when absent.
    pub grpc_tls: Option<crate::grpc::TlsFiles>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http_listen: SocketAddr::from(([0, 0, 0, 0], 9100)),
            log: "info".into(),
            otlp_endpoint: None,
            trace_ratio: 1.0,
            drain_seconds: 30,
            worker_threads: None,
            grpc_tls: None,
        }
    }
}

/// Names the key, its value and what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Reads the section `name` of the file, and the environment over it.
pub fn load<C: ServiceConfig>(name: &str, file: Option<&Path>) -> Result<C, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("configuration file {}: {e}", path.display())))?;
        let whole = Figment::from(serde_saphyr::figment::Yaml::string(&text));
        // A file without our section is fine: all defaults.
        if whole.contains(name) {
            figment = figment.merge(whole.focus(name));
        }
        whole.extract::<figment::value::Dict>().map_err(|e| ConfigError(format!("{}: {e}", path.display())))?;
    }
    read(figment.merge(Env::prefixed("POSTROAD_").ignore(&["config"]).split("__")))
}

fn read<C: ServiceConfig>(figment: Figment) -> Result<C, ConfigError> {
    let config: C = figment.extract().map_err(|e| {
        let all: Vec<String> = e.into_iter().map(|one| describe(&figment, &one)).collect();
        ConfigError(all.join("; "))
    })?;
    let share = config.runtime().trace_ratio;
    if !(0.0..=1.0).contains(&share) {
        return Err(ConfigError(format!("configuration key \"runtime.trace_ratio\" = {share}: expected 0 to 1")));
    }
    config.validate().map_err(ConfigError)?;
    Ok(config)
}

fn describe(figment: &Figment, error: &figment::Error) -> String {
    let key = error.path.join(".");
    let value = figment
        .find_value(&key)
        .ok()
        .and_then(|v| v.deserialize::<figment::value::Value>().ok())
        .map(|v| format!(" = {}", shown(&v)))
        .unwrap_or_default();
    let source = error.metadata.as_ref().map(|m| format!(" (from {})", m.name)).unwrap_or_default();
    match &error.kind {
        Kind::UnknownField(field, expected) => {
            format!("configuration key {field:?} is unknown, expected one of {}{source}", expected.join(", "))
        }
        kind => format!("configuration key {key:?}{value}: {kind}{source}"),
    }
}

fn shown(value: &figment::value::Value) -> String {
    use figment::value::Value;
    match value {
        Value::String(_, s) => format!("{s:?}"),
        Value::Num(_, n) => {
            n.to_i128().map(|i| i.to_string()).or_else(|| n.to_f64().map(|f| f.to_string())).unwrap_or_default()
        }
        Value::Bool(_, b) => b.to_string(),
        Value::Array(_, a) => format!("[{}]", a.iter().map(shown).collect::<Vec<_>>().join(", ")),
        _ => "…".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        port: u16,
        listen: Option<SocketAddr>,
        runtime: Config,
    }

    impl ServiceConfig for Sample {
        fn runtime(&self) -> &Config {
            &self.runtime
        }
        fn validate(&self) -> Result<(), String> {
            if self.port == 1 { Err("configuration key \"port\" = 1: expected another".into()) } else { Ok(()) }
        }
    }

    fn load(yaml: &str) -> Result<Sample, String> {
        read(Figment::from(serde_saphyr::figment::Yaml::string(yaml))).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_nested_keys_and_keeps_defaults() {
        let c = load("port: 25\nruntime: { drain_seconds: 5 }").expect("valid");
        assert_eq!((c.port, c.runtime.drain_seconds, c.runtime.log.as_str()), (25, 5, "info"));
    }

    #[test]
    fn an_error_names_key_value_and_expectation() {
        let wrong_type = load("port: twenty").expect_err("not a number");
        for part in ["\"port\"", "\"twenty\"", "u16"] {
            assert!(wrong_type.contains(part), "{wrong_type}");
        }
        let unknown = load("prot: 25").expect_err("a typo");
        for part in ["\"prot\"", "port"] {
            assert!(unknown.contains(part), "{unknown}");
        }
        let syntax = load("listen: nowhere").expect_err("no address");
        for part in ["\"listen\"", "nowhere", "socket address"] {
            assert!(syntax.contains(part), "{syntax}");
        }
        assert!(load("runtime: { trace_ratio: 2 }").expect_err("a share").contains("expected 0 to 1"));
        assert!(load("port: 1").expect_err("relation").contains("expected another"));
    }
}
