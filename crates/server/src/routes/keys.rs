//! `/admin/keys`: makes, lists and revokes API keys, with a key of the scope `admin`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get};
use serde_json::{Value, json};

use crate::auth::{KeyError, NewKey, Usage, key_json};
use crate::body::ApiJson;
use crate::error::{ApiError, ErrorCode};
use crate::state::AppState;

/// All keys, and a new one.
pub(super) fn keys() -> MethodRouter<AppState> {
    get(list).post(create)
}

/// One key, by its id or name.
pub(super) fn key() -> MethodRouter<AppState> {
    delete(revoke)
}

async fn list(State(state): State<AppState>) -> Result<Response, ApiError> {
    let now = state.clock().now();
    let keys = blocking(state, move |state| state.keys().list(now)).await?;
    let data: Vec<Value> = keys
        .iter()
        .map(|(key, usage)| key_json(key, usage))
        .collect();
    Ok(ApiJson(json!({"object": "list", "data": data})).into_response())
}

async fn create(
    State(state): State<AppState>,
    ApiJson(new): ApiJson<NewKey>,
) -> Result<Response, ApiError> {
    let now = state.clock().now();
    let (record, key) = blocking(state, move |state| state.keys().create(new, now)).await?;
    tracing::info!(id = record.id, name = record.name, "key made");
    let mut answer = key_json(&record, &Usage::default());
    answer["key"] = key.into();
    Ok((StatusCode::CREATED, ApiJson(answer)).into_response())
}

async fn revoke(
    State(state): State<AppState>,
    Path(id_or_name): Path<String>,
) -> Result<Response, ApiError> {
    let now = state.clock().now();
    let (record, usage) =
        blocking(state, move |state| state.keys().revoke(&id_or_name, now)).await?;
    tracing::info!(id = record.id, name = record.name, "key revoked");
    Ok(ApiJson(key_json(&record, &usage)).into_response())
}

/// The database blocks, so it is used from a thread that may.
async fn blocking<T: Send + 'static>(
    state: AppState,
    act: impl FnOnce(&AppState) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(move || act(&state)).await {
        Ok(done) => done.map_err(|error| api_error(&error)),
        Err(error) => Err(ApiError::new(ErrorCode::Internal, error.to_string())),
    }
}

fn api_error(error: &KeyError) -> ApiError {
    let message = error.to_string();
    match error {
        KeyError::Invalid { field, .. } => {
            ApiError::new(ErrorCode::InvalidRequest, message).about(*field)
        }
        KeyError::NotFound(_) => ApiError::new(ErrorCode::UnknownKey, message),
        KeyError::Ambiguous { .. } => ApiError::new(ErrorCode::InvalidRequest, message),
        KeyError::Locked { .. } | KeyError::File { .. } => {
            ApiError::new(ErrorCode::Internal, message)
        }
    }
}
