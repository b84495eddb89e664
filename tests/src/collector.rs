//! An OTLP collector that keeps the spans it is sent.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
};
use tonic::{Request, Response, Status};

#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub name: String,
    /// Hexadecimal.
    pub trace_id: String,
    pub span_id: String,
    /// Empty at the root.
    pub parent: String,
    /// Trace ids of the traces it is linked to.
    pub links: Vec<String>,
    pub attributes: Vec<(String, String)>,
    pub is_error: bool,
    /// All of it as it came, resource and all: for what must not be there.
    pub text: String,
}

impl Span {
    /// Empty when it has none.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }
}

#[derive(Clone, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Only counts, for measurements.
    is_blind: bool,
}

impl Collector {
    /// Listens on loopback; the second value is its OTLP endpoint.
    pub async fn start() -> (Self, String) {
        Self::default().listen().await
    }

    /// One that throws away what it gets.
    pub async fn blind() -> (Self, String) {
        Self { is_blind: true, ..Self::default() }.listen().await
    }

    async fn listen(self) -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
        (self, endpoint)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// Those of one trace.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|s| s.trace_id == trace_id).collect()
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

fn value(value: Option<AnyValue>) -> String {
    match value.and_then(|v| v.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(n)) => n.to_string(),
        Some(any_value::Value::BoolValue(b)) => b.to_string(),
        Some(any_value::Value::DoubleValue(d)) => d.to_string(),
        other => format!("{other:?}"),
    }
}

fn pairs(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    attributes.into_iter().map(|a| (a.key, value(a.value))).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.is_blind {
            return Ok(Response::new(ExportTraceServiceResponse::default()));
        }
        for resource in request.into_inner().resource_spans {
            let attributes = pairs(resource.resource.unwrap_or_default().attributes);
            let service = attributes.iter().find(|(k, _)| k == "service.name").map(|(_, v)| v.clone());
            for span in resource.scope_spans.into_iter().flat_map(|s| s.spans) {
                let text = format!("{attributes:?} {span:?}");
                self.spans.lock().unwrap().push(Span {
                    service: service.clone().unwrap_or_default(),
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    links: span.links.iter().map(|l| hex(&l.trace_id)).collect(),
                    is_error: span.status.as_ref().is_some_and(|s| s.code == 2),
                    attributes: pairs(span.attributes),
                    name: span.name,
                    text,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
