//! Login of browsers: a token or an issuer's word becomes a session, which a cookie carries.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use proto::console::{CreateTokenRequest, RevokeTokenRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    App,
    caller::{self, COOKIE, Caller, Role},
    problem::Problem,
    route::{Call, Json, Nothing, WithHeaders},
};

/// What must be known before login.
#[derive(Serialize, JsonSchema)]
pub struct About {
    /// The site's host name.
    hostname: String,
    /// Whether `/login/oidc` leads to an issuer.
    oidc: bool,
}

/// Who is logged in.
#[derive(Serialize, JsonSchema)]
pub struct Session {
    name: String,
    role: Role,
    /// Empty: all tenants.
    tenant: String,
    /// To be sent as `X-CSRF-Token` with every change that a session makes.
    csrf: String,
    /// Whether the page can submit a message.
    can_submit: bool,
    /// Whether the page can send as a stranger.
    can_knock: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    token: String,
}

pub async fn about(call: Call, _: Nothing, _: Nothing) -> Result<Json<About>, Problem> {
    Ok(Json(About { hostname: call.app.config.hostname.clone(), oidc: call.app.oidc.is_some() }))
}

pub async fn show(call: Call, _: Nothing, _: Nothing) -> Result<Json<Session>, Problem> {
    Ok(Json(describe(&call.app, call.caller()?.clone())))
}

pub async fn log_in(call: Call, _: Nothing, login: Login) -> Result<WithHeaders<Session>, Problem> {
    must_be_our_page(&call.headers)?;
    let outcome = caller::check(&call.app, login.token.trim()).await;
    call.app.metrics.login("token", outcome.is_ok());
    let caller = outcome?;
    if caller.is_session {
        return Err(Problem::forbidden("a session is no token"));
    }
    let (cookie, session) = begin(&call.app, &caller.name, caller.role, &caller.tenant, &caller.id).await?;
    let headers = HeaderMap::from_iter([(header::SET_COOKIE, cookie)]);
    Ok(WithHeaders(headers, describe(&call.app, session)))
}

/// Ends the session, here and in the browser.
pub async fn log_out(call: Call, _: Nothing, _: Nothing) -> Result<WithHeaders<LoggedOut>, Problem> {
    let caller = call.caller()?;
    if !caller.is_session {
        return Err(Problem::new(StatusCode::CONFLICT, "a token is no session: revoke it instead"));
    }
    let request = RevokeTokenRequest { id: caller.id.clone(), tenant: String::new() };
    call.app.console.clone().revoke_token(request).await?;
    let gone = HeaderValue::from_static("postroad_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
    Ok(WithHeaders(HeaderMap::from_iter([(header::SET_COOKIE, gone)]), LoggedOut {}))
}

/// An empty object.
#[derive(Serialize, JsonSchema)]
pub struct LoggedOut {}

fn describe(app: &App, caller: Caller) -> Session {
    let (can_submit, can_knock) = (app.submission.can_submit(), app.submission.can_knock());
    Session { name: caller.name, role: caller.role, tenant: caller.tenant, csrf: caller.csrf, can_submit, can_knock }
}

/// Another site must not log a browser in as somebody else, whose doings it could then read.
fn must_be_our_page(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Problem::forbidden("log in on our own page")),
    }
}

/// A new session and the cookie for it.
pub async fn begin(
    app: &App,
    name: &str,
    role: Role,
    tenant: &str,
    parent_id: &str,
) -> Result<(HeaderValue, Caller), Problem> {
    let seconds = app.config.session_hours.saturating_mul(3600);
    let request = CreateTokenRequest {
        name: name.to_owned(),
        role: role.to_wire().into(),
        tenant: tenant.to_owned(),
        valid_seconds: seconds,
        session: true,
        parent_id: parent_id.to_owned(),
    };
    let secret = app.console.clone().create_token(request).await?.into_inner().secret;
    let secure = if app.config.is_secure() { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let cookie = HeaderValue::try_from(cookie).map_err(|_| Problem::unavailable("the session cannot be told"))?;
    let caller = caller::check(app, &secret).await?;
    Ok((cookie, caller))
}
