//! One answer in the making: from logits to tokens and text.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use crate::chat::stop::StopMatcher;
use crate::error::RequestError;
use crate::model::Model;
use crate::request::{FinishReason, GenerateConfig, Token};
use crate::sampler::{Sampler, SamplingParams, Snapshot, logprobs};
use crate::tokenizer::{Detokenizer, EncodeOptions, Tokenizer};

/// The most sequence breakers of a request, and the bytes of one: each is compared with every token.
const MAX_BREAKERS: usize = 32;
const MAX_BREAKER_BYTES: usize = 40;

/// How often an answer may be led away from banned strings before it fails.
const MAX_REWINDS: usize = 1000;

/// A model's tokenizer that keeps its model.
#[derive(Debug, Clone)]
struct SharedTokenizer(Arc<Model>);

impl Deref for SharedTokenizer {
    type Target = Tokenizer;

    fn deref(&self) -> &Tokenizer {
        self.0.tokenizer()
    }
}

/// One answer in the making.
#[derive(Debug)]
pub(super) struct Choice {
    tokenizer: SharedTokenizer,
    sampler: Sampler,
    detokenizer: Detokenizer<SharedTokenizer>,
    stop: StopMatcher,
    banned: Option<Banned>,
    ignore_eos: bool,
    logprobs: Option<usize>,
    max_tokens: usize,
    n_tokens: usize,
}

/// What follows from a token that was chosen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is the next token of the sequence.
    Append(u32),
    /// The answer goes back to its first tokens, this many, and goes on from there.
    Rewind(usize),
    /// It was the last.
    End(FinishReason),
}

/// The strings that the answer must not have.
///
/// While the text may be the beginning of one, its tokens are held back, each with the state before
/// it. When one is complete, the answer goes back to before the token in which it begins, and that
/// token is forbidden there.
#[derive(Debug)]
struct Banned {
    matcher: StopMatcher,
    held: Vec<Held>,
    /// Bytes of the held tokens' text that are no beginning of a string any more.
    n_safe: usize,
    /// Tokens that are forbidden, by how many tokens the answer has before them.
    forbidden: BTreeMap<usize, Vec<u32>>,
    n_rewinds: usize,
}

/// A token that may begin a banned string.
#[derive(Debug)]
struct Held {
    token: Token,
    // The state before it.
    sampler: Snapshot,
    detokenizer: Detokenizer<SharedTokenizer>,
    matcher: StopMatcher,
    n_safe: usize,
}

impl Choice {
    /// An answer to a prompt. `max_tokens` is at least 1.
    pub(super) fn new(
        model: &Arc<Model>,
        prompt: &[u32],
        config: &GenerateConfig,
        max_tokens: usize,
    ) -> Result<Choice, RequestError> {
        let params = &config.sampling;
        let breakers = match params.dry_multiplier {
            0.0 => Vec::new(),
            _ => breaker_sequences(model.tokenizer(), params)?,
        };
        let mut sampler = Sampler::new(params, model.hparams().vocab_size, &breakers)?;
        prompt.iter().for_each(|&token| sampler.accept(token));
        let banned = &config.banned_strings;
        let matcher = StopMatcher::new("banned_strings", banned)?;
        let tokenizer = SharedTokenizer(model.clone());
        Ok(Choice {
            sampler,
            detokenizer: Detokenizer::continuing(tokenizer.clone(), true),
            tokenizer,
            stop: StopMatcher::new("stop", &config.stop)?,
            banned: (!banned.is_empty()).then(|| Banned {
                matcher,
                held: Vec::new(),
                n_safe: 0,
                forbidden: BTreeMap::new(),
                n_rewinds: 0,
            }),
            ignore_eos: config.ignore_eos,
            logprobs: config.logprobs,
            max_tokens,
            n_tokens: 0,
        })
    }

    /// Tokens that were chosen, the one that ended the answer included.
    pub(super) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Chooses a token by the logits after the answer so far. What can be shown is appended to
    /// `shown`.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        shown: &mut Vec<Token>,
    ) -> Result<Next, RequestError> {
        let forbidden = self
            .banned
            .as_ref()
            .and_then(|banned| banned.forbidden.get(&self.n_tokens));
        let id = if self.ignore_eos || forbidden.is_some() {
            let mut masked = logits.to_vec();
            if self.ignore_eos {
                let ends = self.tokenizer.eog_ids();
                ends.for_each(|id| masked[id as usize] = f32::NEG_INFINITY);
            }
            for &id in forbidden.into_iter().flatten() {
                masked[id as usize] = f32::NEG_INFINITY;
            }
            self.sample(&masked)?
        } else {
            self.sample(logits)?
        };
        let (id, before) = id;
        self.n_tokens += 1;
        if self.tokenizer.is_eog(id) {
            self.release(shown);
            return Ok(Next::End(FinishReason::Stop));
        }
        let token = Token {
            id,
            text: String::new(),
            logprobs: self.logprobs.map(|k| logprobs(logits, id, k)),
        };
        let is_stopped = match before {
            None => {
                let text = self.detokenizer.push(id);
                self.show(token, &text, shown)
            }
            Some(before) => match self.hold(token, before, shown)? {
                Ok(is_stopped) => is_stopped,
                Err(n_tokens) => return Ok(Next::Rewind(n_tokens)),
            },
        };
        if is_stopped {
            return Ok(Next::End(FinishReason::Stop));
        }
        if self.n_tokens == self.max_tokens {
            self.release(shown);
            return Ok(Next::End(FinishReason::Length));
        }
        Ok(Next::Append(id))
    }

    /// A token, and where it may be taken back the sampler's state before it.
    fn sample(&mut self, logits: &[f32]) -> Result<(u32, Option<Snapshot>), RequestError> {
        let before = self.banned.is_some().then(|| self.sampler.snapshot());
        let id = self
            .sampler
            .sample(logits)
            .ok_or(RequestError::NoCandidates)?;
        self.sampler.accept(id);
        Ok((id, before))
    }

    /// Shows a token with its text, but for what may begin a stop string; whether one is complete.
    fn show(&mut self, mut token: Token, text: &str, shown: &mut Vec<Token>) -> bool {
        let progress = self.stop.push(text);
        token.text = progress.text;
        shown.push(token);
        progress.matched.is_some()
    }

    /// Shows a token, or holds it back if a banned string may have begun; whether a stop string is
    /// complete. `Err`: how many tokens are left, after a banned string was complete.
    fn hold(
        &mut self,
        mut token: Token,
        sampler: Snapshot,
        shown: &mut Vec<Token>,
    ) -> Result<Result<bool, usize>, RequestError> {
        let detokenizer = self.detokenizer.clone();
        token.text = self.detokenizer.push(token.id);
        let banned = self.banned.as_mut().expect("only called with one");
        let (matcher, n_safe) = (banned.matcher.clone(), banned.n_safe);
        let progress = banned.matcher.push(&token.text);
        banned.held.push(Held {
            token,
            sampler,
            detokenizer,
            matcher,
            n_safe,
        });
        banned.n_safe += progress.text.len();
        if progress.matched.is_none() {
            return Ok(Ok(!banned.matcher.holds() && self.release(shown)));
        }
        banned.n_rewinds += 1;
        if banned.n_rewinds > MAX_REWINDS {
            return Err(RequestError::Banned {
                n_times: MAX_REWINDS,
            });
        }
        // The token whose text has the string's first byte.
        let mut end = 0;
        let first = banned.held.iter().position(|held| {
            end += held.token.text.len();
            end > banned.n_safe
        });
        let first = first.expect("the string ends in the last token");
        let n_tokens = self.n_tokens - (banned.held.len() - first);
        let held = banned.held.drain(first..).next().expect("found above");
        self.sampler.restore(&held.sampler);
        self.detokenizer = held.detokenizer;
        banned.forbidden.split_off(&(n_tokens + 1));
        let forbidden = banned.forbidden.entry(n_tokens).or_default();
        forbidden.push(held.token.id);
        (banned.matcher, banned.n_safe) = (held.matcher, held.n_safe);
        if !banned.matcher.holds() {
            // The text before the string; a stop string in it would have ended the answer.
            self.release(shown);
        }
        self.n_tokens = n_tokens;
        Ok(Err(n_tokens))
    }

    /// Shows the tokens that were held back for banned strings; whether a stop string is complete.
    fn release(&mut self, shown: &mut Vec<Token>) -> bool {
        let Some(banned) = &mut self.banned else {
            return false;
        };
        banned.n_safe = 0;
        let held = std::mem::take(&mut banned.held);
        for Held { token, .. } in held {
            let text = token.text.clone();
            if self.show(token, &text, shown) {
                return true;
            }
        }
        false
    }

    /// The end of the text, after the last token.
    pub(super) fn finish(mut self, shown: &mut Vec<Token>) -> String {
        self.release(shown);
        let text = self.stop.push(&self.detokenizer.finish()).text;
        text + &self.stop.finish()
    }
}

/// The token sequences whose text contains one of the breakers: the tokens that contain it whole,
/// and those that end in its beginning, followed by the tokens of the rest.
fn breaker_sequences(
    tokenizer: &Tokenizer,
    params: &SamplingParams,
) -> Result<Vec<Vec<u32>>, RequestError> {
    let error = |found: String, wanted: String| {
        Err(RequestError::Parameter {
            field: "dry_sequence_breakers",
            found,
            wanted,
        })
    };
    let breakers = &params.dry_sequence_breakers;
    if breakers.len() > MAX_BREAKERS {
        return error(
            format!("{} strings", breakers.len()),
            format!("at most {MAX_BREAKERS}"),
        );
    }
    let texts = |id: u32| tokenizer.token_bytes(id).unwrap_or_default();
    let ids = 0..tokenizer.n_tokens() as u32;
    let mut sequences = Vec::new();
    for breaker in breakers.iter().map(|breaker| breaker.as_bytes()) {
        let n_bytes = breaker.len();
        if n_bytes == 0 || n_bytes > MAX_BREAKER_BYTES {
            let wanted = format!("1 to {MAX_BREAKER_BYTES} bytes");
            return error(format!("a string of {n_bytes} bytes"), wanted);
        }
        let has_it = |id: &u32| texts(*id).windows(n_bytes).any(|window| window == breaker);
        sequences.extend(ids.clone().filter(has_it).map(|id| vec![id]));
        for at in 1..n_bytes {
            let (beginning, rest) = breaker.split_at(at);
            let options = EncodeOptions {
                add_special: false,
                parse_special: false,
            };
            let rest = tokenizer.encode(rest, options);
            let begins = ids
                .clone()
                .filter(|&id| texts(id).ends_with(beginning) && !has_it(&id));
            sequences.extend(begins.map(|id| std::iter::once(id).chain(rest.clone()).collect()));
        }
    }
    Ok(sequences)
}
