//! From a connection to a handler: HTTP/1.1, bounds, security headers, authorisation.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on},
};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use listener::Connection;

use crate::{
    App, api, assets,
    caller::{Access, identify},
    oidc, openapi,
    problem::Problem,
    route::{Call, Route},
};

/// The API's version is in its path.
pub const PREFIX: &str = "/api/v1";
const MAX_BODY: usize = 256 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// One client, until it closes or we stop; an answer that is on its way is finished.
pub async fn connection(router: Router, connection: Connection) {
    let Connection { stream, shutdown, .. } = connection;
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    if let Err(e) = outcome {
        tracing::debug!(error = %e, "connection ended");
    }
}

/// Every route of the table, the pages, and problems for all else.
pub fn router(app: Arc<App>) -> Router {
    let routes = api::routes();
    let document = Arc::new(openapi::document(&routes, PREFIX).to_string());
    let mut router = Router::new();
    for route in routes {
        let (path, filter) = (format!("{PREFIX}{}", route.path), filter(&route.method));
        let route = Arc::new(route);
        let handler = move |State(app): State<Arc<App>>, path: Result<RawPathParams, _>, request: Request| async move {
            let path = match path {
                Ok(path) => path.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                Err(_) => return Problem::bad_request("the path is no UTF-8").into_response(),
            };
            serve(app, route, path, request).await
        };
        router = router.route(&path, on(filter, handler));
    }
    let openapi = move || async move { ([(header::CONTENT_TYPE, "application/json")], document.to_string()) };
    router
        .route(&format!("{PREFIX}/openapi.json"), get(openapi))
        .route("/login/oidc", get(oidc::begin))
        .route("/login/oidc/callback", get(oidc::finish))
        .route("/", get(assets::index))
        .route("/assets/{name}", get(assets::asset))
        .fallback(|| async { Problem::not_found("there is nothing here") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know that method")
        })
        .layer(middleware::from_fn(guard))
        .with_state(app)
}

fn filter(method: &Method) -> MethodFilter {
    match method.as_str() {
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "DELETE" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}

async fn serve(app: Arc<App>, route: Arc<Route>, path: HashMap<String, String>, request: Request) -> Response {
    let (began, metrics) = (Instant::now(), app.metrics.clone());
    let response = answer(app, &route, path, request).await.unwrap_or_else(IntoResponse::into_response);
    metrics.request(route.id, response.status(), began.elapsed().as_secs_f64());
    response
}

async fn answer(
    app: Arc<App>,
    route: &Route,
    path: HashMap<String, String>,
    request: Request,
) -> Result<Response, Problem> {
    if path.values().any(|part| part.contains('\0')) {
        return Err(Problem::bad_request("the path has a NUL in it"));
    }
    let (parts, body) = request.into_parts();
    // Before the body: strangers cost us nothing.
    let caller = match route.access {
        Access::Anybody => None,
        access => {
            let caller = identify(&app, &parts.method, &parts.headers).await?;
            if !access.allows(caller.role) {
                return Err(Problem::forbidden(format!("{} is not for this role", route.summary)));
            }
            Some(caller)
        }
    };
    let body = match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or broke off")),
        Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    };
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    (route.handler)(Call { app, caller, path, headers: parts.headers, query, body }).await
}

/// Nothing from elsewhere is loaded, nothing inline runs, nobody frames us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

async fn guard(request: Request, next: Next) -> Response<Body> {
    let is_asset = request.uri().path().starts_with("/assets/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let cache = if is_asset { "no-cache" } else { "no-store" };
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static(cache));
    response
}
