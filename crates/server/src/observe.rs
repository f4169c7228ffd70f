//! What is known of every request: its id, its log line, its figures.
//!
//! The outermost layer. A request is at its end when the last byte of its answer is handed over or
//! its client is gone, so the answer's body carries what ends it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};
use tracing::Instrument;

use crate::auth::Scope;
use crate::error::ErrorCode;
use crate::metrics::HttpEnd;
use crate::routes::{Access, ROUTES, Route};
use crate::state::AppState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids are replaced: they would fill the log.
const MAX_REQUEST_ID_LEN: usize = 128;

/// The id of a request, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

pub(crate) async fn observe(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let method = method_name(request.method());
    let found = find_route(&request);
    // One label for all that is no route, so that nobody can make labels.
    let route = found.map_or("other", |route| route.path);
    let access = found.map(|route| route.access);
    let empty = tracing::field::Empty;
    // Of the highest level, so that it stands on every line, whatever level is logged.
    let span = tracing::error_span!("request", id, method, route, trace = empty, key = empty);
    if let Some(trace) = trace_id(&request) {
        span.record("trace", trace);
    }
    request.extensions_mut().insert(RequestId(id.clone()));
    state.metrics().http_started();
    let mut end = End {
        state: state.clone(),
        span: span.clone(),
        started,
        n_bytes: 0,
        is_probe: matches!(access, Some(Access::Public | Access::Scope(Scope::Metrics))),
        http: HttpEnd {
            method,
            route,
            // What a client sees that goes away before the head of the answer; nginx' number for it.
            status: 499,
            time: Duration::ZERO,
            is_whole: false,
        },
    };
    let mut response = next.run(request).instrument(span).await;
    end.http.status = response.status().as_u16();
    if let Some(code) = response.extensions().get::<ErrorCode>() {
        state.metrics().error(code.code());
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(|body| {
        // A body without a byte is never asked for one.
        end.http.is_whole = body.is_end_stream();
        Body::new(Observed { body, end })
    })
}

/// The client's id if it is one that can be logged, else a new one.
fn request_id(request: &Request) -> String {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    match given {
        Some(id)
            if (1..=MAX_REQUEST_ID_LEN).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            id.to_owned()
        }
        _ => crate::random::id("req_"),
    }
}

/// The trace id of a `traceparent` header (W3C Trace Context), to find the request in both logs.
fn trace_id(request: &Request) -> Option<&str> {
    let parent = request.headers().get("traceparent")?.to_str().ok()?;
    let id = parent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// A method as a label; those that no route has are one, so that nobody can make labels.
fn method_name(method: &Method) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    let found = METHODS.into_iter().find(|name| *name == method.as_str());
    found.unwrap_or("other")
}

/// The row of a request's route.
fn find_route(request: &Request) -> Option<&'static Route> {
    let path = request.extensions().get::<MatchedPath>()?;
    ROUTES.iter().find(|route| route.path == path.as_str())
}

/// Tells the log and the figures when it is dropped.
struct End {
    state: AppState,
    span: tracing::Span,
    started: Instant,
    n_bytes: u64,
    is_probe: bool,
    http: HttpEnd,
}

impl Drop for End {
    fn drop(&mut self) {
        self.http.time = self.started.elapsed();
        let metrics = self.state.metrics();
        // A handler's panic is caught before it comes here; this one is of the answer's stream.
        if std::thread::panicking() {
            tracing::error!("a stream panicked");
            metrics.panicked();
        }
        metrics.http_ended(&self.http);
        let HttpEnd {
            status,
            time,
            is_whole: whole,
            ..
        } = self.http;
        let (ms, bytes) = (time.as_secs_f64() * 1e3, self.n_bytes);
        let _entered = self.span.enter();
        // Probes and scrapes come every few seconds, for ever; a server that drains tells them 503.
        if self.is_probe {
            tracing::debug!(status, ms, bytes, whole, "answered");
        } else if status >= 500 {
            tracing::warn!(status, ms, bytes, whole, "answered");
        } else {
            tracing::info!(status, ms, bytes, whole, "answered");
        }
    }
}

/// A body that knows when it ends.
struct Observed {
    body: Body,
    end: End,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.end.n_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.end.http.is_whole = self.body.is_end_stream();
            }
            Poll::Ready(None) => self.end.http.is_whole = true,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
