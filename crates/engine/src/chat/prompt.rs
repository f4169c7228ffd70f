//! From a chat or a text to the tokens that a model goes on from.

use std::time::SystemTime;

use minijinja::Value;

use super::template::{ChatInput, ChatTemplate};
use crate::error::{EngineError, RequestError};
use crate::tokenizer::{EncodeOptions, Segment, Tokenizer};

/// A chat that is to be answered.
#[derive(Debug, Clone)]
pub struct Chat {
    /// A sequence of maps with `role`, `content` and so on.
    pub messages: Value,
    /// A sequence of tool definitions, or [`Value::default()`] if there are none.
    pub tools: Value,
    /// Whether the prompt ends with the start of an answer.
    pub add_generation_prompt: bool,
    /// What the answer begins with: the model goes on after it. Needs `add_generation_prompt`.
    pub answer_start: Option<String>,
    /// Further variables of the template, such as `enable_thinking`.
    pub extra: Vec<(String, Value)>,
    /// The moment that the template may tell, in UTC.
    pub now: SystemTime,
}

impl Chat {
    /// A chat whose next message is the model's.
    pub fn new(messages: Value) -> Chat {
        Chat {
            messages,
            tools: Value::default(),
            add_generation_prompt: true,
            answer_start: None,
            extra: Vec::new(),
            now: SystemTime::now(),
        }
    }

    /// The text of the prompt: what the template writes, and what messages contain.
    pub fn render(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Segment<String>>, EngineError> {
        let text_of = |id: Option<u32>| {
            let bytes = id
                .and_then(|id| tokenizer.token_bytes(id))
                .unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let special = tokenizer.special();
        let mut segments = template.render(&ChatInput {
            messages: self.messages.clone(),
            tools: self.tools.clone(),
            add_generation_prompt: self.add_generation_prompt,
            bos_token: &text_of(special.bos),
            eos_token: &text_of(special.eos),
            extra: self.extra.clone(),
            now: self.now,
        })?;
        if let Some(start) = &self.answer_start {
            let end: String = segments.iter().map(|s| s.text.as_str()).collect();
            // The start of an answer would stand among the model's thoughts.
            if end.trim_end().ends_with("<think>") {
                let text = "it begins an answer with thoughts, which no start can be given for";
                return Err(RequestError::ChatTemplate(text.into()).into());
            }
            segments.push(Segment {
                text: start.clone(),
                parse_special: false,
            });
        }
        Ok(segments)
    }

    /// The tokens of the prompt.
    pub fn encode(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, EngineError> {
        let rendered = self.render(template, tokenizer)?;
        let mut tokens = tokenizer.encode_segments(&rendered, false);
        // Many templates write BOS themselves; there must not be two.
        if let Some(bos) = tokenizer.special().bos.filter(|_| tokenizer.adds_bos())
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }
}

/// The tokens of a text that is to go on; special tokens in it are parsed.
pub fn encode_text(text: &str, tokenizer: &Tokenizer) -> Vec<u32> {
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    let mut tokens = tokenizer.encode(text, options);
    // An end after it would say that it does not go on.
    if tokenizer.adds_eos() {
        tokens.pop();
    }
    tokens
}
