//! The list of routes, and what every request passes on its way to them.

use std::any::Any;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};

mod chat_completions;
mod completions;
mod docs;
mod health;
mod keys;
mod metrics;
mod models;
mod responses;
mod responses_socket;
mod tokenize;

use crate::auth::{self, Scope};
use crate::error::{ApiError, ErrorCode};
use crate::openapi::Operation;
use crate::state::AppState;
use crate::{observe, origin};

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Its path, as axum writes it.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// Its methods and their handlers.
    pub methods: fn() -> MethodRouter<AppState>,
    /// How they are described; a path that another one is short for has no description.
    pub operations: &'static [Operation],
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    Public,
    /// Whose key has the scope; whoever asks, where no key is needed. The handler finds who it is
    /// as an [`Identity`](auth::Identity) in the extensions.
    Scope(Scope),
    /// The scope `infer`, for what computes: it is counted against the key's limits, refused while
    /// the server drains, and waited for at its end. The handler finds a
    /// [`Caller`](auth::Caller) in the extensions.
    Work,
}

/// Every route, in the order of the documentation.
pub const ROUTES: &[Route] = &[
    Route {
        path: "/v1/chat/completions",
        access: Access::Work,
        methods: chat_completions::chat_completions,
        operations: chat_completions::OPERATIONS,
    },
    Route {
        path: "/chat/completions",
        access: Access::Work,
        methods: chat_completions::chat_completions,
        operations: &[],
    },
    Route {
        path: "/v1/completions",
        access: Access::Work,
        methods: completions::completions,
        operations: completions::OPERATIONS,
    },
    Route {
        path: "/completions",
        access: Access::Work,
        methods: completions::completions,
        operations: &[],
    },
    Route {
        path: "/v1/responses",
        access: Access::Work,
        methods: responses::responses,
        operations: responses::OPERATIONS,
    },
    Route {
        path: "/responses",
        access: Access::Work,
        methods: responses::responses,
        operations: &[],
    },
    Route {
        path: "/v1/responses/{id}",
        access: Access::Scope(Scope::Infer),
        methods: responses::response,
        operations: responses::RESPONSE_OPERATIONS,
    },
    Route {
        path: "/responses/{id}",
        access: Access::Scope(Scope::Infer),
        methods: responses::response,
        operations: &[],
    },
    Route {
        path: "/v1/responses/{id}/cancel",
        access: Access::Scope(Scope::Infer),
        methods: responses::cancel,
        operations: responses::CANCEL_OPERATIONS,
    },
    Route {
        path: "/responses/{id}/cancel",
        access: Access::Scope(Scope::Infer),
        methods: responses::cancel,
        operations: &[],
    },
    Route {
        path: "/v1/responses/{id}/input_items",
        access: Access::Scope(Scope::Infer),
        methods: responses::input_items,
        operations: responses::ITEMS_OPERATIONS,
    },
    Route {
        path: "/responses/{id}/input_items",
        access: Access::Scope(Scope::Infer),
        methods: responses::input_items,
        operations: &[],
    },
    Route {
        path: "/v1/models",
        access: Access::Scope(Scope::Infer),
        methods: models::models,
        operations: models::OPERATIONS,
    },
    Route {
        path: "/models",
        access: Access::Scope(Scope::Infer),
        methods: models::models,
        operations: &[],
    },
    Route {
        path: "/v1/models/{*id}",
        access: Access::Scope(Scope::Infer),
        methods: models::model,
        operations: models::MODEL_OPERATIONS,
    },
    Route {
        path: "/models/{*id}",
        access: Access::Scope(Scope::Infer),
        methods: models::model,
        operations: &[],
    },
    Route {
        path: "/tokenize",
        access: Access::Work,
        methods: tokenize::tokenize,
        operations: tokenize::TOKENIZE_OPERATIONS,
    },
    Route {
        path: "/detokenize",
        access: Access::Work,
        methods: tokenize::detokenize,
        operations: tokenize::DETOKENIZE_OPERATIONS,
    },
    Route {
        path: "/apply-template",
        access: Access::Work,
        methods: tokenize::apply_template,
        operations: tokenize::TEMPLATE_OPERATIONS,
    },
    Route {
        path: "/health",
        access: Access::Public,
        methods: health::health,
        operations: health::OPERATIONS,
    },
    Route {
        path: "/health/live",
        access: Access::Public,
        methods: health::live,
        operations: health::LIVE_OPERATIONS,
    },
    Route {
        path: "/health/ready",
        access: Access::Public,
        methods: health::health,
        operations: health::READY_OPERATIONS,
    },
    Route {
        path: "/health/startup",
        access: Access::Public,
        methods: health::startup,
        operations: health::STARTUP_OPERATIONS,
    },
    Route {
        path: "/metrics",
        access: Access::Scope(Scope::Metrics),
        methods: metrics::metrics,
        operations: metrics::OPERATIONS,
    },
    Route {
        path: "/admin/keys",
        access: Access::Scope(Scope::Admin),
        methods: keys::keys,
        operations: keys::OPERATIONS,
    },
    Route {
        path: "/admin/keys/{id}",
        access: Access::Scope(Scope::Admin),
        methods: keys::key,
        operations: keys::KEY_OPERATIONS,
    },
    Route {
        path: "/openapi.json",
        access: Access::Public,
        methods: docs::openapi,
        operations: docs::OPENAPI_OPERATIONS,
    },
    Route {
        path: "/docs",
        access: Access::Public,
        methods: docs::page,
        operations: docs::OPERATIONS,
    },
    Route {
        path: "/docs/{file}",
        access: Access::Public,
        methods: docs::file,
        operations: docs::FILE_OPERATIONS,
    },
];

/// The service without a listener.
pub fn router(state: AppState) -> Router {
    router_of(state, ROUTES)
}

/// The service with these routes.
pub fn router_of(state: AppState, routes: &[Route]) -> Router {
    let mut router = Router::new();
    for route in routes {
        let access = (state.clone(), route.access);
        let methods = (route.methods)()
            .fallback(wrong_method)
            .layer(middleware::from_fn_with_state(access, auth::authorize));
        router = router.route(route.path, methods);
    }
    let on_panic = CatchPanicLayer::custom(OnPanic(state.clone()));
    // The last one is the outermost.
    router
        .fallback(unknown_path)
        .layer(on_panic)
        .layer(origin::cors(&state))
        .layer(middleware::from_fn_with_state(state.clone(), origin::check))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            observe::observe,
        ))
        .with_state(state)
}

/// A handler that panics fails its request alone.
#[derive(Clone)]
struct OnPanic(AppState);

impl ResponseForPanic for OnPanic {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send>) -> Response {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        tracing::error!(panic = what.unwrap_or("no message"), "a handler panicked");
        self.0.metrics().panicked();
        // What it says may be of another request.
        ApiError::new(
            ErrorCode::Internal,
            "a fault of the server, which is in its log",
        )
        .into_response()
    }
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::new(
        ErrorCode::UnknownPath,
        format!(
            "{} {}: no such route",
            request.method(),
            request.uri().path()
        ),
    )
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        ErrorCode::WrongMethod,
        format!(
            "{}: {}, expected another method",
            request.uri().path(),
            request.method()
        ),
    )
}
