//! What a site's services tell at `/metrics`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::site::Site;

/// The text of every process of a service, one after the other.
pub fn text(site: &Site, service: &str) -> String {
    let pids = site.pids(service);
    assert!(!pids.is_empty(), "no process of {service}");
    pids.into_iter()
        .map(|pid| get(pid, "/metrics").unwrap_or_else(|| panic!("{service} {pid} tells nothing")))
        .collect()
}

/// The sum of a counter over all processes; `labels` as they stand in the line, such as `reason="spam"`.
pub fn sum(site: &Site, service: &str, name: &str, labels: &str) -> f64 {
    let text = text(site, service);
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|r| r.starts_with(['{', ' ']) && r.contains(labels))
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Whether a process of a site says that it is ready.
pub fn is_ready(pid: u32) -> bool {
    get(pid, "/readyz").is_some()
}

fn get(pid: u32, path: &str) -> Option<String> {
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
    let address = environment.split('\0').find_map(|v| v.strip_prefix("POSTROAD_RUNTIME__HTTP_LISTEN="))?;
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}
