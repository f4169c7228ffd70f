//! `/health`, `/health/live`, `/health/ready`, `/health/startup`: what probes and balancers ask.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde_json::json;

use crate::lifecycle::Phase;
use crate::state::AppState;

/// 200 if work is taken, else 503; `/health/ready` is the same.
pub(super) fn health() -> MethodRouter<AppState> {
    get(async |State(state): State<AppState>| {
        let phase = state.lifecycle().phase();
        answer(phase, phase == Phase::Ready)
    })
}

/// 200 as long as the process answers.
pub(super) fn live() -> MethodRouter<AppState> {
    get(async |State(state): State<AppState>| answer(state.lifecycle().phase(), true))
}

/// 200 once the models are loaded.
pub(super) fn startup() -> MethodRouter<AppState> {
    get(async |State(state): State<AppState>| {
        let phase = state.lifecycle().phase();
        answer(phase, phase != Phase::Starting)
    })
}

fn answer(phase: Phase, is_well: bool) -> Response {
    let status = match is_well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let word = match phase {
        Phase::Starting => "loading",
        Phase::Ready => "ok",
        Phase::Draining => "draining",
    };
    let body = json!({"status": word, "version": env!("CARGO_PKG_VERSION")});
    (status, Json(body)).into_response()
}
