//! The `OpenAPI` document says what the router does.

use std::collections::BTreeSet;

use mesh_api::{openapi_document, route_list};
use mesh_messages::schema::Checker;
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::support::{ask, bare};

fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Checks a value against a schema of the document, whose references lead into the document.
#[track_caller]
fn conforms(document: &Value, schema: &Value, value: &Value) {
    let schema = json!({"components": document["components"], "allOf": [schema]});
    let errors = Checker::new(schema).expect("a schema").check(value);
    assert!(errors.is_empty(), "{errors:?} in {value}");
}

fn answer<'d>(document: &'d Value, path: &str, method: &str, status: &str) -> &'d Value {
    let media = &document["paths"][path][method]["responses"][status]["content"];
    &media["application/json"]["schema"]
}

#[tokio::test]
async fn the_document_is_served_as_it_is_made() {
    let served = bare("GET", "/openapi.json").send(&Fake::new()).await;
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(served.json(), openapi_document());
}

#[test]
fn document_and_router_know_the_same_routes() {
    let document = openapi_document();
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let routed: Vec<(String, String)> = route_list()
        .iter()
        .map(|(method, path)| (method.to_string(), path.replace("{*", "{")))
        .collect();
    let unique: BTreeSet<_> = routed.iter().cloned().collect();
    assert_eq!(unique.len(), routed.len(), "a route is there twice");
    assert_eq!(documented, unique);
}

#[test]
fn every_reference_resolves_and_every_operation_is_whole() {
    let document = openapi_document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        let pointer = reference
            .strip_prefix('#')
            .unwrap_or_else(|| panic!("{reference} leads elsewhere"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap()),
                "{path}"
            );
            assert!(!operation["summary"].as_str().unwrap().is_empty());
            let open = ["/healthz", "/openapi.json"].contains(&path.as_str());
            assert_eq!(operation.get("security").is_some(), open, "{path}");
            let named: BTreeSet<_> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap()))
                .collect();
            let braces: BTreeSet<_> = path
                .split('/')
                .filter(|segment| segment.starts_with('{'))
                .collect();
            assert_eq!(
                named.iter().map(String::as_str).collect::<BTreeSet<_>>(),
                braces,
                "{path}"
            );
            let responses = operation["responses"].as_object().unwrap();
            let success = responses.keys().any(|status| status.starts_with('2'));
            assert!(success, "{method} {path}");
            assert!(responses.contains_key("default"));
        }
    }
}

#[test]
fn every_schema_compiles() {
    let document = openapi_document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let schema = json!({"components": document["components"], "allOf": [schema]});
        assert!(Checker::new(schema).is_ok(), "{name}");
    }
}

#[test]
fn requests_ask_for_what_is_needed_and_answers_promise_what_is_there() {
    let document = openapi_document();
    let body = &document["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]["application/json"]
        ["schema"];
    conforms(&document, body, &json!({"type": "a"}));
    conforms(
        &document,
        body,
        &json!([{"requirements": ["a"]}, {"priority": "high"}]),
    );
    let schema = json!({"components": document["components"], "allOf": [body]});
    let checker = Checker::new(schema).unwrap();
    for wrong in [
        json!({"tipe": "a"}),
        json!([]),
        json!({"priority": "hihg"}),
        json!(7),
    ] {
        assert!(!checker.check(&wrong).is_empty(), "{wrong}");
    }
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["TaskSpec"].get("required"),
        None,
        "a submission may leave everything out"
    );
    let promised = schemas["Task"]["required"].as_array().unwrap();
    assert!(
        promised.contains(&"priority".into()) && promised.contains(&"state".into()),
        "{promised:?}"
    );
    let names: Vec<_> = schemas
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| name.ends_with("Input"))
        .collect();
    for name in names {
        assert_ne!(
            schemas[name],
            schemas[name.trim_end_matches("Input")],
            "{name} need not be there"
        );
    }
}

#[tokio::test]
async fn answers_conform_to_their_schemas() {
    let (document, fake) = (openapi_document(), Fake::new());
    ask("POST", "/v1/tasks")
        .json(r#"{"type":"quick","labels":{"a":"b"}}"#)
        .send(&fake)
        .await
        .answered(202);
    for (path, template) in [
        ("/status", "/status"),
        ("/v1/tasks", "/v1/tasks"),
        ("/v1/tasks/T0", "/v1/tasks/{id}"),
        ("/v1/tasks/T0?wait=1s", "/v1/tasks/{id}"),
        ("/v1/tasks/T0/explain", "/v1/tasks/{id}/explain"),
        ("/v1/agents/echo/status", "/v1/agents/{id}/status"),
        ("/v1/agents/nobody/status", "/v1/agents/{id}/status"),
        ("/v1/agents/echo/policy", "/v1/agents/{id}/policy"),
        ("/v1/agents/echo/memory", "/v1/agents/{id}/memory"),
        ("/v1/health", "/v1/health"),
    ] {
        let value = ask("GET", path).send(&fake).await.answered(200);
        conforms(&document, answer(&document, template, "get", "200"), &value);
    }
    let problem = ask("GET", "/v1/tasks?limit=0").send(&fake).await.json();
    conforms(
        &document,
        &document["components"]["schemas"]["Problem"],
        &problem,
    );
    let submitted = ask("POST", "/v1/tasks")
        .json("[{}]")
        .send(&fake)
        .await
        .answered(202);
    conforms(
        &document,
        answer(&document, "/v1/tasks", "post", "202"),
        &submitted,
    );
}
