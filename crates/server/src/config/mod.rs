//! Every setting of the service: the struct, the list that says how each is written and checked
//! (`setting.rs`), and where they come from (`sources.rs`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use minerva_compute::{DeviceLayers, KvType, KvTypeError};
use serde::{Deserialize, Serialize};

use crate::conversations::Bounds;

mod setting;
mod sources;

pub use setting::{SETTINGS, Setting, reference};
pub use sources::{ConfigError, Loaded, SetBy, Sources};

/// What can be set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where the service listens, and whom it answers.
    pub listen: Listen,
    /// The certificate, if it speaks TLS.
    pub tls: Tls,
    /// API keys.
    pub auth: Auth,
    /// The largest things that are accepted.
    pub limits: Limits,
    /// The longest waits.
    pub timeouts: Timeouts,
    /// How models are set up, unless they say otherwise.
    pub engine: EngineSettings,
    /// How requests are read.
    pub api: Api,
    /// What is kept of responses, and their sockets.
    pub responses: Responses,
    /// What is logged and how.
    pub log: Log,
    /// The models that can be asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelSettings>,
}

/// How models are set up, unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// What computes: `cpu`, `gpu`, `auto`, or a part of an adapter's name.
    pub device: String,
    /// Layers on the GPU, from the first on.
    pub gpu_layers: GpuLayers,
    /// Bytes of the GPU's memory for all loaded models; nine tenths of what its driver says if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_bytes: Option<u64>,
    /// Where weights are read.
    pub weights: WeightsPlace,
    /// How batches of tokens are computed.
    pub batches: Batches,
    /// What a model is loaded on once its device has failed.
    pub device_fallback: DeviceFallback,
    /// Bytes for all loaded models, their caches and scratch memory; nine tenths of the machine's
    /// if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Most tokens of a prompt and its answer; what the model is made for, up to 4096, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Answers that a model computes at once.
    pub parallel: usize,
    /// Tokens that a model's cache holds; the context for each of the answers if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_tokens: Option<usize>,
    /// Requests that may wait for a model.
    pub max_waiting: usize,
    /// How keys are stored in the KV cache.
    pub cache_type_k: CacheType,
    /// How values are stored there.
    pub cache_type_v: CacheType,
}

/// A type of keys or values in the KV cache, by its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CacheType(pub KvType);

impl TryFrom<String> for CacheType {
    type Error = KvTypeError;

    fn try_from(name: String) -> Result<CacheType, KvTypeError> {
        name.parse().map(CacheType)
    }
}

impl From<CacheType> for String {
    fn from(cache_type: CacheType) -> String {
        cache_type.0.name().to_owned()
    }
}

/// Layers on the GPU, as the file writes them: a number, `all` or `auto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrWord", into = "NumberOrWord")]
pub struct GpuLayers(pub DeviceLayers);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrWord {
    Number(usize),
    Word(String),
}

impl From<GpuLayers> for NumberOrWord {
    fn from(layers: GpuLayers) -> NumberOrWord {
        match layers.0 {
            DeviceLayers::First(n) => NumberOrWord::Number(n),
            word => NumberOrWord::Word(word.to_string()),
        }
    }
}

impl TryFrom<NumberOrWord> for GpuLayers {
    type Error = String;

    fn try_from(value: NumberOrWord) -> Result<GpuLayers, String> {
        Ok(GpuLayers(match value {
            NumberOrWord::Number(n) => DeviceLayers::First(n),
            NumberOrWord::Word(word) => word.parse()?,
        }))
    }
}

/// How batches of tokens are computed on a processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batches {
    /// A token gets the same bits whatever is computed with it.
    #[default]
    Exact,
    /// In tiles of bf16 or by whole numbers of 16 bits; a token's last bits depend on how many are computed with it.
    Fast,
}

/// Where weights are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsPlace {
    /// In the model's file, where the device can.
    #[default]
    Mapped,
    /// There too, and the system keeps the pages in memory; for processors.
    Locked,
    /// In memory of the device.
    Copied,
}

/// What a model is loaded on once its device has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceFallback {
    /// The same device, opened again.
    #[default]
    None,
    /// The processor, until the model is unloaded.
    Cpu,
}

/// How requests are read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// What becomes of a request with a field that cannot be honored.
    pub unsupported_fields: UnsupportedFields,
}

/// What is kept of responses, and their sockets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Responses {
    /// Responses that are kept for each key.
    pub stored: usize,
    /// Bytes that they may take, for each key.
    pub stored_bytes: usize,
    /// How long they are kept after they were last used.
    pub stored_seconds: u64,
    /// Responses that are made at once on a socket.
    pub socket_streams: usize,
    /// How long a socket stays open on which nothing is asked for.
    pub socket_idle_seconds: u64,
}

/// What becomes of a request with a field that cannot be honored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnsupportedFields {
    /// It is refused.
    #[default]
    Refuse,
    /// It is answered as though the field was not there, and the answer says so.
    Warn,
}

/// A model that can be asked for, a `[[models]]` of the file. What is not set is as `[engine]` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Its name in requests.
    pub name: String,
    /// A path, or a name of `minerva list`; the name in requests if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Other names for it in requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// See [`EngineSettings::context`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// See [`EngineSettings::parallel`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<usize>,
    /// See [`EngineSettings::cache_tokens`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_tokens: Option<usize>,
    /// See [`EngineSettings::max_waiting`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_waiting: Option<usize>,
    /// See [`EngineSettings::cache_type_k`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_type_k: Option<CacheType>,
    /// See [`EngineSettings::cache_type_v`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_type_v: Option<CacheType>,
    /// Loaded when the service starts, not when it is first asked for.
    #[serde(default)]
    pub load: bool,
    /// Stays loaded, whatever else needs room.
    #[serde(default)]
    pub pinned: bool,
    /// Unloaded when nobody has used it for this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unload_after_seconds: Option<u64>,
}

/// Where the service listens, and whom it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// An IP address, or `localhost`.
    pub host: String,
    /// The TCP port; 0 takes a free one.
    pub port: u16,
    /// Names that a `Host` header may have beside IP addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// Web pages that may call the service.
    pub allowed_origins: Vec<String>,
}

/// The certificate, if the service speaks TLS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate chain, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// API keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Whether a request needs a key.
    pub mode: AuthMode,
    /// The database of keys and of what they used; without it there are no keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_file: Option<PathBuf>,
    /// Further keys, in a file that is only read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_keys: Option<PathBuf>,
}

/// Whether a request needs a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// If the address is public, or a key was ever made.
    #[default]
    Auto,
    /// Always.
    Required,
    /// Never: something in front of the service checks callers.
    Off,
}

/// The largest things that are accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A request's body, in bytes.
    pub body_bytes: usize,
    /// Connections that are open at once.
    pub connections: usize,
}

/// The longest waits, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For the TLS handshake and for a request's head, each; an idle connection ends after it.
    pub headers_seconds: u64,
    /// For a request's whole body.
    pub body_seconds: u64,
    /// For a client that takes nothing of what is sent to it.
    pub write_seconds: u64,
    /// For running requests after a signal to stop.
    pub drain_seconds: u64,
    /// For a request's turn; 0 for as long as it takes.
    pub queue_seconds: u64,
    /// For a request's first token, from its arrival; 0 for as long as it takes.
    pub first_token_seconds: u64,
    /// For a whole answer, from the request's arrival; 0 for as long as it takes.
    pub total_seconds: u64,
}

/// What is logged, to standard error, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Lines for people or for programs.
    pub format: LogFormat,
    /// The least important lines that are written.
    pub level: LogLevel,
}

/// Lines for people or for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object on a line for each event.
    Json,
}

/// How important a line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed that should not.
    Error,
    /// Something will need a person.
    Warn,
    /// Requests, and what the server does by itself.
    #[default]
    Info,
    /// Reasons.
    Debug,
    /// Everything.
    Trace,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A context of a million tokens as text, with room.
            body_bytes: 32 << 20,
            connections: 4096,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            headers_seconds: 30,
            body_seconds: 60,
            write_seconds: 60,
            drain_seconds: 30,
            queue_seconds: 0,
            first_token_seconds: 0,
            total_seconds: 0,
        }
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self {
            stored: 1000,
            stored_bytes: 64 << 20,
            stored_seconds: 24 * 60 * 60,
            socket_streams: 8,
            socket_idle_seconds: 600,
        }
    }
}

impl Responses {
    /// How much is kept for each key.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            n_turns: self.stored,
            n_bytes: self.stored_bytes,
            age: Duration::from_secs(self.stored_seconds),
        }
    }

    /// How long a socket stays open on which nothing is asked for.
    pub fn socket_idle(&self) -> Duration {
        Duration::from_secs(self.socket_idle_seconds)
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            device: "cpu".into(),
            gpu_layers: GpuLayers::default(),
            gpu_memory_bytes: None,
            weights: WeightsPlace::Mapped,
            batches: Batches::Exact,
            device_fallback: DeviceFallback::None,
            memory_bytes: None,
            context: None,
            parallel: 4,
            cache_tokens: None,
            max_waiting: 256,
            cache_type_k: CacheType::default(),
            cache_type_v: CacheType::default(),
        }
    }
}

impl Listen {
    /// The address to bind.
    pub fn address(&self) -> SocketAddr {
        // Checked when it was read; a struct made by hand may hold anything.
        let ip = parse_host(&self.host).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        SocketAddr::new(ip, self.port)
    }
}

impl Timeouts {
    /// The wait for a request's head.
    pub fn headers(&self) -> Duration {
        Duration::from_secs(self.headers_seconds)
    }

    /// The wait for a request's body.
    pub fn body(&self) -> Duration {
        Duration::from_secs(self.body_seconds)
    }

    /// The wait for a client that reads nothing.
    pub fn write(&self) -> Duration {
        Duration::from_secs(self.write_seconds)
    }

    /// The wait for running requests at the end.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

fn parse_host(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse().ok(),
    }
}
