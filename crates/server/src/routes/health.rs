//! `/health`, `/health/live`, `/health/ready`, `/health/startup`: what probes and balancers ask.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::Serialize;
use utoipa::ToSchema;

use crate::lifecycle::Phase;
use crate::openapi::{Content, Operation, Shape};
use crate::state::AppState;

const HEALTH: Content = Content::Json(Shape::of::<Health>("Health"));

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    id: "health",
    summary: "Whether work is taken.",
    answers: &[(200, HEALTH), (503, HEALTH)],
    ..Operation::GET
}];

pub(super) const READY_OPERATIONS: &[Operation] = &[Operation {
    id: "healthReady",
    ..OPERATIONS[0]
}];

pub(super) const LIVE_OPERATIONS: &[Operation] = &[Operation {
    id: "healthLive",
    summary: "Whether the process answers.",
    answers: &[(200, HEALTH)],
    ..Operation::GET
}];

pub(super) const STARTUP_OPERATIONS: &[Operation] = &[Operation {
    id: "healthStartup",
    summary: "Whether the models are loaded.",
    answers: &[(200, HEALTH), (503, HEALTH)],
    ..Operation::GET
}];

/// How the server is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct Health {
    /// `loading`, `ok` or `draining`.
    status: &'static str,
    /// The version of the program.
    version: &'static str,
}

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
    let health = Health {
        version: env!("CARGO_PKG_VERSION"),
        status: match phase {
            Phase::Starting => "loading",
            Phase::Ready => "ok",
            Phase::Draining => "draining",
        },
    };
    (status, Json(health)).into_response()
}
