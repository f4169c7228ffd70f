//! `/v1/responses`: goes on with conversations, and shows what is stored of them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::responses_socket;
use crate::auth::{Caller, Identity};
use crate::body::{ApiJson, ApiPath};
use crate::conversations::Turn;
use crate::error::{ApiError, ErrorCode};
use crate::openai::{
    DeletedResponse, INCLUDABLE, Item, ItemList, Object, ResponseObject, ResponseRequest,
};
use crate::openapi::{
    Content, FIELDS, GENERATION, LOADED_MODEL, MODEL, Operation, Parameter, Shape,
};
use crate::reply::{PATIENCE, PING};
use crate::responses::{self, Numbered, Responding, Transport};
use crate::state::AppState;

/// Items of a list where the request does not say how many, as OpenAI has it.
const N_ITEMS: usize = 20;
/// Most items of a list, as OpenAI has it.
const MAX_ITEMS: usize = 100;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        id: "createResponse",
        summary: "Goes on with a conversation that the service keeps.",
        request: Some(Shape::of::<ResponseRequest>("ResponseRequest")),
        answers: &[(
            200,
            Content::JsonOrEvents(
                Shape::of::<ResponseObject>("Response"),
                Shape::of::<Numbered>("ResponseEvent"),
            ),
        )],
        errors: &[
            FIELDS,
            MODEL,
            LOADED_MODEL,
            GENERATION,
            &[ErrorCode::UnknownPreviousResponse],
        ],
        ..Operation::GET
    },
    Operation {
        id: "connectResponses",
        summary: "Begins a WebSocket: frames `response.create` go in, the events of responses come out.",
        answers: &[(101, Content::Switch)],
        errors: &[&[ErrorCode::NotWebSocket]],
        ..Operation::GET
    },
];

const ID: Parameter = Parameter {
    name: "id",
    is_in_path: true,
    what: "The response's id.",
    schema: || json!({"type": "string", "minLength": 1}),
};

const INCLUDE: Parameter = Parameter {
    name: "include",
    is_in_path: false,
    what: "What was asked for when the response was made is there.",
    schema: || json!({"type": "array", "items": {"enum": INCLUDABLE}}),
};

pub(super) const RESPONSE_OPERATIONS: &[Operation] = &[
    Operation {
        id: "retrieveResponse",
        summary: "A response that is kept.",
        parameters: &[ID, INCLUDE, NO_STREAM, NO_OBFUSCATION],
        answers: &[(200, Content::Json(Shape::of::<ResponseObject>("Response")))],
        errors: &[&[ErrorCode::UnknownResponse]],
        ..Operation::GET
    },
    Operation {
        method: "delete",
        id: "deleteResponse",
        summary: "Forgets a response.",
        parameters: &[ID],
        answers: &[(
            200,
            Content::Json(Shape::of::<DeletedResponse>("DeletedResponse")),
        )],
        errors: &[&[ErrorCode::UnknownResponse]],
        ..Operation::GET
    },
];

const NO_STREAM: Parameter = Parameter {
    name: "stream",
    is_in_path: false,
    what: "A response that is whole has no stream.",
    schema: || json!({"enum": ["false"]}),
};

const NO_OBFUSCATION: Parameter = Parameter {
    name: "include_obfuscation",
    is_in_path: false,
    what: "There is none.",
    schema: || json!({"enum": ["false"]}),
};

pub(super) const CANCEL_OPERATIONS: &[Operation] = &[Operation {
    method: "post",
    id: "cancelResponse",
    summary: "Refuses: only responses in the background are cancelled so, and there are none.",
    parameters: &[ID],
    errors: &[&[ErrorCode::UnknownResponse]],
    ..Operation::GET
}];

pub(super) const ITEMS_OPERATIONS: &[Operation] = &[Operation {
    id: "listInputItems",
    summary: "The items of a response's input.",
    parameters: &[
        ID,
        INCLUDE,
        Parameter {
            name: "limit",
            is_in_path: false,
            what: "How many at most; 20 if not set.",
            schema: || json!({"type": "integer", "minimum": 1, "maximum": MAX_ITEMS}),
        },
        Parameter {
            name: "order",
            is_in_path: false,
            what: "By age; the latest first if not set.",
            schema: || json!({"enum": ["asc", "desc"]}),
        },
        Parameter {
            name: "after",
            is_in_path: false,
            what: "The id of an item: those that come after it.",
            schema: || json!({"type": "string", "minLength": 1}),
        },
    ],
    answers: &[(
        200,
        Content::Json(Shape::around::<ItemList<Item>, Item>("ItemList")),
    )],
    errors: &[&[ErrorCode::UnknownResponse]],
    ..Operation::GET
}];

pub(super) fn responses() -> MethodRouter<AppState> {
    post(create).get(responses_socket::connect)
}

pub(super) fn response() -> MethodRouter<AppState> {
    get(show).delete(delete)
}

pub(super) fn cancel() -> MethodRouter<AppState> {
    post(refuse_to_cancel)
}

pub(super) fn input_items() -> MethodRouter<AppState> {
    get(list_items)
}

async fn create(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiJson(body): ApiJson<Object>,
) -> Result<Response, ApiError> {
    let (id, never) = (responses::new_id(), CancellationToken::new());
    let started = Responding::start(&state, &caller, body, id, Transport::Http, never);
    let mut responding = started.await?;
    if !responding.is_stream() {
        return Ok(ApiJson(responding.whole().await?).into_response());
    }
    // An error until then has a status of its own.
    if let Ok(begun) = tokio::time::timeout(PATIENCE, responding.begin()).await {
        begun?;
    }
    // The whole value goes from step to step: a part of it that stayed behind would be dropped.
    let events = futures_util::stream::unfold(responding, |mut responding| async move {
        let event = responding.next().await?;
        let sent = sse::Event::default().event(event.name);
        let sent = match serde_json::to_string(&event) {
            Ok(json) => sent.data(json),
            Err(error) => sent.comment(format!("an event that is no JSON: {error}")),
        };
        Some((Ok::<_, Infallible>(sent), responding))
    });
    let pings = KeepAlive::new().interval(PING).text("ping");
    // nginx would collect a stream before it passes it on.
    let headers = [("x-accel-buffering", "no")];
    Ok((headers, Sse::new(events).keep_alive(pings)).into_response())
}

/// What is kept under an id.
fn find(state: &AppState, identity: &Identity, id: &str) -> Result<Arc<Turn>, ApiError> {
    let owner = responses::owner(identity);
    let now = state.clock().now();
    let bounds = responses::bounds(state);
    let found = state.conversations().get(&owner, id, bounds, now);
    found.ok_or_else(|| responses::unknown(id))
}

async fn show(
    State(state): State<AppState>,
    Extension(identity): Extension<Identity>,
    ApiPath(id): ApiPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    for (name, value) in pairs(query.as_deref()) {
        let is_harmless = match name {
            "include" | "include[]" | "include%5B%5D" => INCLUDABLE.contains(&value),
            "stream" | "include_obfuscation" => value == "false",
            _ => false,
        };
        if !is_harmless {
            return Err(refused(name, value, "nothing that can be honored"));
        }
    }
    let turn = find(&state, &identity, &id)?;
    Ok(ApiJson(&turn.response).into_response())
}

async fn delete(
    State(state): State<AppState>,
    Extension(identity): Extension<Identity>,
    ApiPath(id): ApiPath,
) -> Result<Response, ApiError> {
    let owner = responses::owner(&identity);
    if !state.conversations().delete(&owner, &id) {
        return Err(responses::unknown(&id));
    }
    let deleted = DeletedResponse {
        id,
        object: "response",
        deleted: true,
    };
    Ok(ApiJson(deleted).into_response())
}

/// Only responses in the background can be cancelled so, and there are none.
async fn refuse_to_cancel(
    State(state): State<AppState>,
    Extension(identity): Extension<Identity>,
    ApiPath(id): ApiPath,
) -> Result<Response, ApiError> {
    find(&state, &identity, &id)?;
    let message = format!(
        "response {id:?}: not made in the background, expected its connection to be closed, or \
         response.cancel on its WebSocket"
    );
    Err(ApiError::new(ErrorCode::InvalidRequest, message).about("response_id"))
}

async fn list_items(
    State(state): State<AppState>,
    Extension(identity): Extension<Identity>,
    ApiPath(id): ApiPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (mut limit, mut is_ascending, mut after) = (N_ITEMS, false, None);
    for (name, value) in pairs(query.as_deref()) {
        match (name, value) {
            ("include" | "include[]" | "include%5B%5D", value) if INCLUDABLE.contains(&value) => {}
            ("limit", value) => {
                let number = value.parse().ok();
                limit = number
                    .filter(|n| (1..=MAX_ITEMS).contains(n))
                    .ok_or_else(|| refused(name, value, "expected 1 to 100"))?;
            }
            ("order", "asc") => is_ascending = true,
            ("order", "desc") => is_ascending = false,
            ("order", _) => return Err(refused(name, value, "expected asc or desc")),
            ("after", id) => after = Some(id),
            _ => return Err(refused(name, value, "nothing that can be honored")),
        }
    }
    let turn = find(&state, &identity, &id)?;
    let mut items: Vec<&Item> = turn.input.iter().collect();
    if !is_ascending {
        items.reverse();
    }
    if let Some(after) = after {
        let place = items.iter().position(|item| item.id() == after);
        let place = place.ok_or_else(|| refused("after", after, "expected the id of an item"))?;
        items.drain(..=place);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&&Item>| item.map_or_else(String::new, |item| item.id().to_owned());
    let list = ItemList {
        object: "list",
        first_id: id_of(items.first()),
        last_id: id_of(items.last()),
        data: items,
        has_more,
    };
    Ok(ApiJson(list).into_response())
}

/// The parameters of a query.
fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&');
    let pairs = pairs.filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn refused(name: &str, value: &str, problem: &str) -> ApiError {
    let message = format!("{name}: {value:?}: {problem}");
    ApiError::new(ErrorCode::InvalidRequest, message).about(name)
}
