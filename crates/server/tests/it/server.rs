//! A server on a port of its own, with routes that do what an engine's would.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery};
use axum::routing::{get, post};
use axum::{Extension, Json};
use futures_util::stream;
use minerva_compute::cpu::CpuOptions;
use minerva_compute::{
    Backend, BackendError, Batch, CpuBackend, DType, DeviceError, Executable, Limits, Memory,
    Program,
};
use minerva_engine::Backends;
use minerva_engine::chat::renderer::in_process;
use minerva_server::{
    Access, ApiError, ApiJson, AppState, Caller, Clock, DeviceFallback, KeyLimits, KeyStore,
    Loaded, NewKey, ROUTES, Route, Scope, ServeError, Server, TokensUsed, open_models, router_of,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Routes that take tokens, stream, echo and panic.
const TEST_ROUTES: &[Route] = &[
    Route {
        path: "/test/answer",
        access: Access::Work,
        methods: || get(answer),
        operations: &[],
    },
    Route {
        path: "/test/stream/{gate}",
        access: Access::Work,
        methods: || get(stream),
        operations: &[],
    },
    Route {
        path: "/test/echo",
        access: Access::Work,
        methods: || post(async |ApiJson(value): ApiJson<Value>| Json(value)),
        operations: &[],
    },
    Route {
        path: "/test/panic",
        access: Access::Work,
        methods: || get(panics),
        operations: &[],
    },
];

async fn panics() {
    panic!("the secret of another request");
}

/// Takes `reserve` tokens, uses `used` of them, as a key for `model`.
async fn answer(
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let query = query.unwrap_or_default();
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let number = |name| value(name).map_or(0, |text| text.parse().unwrap());
    if let Some(model) = value("model") {
        caller.identity().check_model(model)?;
    }
    let mut charge = caller.charge(number("reserve"))?;
    charge.set_used(TokensUsed {
        prompt: number("used"),
        completion: 0,
    });
    Ok(Json(json!({"tenant": caller.tenant()})))
}

/// Streams that wait to be told to finish, by the name of their gate.
static GATES: LazyLock<Mutex<HashMap<String, Arc<Notify>>>> = LazyLock::new(Mutex::default);

/// The gate of a name, which no other test may use.
pub(crate) fn gate(name: &str) -> Arc<Notify> {
    Arc::clone(GATES.lock().unwrap().entry(name.to_owned()).or_default())
}

/// Sends `begin`, waits at the gate, sends `end`; or an error if it must break off before.
async fn stream(Extension(caller): Extension<Caller>, Path(name): Path<String>) -> Body {
    let gate = gate(&name);
    Body::from_stream(stream::unfold(0, move |step| {
        let (caller, gate) = (caller.clone(), Arc::clone(&gate));
        async move {
            let text = match step {
                0 => "begin\n".to_owned(),
                1 => tokio::select! {
                    () = gate.notified() => "end\n".to_owned(),
                    error = caller.ended() => format!("data: {}\n", error.to_json()),
                },
                _ => return None,
            };
            Some((Ok::<_, std::io::Error>(Bytes::from(text)), step + 1))
        }
    }))
}

/// A folder that is removed at the end of a test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("minerva-server-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A key for inference without limits.
pub(crate) fn new_key(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        scopes: vec![Scope::Infer],
        models: None,
        limits: KeyLimits::default(),
    }
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HashMap<String, String>,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Asserts an error of this status and code, and gives its message.
    #[track_caller]
    pub(crate) fn fails(&self, status: u16, code: &str) -> String {
        let body = self.json();
        let error = &body["error"];
        assert_eq!(
            (self.status, error["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        assert_eq!(body.as_object().unwrap().len(), 1);
        let fields: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["message", "type", "param", "code"]);
        error["message"].as_str().unwrap().to_owned()
    }
}

/// The backend, whose steps panic or fail when they are told to.
struct Faulty {
    backend: CpuBackend,
    is_faulty: Arc<AtomicBool>,
    is_lost: Arc<AtomicBool>,
}

struct FaultyProgram {
    program: Box<dyn Executable>,
    is_faulty: Arc<AtomicBool>,
    is_lost: Arc<AtomicBool>,
}

impl Backend for Faulty {
    fn description(&self) -> String {
        "GPU".into()
    }

    fn kernel(&self, dtype: DType) -> String {
        self.backend.kernel(dtype)
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        self.backend.plan(program, limits)
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        Ok(Box::new(FaultyProgram {
            program: self.backend.load(program, limits)?,
            is_faulty: Arc::clone(&self.is_faulty),
            is_lost: Arc::clone(&self.is_lost),
        }))
    }
}

impl Executable for FaultyProgram {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        if self.is_lost.swap(false, Ordering::SeqCst) {
            return Err(DeviceError::Lost("told to go".into()));
        }
        assert!(!self.is_faulty.load(Ordering::SeqCst), "told to fail");
        self.program.run(batch)
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.program.copy_block(from, to)
    }

    fn limits(&self) -> Limits {
        self.program.limits()
    }

    fn memory(&self) -> Memory {
        self.program.memory()
    }
}

/// A server that runs.
pub(crate) struct TestServer {
    pub(crate) state: AppState,
    pub(crate) address: SocketAddr,
    pub(crate) store: KeyStore,
    pub(crate) folder: Folder,
    /// While it is set, every step panics.
    pub(crate) is_faulty: Arc<AtomicBool>,
    /// Once it is set, the next step loses the device.
    pub(crate) is_lost: Arc<AtomicBool>,
    now_ms: Arc<AtomicU64>,
    agent: ureq::Agent,
    running: Option<JoinHandle<Result<(), ServeError>>>,
    runtime: Runtime,
}

impl TestServer {
    /// A server with default settings and no keys.
    pub(crate) fn start(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// A server whose settings are changed before it starts.
    pub(crate) fn with(name: &str, change: impl FnOnce(&mut Loaded)) -> Self {
        let folder = Folder::new(name);
        let store = KeyStore::new(folder.0.join("keys.redb"));
        let mut settings = Loaded::default();
        settings.config.listen.port = 0;
        settings.config.auth.keys_file = Some(store.path().to_owned());
        change(&mut settings);
        let now_ms = Arc::new(AtomicU64::new(1_800_000_000_000));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let clock = Clock::Manual(Arc::clone(&now_ms));
        let cpu = || {
            let options = CpuOptions {
                threads: Some(1),
                ..CpuOptions::default()
            };
            CpuBackend::new(&options).unwrap()
        };
        let is_faulty = Arc::new(AtomicBool::new(false));
        let is_lost = Arc::new(AtomicBool::new(false));
        let faulty = Faulty {
            backend: cpu(),
            is_faulty: Arc::clone(&is_faulty),
            is_lost: Arc::clone(&is_lost),
        };
        let fallback: Option<Arc<dyn Backend>> = match settings.config.engine.device_fallback {
            DeviceFallback::None => None,
            DeviceFallback::Cpu => Some(Arc::new(cpu())),
        };
        let backends = Backends {
            first: Arc::new(faulty),
            fallback,
        };
        let models = open_models(&settings.config, backends, in_process).unwrap();
        let state = AppState::new(settings, clock, models).unwrap();
        let server = runtime.block_on(Server::bind(state.clone())).unwrap();
        let address = server.address();
        let routes = [ROUTES, TEST_ROUTES].concat();
        let router = router_of(state.clone(), &routes);
        let running = runtime.spawn(server.run(router));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            state,
            address,
            store,
            folder,
            is_faulty,
            is_lost,
            now_ms,
            agent,
            running: Some(running),
            runtime,
        }
    }

    /// Makes a key by the server's own database, as `minerva key` does, and has the server see it.
    pub(crate) fn key(&self, new: NewKey) -> (String, String) {
        let (record, key) = self.store.create(new, self.now()).unwrap();
        self.sync();
        (record.id, key)
    }

    /// What the server does by itself each second.
    pub(crate) fn sync(&self) {
        self.runtime.block_on(self.state.sync());
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::SeqCst))
    }

    pub(crate) fn advance(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        finish("get", path, self.agent.get(self.url(path)).call())
    }

    pub(crate) fn get_as(&self, key: &str, path: &str) -> Answer {
        let request = self.agent.get(self.url(path));
        let request = request.header("authorization", format!("Bearer {key}"));
        finish("get", path, request.call())
    }

    pub(crate) fn delete_as(&self, key: &str, path: &str) -> Answer {
        let request = self.agent.delete(self.url(path));
        let request = request.header("authorization", format!("Bearer {key}"));
        finish("delete", path, request.call())
    }

    pub(crate) fn post_as(&self, key: &str, path: &str, body: &str) -> Answer {
        let request = self
            .agent
            .post(self.url(path))
            .content_type("application/json");
        finish("post", path, request.header("x-api-key", key).send(body))
    }

    /// Sends bytes, and gives what comes back until the server closes.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Sends bytes, and gives the head of what comes back.
    pub(crate) fn head(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer);
        text.split("\r\n\r\n").next().unwrap().to_owned()
    }

    /// Opens a stream and reads its first line.
    pub(crate) fn open_stream(&self, key: &str, gate: &str) -> Stream {
        let request = self.agent.get(self.url(&format!("/test/stream/{gate}")));
        let response = request
            .header("authorization", format!("Bearer {key}"))
            .call()
            .unwrap();
        assert_eq!(response.status(), 200);
        let mut stream = Stream(response.into_body().into_reader());
        assert_eq!(stream.line(), "begin\n");
        stream
    }

    /// Posts, and reads as it comes.
    pub(crate) fn post_stream(&self, key: &str, path: &str, body: &str) -> Stream {
        let request = self.agent.post(self.url(path));
        let request = request.content_type("application/json");
        let response = request.header("x-api-key", key).send(body).unwrap();
        assert_eq!(response.status(), 200);
        Stream(response.into_body().into_reader())
    }

    /// Posts, and does not wait for an answer; the client goes away when the socket is dropped.
    pub(crate) fn post_stream_in_background(&self, path: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).unwrap();
        socket
    }

    /// Waits until the server has ended.
    pub(crate) fn wait(&mut self) {
        let running = self.running.take().unwrap();
        self.runtime.block_on(running).unwrap().unwrap();
    }

    /// Waits until so many requests run. A place is given back when the server has noticed that
    /// the answer is read, which the client cannot see.
    pub(crate) fn wait_for_running(&self, n: usize) {
        crate::wait_until(|| self.state.lifecycle().n_running() == n);
    }

    /// Drives something of the server's.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// An answer that comes bit by bit.
pub(crate) struct Stream(ureq::BodyReader<'static>);

impl Stream {
    /// Up to the next line break, or the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.0.read(&mut byte).unwrap() == 1 {
            line.push(byte[0]);
            if byte[0] == b'\n' {
                break;
            }
        }
        String::from_utf8(line).unwrap()
    }

    /// Reads to the end; the data of the last event.
    pub(crate) fn last_event(&mut self) -> Value {
        let mut last = String::new();
        loop {
            match self.line() {
                line if line.is_empty() => break,
                line if line == "\n" => {}
                line => last = line,
            }
        }
        serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap()
    }
}

/// The description of the API.
pub(crate) static OPENAPI: LazyLock<Value> = LazyLock::new(|| minerva_server::openapi(false));

/// How a method of a path is described; `None` if it is not.
fn described(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap();
    let names = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let is_at = |described: &str| {
        let (wanted, found) = (names(described), names(path));
        wanted.len() == found.len()
            && wanted
                .iter()
                .zip(&found)
                .all(|(wanted, found)| wanted.starts_with('{') || wanted == found)
    };
    let paths = OPENAPI["paths"].as_object().unwrap();
    let here = |path: &&String| is_at(path);
    let path = paths.keys().find(here)?;
    paths[path].get(method)
}

/// Every answer that any test gets is one that the description has.
#[track_caller]
fn check_described(method: &str, path: &str, answer: &Answer) {
    let Some(operation) = described(method, path) else {
        return;
    };
    let status = answer.status.to_string();
    let described = &operation["responses"][&status];
    assert!(
        described.is_object(),
        "{method} {path}: {status} is not described: {answer:?}"
    );
    let content_type = answer.header("content-type").split(';').next().unwrap();
    let media_type = &described["content"][content_type];
    assert!(
        media_type.is_object() || answer.status == 101 || described["content"]["*/*"].is_object(),
        "{method} {path}: {status} {content_type} is not described"
    );
    if answer.status >= 400 && answer.text.starts_with("{\"error\"") {
        let codes = &media_type["schema"]["properties"]["error"]["properties"]["code"]["enum"];
        let code = &answer.json()["error"]["code"];
        assert!(
            codes.as_array().unwrap().contains(code),
            "{method} {path}: {code} is not described: {codes}"
        );
    }
}

#[track_caller]
fn finish(
    method: &str,
    path: &str,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Answer {
    let mut response = response.unwrap();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let answer = Answer {
        status: response.status().as_u16(),
        headers,
        text: response.body_mut().read_to_string().unwrap(),
    };
    check_described(method, path, &answer);
    answer
}
