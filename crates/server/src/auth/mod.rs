//! Who may do what, and how much of it: API keys, scopes, limits.
//!
//! A key comes as `Authorization: Bearer` or `x-api-key`. Its request passes a check of scope, of
//! the requests at the same time and of those per minute here, before the route; tokens are taken
//! by the route, which alone knows how many, from the [`Caller`] that it finds in the request.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};

mod key;

mod bucket;

mod store;

mod keys;

mod caller;

pub use caller::{Caller, Charge, Identity, TokensUsed};
pub use key::{KeyLimits, KeyObject, KeyRecord, KeyUsage, NewKey, Scope, key_object};
pub use keys::Keys;
pub use store::{KeyError, KeyStore, Usage};

pub(crate) use keys::Changes;

use crate::config::AuthMode;
use crate::error::{ApiError, ErrorCode};
use crate::routes::Access;
use crate::state::AppState;
use bucket::Level;
use keys::{Levels, duration};

/// Lets a request through to a route of this access, or answers it.
pub(crate) async fn authorize(
    State((state, access)): State<(AppState, Access)>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = match access {
        Access::Public => return next.run(request).await,
        Access::Scope(scope) => scope,
        Access::Work => Scope::Infer,
    };
    let identity = match identify(&state, request.headers(), scope) {
        Ok(identity) => identity,
        Err(error) => return error.into_response(),
    };
    if let Some(key) = identity.key() {
        tracing::Span::current().record("key", key.id.as_str());
    }
    request.extensions_mut().insert(identity.clone());
    if access != Access::Work {
        return next.run(request).await;
    }
    let caller = match identity.admit() {
        Ok(caller) => caller,
        Err(error) => return with_levels(error.into_response(), &identity.levels()),
    };
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    // After the route, which has taken its tokens by now.
    let response = with_levels(response, &identity.levels());
    response.map(|body| {
        Body::new(Held {
            body,
            _caller: caller,
        })
    })
}

/// Whose request it is, if they may use the scope.
fn identify(state: &AppState, headers: &HeaderMap, scope: Scope) -> Result<Identity, ApiError> {
    // A page in a browser of this machine is on loopback too: keys are made by keys only.
    if scope != Scope::Admin && !needs_key(state) {
        return Ok(Identity::new(state.clone(), None));
    }
    let text = presented(headers)?;
    let key = state.keys().find(text)?;
    if !key.record.has(scope) {
        let scopes: Vec<&str> = key.record.scopes.iter().map(|scope| scope.name()).collect();
        let message = format!(
            "the API key is for {}, expected {}",
            scopes.join(", "),
            scope.name()
        );
        return Err(ApiError::new(ErrorCode::MissingScope, message));
    }
    Ok(Identity::new(state.clone(), Some(key)))
}

/// Whether a request of models must show a key.
pub(crate) fn needs_key(state: &AppState) -> bool {
    let settings = state.settings();
    match settings.config.auth.mode {
        AuthMode::Off => false,
        AuthMode::Required => true,
        AuthMode::Auto => {
            !settings.config.listen.address().ip().is_loopback() || state.keys().is_any_made()
        }
    }
}

/// The key that the request shows.
fn presented(headers: &HeaderMap) -> Result<&str, ApiError> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let header = || {
        headers
            .get("x-api-key")
            .and_then(|value| value.to_str().ok())
    };
    bearer.or_else(header).ok_or_else(|| {
        let message = "no API key, expected it as `Authorization: Bearer KEY` or `x-api-key: KEY`";
        ApiError::new(ErrorCode::MissingKey, message)
    })
}

/// Adds the limits to an answer, under the names that OpenAI's clients read.
fn with_levels(mut response: Response, levels: &Levels) -> Response {
    let mut add = |level: Option<Level>, names: [&'static str; 3]| {
        let Some(level) = level else { return };
        let reset = duration(level.reset);
        let values = [
            HeaderValue::from(level.limit),
            HeaderValue::from(level.remaining),
            HeaderValue::try_from(reset).unwrap_or(HeaderValue::from_static("0ms")),
        ];
        for (name, value) in names.into_iter().zip(values) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    };
    add(
        levels.requests,
        [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ],
    );
    add(
        levels.tokens,
        [
            "x-ratelimit-limit-tokens",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset-tokens",
        ],
    );
    response
}

/// A body that keeps its request's place until it is at its end.
struct Held {
    body: Body,
    _caller: Caller,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a server may not listen at its address.
pub(crate) fn check_address(state: &AppState) -> Result<(), String> {
    let settings = state.settings();
    let address = settings.config.listen.address();
    let is_guarded = settings.config.auth.mode == AuthMode::Off || state.keys().is_any_valid();
    if address.ip().is_loopback() || is_guarded {
        return Ok(());
    }
    Err(format!(
        "listen {address}: a public address without API keys, expected at least one key\n\
         `minerva key create NAME` makes one; --host 127.0.0.1 listens for this machine alone; \
         --auth off is for a server behind something that checks callers"
    ))
}

/// Exchanges keys and usage with the database, on a thread that may block.
pub(crate) async fn sync(state: &AppState) {
    let shared = state.clone();
    let done = tokio::task::spawn_blocking(move || shared.keys().sync(shared.clock().now())).await;
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "keys and usage are not in step with the database")
        }
        Err(error) => tracing::error!(%error, "the exchange with the database of keys failed"),
    }
}
