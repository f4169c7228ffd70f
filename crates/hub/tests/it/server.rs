//! A small HTTP server on 127.0.0.1 that behaves as badly as each test wants.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// How many requests came before.
    pub(crate) idx: usize,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    /// The first byte that is asked for.
    pub(crate) fn first(&self) -> Option<usize> {
        let range = self.headers.get("range")?;
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

#[derive(Debug, Clone)]
pub(crate) enum End {
    /// All of the body, then close.
    Whole,
    /// So many bytes of the body, then close.
    CutAfter(usize),
    /// So many bytes of the body, then silence until the client goes.
    StallAfter(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: vec![],
            body: vec![],
            end: End::Whole,
        }
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::status(302).with("Location", to)
    }

    /// The file, or the rest of it if the request asks for that.
    pub(crate) fn file(request: &Request, content: &[u8]) -> Self {
        match request.first() {
            None => Self {
                body: content.to_vec(),
                ..Self::status(200)
            },
            Some(first) if first < content.len() => {
                let (last, len) = (content.len() - 1, content.len());
                Self {
                    body: content[first..].to_vec(),
                    ..Self::status(206)
                }
                .with("Content-Range", format!("bytes {first}-{last}/{len}"))
            }
            Some(_) => Self::status(416),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

pub(crate) struct Server {
    port: u16,
    log: Arc<Mutex<Vec<Request>>>,
    is_stopping: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (thread_log, stop, answer) = (log.clone(), is_stopping.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (log, answer) = (thread_log.clone(), answer.clone());
                // A client that goes away early is what several tests want.
                std::thread::spawn(move || serve(&stream, &log, &*answer).ok());
            }
        });
        Self {
            port,
            log,
            is_stopping,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same server under another host name.
    pub(crate) fn other_host_url(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(
    stream: &TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request) -> Reply,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let request = {
        let mut log = log.lock().unwrap();
        let request = Request {
            idx: log.len(),
            path,
            headers,
        };
        log.push(request.clone());
        request
    };
    let reply = answer(&request);
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    if !reply
        .headers
        .iter()
        .any(|(name, _)| *name == "Content-Length")
    {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut out = stream;
    out.write_all(head.as_bytes())?;
    out.write_all(b"\r\n")?;
    match reply.end {
        End::Whole => out.write_all(&reply.body)?,
        End::CutAfter(n) => out.write_all(&reply.body[..n])?,
        End::StallAfter(n) => {
            out.write_all(&reply.body[..n])?;
            out.flush()?;
            let _ = out.read(&mut [0]);
        }
    }
    Ok(())
}
