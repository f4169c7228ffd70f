//! What a client is told where the engine fails: each of its errors as a row of the table.

use std::time::Duration;

use minerva_engine::{EngineError, ModelsError, RequestError, TimeoutPhase};

use crate::error::{ApiError, ErrorCode};

/// How long a client waits before it asks again where too many wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a client is told where a model cannot be had.
pub(crate) fn models_error(error: &ModelsError) -> ApiError {
    let message = error.to_string();
    match error {
        ModelsError::Unknown { .. } => {
            ApiError::new(ErrorCode::UnknownModel, message).about("model")
        }
        ModelsError::Overloaded { .. } => {
            ApiError::new(ErrorCode::Overloaded, message).after(RETRY_AFTER)
        }
        ModelsError::ShuttingDown => {
            ApiError::new(ErrorCode::Overloaded, "the model was unloaded, try again")
                .after(RETRY_AFTER)
        }
        ModelsError::DoesNotFit { .. } | ModelsError::Load(_) | ModelsError::Name { .. } => {
            tracing::error!(error = message, "a model cannot be loaded");
            // Its message may name files of this machine.
            ApiError::new(
                ErrorCode::ModelFailed,
                "the model cannot be loaded, the server's log says why",
            )
            .about("model")
        }
    }
}

/// What a client is told where a request is not answered. `prompt` is the field that holds the
/// prompt.
pub(crate) fn engine_error(error: EngineError, prompt: &str) -> ApiError {
    let message = error.to_string();
    match error {
        EngineError::Request(error) => request_error(&error, prompt),
        EngineError::Overloaded { .. } => {
            ApiError::new(ErrorCode::Overloaded, message).after(RETRY_AFTER)
        }
        EngineError::Timeout { phase, .. } => {
            let code = match phase {
                TimeoutPhase::Queue => ErrorCode::QueueTimeout,
                TimeoutPhase::FirstToken => ErrorCode::FirstTokenTimeout,
            };
            ApiError::new(code, message)
        }
        EngineError::ShuttingDown => {
            ApiError::new(ErrorCode::Overloaded, "the model was unloaded, try again")
                .after(RETRY_AFTER)
        }
        EngineError::Device(_) => {
            tracing::error!(error = message, "a step failed");
            // Its message may name parts of this machine.
            ApiError::new(
                ErrorCode::DeviceFailed,
                "the device failed, the server's log says how; try again",
            )
            .after(RETRY_AFTER)
        }
        EngineError::Failed(_) => {
            tracing::error!(error = message, "a step failed");
            ApiError::new(
                ErrorCode::EngineFailed,
                "the computation failed, the server's log says why",
            )
        }
    }
}

/// What a client is told where a request makes no sense.
pub(crate) fn request_error(error: &RequestError, prompt: &str) -> ApiError {
    let message = error.to_string();
    let invalid = |param: &str| ApiError::new(ErrorCode::InvalidRequest, &message).about(param);
    match error {
        RequestError::Parameter { field, .. } => match *field {
            "prompt" => invalid(prompt),
            "penalty_last_n" => invalid("repeat_last_n"),
            field => invalid(field),
        },
        RequestError::ChatTemplate(_) => invalid(prompt),
        RequestError::ContextOverflow {
            prompt_tokens,
            context,
        } => {
            let message = format!(
                "{prompt}: {prompt_tokens} tokens, and this model's maximum context length is \
                 {context} tokens, of which the answer needs at least one"
            );
            ApiError::new(ErrorCode::ContextLength, message).about(prompt)
        }
        RequestError::NoCandidates => ApiError::new(ErrorCode::InvalidRequest, message),
        RequestError::Banned { .. } => invalid("banned_strings"),
    }
}
