//! The `OpenAPI` 3.1 document, made from the same rows as the router.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::problem::ProblemDocument;
use crate::query::Param;
use crate::route::{Handler, Reply, Route};

/// Where schemas lie in the document.
const SCHEMAS: &str = "/components/schemas";
/// What is appended to the name of a type that is read differently from how it is written.
const INPUT: &str = "Input";

/// The document of a table.
pub(crate) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    // A field with a default may be left out of a request and is always there in an answer: two schemas.
    let mut reading = settings.clone().for_deserialize().into_generator();
    let mut writing = settings.for_serialize().into_generator();
    writing.subschema_for::<ProblemDocument>();

    let mut paths = Map::new();
    let mut requests = Vec::new();
    for route in routes {
        let (operation, request) = operation(route, &mut reading, &mut writing);
        requests.push((
            route.document_path(),
            route.method.as_str().to_lowercase(),
            request,
        ));
        let path = paths
            .entry(route.document_path())
            .or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
    }
    let mut read = Value::Object(reading.take_definitions(true));
    let mut written = writing.take_definitions(true);
    let renamed = differing(&read, &written);
    rename(&mut read, &renamed);
    if let Value::Object(read) = read {
        for (name, schema) in read {
            let name = if renamed.contains(&name) {
                format!("{name}{INPUT}")
            } else {
                name
            };
            written.insert(name, schema);
        }
    }
    for (path, method, request) in requests {
        if let Some(mut request) = request {
            rename(&mut request, &renamed);
            paths[&path][&method]["requestBody"] = request;
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "meshd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Runs, supervises and audits agents. Errors are RFC 9457 problems with a stable `code`.",
        },
        "security": [{ "bearer": [] }],
        "tags": tags(routes),
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "responses": { "Problem": {
                "description": "Why not.",
                "content": { "application/problem+json": { "schema": { "$ref": format!("#{SCHEMAS}/Problem") } } },
            } },
            "schemas": written,
        },
    })
}

/// The operation, and its request body, whose references may have to be renamed.
fn operation(
    route: &Route,
    reading: &mut SchemaGenerator,
    writing: &mut SchemaGenerator,
) -> (Value, Option<Value>) {
    let mut parameters: Vec<Value> = route
        .path_params()
        .map(|name| path_param(name, writing))
        .collect();
    parameters.extend(
        route
            .query
            .iter()
            .map(|param| parameter("query", param, writing)),
    );
    parameters.extend(
        route
            .headers
            .iter()
            .map(|param| parameter("header", param, writing)),
    );

    let mut responses = Map::new();
    for reply in &route.replies {
        let content = &mut responses
            .entry(reply.status.to_string())
            .or_insert_with(|| json!({ "description": reply.about, "content": {} }))["content"];
        add_content(content, reply, writing);
    }
    for status in refusals(route) {
        responses.insert(
            status.to_string(),
            json!({ "$ref": "#/components/responses/Problem" }),
        );
    }
    responses.insert(
        "default".into(),
        json!({ "$ref": "#/components/responses/Problem" }),
    );

    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "tags": [tag(route)],
        "responses": responses,
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    match &route.handler {
        Handler::Open(_) => operation["security"] = json!([]),
        Handler::Guarded(action, _) => operation["x-action"] = action.name().into(),
    }
    let request = route.body.as_ref().map(|body| {
        let mut content = Map::new();
        for (media, schema) in &body.media {
            content.insert((*media).to_owned(), json!({ "schema": schema(reading) }));
        }
        json!({ "required": !body.optional, "content": content })
    });
    (operation, request)
}

fn add_content(content: &mut Value, reply: &Reply, writing: &mut SchemaGenerator) {
    let new = reply.schema.map_or_else(
        || json!({ "type": "string" }),
        |schema| schema(writing).into(),
    );
    let schema = &mut content[reply.media]["schema"];
    // One status with two shapes: a task for a task, an array for an array.
    *schema = match schema.take() {
        Value::Null => new,
        old => json!({ "oneOf": [old, new] }),
    };
}

fn path_param(name: &str, generator: &mut SchemaGenerator) -> Value {
    let schema = String::json_schema(generator);
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

fn parameter(place: &str, param: &Param, generator: &mut SchemaGenerator) -> Value {
    let schema = param.shape.schema(generator);
    json!({ "name": param.name, "in": place, "description": param.about, "schema": schema })
}

/// The statuses of refusals: those that follow from what the row asks for, and those it names.
fn refusals(route: &Route) -> BTreeSet<u16> {
    let mut statuses: BTreeSet<u16> = route.refusals.iter().copied().collect();
    if matches!(route.handler, Handler::Guarded(..)) {
        statuses.extend([401, 403, 429, 503, 504]);
    }
    if !route.query.is_empty() || route.body.is_some() {
        statuses.insert(400);
    }
    if route.path_params().next().is_some() {
        statuses.insert(404);
    }
    if route.body.is_some() {
        statuses.extend([408, 413, 415, 422]);
    }
    statuses
}

/// What a path is about: its first segment after the version.
fn tag(route: &Route) -> &'static str {
    route
        .path
        .strip_prefix("/v1/")
        .and_then(|rest| rest.split('/').next())
        .unwrap_or("system")
}

fn tags(routes: &[Route]) -> Vec<Value> {
    let names: BTreeSet<_> = routes.iter().map(tag).collect();
    names
        .into_iter()
        .map(|name| json!({ "name": name }))
        .collect()
}

/// Names of types whose two schemas differ, or that refer to such a type.
fn differing(read: &Value, written: &Map<String, Value>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Value::Object(read) = read else {
        return names;
    };
    loop {
        let more: Vec<_> = read
            .iter()
            .filter(|(name, schema)| {
                let other = written.get(*name);
                !names.contains(*name)
                    && other.is_some_and(|other| other != *schema || refers(schema, &names))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return names;
        }
        names.extend(more);
    }
}

fn reference(value: &Value) -> Option<&str> {
    value
        .get("$ref")?
        .as_str()?
        .strip_prefix('#')?
        .strip_prefix(SCHEMAS)?
        .strip_prefix('/')
}

fn refers(schema: &Value, names: &BTreeSet<String>) -> bool {
    if reference(schema).is_some_and(|name| names.contains(name)) {
        return true;
    }
    match schema {
        Value::Object(fields) => fields.values().any(|value| refers(value, names)),
        Value::Array(items) => items.iter().any(|value| refers(value, names)),
        _ => false,
    }
}

fn rename(schema: &mut Value, names: &BTreeSet<String>) {
    let target = reference(schema)
        .filter(|name| names.contains(*name))
        .map(|name| format!("#{SCHEMAS}/{name}{INPUT}"));
    if let Some(target) = target {
        schema["$ref"] = target.into();
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(|value| rename(value, names)),
        Value::Array(items) => items.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}
