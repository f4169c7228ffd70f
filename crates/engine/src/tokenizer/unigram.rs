//! Encoding with a unigram vocabulary: the pieces whose scores add up to the most.
//!
//! The best way to a place in the text is the best over the pieces that end there, of the best way
//! to where the piece begins plus the piece's score (A. Viterbi, 1967; T. Kudo, "Subword
//! Regularization", 2018). A character that is no piece by itself can be passed as unknown, at a
//! price that no other way pays. The time is that of the text times the longest piece. Sums are of
//! f32, and of equal ones the first counts, so that they are decided as SentencePiece decides them.
//!
//! A user-defined token that a text has as it is was cut out before; one that normalization brings
//! forth (a full-width comma where the comma is one) is a piece that wins over all others.

use std::collections::HashMap;

use super::{
    tables::Tables,
    vocab::{TokenType, Vocab},
};
use crate::LoadError;

/// How much less than the least piece an unknown character scores, as SentencePiece has it.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Beyond this, sums begin at 0 again, as in SentencePiece: in those of long texts the score of a
/// piece would be lost.
const MAX_SUM: f32 = 100_000.0;

#[derive(Debug)]
pub(super) struct Unigram {
    /// The pieces as a trie: which node a character leads to. The root is 0.
    nodes: HashMap<(u32, char), u32, foldhash::fast::RandomState>,
    /// The token and the score of the piece that each node ends.
    pieces: Vec<Option<(u32, f32)>>,
    unknown_score: f32,
}

/// The best way to a place in the text: its score, and the last step.
#[derive(Debug, Clone, Copy)]
struct Best {
    score: f32,
    start: u32,
    /// `None`: an unknown character.
    token: Option<u32>,
}

impl Unigram {
    /// The pieces of a vocabulary that is checked; of equal ones the first counts.
    pub(super) fn new(vocab: &Vocab) -> Result<Unigram, LoadError> {
        let error = |text: String| Err(LoadError::Tokenizer(text));
        if vocab.scores.is_empty() {
            return error("a unigram vocabulary without scores".to_string());
        }
        if let Some(id) = vocab.scores.iter().position(|score| !score.is_finite()) {
            let score = vocab.scores[id];
            return error(format!(
                "the score of token {id}: {score}, expected a finite one"
            ));
        }
        let n_bytes: usize = vocab.tokens.iter().map(Vec::len).sum();
        if n_bytes >= u32::MAX as usize {
            return error(format!(
                "{n_bytes} bytes of pieces, expected fewer than 2^32 - 1"
            ));
        }
        let mut nodes = HashMap::default();
        let mut pieces = vec![None];
        let mut least = f32::INFINITY;
        for (id, text) in (0..).zip(&vocab.tokens) {
            let (score, token_type) = (vocab.scores[id as usize], vocab.token_types[id as usize]);
            let Ok(text) = std::str::from_utf8(text) else {
                continue;
            };
            let score = match token_type {
                TokenType::Normal => score,
                // Scores are logarithms of probabilities: below 0.
                TokenType::UserDefined => (0.1 * (text.len() as f64 - 1.0)) as f32,
                _ => continue,
            };
            if text.is_empty() {
                continue;
            }
            if token_type == TokenType::Normal {
                least = least.min(score);
            }
            let mut node = 0;
            for char in text.chars() {
                node = *nodes.entry((node, char)).or_insert_with(|| {
                    pieces.push(None);
                    (pieces.len() - 1) as u32
                });
            }
            pieces[node as usize].get_or_insert((id, score));
        }
        Ok(Unigram {
            nodes,
            unknown_score: least.min(f32::MAX) - UNKNOWN_PENALTY,
            pieces,
        })
    }

    /// Appends the tokens of a normalized text. What is unknown becomes byte tokens or, a whole run of
    /// it, the unknown token.
    pub(super) fn encode(&self, text: &str, tables: &Tables, output: &mut Vec<u32>) {
        // Keeps places within a text in 32 bits.
        const MAX_TEXT_BYTES: usize = 1 << 30;
        let mut rest = text;
        while !rest.is_empty() {
            let mut end = rest.len().min(MAX_TEXT_BYTES);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (part, tail) = rest.split_at(end);
            self.encode_part(part, tables, output);
            rest = tail;
        }
    }

    fn encode_part(&self, text: &str, tables: &Tables, output: &mut Vec<u32>) {
        let unreached = Best {
            score: f32::NEG_INFINITY,
            start: u32::MAX,
            token: None,
        };
        // Only places between characters are reached.
        let mut best = vec![unreached; text.len() + 1];
        best[0].score = 0.0;
        // The last place that a way leads to.
        let mut frontier = 0;
        for (start, first) in text.char_indices() {
            let mut base = best[start].score;
            if base.abs() > MAX_SUM {
                best[start..=frontier]
                    .iter_mut()
                    .for_each(|best| best.score -= base);
                base = 0.0;
            }
            let mut offer = |end: usize, score: f32, token| {
                frontier = frontier.max(end);
                let leader = &mut best[end];
                if leader.start == u32::MAX || base + score > leader.score {
                    *leader = Best {
                        score: base + score,
                        start: start as u32,
                        token,
                    };
                }
            };
            let first_end = start + first.len_utf8();
            let mut is_piece = false;
            let mut node = 0;
            let mut end = start;
            for char in text[start..].chars() {
                let Some(&next) = self.nodes.get(&(node, char)) else {
                    break;
                };
                node = next;
                end += char.len_utf8();
                if let Some((token, score)) = self.pieces[node as usize] {
                    offer(end, score, Some(token));
                    is_piece |= end == first_end;
                }
            }
            if !is_piece {
                offer(first_end, self.unknown_score, None);
            }
        }

        let mut steps = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { start, token, .. } = best[end];
            steps.push((start as usize, token));
            end = start as usize;
        }
        let mut unknown_from = None;
        for (start, token) in steps.into_iter().rev() {
            match token {
                None => {
                    unknown_from.get_or_insert(start);
                }
                Some(token) => {
                    if let Some(from) = unknown_from.take() {
                        tables.append_byte_tokens(&text.as_bytes()[from..start], output);
                    }
                    output.push(token);
                }
            }
        }
        if let Some(from) = unknown_from {
            tables.append_byte_tokens(&text.as_bytes()[from..], output);
        }
    }
}
