//! What is generated from the code: the reference of the settings, the text of the figures.

use std::collections::HashSet;
use std::path::Path;

use minerva_server::{ErrorCode, METRICS, ROUTES};
use serde_json::{Value, json};

use crate::api::ApiServer;
use crate::server::{OPENAPI, TestServer};

/// Holds a part of a page, between two comments, to what the code says; with `UPDATE` set it is
/// written anew.
fn check_generated(page: &str, name: &str, wanted: &str) {
    let (begin, end) = (
        format!("<!-- {name}:begin -->\n"),
        format!("<!-- {name}:end -->"),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(&begin).unwrap();
    let (found, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{begin}{wanted}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        found, wanted,
        "docs/{page} is old: UPDATE=1 cargo test -p minerva-server documents makes it anew"
    );
}

#[test]
fn the_reference_of_the_settings_is_current() {
    check_generated("configuration.md", "settings", &minerva_server::reference());
}

#[test]
fn the_table_of_errors_is_current() {
    let mut table = "| status | code | cause | what to do |\n|---|---|---|---|\n".to_owned();
    for code in ErrorCode::ALL {
        let status = code.status().as_u16();
        let (name, cause, mend) = (code.code(), code.cause(), code.mend());
        table += &format!("| {status} | `{name}` | {cause} | {mend} |\n");
    }
    check_generated("troubleshooting.md", "errors", &table);
}

#[test]
fn methods_are_as_described() {
    let server = TestServer::start("methods");
    for route in ROUTES {
        let twin = format!("/v1{}", route.path);
        let described = ROUTES
            .iter()
            .find(|route| route.path == twin)
            .unwrap_or(route);
        let path = described.path.replace("{*", "{");
        let operations = OPENAPI["paths"][&path].as_object().unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            let path = route.path.replace("{id}", "x").replace("{*id}", "x");
            let path = path.replace("{file}", "start.js");
            let answer = server.raw(&format!(
                "{} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Authorization: Bearer x\r\nContent-Length: 0\r\n\r\n",
                method.to_uppercase()
            ));
            // Keys are made with a key only, and that is looked at first.
            let is_there = !answer.starts_with("HTTP/1.1 405");
            let is_described = operations.contains_key(method) || path.starts_with("/admin");
            assert_eq!(is_there, is_described, "{method} {path}: {answer}");
        }
    }
}

/// A value that no field of this schema takes.
fn wrong_value(schema: &Value) -> Value {
    let text = schema.to_string();
    let may_be_text = ["\"string\"", "\"enum\"", "\"$ref\""];
    match may_be_text.iter().any(|part| text.contains(part)) {
        true => json!(1.5),
        false => json!("wrong"),
    }
}

#[test]
fn every_described_field_is_read() {
    let server = ApiServer::start("described");
    let messages = json!([{"role": "user", "content": "abc"}]);
    for (path, request, needed) in [
        (
            "/v1/chat/completions",
            "ChatRequest",
            json!({"messages": messages}),
        ),
        (
            "/apply-template",
            "ChatRequest",
            json!({"messages": messages}),
        ),
        (
            "/v1/completions",
            "CompletionRequest",
            json!({"prompt": "abc"}),
        ),
        ("/v1/responses", "ResponseRequest", json!({"input": "abc"})),
        ("/tokenize", "TokenizeRequest", json!({"content": "abc"})),
        ("/detokenize", "DetokenizeRequest", json!({"tokens": [270]})),
    ] {
        let schema = &OPENAPI["components"]["schemas"][request];
        assert_eq!(schema["additionalProperties"], false, "{request}");
        let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
        for (name, schema) in schema["properties"].as_object().unwrap() {
            let mut body = needed.clone();
            body[name] = wrong_value(schema);
            let error = server.post(path, &body);
            let message = error.json()["error"]["message"].to_string();
            assert_eq!(error.status, 400, "{path} {body}: {error:?}");
            assert!(!message.contains("no such field"), "{message}");
            assert!(
                message.contains(name.as_str()) || request.ends_with("kenizeRequest"),
                "{message}"
            );
            let is_needed = required.contains(&json!(name));
            body[name] = Value::Null;
            if request.ends_with("kenizeRequest") {
                continue;
            }
            if is_needed {
                server.post(path, &body).fails(400, "invalid_request");
            } else if name != "input" {
                body["max_tokens"] = json!(1);
                if path == "/v1/responses" {
                    body.as_object_mut().unwrap().remove("max_tokens");
                    body["max_output_tokens"] = json!(1);
                }
                let answer = server.post(path, &body);
                assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
            }
        }
        let mut body = needed.clone();
        body["no_such_field"] = Value::Null;
        let refused = server.post(path, &body);
        assert_eq!(refused.status, 400, "{path}");
        // Each field that can have one value has it in the description.
        for (name, schema) in schema["properties"].as_object().unwrap() {
            for value in schema["enum"].as_array().into_iter().flatten() {
                let mut body = needed.clone();
                body["max_tokens"] = json!(1);
                if path == "/v1/responses" {
                    body.as_object_mut().unwrap().remove("max_tokens");
                    body["max_output_tokens"] = json!(1);
                }
                body[name] = value.clone();
                let answer = server.post(path, &body);
                assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
            }
        }
    }
}

#[test]
fn the_page_has_its_files() {
    let server = TestServer::start("docs");
    let page = server.get("/docs");
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    for name in page.text.split("docs/").skip(1) {
        let name = name.split('"').next().unwrap();
        let request = format!("GET /docs/{name} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let head = server.head(&request);
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    }
    server.get("/docs/nothing").fails(404, "unknown_url");
    assert_eq!(server.get("/openapi.json").json(), *OPENAPI);
    // Where a key is needed, it says so.
    server.key(crate::server::new_key("app"));
    let security = &server.get("/openapi.json").json()["paths"]["/v1/models"]["get"]["security"];
    assert_eq!(*security, json!([{"bearer": []}, {"x-api-key": []}]));
}

#[test]
fn figures_are_prometheus_text() {
    let server = TestServer::start("figures");
    server.get("/health/live");
    server.get("/nothing");
    server.post_as("", "/test/echo", "{");
    let model = server.state.metrics().model("tiny \"one\"\n");
    model.set_waiting(2);
    model.first_token(std::time::Duration::from_millis(3));
    let answer = server.get("/metrics");
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = answer.text;
    for line in [
        "minerva_http_requests_total{method=\"GET\",route=\"/health/live\",status=\"200\"} 1",
        "minerva_http_requests_total{method=\"GET\",route=\"other\",status=\"404\"} 1",
        "minerva_errors_total{code=\"unknown_url\"} 1",
        "minerva_errors_total{code=\"invalid_request\"} 1",
        "minerva_requests_waiting{model=\"tiny \\\"one\\\"\\n\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // Every sample is of a metric that has its help and type, and stands once.
    let names: HashSet<&str> = METRICS
        .iter()
        .flat_map(|metric| [Some(metric.name), metric.alias])
        .flatten()
        .collect();
    let mut samples = HashSet::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(samples.insert(sample), "{line}");
        let name = sample.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .filter(|family| names.contains(family))
            .unwrap_or(name);
        assert!(names.contains(family), "{line}");
        for comment in ["HELP", "TYPE"] {
            let start = format!("# {comment} {family} ");
            assert_eq!(
                text.lines().filter(|line| line.starts_with(&start)).count(),
                1,
                "{start}"
            );
        }
    }
}
