//! One GET with its redirects: where the token may go, which faults may pass, how long to wait.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body, BodyReader, Timeout};

use crate::config::{HubConfig, Token};
use crate::error::HubError;

/// Hubs need two or three.
const MAX_REDIRECTS: u32 = 10;
/// A server that asks for a longer pause than this gets none: the pull ends with its status.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Makes requests to one hub.
pub(crate) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<Token>,
}

/// Why a request brought nothing, by what may be done about it.
pub(crate) enum Fault {
    /// Trying again will not help.
    Fatal(HubError),
    /// No connection came about.
    Unreachable { url: String, reason: String },
    /// May pass by itself.
    Transient {
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl From<HubError> for Fault {
    fn from(error: HubError) -> Self {
        Fault::Fatal(error)
    }
}

impl Fault {
    pub(crate) fn transient(reason: impl Into<String>) -> Self {
        Fault::Transient {
            reason: reason.into(),
            retry_after: None,
        }
    }
}

/// The head of a 200, 206 or 416 answer, and its body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Where the body comes from, without the query.
    pub(crate) url: String,
    pub(crate) content_length: Option<u64>,
    pub(crate) content_range: Option<ContentRange>,
    /// `X-Linked-Size` of the hub: the size of the file, whoever serves it.
    pub(crate) hub_size: Option<u64>,
    /// `X-Linked-Etag` of the hub, or its own `ETag` where it serves the file itself.
    pub(crate) hub_tag: Option<String>,
    /// The strong `ETag` of whoever serves the body.
    pub(crate) etag: Option<String>,
    pub(crate) body: BodyReader<'static>,
}

/// `Content-Range: bytes first-last/size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) size: u64,
}

impl Client {
    pub(crate) fn new(config: &HubConfig) -> Result<Self, HubError> {
        let bad = |reason: &str| HubError::BadSetting {
            name: "HF_ENDPOINT",
            reason: format!("{reason}, expected https://host or http://host"),
        };
        let endpoint: Uri = config
            .hf_endpoint
            .trim()
            .parse()
            .map_err(|_| bad("found no address"))?;
        let (Some(scheme), Some(authority)) = (endpoint.scheme_str(), endpoint.authority()) else {
            return Err(bad("found no full address"));
        };
        if !["http", "https"].contains(&scheme) {
            return Err(bad(&format!("found {scheme}:")));
        }
        if authority.as_str().contains('@') || endpoint.query().is_some() {
            return Err(bad("found a user name, a password or a query in it"));
        }
        if scheme == "http" && config.hf_token.is_some() && !is_loopback(authority.host()) {
            return Err(HubError::BadSetting {
                name: "HF_ENDPOINT",
                reason: format!(
                    "found {}, expected https: HF_TOKEN is set and would cross the network \
                     unencrypted\nuse https, or unset HF_TOKEN",
                    shown(&endpoint)
                ),
            });
        }
        let agent_config = Agent::config_builder()
            .user_agent(concat!("minerva/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(config.proxy.clone())
            .timeout_resolve(Some(config.connect_timeout))
            .timeout_connect(Some(config.connect_timeout))
            .timeout_recv_response(Some(config.response_timeout))
            .timeout_per_read(Some(config.stall_timeout))
            .timeout_per_write(Some(config.stall_timeout))
            // Resuming is for broken connections; a kept one would be the broken one.
            .max_idle_connections(0)
            .tls_config(tls_config())
            .build();
        Ok(Self {
            agent: agent_config.into(),
            endpoint,
            token: config.hf_token.clone(),
        })
    }

    /// Asks for a file from `first` on. `if_range` makes the server send the whole of it where
    /// it has changed.
    pub(crate) fn get(
        &self,
        url: &str,
        first: u64,
        if_range: Option<&str>,
    ) -> Result<Answer, Fault> {
        let mut uri: Uri = url.parse().map_err(|_| HubError::Protocol {
            url: url.to_owned(),
            reason: "found no address, expected http://… or https://…".to_owned(),
        })?;
        let (mut hub_size, mut hub_tag) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get_once(&uri, first, if_range)?;
            let is_hub = same_origin(&uri, &self.endpoint);
            if is_hub {
                hub_size = hub_size.or(number(&response, "x-linked-size"));
                hub_tag = hub_tag.or(text(&response, "x-linked-etag").and_then(tag));
            }
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => uri = self.redirect(&uri, &response)?,
                status @ (200 | 206 | 416) => {
                    let etag = text(&response, "etag").filter(|etag| !etag.starts_with("W/"));
                    if is_hub {
                        hub_tag = hub_tag.or(etag.and_then(tag));
                    }
                    return Ok(Answer {
                        status,
                        url: shown(&uri),
                        content_length: number(&response, "content-length"),
                        content_range: text(&response, "content-range").and_then(content_range),
                        hub_size,
                        hub_tag,
                        etag: etag.map(str::to_owned),
                        body: response.into_body().into_reader(),
                    });
                }
                status => return Err(self.refusal(&uri, status, &response)),
            }
        }
        Err(Fault::Fatal(HubError::Protocol {
            url: url.to_owned(),
            reason: format!("found more than {MAX_REDIRECTS} redirects, expected a file"),
        }))
    }

    fn get_once(
        &self,
        uri: &Uri,
        first: u64,
        if_range: Option<&str>,
    ) -> Result<Response<Body>, Fault> {
        // A compressed body would have another size and other ranges than the file.
        let mut request = self
            .agent
            .get(uri)
            .header(header::ACCEPT_ENCODING, "identity");
        if first > 0 {
            request = request.header(header::RANGE, format!("bytes={first}-"));
            if let Some(etag) = if_range {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        if let Some(token) = &self.token
            && same_origin(uri, &self.endpoint)
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        request.call().map_err(|error| call_fault(uri, error))
    }

    fn redirect(&self, from: &Uri, response: &Response<Body>) -> Result<Uri, Fault> {
        let bad = |reason: String| HubError::Protocol {
            url: shown(from),
            reason,
        };
        let location = text(response, "location")
            .ok_or_else(|| bad("found a redirect to nowhere, expected a Location".to_owned()))?;
        let to = join(from, location).ok_or_else(|| {
            bad("found a redirect to something else, expected http or https".to_owned())
        })?;
        if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
            let to = shown(&to);
            return Err(bad(format!(
                "found a redirect to {to}, expected https to be kept"
            ))
            .into());
        }
        Ok(to)
    }

    fn refusal(&self, uri: &Uri, status: u16, response: &Response<Body>) -> Fault {
        let url = shown(uri);
        let hint = match (status, &self.token) {
            (_, None) => {
                "the repository may be private, gated or misspelt: set HF_TOKEN to a token of an \
                 account that may read it"
            }
            (401, Some(_)) => "HF_TOKEN is not accepted: it may be mistyped or expired",
            (_, Some(_)) => {
                "the account of HF_TOKEN may not read it: a gated repository wants its terms \
                 accepted on its page first"
            }
        };
        match status {
            401 | 403 => Fault::Fatal(HubError::Unauthorized { url, status, hint }),
            404 | 410 => Fault::Fatal(HubError::NotFound { url, status }),
            408 | 425 | 429 | 500 | 502 | 503 | 504 => {
                let retry_after = number(response, "retry-after").map(Duration::from_secs);
                if retry_after.is_some_and(|wait| wait > MAX_RETRY_AFTER) {
                    return Fault::Fatal(HubError::Status { url, status });
                }
                Fault::Transient {
                    reason: format!("http status {status}"),
                    retry_after,
                }
            }
            _ => Fault::Fatal(HubError::Status { url, status }),
        }
    }
}

#[cfg(not(any(target_vendor = "apple", windows)))]
fn tls_config() -> ureq::tls::TlsConfig {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};

    // Honours SSL_CERT_FILE and SSL_CERT_DIR, as every TLS client of the system does.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots = if found.is_empty() {
        // A system without certificates, such as a small container.
        RootCerts::WebPki
    } else {
        let certs: Vec<_> = found
            .iter()
            .map(|cert| Certificate::from_der(cert).to_owned())
            .collect();
        RootCerts::new_with_certs(&certs)
    };
    TlsConfig::builder().root_certs(roots).build()
}

#[cfg(any(target_vendor = "apple", windows))]
fn tls_config() -> ureq::tls::TlsConfig {
    use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

    TlsConfig::builder()
        .provider(TlsProvider::NativeTls)
        .root_certs(RootCerts::PlatformVerifier)
        .build()
}

/// Sorts what can go wrong before there is an answer.
fn call_fault(uri: &Uri, error: ureq::Error) -> Fault {
    let url = shown(uri);
    let reason = error.to_string();
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect | Timeout::RecvResponse) => {
            Fault::Unreachable { url, reason }
        }
        ureq::Error::Timeout(_) => Fault::transient(reason),
        ureq::Error::Io(e) => match e.kind() {
            io::ErrorKind::InvalidData => HubError::Tls {
                url,
                reason: e.to_string(),
            }
            .into(),
            // The connection was there and broke.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut => Fault::transient(reason),
            // Refused, no route, and the resolver's faults, which have no kind of their own.
            _ => Fault::Unreachable {
                url,
                reason: e.to_string(),
            },
        },
        ureq::Error::Tls(_) => HubError::Tls { url, reason }.into(),
        #[cfg(not(any(target_vendor = "apple", windows)))]
        ureq::Error::Rustls(_) => HubError::Tls { url, reason }.into(),
        #[cfg(any(target_vendor = "apple", windows))]
        ureq::Error::NativeTls(_) | ureq::Error::Der(_) => HubError::Tls { url, reason }.into(),
        _ => HubError::Protocol { url, reason }.into(),
    }
}

fn text<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    text(response, name)?.trim().parse().ok()
}

/// What stands between the quotes of an entity tag.
fn tag(value: &str) -> Option<String> {
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then(|| value.to_owned())
}

fn content_range(value: &str) -> Option<ContentRange> {
    let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = ContentRange {
        first: first.parse().ok()?,
        last: last.parse().ok()?,
        size: size.parse().ok()?,
    };
    (range.first <= range.last && range.last < range.size).then_some(range)
}

/// An address for messages. The query is left out: in redirects it is often a signature that
/// grants access.
fn shown(uri: &Uri) -> String {
    format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or("http"),
        uri.authority()
            .map_or("", |a| a.as_str().rsplit('@').next().unwrap_or("")),
        uri.path().trim_end_matches('/')
    )
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let scheme = uri.scheme_str()?.to_owned();
        let port = uri
            .port_u16()
            .unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, uri.host()?.to_ascii_lowercase(), port))
    };
    origin(a).is_some() && origin(a) == origin(b)
}

/// The address that a `Location` means: a full one, or a path at the same host.
fn join(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.trim();
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let full = if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let folder = from
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let full = full.split('#').next()?;
    let uri: Uri = full.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    (is_http && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_are_joined() {
        let from = uri("https://hub/a/b?sig=1");
        for (location, wanted) in [
            ("https://cdn/x?y=1#z", Some("https://cdn/x?y=1")),
            ("//cdn/x", Some("https://cdn/x")),
            ("/x", Some("https://hub/x")),
            ("x", Some("https://hub/a/x")),
            ("ftp://cdn/x", None),
            ("file:///etc/passwd", None),
            ("https://", None),
            ("ht tp://x", None),
        ] {
            assert_eq!(
                join(&from, location).map(|u| u.to_string()).as_deref(),
                wanted
            );
        }
    }

    #[test]
    fn origins_need_scheme_host_and_port() {
        let hub = uri("https://hub.example");
        assert!(same_origin(&hub, &uri("https://HUB.example:443/x")));
        for other in [
            "http://hub.example",
            "https://hub.example:444",
            "https://cdn.hub.example",
        ] {
            assert!(!same_origin(&hub, &uri(other)), "{other}");
        }
    }

    #[test]
    fn ranges_are_read_or_refused() {
        let wanted = ContentRange {
            first: 2,
            last: 9,
            size: 10,
        };
        assert_eq!(content_range("bytes 2-9/10"), Some(wanted));
        for bad in [
            "bytes */10",
            "bytes 2-9/*",
            "bytes 9-2/10",
            "bytes 2-10/10",
            "2-9/10",
            "",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn shown_addresses_hold_no_secret() {
        assert_eq!(
            shown(&uri("https://me:pw@host:1/a/b?sig=x")),
            "https://host:1/a/b"
        );
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear() {
        let mut config = HubConfig::new("models");
        config.hf_token = Some(Token::new("secret").unwrap());
        for (endpoint, is_fine) in [
            ("https://hub.example", true),
            ("http://localhost:1", true),
            ("http://127.0.0.2", true),
            ("http://[::1]:80", true),
            ("http://hub.example", false),
            ("http://localhost.example", false),
            ("ftp://localhost", false),
            ("https://me@hub.example", false),
            ("hub.example", false),
        ] {
            config.hf_endpoint = endpoint.to_owned();
            match Client::new(&config) {
                Ok(_) => assert!(is_fine, "{endpoint}"),
                Err(e) => {
                    assert!(!is_fine, "{endpoint}: {e}");
                    assert!(!e.to_string().contains("secret"), "{e}");
                }
            }
        }
    }
}
