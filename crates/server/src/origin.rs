//! Whom the service takes a request from: the `Host` and `Origin` headers, and CORS.
//!
//! A web page can send requests to any address, this machine's loopback too. Two things tell that
//! it did: its `Origin`, and, where its name was made to resolve to this machine (DNS rebinding),
//! the `Host`. An IP address in `Host` is always right, since rebinding needs a name.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::error::{ApiError, ErrorCode};
use crate::state::AppState;

/// Answers that a page may read beside the body.
const EXPOSED: [&str; 9] = [
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

/// How long a browser remembers what it may do.
const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(600);

/// CORS for the origins of the settings, which a reload changes.
pub(crate) fn cors(state: &AppState) -> CorsLayer {
    let state = state.clone();
    let is_allowed = move |origin: &HeaderValue, _: &request::Parts| {
        let settings = state.settings();
        is_listed(
            &settings.config.listen.allowed_origins,
            origin.to_str().unwrap_or_default(),
        )
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(MAX_AGE)
}

/// Lets a request through whose `Host` and `Origin` are right.
pub(crate) async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match refuse(&state, &request) {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

fn refuse(state: &AppState, request: &Request) -> Option<ApiError> {
    let settings = state.settings();
    let listen = &settings.config.listen;
    // HTTP/2 has it in the URI.
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => text(request.headers(), &header::HOST),
    };
    if !is_host_right(host_of(authority), &listen.allowed_hosts) {
        let message = format!(
            "Host: {authority:?}, expected an IP address, localhost, or a name of listen.allowed_hosts"
        );
        return Some(ApiError::new(ErrorCode::HostNotAllowed, message));
    }
    let origin = request
        .headers()
        .get(header::ORIGIN)?
        .to_str()
        .unwrap_or_default();
    let is_own = origin
        .split_once("://")
        .is_some_and(|(_, host)| host.eq_ignore_ascii_case(authority));
    if is_own || is_listed(&listen.allowed_origins, origin) {
        return None;
    }
    let message = format!("Origin: {origin:?}, expected one of listen.allowed_origins");
    Some(ApiError::new(ErrorCode::OriginNotAllowed, message))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn is_listed(list: &[String], origin: &str) -> bool {
    list.iter()
        .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

fn is_host_right(host: &str, allowed: &[String]) -> bool {
    let is_named = |name: &String| name == "*" || name.eq_ignore_ascii_case(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok()
        || allowed.iter().any(is_named)
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host_of(authority: &str) -> &str {
    if let Some((host, _)) = authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return host;
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_right_only_if_it_is_listed() {
        let allowed = ["minerva.example".to_owned()];
        for (authority, is_right) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:1", true),
            ("10.1.2.3", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("Minerva.Example:443", true),
            ("", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("127.0.0.1@evil.example", false),
        ] {
            assert_eq!(
                is_host_right(host_of(authority), &allowed),
                is_right,
                "{authority}"
            );
        }
        assert!(is_host_right("evil.example", &["*".to_owned()]));
    }
}
