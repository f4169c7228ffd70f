//! Downloads: what is resumed, what is tried again, what is refused.

use std::ops::ControlFlow;
use std::time::Duration;

use minerva_hub::{HubError, Phase, Token};

use crate::server::{End, Reply, Server};
use crate::{Home, MODEL, content, pull, sha256};

const LEN: usize = 400_000;

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// Pulls from a server that finally gives the whole file, and checks that it arrived.
fn check_arrives(
    answer: impl Fn(&crate::server::Request, &[u8]) -> Reply + Send + Sync + 'static,
) -> Vec<crate::server::Request> {
    let bytes = content(LEN, 1);
    let served = bytes.clone();
    let server = Server::start(move |request| answer(request, &served));
    let home = Home::new();
    let pulled = pull(&home.config(&server.url()), MODEL).unwrap();
    assert!(!pulled.was_present);
    assert!(std::fs::read(&pulled.path).unwrap() == bytes);
    assert_eq!(
        home.files(),
        [".hub/owner/repo/m.gguf.info", "owner/repo/m.gguf"]
    );
    server.requests()
}

/// Pulls from a server that never gives the file, and checks that no model appears.
fn check_fails(
    answer: impl Fn(&crate::server::Request) -> Reply + Send + Sync + 'static,
) -> HubError {
    let server = Server::start(answer);
    let home = Home::new();
    let error = pull(&home.config(&server.url()), MODEL).unwrap_err();
    assert!(
        !home.files().contains(&"owner/repo/m.gguf".to_owned()),
        "{:?}",
        home.files()
    );
    error
}

#[test]
fn a_plain_pull_asks_once_and_the_next_not_at_all() {
    let bytes = content(LEN, 1);
    let served = bytes.clone();
    let server = Server::start(move |request| Reply::file(request, &served));
    let home = Home::new();
    let config = home.config(&server.url());
    let mut last = (0, None);
    let pulled = minerva_hub::pull(&config, "hf:owner/repo/m.gguf@v1", &mut |progress| {
        assert!(progress.done_bytes >= last.0, "progress goes back");
        last = (progress.done_bytes, progress.total_bytes);
        ControlFlow::Continue(())
    });
    assert_eq!(last, (LEN as u64, Some(LEN as u64)));
    assert_eq!(pulled.unwrap().path, home.0.join("owner/repo@v1/m.gguf"));
    assert!(
        pull(&config, "hf:owner/repo/m.gguf@v1")
            .unwrap()
            .was_present
    );
    let paths: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(paths, ["/owner/repo/resolve/v1/m.gguf"]);
}

#[test]
fn a_dropped_connection_is_resumed() {
    let requests = check_arrives(|request, bytes| {
        let reply = Reply::file(request, bytes).with("ETag", "\"one\"");
        if request.idx < 3 {
            reply.end(End::CutAfter(100_000))
        } else {
            reply
        }
    });
    let firsts: Vec<_> = requests.iter().map(|request| request.first()).collect();
    assert_eq!(firsts, [None, Some(100_000), Some(200_000), Some(300_000)]);
    assert_eq!(requests[1].headers["if-range"], "\"one\"");
}

#[test]
fn a_stopped_pull_goes_on_in_the_next_process() {
    let bytes = content(LEN, 1);
    let served = bytes.clone();
    let server =
        Server::start(move |request| Reply::file(request, &served).with("ETag", "\"one\""));
    let home = Home::new();
    let config = home.config(&server.url());
    let error = minerva_hub::pull(&config, MODEL, &mut |progress| {
        if progress.done_bytes > 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(
        matches!(error, Err(HubError::Cancelled { .. })),
        "{error:?}"
    );
    let mut phases = Vec::new();
    let pulled = minerva_hub::pull(&config, MODEL, &mut |progress| {
        phases.push(progress.phase);
        ControlFlow::Continue(())
    });
    assert!(std::fs::read(pulled.unwrap().path).unwrap() == bytes);
    assert!(
        phases.contains(&Phase::Checking),
        "the part was not read again: {phases:?}"
    );
    assert!(server.requests()[1].first().is_some_and(|first| first > 0));
}

#[test]
fn a_server_without_ranges_starts_again() {
    check_arrives(|request, bytes| {
        let reply = Reply {
            body: bytes.to_vec(),
            ..Reply::status(200)
        };
        if request.idx == 0 {
            reply.end(End::CutAfter(100_000))
        } else {
            reply
        }
    });
}

#[test]
fn a_wrong_range_is_not_glued_on() {
    for range in [
        "bytes 99999-399999/400000",
        "bytes 100000-399999/500000",
        "nonsense",
    ] {
        check_arrives(move |request, bytes| match request.idx {
            0 => Reply::file(request, bytes).end(End::CutAfter(100_000)),
            1 => Reply {
                body: bytes[99_999..].to_vec(),
                ..Reply::status(206)
            }
            .with("Content-Range", range),
            _ => Reply::file(request, bytes),
        });
    }
}

#[test]
fn a_range_that_cannot_be_had_starts_again() {
    check_arrives(|request, bytes| match request.idx {
        0 => Reply::file(request, bytes).end(End::CutAfter(100_000)),
        1 => Reply::status(416),
        _ => Reply::file(request, bytes),
    });
}

#[test]
fn a_file_that_changed_meanwhile_starts_again() {
    let old = content(LEN, 2);
    for header in ["ETag", "X-Linked-Etag"] {
        let old = old.clone();
        check_arrives(move |request, bytes| match request.idx {
            0 => Reply::file(request, &old)
                .with(header, "\"old\"")
                .end(End::CutAfter(100_000)),
            // This server does not know If-Range.
            _ => Reply::file(request, bytes).with(header, "\"new\""),
        });
    }
}

#[test]
fn a_passing_refusal_is_waited_out() {
    for status in [429, 500, 503] {
        let requests = check_arrives(move |request, bytes| match request.idx {
            0 | 1 => Reply::status(status).with("Retry-After", "0"),
            _ => Reply::file(request, bytes),
        });
        assert_eq!(requests.len(), 3);
    }
}

#[test]
fn a_lasting_refusal_ends() {
    let error = check_fails(|_| Reply::status(503));
    assert!(
        matches!(error, HubError::Transfer { attempts: 5, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("http status 503"), "{error}");
    let error = check_fails(|_| Reply::status(429).with("Retry-After", "86400"));
    assert!(
        matches!(error, HubError::Status { status: 429, .. }),
        "{error}"
    );
}

#[test]
fn a_connection_that_always_drops_ends() {
    let bytes = content(LEN, 1);
    let error = check_fails(move |request| Reply::file(request, &bytes).end(End::CutAfter(1)));
    assert!(matches!(error, HubError::Transfer { .. }), "{error}");
    assert!(error.to_string().contains("of 400000 bytes"), "{error}");
}

#[test]
fn a_silent_connection_is_given_up_and_resumed() {
    let bytes = content(LEN, 1);
    let served = bytes.clone();
    let server = Server::start(move |request| {
        let reply = Reply::file(request, &served);
        if request.idx == 0 {
            reply.end(End::StallAfter(100_000))
        } else {
            reply
        }
    });
    let home = Home::new();
    let mut config = home.config(&server.url());
    config.stall_timeout = Duration::from_millis(200);
    let pulled = pull(&config, MODEL).unwrap();
    assert!(std::fs::read(pulled.path).unwrap() == bytes);
    assert_eq!(server.requests()[1].first(), Some(100_000));
}

#[test]
fn access_errors_say_what_to_do() {
    for (status, hint) in [
        (401, "set HF_TOKEN"),
        (403, "set HF_TOKEN"),
        (404, "check owner"),
    ] {
        let error = check_fails(move |_| Reply::status(status)).to_string();
        assert!(
            error.contains(&status.to_string()) && error.contains(hint),
            "{error}"
        );
        assert_eq!(error.lines().count(), 2, "{error}");
    }
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let bytes = content(LEN, 1);
    let served = bytes.clone();
    let cdn = Server::start(move |request| Reply::file(request, &served));
    // Another host and another port, in turn.
    let targets = [cdn.other_host_url(), cdn.url()];
    for target in targets {
        let url = format!("{target}/blob?signature=geheim");
        let sum = sha256(&bytes);
        let hub = Server::start(move |request| match request.path.as_str() {
            "/owner/repo/resolve/main/m.gguf" => Reply::redirect("/moved"),
            _ => Reply::redirect(&url)
                .with("X-Linked-Etag", quoted(&sum))
                .with("X-Linked-Size", LEN.to_string()),
        });
        let home = Home::new();
        let mut config = home.config(&hub.url());
        config.hf_token = Some(Token::new("secret").unwrap());
        pull(&config, MODEL).unwrap();
        for request in hub.requests() {
            assert_eq!(request.headers["authorization"], "Bearer secret");
        }
    }
    assert_eq!(cdn.requests().len(), 2);
    assert!(
        cdn.requests()
            .iter()
            .all(|r| !r.headers.contains_key("authorization"))
    );
}

#[test]
fn messages_hold_neither_token_nor_signature() {
    let cdn = Server::start(|_| Reply::status(403));
    let url = format!("{}/blob?signature=geheim", cdn.url());
    let hub = Server::start(move |_| Reply::redirect(&url));
    let home = Home::new();
    let mut config = home.config(&hub.url());
    config.hf_token = Some(Token::new("secret").unwrap());
    let error = pull(&config, MODEL).unwrap_err();
    for text in [
        error.to_string(),
        format!("{error:?}"),
        format!("{config:?}"),
    ] {
        assert!(
            !text.contains("geheim") && !text.contains("secret"),
            "{text}"
        );
    }
}

#[test]
fn redirects_end() {
    let error = check_fails(|_| Reply::redirect("/again")).to_string();
    assert!(error.contains("more than 10 redirects"), "{error}");
    for to in ["file:///etc/passwd", "ftp://127.0.0.1/x"] {
        let error = check_fails(move |_| Reply::redirect(to));
        assert!(matches!(error, HubError::Protocol { .. }), "{to}: {error}");
    }
    let error = check_fails(|_| Reply::status(302));
    assert!(error.to_string().contains("redirect to nowhere"), "{error}");
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let bytes = content(LEN, 1);
    let (sum, wanted) = (sha256(&bytes), "0".repeat(64));
    let tag = quoted(&wanted);
    let server =
        Server::start(move |request| Reply::file(request, &bytes).with("X-Linked-Etag", &tag));
    let home = Home::new();
    let error = pull(&home.config(&server.url()), MODEL)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&sum) && error.contains(&wanted), "{error}");
    assert_eq!(home.files(), [""; 0]);
}

#[test]
fn lengths_that_lie_are_noticed() {
    // Shorter than the hub says: refused before a byte is kept.
    let error = check_fails(|request| {
        Reply::file(request, &content(LEN, 1)).with("X-Linked-Size", "400001")
    });
    assert!(error.to_string().contains("the hub 400001"), "{error}");
    // Longer than what comes.
    let error = check_fails(|request| {
        Reply::file(request, &content(LEN, 1)).with("Content-Length", "400001")
    });
    assert!(matches!(error, HubError::Transfer { .. }), "{error}");
    // None at all, and a body that could go on for ever.
    let error = check_fails(|_| {
        Reply {
            body: b"5\r\nGGUF1\r\n0\r\n\r\n".to_vec(),
            ..Reply::status(200)
        }
        .with("Transfer-Encoding", "chunked")
    });
    assert!(!matches!(error, HubError::NotGguf { .. }), "{error}");
}

#[test]
fn more_than_the_disk_has_is_refused_before_it_is_written() {
    let huge = (1u64 << 60).to_string();
    let error = check_fails(move |request| {
        Reply::file(request, &content(LEN, 1)).with("Content-Length", &huge)
    });
    assert!(
        matches!(error, HubError::NoSpace { needed_bytes, .. } if needed_bytes == 1 << 60),
        "{error}"
    );
}

#[test]
fn a_page_is_not_a_model() {
    let error = check_fails(|request| Reply::file(request, b"<html>please log in</html>"));
    assert!(matches!(error, HubError::NotGguf { .. }), "{error}");
}

#[test]
fn no_hub_is_known_at_once() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let home = Home::new();
    let error = pull(&home.config(&format!("http://127.0.0.1:{port}")), MODEL).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert_eq!(home.files(), [""; 0]);
}

#[test]
fn all_files_of_a_split_model_are_pulled_and_the_first_comes_last() {
    let server = Server::start(|request| {
        let seed = request
            .path
            .bytes()
            .fold(0, |seed: u32, b| seed.wrapping_mul(31) ^ u32::from(b));
        Reply::file(request, &content(1000, seed))
    });
    let home = Home::new();
    let config = home.config(&server.url());
    let pulled = pull(&config, "hf:owner/repo/q4/m-00002-of-00003.gguf").unwrap();
    assert_eq!(
        pulled.path,
        home.0.join("owner/repo/q4/m-00001-of-00003.gguf")
    );
    let paths: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    let wanted = [2, 3, 1].map(|n| format!("/owner/repo/resolve/main/q4/m-0000{n}-of-00003.gguf"));
    assert_eq!(paths, wanted);
    let listing = minerva_hub::list(&config).unwrap();
    assert_eq!(listing.installed.len(), 1);
    assert_eq!(listing.installed[0].size_bytes, 3000);
    assert_eq!(
        listing.installed[0].name,
        "hf:owner/repo/q4/m-00001-of-00003.gguf"
    );
    minerva_hub::remove(&config, &listing.installed[0].name).unwrap();
    assert_eq!(home.files(), [""; 0]);
}
