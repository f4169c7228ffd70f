//! The receiving end of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::error::EngineError;
use crate::request::{Done, Event, Token};

/// What happens to one request: a stream of [`Event`]s that ends after the last answer's
/// [`Event::Done`], or after an error.
///
/// Dropping it ends the work for it within one step. A reader that falls behind holds its own
/// request up, and no other.
#[derive(Debug)]
pub struct Answer {
    pub(super) events: mpsc::Receiver<Result<Event, EngineError>>,
    pub(super) is_cancelled: Arc<AtomicBool>,
}

impl Answer {
    /// Ends the answers where they are: each still has its `Done`, with the reason
    /// [`Cancelled`](crate::FinishReason::Cancelled).
    pub fn cancel(&self) {
        self.canceller().cancel();
    }

    /// What can cancel it from elsewhere.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.is_cancelled.clone())
    }

    /// The next event, for async code; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, EngineError>> {
        self.events.recv().await
    }

    /// The events for code that is not async: each waits for the next one.
    ///
    /// # Panics
    /// The iterator panics in an async context.
    pub fn blocking(mut self) -> impl Iterator<Item = Result<Event, EngineError>> {
        std::iter::from_fn(move || self.events.blocking_recv())
    }
}

impl Stream for Answer {
    type Item = Result<Event, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

/// Cancels an [`Answer`] that somebody else reads.
#[derive(Debug, Clone)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// See [`Answer::cancel`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The tokens of one answer as they are chosen.
#[derive(Debug)]
pub struct TokenStream {
    answer: Answer,
    done: Option<Done>,
}

impl TokenStream {
    pub(super) fn new(answer: Answer) -> TokenStream {
        TokenStream { answer, done: None }
    }

    /// How the answer ended; `None` before.
    pub fn done(&self) -> Option<&Done> {
        self.done.as_ref()
    }

    /// The next token, for async code; `None` after the last. Text that was held back to the end
    /// is in [`Done`].
    pub async fn next(&mut self) -> Option<Result<Token, EngineError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next token, for code that is not async.
    ///
    /// # Panics
    /// In an async context.
    pub fn blocking_next(&mut self) -> Option<Result<Token, EngineError>> {
        loop {
            let event = self.answer.events.blocking_recv()?;
            if let Some(token) = self.token(event) {
                return Some(token);
            }
        }
    }

    fn token(&mut self, event: Result<Event, EngineError>) -> Option<Result<Token, EngineError>> {
        match event {
            Ok(Event::Token { token, .. }) => Some(Ok(token)),
            Ok(Event::Done { done, .. }) => {
                self.done = Some(done);
                None
            }
            Ok(Event::Prefill { .. } | Event::Prompt(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Stream for TokenStream {
    type Item = Result<Token, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let event = match self.answer.events.poll_recv(cx) {
                Poll::Ready(Some(event)) => event,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            };
            if let Some(token) = self.token(event) {
                return Poll::Ready(Some(token));
            }
        }
    }
}

/// An answer as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Its text.
    pub text: String,
    /// Its tokens; the text of the last may lack what [`Done`] has.
    pub tokens: Vec<Token>,
    /// How it ended.
    pub done: Done,
}

/// Puts a completion together.
#[derive(Default)]
pub(super) struct Collector {
    text: String,
    tokens: Vec<Token>,
}

impl Collector {
    pub(super) fn push(&mut self, token: Token) {
        self.text += &token.text;
        self.tokens.push(token);
    }

    pub(super) fn finish(self, done: Option<Done>) -> Result<Completion, EngineError> {
        // Without one the engine's thread has gone.
        let done = done.ok_or(EngineError::ShuttingDown)?;
        Ok(Completion {
            text: self.text + &done.text,
            tokens: self.tokens,
            done,
        })
    }
}
