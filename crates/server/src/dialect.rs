//! How events look in chats and in completions.

use std::collections::HashSet;
use std::sync::Arc;

use minerva_engine::sampler::TokenLogprobs;
use minerva_engine::tokenizer::Tokenizer;
use minerva_engine::{Event, Model, Token};
use serde::Serialize;

use crate::convert::Echo;
use crate::openai::{
    AssistantMessage, ChatChoice, ChatChunkChoice, ChatLogprobs, CompletionChoice,
    CompletionLogprobs, Delta, TokenLogprob, TopLogprob, TopTokens,
};

/// What stands for minus infinity, which JSON does not have; OpenAI's number for it.
const NO_LOGPROB: f32 = -9999.0;

/// Part of an answer, or the whole of one.
#[derive(Debug, Clone)]
pub(crate) struct Piece<L> {
    /// Which answer.
    pub(crate) index: usize,
    /// Its text.
    pub(crate) text: String,
    /// Log-probabilities of its tokens, where they are wanted.
    pub(crate) logprobs: Option<L>,
    /// Why it ended, where it did.
    pub(crate) finish_reason: Option<&'static str>,
}

/// How events look in one kind of answer.
pub(crate) trait Dialect: Send + 'static {
    /// What ids begin with.
    const ID: &'static str;
    /// `object` of an answer.
    const OBJECT: &'static str;
    /// `object` of a chunk.
    const CHUNK_OBJECT: &'static str;
    /// Log-probabilities of several tokens.
    type Logprobs: Send;
    /// An answer.
    type Choice: Serialize;
    /// A part of one.
    type ChunkChoice: Serialize;

    /// How many answers there are.
    fn n_answers(&self) -> usize;

    /// What an event adds to answers.
    fn pieces(&mut self, prompt_idx: usize, event: Event) -> Vec<Piece<Self::Logprobs>>;

    /// Appends the tokens that come next.
    fn append(logprobs: &mut Self::Logprobs, more: Self::Logprobs);

    /// An answer that is complete.
    fn whole(piece: Piece<Self::Logprobs>) -> Self::Choice;

    /// What begins an answer, before all its parts.
    fn opening(index: usize) -> Option<Self::ChunkChoice>;

    /// A part of an answer.
    fn part(piece: Piece<Self::Logprobs>) -> Self::ChunkChoice;
}

/// The answers to a chat.
pub(crate) struct ChatDialect {
    model: Arc<Model>,
    n_choices: usize,
}

impl ChatDialect {
    pub(crate) fn new(model: Arc<Model>, n_choices: usize) -> Self {
        Self { model, n_choices }
    }

    fn logprobs(&self, token: &Token, logprobs: &TokenLogprobs) -> ChatLogprobs {
        let tokenizer = self.model.tokenizer();
        let entry = |(id, logprob): (u32, f32)| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            TopLogprob {
                token: String::from_utf8_lossy(bytes).into_owned(),
                logprob: finite(logprob),
                bytes: bytes.to_vec(),
            }
        };
        let content = TokenLogprob {
            token: entry((token.id, logprobs.logprob)),
            top_logprobs: logprobs.top.iter().copied().map(entry).collect(),
        };
        ChatLogprobs {
            content: vec![content],
            refusal: None,
        }
    }
}

impl Dialect for ChatDialect {
    const ID: &'static str = "chatcmpl-";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK_OBJECT: &'static str = "chat.completion.chunk";
    type Logprobs = ChatLogprobs;
    type Choice = ChatChoice;
    type ChunkChoice = ChatChunkChoice;

    fn n_answers(&self) -> usize {
        self.n_choices
    }

    fn pieces(&mut self, _: usize, event: Event) -> Vec<Piece<ChatLogprobs>> {
        match event {
            Event::Prefill { .. } | Event::Prompt(_) => Vec::new(),
            Event::Token { choice, token } => {
                let logprobs = token.logprobs.as_ref();
                vec![Piece {
                    index: choice,
                    logprobs: logprobs.map(|logprobs| self.logprobs(&token, logprobs)),
                    text: token.text,
                    finish_reason: None,
                }]
            }
            Event::Done { choice, done } => vec![Piece {
                index: choice,
                text: done.text,
                logprobs: None,
                finish_reason: Some(done.finish_reason.name()),
            }],
        }
    }

    fn append(logprobs: &mut ChatLogprobs, more: ChatLogprobs) {
        logprobs.content.extend(more.content);
    }

    fn whole(piece: Piece<ChatLogprobs>) -> ChatChoice {
        ChatChoice {
            index: piece.index,
            message: AssistantMessage {
                role: "assistant",
                content: piece.text,
                refusal: None,
            },
            logprobs: piece.logprobs,
            finish_reason: piece
                .finish_reason
                .expect("a generation without an error ends with the end of every answer"),
        }
    }

    fn opening(index: usize) -> Option<ChatChunkChoice> {
        Some(ChatChunkChoice {
            index,
            delta: Delta {
                role: Some("assistant"),
                content: Some(String::new()),
            },
            logprobs: None,
            finish_reason: None,
        })
    }

    fn part(piece: Piece<ChatLogprobs>) -> ChatChunkChoice {
        let is_end = piece.finish_reason.is_some() && piece.text.is_empty();
        ChatChunkChoice {
            index: piece.index,
            delta: Delta {
                role: None,
                content: (!is_end).then_some(piece.text),
            },
            logprobs: piece.logprobs,
            finish_reason: piece.finish_reason,
        }
    }
}

/// The answers to one or more texts.
pub(crate) struct CompletionDialect {
    model: Arc<Model>,
    n_choices: usize,
    n_prompts: usize,
    /// Of each prompt, if answers are to begin with it.
    echoes: Vec<Echo>,
    /// Log-probabilities of each prompt's tokens but the first, as far as they have come.
    scores: Vec<Vec<TokenLogprobs>>,
    has_logprobs: bool,
    /// Of each answer: where its next token begins, in characters; `None` before its first.
    offsets: Vec<Option<usize>>,
}

impl CompletionDialect {
    pub(crate) fn new(
        model: Arc<Model>,
        n_choices: usize,
        n_prompts: usize,
        echoes: Vec<Echo>,
        has_logprobs: bool,
    ) -> Self {
        Self {
            model,
            n_choices,
            n_prompts,
            echoes,
            scores: vec![Vec::new(); n_prompts],
            has_logprobs,
            offsets: vec![None; n_prompts * n_choices],
        }
    }

    /// The prompt, if the answer is to begin with it and has not yet.
    fn opening(&mut self, prompt_idx: usize, index: usize) -> Option<Piece<CompletionLogprobs>> {
        if self.offsets[index].is_some() {
            return None;
        }
        let echo = self.echoes.get(prompt_idx);
        let n_chars = echo.map_or(0, |echo| echo.text.chars().count());
        self.offsets[index] = Some(n_chars);
        let echo = echo?;
        let logprobs = self.has_logprobs.then(|| {
            let tokenizer = self.model.tokenizer();
            prompt_logprobs(tokenizer, echo, &self.scores[prompt_idx])
        });
        Some(Piece {
            index,
            text: echo.text.clone(),
            logprobs,
            finish_reason: None,
        })
    }

    fn logprobs(&mut self, index: usize, token: &Token) -> Option<CompletionLogprobs> {
        let logprobs = token.logprobs.as_ref()?;
        let tokenizer = self.model.tokenizer();
        let offset = self.offsets[index].get_or_insert(0);
        let mut lists = CompletionLogprobs::default();
        push(&mut lists, tokenizer, token.id, *offset, Some(logprobs));
        // Control tokens are not in the text.
        if !tokenizer.is_control(token.id) {
            *offset += n_chars(tokenizer, token.id);
        }
        Some(lists)
    }
}

impl Dialect for CompletionDialect {
    const ID: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";
    type Logprobs = CompletionLogprobs;
    type Choice = CompletionChoice;
    type ChunkChoice = CompletionChoice;

    fn n_answers(&self) -> usize {
        self.n_prompts * self.n_choices
    }

    fn pieces(&mut self, prompt_idx: usize, event: Event) -> Vec<Piece<CompletionLogprobs>> {
        let first = prompt_idx * self.n_choices;
        let mut pieces = Vec::new();
        match event {
            Event::Prefill { .. } => {}
            Event::Prompt(scores) => self.scores[prompt_idx].extend(scores),
            Event::Token { choice, token } => {
                let index = first + choice;
                pieces.extend(self.opening(prompt_idx, index));
                pieces.push(Piece {
                    index,
                    logprobs: self.logprobs(index, &token),
                    text: token.text,
                    finish_reason: None,
                });
            }
            Event::Done { choice, done } => {
                let index = first + choice;
                pieces.extend(self.opening(prompt_idx, index));
                pieces.push(Piece {
                    index,
                    text: done.text,
                    logprobs: None,
                    finish_reason: Some(done.finish_reason.name()),
                });
            }
        }
        pieces
    }

    fn append(logprobs: &mut CompletionLogprobs, more: CompletionLogprobs) {
        logprobs.tokens.extend(more.tokens);
        logprobs.token_logprobs.extend(more.token_logprobs);
        logprobs.top_logprobs.extend(more.top_logprobs);
        logprobs.text_offset.extend(more.text_offset);
    }

    fn whole(piece: Piece<CompletionLogprobs>) -> CompletionChoice {
        Self::part(piece)
    }

    fn opening(_: usize) -> Option<CompletionChoice> {
        None
    }

    fn part(piece: Piece<CompletionLogprobs>) -> CompletionChoice {
        CompletionChoice {
            index: piece.index,
            text: piece.text,
            logprobs: piece.logprobs,
            finish_reason: piece.finish_reason,
        }
    }
}

/// The tokens of a prompt; there is no log-probability of the first.
fn prompt_logprobs(
    tokenizer: &Tokenizer,
    echo: &Echo,
    scores: &[TokenLogprobs],
) -> CompletionLogprobs {
    let text_tokens = &echo.tokens[usize::from(echo.has_bos).min(echo.tokens.len())..];
    let n_all: usize = text_tokens.iter().map(|id| n_chars(tokenizer, *id)).sum();
    // Some vocabularies put a space before a text that is not part of it.
    let n_added = n_all.saturating_sub(echo.text.chars().count());
    let mut lists = CompletionLogprobs::default();
    let mut end = 0;
    for (i, &id) in echo.tokens.iter().enumerate() {
        let logprobs = i.checked_sub(1).and_then(|i| scores.get(i));
        let offset = usize::saturating_sub(end, n_added);
        push(&mut lists, tokenizer, id, offset, logprobs);
        if i > 0 || !echo.has_bos {
            end += n_chars(tokenizer, id);
        }
    }
    lists
}

fn push(
    lists: &mut CompletionLogprobs,
    tokenizer: &Tokenizer,
    id: u32,
    offset: usize,
    logprobs: Option<&TokenLogprobs>,
) {
    lists.tokens.push(token_text(tokenizer, id));
    lists.text_offset.push(offset);
    let logprob = logprobs.map(|logprobs| finite(logprobs.logprob));
    lists.token_logprobs.push(logprob);
    let top = logprobs.map(|logprobs| {
        let own = (id, logprobs.logprob);
        let mut names = HashSet::new();
        let all = logprobs.top.iter().copied().chain([own]);
        let named = all.map(|(id, logprob)| (token_text(tokenizer, id), finite(logprob)));
        // Of tokens with the same text, the likeliest.
        let top = named.filter(|(name, _)| names.insert(name.clone()));
        TopTokens(top.collect())
    });
    lists.top_logprobs.push(top);
}

/// The text of a token; of part of a character, its bytes as OpenAI writes them.
fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| {
            text + &format!("\\x{byte:02x}")
        }),
    }
}

/// The characters that begin in a token.
fn n_chars(tokenizer: &Tokenizer, id: u32) -> usize {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    // All bytes of UTF-8 but those that go on with a character.
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

fn finite(logprob: f32) -> f32 {
    logprob.max(NO_LOGPROB)
}
