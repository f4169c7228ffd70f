//! The listener: binds, answers, and ends in order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use minerva_engine::Backends;
use minerva_engine::chat::renderer::Compile;
use tokio::net::TcpSocket;

use crate::auth::{self, Changes, KeyError};
use crate::clock::Clock;
use crate::config::{ConfigError, EngineSettings, Sources, Tls};
use crate::connection::Acceptor;
use crate::lifecycle::Phase;
use crate::logging;
use crate::models::{ModelsSetupError, Reloads, load_first, log_reloads, open_models};
use crate::routes::router;
use crate::signals::Signals;
use crate::state::AppState;
use crate::systemd;

/// Connections that the system keeps until they are accepted: a burst of clients at once.
const BACKLOG: u32 = 1024;
/// Bytes that the system takes of an answer before its client has: some hundred tokens. Left to itself
/// it takes megabytes, so that whole answers are computed for clients that read nothing.
const SEND_BUFFER: u32 = 64 * 1024;
/// Threads that wait for sockets and write JSON; more would only take time from those that compute.
const MAX_THREADS: usize = 4;
/// For streams to send their last event, and for answers to leave, once all are told to end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// For prompts that are still being made at the end: a template may take seconds, and nobody waits.
const LAST_WORK: Duration = Duration::from_millis(200);
/// How often changed keys are looked for and histograms folded.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two writes of what keys used: what a crash can lose.
const TICKS_PER_WRITE: u64 = 5;

/// Why a server does not start, or ends too early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is to compute cannot.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The models cannot be used, or one that is to be there from the start cannot be loaded.
    #[error(transparent)]
    Models(#[from] ModelsSetupError),
    /// The address cannot be listened at.
    #[error("listen {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// The address is public and nobody is asked for a key; the second line says what to do.
    #[error("{0}")]
    Unguarded(String),
    /// Certificate and key cannot be used.
    #[error("tls: {} with {}: {reason}", cert.display(), key.display())]
    Tls {
        /// The certificate chain.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
        /// What is wrong with them.
        reason: io::Error,
    },
    /// The listener failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until a signal ends it, on threads of its own: settings, keys, logs, listener, signals.
///
/// `open` makes what computes; `compile` says where the chat templates of the models run. `listening`
/// is called when connections are accepted, which is before anything is loaded. The models that are
/// to be there from the start are loaded then; if one cannot be, the service ends.
pub fn serve(
    sources: Sources,
    open: impl FnOnce(&EngineSettings) -> Result<Backends, Box<dyn std::error::Error + Send + Sync>>,
    compile: Compile,
    listening: impl FnOnce(&Server),
) -> Result<(), ServeError> {
    let settings = sources.load()?;
    logging::init(&settings.config.log);
    let backends = open(&settings.config.engine).map_err(ServeError::Backend)?;
    tracing::info!(
        backend = backends.first.description(),
        fallback = backends.fallback.as_ref().map(|b| b.description()),
        "computes"
    );
    let models = open_models(&settings.config, backends, compile)?;
    let state = AppState::new(settings, Clock::System, models)?;
    let n_threads = std::thread::available_parallelism().map_or(MAX_THREADS, NonZeroUsize::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(n_threads.clamp(2, MAX_THREADS))
        .thread_name("minerva-http")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let signals = Signals::install()?;
        let server = Server::bind(state.clone()).await?;
        let settings = state.settings();
        if !settings.config.models.iter().any(|model| model.load) {
            state.lifecycle().set_ready();
        }
        listening(&server);
        let router = router(state.clone());
        let signalled = tokio::spawn(signals.run(state.clone(), sources));
        let loading = tokio::spawn(async move {
            let loaded = load_first(&state).await;
            if loaded.is_err() {
                state.lifecycle().end();
            }
            loaded
        });
        let ended = server.run(router).await;
        signalled.abort();
        loading.abort();
        // Aborted: it was told to end while it loaded.
        if let Ok(loaded) = loading.await {
            loaded?;
        }
        ended
    });
    runtime.shutdown_timeout(LAST_WORK);
    ended
}

/// A server that listens.
pub struct Server {
    state: AppState,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens where the settings say; connections wait until [`run`](Self::run).
    pub async fn bind(state: AppState) -> Result<Self, ServeError> {
        let settings = state.settings();
        let address = settings.config.listen.address();
        auth::check_address(&state).map_err(ServeError::Unguarded)?;
        if let Tls {
            cert: Some(cert),
            key: Some(key),
        } = &settings.config.tls
        {
            let config = load_certificate(cert.clone(), key.clone()).await?;
            state.set_certificate(config);
        }
        let listener = listen(address).map_err(|reason| ServeError::Listen { address, reason })?;
        let address = listener.local_addr()?;
        Ok(Self {
            state,
            listener,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its requests share.
    pub fn state(&self) -> &AppState {
        &self.state
    }

    /// The address as a client writes it.
    pub fn url(&self) -> String {
        let scheme = match self.state.certificate() {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }

    /// Answers with the routes until [`Lifecycle::drain`](crate::Lifecycle::drain) or
    /// [`end`](crate::Lifecycle::end) is called; returns when running requests are finished, or
    /// told to end after the grace time.
    pub async fn run(self, router: Router) -> Result<(), ServeError> {
        let state = self.state;
        let handle = Handle::new();
        let mut server = axum_server::from_tcp(self.listener)?
            .handle(handle.clone())
            .accept_error_handler(|peer, error| tracing::debug!(?peer, %error, "no connection"));
        let wait = state.settings().config.timeouts.headers();
        server.http_builder().http1().header_read_timeout(wait);
        // HTTP/2 notices a peer that is gone by a ping.
        server.http_builder().http2().keep_alive_interval(wait);
        let server = server.first_request_timeout(wait);
        let service = router.into_make_service();
        let acceptor = Acceptor::new(&state);
        let mut serving = match state.certificate() {
            Some(config) => {
                let acceptor = RustlsAcceptor::new(config)
                    .handshake_timeout(wait)
                    .acceptor(acceptor);
                tokio::spawn(server.acceptor(acceptor).serve(service))
            }
            None => tokio::spawn(server.acceptor(acceptor).serve(service)),
        };
        let ticking = tokio::spawn(tick(state.clone()));
        let telling = tokio::spawn(systemd::tell_ready(state.lifecycle().watch()));

        let lifecycle = state.lifecycle();
        let mut phase = lifecycle.watch();
        tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Draining) => {}
            // A listener that ends by itself has failed.
            ended = &mut serving => {
                ticking.abort();
                telling.abort();
                ended.map_err(io::Error::other)??;
                return Ok(());
            }
        }
        telling.abort();
        systemd::stopping();
        let grace = state.settings().config.timeouts.drain();
        tracing::info!(
            running = lifecycle.n_running(),
            grace_s = grace.as_secs(),
            "draining"
        );
        let is_now = tokio::select! {
            () = lifecycle.idle() => false,
            () = tokio::time::sleep(grace) => false,
            () = lifecycle.ended().cancelled() => true,
        };
        if is_now {
            tracing::warn!(running = lifecycle.n_running(), "ended at once");
            handle.shutdown();
        } else {
            if lifecycle.n_running() > 0 {
                tracing::warn!(running = lifecycle.n_running(), "grace time is over");
            }
            lifecycle.end();
            let _ = tokio::time::timeout(LAST_WORDS, lifecycle.idle()).await;
            handle.graceful_shutdown(Some(LAST_WORDS));
        }
        ticking.abort();
        serving.await.map_err(io::Error::other)??;
        if state.keys().changes() != Changes::None {
            auth::sync(&state).await;
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted server takes its port back at once. Elsewhere the flag lets two servers share.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    // Connections have it from their listener.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Reads certificate and key.
pub(crate) async fn load_certificate(
    cert: PathBuf,
    key: PathBuf,
) -> Result<RustlsConfig, ServeError> {
    // Fails if it was called before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    RustlsConfig::from_pem_file(&cert, &key)
        .await
        .map_err(|reason| ServeError::Tls { cert, key, reason })
}

/// What the server does by itself, once a second.
async fn tick(state: AppState) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reloads = Reloads::new();
    for n_ticks in 1_u64.. {
        interval.tick().await;
        log_reloads(&state, &mut reloads);
        state.metrics().fold();
        match state.keys().changes() {
            Changes::File => auth::sync(&state).await,
            Changes::Usage if n_ticks.is_multiple_of(TICKS_PER_WRITE) => auth::sync(&state).await,
            Changes::Usage | Changes::None => {}
        }
    }
}
