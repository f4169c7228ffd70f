//! `minerva serve`, `minerva key` and `minerva config`, as a user drives them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::model::TinyModel;
use crate::{Folder, command, minerva};

/// What never happens fails a test instead of holding it up for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what another process does.
#[track_caller]
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        std::thread::yield_now();
    }
}

/// A server that runs, and is killed if a test fails before its end.
pub(crate) struct Service {
    child: Child,
    address: String,
    log: String,
}

impl Service {
    /// Starts with a free port, and waits for the line that says where it listens.
    pub(crate) fn start(folder: &Folder, args: &[&str]) -> Self {
        Self::start_with(folder, args, &[])
    }

    fn start_with(folder: &Folder, args: &[&str], env: &[(&str, &str)]) -> Self {
        let log = folder.path("serve.log");
        let mut command = command(folder, &[&["serve", "--port", "0"], args].concat());
        command.envs(env.iter().copied());
        // A pipe that nobody reads would stop the server when it is full.
        command.stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit_once("http://").unwrap().1;
        Self {
            child,
            address: address.to_owned(),
            log,
        }
    }

    /// The head and body of an answer.
    fn get(&self, path: &str, header: &str) -> String {
        read(self.send("GET", path, header, ""))
    }

    /// The head and body of the answer to JSON.
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        read(self.post_only(path, body))
    }

    /// Sends JSON, and leaves the answer unread.
    pub(crate) fn post_only(&self, path: &str, body: &str) -> TcpStream {
        let len = body.len();
        let header = format!("Content-Type: application/json\r\nContent-Length: {len}\r\n");
        self.send("POST", path, &header, body)
    }

    fn send(&self, method: &str, path: &str, header: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let general = "Host: localhost\r\nConnection: close";
        let request = format!("{method} {path} HTTP/1.1\r\n{general}\r\n{header}\r\n{body}");
        socket.write_all(request.as_bytes()).unwrap();
        socket
    }

    /// Waits until its models are loaded.
    pub(crate) fn wait_until_ready(&self) {
        wait_until(|| !self.get("/health", "").starts_with("HTTP/1.1 503"));
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &command])
                .status()
                .unwrap()
                .success()
        );
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for the end; gives the exit status and the log.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut ended = None;
        wait_until(|| {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let status = ended.unwrap();
        (status.code(), self.log())
    }
}

/// All that comes out of a socket.
fn read(mut socket: TcpStream) -> String {
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let folder = Folder::new("keys");
    let list = || minerva(&folder, &["key", "list", "--format", "json"]).json();
    assert_eq!(list(), json!({"keys": []}));
    let key = minerva(&folder, &["key", "create", "app"]).ok();
    assert!(key.starts_with("mnv-") && key.len() == 82, "{key}");
    let options = [
        "--scope",
        "metrics,admin",
        "--model",
        "tiny",
        "--concurrency",
        "2",
        "--tokens-per-day",
        "1000",
    ];
    let args = [&["key", "create", "ops", "--format", "json"], &options[..]].concat();
    let made = minerva(&folder, &args).json();
    assert_eq!(made["scopes"], json!(["metrics", "admin"]));
    assert_eq!(made["limits"]["tokens_per_day"], 1000);
    assert!(
        made["key"]
            .as_str()
            .unwrap()
            .contains(made["id"].as_str().unwrap())
    );

    let table = minerva(&folder, &["key", "list"]).ok();
    assert!(table.contains("1000 tok/day, 2 at once"), "{table}");
    assert!(!table.contains(key.trim()));
    minerva(&folder, &["key", "revoke", "app"]).ok();
    minerva(&folder, &["key", "revoke", "app"]).fails(&["app: no such key"]);
    let revoked: Vec<bool> = list()["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| !key["revoked"].is_null())
        .collect();
    assert_eq!(revoked.iter().filter(|&&revoked| revoked).count(), 1);
    let exported = minerva(&folder, &["key", "export"]).ok();
    let file = folder.path("keys.json");
    std::fs::write(&file, &exported).unwrap();
    let records: Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1);
    assert_eq!(records[0]["id"], made["id"]);
    minerva(&folder, &["key", "create", ""]).fails(&["name: 0 characters, expected 1 to 100"]);
    minerva(&folder, &["key", "create", "a", "--concurrency", "0"])
        .fails(&["concurrency: 0, expected 1 to"]);
    let text = folder.path("notes.txt");
    std::fs::write(&text, "no database").unwrap();
    minerva(&folder, &["key", "list", "--keys-file", &text]).fails(&["notes.txt: "]);
}

#[test]
fn settings_are_checked_and_shown() {
    let folder = Folder::new("settings");
    let file = folder.path("minerva.toml");
    std::fs::write(&file, "[listen]\nport = 1234\n[log]\nformat = \"json\"\n").unwrap();
    let shown = minerva(
        &folder,
        &[
            "config",
            "show",
            "--config",
            &file,
            "--allow-host",
            "a,b",
            "--allow-host",
            "c",
        ],
    )
    .ok();
    for line in [
        &format!("port = 1234 # {file}"),
        "allowed_hosts = [\"a\", \"b\", \"c\"] # --allow-host",
        "host = \"127.0.0.1\" # default",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    // What is shown is a settings file.
    std::fs::write(&file, &shown).unwrap();
    minerva(&folder, &["config", "check", "--config", &file]).ok();

    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        minerva(&folder, &["config", "check", "--config", &file])
    };
    check("[listen]\nprot = 1\n")
        .fails(&["minerva.toml: listen.prot: no such setting, expected one of listen.host"]);
    check("[listne]\n").fails(&["listne: no such setting, expected one of [listen], [tls]"]);
    check("[listen]\nport = \"x\"\n")
        .fails(&["listen.port: \"x\", expected a whole number from 0 to 65535"]);
    check("[listen\n").fails(&["minerva.toml: line 1: "]);
    let missing = folder.path("missing.toml");
    let refused = minerva(&folder, &["config", "check", "--config", &missing]);
    assert_eq!(
        refused.stderr.matches("No such file").count(),
        1,
        "{refused:?}"
    );
    refused.fails(&["missing.toml: "]);
    let cert = [
        "serve",
        "--port",
        "0",
        "--tls-cert",
        &missing,
        "--tls-key",
        &missing,
    ];
    let refused = minerva(&folder, &cert);
    refused.fails(&["tls: ", "missing.toml with "]);
    minerva(&folder, &["serve", "--port", "http"])
        .fails(&["--port: listen.port: \"http\", expected a whole"]);
}

#[test]
fn a_public_address_needs_a_key() {
    let folder = Folder::new("public");
    let serve = ["serve", "--port", "0", "--host", "0.0.0.0"];
    minerva(&folder, &serve).fails(&[
        "a public address without API keys",
        "minerva key create NAME",
    ]);
}

#[test]
#[cfg(unix)]
fn a_server_takes_keys_reloads_and_drains() {
    let folder = Folder::new("serve");
    let file = folder.path("minerva.toml");
    std::fs::write(&file, "").unwrap();
    let service = Service::start(&folder, &["--config", &file, "--log-format", "json"]);
    assert!(service.get("/health", "").starts_with("HTTP/1.1 200"));
    assert!(service.get("/admin/keys", "").starts_with("HTTP/1.1 401"));
    assert!(
        service
            .get("/metrics", "")
            .contains("minerva_build_info{version=")
    );

    let key = minerva(&folder, &["key", "create", "ops", "--scope", "metrics"]).ok();
    // The server looks at the database by itself.
    wait_until(|| service.get("/metrics", "").starts_with("HTTP/1.1 401"));
    let header = format!("Authorization: Bearer {key}").replace('\n', "\r\n");
    assert!(service.get("/metrics", &header).starts_with("HTTP/1.1 200"));

    std::fs::write(&file, "[auth]\nmode = \"off\"\n").unwrap();
    service.signal("HUP");
    wait_until(|| service.get("/metrics", "").starts_with("HTTP/1.1 200"));
    service.signal("TERM");
    let (status, log) = service.wait();
    assert_eq!(status, Some(0), "{log}");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let answered = lines
        .iter()
        .find(|line| line["message"] == "answered")
        .unwrap();
    assert_eq!(answered["span"]["route"], "/admin/keys");
    assert_eq!(answered["status"], 401);
    assert!(answered["span"]["id"].as_str().unwrap().starts_with("req_"));
    for message in ["reloaded", "draining"] {
        assert!(lines.iter().any(|line| line["message"] == message), "{log}");
    }
    assert!(!log.contains(key.trim()));
}

#[test]
#[cfg(unix)]
fn models_of_the_command_line_are_loaded_at_the_start() {
    let folder = Folder::new("serve-model");
    let path = TinyModel::new().write(&folder);
    let service = Service::start(&folder, &[&path, "-c", "64", "--parallel", "2"]);
    service.wait_until_ready();
    let models = service.get("/v1/models", "");
    for part in [
        "\"id\":\"tiny\"",
        "\"state\":\"ready\"",
        "\"context_window\":64",
        "\"max_parallel\":2",
    ] {
        assert!(models.contains(part), "{part}\n{models}");
    }
    service.signal("TERM");
    assert_eq!(service.wait().0, Some(0));

    let missing = folder.path("missing.gguf");
    minerva(&folder, &["serve", "--port", "0", &missing]).fails(&["missing.gguf: "]);
    // It listens, and ends when the model turns out to be none.
    let broken = TinyModel::without("llama.block_count").write(&folder);
    let service = Service::start(&folder, &[&broken]);
    let (status, log) = service.wait();
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains("error: key llama.block_count: "), "{log}");
}

#[test]
#[cfg(target_os = "linux")]
fn systemd_is_told_of_start_reload_and_end() {
    let folder = Folder::new("systemd");
    let path = folder.path("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let n_bytes = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n_bytes].to_vec()).unwrap()
    };
    let service = Service::start_with(&folder, &[], &[("NOTIFY_SOCKET", &path)]);
    assert_eq!(told(), "READY=1\n");
    service.signal("HUP");
    let reloading = told();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(told(), "READY=1\n");
    service.signal("TERM");
    assert_eq!(told(), "STOPPING=1\n");
    assert_eq!(service.wait().0, Some(0));
}
