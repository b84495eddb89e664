//! Who calls, and what they may do.

use address::{Address, Domain};
use axum::http::{HeaderMap, Method, header};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::console::{CheckTokenRequest, ListDomainsRequest, Role as Wire, Token};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{App, problem::Problem};

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, of all tenants.
    Operator,
    /// Accounts, aliases, queue, quarantine and tokens of one tenant.
    TenantAdmin,
    /// Looks, changes nothing.
    Support,
}

impl Role {
    pub fn of_wire(role: Wire) -> Option<Self> {
        match role {
            Wire::Operator => Some(Self::Operator),
            Wire::TenantAdmin => Some(Self::TenantAdmin),
            Wire::Support => Some(Self::Support),
            Wire::Unspecified => None,
        }
    }

    pub fn to_wire(self) -> Wire {
        match self {
            Self::Operator => Wire::Operator,
            Self::TenantAdmin => Wire::TenantAdmin,
            Self::Support => Wire::Support,
        }
    }
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: what must be known before login.
    Anybody,
    /// Any role.
    Look,
    /// Operators, and tenant admins in their tenant.
    Manage,
    /// Operators.
    Operate,
}

impl Access {
    pub fn allows(self, role: Role) -> bool {
        match self {
            Self::Anybody | Self::Look => true,
            Self::Manage => matches!(role, Role::Operator | Role::TenantAdmin),
            Self::Operate => role == Role::Operator,
        }
    }
}

/// Somebody who showed a token or a session.
#[derive(Debug, Clone)]
pub struct Caller {
    pub id: String,
    pub name: String,
    pub role: Role,
    /// Empty: all tenants.
    pub tenant: String,
    pub is_session: bool,
    /// What a browser's script must show with every change.
    pub csrf: String,
}

/// The cookie that holds a session's secret.
pub const COOKIE: &str = "postroad_session";
/// The header that proves a change to come from our own page: no other site's can read its value.
pub const CSRF_HEADER: &str = "x-csrf-token";

fn sha256(text: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

pub fn csrf_token(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(&format!("csrf {secret}")))
}

pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// RFC 6750 §2.1.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whoever the request comes from; a change that a session makes must have its CSRF token.
pub async fn identify(app: &App, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    let caller = match (bearer(headers), cookie(headers, COOKIE)) {
        (Some(secret), _) => return check(app, secret).await,
        (None, Some(secret)) => check(app, secret).await?,
        (None, None) => return Err(Problem::unauthenticated("log in, or send Authorization: Bearer TOKEN")),
    };
    let shown = headers.get(CSRF_HEADER).map(|v| v.as_bytes());
    if !method.is_safe() && shown != Some(caller.csrf.as_bytes()) {
        return Err(Problem::forbidden(format!("a change by a session needs its token in {CSRF_HEADER}")));
    }
    Ok(caller)
}

pub async fn check(app: &App, secret: &str) -> Result<Caller, Problem> {
    let request = CheckTokenRequest { hash: sha256(secret).into() };
    let token = app.console.clone().check_token(request).await?.into_inner();
    of_token(token, secret).ok_or_else(|| Problem::forbidden("the token has a role that is unknown here"))
}

fn of_token(token: Token, secret: &str) -> Option<Caller> {
    let role = Role::of_wire(token.role())?;
    let csrf = csrf_token(secret);
    Some(Caller { id: token.id, name: token.name, role, tenant: token.tenant, is_session: token.session, csrf })
}

impl Caller {
    /// Another tenant's domain looks like none at all.
    pub async fn must_own(&self, app: &App, domain: &Domain) -> Result<(), Problem> {
        if self.tenant.is_empty() {
            return Ok(());
        }
        let request = ListDomainsRequest { tenant: self.tenant.clone() };
        let domains = app.console.clone().list_domains(request).await?.into_inner().domains;
        match domains.iter().any(|d| d.name.eq_ignore_ascii_case(domain.as_str())) {
            true => Ok(()),
            false => Err(Problem::not_found(format!("domain {domain} is not ours"))),
        }
    }

    pub async fn must_own_address(&self, app: &App, text: &str) -> Result<Address, Problem> {
        let address: Address = text.parse().map_err(|e| Problem::bad_request(format!("address {text:?}: {e}")))?;
        self.must_own(app, address.domain()).await?;
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; postroad_session_old=x".parse().unwrap());
        headers.append(header::COOKIE, "b=2;postroad_session=secret".parse().unwrap());
        assert_eq!(cookie(&headers, COOKIE), Some("secret"));
        assert_eq!(cookie(&headers, "c"), None);
    }

    #[test]
    fn a_csrf_token_says_nothing_about_the_secret() {
        assert_ne!(csrf_token("a"), csrf_token("b"));
        assert!(!csrf_token("secret").contains("secret"));
    }

    #[test]
    fn support_looks_and_tenant_admins_manage() {
        use Access::{Anybody, Look, Manage, Operate};
        let table = [
            (Role::Operator, [true; 4]),
            (Role::TenantAdmin, [true, true, true, false]),
            (Role::Support, [true, true, false, false]),
        ];
        for (role, allowed) in table {
            assert_eq!([Anybody, Look, Manage, Operate].map(|a| a.allows(role)), allowed, "{role:?}");
        }
    }
}
