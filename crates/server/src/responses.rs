//! Responses: from a request to the events of its answer, over HTTP and WebSocket alike.

use std::collections::VecDeque;

use minerva_engine::{Event, GenerateRequest, LoadedModel};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::auth::{Caller, Identity};
use crate::conversations::{Bounds, Owner, Reach, Turn};
use crate::convert::{self, ChatPrompt};
use crate::dialect::{ChatDialect, Dialect, Piece};
use crate::error::{ApiError, ErrorCode};
use crate::generation::Generation;
use crate::models;
use crate::openai::{
    ChatLogprobs, FieldError, INCLUDE_LOGPROBS, IncompleteDetails, Item, Message, Object,
    OutputMessage, OutputText, Reasoning, ResponseError, ResponseEvent, ResponseObject,
    ResponseRequest, ResponseUsage, Status, TokenLogprob,
};
use crate::random;
use crate::state::AppState;

/// The field of a request that holds its prompt.
const INPUT: &str = "input";

/// The name of the event of an error.
pub(crate) const ERROR: &str = "error";

/// How much is kept for each key.
pub(crate) fn bounds(state: &AppState) -> Bounds {
    state.settings().config.responses.bounds()
}

/// Whose responses somebody may see.
pub(crate) fn owner(identity: &Identity) -> Owner {
    let key = identity.key();
    key.map_or_else(Owner::new, |key| key.id.clone())
}

/// The id of a response that is to be.
pub(crate) fn new_id() -> String {
    random::id("resp_")
}

/// An event, with its name and its number.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Numbered {
    /// Its name.
    #[serde(rename = "type")]
    pub(crate) name: &'static str,
    /// From 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence_number: Option<u64>,
    /// The rest.
    #[serde(flatten)]
    pub(crate) event: ResponseEvent,
}

/// Who asked for a response, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// By one request; the answer comes bit by bit if that asks for it.
    Http,
    /// By a frame of a socket.
    Socket(Reach),
}

impl Transport {
    fn reach(self) -> Reach {
        match self {
            Transport::Http => Reach::Key,
            Transport::Socket(reach) => reach,
        }
    }
}

/// A response that is being made: its events, one after the other.
pub(crate) struct Responding {
    state: AppState,
    owner: Owner,
    transport: Transport,
    is_stream: bool,
    keeps_prompt: bool,
    /// There is to be no answer.
    is_warm_up: bool,
    /// The client has an event, and the response's id with it.
    is_announced: bool,
    /// `None` once it has ended.
    generation: Option<Generation>,
    dialect: ChatDialect,
    cancelled: CancellationToken,
    input: Vec<Item>,
    response: ResponseObject,
    unsent: VecDeque<Numbered>,
    n_events: u64,
    error: Option<ApiError>,
}

impl Responding {
    /// Checks a request, makes tokens of its conversation, and has the engine begin.
    pub(crate) async fn start(
        state: &AppState,
        caller: &Caller,
        body: Object,
        id: String,
        transport: Transport,
        cancelled: CancellationToken,
    ) -> Result<Responding, ApiError> {
        let settings = state.settings();
        let created_at = state.clock().now().as_secs();
        let (request, unsupported) = ResponseRequest::read(body, || random::id("msg_"))?;
        let ResponseRequest {
            input,
            sampling,
            fields,
        } = request;
        let policy = settings.config.api.unsupported_fields;
        let warnings = convert::refuse(unsupported, policy)?;
        let is_stream = sampling.stream.unwrap_or(false);
        let deadlines = convert::deadlines(&sampling, &settings.config.timeouts)?;
        let wants_logprobs = fields
            .include
            .iter()
            .flatten()
            .any(|name| name == INCLUDE_LOGPROBS);
        let logprobs = match (wants_logprobs, fields.top_logprobs) {
            (true, k) => Some(convert::top_logprobs("top_logprobs", k.unwrap_or(0))?),
            (false, None | Some(0)) => None,
            (false, Some(k)) => {
                let problem = format!("{k}, expected {INCLUDE_LOGPROBS:?} in include beside it");
                return Err(FieldError::new("top_logprobs", problem).into());
            }
        };
        let is_warm_up = fields.generate == Some(false);
        // The engine computes a prompt for the sake of a token, which nobody gets then.
        let max_tokens = match is_warm_up {
            true => Some(1),
            false => fields.max_output_tokens,
        };
        let config = convert::generate_config(sampling, max_tokens, logprobs)?;
        let owner = owner(caller.identity());
        let mut messages = Vec::new();
        let instructions = fields.instructions.clone();
        messages.extend(instructions.map(|text| Message::of("system", text)));
        if let Some(previous) = &fields.previous_response_id {
            let now = state.clock().now();
            let kept = state.conversations();
            let bounds = settings.config.responses.bounds();
            messages.extend(kept.history(&owner, transport.reach(), previous, bounds, now)?);
        }
        messages.extend(input.iter().map(Item::message));
        if messages.is_empty() {
            return Err(FieldError::new(INPUT, "missing, expected text or a list of items").into());
        }
        let chat = ChatPrompt {
            messages,
            template_variables: fields.chat_template_kwargs.unwrap_or_default(),
            // An answer is a message of its own, also after one of the model's.
            continue_final_message: Some(false),
            ..ChatPrompt::default()
        };
        let model = models::get(state, caller, fields.model.as_deref(), deadlines.queue).await?;
        let work = |model: &LoadedModel| chat.encode(model);
        let (model, tokens) = convert::blocking(state, model, deadlines.queue, work)
            .await
            .map_err(|error| renamed(error, convert::MESSAGES))?;
        let response = ResponseObject {
            id,
            object: "response",
            created_at,
            completed_at: None,
            status: Status::InProgress,
            background: false,
            error: None,
            incomplete_details: None,
            instructions: fields.instructions,
            max_output_tokens: fields.max_output_tokens,
            max_tool_calls: None,
            model: model.name().to_owned(),
            output: Vec::new(),
            parallel_tool_calls: fields.parallel_tool_calls.unwrap_or(true),
            previous_response_id: fields.previous_response_id,
            prompt_cache_key: fields.prompt_cache_key,
            reasoning: Reasoning::default(),
            safety_identifier: fields.safety_identifier,
            service_tier: "default",
            store: fields.store.unwrap_or(true),
            temperature: config.sampling.temperature,
            text: json!({"format": {"type": "text"}}),
            tool_choice: "auto",
            tools: [],
            top_logprobs: logprobs.unwrap_or(0),
            top_p: config.sampling.top_p,
            truncation: "disabled",
            usage: None,
            user: fields.user,
            metadata: fields.metadata.unwrap_or_default(),
            timings: None,
            warnings,
        };
        let keeps_prompt = config.cache_prompt;
        let request = GenerateRequest {
            tenant: caller.tenant(),
            deadlines,
            ..GenerateRequest::new(tokens, config)
        };
        let dialect = ChatDialect::new(model.model().clone(), 1);
        let generation = Generation::start(state, caller, model, vec![request], INPUT)?;
        let mut responding = Responding {
            state: state.clone(),
            owner,
            transport,
            is_stream,
            keeps_prompt,
            is_warm_up,
            is_announced: false,
            generation: Some(generation),
            dialect,
            cancelled,
            input,
            response,
            unsent: VecDeque::new(),
            n_events: 0,
            error: None,
        };
        responding.push_response("response.created");
        responding.push_response("response.in_progress");
        Ok(responding)
    }

    /// Whether the request asked for the answer bit by bit.
    pub(crate) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Waits until the engine has begun, or has failed to, and gives the error then.
    pub(crate) async fn begin(&mut self) -> Result<(), ApiError> {
        self.advance().await;
        self.error.clone().map_or(Ok(()), Err)
    }

    /// The response, once it is complete or the engine has failed.
    pub(crate) async fn whole(mut self) -> Result<ResponseObject, ApiError> {
        while self.next().await.is_some() {}
        self.error.map_or(Ok(self.response), Err)
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Option<Numbered> {
        while self.unsent.is_empty() {
            self.generation.as_ref()?;
            self.advance().await;
        }
        self.is_announced = self.is_stream;
        self.unsent.pop_front()
    }

    /// Takes what the engine says next. Nothing is lost where this future is dropped.
    async fn advance(&mut self) {
        let Some(generation) = &mut self.generation else {
            return;
        };
        let event = tokio::select! {
            biased;
            () = self.cancelled.cancelled() => return self.finish(Status::Cancelled),
            event = generation.next() => event,
        };
        match event {
            Some(Ok((_, event))) if self.is_warm_up => {
                if let Event::Done { .. } = event {
                    self.close(Status::Completed);
                    self.push_response("response.completed");
                }
            }
            Some(Ok((prompt_idx, event))) => {
                for piece in self.dialect.pieces(prompt_idx, event) {
                    self.push_piece(piece);
                }
            }
            Some(Err(error)) => self.fail(error),
            // The piece that ended it came before.
            None => self.finish(Status::Completed),
        }
    }

    fn push_piece(&mut self, piece: Piece<ChatLogprobs>) {
        let logprobs = piece
            .logprobs
            .map_or_else(Vec::new, |logprobs| logprobs.content);
        if !piece.text.is_empty() || !logprobs.is_empty() {
            self.push_text(piece.text, logprobs);
        }
        match piece.finish_reason {
            Some("length") => self.finish(Status::Incomplete),
            Some(_) => self.finish(Status::Completed),
            None => {}
        }
    }

    fn push_text(&mut self, delta: String, logprobs: Vec<TokenLogprob>) {
        self.open();
        let Some((item_id, part)) = self.part() else {
            return;
        };
        part.text += &delta;
        part.logprobs.extend(logprobs.iter().cloned());
        self.push(
            "response.output_text.delta",
            ResponseEvent::Delta {
                item_id,
                output_index: 0,
                content_index: 0,
                delta,
                logprobs,
            },
        );
    }

    /// Begins the message, if it has not begun.
    fn open(&mut self) {
        if !self.response.output.is_empty() {
            return;
        }
        let mut item = OutputMessage::new(random::id("msg_"), Status::InProgress);
        let event = ResponseEvent::Item {
            output_index: 0,
            item: item.clone(),
        };
        self.push("response.output_item.added", event);
        let part = OutputText::new(String::new());
        let event = ResponseEvent::Part {
            item_id: item.id.clone(),
            output_index: 0,
            content_index: 0,
            part: part.clone(),
        };
        self.push("response.content_part.added", event);
        item.content.push(part);
        self.response.output.push(item);
    }

    /// The message's id and part, once it has begun.
    fn part(&mut self) -> Option<(String, &mut OutputText)> {
        let item = self.response.output.first_mut()?;
        Some((item.id.clone(), item.content.first_mut()?))
    }

    /// Ends the response in order.
    fn finish(&mut self, status: Status) {
        self.open();
        let Some(item) = self.response.output.first_mut() else {
            return;
        };
        item.status = match status {
            Status::Completed => Status::Completed,
            _ => Status::Incomplete,
        };
        let item = item.clone();
        for part in &item.content {
            let text = ResponseEvent::Text {
                item_id: item.id.clone(),
                output_index: 0,
                content_index: 0,
                text: part.text.clone(),
                logprobs: part.logprobs.clone(),
            };
            self.push("response.output_text.done", text);
            let part = ResponseEvent::Part {
                item_id: item.id.clone(),
                output_index: 0,
                content_index: 0,
                part: part.clone(),
            };
            self.push("response.content_part.done", part);
        }
        let event = ResponseEvent::Item {
            output_index: 0,
            item,
        };
        self.push("response.output_item.done", event);
        if status == Status::Incomplete {
            let reason = "max_output_tokens";
            self.response.incomplete_details = Some(IncompleteDetails { reason });
        }
        self.close(status);
        // OpenAI has no event for what is cancelled; the response says which of the two it is.
        let name = match status {
            Status::Completed => "response.completed",
            _ => "response.incomplete",
        };
        self.push_response(name);
    }

    /// Ends the response with an error.
    fn fail(&mut self, error: ApiError) {
        self.state.metrics().error(error.code.code());
        let code = match error.code.status().as_u16() {
            429 => "rate_limit_exceeded",
            400 => "invalid_prompt",
            _ => "server_error",
        };
        if let Some(item) = self.response.output.first_mut() {
            item.status = Status::Incomplete;
        }
        self.response.error = Some(ResponseError {
            code,
            message: error.message.clone(),
        });
        let event = error_event(&error, self.transport);
        self.error = Some(error);
        self.push(ERROR, event);
        self.close(Status::Failed);
        self.push_response("response.failed");
    }

    /// Counts, and keeps what is to be kept, before anybody can read of the end.
    fn close(&mut self, status: Status) {
        self.response.status = status;
        if let Some(generation) = self.generation.take() {
            let usage = ResponseUsage::new(generation.usage(), self.keeps_prompt);
            self.response.usage = Some(usage);
            self.response.timings = generation.timings();
        }
        let now = self.state.clock().now();
        if status == Status::Completed {
            self.response.completed_at = Some(now.as_secs());
        }
        // Who got an error instead has no id to ask for it by.
        if status == Status::Failed && !self.is_announced {
            return;
        }
        let reach = match (self.response.store, self.transport) {
            (true, _) => Reach::Key,
            (false, Transport::Socket(reach)) => reach,
            (false, Transport::Http) => return,
        };
        let turn = Turn {
            input: std::mem::take(&mut self.input),
            response: self.response.clone(),
        };
        let kept = self.state.conversations();
        if !kept.keep(&self.owner, reach, turn, bounds(&self.state), now) {
            tracing::warn!("a response is larger than responses.stored_bytes, and is not kept");
            self.response.store = false;
        }
    }

    fn push_response(&mut self, name: &'static str) {
        let response = Box::new(self.response.clone());
        self.push(name, ResponseEvent::Response { response });
    }

    fn push(&mut self, name: &'static str, event: ResponseEvent) {
        self.unsent.push_back(Numbered {
            name,
            sequence_number: Some(self.n_events),
            event,
        });
        self.n_events += 1;
    }
}

/// An error as an event.
pub(crate) fn error_event(error: &ApiError, transport: Transport) -> ResponseEvent {
    match transport {
        Transport::Http => ResponseEvent::Error {
            code: error.code.code(),
            message: error.message.clone(),
            param: error.param.clone(),
        },
        Transport::Socket(_) => ResponseEvent::SocketError {
            status: error.code.status().as_u16(),
            error: error.to_json()["error"].take(),
        },
    }
}

/// The same error where the messages are the input.
fn renamed(error: ApiError, field: &str) -> ApiError {
    match error.param.as_deref() {
        Some(param) if param == field => error.about(INPUT),
        _ => error,
    }
}

/// The refusal of an id that nothing is kept under.
pub(crate) fn unknown(id: &str) -> ApiError {
    let message = format!("response {id:?}: not found");
    ApiError::new(ErrorCode::UnknownResponse, message).about("response_id")
}
