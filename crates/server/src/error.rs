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
    ($(#[doc = $cause:literal] $variant:ident = $status:ident, $kind:literal, $code:literal,
        $retry:ident, $mend:literal;)*) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $(#[doc = $cause] $variant,)*
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

            /// What has happened, in a sentence.
            pub fn cause(self) -> &'static str {
                match self { $(ErrorCode::$variant => $cause,)* }.trim()
            }

            /// What to do about it, in Markdown.
            pub fn mend(self) -> &'static str {
                match self { $(ErrorCode::$variant => $mend,)* }
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
    // the cause, variant = status, type, code, retry, the mend
    /// The body is not the JSON that the route takes.
    InvalidRequest = BAD_REQUEST, "invalid_request_error", "invalid_request", ByStatus,
        "`param` and the message name the field, what was found and what is taken.";
    /// A documented field with a value that nothing here can honor.
    UnsupportedField = BAD_REQUEST, "invalid_request_error", "unsupported_parameter", ByStatus,
        "Leave the field out, or give it the value that the message names. With `--unsupported-fields warn` the request is answered without it.";
    /// A field that no documentation has.
    UnknownField = BAD_REQUEST, "invalid_request_error", "unknown_parameter", ByStatus,
        "Look for a slip of the pen in the name, or leave the field out. With `--unsupported-fields warn` the request is answered without it.";
    /// A prompt that leaves no room for an answer.
    ContextLength = BAD_REQUEST, "invalid_request_error", "context_length_exceeded", ByStatus,
        "Shorten the prompt, or serve the model with a larger `--context`. The message has both numbers.";
    /// A body that is said to be something else than JSON.
    NotJson = UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "unsupported_media_type", ByStatus,
        "Send `Content-Type: application/json`.";
    /// A body over the limit.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", ByStatus,
        "Send less, or raise `limits.body_bytes`.";
    /// A body that did not come in time.
    BodyTimeout = REQUEST_TIMEOUT, "invalid_request_error", "request_timeout", ByStatus,
        "Send the body faster, or raise `timeouts.body_seconds`.";
    /// No key where one is needed.
    MissingKey = UNAUTHORIZED, "invalid_request_error", "missing_api_key", ByStatus,
        "Send `Authorization: Bearer KEY` or `x-api-key: KEY`; `minerva key create NAME` makes a key.";
    /// A key that nobody made, or that is revoked.
    InvalidKey = UNAUTHORIZED, "invalid_request_error", "invalid_api_key", ByStatus,
        "Look at `minerva key list`: a key that is not there or is revoked is no longer taken. Another database of keys (`auth.keys_file`) has other keys.";
    /// A key that may not do this.
    MissingScope = FORBIDDEN, "permission_error", "missing_scope", ByStatus,
        "Use a key with the scope that the message names: `minerva key create NAME --scope SCOPE`.";
    /// A key that may not use this model.
    ModelNotAllowed = FORBIDDEN, "permission_error", "model_not_allowed", ByStatus,
        "Use a key that is made for the model: `minerva key create NAME --model MODEL`.";
    /// The `Host` header names somebody else.
    HostNotAllowed = FORBIDDEN, "permission_error", "host_not_allowed", ByStatus,
        "Call the service by an IP address or `localhost`, or name the host in `listen.allowed_hosts`.";
    /// A web page that is not named in the settings.
    OriginNotAllowed = FORBIDDEN, "permission_error", "origin_not_allowed", ByStatus,
        "Name the page in `listen.allowed_origins`.";
    /// No route has this path.
    UnknownPath = NOT_FOUND, "invalid_request_error", "unknown_url", ByStatus,
        "Look for the path in api.md or at `/docs`; the base address of OpenAI's clients ends with `/v1`.";
    /// No model has this name.
    UnknownModel = NOT_FOUND, "invalid_request_error", "model_not_found", ByStatus,
        "`GET /v1/models` lists the names that there are; `[[models]]` in the settings adds more, and aliases.";
    /// No response has this id.
    UnknownResponse = NOT_FOUND, "invalid_request_error", "response_not_found", ByStatus,
        "Responses are kept in memory, for their own key, as long as `responses.stored…` say. Create it with `store: true`.";
    /// The conversation that is to go on is not kept.
    UnknownPreviousResponse = BAD_REQUEST, "invalid_request_error", "previous_response_not_found", ByStatus,
        "Send the whole conversation as `input`, or raise `responses.stored…`.";
    /// A GET that does not ask for a WebSocket.
    NotWebSocket = UPGRADE_REQUIRED, "invalid_request_error", "websocket_required", ByStatus,
        "Send a POST, or open a WebSocket.";
    /// As many streams run on a socket as may.
    StreamLimit = BAD_REQUEST, "invalid_request_error", "websocket_stream_limit_reached", ByStatus,
        "Wait until a stream has ended, or raise `responses.socket_streams`.";
    /// A response was cancelled before it began.
    Cancelled = BAD_REQUEST, "invalid_request_error", "response_cancelled", ByStatus,
        "Nothing: `response.cancel` came before the response began.";
    /// No key has this id or name.
    UnknownKey = NOT_FOUND, "invalid_request_error", "key_not_found", ByStatus,
        "`GET /admin/keys` and `minerva key list` have the names and ids.";
    /// The route has other methods.
    WrongMethod = METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", ByStatus,
        "The header `Allow` has the methods of the path.";
    /// Requests per minute are used up.
    RequestLimit = TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded", ByStatus,
        "Wait as `Retry-After` says, or make a key with more `--requests-per-minute`.";
    /// Tokens per minute are used up.
    TokenLimit = TOO_MANY_REQUESTS, "tokens", "rate_limit_exceeded", ByStatus,
        "Wait as `Retry-After` says, set a smaller `max_tokens`, or make a key with more `--tokens-per-minute`: a request takes its prompt and `max_tokens`, and gives back what it did not use.";
    /// More tokens in one request than a minute has.
    RequestOverTokenLimit = TOO_MANY_REQUESTS, "tokens", "rate_limit_exceeded", Never,
        "Set a smaller `max_tokens`, or make a key with more `--tokens-per-minute`: waiting does not help.";
    /// As many requests run as the key may have.
    ConcurrencyLimit = TOO_MANY_REQUESTS, "requests", "concurrency_limit_exceeded", ByStatus,
        "Wait for an answer before the next request, or make a key with more `--concurrency`.";
    /// The day's tokens are used up.
    QuotaExceeded = TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota", Never,
        "Wait for the next day of UTC, or make a key with more `--tokens-per-day`.";
    /// A fault of the server.
    Internal = INTERNAL_SERVER_ERROR, "server_error", "internal_error", ByStatus,
        "The log has the cause beside the request's id; report it.";
    /// The computation failed.
    EngineFailed = INTERNAL_SERVER_ERROR, "server_error", "engine_failed", ByStatus,
        "The log has the cause. The server goes on; report it.";
    /// The device that computes failed.
    DeviceFailed = SERVICE_UNAVAILABLE, "server_error", "device_failed", ByStatus,
        "Try again: the model is loaded again, on the device or on what `engine.device_fallback` names. The log has the cause.";
    /// A model that cannot be loaded.
    ModelFailed = INTERNAL_SERVER_ERROR, "server_error", "model_failed", Never,
        "The log has the cause: a file that is missing or broken (`minerva verify MODEL`), or memory (`minerva plan MODEL`).";
    /// As many requests wait as may.
    Overloaded = SERVICE_UNAVAILABLE, "server_error", "overloaded", ByStatus,
        "Try again as `Retry-After` says; raise `engine.parallel` if the memory allows it, or `engine.max_waiting`.";
    /// Not begun in the time given for waiting.
    QueueTimeout = GATEWAY_TIMEOUT, "server_error", "queue_timeout", ByStatus,
        "Raise the request's `queue_timeout` or `timeouts.queue_seconds`, or see `overloaded`.";
    /// No token in the time given for the first.
    FirstTokenTimeout = GATEWAY_TIMEOUT, "server_error", "first_token_timeout", ByStatus,
        "Raise `first_token_timeout` or `timeouts.first_token_seconds`, or send a shorter prompt.";
    /// Not finished in the time given for the whole.
    TotalTimeout = GATEWAY_TIMEOUT, "server_error", "total_timeout", ByStatus,
        "Raise `total_timeout` or `timeouts.total_seconds`, or set a smaller `max_tokens`.";
    /// The server takes no more work.
    Draining = SERVICE_UNAVAILABLE, "server_error", "shutting_down", ByStatus,
        "Try again as `Retry-After` says, at the server that takes its place.";
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
        if self.code.status() == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
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
