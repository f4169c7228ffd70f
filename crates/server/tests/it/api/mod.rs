//! Chats, completions and models over HTTP, with a tiny model that answers at random.

mod chats;
mod company;
mod completions;
mod models;
mod refusals;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::ops::Deref;

use minerva_engine::model::ARCHITECTURES;
use minerva_server::{Loaded, ModelSettings};
use serde_json::{Value, json};

use crate::files::TempFile;
use crate::server::{Answer, Stream, TestServer};
use crate::tiny::Tiny;

/// `<s>` and `</s>` are control tokens; a letter is a token, every other byte too.
const TEMPLATE: &str = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}\
    {% if add_generation_prompt %}<s>assistant: {% endif %}";

/// A server with a model called `tiny`.
pub(crate) struct ApiServer {
    pub(crate) server: TestServer,
    _file: TempFile,
}

impl Deref for ApiServer {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        &self.server
    }
}

impl ApiServer {
    pub(crate) fn start(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub(crate) fn with(name: &str, change: impl FnOnce(&mut Loaded)) -> Self {
        let mut tiny = Tiny::new(&ARCHITECTURES[0], &[]);
        tiny.metadata.insert("tokenizer.chat_template", TEMPLATE);
        tiny.metadata.insert("llama.context_length", 65536u32);
        let file = tiny.write();
        let path = file.path.to_str().unwrap().to_owned();
        let server = TestServer::with(name, |settings| {
            settings.config.engine.context = Some(128);
            settings.config.models.push(ModelSettings {
                name: "tiny".to_owned(),
                model: Some(path),
                aliases: vec!["small".to_owned()],
                ..ModelSettings::default()
            });
            change(settings);
        });
        Self {
            server,
            _file: file,
        }
    }

    /// A model with a context so long that an answer that nobody reads is never at its end, and
    /// that computes one answer at a time.
    pub(crate) fn endless(name: &str, change: impl FnOnce(&mut Loaded)) -> Self {
        Self::with(name, |settings| {
            settings.config.engine.context = Some(65536);
            settings.config.engine.parallel = 1;
            change(settings);
        })
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_as("", path, &body.to_string())
    }

    fn chat(&self, fields: Value) -> Answer {
        self.post("/v1/chat/completions", &chat(fields))
    }

    fn complete(&self, fields: Value) -> Answer {
        self.post("/v1/completions", &completion(fields))
    }

    fn endless_stream(&self, key: &str) -> Stream {
        let fields = json!({"stream": true, "max_tokens": 60000});
        let mut stream = self.post_stream(key, "/v1/chat/completions", &chat(fields).to_string());
        assert!(stream.line().starts_with("data: {"));
        stream
    }

    /// A request whose prompt takes seconds. Unlike an answer, which is held up as soon as its reader is behind,
    /// so that others get its turn, it runs until it is dropped.
    fn long_prompt(&self) -> TcpStream {
        let long = json!({"prompt": vec![270; 60000], "max_tokens": 1, "stream": true});
        let body = completion(long).to_string();
        let client = self.post_stream_in_background("/v1/completions", &body);
        self.wait_until(|stats| stats.n_running == 1);
        client
    }

    fn stats(&self) -> minerva_engine::EngineStats {
        let status = self.state.models().status("tiny").unwrap();
        status.stats.unwrap_or_default()
    }

    pub(crate) fn wait_until(&self, is_so: impl Fn(minerva_engine::EngineStats) -> bool) {
        crate::wait_until(|| is_so(self.stats()));
    }
}

pub(crate) fn with(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("{fields}");
    };
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// A chat that is always answered in the same way, with eight tokens.
fn chat(fields: Value) -> Value {
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "abc"}],
        "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    with(body, fields)
}

fn completion(fields: Value) -> Value {
    let body = json!({"model": "tiny", "prompt": "abc", "max_tokens": 8, "temperature": 0,
        "ignore_eos": true});
    with(body, fields)
}

/// The chunks of a stream, which ends with `[DONE]`.
#[track_caller]
fn chunks(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let mut chunks: Vec<&str> = answer
        .text
        .split("\n\n")
        .filter(|event| !event.is_empty() && !event.starts_with(':'))
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    assert_eq!(chunks.pop(), Some("[DONE]"));
    let chunks = chunks.into_iter();
    chunks
        .map(|chunk| serde_json::from_str(chunk).unwrap())
        .collect()
}

/// The texts of a stream's answers, and why each ended.
fn texts(chunks: &[Value]) -> BTreeMap<u64, (String, String)> {
    let mut texts = BTreeMap::<u64, (String, String)>::new();
    for choice in chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap())
    {
        let (text, end) = texts.entry(choice["index"].as_u64().unwrap()).or_default();
        let content = choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str());
        *text += content.unwrap_or_default();
        if let Some(reason) = choice["finish_reason"].as_str() {
            assert_eq!(*end, "", "{choice}");
            reason.clone_into(end);
        }
    }
    texts
}
