//! Special tokens: which tokens have a role, which end a generation, and where they are in a text.
//!
//! Many files name fewer special tokens than they have, or give them the type of ordinary text. So
//! roles are also found by the texts that the families of models use, and a token found so is a
//! control token, whatever the file says: a message cannot forge it.

use std::{collections::BTreeSet, ops::Range};

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::vocab::{SpecialIds, TokenType};
use crate::LoadError;

const EOT_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const EOM_TEXTS: &[&str] = &["<|eom_id|>"];
const FIM_PRE_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUF_TEXTS: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MID_TEXTS: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD_TEXTS: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP_TEXTS: &[&str] = &[
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
];
const FIM_SEP_TEXTS: &[&str] = &["<|file_sep|>"];

/// Tokens that end a generation wherever they are in a vocabulary.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fills in the roles that the file leaves open, corrects the types, and returns the tokens that
/// end a generation. `find` gives the token with a text.
pub(super) fn derive_roles(
    special: &mut SpecialIds,
    token_types: &mut [TokenType],
    find: impl Fn(&str) -> Option<u32>,
) -> BTreeSet<u32> {
    let mut end_ids = BTreeSet::new();
    let mut make_control = |id: u32| token_types[id as usize] = TokenType::Control;
    for (role, texts, ends) in [
        (&mut special.eot, EOT_TEXTS, true),
        (&mut special.eom, EOM_TEXTS, true),
        (&mut special.fim_pre, FIM_PRE_TEXTS, false),
        (&mut special.fim_suf, FIM_SUF_TEXTS, false),
        (&mut special.fim_mid, FIM_MID_TEXTS, false),
        (&mut special.fim_pad, FIM_PAD_TEXTS, true),
        (&mut special.fim_rep, FIM_REP_TEXTS, true),
        (&mut special.fim_sep, FIM_SEP_TEXTS, true),
    ] {
        if role.is_none() {
            *role = texts.iter().find_map(|text| find(text));
            role.iter().for_each(|&id| make_control(id));
        }
        if ends {
            end_ids.extend(*role);
        }
    }
    end_ids.extend(special.eos);

    let has = |text: &str| find(text).is_some();
    // Here `</s>` is ordinary text, unless it is the end of sequence.
    let end_of_s_is_text = has("<|tool_response>") || has("<|plamo:eos|>");
    for text in END_TEXTS {
        let Some(id) = find(text) else { continue };
        if *text == "</s>" && end_of_s_is_text && special.eos != Some(id) {
            continue;
        }
        make_control(id);
        end_ids.insert(id);
    }
    // In the Harmony format and its like, `<|end|>` ends one of several messages of an answer.
    let has_calls = (has("<|return|>") && has("<|call|>"))
        || (has("<|flush|>") && (has("<|call|>") || has("<|calls|>")));
    if has_calls && let Some(id) = find("<|end|>").filter(|&id| special.eos != Some(id)) {
        end_ids.remove(&id);
        special.eot = special.eot.filter(|&eot| eot != id);
    }
    end_ids
}

/// Finds special tokens in a text, in one pass however many there are.
///
/// Of the tokens that begin at the leftmost place the longest is taken.
#[derive(Debug)]
pub(super) struct SpecialFinder {
    /// Found wherever they are.
    user_defined: Matcher,
    /// Found only where the caller allows it: control tokens and the unknown token.
    control: Matcher,
}

#[derive(Debug)]
struct Matcher {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

/// A special token and the bytes that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: u32,
    pub(super) range: Range<usize>,
}

impl SpecialFinder {
    pub(super) fn new(
        tokens: &[Vec<u8>],
        token_types: &[TokenType],
    ) -> Result<SpecialFinder, LoadError> {
        let matcher = |wanted: &[TokenType]| -> Result<Matcher, LoadError> {
            let ids: Vec<u32> = (0..tokens.len())
                .filter(|&idx| wanted.contains(&token_types[idx]) && !tokens[idx].is_empty())
                .map(|idx| idx as u32)
                .collect();
            let automaton = match ids.is_empty() {
                true => None,
                false => Some(
                    AhoCorasick::builder()
                        .match_kind(MatchKind::LeftmostLongest)
                        .build(ids.iter().map(|&id| &tokens[id as usize]))
                        .map_err(|error| {
                            LoadError::Tokenizer(format!("{} special tokens: {error}", ids.len()))
                        })?,
                ),
            };
            Ok(Matcher { automaton, ids })
        };
        Ok(SpecialFinder {
            user_defined: matcher(&[TokenType::UserDefined])?,
            control: matcher(&[TokenType::Control, TokenType::Unknown])?,
        })
    }

    /// Calls `found` with the special tokens in `text` from left to right. Control tokens count only
    /// where they lie within one of `parsed`, which are ranges in order, with gaps between them.
    pub(super) fn find(&self, text: &[u8], parsed: &[Range<usize>], mut found: impl FnMut(Found)) {
        let mut parsed = parsed.iter().cloned().peekable();
        let mut pos = 0;
        // The next match of each kind; searched anew when another match has run over its start.
        let mut user_defined = self.user_defined.next(text, 0..text.len());
        let mut control = None;
        loop {
            if user_defined
                .as_ref()
                .is_some_and(|next| next.range.start < pos)
            {
                user_defined = self.user_defined.next(text, pos..text.len());
            }
            if control
                .as_ref()
                .is_none_or(|next: &Found| next.range.start < pos)
            {
                control = None;
                while let Some(range) = parsed.peek() {
                    control = self.control.next(text, range.start.max(pos)..range.end);
                    if control.is_some() {
                        break;
                    }
                    parsed.next();
                }
            }
            let order = |next: &Found| (next.range.start, std::cmp::Reverse(next.range.end));
            let Some(next) = user_defined
                .iter()
                .chain(&control)
                .min_by_key(|next| order(next))
            else {
                return;
            };
            pos = next.range.end;
            found(next.clone());
        }
    }
}

impl Matcher {
    fn next(&self, text: &[u8], range: Range<usize>) -> Option<Found> {
        if range.is_empty() {
            return None;
        }
        let found = self
            .automaton
            .as_ref()?
            .find(Input::new(text).range(range))?;
        Some(Found {
            id: self.ids[found.pattern().as_usize()],
            range: found.range(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn finder(tokens: &[(&str, TokenType)]) -> SpecialFinder {
        let texts: Vec<_> = tokens
            .iter()
            .map(|(text, _)| text.as_bytes().to_vec())
            .collect();
        let types: Vec<_> = tokens.iter().map(|&(_, kind)| kind).collect();
        SpecialFinder::new(&texts, &types).unwrap()
    }

    fn find(finder: &SpecialFinder, text: &str, parsed: &[Range<usize>]) -> Vec<(u32, usize)> {
        let mut all = Vec::new();
        finder.find(text.as_bytes(), parsed, |found| {
            all.push((found.id, found.range.start))
        });
        all
    }

    #[test]
    fn control_tokens_count_only_in_parsed_ranges() {
        let finder = finder(&[
            ("<a>", TokenType::Control),
            ("<b>", TokenType::UserDefined),
            ("<a><b>", TokenType::Control),
        ]);
        let text = "x<a><b>y<a>";
        assert_eq!(find(&finder, text, from_ref(&(0..11))), [(2, 1), (0, 8)]);
        assert_eq!(find(&finder, text, &[]), [(1, 4)]);
        assert_eq!(find(&finder, text, &[0..2, 3..11]), [(1, 4), (0, 8)]);
    }

    #[test]
    fn a_match_that_is_run_over_is_searched_again() {
        let finder = finder(&[
            ("aab", TokenType::Control),
            ("bcc", TokenType::UserDefined),
            ("cc", TokenType::UserDefined),
        ]);
        assert_eq!(
            find(&finder, "aabccbcc", from_ref(&(0..8))),
            [(0, 0), (2, 3), (1, 5)]
        );
    }

    #[test]
    fn overlapping_candidates_over_a_long_text_take_linear_time() {
        let mut tokens = vec![("ab".to_string(), TokenType::Control)];
        for len in 1..2000 {
            tokens.push(("b".repeat(len) + "c", TokenType::UserDefined));
        }
        let tokens: Vec<_> = tokens
            .iter()
            .map(|(text, kind)| (text.as_str(), *kind))
            .collect();
        let text = "ab".repeat(100_000);
        assert_eq!(
            find(&finder(&tokens), &text, from_ref(&(0..text.len()))).len(),
            100_000
        );
    }

    #[test]
    fn the_end_of_a_message_does_not_end_a_harmony_answer() {
        let texts = ["<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"];
        let mut types = [TokenType::Normal; 4];
        let mut special = SpecialIds {
            eos: Some(1),
            ..SpecialIds::default()
        };
        let ends = derive_roles(&mut special, &mut types, |text| {
            texts
                .iter()
                .position(|known| *known == text)
                .map(|idx| idx as u32)
        });
        assert_eq!(ends.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(types, [TokenType::Control; 4]);
    }
}
