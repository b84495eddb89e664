//! HTTP as a test speaks it: one request a connection.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case; of several with one name the last.
    pub headers: HashMap<String, String>,
    /// Every `Set-Cookie`.
    pub cookies: Vec<String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.body))
    }
}

/// `place` is host:port.
pub async fn request(method: &str, place: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(place).await?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(head.as_bytes()).await?;
        let mut all = Vec::new();
        // Not every server closes when it is asked to.
        while !is_whole(&all) && stream.read_buf(&mut all).await? > 0 {}
        std::io::Result::Ok(all)
    };
    let all = tokio::time::timeout(Duration::from_secs(180), exchange).await.expect("an answer within three minutes");
    parse(&String::from_utf8_lossy(&all.unwrap_or_else(|e| panic!("{method} {place}{path}: {e}"))))
}

/// Whether as many bytes are there as were announced; what is chunked ends with the connection.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let mut fields = head.lines().filter_map(|l| l.split_once(':'));
    let length = fields
        .find(|(k, _)| k.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, v)| v.trim().parse::<usize>().ok());
    length.is_some_and(|n| answer.len() >= head.len() + 4 + n)
}

fn parse(text: &str) -> Answer {
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_lowercase(), v.trim().to_owned())).collect();
    let cookies = fields.iter().filter(|(k, _)| k == "set-cookie").map(|(_, v)| v.clone()).collect();
    let headers: HashMap<_, _> = fields.into_iter().collect();
    let is_chunked = headers.get("transfer-encoding").is_some_and(|t| t == "chunked");
    let body = if is_chunked { whole(rest) } else { rest.to_owned() };
    Answer { status, headers, cookies, body }
}

/// RFC 9112 §7.1.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.push_str(&rest[..size]);
        chunks = &rest[size + 2..];
    }
    body
}

/// Calls of a console's API with a token.
pub struct Api {
    pub place: String,
    pub token: String,
}

impl Api {
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let headers = if self.token.is_empty() { &headers[1..] } else { &headers[..] };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(method, &self.place, &format!("/api/v1{path}"), headers, &body).await
    }

    /// The answer of a call that must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.call(method, path, body).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }
}
