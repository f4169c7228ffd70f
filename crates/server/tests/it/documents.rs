//! What is generated from the code: the reference of the settings, the text of the figures.

use std::collections::HashSet;
use std::path::Path;

use minerva_server::METRICS;

use crate::server::TestServer;

#[test]
fn the_reference_of_the_settings_is_current() {
    const BEGIN: &str = "<!-- settings:begin -->\n";
    const END: &str = "<!-- settings:end -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let wanted = minerva_server::reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        found, wanted,
        "docs/configuration.md is old: UPDATE=1 cargo test -p minerva-server documents makes it anew"
    );
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
