//! The OpenAPI 3.1 document, made of the table of routes.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    caller::Access,
    problem::{MEDIA_TYPE, Problem},
    route::Route,
};

pub fn document(routes: &[Route], prefix: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>().to_value();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(route, &mut generator, &problem);
        let path = paths.entry(format!("{prefix}{}", route.path)).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Postroad",
            "version": "1",
            "description": "Messages and their journeys, the queue, the quarantine, reports, domains, accounts and aliases.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator, problem: &Value) -> Value {
    let mut parameters: Vec<Value> = names_in(route.path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    let query = (route.query)(&mut SchemaGenerator::default());
    let properties = query.as_ref().and_then(|q| q.get("properties")).and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|s| s.remove("description")).unwrap_or_else(|| json!(""));
        parameters.push(json!({ "name": name, "in": "query", "description": description, "schema": schema }));
    }
    let mut success = json!({ "description": "Done" });
    if let Some(media_type) = route.media_type {
        let schema = (route.answer)(generator).map_or_else(|| json!({}), |schema| json!({ "schema": schema }));
        success["content"] = json!({ media_type: schema });
    }
    let trouble = json!({ "description": "Why not", "content": { MEDIA_TYPE: { "schema": problem } } });
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "parameters": parameters,
        "responses": { route.status.as_str(): success, "default": trouble },
        "description": match route.access {
            Access::Anybody => "For anybody.",
            Access::Look => "For every role.",
            Access::Manage => "For operators, and for tenant admins in their tenant.",
            Access::Operate => "For operators.",
        },
    });
    if route.access != Access::Anybody {
        operation["security"] = json!([{ "token": [] }]);
    }
    if let Some(schema) = (route.body)(generator) {
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}
