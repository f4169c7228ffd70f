//! Several pullers of one model, as threads and as processes, and a puller with a size limit.

use std::process::Command;
use std::sync::{Arc, Barrier};

use crate::server::{Reply, Server};
use crate::{Home, MODEL, content, pull};

/// Set in the processes that a test starts of itself: the folder and the hub.
const CHILD: &str = "MINERVA_HUB_TEST_CHILD";

/// In a child, pulls and gives the error's text; in the test itself, nothing.
fn run_as_child() -> Option<Result<(), String>> {
    let task = std::env::var(CHILD).ok()?;
    let (home, endpoint) = task.split_once('\n').unwrap();
    let mut config = minerva_hub::HubConfig::new(home);
    config.hf_endpoint = endpoint.to_owned();
    Some(
        pull(&config, MODEL)
            .map(drop)
            .map_err(|error| error.to_string()),
    )
}

fn task(home: &Home, server: &Server) -> String {
    format!("{}\n{}", home.0.display(), server.url())
}

#[test]
fn threads_pull_a_model_once() {
    let bytes = content(300_000, 1);
    let served = bytes.clone();
    let server = Server::start(move |request| Reply::file(request, &served));
    let home = Home::new();
    let config = home.config(&server.url());
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                let path = pull(&config, MODEL).unwrap().path;
                assert!(std::fs::read(path).unwrap() == bytes);
            });
        }
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn processes_pull_a_model_once() {
    if let Some(result) = run_as_child() {
        return result.unwrap();
    }
    let bytes = content(300_000, 1);
    let served = bytes.clone();
    let server = Arc::new(Server::start(move |request| Reply::file(request, &served)));
    let home = Home::new();
    let children: Vec<_> = (0..3)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "processes::processes_pull_a_model_once"])
                .env(CHILD, task(&home, &server))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(std::fs::read(home.0.join("owner/repo/m.gguf")).unwrap() == bytes);
    assert_eq!(server.requests().len(), 1);
}

/// A limit on file sizes is what an ordinary user can set; the system reports it like a full
/// disk, in the middle of a write.
#[cfg(target_os = "linux")]
#[test]
fn a_write_that_fails_is_a_full_disk_and_the_part_goes_on_later() {
    if let Some(result) = run_as_child() {
        let error = result.unwrap_err();
        assert!(
            error.contains("the disk is full or a size limit is reached"),
            "{error}"
        );
        return;
    }
    let bytes = content(300_000, 1);
    let served = bytes.clone();
    let server = Server::start(move |request| Reply::file(request, &served));
    let home = Home::new();
    // 200 blocks of 512 bytes; with the signal ignored the write fails instead.
    let child = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 200; exec \"$0\" --exact \"$1\"",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg("processes::a_write_that_fails_is_a_full_disk_and_the_part_goes_on_later")
        .env(CHILD, task(&home, &server))
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stdout)
    );
    let path = pull(&home.config(&server.url()), MODEL).unwrap().path;
    assert!(std::fs::read(path).unwrap() == bytes);
}
