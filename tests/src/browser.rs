//! A headless Chromium, driven by the WebDriver protocol (W3C).

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::request,
    ports::free_address,
    process::{Process, program},
};

/// The name of an element's reference in WebDriver's JSON (§12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const PATIENCE: Duration = Duration::from_secs(180);

/// Ends with its driver.
pub struct Browser {
    place: String,
    session: String,
    _driver: Process,
    _profile: TempDir,
}

impl Browser {
    pub async fn start() -> Self {
        let chromium = program("chromium", "chromium");
        let port = free_address().port();
        let mut command = Command::new(program("chromedriver", "chromium-driver"));
        command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = Process::start(&mut command);
        let place = format!("127.0.0.1:{port}");
        let start = Instant::now();
        while tokio::net::TcpStream::connect(&place).await.is_err() {
            assert!(start.elapsed() < PATIENCE, "chromedriver does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let profile = tempfile::tempdir().unwrap();
        let folder = format!("--user-data-dir={}", profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1280,900",
            &folder,
        ];
        let options = json!({ "binary": chromium, "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let answer = request("POST", &place, "/session", &[], &wanted.to_string()).await.json();
        let session =
            answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}")).to_owned();
        Self { place, session, _driver: driver, _profile: profile }
    }

    async fn command(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let path = format!("/session/{}{path}", self.session);
        let answer = request(method, &self.place, &path, &[], &body).await;
        let value = answer.json()["value"].clone();
        if answer.status == 200 { Ok(value) } else { Err(format!("{path}: {}", value["message"])) }
    }

    pub async fn open(&self, url: &str) {
        self.command("POST", "/url", json!({ "url": url })).await.unwrap();
    }

    /// What a script returns.
    pub async fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", json!({ "script": script, "args": [] })).await.unwrap()
    }

    /// Until an expression is true in the page; panics with the page's text.
    pub async fn until(&self, what: &str, expression: &str) {
        let start = Instant::now();
        while self.run(&format!("return !!({expression})")).await != json!(true) {
            if start.elapsed() > PATIENCE {
                let page = self.run("return document.body.innerText").await;
                panic!("not within {PATIENCE:?}: {what}; console: {:?}; the page: {page}", self.log().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the page said to the browser's console: errors, broken policies.
    pub async fn log(&self) -> Vec<String> {
        let entries = self.command("POST", "/se/log", json!({ "type": "browser" })).await.unwrap_or_default();
        let messages = entries.as_array().cloned().unwrap_or_default();
        messages.iter().map(|e| e["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn element(&self, css: &str) -> String {
        let start = Instant::now();
        loop {
            match self.command("POST", "/element", json!({ "using": "css selector", "value": css })).await {
                Ok(found) => return found[ELEMENT].as_str().unwrap().to_owned(),
                Err(e) => assert!(start.elapsed() < PATIENCE, "{css}: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn click(&self, css: &str) {
        self.act(css, &[("POST", "click", json!({}))]).await;
    }

    pub async fn fill(&self, css: &str, text: &str) {
        self.act(css, &[("POST", "clear", json!({})), ("POST", "value", json!({ "text": text }))]).await;
    }

    /// Commands to one element, all of them again when it was drawn anew meanwhile; the last one's answer.
    async fn act(&self, css: &str, commands: &[(&str, &str, Value)]) -> Value {
        let start = Instant::now();
        'again: loop {
            let element = self.element(css).await;
            let mut last = Value::Null;
            for (method, what, body) in commands {
                match self.command(method, &format!("/element/{element}/{what}"), body.clone()).await {
                    Ok(answer) => last = answer,
                    Err(e) => {
                        assert!(start.elapsed() < PATIENCE, "{what} {css}: {e}");
                        continue 'again;
                    }
                }
            }
            return last;
        }
    }

    /// Says yes to a question of the page.
    pub async fn accept(&self) {
        self.command("POST", "/alert/accept", json!({})).await.unwrap();
    }

    pub async fn text(&self, css: &str) -> String {
        self.act(css, &[("GET", "text", Value::Null)]).await.as_str().unwrap().to_owned()
    }

    /// A PNG of what is in the window.
    pub async fn screenshot(&self, file: &Path) {
        let png = self.command("GET", "/screenshot", Value::Null).await.unwrap();
        std::fs::write(file, STANDARD.decode(png.as_str().unwrap()).unwrap()).unwrap();
    }

    pub async fn close(self) {
        self.command("DELETE", "", Value::Null).await.unwrap();
    }
}
