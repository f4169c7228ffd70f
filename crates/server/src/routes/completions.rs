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
use crate::openai::{CompletionRequest, Object};
use crate::reply::reply;
use crate::state::AppState;

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
    let n_choices = request.sampling.n.unwrap_or(1);
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
