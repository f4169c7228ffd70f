//! The service: HTTP in front of an engine, with keys, limits, an orderly end, and figures.
//!
//! [`serve`] does all: [`Sources::load`] reads the settings into a [`ServerConfig`],
//! [`AppState::new`] makes what all requests share, [`Server::bind`] listens, and [`Server::run`]
//! answers until it is told to stop. [`router`] is the same service without a listener.
//!
//! A request passes, from the outside in: its id, log line and figures (`observe.rs`), the checks
//! of `Host` and `Origin` (`origin.rs`), CORS, the key and its limits (`auth`), and the handler of
//! its row in [`ROUTES`]. Whatever refuses it answers with a row of the table in `error.rs`.
#![forbid(unsafe_code)]

mod config;

mod state;

mod serve;

mod connection;

mod lifecycle;

mod signals;

mod systemd;

mod models;

mod openai;

mod convert;

mod places;

mod failure;

mod generation;

mod dialect;

mod reply;

mod conversations;

mod responses;

mod routes;

mod openapi;

mod observe;

mod origin;

mod body;

mod auth;

mod metrics;

mod logging;

mod clock;

mod random;

mod error;

pub use auth::{
    Caller, Charge, Identity, KeyError, KeyLimits, KeyObject, KeyRecord, KeyStore, KeyUsage, Keys,
    NewKey, Scope, TokensUsed, Usage, key_object,
};
pub use body::ApiJson;
pub use clock::Clock;
pub use config::{
    Api, Auth, AuthMode, Batches, ConfigError, DeviceFallback, EngineSettings, GpuLayers, Limits,
    Listen, Loaded, Log, LogFormat, LogLevel, ModelSettings, Responses, SETTINGS, ServerConfig,
    SetBy, Setting, Sources, Timeouts, Tls, UnsupportedFields, WeightsPlace, reference,
};
pub use error::{ApiError, ErrorCode};
pub use lifecycle::{Lifecycle, Phase};
pub use metrics::{CacheConfig, METRICS, Metric, Metrics, ModelMetrics, RequestTokens};
pub use models::{ModelsSetupError, open_models};
pub use observe::RequestId;
pub use openapi::{Operation, openapi};
pub use routes::{Access, ROUTES, Route, router, router_of};
pub use serve::{ServeError, Server, serve};
pub use signals::Signals;
pub use state::AppState;
