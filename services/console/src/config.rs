use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use listener::ListenerConfig;
use runtime::grpc::Peers;
use serde::Deserialize;

use crate::caller::Role;

/// Every key of the section `console`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub runtime: runtime::Config,
    /// The HTTP port. With `listener.tls_cert` it is HTTPS.
    pub listen: SocketAddr,
    /// Certificates, PROXY networks, connection limits.
    pub listener: ListenerConfig,
    /// Where browsers find us, such as `https://console.example.com`: for the OpenID Connect
    /// redirect, and cookies that only go over TLS. Absent: `http://` and `listen`.
    pub public_url: Option<String>,
    /// Our host name, as MX records should point to it.
    pub hostname: String,
    /// `mda`, its roles admin and journey.
    pub mda: Peers,
    /// Seconds that `mda` may take for an answer.
    pub call_seconds: u64,
    /// Name servers, for what domains have published.
    pub dns: dns::Config,
    /// Submission with implicit TLS (465) as `host:port`: what Send on the Email Journey page uses.
    /// Absent: it is not offered.
    pub submission: Option<String>,
    /// The MX port (25) as `host:port`: where the page sends as a stranger. Absent: it is not offered.
    pub mx: Option<String>,
    /// The name in the certificate of `submission`; its host when absent.
    pub submission_name: Option<String>,
    /// PEM file of the CA that `submission`'s certificate is from; the public ones when absent.
    pub submission_ca: Option<PathBuf>,
    /// Where a trace is shown: a URL with `{trace_id}` in it, such as Grafana's.
    pub trace_url: Option<String>,
    /// Consoles of other sites of the same operator: journeys go on there.
    pub sites: Vec<Site>,
    /// Hours after which a browser must log in again.
    pub session_hours: u64,
    /// Event streams at a time, in this process (503).
    pub max_streams: usize,
    /// Login by an OpenID Connect issuer. Absent: by token alone.
    pub oidc: Option<Oidc>,
}

/// Another site, entry of `sites`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Mail for this domain goes there.
    pub domain: String,
    /// Its console: `https://console.example.com`.
    pub url: String,
    /// A file with a token of it; the role support is enough.
    pub token_file: PathBuf,
    /// PEM file of the CA that its certificate is from; the public ones when absent.
    pub ca_file: Option<PathBuf>,
}

/// Keys below `oidc`: authorization code flow with PKCE (OpenID Connect Core §3.1, RFC 7636).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// Its discovery document is below it. `https`, or `http` on a loopback address.
    pub issuer: String,
    pub client_id: String,
    /// A file with the client's secret; absent for a public client.
    pub client_secret_file: Option<PathBuf>,
    /// PEM file of the CA that the issuer's certificate is from; the public ones when absent.
    pub ca_file: Option<PathBuf>,
    /// The claim that says what somebody may do: a string or a list of them.
    #[serde(default = "groups")]
    pub role_claim: String,
    /// From a value of that claim to what it allows. Who has none of them is not let in.
    pub roles: BTreeMap<String, Grant>,
    /// Further scopes to ask for, besides `openid`.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `operator`, `tenant-admin` or `support`.
    pub role: Role,
    /// Whose mail; absent: all tenants, which a tenant-admin cannot have.
    #[serde(default)]
    pub tenant: String,
}

fn groups() -> String {
    "groups".into()
}

fn scopes() -> Vec<String> {
    ["profile", "email", "groups"].map(String::from).to_vec()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: runtime::Config::default(),
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            listener: ListenerConfig::default(),
            public_url: None,
            hostname: "localhost".into(),
            mda: SocketAddr::from(([127, 0, 0, 1], 9400)).into(),
            call_seconds: 20,
            dns: dns::Config::default(),
            submission: None,
            mx: None,
            submission_name: None,
            submission_ca: None,
            trace_url: None,
            sites: Vec::new(),
            session_hours: 12,
            max_streams: 256,
            oidc: None,
        }
    }
}

impl Config {
    pub(crate) fn call_timeout(&self) -> Duration {
        Duration::from_secs(self.call_seconds)
    }

    /// Without a final slash.
    pub(crate) fn base_url(&self) -> String {
        let scheme = if self.listener.tls_cert.is_some() { "https" } else { "http" };
        let own = || format!("{scheme}://{}", self.listen);
        self.public_url.clone().unwrap_or_else(own).trim_end_matches('/').to_owned()
    }

    /// Whether cookies may demand TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.base_url().starts_with("https://")
    }
}

fn is_web(url: &str) -> bool {
    let uri = url.parse::<hyper::Uri>();
    uri.is_ok_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some_and(|h| !h.is_empty()))
}

/// What comes over plain HTTP could come from anybody, unless it never leaves the machine.
fn is_trusted(url: &str) -> bool {
    let Ok(uri) = url.parse::<hyper::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
    is_web(url) && (uri.scheme_str() == Some("https") || is_loopback)
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        for (key, value) in [("call_seconds", self.call_seconds), ("session_hours", self.session_hours)] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        for (key, value) in [("public_url", &self.public_url), ("trace_url", &self.trace_url)] {
            let plain = value.as_ref().map(|v| v.replace(['{', '}'], ""));
            if let Some(url) = plain.filter(|url| !is_web(url)) {
                return Err(format!("configuration key {key:?} = {url:?}: expected https://host/path"));
            }
        }
        for (key, value) in [("submission", &self.submission), ("mx", &self.mx)] {
            if let Some(place) = value.as_ref().filter(|p| Peers::try_from((*p).clone()).is_err()) {
                return Err(format!("configuration key {key:?} = {place:?}: expected host:port"));
            }
        }
        if let Some(site) = self.sites.iter().find(|s| !is_trusted(&s.url)) {
            return Err(format!(
                "configuration key \"sites.url\" = {:?}: expected https://host, or http on a loopback address",
                site.url
            ));
        }
        match &self.oidc {
            Some(oidc) => oidc.validate(),
            None => Ok(()),
        }
    }
}

impl Oidc {
    fn validate(&self) -> Result<(), String> {
        if !is_trusted(&self.issuer) {
            return Err(format!(
                "configuration key \"oidc.issuer\" = {:?}: expected https://host, or http on a loopback address",
                self.issuer
            ));
        }
        if self.roles.is_empty() {
            return Err("configuration key \"oidc.roles\" is empty: expected at least one, or nobody can log in".into());
        }
        for (value, grant) in &self.roles {
            let wrong = match (grant.role, grant.tenant.is_empty()) {
                (Role::TenantAdmin, true) => "a tenant-admin needs a tenant",
                (Role::Operator, false) => "an operator has no tenant",
                _ => continue,
            };
            return Err(format!("configuration key \"oidc.roles.{value}\": {wrong}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use runtime::ServiceConfig as _;

    use super::*;

    fn oidc(issuer: &str, grant: Grant) -> Config {
        let oidc = Oidc {
            issuer: issuer.into(),
            client_id: "console".into(),
            client_secret_file: None,
            ca_file: None,
            role_claim: groups(),
            roles: [("staff".to_owned(), grant)].into(),
            scopes: scopes(),
        };
        Config { oidc: Some(oidc), ..Config::default() }
    }

    #[test]
    fn wrong_values_are_named_with_what_was_expected() {
        let support = || Grant { role: Role::Support, tenant: String::new() };
        let cases = [
            (Config { call_seconds: 0, ..Config::default() }, "call_seconds"),
            (Config { public_url: Some("console".into()), ..Config::default() }, "public_url"),
            (Config { submission: Some("mail".into()), ..Config::default() }, "host:port"),
            (oidc("http://id.example.com", support()), "https://host"),
            (
                oidc("https://id.example.com", Grant { role: Role::TenantAdmin, tenant: String::new() }),
                "needs a tenant",
            ),
            (oidc("https://id.example.com", Grant { role: Role::Operator, tenant: "a".into() }), "no tenant"),
        ];
        for (config, words) in cases {
            let error = config.validate().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(oidc("http://127.0.0.1:9", support()).validate(), Ok(()));
        assert_eq!(
            Config { trace_url: Some("https://g/x?t={trace_id}".into()), ..Config::default() }.validate(),
            Ok(())
        );
    }

    #[test]
    fn cookies_are_secure_where_browsers_use_tls() {
        assert!(!Config::default().is_secure());
        assert!(Config { public_url: Some("https://console.example.com/".into()), ..Config::default() }.is_secure());
    }
}
