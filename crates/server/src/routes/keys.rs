//! `/admin/keys`: makes, lists and revokes API keys, with a key of the scope `admin`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::auth::{KeyError, KeyObject, NewKey, Usage, key_object};
use crate::body::{ApiJson, ApiPath, FromObject};
use crate::error::{ApiError, ErrorCode};
use crate::openapi::{Content, Operation, Parameter, Shape};
use crate::state::AppState;

/// All keys.
#[derive(Debug, Serialize, ToSchema)]
struct KeyList {
    /// `list`.
    object: &'static str,
    /// The keys.
    data: Vec<KeyObject>,
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "listKeys",
        summary: "All API keys, and what they used.",
        answers: &[(200, Content::Json(Shape::of::<KeyList>("KeyList")))],
        ..Operation::GET
    },
    Operation {
        method: "post",
        id: "createKey",
        summary: "Makes an API key, which is shown this once.",
        request: Some(Shape::of::<NewKey>("NewKey")),
        answers: &[(201, Content::Json(Shape::of::<KeyObject>("Key")))],
        ..Operation::GET
    },
];

pub(super) const KEY_OPERATIONS: &[Operation] = &[Operation {
    method: "delete",
    id: "revokeKey",
    summary: "Revokes an API key.",
    parameters: &[Parameter {
        name: "id",
        is_in_path: true,
        what: "Its id or name.",
        schema: || json!({"type": "string", "minLength": 1}),
    }],
    answers: &[(200, Content::Json(Shape::of::<KeyObject>("Key")))],
    errors: &[&[ErrorCode::UnknownKey]],
    ..Operation::GET
}];

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
    let data = keys.iter().map(|(key, usage)| key_object(key, usage));
    let list = KeyList {
        object: "list",
        data: data.collect(),
    };
    Ok(ApiJson(list).into_response())
}

async fn create(
    State(state): State<AppState>,
    ApiJson(FromObject(new)): ApiJson<FromObject<NewKey>>,
) -> Result<Response, ApiError> {
    let now = state.clock().now();
    let (record, key) = blocking(state, move |state| state.keys().create(new, now)).await?;
    tracing::info!(id = record.id, name = record.name, "key made");
    let made = KeyObject {
        key: Some(key),
        ..key_object(&record, &Usage::default())
    };
    Ok((StatusCode::CREATED, ApiJson(made)).into_response())
}

async fn revoke(
    State(state): State<AppState>,
    ApiPath(id_or_name): ApiPath,
) -> Result<Response, ApiError> {
    let now = state.clock().now();
    let (record, usage) =
        blocking(state, move |state| state.keys().revoke(&id_or_name, now)).await?;
    tracing::info!(id = record.id, name = record.name, "key revoked");
    Ok(ApiJson(key_object(&record, &usage)).into_response())
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
