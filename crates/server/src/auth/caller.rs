//! Who asks: the key behind a request, its place among the running ones, and its tokens.

use std::sync::Arc;

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::key::KeyRecord;
use super::keys::{Key, Levels};
use crate::clock::Clock;
use crate::error::{ApiError, ErrorCode};
use crate::lifecycle;
use crate::state::AppState;

/// Who asks, before anything is asked for.
#[derive(Clone)]
pub struct Identity {
    state: AppState,
    /// `None` where no key is needed.
    key: Option<Arc<Key>>,
}

impl Identity {
    pub(super) fn new(state: AppState, key: Option<Arc<Key>>) -> Self {
        Self { state, key }
    }

    /// The key, if there is one.
    pub fn key(&self) -> Option<&KeyRecord> {
        self.key.as_ref().map(|key| &key.record)
    }

    /// Refuses a model that the key may not run.
    pub fn check_model(&self, model: &str) -> Result<(), ApiError> {
        let models = self.key().and_then(|key| key.models.as_ref());
        match models {
            Some(models) if !models.iter().any(|allowed| allowed == model) => {
                let models = models.join(", ");
                let message = format!("model: {model}, and this API key is for {models}");
                Err(ApiError::new(ErrorCode::ModelNotAllowed, message).about("model"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn levels(&self) -> Levels {
        let now = self.state.clock().now();
        self.key
            .as_ref()
            .map(|key| key.levels(now))
            .unwrap_or_default()
    }

    /// Waits until all that they asked for must break off, and says with which error: the key is
    /// revoked, or the server ends.
    pub async fn ended(&self) -> ApiError {
        let revoked = async {
            match &self.key {
                Some(key) => key.revoked.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = revoked => ApiError::new(ErrorCode::InvalidKey, "the API key was revoked"),
            () = self.state.lifecycle().ended().cancelled() => lifecycle::draining(),
        }
    }

    /// Begins a request: counts it, and gives it its place until the last clone of the caller is
    /// dropped. On a socket each request of it begins so; for any other, the service did it.
    pub fn admit(&self) -> Result<Caller, ApiError> {
        let running = self.state.lifecycle().admit()?;
        if let Some(key) = &self.key {
            key.begin(self.state.clock().now())?;
        }
        Ok(Caller(Arc::new(Place {
            identity: self.clone(),
            _running: running,
        })))
    }
}

/// One request of somebody, in the extensions of the request; it runs until the last clone is
/// dropped. The service keeps one as long as the answer's body.
#[derive(Clone)]
pub struct Caller(Arc<Place>);

struct Place {
    identity: Identity,
    _running: TaskTrackerToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(key) = &self.identity.key {
            key.end();
        }
    }
}

impl Caller {
    /// Who asks, for the further requests of a socket.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Who asks, as a number: requests of the same one wait in the same line. 0 is nobody in
    /// particular.
    pub fn tenant(&self) -> u64 {
        self.0.identity.key().map_or(0, KeyRecord::tenant)
    }

    /// Takes the tokens that a request may use, prompt and answer, from the key's limits. What it
    /// really used is told to the [`Charge`].
    pub fn charge(&self, n_tokens: u64) -> Result<Charge, ApiError> {
        let identity = &self.0.identity;
        if let Some(key) = &identity.key {
            key.reserve(n_tokens, identity.state.clock().now())?;
        }
        Ok(Charge {
            key: identity.key.clone(),
            clock: identity.state.clock().clone(),
            reserved: n_tokens,
            used: TokensUsed::default(),
        })
    }

    /// Waits until the request must break off, and says with which error: its key is revoked, or
    /// the server ends.
    pub async fn ended(&self) -> ApiError {
        self.0.identity.ended().await
    }
}

/// Tokens that a request has taken; when it is dropped, what was not used goes back.
pub struct Charge {
    key: Option<Arc<Key>>,
    clock: Clock,
    reserved: u64,
    used: TokensUsed,
}

/// Tokens that a request has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokensUsed {
    /// Of its prompt.
    pub prompt: u64,
    /// Of its answer.
    pub completion: u64,
}

impl Charge {
    /// Sets what was used until now, so that a request that breaks off has paid for that.
    pub fn set_used(&mut self, used: TokensUsed) {
        self.used = used;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            key.settle(self.reserved, self.used, self.clock.now());
        }
    }
}
