//! `/v1/chat/completions`: answers a chat.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, post};

use crate::auth::Caller;
use crate::body::ApiJson;
use crate::convert::{self, MESSAGES, PreparedChat};
use crate::dialect::ChatDialect;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::openai::{Answer, ChatChoice, ChatChunkChoice, ChatRequest, Object};
use crate::openapi::{Content, FIELDS, GENERATION, LOADED_MODEL, MODEL, Operation, Shape};
use crate::reply::reply;
use crate::state::AppState;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    method: "post",
    id: "createChatCompletion",
    summary: "Answers a chat.",
    request: Some(Shape::of::<ChatRequest>("ChatRequest")),
    answers: &[(
        200,
        Content::JsonOrEvents(
            Shape::around::<Answer<ChatChoice>, ChatChoice>("ChatCompletion"),
            Shape::around::<Answer<ChatChunkChoice>, ChatChunkChoice>("ChatCompletionChunk"),
        ),
    )],
    errors: &[FIELDS, MODEL, LOADED_MODEL, GENERATION],
    ..Operation::GET
}];

pub(super) fn chat_completions() -> MethodRouter<AppState> {
    post(create)
}

async fn create(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(body): ApiJson<Object>,
) -> Result<Response, ApiError> {
    let (request, unsupported) = ChatRequest::read(body)?;
    let prepared = convert::prepare_chat(&state, &caller, request, unsupported).await?;
    let PreparedChat {
        model,
        request,
        delivery,
    } = prepared;
    let dialect = ChatDialect::new(model.model().clone(), request.n_choices);
    let generation = Generation::start(&state, &caller, model, vec![request], MESSAGES)?;
    reply(&state, generation, dialect, delivery).await
}
