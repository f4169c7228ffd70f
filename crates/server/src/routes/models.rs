//! `/v1/models`, `/v1/models/{id}`: which models there are, and what they are.

use std::time::UNIX_EPOCH;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use minerva_engine::ModelStatus;
use serde_json::json;

use crate::auth::Identity;
use crate::body::{ApiJson, ApiPath};
use crate::error::{ApiError, ErrorCode};
use crate::models;
use crate::openai::{ModelList, ModelObject};
use crate::openapi::{Content, MODEL, Operation, Parameter, Shape};
use crate::state::AppState;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    id: "listModels",
    summary: "The models that the key may use.",
    answers: &[(200, Content::Json(Shape::of::<ModelList>("ModelList")))],
    ..Operation::GET
}];

pub(super) const MODEL_OPERATIONS: &[Operation] = &[Operation {
    id: "retrieveModel",
    summary: "One model, by its name or an alias.",
    parameters: &[Parameter {
        name: "id",
        is_in_path: true,
        what: "Its name.",
        schema: || json!({"type": "string", "minLength": 1}),
    }],
    answers: &[(200, Content::Json(Shape::of::<ModelObject>("Model")))],
    errors: &[MODEL],
    ..Operation::GET
}];

/// Those that the caller may use.
pub(super) fn models() -> MethodRouter<AppState> {
    get(
        async |State(state): State<AppState>, Extension(identity): Extension<Identity>| {
            let all = state.models().list();
            let may_use = |status: &&ModelStatus| identity.check_model(&status.config.name).is_ok();
            let data = all.iter().filter(may_use).map(object).collect();
            ApiJson(ModelList {
                object: "list",
                data,
            })
        },
    )
}

/// One, by its name or an alias.
pub(super) fn model() -> MethodRouter<AppState> {
    get(one)
}

async fn one(
    State(state): State<AppState>,
    Extension(identity): Extension<Identity>,
    ApiPath(name): ApiPath,
) -> Result<Response, ApiError> {
    let name = models::find(&state, &identity, Some(&name))?;
    let status = state.models().status(&name);
    // It may have gone by a reload since.
    let status = status.ok_or_else(|| {
        ApiError::new(
            ErrorCode::UnknownModel,
            format!("model: {name:?} is not there"),
        )
    })?;
    Ok(ApiJson(object(&status)).into_response())
}

fn object(status: &ModelStatus) -> ModelObject {
    let info = status.info.as_ref();
    let written = std::fs::metadata(&status.config.path).and_then(|file| file.modified());
    let created = written
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    ModelObject {
        id: status.config.name.clone(),
        object: "model",
        created: created.unwrap_or_default().as_secs(),
        owned_by: "minerva",
        aliases: status.config.aliases.clone(),
        state: status.state.name(),
        context_window: status.context,
        device: status.device.clone(),
        is_on_fallback: status.stats.map(|stats| stats.is_on_fallback),
        max_parallel: status.config.options.max_sequences,
        architecture: info.map(|info| info.architecture),
        parameters: info.map(|info| info.n_parameters),
        // The types are listed by size.
        quantization: info.and_then(|info| Some(info.types.first()?.ggml_type.name())),
        size_bytes: info.map(|info| info.file_bytes),
        memory_bytes: status.n_bytes,
        device_memory_bytes: status.n_device_bytes,
    }
}
