//! `/tokenize`, `/detokenize`, `/apply-template`: what a model makes of texts and chats.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use minerva_engine::tokenizer::EncodeOptions;
use serde_json::{Value, json};

use crate::auth::Caller;
use crate::body::ApiJson;
use crate::convert::{self, ChatPrompt};
use crate::error::{ApiError, ErrorCode};
use crate::models;
use crate::openai::{ChatRequest, DetokenizeRequest, Object, Piece, TokenPiece, TokenizeRequest};
use crate::state::AppState;

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
    ApiJson(request): ApiJson<TokenizeRequest>,
) -> Result<Response, ApiError> {
    let model = models::get(&state, &caller, request.model.as_deref(), None).await?;
    let work = move || {
        let tokenizer = model.model().tokenizer();
        let options = EncodeOptions {
            add_special: request.add_special,
            parse_special: request.parse_special,
        };
        let tokens = tokenizer.encode(&request.content, options);
        if !request.with_pieces {
            return Ok(json!({"tokens": tokens}));
        }
        let piece = |id: u32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            let piece = match std::str::from_utf8(bytes) {
                Ok(text) => Piece::Text(text.to_owned()),
                Err(_) => Piece::Bytes(bytes.to_vec()),
            };
            TokenPiece { id, piece }
        };
        let pieces: Vec<TokenPiece> = tokens.into_iter().map(piece).collect();
        Ok(json!({"tokens": pieces}))
    };
    let answer: Value = convert::blocking(&state, work).await?;
    Ok(ApiJson(answer).into_response())
}

async fn decode(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(request): ApiJson<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    let model = models::get(&state, &caller, request.model.as_deref(), None).await?;
    let work = move || {
        let tokenizer = model.model().tokenizer();
        let n_tokens = tokenizer.n_tokens();
        if let Some(id) = request.tokens.iter().find(|&&id| id as usize >= n_tokens) {
            let message = format!("tokens: {id}, expected ids below {n_tokens}");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message).about("tokens"));
        }
        Ok(json!({"content": tokenizer.decode(&request.tokens, false)}))
    };
    let answer: Value = convert::blocking(&state, work).await?;
    Ok(ApiJson(answer).into_response())
}

/// Takes a whole chat request, so that one can be looked at before it is sent.
async fn render(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(body): ApiJson<Object>,
) -> Result<Response, ApiError> {
    let (request, unsupported) = ChatRequest::read(body)?;
    let policy = state.settings().config.api.unsupported_fields;
    let warnings = convert::refuse(unsupported, policy)?;
    let fields = request.fields;
    let model = models::get(&state, &caller, fields.model.as_deref(), None).await?;
    let chat = ChatPrompt {
        messages: request.messages,
        tools: fields.tools.unwrap_or_default(),
        template_variables: fields.chat_template_kwargs.unwrap_or_default(),
        add_generation_prompt: fields.add_generation_prompt,
        continue_final_message: fields.continue_final_message,
    };
    let work = move || {
        let segments = chat.with(&model, |chat, template| {
            chat.render(template, model.model().tokenizer())
        })?;
        let text: String = segments.into_iter().map(|segment| segment.text).collect();
        Ok(match warnings.is_empty() {
            true => json!({"prompt": text}),
            false => json!({"prompt": text, "warnings": warnings}),
        })
    };
    let answer: Value = convert::blocking(&state, work).await?;
    Ok(ApiJson(answer).into_response())
}
