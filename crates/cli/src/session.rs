//! A model made ready to answer: from a prompt or a conversation to tokens, and on to text.

use std::num::NonZeroUsize;
use std::sync::Arc;

use minerva_compute::KvTypes;
use minerva_engine::chat::template::ChatTemplate;
use minerva_engine::chat::{Chat, encode_text};
use minerva_engine::{
    Done, Engine, EngineError, EngineOptions, Event, GenerateRequest, Model, ModelInfo, Token,
};
use minijinja::Value;

use crate::backend::BackendArgs;
use crate::interrupt;
use crate::isolated::isolated;
use crate::model;
use crate::output::{count, note, note_dim};

/// One message of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) role: &'static str,
    pub(crate) content: String,
}

/// What is needed to open a model for answers.
pub(crate) struct SessionOptions<'a> {
    pub(crate) model: &'a str,
    pub(crate) context: Option<usize>,
    pub(crate) n_threads: Option<NonZeroUsize>,
    pub(crate) backend: &'a BackendArgs,
    pub(crate) is_raw: bool,
}

/// A model on a backend, with its chat template if there is one and it is wanted.
pub(crate) struct Session {
    engine: Engine,
    template: Option<ChatTemplate>,
}

impl Session {
    /// Opens a model, pulling it first where it is not there, and says on standard error what runs.
    pub(crate) fn open(options: &SessionOptions<'_>) -> anyhow::Result<Session> {
        let path = model::find_or_pull(options.model)?;
        let model = Arc::new(model::open(&path)?);
        let backend = options.backend.open(options.n_threads)?.backend;
        let engine_options = EngineOptions {
            context: options.context,
            max_sequences: 1,
            kv_types: options.backend.kv_types(),
            ..EngineOptions::default()
        };
        let engine = Engine::start(model.clone(), backend.clone(), &engine_options)?;
        let info = model.info();
        let name = info
            .name
            .clone()
            .unwrap_or_else(|| options.model.to_owned());
        let context = engine.context();
        let device = backend.description();
        let cache = match engine_options.kv_types {
            types if types == KvTypes::default() => String::new(),
            KvTypes { k, v } => format!(", cache {k} and {v}"),
        };
        note_dim(&format!(
            "{name}: {}, context {context}{cache}, {device}",
            type_name(&info)
        ));
        let template = if options.is_raw {
            None
        } else {
            model.chat_template(isolated)?
        };
        if template.is_none() && !options.is_raw {
            note(&format!(
                "{name} has no chat template: the prompt is used as it is (--raw)"
            ));
        }
        Ok(Session { engine, template })
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model {
        self.engine.model()
    }

    /// Whether prompts are messages of a chat.
    pub(crate) fn is_chat(&self) -> bool {
        self.template.is_some()
    }

    /// The tokens of a conversation that the model is to go on with; of its messages joined where
    /// there is no template.
    pub(crate) fn encode(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        let tokenizer = self.model().tokenizer();
        let Some(template) = &self.template else {
            let texts = messages.iter().map(|message| message.content.as_str());
            return Ok(encode_text(&texts.collect::<String>(), tokenizer));
        };
        let message = |message: &Message| {
            Value::from_pairs([
                ("role", Value::from(message.role)),
                ("content", Value::from(message.content.as_str())),
            ])
        };
        let chat = Chat::new(messages.iter().map(message).collect());
        Ok(chat.encode(template, tokenizer)?)
    }

    /// Answers a request; `on_token` sees each token, and Ctrl-C ends the answer.
    pub(crate) fn answer(
        &self,
        request: &GenerateRequest,
        on_token: &mut dyn FnMut(&Token) -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        interrupt::reset();
        let answer = self.engine.submit(request.clone())?;
        let canceller = answer.canceller();
        for event in answer.blocking() {
            match event? {
                Event::Token { token, .. } => on_token(&token)?,
                Event::Done { done, .. } => return Ok(done),
                Event::Prefill { .. } | Event::Prompt(_) => {}
            }
            if interrupt::asked() {
                canceller.cancel();
            }
        }
        Err(EngineError::ShuttingDown.into())
    }
}

/// What kind of model it is, as benchmarks call it: `llama 134.5 M Q4_1`.
pub(crate) fn type_name(info: &ModelInfo) -> String {
    // The types are listed by size, and the largest one gives the file its name.
    let dtype = info
        .types
        .first()
        .map_or("without tensors", |info| info.ggml_type.name());
    format!("{} {} {dtype}", info.architecture, count(info.n_parameters))
}

/// The speed of an answer, and the seed to get it again, for people.
pub(crate) fn describe_speed(done: &Done, request: &GenerateRequest) -> String {
    let usage = done.usage;
    let n_prefilled = usage.prompt_tokens - usage.cached_tokens;
    let n_decoded = usage.completion_tokens.saturating_sub(1);
    let speed = |n: usize, seconds: f64| match per_second(n, seconds) {
        Some(speed) => format!("{n} tokens {speed:.1} tok/s"),
        None => format!("{n} tokens"),
    };
    let prefill = speed(n_prefilled, done.timings.prefill.as_secs_f64());
    let decode = speed(n_decoded, done.timings.decode.as_secs_f64());
    let seed = request
        .config
        .sampling
        .seed
        .map_or(String::new(), |seed| format!(", seed {seed}"));
    format!("prompt {prefill}, answer {decode}{seed}")
}

/// Tokens per second, where that is a number.
pub(crate) fn per_second(n_tokens: usize, seconds: f64) -> Option<f64> {
    (n_tokens > 0 && seconds > 0.0).then(|| n_tokens as f64 / seconds)
}
