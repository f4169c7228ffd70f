//! `/tokenize`, `/detokenize`, `/apply-template`: what a model makes of texts and chats.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use minerva_engine::LoadedModel;
use minerva_engine::tokenizer::EncodeOptions;

use crate::auth::Caller;
use crate::body::{ApiJson, FromObject};
use crate::convert::{self, MESSAGES};
use crate::error::{ApiError, ErrorCode};
use crate::failure::request_error;
use crate::models;
use crate::openai::{
    ChatRequest, DetokenizeRequest, Detokenized, FieldError, Object, Piece, Rendered, TokenPiece,
    TokenizeRequest, Tokenized, Tokens,
};
use crate::openapi::{Content, FIELDS, LOADED_MODEL, MODEL, Operation, Shape};
use crate::state::AppState;

pub(super) const TOKENIZE_OPERATIONS: &[Operation] = &[Operation {
    method: "post",
    id: "tokenize",
    summary: "The tokens of a text.",
    request: Some(Shape::of::<TokenizeRequest>("TokenizeRequest")),
    answers: &[(
        200,
        Content::Json(Shape::around::<Tokenized, TokenPiece>("Tokenized")),
    )],
    errors: &[MODEL, LOADED_MODEL],
    ..Operation::GET
}];

pub(super) const DETOKENIZE_OPERATIONS: &[Operation] = &[Operation {
    method: "post",
    id: "detokenize",
    summary: "The text of tokens.",
    request: Some(Shape::of::<DetokenizeRequest>("DetokenizeRequest")),
    answers: &[(200, Content::Json(Shape::of::<Detokenized>("Detokenized")))],
    errors: &[MODEL, LOADED_MODEL],
    ..Operation::GET
}];

pub(super) const TEMPLATE_OPERATIONS: &[Operation] = &[Operation {
    method: "post",
    id: "applyTemplate",
    summary: "A chat as the model would see it.",
    request: Some(Shape::of::<ChatRequest>("ChatRequest")),
    answers: &[(200, Content::Json(Shape::of::<Rendered>("Rendered")))],
    errors: &[FIELDS, MODEL, LOADED_MODEL],
    ..Operation::GET
}];

pub(super) fn tokenize() -> MethodRouter<AppState> {
    post(encode)
}

pub(super) fn detokenize() -> MethodRouter<AppState> {
    post(decode)
}

pub(super) fn apply_template() -> MethodRouter<AppState> {
    post(render)
}

async fn encode(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(FromObject(request)): ApiJson<FromObject<TokenizeRequest>>,
) -> Result<Response, ApiError> {
    let model = models::get(&state, &caller, request.model.as_deref(), None).await?;
    let work = move |model: &LoadedModel| {
        let tokenizer = model.model().tokenizer();
        let options = EncodeOptions {
            add_special: request.add_special,
            parse_special: request.parse_special,
        };
        let tokens = tokenizer.encode(&request.content, options);
        if !request.with_pieces {
            let tokens = Tokens::Ids(tokens);
            return Ok(Tokenized { tokens });
        }
        let piece = |id: u32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            let piece = match std::str::from_utf8(bytes) {
                Ok(text) => Piece::Text(text.to_owned()),
                Err(_) => Piece::Bytes(bytes.to_vec()),
            };
            TokenPiece { id, piece }
        };
        let tokens = Tokens::Pieces(tokens.into_iter().map(piece).collect());
        Ok(Tokenized { tokens })
    };
    let (_, answer) = convert::blocking(&state, model, None, work).await?;
    Ok(ApiJson(answer).into_response())
}

async fn decode(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(FromObject(request)): ApiJson<FromObject<DetokenizeRequest>>,
) -> Result<Response, ApiError> {
    let model = models::get(&state, &caller, request.model.as_deref(), None).await?;
    let work = move |model: &LoadedModel| {
        let tokenizer = model.model().tokenizer();
        let n_tokens = tokenizer.n_tokens();
        if let Some(id) = request.tokens.iter().find(|&&id| id as usize >= n_tokens) {
            let message = format!("tokens: {id}, expected ids below {n_tokens}");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message).about("tokens"));
        }
        let content = tokenizer.decode(&request.tokens, false);
        Ok(Detokenized { content })
    };
    let (_, answer) = convert::blocking(&state, model, None, work).await?;
    Ok(ApiJson(answer).into_response())
}

/// Takes a whole chat request, so that one can be looked at before it is sent.
async fn render(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(body): ApiJson<Object>,
) -> Result<Response, ApiError> {
    let (request, mut unsupported) = ChatRequest::read(body)?;
    convert::check_tool_choice(request.fields.tool_choice.as_ref(), &mut unsupported);
    let checked = convert::check_chat(&state, request, unsupported)?;
    let params = &checked.config.sampling;
    params
        .validate()
        .map_err(|error| request_error(&error, MESSAGES))?;
    if checked.n_choices == 0 {
        return Err(FieldError::new("n", "0, expected at least 1").into());
    }
    let wait = checked.deadlines.queue;
    let model = models::get(&state, &caller, checked.model.as_deref(), wait).await?;
    let (chat, warnings) = (checked.chat, checked.delivery.warnings);
    let work = |model: &LoadedModel| chat.render(model);
    let (_, prompt) = convert::blocking(&state, model, wait, work).await?;
    Ok(ApiJson(Rendered { prompt, warnings }).into_response())
}
