//! What all requests share: settings, keys, models, life cycle and figures.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum_server::tls_rustls::RustlsConfig;
use minerva_engine::Models;

use crate::auth::{self, KeyError, KeyStore, Keys};
use crate::clock::Clock;
use crate::config::{Loaded, Sources};
use crate::conversations::Conversations;
use crate::lifecycle::Lifecycle;
use crate::logging;
use crate::metrics::Metrics;
use crate::models;
use crate::places::Places;

/// What all requests share; a clone is the same state.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    settings: RwLock<Arc<Loaded>>,
    keys: Keys,
    models: Models,
    conversations: Conversations,
    places: Places,
    clock: Clock,
    lifecycle: Lifecycle,
    metrics: Metrics,
    certificate: OnceLock<RustlsConfig>,
}

impl AppState {
    /// The state of a server that starts; the keys are read.
    pub fn new(settings: Loaded, clock: Clock, models: Models) -> Result<Self, KeyError> {
        let store = settings.config.auth.keys_file.as_ref().map(KeyStore::new);
        let shared = settings.config.auth.shared_keys.clone();
        let keys = Keys::open(store, shared, clock.now())?;
        Ok(Self(Arc::new(Shared {
            settings: RwLock::new(Arc::new(settings)),
            keys,
            models,
            conversations: Conversations::default(),
            places: Places::new(),
            clock,
            lifecycle: Lifecycle::new(),
            metrics: Metrics::new(),
            certificate: OnceLock::new(),
        })))
    }

    /// The settings in effect; a reload replaces them as a whole.
    pub fn settings(&self) -> Arc<Loaded> {
        let settings = self.0.settings.read();
        Arc::clone(&settings.unwrap_or_else(PoisonError::into_inner))
    }

    /// API keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The models.
    pub fn models(&self) -> &Models {
        &self.0.models
    }

    /// Responses that are kept.
    pub(crate) fn conversations(&self) -> &Conversations {
        &self.0.conversations
    }

    /// Places for requests that are rendered and tokenized.
    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Whether the server starts, serves or ends.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.0.lifecycle
    }

    /// Counters, gauges and histograms.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Takes over keys that others made or revoked, and writes down what was used. A server does it
    /// by itself; this is for who cannot wait a second.
    pub async fn sync(&self) {
        auth::sync(self).await;
    }

    /// Reads the settings, the keys and the certificate again. What cannot be used is logged, and
    /// stays as it was.
    pub async fn reload(&self, sources: &Sources) {
        match sources.load() {
            Ok(new) => {
                let (loaded, kept) = self.settings().reloaded(&new);
                for setting in kept {
                    tracing::warn!(setting, "changed, and takes effect with a restart");
                }
                logging::set_level(loaded.config.log.level);
                // It looks for files, and unloads what changed.
                let configs = models::configs(&loaded.config);
                let configured =
                    configs.and_then(|configs| Ok(self.models().configure(configs)?));
                if let Err(error) = configured {
                    tracing::error!(%error, "the models stay as they were");
                }
                let mut settings = self
                    .0
                    .settings
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                *settings = Arc::new(loaded);
            }
            Err(error) => tracing::error!(%error, "the settings stay as they were"),
        }
        auth::sync(self).await;
        let settings = self.settings();
        if let (Some(certificate), Some(cert), Some(key)) = (
            self.certificate(),
            &settings.config.tls.cert,
            &settings.config.tls.key,
        ) && let Err(error) = certificate.reload_from_pem_file(cert, key).await
        {
            tracing::error!(%error, "the certificate stays as it was");
        }
        tracing::info!("reloaded");
    }

    /// The certificate that is shown to clients; its content is replaced on a reload.
    pub(crate) fn certificate(&self) -> Option<RustlsConfig> {
        self.0.certificate.get().cloned()
    }

    /// Sets the certificate, once, at the start.
    pub(crate) fn set_certificate(&self, certificate: RustlsConfig) {
        // A state serves one listener; a second one keeps the first's certificate.
        let _ = self.0.certificate.set(certificate);
    }
}

#[cfg(test)]
impl AppState {
    /// A server that has nothing to load.
    pub(crate) fn without_models(settings: Loaded) -> Self {
        use minerva_engine::chat::renderer::in_process;
        let backend = Arc::new(minerva_compute::ReferenceBackend);
        let models = models::open_models(&settings.config, backend, in_process).unwrap();
        Self::new(settings, Clock::System, models).unwrap()
    }
}
