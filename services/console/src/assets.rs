//! The pages: plain HTML, CSS and JavaScript modules, in the program itself.

use axum::{
    extract::{RawPathParams, Request},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::problem::Problem;

macro_rules! files {
    ($($name:literal as $kind:literal)*) => {
        &[$(($name, $kind, include_str!(concat!("../assets/", $name)))),*]
    };
}

const FILES: &[(&str, &str, &str)] = files! {
    "api.js" as "text/javascript"
    "app.js" as "text/javascript"
    "dom.js" as "text/javascript"
    "hops.js" as "text/javascript"
    "journey.js" as "text/javascript"
    "pages.js" as "text/javascript"
    "quarantine.js" as "text/javascript"
    "reports.js" as "text/javascript"
    "style.css" as "text/css"
    "icon.svg" as "image/svg+xml"
};

pub async fn index() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("../assets/index.html")).into_response()
}

pub async fn asset(path: RawPathParams, request: Request) -> Response {
    let name = path.iter().next().map_or("", |(_, name)| name);
    let Some((_, kind, text)) = FILES.iter().find(|(file, ..)| *file == name) else {
        return Problem::not_found("there is no such file").into_response();
    };
    // Changes with the content, so a browser asks and is told in a few bytes.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let tag = digest.as_ref().iter().take(8).fold(String::from("\""), |tag, b| format!("{tag}{b:02x}")) + "\"";
    if request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::CONTENT_TYPE, format!("{kind}; charset=utf-8")), (header::ETAG, tag)], *text).into_response()
}
