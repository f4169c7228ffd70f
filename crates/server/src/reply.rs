//! Answers on their way to the client: as one object, or as a stream of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use minerva_engine::Event;
use serde::Serialize;

use crate::body::ApiJson;
use crate::convert::Delivery;
use crate::dialect::{Dialect, Piece};
use crate::error::{ApiError, ErrorCode};
use crate::generation::Generation;
use crate::openai::{Answer, Progress};
use crate::random;
use crate::state::AppState;

/// What computed an answer.
const FINGERPRINT: &str = concat!("minerva-", env!("CARGO_PKG_VERSION"));
/// How long a stream waits for its first event before its head is sent: an error until then has a
/// status of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Silence after which a stream sends a comment, so that nobody in between takes it for dead.
pub(crate) const PING: Duration = Duration::from_secs(10);

/// Answers a request with what is generated.
pub(crate) async fn reply<D: Dialect>(
    state: &AppState,
    generation: Generation,
    dialect: D,
    delivery: Delivery,
) -> Result<Response, ApiError> {
    let head = Head {
        id: random::id(D::ID),
        created: state.clock().now().as_secs(),
        model: generation.model().name().to_owned(),
    };
    match delivery.is_stream {
        true => stream(state, generation, dialect, delivery, head).await,
        false => whole(generation, dialect, delivery, head).await,
    }
}

/// What all chunks of a stream have.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn answer<C>(&self, object: &'static str, choices: Vec<C>) -> Answer<C> {
        Answer {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage: None,
            timings: None,
            prompt_progress: None,
            warnings: Vec::new(),
        }
    }
}

async fn whole<D: Dialect>(
    mut generation: Generation,
    mut dialect: D,
    delivery: Delivery,
    head: Head,
) -> Result<Response, ApiError> {
    let empty = |index| Piece {
        index,
        text: String::new(),
        logprobs: None,
        finish_reason: None,
    };
    let mut answers: Vec<Piece<D::Logprobs>> = (0..dialect.n_answers()).map(empty).collect();
    while let Some(next) = generation.next().await {
        let (prompt_idx, event) = next?;
        for piece in dialect.pieces(prompt_idx, event) {
            let answer = &mut answers[piece.index];
            answer.text += &piece.text;
            answer.finish_reason = piece.finish_reason;
            match (&mut answer.logprobs, piece.logprobs) {
                (Some(logprobs), Some(more)) => D::append(logprobs, more),
                (logprobs @ None, more) => *logprobs = more,
                (Some(_), None) => {}
            }
        }
    }
    let choices = answers.into_iter().map(D::whole).collect();
    let answer = Answer {
        usage: Some(Some(generation.usage())),
        timings: generation.timings(),
        warnings: delivery.warnings,
        ..head.answer(D::OBJECT, choices)
    };
    Ok(ApiJson(answer).into_response())
}

async fn stream<D: Dialect>(
    state: &AppState,
    mut generation: Generation,
    dialect: D,
    delivery: Delivery,
    head: Head,
) -> Result<Response, ApiError> {
    let first = match tokio::time::timeout(PATIENCE, generation.next()).await {
        Ok(Some(event)) => Some(event?),
        Ok(None) | Err(_) => None,
    };
    let mut live = Live {
        generation,
        dialect,
        delivery,
        head,
        state: state.clone(),
        unsent: VecDeque::new(),
        is_over: false,
    };
    live.open();
    if let Some((prompt_idx, event)) = first {
        live.push(prompt_idx, event);
    }
    // The whole value goes from step to step: a part of it that stayed behind would be dropped.
    let events = futures_util::stream::unfold(live, |mut live| async move {
        let event = live.next().await?;
        Some((Ok::<_, Infallible>(event), live))
    });
    let pings = KeepAlive::new().interval(PING).text("ping");
    // nginx would collect a stream before it passes it on.
    let headers = [("x-accel-buffering", "no")];
    Ok((headers, Sse::new(events).keep_alive(pings)).into_response())
}

/// A stream that is being sent.
struct Live<D: Dialect> {
    generation: Generation,
    dialect: D,
    delivery: Delivery,
    head: Head,
    state: AppState,
    unsent: VecDeque<sse::Event>,
    is_over: bool,
}

impl<D: Dialect> Live<D> {
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.unsent.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            match self.generation.next().await {
                Some(Ok((prompt_idx, event))) => self.push(prompt_idx, event),
                Some(Err(error)) => self.break_off(&error),
                None => self.close(),
            }
        }
    }

    /// The first chunk of each answer.
    fn open(&mut self) {
        let openings: Vec<_> = (0..self.dialect.n_answers())
            .filter_map(D::opening)
            .collect();
        let mut chunks: Vec<_> = openings
            .into_iter()
            .map(|choice| self.chunk(vec![choice]))
            .collect();
        let warnings = std::mem::take(&mut self.delivery.warnings);
        if !warnings.is_empty() {
            if chunks.is_empty() {
                chunks.push(self.chunk(Vec::new()));
            }
            chunks[0].warnings = warnings;
        }
        for chunk in &chunks {
            self.send(chunk);
        }
    }

    fn push(&mut self, prompt_idx: usize, event: Event) {
        if let (Event::Prefill { n_done, n_total }, true) = (&event, self.delivery.has_progress) {
            let mut chunk = self.chunk(Vec::new());
            let usage = self.generation.usage();
            chunk.prompt_progress = Some(Progress {
                total: *n_total,
                cache: usage.prompt_tokens_details.cached_tokens,
                processed: *n_done,
                time_ms: u64::try_from(self.generation.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            self.send(&chunk);
        }
        for mut piece in self.dialect.pieces(prompt_idx, event) {
            let is_empty = piece.text.is_empty() && piece.logprobs.is_none();
            if is_empty && piece.finish_reason.is_none() {
                continue;
            }
            let is_end = piece.finish_reason.is_some();
            // The last text and the end of the answer are two chunks, as clients know it.
            if is_end && !piece.text.is_empty() {
                let text = Piece {
                    index: piece.index,
                    text: std::mem::take(&mut piece.text),
                    logprobs: None,
                    finish_reason: None,
                };
                let chunk = self.chunk(vec![D::part(text)]);
                self.send(&chunk);
            }
            let mut chunk = self.chunk(vec![D::part(piece)]);
            if is_end && !self.delivery.includes_usage {
                chunk.timings = self.generation.timings();
            }
            self.send(&chunk);
        }
    }

    fn close(&mut self) {
        self.is_over = true;
        if self.delivery.includes_usage {
            let mut chunk = self.chunk(Vec::new());
            chunk.usage = Some(Some(self.generation.usage()));
            chunk.timings = self.generation.timings();
            self.send(&chunk);
        }
        self.unsent.push_back(sse::Event::default().data("[DONE]"));
    }

    /// The head is sent, so an error can only be an event; nothing comes after it.
    fn break_off(&mut self, error: &ApiError) {
        self.is_over = true;
        self.state.metrics().error(error.code.code());
        let event = sse::Event::default().data(error.to_json().to_string());
        self.unsent.push_back(event);
    }

    fn chunk(&self, choices: Vec<D::ChunkChoice>) -> Answer<D::ChunkChoice> {
        Answer {
            usage: self.delivery.includes_usage.then_some(None),
            ..self.head.answer(D::CHUNK_OBJECT, choices)
        }
    }

    fn send<T: Serialize>(&mut self, chunk: &T) {
        match serde_json::to_string(chunk) {
            Ok(json) => self.unsent.push_back(sse::Event::default().data(json)),
            Err(error) => self.break_off(&ApiError::new(ErrorCode::Internal, error.to_string())),
        }
    }
}
