//! The table of routes: each has its path, who may call it, the types that go in and come out, and
//! its handler. The HTTP router and the OpenAPI document are both made of it.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, Method, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{KeepAlive, Sse},
    },
};
use futures::{future::BoxFuture, stream::BoxStream};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    App,
    caller::{Access, Caller},
    problem::Problem,
};

/// A request that may be answered: its caller is known and allowed to.
pub struct Call {
    pub app: Arc<App>,
    /// Absent only on routes for anybody.
    pub caller: Option<Caller>,
    pub path: HashMap<String, String>,
    pub headers: HeaderMap,
    pub query: HashMap<String, String>,
    pub body: bytes::Bytes,
}

impl Call {
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.caller.as_ref().ok_or_else(|| Problem::unauthenticated("log in"))
    }

    /// For `mda`, which keeps to the caller's tenant by itself: two look before anything is changed.
    pub fn scoped<T>(&self, message: T) -> Result<tonic::Request<T>, Problem> {
        let mut request = tonic::Request::new(message);
        let tenant = self.caller()?.tenant.as_str();
        if !tenant.is_empty() {
            let value = tenant.parse().map_err(|_| Problem::forbidden("the tenant's name cannot be told"))?;
            request.metadata_mut().insert("postroad-tenant", value);
        }
        Ok(request)
    }

    pub fn part(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }
}

/// For routes without a query or a body.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Nothing {}

/// What a handler answers with.
pub trait Answer: Send + 'static {
    const STATUS: StatusCode = StatusCode::OK;
    const MEDIA_TYPE: Option<&'static str> = Some("application/json");
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
    fn respond(self) -> Response;
}

pub struct Json<T>(pub T);
pub struct Created<T>(pub T);
pub struct NoContent;
/// Server-sent events; the schema is that of the data of each.
pub struct Events<T>(
    pub BoxStream<'static, Result<axum::response::sse::Event, std::convert::Infallible>>,
    pub std::marker::PhantomData<T>,
);
/// A response with a body of type T and header fields of its own.
pub struct WithHeaders<T>(pub HeaderMap, pub T);

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(e) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

impl<T: Serialize + JsonSchema + Send + 'static> Answer for Json<T> {
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<T>())
    }
    fn respond(self) -> Response {
        json(Self::STATUS, &self.0)
    }
}

impl<T: Serialize + JsonSchema + Send + 'static> Answer for Created<T> {
    const STATUS: StatusCode = StatusCode::CREATED;
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<T>())
    }
    fn respond(self) -> Response {
        json(Self::STATUS, &self.0)
    }
}

impl<T: Serialize + JsonSchema + Send + 'static> Answer for WithHeaders<T> {
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<T>())
    }
    fn respond(self) -> Response {
        (self.0, json(Self::STATUS, &self.1)).into_response()
    }
}

impl Answer for NoContent {
    const STATUS: StatusCode = StatusCode::NO_CONTENT;
    const MEDIA_TYPE: Option<&'static str> = None;
    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
    fn respond(self) -> Response {
        (Self::STATUS, Body::empty()).into_response()
    }
}

impl<T: JsonSchema + Send + 'static> Answer for Events<T> {
    const MEDIA_TYPE: Option<&'static str> = Some("text/event-stream");
    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
    fn respond(self) -> Response {
        Sse::new(self.0).keep_alive(KeepAlive::default()).into_response()
    }
}

type Handler = Box<dyn Fn(Call) -> BoxFuture<'static, Result<Response, Problem>> + Send + Sync>;
type MakeSchema = fn(&mut SchemaGenerator) -> Option<Schema>;

pub struct Route {
    pub method: Method,
    /// Below `/api/v1`, with `{name}` for a part that varies.
    pub path: &'static str,
    pub id: &'static str,
    pub summary: &'static str,
    pub access: Access,
    pub query: MakeSchema,
    pub body: MakeSchema,
    pub answer: MakeSchema,
    pub status: StatusCode,
    pub media_type: Option<&'static str>,
    pub handler: Handler,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

fn schema_of<T: JsonSchema + 'static>(generator: &mut SchemaGenerator) -> Option<Schema> {
    let is_nothing = std::any::TypeId::of::<T>() == std::any::TypeId::of::<Nothing>();
    (!is_nothing).then(|| generator.subschema_for::<T>())
}

/// The query's own schema tells its parameters, so it is not put among the definitions.
fn parameters_of<T: JsonSchema + 'static>(generator: &mut SchemaGenerator) -> Option<Schema> {
    Some(generator.root_schema_for::<T>())
}

/// One line of the table.
pub fn route<Q, B, A, F>(
    method: Method,
    path: &'static str,
    (id, summary): (&'static str, &'static str),
    access: Access,
    handler: impl Fn(Call, Q, B) -> F + Send + Sync + Copy + 'static,
) -> Route
where
    Q: DeserializeOwned + JsonSchema + Send + 'static,
    B: DeserializeOwned + JsonSchema + Send + 'static,
    A: Answer,
    F: Future<Output = Result<A, Problem>> + Send + 'static,
{
    let run = move |call: Call| -> BoxFuture<'static, Result<Response, Problem>> {
        Box::pin(async move {
            let query = read_query::<Q>(&call.query)?;
            let body = read_body::<B>(&call.body)?;
            handler(call, query, body).await.map(Answer::respond)
        })
    };
    Route {
        method,
        path,
        id,
        summary,
        access,
        query: parameters_of::<Q>,
        body: schema_of::<B>,
        answer: A::schema,
        status: A::STATUS,
        media_type: A::MEDIA_TYPE,
        handler: Box::new(run),
    }
}

/// Values of a query are text; what type each is meant to have is in the schema.
fn read_query<Q: DeserializeOwned + JsonSchema>(query: &HashMap<String, String>) -> Result<Q, Problem> {
    let schema = SchemaGenerator::default().into_root_schema_for::<Q>();
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut values = Map::new();
    for (name, text) in query {
        let Some(property) = properties.and_then(|p| p.get(name)) else { continue };
        let kind = property.get("type").and_then(Value::as_str).unwrap_or("string");
        let value = match kind {
            "integer" => text.parse::<i64>().ok().map(Value::from),
            "boolean" => text.parse::<bool>().ok().map(Value::from),
            _ => Some(Value::from(text.as_str())),
        };
        let value = value.ok_or_else(|| Problem::bad_request(format!("query {name} = {text:?}: expected {kind}")))?;
        values.insert(name.clone(), value);
    }
    from_value(Value::Object(values), "query")
}

fn read_body<B: DeserializeOwned + 'static>(body: &[u8]) -> Result<B, Problem> {
    if std::any::TypeId::of::<B>() == std::any::TypeId::of::<Nothing>() {
        return from_value(Value::Object(Map::new()), "body");
    }
    // Serde would take a list of the values, too.
    let value: Map<String, Value> =
        serde_json::from_slice(body).map_err(|e| Problem::bad_request(format!("body: {e}")))?;
    from_value(Value::Object(value), "body")
}

fn from_value<T: DeserializeOwned>(value: Value, what: &str) -> Result<T, Problem> {
    if has_nul(&value) {
        return Err(Problem::bad_request(format!("{what}: no text may have a NUL in it")));
    }
    serde_json::from_value(value).map_err(|e| Problem::bad_request(format!("{what}: {e}")))
}

/// Postgres has no text with NUL.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(all) => all.iter().any(has_nul),
        Value::Object(all) => all.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Sample {
        limit: u32,
        held: bool,
        id: String,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { limit: 7, held: false, id: String::new() }
        }
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Sample, Problem> {
        read_query(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_query_is_read_by_its_types() {
        let sample = read(&[("held", "true"), ("id", "12"), ("other", "x")]).unwrap();
        assert_eq!((sample.limit, sample.held, sample.id.as_str()), (7, true, "12"));
        assert_eq!(read(&[("limit", "3")]).unwrap().limit, 3);
        for wrong in [("limit", "-1"), ("limit", "x"), ("limit", "4294967296"), ("held", "1"), ("id", "a\0")] {
            assert_eq!(read(&[wrong]).unwrap_err().status, 400, "{wrong:?}");
        }
    }

    #[test]
    fn a_body_is_read_whole_or_refused() {
        assert_eq!(read_body::<Sample>(b"{\"limit\": 3}").unwrap().limit, 3);
        for wrong in [&b""[..], b"[]", b"{\"limit\": \"3\"}", b"{\"id\": \"a\\u0000\"}", b"{\"limit\": 3}x", b"\xff"] {
            assert_eq!(read_body::<Sample>(wrong).unwrap_err().status, 400, "{wrong:?}");
        }
        read_body::<Nothing>(b"whatever").unwrap();
    }
}
