//! Work that an engine does for a request: its events, with everything that is counted on the way.
//!
//! This is what every route that generates stands on: it takes the caller's tokens, keeps the model
//! loaded, ends when the key is revoked or the server stops, and ends the engine's work when it is
//! dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use minerva_engine::{
    Answer, Done, EngineError, Event, FinishReason, GenerateRequest, LoadedModel,
};

use crate::auth::{Caller, Charge, TokensUsed};
use crate::error::{ApiError, ErrorCode};
use crate::failure::engine_error;
use crate::metrics::{ModelMetrics, RequestTokens};
use crate::openai::{PromptDetails, Timings, Usage};
use crate::state::AppState;

/// The events of one or more prompts, each with the number of its prompt; a stream that ends after
/// the last answer's [`Event::Done`], or after an error.
pub(crate) struct Generation {
    /// Dropped first, so that the engine stops before its model may go.
    parts: Vec<Part>,
    /// The part that is looked at first.
    turn: usize,
    ended: Pin<Box<dyn Future<Output = ApiError> + Send>>,
    is_over: bool,
    charge: Charge,
    metrics: Arc<ModelMetrics>,
    state: AppState,
    started: Instant,
    prompt_field: &'static str,
    timings: Option<Timings>,
    model: LoadedModel,
}

/// One prompt.
struct Part {
    /// `None` once nothing more is wanted of it; dropping it ends the engine's work.
    answer: Option<Answer>,
    n_prompt: usize,
    n_cached: usize,
    /// It left the queue.
    is_begun: bool,
    choices: Vec<Progress>,
    n_unfinished: usize,
}

/// One answer.
#[derive(Clone, Default)]
struct Progress {
    n_tokens: usize,
    last_token: Option<Instant>,
}

impl Generation {
    /// Takes the tokens that the requests may use from the caller's, and has the engine begin.
    /// `prompt_field` is what errors call the prompt.
    pub(crate) fn start(
        state: &AppState,
        caller: &Caller,
        model: LoadedModel,
        requests: Vec<GenerateRequest>,
        prompt_field: &'static str,
    ) -> Result<Generation, ApiError> {
        let context = model.context();
        let may_use = |request: &GenerateRequest| {
            let n_prompt = request.prompt.len();
            let room = context.saturating_sub(n_prompt);
            let max = request.config.max_tokens.map_or(room, |max| max.min(room));
            n_prompt.saturating_add(max.saturating_mul(request.n_choices)) as u64
        };
        let n_tokens = requests.iter().map(may_use).fold(0, u64::saturating_add);
        let charge = caller.charge(n_tokens)?;
        let parts = requests.into_iter().map(|request| {
            let n_prompt = request.prompt.len();
            let n_choices = request.n_choices;
            let answer = model
                .submit(request)
                .map_err(|error| engine_error(error, prompt_field))?;
            Ok(Part {
                answer: Some(answer),
                n_prompt,
                n_cached: 0,
                is_begun: false,
                choices: vec![Progress::default(); n_choices],
                n_unfinished: n_choices,
            })
        });
        let parts = parts.collect::<Result<Vec<Part>, ApiError>>()?;
        let caller = caller.clone();
        Ok(Generation {
            parts,
            turn: 0,
            ended: Box::pin(async move { caller.ended().await }),
            is_over: false,
            charge,
            metrics: state.metrics().model(model.name()),
            state: state.clone(),
            started: Instant::now(),
            prompt_field,
            timings: None,
            model,
        })
    }

    /// The model that answers.
    pub(crate) fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// Time since the engine was asked.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tokens until now.
    pub(crate) fn usage(&self) -> Usage {
        let prompt_tokens = self.parts.iter().map(|part| part.n_prompt).sum();
        let completion_tokens = self.parts.iter().map(Part::n_completion).sum();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails {
                cached_tokens: self.parts.iter().map(|part| part.n_cached).sum(),
            },
        }
    }

    /// Time taken, once the only answer is complete; `None` where there are several.
    pub(crate) fn timings(&self) -> Option<Timings> {
        self.timings
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn fail(&mut self, error: ApiError) -> ApiError {
        self.end("error");
        error
    }

    /// Stops what is not complete.
    fn end(&mut self, reason: &'static str) {
        self.is_over = true;
        for part in &mut self.parts {
            if part.n_unfinished > 0 {
                part.n_unfinished = 0;
                part.answer = None;
                // What was computed is counted, for nobody as it may be.
                if part.is_begun {
                    self.metrics.ended(self.started.elapsed(), part.tokens());
                }
                self.state.metrics().finished(self.model.name(), reason);
            }
        }
    }

    /// Counts what an event says.
    fn count(&mut self, part_idx: usize, event: &Event) -> Result<(), ApiError> {
        let now = Instant::now();
        let is_only = self.parts.len() == 1 && self.parts[0].choices.len() == 1;
        let part = &mut self.parts[part_idx];
        match event {
            Event::Prefill { n_done, .. } => {
                if !part.is_begun {
                    part.is_begun = true;
                    part.n_cached = *n_done;
                    self.metrics.started(now - self.started);
                }
            }
            Event::Prompt(_) => {}
            Event::Token { choice, .. } => {
                let is_first = part.choices.iter().all(|other| other.n_tokens == 0);
                let progress = &mut part.choices[*choice];
                progress.n_tokens += 1;
                match progress.last_token.replace(now) {
                    Some(last) => self.metrics.next_token(now - last),
                    None if is_first => self.metrics.first_token(now - self.started),
                    None => {}
                }
            }
            Event::Done { choice, done } => {
                match done.finish_reason {
                    FinishReason::Stop | FinishReason::Length => {}
                    FinishReason::Timeout => {
                        let message = "the time for the whole answer was over before its end";
                        return Err(ApiError::new(ErrorCode::TotalTimeout, message));
                    }
                    FinishReason::Cancelled => {
                        return Err(engine_error(EngineError::ShuttingDown, self.prompt_field));
                    }
                }
                part.choices[*choice].n_tokens = done.usage.completion_tokens;
                part.n_cached = done.usage.cached_tokens;
                part.n_unfinished -= 1;
                if is_only {
                    self.timings = Some(timings(done));
                }
                if part.n_unfinished == 0 {
                    self.metrics.ended(now - self.started, part.tokens());
                    let reason = done.finish_reason.name();
                    self.state.metrics().finished(self.model.name(), reason);
                }
            }
        }
        let begun = self.parts.iter().filter(|part| part.is_begun);
        let mut used = TokensUsed::default();
        for part in begun {
            used.prompt += part.n_prompt as u64;
            used.completion += part.n_completion() as u64;
        }
        self.charge.set_used(used);
        Ok(())
    }
}

impl Part {
    fn n_completion(&self) -> usize {
        self.choices.iter().map(|choice| choice.n_tokens).sum()
    }

    fn tokens(&self) -> RequestTokens {
        RequestTokens {
            prompt: self.n_prompt,
            cached: self.n_cached,
            completion: self.n_completion(),
        }
    }
}

impl Stream for Generation {
    type Item = Result<(usize, Event), ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(error) = this.ended.as_mut().poll(cx) {
            return Poll::Ready(Some(Err(this.fail(error))));
        }
        let n_parts = this.parts.len();
        for i in 0..n_parts {
            let part_idx = (this.turn + i) % n_parts;
            let part = &mut this.parts[part_idx];
            let Some(answer) = part.answer.as_mut().filter(|_| part.n_unfinished > 0) else {
                continue;
            };
            let counted = match Pin::new(answer).poll_next(cx) {
                Poll::Pending => continue,
                Poll::Ready(Some(Ok(event))) => {
                    this.count(part_idx, &event).map(|()| (part_idx, event))
                }
                Poll::Ready(Some(Err(error))) => {
                    if matches!(error, EngineError::Failed(_)) {
                        this.state.metrics().panicked();
                    }
                    Err(engine_error(error, this.prompt_field))
                }
                Poll::Ready(None) => {
                    Err(engine_error(EngineError::ShuttingDown, this.prompt_field))
                }
            };
            this.turn = part_idx + 1;
            let item = counted.map_err(|error| this.fail(error));
            return Poll::Ready(Some(item));
        }
        match this.parts.iter().all(|part| part.n_unfinished == 0) {
            true => {
                this.is_over = true;
                Poll::Ready(None)
            }
            false => Poll::Pending,
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.end("abort");
    }
}

fn timings(done: &Done) -> Timings {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let prompt_n = done.usage.prompt_tokens - done.usage.cached_tokens;
    let prompt_ms = ms(done.timings.prefill);
    let predicted_n = done.usage.completion_tokens;
    // The first token is part of the prefill.
    let decoded_n = predicted_n.saturating_sub(1) as f64;
    let predicted_ms = ms(done.timings.decode);
    Timings {
        cache_n: done.usage.cached_tokens,
        prompt_n,
        prompt_ms,
        prompt_per_token_ms: share(prompt_ms, prompt_n as f64),
        prompt_per_second: share(prompt_n as f64 * 1e3, prompt_ms),
        predicted_n,
        predicted_ms,
        predicted_per_token_ms: share(predicted_ms, decoded_n),
        predicted_per_second: share(decoded_n * 1e3, predicted_ms),
    }
}
