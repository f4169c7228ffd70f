//! `/openapi.json`, and `/docs`: the description of the API, and a page on which to try it.
//!
//! The page is Swagger UI, which is in the binary: nothing of it comes from elsewhere. It lies there
//! as the zip file that its crate ships. What that holds of a file is deflated, as gzip has it too,
//! so a file is sent as it lies there between gzip's head and end, and nothing is ever inflated.

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde_json::json;
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;

use crate::auth;
use crate::body::{ApiJson, ApiPath};
use crate::error::{ApiError, ErrorCode};
use crate::openapi::{self, Content, Operation, Parameter};
use crate::state::AppState;

pub(super) const OPENAPI_OPERATIONS: &[Operation] = &[Operation {
    id: "openapi",
    summary: "This description.",
    answers: &[(200, Content::OpenApi)],
    ..Operation::GET
}];

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    id: "docs",
    summary: "A page on which to try the API.",
    answers: &[(200, Content::Text("text/html"))],
    ..Operation::GET
}];

pub(super) const FILE_OPERATIONS: &[Operation] = &[Operation {
    id: "docsFile",
    summary: "A file of that page.",
    parameters: &[Parameter {
        name: "file",
        is_in_path: true,
        what: "Its name.",
        schema: || json!({"enum": FILES.map(|(name, _)| name)}),
    }],
    answers: &[(200, Content::Text("*/*"))],
    errors: &[&[ErrorCode::UnknownPath]],
    ..Operation::GET
}];

/// What the page consists of, beside [`PAGE`] and [`START`].
const FILES: [(&str, &str); 3] = [
    ("start.js", "text/javascript"),
    ("swagger-ui-bundle.js", "text/javascript"),
    ("swagger-ui.css", "text/css"),
];

const PAGE: &str = "<!DOCTYPE html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Minerva</title>
<link rel=\"icon\" href=\"data:,\">
<link rel=\"stylesheet\" href=\"docs/swagger-ui.css\">
<div id=\"page\"></div>
<script src=\"docs/swagger-ui-bundle.js\"></script>
<script src=\"docs/start.js\"></script>
</html>
";

const START: &str = "SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#page',
  deepLinking: true,
  // It would have the description checked elsewhere.
  validatorUrl: null,
});
";

/// Nothing of the page comes from elsewhere, and none of it goes there.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

pub(super) fn openapi() -> MethodRouter<AppState> {
    get(async |State(state): State<AppState>| ApiJson(openapi::openapi(auth::needs_key(&state))))
}

pub(super) fn page() -> MethodRouter<AppState> {
    get(async || {
        let policy = HeaderName::from_static("content-security-policy");
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (policy, POLICY),
        ];
        (headers, PAGE)
    })
}

pub(super) fn file() -> MethodRouter<AppState> {
    get(send)
}

async fn send(ApiPath(name): ApiPath) -> Result<Response, ApiError> {
    let file = FILES.iter().find(|(file, _)| *file == name);
    let unknown = || {
        ApiError::new(
            ErrorCode::UnknownPath,
            format!("/docs/{name}: no such file"),
        )
    };
    let (name, kind) = file.ok_or_else(unknown)?;
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if *name == "start.js" {
        return Ok(([kind], START).into_response());
    }
    let body = gzipped(SWAGGER_UI_VENDORED, name).ok_or_else(unknown)?;
    let gzip = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let cache = HeaderValue::from_static("max-age=3600");
    Ok(([kind, gzip, (header::CACHE_CONTROL, cache)], body).into_response())
}

/// A deflated file of a zip file as gzip; the one of this name in a folder `dist` at the top.
///
/// Both formats: PKWARE's APPNOTE.TXT 4.3, and RFC 1952.
fn gzipped(zip: &[u8], name: &str) -> Option<Vec<u8>> {
    const END: &[u8] = b"PK\x05\x06";
    const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let u16_at = |at: usize| {
        let bytes = zip.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_le_bytes(bytes)))
    };
    let u32_at = |at: usize| {
        let bytes = zip.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let end = zip.windows(END.len()).rposition(|bytes| bytes == END)?;
    let (n_entries, mut at) = (u16_at(end + 10)?, u32_at(end + 16)?);
    for _ in 0..n_entries {
        let (name_len, extra_len, comment_len) =
            (u16_at(at + 28)?, u16_at(at + 30)?, u16_at(at + 32)?);
        let path = std::str::from_utf8(zip.get(at + 46..at + 46 + name_len)?).ok()?;
        let is_it = path
            .split_once("/dist/")
            .is_some_and(|(folder, file)| file == name && !folder.contains('/'));
        if is_it && u16_at(at + 10)? == 8 {
            let local = u32_at(at + 42)?;
            let data = local + 30 + u16_at(local + 26)? + u16_at(local + 28)?;
            let deflated = zip.get(data..data + u32_at(at + 20)?)?;
            let (crc32, len) = (zip.get(at + 16..at + 20)?, zip.get(at + 24..at + 28)?);
            return Some([&GZIP_HEAD, deflated, crc32, len].concat());
        }
        at += 46 + name_len + extra_len + comment_len;
    }
    None
}
