//! `/v1/responses` over WebSocket: requests as frames, their events as frames, several at once.
//!
//! One task reads frames, one writes them, and each response that runs is a task between the two.
//! The way to the writer is a bounded channel: a client that reads slowly holds up the responses of
//! its own socket, their engine's events wait in bounded channels in turn, and nobody else notices.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument;

use crate::auth::{Caller, Identity};
use crate::conversations::{Owner, Reach};
use crate::error::{ApiError, ErrorCode};
use crate::lifecycle::Phase;
use crate::openai::{FieldError, Object};
use crate::reply::PING;
use crate::responses::{self, ERROR, Numbered, Responding, Transport, error_event};
use crate::state::AppState;

/// Frames on their way to a client.
const MAX_UNSENT: usize = 64;
/// Requests that wait for their turn, of each stream.
const MAX_WAITING: usize = 16;
/// The longest id of a stream, as OpenAI has it.
const MAX_STREAM_ID_LEN: usize = 256;
/// For the last events and the closing frame to leave, and for the client's to come.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Begins a socket, which lasts until either side closes it.
pub(super) async fn connect(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        let message = format!("GET: {rejection}; expected a POST, or a WebSocket");
        ApiError::new(ErrorCode::NotWebSocket, message)
    })?;
    let limit = state.settings().config.limits.body_bytes;
    // A drain waits until the socket is closed in order.
    let open = state.lifecycle().admit()?;
    let upgrade = upgrade.max_message_size(limit).max_frame_size(limit);
    let span = tracing::Span::current();
    Ok(upgrade.on_upgrade(move |socket| serve(state, caller, socket, open).instrument(span)))
}

/// The stream that a frame belongs to; `None` is one of them.
type StreamId = Option<Arc<str>>;

/// A socket that is open.
struct Socket {
    state: AppState,
    identity: Identity,
    owner: Owner,
    reach: Reach,
    unsent: mpsc::Sender<Message>,
    /// Those of which something runs.
    streams: HashMap<StreamId, Stream>,
    running: JoinSet<StreamId>,
    /// Bytes of the requests that wait.
    n_waiting_bytes: usize,
    last_used: Instant,
}

/// Requests that are answered one after the other.
struct Stream {
    /// The response that is being made.
    response_id: String,
    cancelled: CancellationToken,
    waiting: VecDeque<Waiting>,
}

/// A request that waits for its turn.
struct Waiting {
    body: Object,
    n_bytes: usize,
}

/// Why a socket is closed by the server.
struct Closing {
    code: u16,
    reason: String,
}

impl Closing {
    fn new(code: u16, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.state.conversations().close(&self.owner, self.reach);
    }
}

async fn serve(state: AppState, caller: Caller, socket: WebSocket, _open: TaskTrackerToken) {
    let (sink, mut frames) = socket.split();
    let (unsent, to_send) = mpsc::channel(MAX_UNSENT);
    let mut writing = tokio::spawn(write(sink, to_send));
    let mut socket = Socket {
        owner: responses::owner(caller.identity()),
        identity: caller.identity().clone(),
        reach: state.conversations().new_socket(),
        state,
        unsent: unsent.clone(),
        streams: HashMap::new(),
        running: JoinSet::new(),
        n_waiting_bytes: 0,
        last_used: Instant::now(),
    };
    // The request that made the socket is over.
    drop(caller);
    let closing = socket.run(&mut frames).await;
    // What still runs is broken off before what it could keep is let go of.
    socket.running.shutdown().await;
    drop(socket);
    if let Some(Closing { code, reason }) = closing {
        tracing::debug!(code, reason, "a socket is closed");
        let frame = Message::Close(Some(CloseFrame {
            code,
            reason: reason.into(),
        }));
        let _ = tokio::time::timeout(LAST_WORDS, unsent.send(frame)).await;
    }
    drop(unsent);
    if tokio::time::timeout(LAST_WORDS, &mut writing)
        .await
        .is_err()
    {
        writing.abort();
    }
    // What is closed with frames unread looks broken to the client.
    let rest = async { while let Some(Ok(_)) = frames.next().await {} };
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
}

/// Sends what comes, until the client takes no more.
async fn write(mut sink: SplitSink<WebSocket, Message>, mut unsent: mpsc::Receiver<Message>) {
    while let Some(frame) = unsent.recv().await {
        let is_last = matches!(frame, Message::Close(_));
        if sink.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

impl Socket {
    /// Until the client closes, or something else does, for the reason that is given then.
    async fn run(&mut self, frames: &mut SplitStream<WebSocket>) -> Option<Closing> {
        let unsent = self.unsent.clone();
        let identity = self.identity.clone();
        let mut ended = std::pin::pin!(identity.ended());
        let mut phase = self.state.lifecycle().watch();
        let mut is_draining = false;
        let mut pings = tokio::time::interval(PING);
        loop {
            let is_idle = self.running.is_empty();
            if is_idle && is_draining {
                return Some(Closing::new(
                    close_code::AWAY,
                    "the server is shutting down",
                ));
            }
            let idle = self.state.settings().config.responses.socket_idle();
            let deadline = self.last_used + idle;
            // A frame is read when there is room for what may have to be said of it.
            let next = async {
                let room = unsent.reserve().await;
                (room, frames.next().await)
            };
            // The sender is in the state, so this ends with the phase only.
            let draining = async {
                let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
            };
            tokio::select! {
                error = &mut ended => return Some(self.break_off(error).await),
                done = self.running.join_next(), if !is_idle => {
                    if let Some(Err(error)) = done.map(|done| self.go_on(done)) {
                        return Some(error);
                    }
                }
                (room, frame) = next => {
                    let Ok(room) = room else { return None };
                    match frame? {
                        Ok(Message::Text(text)) => {
                            self.last_used = Instant::now();
                            if let Err((stream_id, error)) = self.take(text.as_str()) {
                                room.send(self.error_frame(&stream_id, &error));
                            }
                        }
                        Ok(Message::Binary(_)) => {
                            let message = "a binary frame, expected text";
                            let error = ApiError::new(ErrorCode::InvalidRequest, message);
                            room.send(self.error_frame(&None, &error));
                        }
                        Ok(Message::Close(_)) => return None,
                        Ok(Message::Ping(_) | Message::Pong(_)) => {}
                        Err(error) => return Some(unreadable(&error)),
                    }
                }
                () = draining, if !is_draining => is_draining = true,
                _ = pings.tick() => {
                    // Where frames wait, they say as much.
                    let _ = unsent.try_send(Message::Ping(Vec::new().into()));
                }
                () = tokio::time::sleep_until(deadline), if is_idle => {
                    let reason = format!("nothing was asked for in {} s", idle.as_secs());
                    return Some(Closing::new(close_code::NORMAL, reason));
                }
                () = unsent.closed() => return None,
            }
        }
    }

    /// Lets what runs say why it ends.
    async fn break_off(&mut self, error: ApiError) -> Closing {
        let rest = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS / 2, rest).await;
        let code = match error.code {
            ErrorCode::Draining => close_code::AWAY,
            _ => close_code::POLICY,
        };
        Closing::new(code, error.message)
    }

    /// A response has ended: begins the next one of its stream.
    fn go_on(&mut self, done: Result<StreamId, JoinError>) -> Result<(), Closing> {
        let stream_id = done.map_err(|error| {
            tracing::error!(%error, "a response panicked");
            self.state.metrics().panicked();
            Closing::new(
                close_code::ERROR,
                "a fault of the server, which is in its log",
            )
        })?;
        self.last_used = Instant::now();
        let stream = self.streams.remove(&stream_id);
        let Some(mut waiting) = stream.map(|stream| stream.waiting) else {
            return Ok(());
        };
        if let Some(next) = waiting.pop_front() {
            self.n_waiting_bytes -= next.n_bytes;
            self.begin(stream_id, next.body, waiting);
        }
        Ok(())
    }

    /// Does what a frame says.
    fn take(&mut self, text: &str) -> Result<(), (StreamId, ApiError)> {
        let mut frame: Object = serde_json::from_str(text).map_err(|error| {
            let message = format!("the frame: {error}");
            (None, ApiError::new(ErrorCode::InvalidRequest, message))
        })?;
        let stream_id = stream_id(&mut frame).map_err(|error| (None, error.into()))?;
        let done = match frame.remove("type") {
            Some(Value::String(kind)) if kind == "response.create" => {
                self.create(stream_id.clone(), frame, text.len())
            }
            Some(Value::String(kind)) if kind == "response.cancel" => {
                self.cancel(&stream_id, frame)
            }
            kind => {
                let kind = kind.map_or_else(|| "missing".to_owned(), |kind| kind.to_string());
                let problem = format!("{kind}, expected response.create or response.cancel");
                Err(FieldError::new("type", problem).into())
            }
        };
        done.map_err(|error| (stream_id, error))
    }

    fn create(
        &mut self,
        stream_id: StreamId,
        mut body: Object,
        n_bytes: usize,
    ) -> Result<(), ApiError> {
        // Events are all there is here.
        match body.insert("stream".to_owned(), Value::Bool(true)) {
            None | Some(Value::Null | Value::Bool(true)) => {}
            Some(other) => {
                let problem = format!("{other}, expected none or true over a WebSocket");
                return Err(FieldError::new("stream", problem).into());
            }
        }
        let settings = self.state.settings();
        let n_streams = self.streams.len();
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            let limit = settings.config.limits.body_bytes;
            let n_waiting_bytes = self.n_waiting_bytes + n_bytes;
            if stream.waiting.len() >= MAX_WAITING || n_waiting_bytes > limit {
                let message = format!(
                    "{} requests wait on this stream, and {n_waiting_bytes} bytes would on this \
                     socket, expected fewer than {MAX_WAITING} and at most {limit}",
                    stream.waiting.len()
                );
                return Err(ApiError::new(ErrorCode::ConcurrencyLimit, message));
            }
            self.n_waiting_bytes = n_waiting_bytes;
            stream.waiting.push_back(Waiting { body, n_bytes });
            return Ok(());
        }
        let limit = settings.config.responses.socket_streams;
        if n_streams >= limit {
            let message = format!("stream_id: {n_streams} streams run, and {limit} may");
            return Err(ApiError::new(ErrorCode::StreamLimit, message).about("stream_id"));
        }
        self.begin(stream_id, body, VecDeque::new());
        Ok(())
    }

    fn cancel(&mut self, stream_id: &StreamId, mut frame: Object) -> Result<(), ApiError> {
        let response_id = frame.remove("response_id").filter(|id| !id.is_null());
        if let Some((name, _)) = frame.into_iter().next() {
            return Err(FieldError::new(name, "no such field of response.cancel").into());
        }
        let stream = match &response_id {
            Some(id) => {
                let mut streams = self.streams.values();
                streams.find(|stream| *id == *stream.response_id)
            }
            None => self.streams.get(stream_id),
        };
        let Some(stream) = stream else {
            let message = "response.cancel: no such response runs on this socket";
            let error = ApiError::new(ErrorCode::UnknownResponse, message);
            return Err(error.about("response_id"));
        };
        stream.cancelled.cancel();
        Ok(())
    }

    fn begin(&mut self, stream_id: StreamId, body: Object, waiting: VecDeque<Waiting>) {
        let stream = Stream {
            response_id: responses::new_id(),
            cancelled: CancellationToken::new(),
            waiting,
        };
        let task = Task {
            state: self.state.clone(),
            identity: self.identity.clone(),
            transport: Transport::Socket(self.reach),
            stream_id: stream_id.clone(),
            response_id: stream.response_id.clone(),
            cancelled: stream.cancelled.clone(),
            unsent: self.unsent.clone(),
        };
        self.streams.insert(stream_id, stream);
        self.running.spawn(task.run(body).in_current_span());
    }

    fn error_frame(&self, stream_id: &StreamId, error: &ApiError) -> Message {
        self.state.metrics().error(error.code.code());
        let event = Numbered {
            name: ERROR,
            sequence_number: None,
            event: error_event(error, Transport::Socket(self.reach)),
        };
        frame(&event, stream_id)
    }
}

/// One response of a socket.
struct Task {
    state: AppState,
    identity: Identity,
    transport: Transport,
    stream_id: StreamId,
    response_id: String,
    cancelled: CancellationToken,
    unsent: mpsc::Sender<Message>,
}

impl Task {
    /// Sends the events of a response, or why there are none.
    async fn run(self, body: Object) -> StreamId {
        let started = tokio::select! {
            biased;
            () = self.cancelled.cancelled() => {
                let message = "the response was cancelled before it began";
                Err(ApiError::new(ErrorCode::Cancelled, message))
            }
            started = self.start(body) => started,
        };
        match started {
            // The caller's place is held until the end.
            Ok((mut responding, _caller)) => {
                while let Some(event) = responding.next().await {
                    let frame = frame(&event, &self.stream_id);
                    if self.unsent.send(frame).await.is_err() {
                        break;
                    }
                }
            }
            Err(error) => {
                self.state.metrics().error(error.code.code());
                let event = Numbered {
                    name: ERROR,
                    sequence_number: None,
                    event: error_event(&error, self.transport),
                };
                // Nobody reads it if this fails.
                let _ = self.unsent.send(frame(&event, &self.stream_id)).await;
            }
        }
        self.stream_id
    }

    async fn start(&self, body: Object) -> Result<(Responding, Caller), ApiError> {
        let caller = self.identity.admit()?;
        let (id, cancelled) = (self.response_id.clone(), self.cancelled.clone());
        let started =
            Responding::start(&self.state, &caller, body, id, self.transport, cancelled).await;
        Ok((started?, caller))
    }
}

/// An event as a frame.
fn frame(event: &Numbered, stream_id: &StreamId) -> Message {
    #[derive(Serialize)]
    struct Frame<'a> {
        #[serde(flatten)]
        event: &'a Numbered,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream_id: Option<&'a str>,
    }
    let stream_id = stream_id.as_deref();
    let text = serde_json::to_string(&Frame { event, stream_id });
    Message::Text(text.expect("its keys are strings").into())
}

/// Takes the stream's id out of a frame.
fn stream_id(frame: &mut Object) -> Result<StreamId, FieldError> {
    let is_right = |id: &str| {
        (1..=MAX_STREAM_ID_LEN).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    match frame.remove("stream_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if is_right(&id) => Ok(Some(id.into())),
        Some(_) => {
            let wanted = "1 to 256 letters, digits, \"_\", \".\" and \"-\"";
            Err(FieldError::new("stream_id", format!("expected {wanted}")))
        }
    }
}

/// Why a socket whose frames cannot be read is closed.
fn unreadable(error: &axum::Error) -> Closing {
    let reason = error.to_string();
    // The error's type is that of a crate below axum's.
    let code = match reason.starts_with("Space limit exceeded") {
        true => close_code::SIZE,
        false => close_code::PROTOCOL,
    };
    Closing { code, reason }
}
