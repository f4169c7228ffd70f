//! Chat templates of strangers: whatever they do, it is an error, and nothing else is harmed.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::model::TinyModel;
use crate::service::Service;
use crate::{Folder, minerva};

/// Templates that take what they can, and what is said of each.
fn hostile() -> Vec<(&'static str, String, &'static str)> {
    let start = "{% set ns = namespace(a='x', b='x') %}";
    let double = "{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}\
                  {% set ns.b = [ns.b, ns.b] %}{% endfor %}";
    let doubled_text = "{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}";
    let joined = "{% set s = 'x' * 16000000 %}{{ ','.join([s] * 1000) | length }}";
    vec![
        ("long", "{{ 'a' * 10**12 }}".into(), "more work or memory"),
        (
            "doubled",
            format!("{start}{doubled_text}"),
            "more work or memory",
        ),
        (
            "endless",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".into(),
            "more work or memory",
        ),
        ("joined", joined.into(), "more memory than the 512 MiB"),
        (
            "itself",
            format!("{start}{{% set ns.a = ns %}}{{{{ ns ~ '' }}}}"),
            "nested deeper than its stack",
        ),
        (
            "compared",
            format!("{start}{double}{{{{ ns.a == ns.b }}}}"),
            "it ran for 5 s",
        ),
        (
            "printed",
            format!("{start}{double}{{{{ ns.a }}}}"),
            "more work or memory",
        ),
        (
            "calling",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(),
            "recursion limit exceeded",
        ),
    ]
}

/// Whether an error names the problem; on a machine that has much to do, time may be it first.
fn names(error: &str, problem: &str) -> bool {
    error.contains(problem) || error.contains("it ran for 5 s, expected less")
}

/// Writes a model with a template, under a name.
fn write(folder: &Folder, name: &str, template: &str) -> String {
    let mut model = TinyModel::new();
    model.metadata.insert("tokenizer.chat_template", template);
    let path = folder.path(&format!("{name}.gguf"));
    std::fs::write(&path, model.bytes()).unwrap();
    path
}

fn chat(model: &str) -> String {
    json!({"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]})
        .to_string()
}

#[test]
fn run_says_what_a_template_went_over() {
    let folder = Folder::new("hostile-run");
    for (name, template, problem) in hostile() {
        let path = write(&folder, name, &template);
        let ran = minerva(&folder, &["run", &path, "hi"]);
        assert!(names(&ran.stderr, problem), "{name}: {ran:?}");
        ran.fails(&["error: chat template: "]);
    }
    // A long chain of operators is as deep to the compiler; whether it is too much or not, it is no
    // crash.
    for (link, args) in [("x~", &["run", "hi", "-n", "1"][..]), ("-", &["verify"])] {
        let template = format!("{{{{ {}x }}}}", link.repeat(250_000 / link.len()));
        let path = write(&folder, "chain", &template);
        let ran = minerva(&folder, &[&args[..1], &[&path], &args[1..]].concat());
        assert!(matches!(ran.status, Some(0 | 1)), "{link}: {ran:?}");
    }
    let path = write(&folder, "large", &" ".repeat(1 << 19));
    minerva(&folder, &["run", &path, "hi"]).fails(&["chat template: source: 524288 bytes"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_service_outlives_hostile_templates() {
    let folder = Folder::new("hostile-serve");
    let hostile = hostile();
    let mut paths: Vec<String> = hostile
        .iter()
        .map(|(name, template, _)| write(&folder, name, template))
        .collect();
    paths.push(write(&folder, "good", "{{ messages[0].content }}"));
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let service = Service::start(&folder, &[&paths[..], &["-c", "64"]].concat());
    service.wait_until_ready();
    let answered = service.post("/v1/chat/completions", &chat("good"));
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");

    let before = peak_bytes(service.id());
    thread::scope(|scope| {
        for (name, _, problem) in &hostile {
            let service = &service;
            scope.spawn(move || {
                for _ in 0..2 {
                    let refused = service.post("/v1/chat/completions", &chat(name));
                    assert!(refused.starts_with("HTTP/1.1 400"), "{name}: {refused}");
                    let named = format!("chat template of model {name}: ");
                    assert!(refused.contains(&named), "{name}: {refused}");
                    assert!(names(&refused, problem), "{name}: {refused}");
                }
            });
        }
        for _ in 0..20 {
            let answered = service.post("/v1/chat/completions", &chat("good"));
            assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
        }
    });
    let grown = peak_bytes(service.id()) - before;
    assert!(grown < 32 << 20, "the service took {grown} bytes more");
    let renders = |name: &str| name == "chat-template";
    assert!(!thread_names(service.id()).iter().any(|name| renders(name)));

    // Each template has at most its process; one that is killed by others is replaced.
    let processes = children(service.id());
    assert!(processes.len() <= hostile.len() + 1, "{processes:?}");
    for process in &processes {
        kill(*process);
    }
    let answered = service.post("/v1/chat/completions", &chat("good"));
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");

    // They end with the service, in whatever way it ends.
    let processes = children(service.id());
    assert!(!processes.is_empty());
    kill(service.id());
    service.wait();
    crate::service::wait_until(|| processes.iter().all(|process| !is_alive(*process)));
}

#[test]
#[cfg(target_os = "linux")]
fn a_service_that_is_ended_waits_for_no_template() {
    let folder = Folder::new("hostile-end");
    let compared = |(name, ..): &(&str, String, &str)| *name == "compared";
    let (name, template, _) = hostile().into_iter().find(compared).unwrap();
    let path = write(&folder, name, &template);
    let service = Service::start(&folder, &[&path]);
    service.wait_until_ready();
    let processes = children(service.id());
    let mut request = service.post_only("/v1/chat/completions", &chat(name));
    crate::service::wait_until(|| processes.iter().any(|process| is_running(*process)));
    service.signal("TERM");
    crate::service::wait_until(|| service.log().contains("draining"));
    service.signal("TERM");
    let start = Instant::now();
    let (status, log) = service.wait();
    assert_eq!(status, Some(0), "{log}");
    assert!(start.elapsed() < Duration::from_secs(3), "{log}");
    let mut answer = Vec::new();
    // It broke off.
    let _ = request.read_to_end(&mut answer);
    crate::service::wait_until(|| processes.iter().all(|process| !is_alive(*process)));
}

/// Whether a process computes just now.
#[cfg(target_os = "linux")]
fn is_running(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    let mut threads = threads.into_iter().flatten();
    threads.any(|thread| {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status"));
        status.is_ok_and(|status| status.contains("State:\tR"))
    })
}

#[cfg(target_os = "linux")]
fn status_of(process: u32) -> String {
    std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default()
}

/// The most memory that a process had.
#[cfg(target_os = "linux")]
fn peak_bytes(process: u32) -> u64 {
    let status = status_of(process);
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[cfg(target_os = "linux")]
fn thread_names(process: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let name = |thread: std::io::Result<std::fs::DirEntry>| {
        let comm = std::fs::read_to_string(thread.unwrap().path().join("comm"));
        comm.unwrap_or_default().trim().to_owned()
    };
    threads.map(name).collect()
}

#[cfg(target_os = "linux")]
fn children(process: u32) -> Vec<u32> {
    let ids = std::fs::read_dir("/proc").unwrap();
    let ids = ids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let parent = format!("PPid:\t{process}\n");
    ids.filter(|&id| is_alive(id) && status_of(id).contains(&parent))
        .collect()
}

#[cfg(target_os = "linux")]
fn is_alive(process: u32) -> bool {
    let status = status_of(process);
    !status.is_empty() && !status.contains("State:\tZ")
}

#[cfg(target_os = "linux")]
fn kill(process: u32) {
    let command = format!("kill -KILL {process}");
    let status = std::process::Command::new("sh")
        .args(["-c", &command])
        .status();
    assert!(status.unwrap().success());
}
