//! `/metrics`: everything that is counted, as Prometheus reads it.

use axum::extract::State;
use axum::http::header;
use axum::routing::{MethodRouter, get};

use crate::models;
use crate::openapi::{Content, Operation};
use crate::state::AppState;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    id: "metrics",
    summary: "Everything that is counted, as Prometheus reads it.",
    answers: &[(200, Content::Text("text/plain"))],
    ..Operation::GET
}];

pub(super) fn metrics() -> MethodRouter<AppState> {
    get(async |State(state): State<AppState>| {
        models::measure(&state);
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        (
            [(header::CONTENT_TYPE, content_type)],
            state.metrics().render(),
        )
    })
}
