//! `/v1/completions`: goes on with a text, or with several.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, post};

use crate::auth::Caller;
use crate::body::ApiJson;
use crate::convert::{self, PROMPT, PreparedCompletion};
use crate::dialect::CompletionDialect;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::openai::{Answer, CompletionChoice, CompletionRequest, Object};
use crate::openapi::{Content, FIELDS, GENERATION, LOADED_MODEL, MODEL, Operation, Shape};
use crate::reply::reply;
use crate::state::AppState;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    method: "post",
    id: "createCompletion",
    summary: "Goes on with a text or tokens, or scores them.",
    request: Some(Shape::of::<CompletionRequest>("CompletionRequest")),
    answers: &[(
        200,
        Content::JsonOrEvents(
            Shape::around::<Answer<CompletionChoice>, CompletionChoice>("Completion"),
            Shape::around::<Answer<CompletionChoice>, CompletionChoice>("Completion"),
        ),
    )],
    errors: &[FIELDS, MODEL, LOADED_MODEL, GENERATION],
    ..Operation::GET
}];

pub(super) fn completions() -> MethodRouter<AppState> {
    post(create)
}

async fn create(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(body): ApiJson<Object>,
) -> Result<Response, ApiError> {
    let (request, unsupported) = CompletionRequest::read(body)?;
    let n_prompts = request.prompts.len();
    let n_choices = request.answers.n.unwrap_or(1);
    let has_logprobs = request.fields.logprobs.is_some();
    let prepared = convert::prepare_completion(&state, &caller, request, unsupported).await?;
    let PreparedCompletion {
        model,
        requests,
        echoes,
        delivery,
    } = prepared;
    let shared = model.model().clone();
    let generation = Generation::start(&state, &caller, model, requests, PROMPT)?;
    // After the start, which refuses more answers than can be.
    let dialect = CompletionDialect::new(shared, n_choices, n_prompts, echoes, has_logprobs);
    reply(&state, generation, dialect, delivery).await
}
