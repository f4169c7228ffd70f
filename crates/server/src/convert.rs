//! From what clients send to what the engine takes: ranges, contradictions, messages for templates.

use std::time::Duration;

use minerva_engine::chat::template::ChatTemplate;
use minerva_engine::chat::{Chat, encode_text};
use minerva_engine::sampler::{Mirostat, SamplingParams};
use minerva_engine::tokenizer::Tokenizer;
use minerva_engine::{
    Deadlines, EngineError, GenerateConfig, GenerateRequest, LoadedModel, RequestError,
};
use minijinja::value::Serde;
use serde_json::{Value, json};

use crate::auth::Caller;
use crate::body::FromObject;
use crate::config::{Timeouts, UnsupportedFields};
use crate::error::{ApiError, ErrorCode};
use crate::failure::engine_error;
use crate::models;
use crate::openai::{
    Answers, ChatRequest, CompletionRequest, FieldError, Message, Object, Prompt, Sampling,
    Unsupported,
};
use crate::state::AppState;

/// The most likely tokens that can come with each token, as OpenAI has it.
const MAX_TOP_LOGPROBS: usize = 20;
/// The length of a completion that asks for none, as OpenAI has it.
const COMPLETION_TOKENS: usize = 16;
/// The field of a chat that holds its prompt.
pub(crate) const MESSAGES: &str = "messages";
/// The field of a completion that holds its prompt.
pub(crate) const PROMPT: &str = "prompt";

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> ApiError {
        ApiError::new(ErrorCode::InvalidRequest, error.message).about(error.param)
    }
}

/// How answers come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delivery {
    /// Bit by bit.
    pub(crate) is_stream: bool,
    /// With a last chunk of tokens counted.
    pub(crate) includes_usage: bool,
    /// With the progress of the prompt.
    pub(crate) has_progress: bool,
    /// Fields that were not honored, where that is allowed.
    pub(crate) warnings: Vec<String>,
}

/// Refuses fields that cannot be honored, or turns them into warnings.
pub(crate) fn refuse(
    unsupported: Vec<Unsupported>,
    policy: UnsupportedFields,
) -> Result<Vec<String>, ApiError> {
    let mut warnings = Vec::new();
    for Unsupported { error, is_known } in unsupported {
        if policy == UnsupportedFields::Warn {
            warnings.push(error.message);
            continue;
        }
        let code = match is_known {
            true => ErrorCode::UnsupportedField,
            false => ErrorCode::UnknownField,
        };
        return Err(ApiError::new(code, error.message).about(error.param));
    }
    Ok(warnings)
}

/// A chat that an engine can answer.
pub(crate) struct PreparedChat {
    /// The model that is to answer.
    pub(crate) model: LoadedModel,
    /// The prompt and its settings.
    pub(crate) request: GenerateRequest,
    /// How answers come.
    pub(crate) delivery: Delivery,
}

/// Checks a chat, loads its model, and makes tokens of it.
pub(crate) async fn prepare_chat(
    state: &AppState,
    caller: &Caller,
    mut request: ChatRequest,
    mut unsupported: Vec<Unsupported>,
) -> Result<PreparedChat, ApiError> {
    let fields = &mut request.fields;
    let tools = fields.tools.take();
    let tools = usable_tools(tools, fields.tool_choice.as_ref(), &mut unsupported);
    let CheckedChat {
        mut chat,
        model,
        config,
        n_choices,
        deadlines,
        delivery,
    } = check_chat(state, request, unsupported)?;
    chat.tools = tools;
    let model = models::get(state, caller, model.as_deref(), deadlines.queue).await?;
    let work = |model: &LoadedModel| chat.encode(model);
    let (model, tokens) = blocking(state, model, deadlines.queue, work).await?;
    let request = GenerateRequest {
        n_choices,
        tenant: caller.tenant(),
        deadlines,
        ..GenerateRequest::new(tokens, config)
    };
    Ok(PreparedChat {
        model,
        request,
        delivery,
    })
}

/// A chat whose fields make sense.
pub(crate) struct CheckedChat {
    /// What the prompt is made of.
    pub(crate) chat: ChatPrompt,
    /// The model's name, if there is one in the request.
    pub(crate) model: Option<String>,
    /// How it goes on.
    pub(crate) config: GenerateConfig,
    /// How many answers.
    pub(crate) n_choices: usize,
    /// How long it may take.
    pub(crate) deadlines: Deadlines,
    /// How answers come.
    pub(crate) delivery: Delivery,
}

/// Checks what can be checked of a chat without its model.
pub(crate) fn check_chat(
    state: &AppState,
    request: ChatRequest,
    unsupported: Vec<Unsupported>,
) -> Result<CheckedChat, ApiError> {
    let settings = state.settings();
    let ChatRequest {
        messages,
        sampling,
        answers,
        fields,
    } = request;
    let is_stream = sampling.stream.unwrap_or(false);
    let policy = settings.config.api.unsupported_fields;
    let n_choices = answers.n.unwrap_or(1);
    let delivery = delivery(is_stream, answers, unsupported, policy)?;
    let deadlines = deadlines(&sampling, &settings.config.timeouts)?;
    let max_tokens = match (fields.max_completion_tokens, fields.max_tokens) {
        (Some(max), Some(other)) if max != other => {
            let problem = format!("{max}, and max_tokens: {other}, expected one of them");
            return Err(FieldError::new("max_completion_tokens", problem).into());
        }
        (max, other) => max.or(other),
    };
    let logprobs = match (fields.logprobs.unwrap_or(false), fields.top_logprobs) {
        (true, k) => Some(top_logprobs("top_logprobs", k.unwrap_or(0))?),
        (false, None | Some(0)) => None,
        (false, Some(k)) => {
            let problem = format!("{k} without logprobs, expected logprobs: true");
            return Err(FieldError::new("top_logprobs", problem).into());
        }
    };
    Ok(CheckedChat {
        chat: ChatPrompt {
            messages,
            tools: fields.tools.unwrap_or_default(),
            template_variables: fields.chat_template_kwargs.unwrap_or_default(),
            add_generation_prompt: fields.add_generation_prompt,
            continue_final_message: fields.continue_final_message,
        },
        model: fields.model,
        config: generate_config(sampling, max_tokens, logprobs)?,
        n_choices,
        deadlines,
        delivery,
    })
}

/// What a chat template makes a prompt of.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChatPrompt {
    /// The messages.
    pub(crate) messages: Vec<Message>,
    /// Definitions of tools.
    pub(crate) tools: Vec<Object>,
    /// Variables of the template.
    pub(crate) template_variables: Object,
    /// Whether the prompt ends with the start of an answer; so if not set.
    pub(crate) add_generation_prompt: Option<bool>,
    /// Whether the last message is the start of the answer; if not set, an assistant's is.
    pub(crate) continue_final_message: Option<bool>,
}

impl ChatPrompt {
    /// The tokens of the prompt. Takes a processor's time, as [`render`](Self::render) does.
    pub(crate) fn encode(self, model: &LoadedModel) -> Result<Vec<u32>, ApiError> {
        self.with(model, Chat::encode)
    }

    /// The text of the prompt.
    pub(crate) fn render(self, model: &LoadedModel) -> Result<String, ApiError> {
        let segments = self.with(model, Chat::render)?;
        Ok(segments.into_iter().map(|segment| segment.text).collect())
    }

    /// Has the engine do something with the chat and its model's template.
    fn with<T>(
        mut self,
        model: &LoadedModel,
        act: impl FnOnce(&Chat, &ChatTemplate, &Tokenizer) -> Result<T, EngineError>,
    ) -> Result<T, ApiError> {
        let template = model.chat_template().map_err(|error| {
            tracing::error!(%error, model = model.name(), "the chat template cannot be used");
            let message = format!("model {}: {error}", model.name());
            ApiError::new(ErrorCode::ModelFailed, message).about("model")
        })?;
        let Some(template) = template else {
            let message = format!(
                "messages: model {} has no chat template, expected a prompt at /v1/completions",
                model.name()
            );
            return Err(ApiError::new(ErrorCode::InvalidRequest, message).about(MESSAGES));
        };
        if !self.tools.is_empty() && !template.reads("tools") {
            let message = format!(
                "tools: the chat template of model {} has no place for them",
                model.name()
            );
            return Err(ApiError::new(ErrorCode::UnsupportedField, message).about("tools"));
        }
        let add_generation_prompt = self.add_generation_prompt.unwrap_or(true);
        let can_go_on = self
            .messages
            .last()
            .is_some_and(|last| last.role == "assistant" && last.tool_calls.is_empty());
        let goes_on = match self.continue_final_message {
            None => can_go_on && add_generation_prompt,
            Some(true) if !can_go_on || !add_generation_prompt => {
                let problem = "true, expected an assistant's message at the end, and \
                               add_generation_prompt";
                return Err(FieldError::new("continue_final_message", problem).into());
            }
            Some(goes_on) => goes_on,
        };
        let answer_start = match goes_on {
            true => self.messages.pop().and_then(|last| last.content),
            false => None,
        };
        let messages: Vec<Value> = self.messages.iter().map(template_message).collect();
        let value = |value: Value| minijinja::Value::from(Serde(value));
        let chat = Chat {
            tools: match self.tools.is_empty() {
                true => minijinja::Value::default(),
                false => value(self.tools.into_iter().map(Value::Object).collect()),
            },
            add_generation_prompt,
            answer_start,
            extra: self
                .template_variables
                .into_iter()
                .map(|(name, variable)| (name, value(variable)))
                .collect(),
            ..Chat::new(value(Value::Array(messages)))
        };
        act(&chat, template, model.model().tokenizer()).map_err(|error| match error {
            EngineError::Request(RequestError::ChatTemplate(problem)) => {
                let message = format!("chat template of model {}: {problem}", model.name());
                ApiError::new(ErrorCode::InvalidRequest, message).about(MESSAGES)
            }
            error => engine_error(error, MESSAGES),
        })
    }
}

/// A message as templates read it.
fn template_message(message: &Message) -> Value {
    let mut value = json!({"role": message.role, "content": message.content});
    for (name, text) in [
        ("name", &message.name),
        ("tool_call_id", &message.tool_call_id),
        ("reasoning_content", &message.reasoning_content),
    ] {
        if let Some(text) = text {
            value[name] = json!(text);
        }
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            let mut value = json!({"type": "function", "function": function});
            if let Some(id) = &call.id {
                value["id"] = json!(id);
            }
            value
        });
        value["tool_calls"] = calls.collect();
    }
    value
}

/// Refuses to have calls made: answers are not searched for them.
pub(crate) fn check_tool_choice(choice: Option<&Value>, unsupported: &mut Vec<Unsupported>) {
    if choice.is_some_and(|choice| *choice != "none" && *choice != "auto") {
        let problem = "calls in answers are not read, expected \"none\"";
        unsupported.push(Unsupported {
            error: FieldError::new("tool_choice", problem),
            is_known: true,
        });
    }
}

/// The tools that the template is to be given: answers cannot be searched for calls, so there are
/// some only where the model must not call them.
fn usable_tools(
    tools: Option<Vec<Object>>,
    choice: Option<&Value>,
    unsupported: &mut Vec<Unsupported>,
) -> Vec<Object> {
    let tools = tools.unwrap_or_default();
    if tools.is_empty() {
        check_tool_choice(choice, unsupported);
    }
    if tools.is_empty() || choice.is_some_and(|choice| *choice == "none") {
        return tools;
    }
    let problem = "calls in answers are not read, expected tool_choice: \"none\"";
    unsupported.push(Unsupported {
        error: FieldError::new("tools", problem),
        is_known: true,
    });
    Vec::new()
}

/// Completions that an engine can answer.
pub(crate) struct PreparedCompletion {
    /// The model that is to answer.
    pub(crate) model: LoadedModel,
    /// Each prompt and its settings.
    pub(crate) requests: Vec<GenerateRequest>,
    /// What answers begin with, where that was asked for: each prompt's text.
    pub(crate) echoes: Vec<Echo>,
    /// How answers come.
    pub(crate) delivery: Delivery,
}

/// A prompt that its answer begins with.
pub(crate) struct Echo {
    /// Its text.
    pub(crate) text: String,
    /// Its tokens.
    pub(crate) tokens: Vec<u32>,
    /// Whether the first of them begins every text, and is not in this one.
    pub(crate) has_bos: bool,
}

/// Checks completions, loads their model, and makes tokens of their prompts.
pub(crate) async fn prepare_completion(
    state: &AppState,
    caller: &Caller,
    request: CompletionRequest,
    unsupported: Vec<Unsupported>,
) -> Result<PreparedCompletion, ApiError> {
    let settings = state.settings();
    let CompletionRequest {
        prompts,
        sampling,
        answers,
        fields,
    } = request;
    let is_stream = sampling.stream.unwrap_or(false);
    let policy = settings.config.api.unsupported_fields;
    let n_choices = answers.n.unwrap_or(1);
    let delivery = delivery(is_stream, answers, unsupported, policy)?;
    let deadlines = deadlines(&sampling, &settings.config.timeouts)?;
    let logprobs = fields.logprobs.map(|k| top_logprobs("logprobs", k));
    let logprobs = logprobs.transpose()?;
    let is_echo = fields.echo.unwrap_or(false);
    let max_tokens = fields.max_tokens.unwrap_or(COMPLETION_TOKENS);
    let config = generate_config(sampling, Some(max_tokens), logprobs)?;
    let model = models::get(state, caller, fields.model.as_deref(), deadlines.queue).await?;
    let work = move |model: &LoadedModel| {
        let tokenizer = model.model().tokenizer();
        let encode = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => encode_text(text, tokenizer),
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        let tokens: Vec<Vec<u32>> = prompts.iter().map(encode).collect();
        let echo = |(prompt, tokens): (Prompt, &Vec<u32>)| match prompt {
            Prompt::Text(text) => Echo {
                text,
                tokens: tokens.clone(),
                has_bos: tokenizer.adds_bos(),
            },
            Prompt::Tokens(tokens) => Echo {
                text: tokenizer.decode(&tokens, false),
                tokens,
                has_bos: false,
            },
        };
        let echoes = match is_echo {
            true => prompts.into_iter().zip(&tokens).map(echo).collect(),
            false => Vec::new(),
        };
        Ok((tokens, echoes))
    };
    let (model, (tokens, echoes)) = blocking(state, model, deadlines.queue, work).await?;
    let request = |tokens| GenerateRequest {
        n_choices,
        prompt_logprobs: logprobs.filter(|_| is_echo),
        tenant: caller.tenant(),
        deadlines,
        ..GenerateRequest::new(tokens, config.clone())
    };
    Ok(PreparedCompletion {
        model,
        requests: tokens.into_iter().map(request).collect(),
        echoes,
        delivery,
    })
}

/// Refuses to come with more of the likeliest tokens than may be.
pub(crate) fn top_logprobs(field: &str, found: usize) -> Result<usize, FieldError> {
    match found {
        0..=MAX_TOP_LOGPROBS => Ok(found),
        _ => {
            let problem = format!("{found}, expected 0 to {MAX_TOP_LOGPROBS}");
            Err(FieldError::new(field, problem))
        }
    }
}

/// How answers come; refuses what cannot be honored.
fn delivery(
    is_stream: bool,
    answers: Answers,
    mut unsupported: Vec<Unsupported>,
    policy: UnsupportedFields,
) -> Result<Delivery, ApiError> {
    let has_progress = answers.return_progress.unwrap_or(false);
    for (field, is_there) in [
        ("stream_options", answers.stream_options.is_some()),
        ("return_progress", has_progress),
    ] {
        if is_there && !is_stream {
            let problem = "there without stream, expected stream: true";
            return Err(FieldError::new(field, problem).into());
        }
    }
    let FromObject(options) = answers.stream_options.unwrap_or_default();
    if options.include_obfuscation == Some(true) {
        unsupported.push(Unsupported {
            error: FieldError::new("stream_options.include_obfuscation", "true, expected false"),
            is_known: true,
        });
    }
    Ok(Delivery {
        is_stream,
        includes_usage: options.include_usage.unwrap_or(false),
        has_progress,
        warnings: refuse(unsupported, policy)?,
    })
}

/// The shorter of what the request and the settings allow.
pub(crate) fn deadlines(sampling: &Sampling, timeouts: &Timeouts) -> Result<Deadlines, FieldError> {
    let limit = |field: &str, asked: Option<f64>, general: u64| {
        let general = (general > 0).then(|| Duration::from_secs(general));
        let Some(asked) = asked else {
            return Ok(general);
        };
        let time = Duration::try_from_secs_f64(asked).ok();
        let time = time.filter(|time| !time.is_zero()).ok_or_else(|| {
            FieldError::new(field, format!("{asked}, expected seconds, more than 0"))
        })?;
        Ok(Some(general.map_or(time, |general| general.min(time))))
    };
    let Sampling {
        queue_timeout,
        first_token_timeout,
        total_timeout,
        ..
    } = sampling;
    Ok(Deadlines {
        queue: limit("queue_timeout", *queue_timeout, timeouts.queue_seconds)?,
        first_token: limit(
            "first_token_timeout",
            *first_token_timeout,
            timeouts.first_token_seconds,
        )?,
        total: limit("total_timeout", *total_timeout, timeouts.total_seconds)?,
    })
}

/// How the engine is to go on with a prompt.
pub(crate) fn generate_config(
    sampling: Sampling,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
) -> Result<GenerateConfig, FieldError> {
    let defaults = GenerateConfig::default();
    Ok(GenerateConfig {
        sampling: sampling_params(&sampling)?,
        stop: sampling.stop.map_or_else(Vec::new, |stop| stop.into_vec()),
        banned_strings: sampling.banned_strings.unwrap_or_default(),
        max_tokens,
        logprobs,
        ignore_eos: sampling.ignore_eos.unwrap_or(defaults.ignore_eos),
        cache_prompt: sampling.cache_prompt.unwrap_or(defaults.cache_prompt),
    })
}

/// What is not given is as the engine, and llama-server, have it.
fn sampling_params(sampling: &Sampling) -> Result<SamplingParams, FieldError> {
    let d = SamplingParams::default();
    let s = sampling;
    let mut logit_bias = Vec::new();
    for (token, bias) in s.logit_bias.iter().flatten() {
        let id = token.parse().map_err(|_| {
            FieldError::new(
                "logit_bias",
                format!("{token:?}, expected the id of a token"),
            )
        })?;
        logit_bias.push((id, *bias));
    }
    let mirostat = match s.mirostat {
        None | Some(0) => Mirostat::Off,
        Some(1) => Mirostat::V1,
        Some(2) => Mirostat::V2,
        Some(found) => {
            return Err(FieldError::new(
                "mirostat",
                format!("{found}, expected 0, 1 or 2"),
            ));
        }
    };
    let top_k = s.top_k.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX));
    Ok(SamplingParams {
        // Every other number is one seed, below zero too.
        seed: s.seed.filter(|seed| *seed != -1).map(i64::cast_unsigned),
        logit_bias,
        penalty_last_n: s.repeat_last_n.unwrap_or(d.penalty_last_n),
        repeat_penalty: s.repeat_penalty.unwrap_or(d.repeat_penalty),
        presence_penalty: s.presence_penalty.unwrap_or(d.presence_penalty),
        frequency_penalty: s.frequency_penalty.unwrap_or(d.frequency_penalty),
        dry_multiplier: s.dry_multiplier.unwrap_or(d.dry_multiplier),
        dry_base: s.dry_base.unwrap_or(d.dry_base),
        dry_allowed_length: s.dry_allowed_length.unwrap_or(d.dry_allowed_length),
        dry_penalty_last_n: s.dry_penalty_last_n.unwrap_or(d.dry_penalty_last_n),
        dry_sequence_breakers: s
            .dry_sequence_breakers
            .clone()
            .unwrap_or(d.dry_sequence_breakers),
        top_n_sigma: s.top_n_sigma.unwrap_or(d.top_n_sigma),
        top_k: top_k.unwrap_or(d.top_k),
        typical_p: s.typical_p.unwrap_or(d.typical_p),
        top_p: s.top_p.unwrap_or(d.top_p),
        min_p: s.min_p.unwrap_or(d.min_p),
        xtc_probability: s.xtc_probability.unwrap_or(d.xtc_probability),
        xtc_threshold: s.xtc_threshold.unwrap_or(d.xtc_threshold),
        min_keep: s.min_keep.unwrap_or(d.min_keep),
        temperature: s.temperature.unwrap_or(d.temperature),
        dynatemp_range: s.dynatemp_range.unwrap_or(d.dynatemp_range),
        dynatemp_exponent: s.dynatemp_exponent.unwrap_or(d.dynatemp_exponent),
        mirostat,
        mirostat_tau: s.mirostat_tau.unwrap_or(d.mirostat_tau),
        mirostat_eta: s.mirostat_eta.unwrap_or(d.mirostat_eta),
    })
}

/// Work on a request that takes a processor's time, on a thread that may block, when there is a
/// place for it; for at most `wait`.
pub(crate) async fn blocking<T: Send + 'static>(
    state: &AppState,
    model: LoadedModel,
    wait: Option<Duration>,
    work: impl FnOnce(&LoadedModel) -> Result<T, ApiError> + Send + 'static,
) -> Result<(LoadedModel, T), ApiError> {
    let place = state.places().get(model.name());
    let place = match wait {
        Some(wait) => tokio::time::timeout(wait, place).await.map_err(|_| {
            let (name, seconds) = (model.name(), wait.as_secs_f64());
            let message = format!("model {name}: the prompt is not made within {seconds} s");
            ApiError::new(ErrorCode::QueueTimeout, message)
        })?,
        None => place.await,
    };
    // The place goes with the work, which goes on when its request is given up.
    let work = move || (work(&model).map(|done| (model, done)), place).0;
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "the preparation of a request failed");
            Err(ApiError::new(
                ErrorCode::Internal,
                "a fault of the server, which is in its log",
            ))
        }
    }
}
