//! What a request brings: its body as JSON, bounded in size, in time and in depth, and its path.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use crate::error::{ApiError, ErrorCode};
use crate::openai;
use crate::state::AppState;

/// The body of a request, read and parsed; every route that takes one takes it so.
///
/// serde_json refuses what is nested deeper than 128 levels.
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        check_type(&request)?;
        let bytes = read(request, state).await?;
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::new(ErrorCode::InvalidRequest, format!("the body: {error}"))
        })?;
        Ok(Self(value))
    }
}

/// What is read from an object; serde would also take a list of its fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct FromObject<T>(pub(crate) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = serde_json::Map::deserialize(deserializer)?;
        let read = openai::read(serde_json::Value::Object(object));
        read.map(Self).map_err(D::Error::custom)
    }
}

/// The name or id in a path; every route that has one takes it so.
pub(crate) struct ApiPath(pub(crate) String);

impl FromRequestParts<AppState> for ApiPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let path: Result<Path<String>, _> = Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|rejection| {
            ApiError::new(ErrorCode::InvalidRequest, format!("the path: {rejection}"))
        })
    }
}

impl<T: serde::Serialize> IntoResponse for ApiJson<T> {
    fn into_response(self) -> Response {
        Json(self.0).into_response()
    }
}

/// A page of another site can send any other type without asking first, so only JSON is read.
fn check_type(request: &Request) -> Result<(), ApiError> {
    let found = request
        .headers()
        .get(header::CONTENT_TYPE)
        .map_or("none", |value| value.to_str().unwrap_or("unreadable"));
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = format!("Content-Type: {found}, expected application/json");
    Err(ApiError::new(ErrorCode::NotJson, message))
}

async fn read(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    let settings = state.settings();
    let limit = settings.config.limits.body_bytes;
    let too_large = |found: String| {
        let message = format!("the body: {found}, expected at most {limit} bytes");
        ApiError::new(ErrorCode::BodyTooLarge, message)
    };
    // What says that it is too large is refused before it comes.
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length.filter(|&length| length > limit as u64) {
        return Err(too_large(format!("{length} bytes")));
    }
    let wait = settings.config.timeouts.body();
    let body = Limited::new(request.into_body(), limit).collect();
    match tokio::time::timeout(wait, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large("more".to_owned())),
        Ok(Err(error)) => {
            let message = format!("the body: it broke off: {error}");
            Err(ApiError::new(ErrorCode::InvalidRequest, message))
        }
        Err(_) => {
            let message = format!("the body: not whole after {} s", wait.as_secs());
            Err(ApiError::new(ErrorCode::BodyTimeout, message))
        }
    }
}
