//! The errors of the API: one table with the code, type and status of each, and their JSON.
//!
//! The body is OpenAI's: `{"error": {"message", "type", "param", "code"}}`. Its clients decide by
//! the status whether they try again (408, 409, 429 and 5xx), and by `x-should-retry` where it is
//! present; they wait as `retry-after-ms` or `Retry-After` says.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $status:ident, $kind:literal, $code:literal, $retry:ident;)*) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every error that the service answers with.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                match self { $(ErrorCode::$variant => StatusCode::$status,)* }
            }

            /// `error.type` of the body.
            pub fn kind(self) -> &'static str {
                match self { $(ErrorCode::$variant => $kind,)* }
            }

            /// `error.code` of the body.
            pub fn code(self) -> &'static str {
                match self { $(ErrorCode::$variant => $code,)* }
            }

            fn retry(self) -> Retry {
                match self { $(ErrorCode::$variant => Retry::$retry,)* }
            }
        }
    };
}

/// Whether the same request can be right later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// As the status says by itself.
    ByStatus,
    /// The status sounds like it, and it cannot.
    Never,
}

errors! {
    // variant = status, type, code, retry
    /// The body is not the JSON that the route takes.
    InvalidRequest = BAD_REQUEST, "invalid_request_error", "invalid_request", ByStatus;
    /// A documented field with a value that nothing here can honor.
    UnsupportedField = BAD_REQUEST, "invalid_request_error", "unsupported_parameter", ByStatus;
    /// A field that no documentation has.
    UnknownField = BAD_REQUEST, "invalid_request_error", "unknown_parameter", ByStatus;
    /// A prompt that leaves no room for an answer.
    ContextLength = BAD_REQUEST, "invalid_request_error", "context_length_exceeded", ByStatus;
    /// A body that is said to be something else than JSON.
    NotJson = UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "unsupported_media_type", ByStatus;
    /// A body over the limit.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", ByStatus;
    /// A body that did not come in time.
    BodyTimeout = REQUEST_TIMEOUT, "invalid_request_error", "request_timeout", ByStatus;
    /// No key where one is needed.
    MissingKey = UNAUTHORIZED, "invalid_request_error", "missing_api_key", ByStatus;
    /// A key that nobody made, or that is revoked.
    InvalidKey = UNAUTHORIZED, "invalid_request_error", "invalid_api_key", ByStatus;
    /// A key that may not do this.
    MissingScope = FORBIDDEN, "permission_error", "missing_scope", ByStatus;
    /// A key that may not use this model.
    ModelNotAllowed = FORBIDDEN, "permission_error", "model_not_allowed", ByStatus;
    /// The `Host` header names somebody else.
    HostNotAllowed = FORBIDDEN, "permission_error", "host_not_allowed", ByStatus;
    /// A web page that is not named in the settings.
    OriginNotAllowed = FORBIDDEN, "permission_error", "origin_not_allowed", ByStatus;
    /// No route has this path.
    UnknownPath = NOT_FOUND, "invalid_request_error", "unknown_url", ByStatus;
    /// No model has this name.
    UnknownModel = NOT_FOUND, "invalid_request_error", "model_not_found", ByStatus;
    /// No response has this id.
    UnknownResponse = NOT_FOUND, "invalid_request_error", "response_not_found", ByStatus;
    /// The conversation that is to go on is not kept.
    UnknownPreviousResponse = BAD_REQUEST, "invalid_request_error", "previous_response_not_found", ByStatus;
    /// As many streams run on a socket as may.
    StreamLimit = BAD_REQUEST, "invalid_request_error", "websocket_stream_limit_reached", ByStatus;
    /// A response was cancelled before it began.
    Cancelled = BAD_REQUEST, "invalid_request_error", "response_cancelled", ByStatus;
    /// No key has this id or name.
    UnknownKey = NOT_FOUND, "invalid_request_error", "key_not_found", ByStatus;
    /// The route has other methods.
    WrongMethod = METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", ByStatus;
    /// Requests per minute are used up.
    RequestLimit = TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded", ByStatus;
    /// Tokens per minute are used up.
    TokenLimit = TOO_MANY_REQUESTS, "tokens", "rate_limit_exceeded", ByStatus;
    /// More tokens in one request than a minute has.
    RequestOverTokenLimit = TOO_MANY_REQUESTS, "tokens", "rate_limit_exceeded", Never;
    /// As many requests run as the key may have.
    ConcurrencyLimit = TOO_MANY_REQUESTS, "requests", "concurrency_limit_exceeded", ByStatus;
    /// The day's tokens are used up.
    QuotaExceeded = TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota", Never;
    /// A fault of the server.
    Internal = INTERNAL_SERVER_ERROR, "server_error", "internal_error", ByStatus;
    /// The computation failed.
    EngineFailed = INTERNAL_SERVER_ERROR, "server_error", "engine_failed", ByStatus;
    /// A model that cannot be loaded.
    ModelFailed = INTERNAL_SERVER_ERROR, "server_error", "model_failed", Never;
    /// As many requests wait as may.
    Overloaded = SERVICE_UNAVAILABLE, "server_error", "overloaded", ByStatus;
    /// Not begun in the time given for waiting.
    QueueTimeout = GATEWAY_TIMEOUT, "server_error", "queue_timeout", ByStatus;
    /// No token in the time given for the first.
    FirstTokenTimeout = GATEWAY_TIMEOUT, "server_error", "first_token_timeout", ByStatus;
    /// Not finished in the time given for the whole.
    TotalTimeout = GATEWAY_TIMEOUT, "server_error", "total_timeout", ByStatus;
    /// The server takes no more work.
    Draining = SERVICE_UNAVAILABLE, "server_error", "shutting_down", ByStatus;
}

/// What a message shows of what was found, which may be a whole request.
const MAX_MESSAGE_CHARS: usize = 1000;
/// The most characters of a field's name that are sent back.
const MAX_PARAM_CHARS: usize = 100;

/// The beginning of a text.
pub(crate) fn bounded(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// An error on its way to the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its row of the table.
    pub code: ErrorCode,
    /// What was found and what was wanted.
    pub message: String,
    /// The field of the request that it is about.
    pub param: Option<String>,
    /// When the same request may be right.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error about the request as a whole.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: bounded(message.into(), MAX_MESSAGE_CHARS),
            param: None,
            retry_after: None,
        }
    }

    /// The same, about one field.
    pub fn about(self, param: impl Into<String>) -> Self {
        Self {
            param: Some(bounded(param.into(), MAX_PARAM_CHARS)),
            ..self
        }
    }

    /// The same, with the time to wait.
    pub fn after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..self
        }
    }

    /// The body, which is also what a stream sends when it breaks off.
    pub fn to_json(&self) -> serde_json::Value {
        json!({"error": {
            "message": self.message,
            "type": self.code.kind(),
            "param": self.param,
            "code": self.code.code(),
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(self.to_json())).into_response();
        // For the figures; the body is opaque by then.
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.code.retry() == Retry::Never {
            headers.insert(
                HeaderName::from_static("x-should-retry"),
                HeaderValue::from_static("false"),
            );
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, up: too early is refused again.
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(
                HeaderName::from_static("retry-after-ms"),
                HeaderValue::from(ms),
            );
        }
        response
    }
}
