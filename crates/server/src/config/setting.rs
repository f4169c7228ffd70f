//! The list of settings: names, meaning and check of each, from which files, variables, options and
//! the reference are made.

use toml::{Table, Value};

use super::{ServerConfig, parse_host};

/// One setting: its names, and what it may be.
#[derive(Debug)]
pub struct Setting {
    /// Its place in the file: `listen.port`.
    pub key: &'static str,
    /// The option of the command line, without the dashes.
    pub flag: &'static str,
    /// What stands for the value in help.
    pub value_name: &'static str,
    /// What it does, one line.
    pub help: &'static str,
    /// Whether a running server takes a new value on SIGHUP.
    pub is_reloaded: bool,
    kind: Kind,
}

/// What values a setting takes.
#[derive(Debug)]
enum Kind {
    /// A whole number in a range.
    Integer { min: i64, max: i64 },
    /// A number of layers, `all` or `auto`.
    Layers,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text that is not empty.
    Text,
    /// A path that is not empty.
    Path,
    /// An IP address or `localhost`.
    Host,
    /// A list of host names without ports, or `*`.
    HostNames,
    /// A list of `scheme://host[:port]`, or `*`.
    Origins,
}

const CACHE_TYPES: &[&str] = &["f32", "f16", "q8_0", "q4_0"];

/// Every setting, in the order of the file.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen.host",
        flag: "host",
        value_name: "ADDRESS",
        help: "IP address to listen at, or localhost; 0.0.0.0 and :: are every address of the machine",
        is_reloaded: false,
        kind: Kind::Host,
    },
    Setting {
        key: "listen.port",
        flag: "port",
        value_name: "PORT",
        help: "TCP port to listen at; 0 takes a free one",
        is_reloaded: false,
        kind: Kind::Integer { min: 0, max: 65535 },
    },
    Setting {
        key: "listen.allowed_hosts",
        flag: "allow-host",
        value_name: "NAME,…",
        help: "Names by which the service is called, beside IP addresses and localhost; * for any",
        is_reloaded: true,
        kind: Kind::HostNames,
    },
    Setting {
        key: "listen.allowed_origins",
        flag: "allow-origin",
        value_name: "ORIGIN,…",
        help: "Web pages that may call the service (CORS), as https://example.com; * for any",
        is_reloaded: true,
        kind: Kind::Origins,
    },
    Setting {
        key: "tls.cert",
        flag: "tls-cert",
        value_name: "FILE",
        help: "Certificate chain in PEM; with it the service speaks TLS only",
        is_reloaded: false,
        kind: Kind::Path,
    },
    Setting {
        key: "tls.key",
        flag: "tls-key",
        value_name: "FILE",
        help: "Private key of the certificate in PEM",
        is_reloaded: false,
        kind: Kind::Path,
    },
    Setting {
        key: "auth.mode",
        flag: "auth",
        value_name: "MODE",
        help: "Whether a key is needed: auto (if the address is public or a key was ever made), required, off",
        is_reloaded: true,
        kind: Kind::Word(&["auto", "required", "off"]),
    },
    Setting {
        key: "auth.keys_file",
        flag: "keys-file",
        value_name: "FILE",
        help: "Database of API keys and of what they used [default: keys.redb in the model folder]",
        is_reloaded: false,
        kind: Kind::Path,
    },
    Setting {
        key: "auth.shared_keys",
        flag: "shared-keys",
        value_name: "FILE",
        help: "Further API keys, as `minerva key export` writes them, for replicas without a common database",
        is_reloaded: false,
        kind: Kind::Path,
    },
    Setting {
        key: "limits.body_bytes",
        flag: "max-body-bytes",
        value_name: "BYTES",
        help: "Largest body of a request",
        is_reloaded: true,
        kind: Kind::Integer {
            min: 1024,
            max: 1 << 32,
        },
    },
    Setting {
        key: "limits.connections",
        flag: "max-connections",
        value_name: "N",
        help: "Connections open at once; further ones are closed",
        is_reloaded: false,
        kind: Kind::Integer {
            min: 1,
            max: 1 << 20,
        },
    },
    Setting {
        key: "timeouts.headers_seconds",
        flag: "headers-timeout",
        value_name: "SECONDS",
        help: "Longest wait for a TLS handshake, for a request's head, and between requests",
        is_reloaded: false,
        kind: Kind::Integer { min: 1, max: 86400 },
    },
    Setting {
        key: "timeouts.body_seconds",
        flag: "body-timeout",
        value_name: "SECONDS",
        help: "Longest wait for the whole body of a request",
        is_reloaded: true,
        kind: Kind::Integer { min: 1, max: 86400 },
    },
    Setting {
        key: "timeouts.write_seconds",
        flag: "write-timeout",
        value_name: "SECONDS",
        help: "Longest wait for a client that takes nothing of its answer",
        is_reloaded: false,
        kind: Kind::Integer { min: 1, max: 86400 },
    },
    Setting {
        key: "timeouts.drain_seconds",
        flag: "drain-timeout",
        value_name: "SECONDS",
        help: "Time for running requests to finish after SIGTERM",
        is_reloaded: true,
        kind: Kind::Integer { min: 0, max: 86400 },
    },
    Setting {
        key: "timeouts.queue_seconds",
        flag: "queue-timeout",
        value_name: "SECONDS",
        help: "Longest wait of a request for its turn; 0 for no limit; a request may set a shorter one",
        is_reloaded: true,
        kind: Kind::Integer { min: 0, max: 86400 },
    },
    Setting {
        key: "timeouts.first_token_seconds",
        flag: "first-token-timeout",
        value_name: "SECONDS",
        help: "Longest time from a request to its first token, in the same way",
        is_reloaded: true,
        kind: Kind::Integer { min: 0, max: 86400 },
    },
    Setting {
        key: "timeouts.total_seconds",
        flag: "total-timeout",
        value_name: "SECONDS",
        help: "Longest time from a request to the end of its answer, in the same way",
        is_reloaded: true,
        kind: Kind::Integer { min: 0, max: 86400 },
    },
    Setting {
        key: "engine.device",
        flag: "device",
        value_name: "DEVICE",
        help: "What computes: cpu; gpu, the best adapter; auto, a GPU where there is one; or a part of an adapter's name (minerva devices lists them)",
        is_reloaded: false,
        kind: Kind::Text,
    },
    Setting {
        key: "engine.gpu_layers",
        flag: "gpu-layers",
        value_name: "LAYERS",
        help: "Layers on the GPU, from the first on, with the rest on the processor: all, auto (as many as its memory holds) or a number",
        is_reloaded: false,
        kind: Kind::Layers,
    },
    Setting {
        key: "engine.gpu_memory_bytes",
        flag: "gpu-memory-budget",
        value_name: "BYTES",
        help: "Memory of the GPU for loaded models [default: 90% of what its driver says]",
        is_reloaded: false,
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
        },
    },
    Setting {
        key: "engine.weights",
        flag: "weights",
        value_name: "WHERE",
        help: "Where weights are read: mapped (in the model's file, where the device can), locked (there too, and the system keeps its pages in memory; for processors), copied (in memory of the device, which on a processor takes longer to load and has large pages)",
        is_reloaded: false,
        kind: Kind::Word(&["mapped", "locked", "copied"]),
    },
    Setting {
        key: "engine.batches",
        flag: "batches",
        value_name: "HOW",
        help: "How batches of tokens are computed: exact (a token gets the same bits whatever is computed with it), fast (32 tokens or more meet weights in AMX's tiles of bf16, or on other processors of x86-64, weights of F16 alone, in whole numbers of 16 bits: prompts are read faster, and a token's last bits depend on how many are computed with it)",
        is_reloaded: false,
        kind: Kind::Word(&["exact", "fast"]),
    },
    Setting {
        key: "engine.device_fallback",
        flag: "device-fallback",
        value_name: "DEVICE",
        help: "What a model is loaded on once its device has failed: none (the device, opened again), cpu (until it is unloaded)",
        is_reloaded: false,
        kind: Kind::Word(&["none", "cpu"]),
    },
    Setting {
        key: "engine.memory_bytes",
        flag: "memory-budget",
        value_name: "BYTES",
        help: "Memory for loaded models, their caches and scratch memory [default: 90% of the machine's or of the control group's]",
        is_reloaded: false,
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
        },
    },
    Setting {
        key: "engine.context",
        flag: "context",
        value_name: "N",
        help: "Most tokens of a prompt and its answer [default: the model's, up to 4096]",
        is_reloaded: true,
        kind: Kind::Integer {
            min: 2,
            max: 1 << 32,
        },
    },
    Setting {
        key: "engine.parallel",
        flag: "parallel",
        value_name: "N",
        help: "Answers that a model computes at once",
        is_reloaded: true,
        kind: Kind::Integer { min: 1, max: 4096 },
    },
    Setting {
        key: "engine.cache_tokens",
        flag: "cache-tokens",
        value_name: "N",
        help: "Tokens that a model's cache holds [default: the context for each answer at once]",
        is_reloaded: true,
        kind: Kind::Integer {
            min: 2,
            max: 1 << 36,
        },
    },
    Setting {
        key: "engine.max_waiting",
        flag: "max-waiting",
        value_name: "N",
        help: "Requests that may wait for a model; further ones are refused",
        is_reloaded: true,
        kind: Kind::Integer {
            min: 1,
            max: 1 << 20,
        },
    },
    Setting {
        key: "engine.cache_type_k",
        flag: "cache-type-k",
        value_name: "TYPE",
        help: "How keys are stored in the KV cache: f32, f16, q8_0 or q4_0",
        is_reloaded: true,
        kind: Kind::Word(CACHE_TYPES),
    },
    Setting {
        key: "engine.cache_type_v",
        flag: "cache-type-v",
        value_name: "TYPE",
        help: "How values are stored in the KV cache, likewise",
        is_reloaded: true,
        kind: Kind::Word(CACHE_TYPES),
    },
    Setting {
        key: "api.unsupported_fields",
        flag: "unsupported-fields",
        value_name: "WHAT",
        help: "What becomes of a request with a field that cannot be honored: refuse, warn (in the answer)",
        is_reloaded: true,
        kind: Kind::Word(&["refuse", "warn"]),
    },
    Setting {
        key: "responses.stored",
        flag: "stored-responses",
        value_name: "N",
        help: "Responses that are kept in memory for each key",
        is_reloaded: true,
        kind: Kind::Integer {
            min: 0,
            max: 1 << 20,
        },
    },
    Setting {
        key: "responses.stored_bytes",
        flag: "stored-responses-bytes",
        value_name: "BYTES",
        help: "Memory for them, for each key",
        is_reloaded: true,
        kind: Kind::Integer {
            min: 0,
            max: 1 << 40,
        },
    },
    Setting {
        key: "responses.stored_seconds",
        flag: "stored-responses-time",
        value_name: "SECONDS",
        help: "How long they are kept after they were last used",
        is_reloaded: true,
        kind: Kind::Integer {
            min: 1,
            max: 31_536_000,
        },
    },
    Setting {
        key: "responses.socket_streams",
        flag: "socket-streams",
        value_name: "N",
        help: "Responses that are made at once on a WebSocket",
        is_reloaded: true,
        kind: Kind::Integer { min: 1, max: 1024 },
    },
    Setting {
        key: "responses.socket_idle_seconds",
        flag: "socket-idle-timeout",
        value_name: "SECONDS",
        help: "How long a WebSocket stays open on which nothing is asked for",
        is_reloaded: true,
        kind: Kind::Integer { min: 1, max: 86400 },
    },
    Setting {
        key: "log.format",
        flag: "log-format",
        value_name: "FORMAT",
        help: "Log lines as text or json, on standard error",
        is_reloaded: false,
        kind: Kind::Word(&["text", "json"]),
    },
    Setting {
        key: "log.level",
        flag: "log-level",
        value_name: "LEVEL",
        help: "Least important lines to log: error, warn, info, debug, trace",
        is_reloaded: true,
        kind: Kind::Word(&["error", "warn", "info", "debug", "trace"]),
    },
];

impl Setting {
    /// The environment variable: `MINERVA_LISTEN_PORT`.
    ///
    /// The section is in the name because Kubernetes gives each container of a service named
    /// `minerva` a variable `MINERVA_PORT` of its own making.
    pub fn env(&self) -> String {
        format!("MINERVA_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Whether more than one value can be given.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::HostNames | Kind::Origins)
    }

    /// The value as the file would write it, if there is a default.
    pub fn default(&self) -> Option<String> {
        value_of(&ServerConfig::default(), self.key).map(|value| value.to_string())
    }

    /// Text of the environment or the command line as a value of the file.
    pub(super) fn parse(&self, text: &str) -> Value {
        match self.kind {
            // What is no number stays text, which `check` refuses.
            Kind::Integer { .. } | Kind::Layers => text
                .parse()
                .map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
            Kind::HostNames | Kind::Origins => Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| Value::String(part.to_owned()))
                    .collect(),
            ),
            Kind::Word(_) | Kind::Text | Kind::Path | Kind::Host => Value::String(text.to_owned()),
        }
    }

    /// What was wanted, if the value is not that.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let is_right = match (&self.kind, value) {
            (Kind::Integer { min, max }, Value::Integer(n)) => (min..=max).contains(&n),
            (Kind::Layers, Value::Integer(n)) => *n >= 0,
            (Kind::Layers, Value::String(word)) => word == "all" || word == "auto",
            (Kind::Word(words), Value::String(word)) => words.contains(&word.as_str()),
            (Kind::Text | Kind::Path, Value::String(text)) => !text.is_empty(),
            (Kind::Host, Value::String(host)) => parse_host(host).is_some(),
            (Kind::HostNames, Value::Array(names)) => all(names, is_host_name),
            (Kind::Origins, Value::Array(origins)) => all(origins, is_origin),
            _ => false,
        };
        if is_right {
            return Ok(());
        }
        Err(match &self.kind {
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Layers => "a number of layers, all or auto".to_owned(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Text => "a name".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Host => "an IP address or localhost".to_owned(),
            Kind::HostNames => "a list of host names without ports, or *".to_owned(),
            Kind::Origins => "a list of scheme://host[:port], or *".to_owned(),
        })
    }
}

fn all(values: &[Value], is_right: fn(&str) -> bool) -> bool {
    values
        .iter()
        .all(|value| value.as_str().is_some_and(is_right))
}

fn is_host_name(name: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name == "*" || (!name.is_empty() && name.bytes().all(is_letter))
}

fn is_origin(origin: &str) -> bool {
    origin == "*"
        || origin.split_once("://").is_some_and(|(scheme, host)| {
            let is_letter = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@');
            !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !host.is_empty()
                && host.bytes().all(is_letter)
        })
}

/// The list as a table of Markdown, for docs/configuration.md.
pub fn reference() -> String {
    let mut text =
        "| setting | option | variable | default | |\n|---|---|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let default = setting
            .default()
            .map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        let reload = if setting.is_reloaded {
            ""
        } else {
            " (restart)"
        };
        text += &format!(
            "| `{}` | `--{}` | `{}` | {default} | {}{reload} |\n",
            setting.key,
            setting.flag,
            setting.env(),
            setting.help,
        );
    }
    text
}

/// The names of the file's sections, as it writes them.
pub(super) fn sections() -> Vec<String> {
    let mut names: Vec<String> = SETTINGS
        .iter()
        .filter_map(|setting| Some(format!("[{}]", setting.key.split_once('.')?.0)))
        .collect();
    names.dedup();
    names
}

/// A setting's value in a configuration; `None` where it is not set and has no default.
pub(super) fn value_of(config: &ServerConfig, key: &str) -> Option<Value> {
    let table = to_table(config);
    let (section, name) = key.split_once('.')?;
    table.get(section)?.get(name).cloned()
}

pub(super) fn to_table(config: &ServerConfig) -> Table {
    Table::try_from(config).expect("paths of settings are UTF-8, since they came from text")
}

/// Puts a value into its section.
pub(super) fn insert(table: &mut Table, key: &str, value: Value) {
    if let Some((section, name)) = key.split_once('.')
        && let Value::Table(section) = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()))
    {
        section.insert(name.to_owned(), value);
    }
}
