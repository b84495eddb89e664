//! As much of the Kubernetes API as the operator uses: objects, patches, a lease, events.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request, Response};

#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Of all kinds, by name.
    objects: HashMap<String, Value>,
    lease: Option<Value>,
    events: Vec<String>,
    version: u64,
    writes: usize,
    fail: Option<u16>,
}

impl FakeApi {
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "mail")
    }

    pub fn object(&self, name: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(name).cloned()
    }

    pub fn put(&self, name: &str, spec: Value) {
        self.put_kind("Domain", name, spec);
    }

    /// As `kubectl apply` does: the spec is replaced, the rest stays.
    pub fn put_kind(&self, kind: &str, name: &str, spec: Value) {
        let mut state = self.0.lock().unwrap();
        let object = state.objects.entry(name.to_owned()).or_insert_with(|| {
            json!({
                "apiVersion": "mail.postroad.dev/v1alpha1", "kind": kind,
                "metadata": { "name": name, "namespace": "mail", "uid": "1", "generation": 0, "resourceVersion": "0" },
            })
        });
        object["spec"] = spec;
        object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
    }

    /// As `kubectl delete` does: finalizers first.
    pub fn delete(&self, name: &str) {
        let mut state = self.0.lock().unwrap();
        let metadata = &mut state.objects.get_mut(name).unwrap()["metadata"];
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        if metadata["finalizers"].as_array().is_none_or(Vec::is_empty) {
            state.objects.remove(name);
        }
    }

    pub fn fail(&self, code: Option<u16>) {
        self.0.lock().unwrap().fail = code;
    }

    pub fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().events.clone()
    }

    pub fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    pub fn lease(&self) -> Value {
        self.0.lock().unwrap().lease.clone().unwrap()
    }

    pub fn steal_lease(&self, holder: &str) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!(holder);
        lease["metadata"]["resourceVersion"] = json!(version);
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        if let Some(code) = self.fail {
            return (code, failure(code));
        }
        if method != Method::GET {
            self.writes += 1;
        }
        let last = path.rsplit('/').next().unwrap().to_owned();
        if path.contains("/events") {
            self.events.push(body["reason"].as_str().unwrap_or("patched").to_owned());
            return (201, body.clone());
        }
        if path.contains("/leases") {
            return self.lease(method, body);
        }
        let base = "/apis/mail.postroad.dev/v1alpha1/namespaces/mail/";
        let plural = path.strip_prefix(base).and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
        assert_eq!(method, Method::PATCH);
        let name = if last == "status" { path.rsplit('/').nth(1).unwrap() } else { &last };
        let Some(object) = self.objects.get_mut(name) else { return (404, failure(404)) };
        assert_eq!(plural, format!("{}s", object["kind"].as_str().unwrap().to_lowercase()), "{path}");
        match kind {
            "application/merge-patch+json" if last == "status" => object["status"] = body["status"].clone(),
            "application/merge-patch+json" => {
                let finalizers = &body["metadata"]["finalizers"];
                assert!(finalizers.is_array() && body.get("spec").is_none(), "the rest is not ours: {body}");
                // An empty list is none.
                let is_empty = finalizers.as_array().is_none_or(Vec::is_empty);
                object["metadata"]["finalizers"] = if is_empty { Value::Null } else { finalizers.clone() };
            }
            "application/json-patch+json" => {
                for operation in body.as_array().unwrap() {
                    if !apply(object, operation) {
                        return (422, failure(422));
                    }
                }
            }
            other => panic!("patch of kind {other}"),
        }
        let (object, name) = (object.clone(), name.to_owned());
        let none_left = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if none_left && object["metadata"]["deletionTimestamp"].is_string() {
            self.objects.remove(&name);
        }
        (200, object)
    }

    fn lease(&mut self, method: &Method, body: &Value) -> (u16, Value) {
        match (method, &self.lease) {
            (&Method::GET, Some(lease)) => return (200, lease.clone()),
            (&Method::GET, None) => return (404, failure(404)),
            (&Method::POST, Some(_)) => return (409, failure(409)),
            (&Method::PUT, Some(old)) if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                return (409, failure(409));
            }
            _ => (),
        }
        self.version += 1;
        let mut lease = body.clone();
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        (200, lease)
    }
}

/// RFC 6902, the operations that finalizers need.
fn apply(object: &mut Value, operation: &Value) -> bool {
    let path = operation["path"].as_str().unwrap();
    match operation["op"].as_str().unwrap() {
        "test" => object.pointer(path).unwrap_or(&Value::Null) == &operation["value"],
        "add" if path == "/metadata/finalizers" => {
            object["metadata"]["finalizers"] = operation["value"].clone();
            true
        }
        "add" => {
            assert_eq!(path, "/metadata/finalizers/-");
            object["metadata"]["finalizers"].as_array_mut().unwrap().push(operation["value"].clone());
            true
        }
        "remove" => {
            let index: usize = path.rsplit('/').next().unwrap().parse().unwrap();
            object["metadata"]["finalizers"].as_array_mut().unwrap().remove(index);
            true
        }
        other => panic!("operation {other}"),
    }
}

fn failure(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    };
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": "fake", "code": code })
}

impl tower::Service<Request<Body>> for FakeApi {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let kind = head.headers.get("content-type").map(|k| k.to_str().unwrap().to_owned()).unwrap_or_default();
            let (code, answer) = state.lock().unwrap().answer(&head.method, head.uri.path(), &kind, &body);
            Ok(Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap())).unwrap())
        })
    }
}
