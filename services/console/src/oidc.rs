//! Login by an OpenID Connect issuer: authorization code flow (OpenID Connect Core §3.1) with PKCE
//! (RFC 7636).

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    App,
    caller::cookie,
    config::{Grant, Oidc},
    http::{self, Client},
    problem::Problem,
    session,
};

/// Holds state, nonce and verifier while the browser is at the issuer.
const COOKIE: &str = "postroad_login";
/// Seconds that somebody may take there.
const PATIENCE: u32 = 600;
/// Seconds that clocks may differ.
const LEEWAY: f64 = 60.0;

pub struct Provider {
    config: Oidc,
    client: Client,
    secret: Option<String>,
    redirect_uri: String,
}

/// OpenID Connect Discovery §3.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
}

/// What must come back as it went out.
struct Attempt {
    state: String,
    nonce: String,
    verifier: String,
}

impl Attempt {
    fn new() -> anyhow::Result<Self> {
        let random = || {
            let mut bytes = [0; 32];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random numbers"))?;
            anyhow::Ok(URL_SAFE_NO_PAD.encode(bytes))
        };
        Ok(Self { state: random()?, nonce: random()?, verifier: random()? })
    }

    fn to_cookie(&self) -> String {
        format!("{}.{}.{}", self.state, self.nonce, self.verifier)
    }

    fn of_cookie(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(str::to_owned);
        Some(Self { state: parts.next()?, nonce: parts.next()?, verifier: parts.next()? })
    }

    /// RFC 7636 §4.2, S256.
    fn challenge(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.verifier.as_bytes());
        URL_SAFE_NO_PAD.encode(digest.as_ref())
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

impl Provider {
    pub fn new(config: Oidc, base_url: &str) -> anyhow::Result<Self> {
        let client = Client::new(config.ca_file.as_deref()).context("configuration key \"oidc.ca_file\"")?;
        let secret = config.client_secret_file.as_ref().map(|file| {
            let text = std::fs::read_to_string(file);
            text.with_context(|| format!("configuration key \"oidc.client_secret_file\" = {}", file.display()))
        });
        let secret = secret.transpose()?.map(|s| s.trim().to_owned());
        Ok(Self { config, client, secret, redirect_uri: format!("{base_url}/login/oidc/callback") })
    }

    async fn discover(&self) -> anyhow::Result<Discovery> {
        let url = format!("{}/.well-known/openid-configuration", self.config.issuer.trim_end_matches('/'));
        let found: Discovery = http::json(self.client.get(&url, None).await?).with_context(|| url)?;
        ensure!(found.issuer == self.config.issuer, "the issuer calls itself {:?}", found.issuer);
        Ok(found)
    }

    async fn leave(&self, attempt: &Attempt) -> anyhow::Result<String> {
        let discovery = self.discover().await?;
        let scope = ["openid"].into_iter().chain(self.config.scopes.iter().map(String::as_str)).collect::<Vec<_>>();
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", &self.redirect_uri),
            ("scope", &scope.join(" ")),
            ("state", &attempt.state),
            ("nonce", &attempt.nonce),
            ("code_challenge", &attempt.challenge()),
            ("code_challenge_method", "S256"),
        ]);
        let join = if discovery.authorization_endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{}{join}{query}", discovery.authorization_endpoint))
    }

    /// From the code to a name and what it may do.
    async fn redeem(&self, code: &str, attempt: &Attempt) -> anyhow::Result<(String, Grant)> {
        let discovery = self.discover().await?;
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.redirect_uri),
            ("client_id", &self.config.client_id),
            ("code_verifier", &attempt.verifier),
        ];
        pairs.extend(self.secret.iter().map(|secret| ("client_secret", secret.as_str())));
        let answer = self.client.post_form(&discovery.token_endpoint, form(&pairs)).await?;
        let tokens: Tokens = http::json(answer).context("token endpoint")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let claims = claims(&tokens.id_token)?;
        self.check(&claims, &attempt.nonce, now)
    }

    /// OpenID Connect Core §3.1.3.7. The token came from the token endpoint over TLS that proved the
    /// issuer, which may stand for its signature (step 6).
    fn check(&self, claims: &Map<String, Value>, nonce: &str, now: f64) -> anyhow::Result<(String, Grant)> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        ensure!(text("iss") == Some(&self.config.issuer), "the token is another issuer's");
        let is_ours = |value: &Value| value.as_str() == Some(&self.config.client_id);
        let for_us = match claims.get("aud") {
            // Trusted by several clients, it must say which one it was made for (steps 4 and 5).
            Some(Value::Array(all)) if all.len() > 1 => {
                all.iter().any(is_ours) && claims.get("azp").is_some_and(is_ours)
            }
            Some(Value::Array(all)) => all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        ensure!(for_us, "the token is for another client");
        ensure!(claims.get("exp").and_then(Value::as_f64).is_some_and(|exp| exp + LEEWAY > now), "the token is over");
        ensure!(text("nonce") == Some(nonce), "the token is for another login");
        let subject = text("sub").context("the token has no subject")?;
        let name = text("email").or_else(|| text("preferred_username")).unwrap_or(subject);
        let values: Vec<&str> = match claims.get(&self.config.role_claim) {
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            Some(one) => one.as_str().into_iter().collect(),
            None => Vec::new(),
        };
        // The first of the configuration that fits.
        let grant = self.config.roles.iter().find(|(value, _)| values.contains(&value.as_str()));
        match grant {
            Some((_, grant)) => Ok((name.chars().take(100).collect(), grant.clone())),
            None => bail!("{name} has no role here"),
        }
    }
}

fn claims(id_token: &str) -> anyhow::Result<Map<String, Value>> {
    let payload = id_token.split('.').nth(1).context("no JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('='))?)?)
}

fn attempt_cookie(app: &App, value: &str, seconds: u32) -> Option<HeaderValue> {
    let secure = if app.config.is_secure() { "; Secure" } else { "" };
    // Lax: it must come along when the issuer sends the browser back.
    let text = format!("{COOKIE}={value}; Path=/login/oidc; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).ok()
}

fn failed(error: &anyhow::Error) -> Problem {
    tracing::warn!(error = format!("{error:#}"), "login by the issuer failed");
    Problem::unavailable("the issuer cannot be asked, try again later")
}

pub async fn begin(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let provider = app.oidc.as_ref().ok_or_else(|| Problem::not_found("no issuer is configured"))?;
    let attempt = Attempt::new().map_err(|e| failed(&e))?;
    let location = provider.leave(&attempt).await.map_err(|e| failed(&e))?;
    let location = HeaderValue::try_from(location).map_err(|e| failed(&e.into()))?;
    let mut headers = HeaderMap::from_iter([(header::LOCATION, location)]);
    headers.extend(attempt_cookie(&app, &attempt.to_cookie(), PATIENCE).map(|c| (header::SET_COOKIE, c)));
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

pub async fn finish(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let provider = app.oidc.as_ref().ok_or_else(|| Problem::not_found("no issuer is configured"))?;
    let query: std::collections::HashMap<String, String> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let attempt = cookie(&headers, COOKIE).and_then(Attempt::of_cookie);
    let attempt = attempt.ok_or_else(|| Problem::bad_request("this login did not begin here, or took too long"))?;
    if query.get("state") != Some(&attempt.state) {
        return Err(Problem::bad_request("this login did not begin here"));
    }
    let Some(code) = query.get("code") else {
        app.metrics.login("oidc", false);
        return Err(Problem::forbidden("the issuer did not let you in"));
    };
    let redeemed = provider.redeem(code, &attempt).await;
    app.metrics.login("oidc", redeemed.is_ok());
    let (name, grant) = redeemed.map_err(|error| {
        tracing::warn!(error = format!("{error:#}"), "login by the issuer refused");
        Problem::forbidden(format!("login refused: {}", error.root_cause()))
    })?;
    let (cookie, _) = session::begin(&app, &name, grant.role, &grant.tenant, "").await?;
    let mut answer = HeaderMap::new();
    answer.append(header::SET_COOKIE, cookie);
    answer.extend(attempt_cookie(&app, "", 0).map(|c| (header::SET_COOKIE, c)));
    // A redirect would still count as coming from the issuer, and strict cookies stay away from it.
    let page = "<!doctype html><meta charset=utf-8><title>Logged in</title>\
                <meta http-equiv=refresh content=\"0;url=/\"><a href=\"/\">Go on</a>";
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok((answer, page).into_response())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::Role;

    fn provider() -> Provider {
        let staff = Grant { role: Role::Support, tenant: "acme".into() };
        let config = Oidc {
            issuer: "https://id.example".into(),
            client_id: "console".into(),
            client_secret_file: None,
            ca_file: None,
            role_claim: "groups".into(),
            roles: [("acme-support".to_owned(), staff)].into(),
            scopes: Vec::new(),
        };
        Provider::new(config, "https://console.example").unwrap()
    }

    #[test]
    fn an_id_token_is_ours_fresh_and_has_a_role_or_is_refused() {
        let good = json!({ "iss": "https://id.example", "aud": "console", "exp": 2000, "nonce": "n", "sub": "1",
                           "email": "eve@example.com", "groups": ["all", "acme-support"] });
        let check = |change: &[(&str, Value)]| {
            let mut claims = good.as_object().unwrap().clone();
            claims.extend(change.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
            provider().check(&claims, "n", 1900.0)
        };
        let (name, grant) = check(&[]).unwrap();
        assert_eq!((name.as_str(), grant.role, grant.tenant.as_str()), ("eve@example.com", Role::Support, "acme"));
        assert!(check(&[("aud", json!(["console"]))]).is_ok());
        assert!(check(&[("aud", json!(["console", "x"])), ("azp", json!("console"))]).is_ok());
        let refused = [
            vec![("iss", json!("https://other.example"))],
            vec![("aud", json!("other"))],
            vec![("aud", json!(["console", "x"])), ("azp", json!("x"))],
            vec![("aud", Value::Null)],
            vec![("exp", json!(1000))],
            vec![("exp", Value::Null)],
            vec![("nonce", json!("m"))],
            vec![("sub", Value::Null)],
            vec![("groups", json!(["all"]))],
            vec![("groups", Value::Null)],
        ];
        for change in refused {
            assert!(check(&change).is_err(), "{change:?}");
        }
    }

    #[test]
    fn garbage_is_no_token() {
        for bad in ["", "a", "a.b", "a.!.c", "a.e30", "..", "a.bnVsbA.c"] {
            assert_eq!(claims(bad).ok().unwrap_or_default(), Map::new(), "{bad}");
        }
    }

    /// RFC 7636 appendix B.
    #[test]
    fn the_challenge_is_the_verifiers_digest() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        let attempt = Attempt { state: String::new(), nonce: String::new(), verifier };
        assert_eq!(attempt.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
