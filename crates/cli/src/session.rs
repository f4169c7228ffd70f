//! A model made ready to answer: from a prompt or a conversation to tokens, and on to text.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use minerva_engine::chat::template::{ChatInput, ChatTemplate};
use minerva_engine::tokenizer::EncodeOptions;
use minerva_engine::{
    Done, Engine, EngineOptions, Event, GenerateRequest, Model, ModelInfo, Token,
};
use minijinja::Value;

use crate::backend::BackendArgs;
use crate::interrupt;
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
            ..EngineOptions::default()
        };
        let engine = Engine::new(model.clone(), backend.as_ref(), &engine_options)?;
        let info = model.info();
        let name = info
            .name
            .clone()
            .unwrap_or_else(|| options.model.to_owned());
        let context = engine.context();
        let device = backend.description();
        note_dim(&format!(
            "{name}: {}, context {context}, {device}",
            type_name(&info)
        ));
        let template = if options.is_raw {
            None
        } else {
            model.chat_template()?
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
            let text: String = messages
                .iter()
                .map(|message| message.content.as_str())
                .collect();
            let mut tokens = tokenizer.encode(
                text,
                EncodeOptions {
                    add_special: true,
                    parse_special: true,
                },
            );
            // The text is to go on: an end after it would say that it does not.
            if tokenizer.adds_eos() {
                tokens.pop();
            }
            return Ok(tokens);
        };
        let text_of = |id: Option<u32>| {
            let bytes = id
                .and_then(|id| tokenizer.token_bytes(id))
                .unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let special = tokenizer.special();
        let message = |message: &Message| {
            Value::from_pairs([
                ("role", Value::from(message.role)),
                ("content", Value::from(message.content.as_str())),
            ])
        };
        let rendered = template.render(&ChatInput {
            messages: messages.iter().map(message).collect(),
            tools: Value::default(),
            add_generation_prompt: true,
            bos_token: &text_of(special.bos),
            eos_token: &text_of(special.eos),
            extra: Vec::new(),
            now: SystemTime::now(),
        })?;
        let mut tokens = tokenizer.encode_segments(&rendered, false);
        // Many templates write BOS themselves; there must not be two.
        if let Some(bos) = special.bos.filter(|_| tokenizer.adds_bos())
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// Answers a request; `on_token` sees each token, and Ctrl-C ends the answer.
    pub(crate) fn answer(
        &mut self,
        request: &GenerateRequest,
        on_token: &mut dyn FnMut(&Token) -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        interrupt::reset();
        let mut failed = None;
        let done = self.engine.generate(request, &mut |event| {
            if let Event::Token(token) = &event {
                failed = on_token(token).err();
            }
            match failed.is_some() || interrupt::asked() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        failed.map_or(Ok(done), Err)
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
        .sampling
        .seed
        .map_or(String::new(), |seed| format!(", seed {seed}"));
    format!("prompt {prefill}, answer {decode}{seed}")
}

/// Tokens per second, where that is a number.
pub(crate) fn per_second(n_tokens: usize, seconds: f64) -> Option<f64> {
    (n_tokens > 0 && seconds > 0.0).then(|| n_tokens as f64 / seconds)
}
