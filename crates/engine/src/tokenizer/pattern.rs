//! A small matcher for the regular expressions of pre-tokenizers.
//!
//! Pre-tokenizer patterns cut a text into words. They use lookahead (`\s+(?!\S)`), which the linear
//! engines do not offer, and they run over untrusted text, which rules out a general backtracking
//! one. They are simple, though: sequences of repeated character sets. So a pattern is parsed by
//! `regex-syntax`, each distinct set becomes one bit, one table gives every character the bits of
//! the sets it is in, and matching is a walk over those bits. A repeated set gives characters back
//! one at a time if the rest does not match; groups, once matched, do not. In the patterns of
//! [`super::pretokenize`] what is given back is looked at a bounded number of times, so the time is
//! linear in the text.
//!
//! Each byte that is not part of well-formed UTF-8 is matched as one U+FFFD.

use std::collections::HashMap;

use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind, Look};

/// One bit per character set in the low 30 bits, the length in bytes less one in the high two.
type CharInfo = u32;

/// As many sets as fit beside the length.
const MAX_SETS: usize = 30;
const PAGE_LEN: usize = 256;
const N_PAGES: usize = 0x11_0000 / PAGE_LEN;

/// Several patterns: the pieces that the first leaves are cut again by the second, and so on.
#[derive(Debug)]
pub(super) struct Splitter {
    stages: Vec<Stage>,
    /// For each block of 256 code points, where its entries begin in `entries`.
    pages: Vec<u32>,
    entries: Vec<CharInfo>,
}

#[derive(Debug)]
struct Stage {
    alternatives: Vec<Vec<Node>>,
    /// If the only alternative begins with an unbounded run: its set. Where that fails at the start
    /// of a run it fails everywhere in it, so the search goes on after the run. Without this,
    /// `\s+$` would be quadratic.
    leading_run: Option<u32>,
}

#[derive(Debug)]
enum Node {
    /// Between `min` and `max` characters of the set, as many as possible.
    Set { bit: u32, min: usize, max: usize },
    /// The first of the alternatives that matches.
    Group {
        alternatives: Vec<Vec<Node>>,
        is_optional: bool,
    },
    /// `(?!\S)`: the end of the text, or a character of the set (white space).
    BeforeSpaceOrEnd { space_bit: u32 },
    /// `$`: the end of the text.
    End,
}

impl Splitter {
    /// Compiles the patterns; an error says which construct is beyond this matcher.
    pub(super) fn new(patterns: &[&str]) -> Result<Splitter, String> {
        let mut sets = Sets::default();
        let mut stages = Vec::new();
        for pattern in patterns {
            // A construct of regex-syntax that no pattern uses stands in for the lookahead.
            let text = pattern.replace(r"(?!\S)", r"\b{end-half}");
            let hir = regex_syntax::Parser::new()
                .parse(&text)
                .map_err(|error| format!("pattern {pattern}: {error}"))?;
            let alternatives = alternatives(&hir, &mut sets)?;
            let leading_run = match alternatives.as_slice() {
                [nodes] => match nodes.first() {
                    Some(&Node::Set {
                        bit,
                        max: usize::MAX,
                        ..
                    }) => Some(bit),
                    _ => None,
                },
                _ => None,
            };
            stages.push(Stage {
                alternatives,
                leading_run,
            });
        }
        let (pages, entries) = sets.into_table()?;
        Ok(Splitter {
            stages,
            pages,
            entries,
        })
    }

    /// Calls `piece` with each piece of `text` in order; together they are the whole text.
    pub(super) fn split<'t>(&self, text: &'t [u8], mut piece: impl FnMut(&'t [u8])) {
        let chars = self.char_infos(text);
        let mut offset = 0;
        self.split_stage(0, &chars, &mut |chars: &[CharInfo]| {
            let len_bytes: usize = chars.iter().map(|&info| len_bytes(info)).sum();
            piece(&text[offset..offset + len_bytes]);
            offset += len_bytes;
        });
    }

    fn split_stage(&self, stage_idx: usize, chars: &[CharInfo], out: &mut dyn FnMut(&[CharInfo])) {
        let Some(stage) = self.stages.get(stage_idx) else {
            if !chars.is_empty() {
                out(chars);
            }
            return;
        };
        // What lies between two matches is a piece too.
        let mut unmatched_from = 0;
        let mut pos = 0;
        while pos < chars.len() {
            let end = stage
                .alternatives
                .iter()
                .find_map(|nodes| match_sequence(nodes, chars, pos));
            match end {
                Some(end) if end > pos => {
                    self.split_stage(stage_idx + 1, &chars[unmatched_from..pos], out);
                    self.split_stage(stage_idx + 1, &chars[pos..end], out);
                    pos = end;
                    unmatched_from = end;
                }
                _ => {
                    let run = stage
                        .leading_run
                        .map_or(0, |bit| run_len(bit, &chars[pos..]));
                    pos += run.max(1);
                }
            }
        }
        self.split_stage(stage_idx + 1, &chars[unmatched_from..], out);
    }

    fn char_infos(&self, text: &[u8]) -> Vec<CharInfo> {
        let mut infos = Vec::with_capacity(text.len());
        for chunk in text.utf8_chunks() {
            for char in chunk.valid().chars() {
                infos.push(self.sets_of(char) | (char.len_utf8() as u32 - 1) << MAX_SETS);
            }
            let replacement = self.sets_of(char::REPLACEMENT_CHARACTER);
            infos.extend(chunk.invalid().iter().map(|_| replacement));
        }
        infos
    }

    fn sets_of(&self, char: char) -> CharInfo {
        let code_point = char as usize;
        self.entries[self.pages[code_point / PAGE_LEN] as usize + code_point % PAGE_LEN]
    }
}

fn len_bytes(info: CharInfo) -> usize {
    (info >> MAX_SETS) as usize + 1
}

fn run_len(bit: u32, chars: &[CharInfo]) -> usize {
    chars
        .iter()
        .position(|info| info & bit == 0)
        .unwrap_or(chars.len())
}

/// Where a match of `nodes` that begins at `pos` ends.
fn match_sequence(nodes: &[Node], chars: &[CharInfo], pos: usize) -> Option<usize> {
    let Some((node, rest)) = nodes.split_first() else {
        return Some(pos);
    };
    match node {
        &Node::Set { bit, min, max } => {
            let limit = max.min(chars.len() - pos);
            let longest = run_len(bit, &chars[pos..pos + limit]);
            if rest.is_empty() {
                return (longest >= min).then_some(pos + longest);
            }
            (min..=longest)
                .rev()
                .find_map(|len| match_sequence(rest, chars, pos + len))
        }
        Node::Group {
            alternatives,
            is_optional,
        } => {
            let end = alternatives
                .iter()
                .find_map(|nodes| match_sequence(nodes, chars, pos));
            let end = if *is_optional { end.or(Some(pos)) } else { end };
            match_sequence(rest, chars, end?)
        }
        &Node::BeforeSpaceOrEnd { space_bit } => {
            let matches = chars.get(pos).is_none_or(|info| info & space_bit != 0);
            if matches {
                match_sequence(rest, chars, pos)
            } else {
                None
            }
        }
        Node::End => {
            if pos == chars.len() {
                match_sequence(rest, chars, pos)
            } else {
                None
            }
        }
    }
}

/// The distinct sets of the patterns; the position of a set is the number of its bit.
#[derive(Default)]
struct Sets(Vec<ClassUnicode>);

impl Sets {
    fn bit(&mut self, class: &ClassUnicode) -> u32 {
        let idx = self
            .0
            .iter()
            .position(|known| known == class)
            .unwrap_or_else(|| {
                self.0.push(class.clone());
                self.0.len() - 1
            });
        // Too many sets are refused in `into_table`.
        1u32.checked_shl(idx as u32).unwrap_or(0)
    }

    fn into_table(self) -> Result<(Vec<u32>, Vec<CharInfo>), String> {
        if self.0.len() > MAX_SETS {
            return Err(format!(
                "{} character sets, at most {MAX_SETS} fit",
                self.0.len()
            ));
        }
        let mut table = vec![0 as CharInfo; N_PAGES * PAGE_LEN];
        for (idx, class) in self.0.iter().enumerate() {
            for range in class.ranges() {
                for info in &mut table[range.start() as usize..=range.end() as usize] {
                    *info |= 1 << idx;
                }
            }
        }
        let mut entries = Vec::new();
        let mut known: HashMap<&[CharInfo], u32, foldhash::fast::RandomState> = HashMap::default();
        let pages = table
            .chunks(PAGE_LEN)
            .map(|page| {
                *known.entry(page).or_insert_with(|| {
                    entries.extend_from_slice(page);
                    (entries.len() - PAGE_LEN) as u32
                })
            })
            .collect();
        Ok((pages, entries))
    }
}

fn alternatives(hir: &Hir, sets: &mut Sets) -> Result<Vec<Vec<Node>>, String> {
    match hir.kind() {
        HirKind::Alternation(subs) => subs.iter().map(|sub| sequence(sub, sets)).collect(),
        _ => Ok(vec![sequence(hir, sets)?]),
    }
}

fn sequence(hir: &Hir, sets: &mut Sets) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    append(hir, sets, &mut nodes)?;
    Ok(nodes)
}

fn append(hir: &Hir, sets: &mut Sets, nodes: &mut Vec<Node>) -> Result<(), String> {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).map_err(|_| "a literal of bytes")?;
            for char in text.chars() {
                nodes.push(Node::Set {
                    bit: sets.bit(&single(char)),
                    min: 1,
                    max: 1,
                });
            }
        }
        HirKind::Class(class) => {
            nodes.push(Node::Set {
                bit: sets.bit(&unicode(class)?),
                min: 1,
                max: 1,
            });
        }
        HirKind::Look(Look::End) => nodes.push(Node::End),
        HirKind::Look(Look::WordEndHalfUnicode) => {
            let space = regex_syntax::parse(r"\s").map_err(|error| error.to_string())?;
            let HirKind::Class(class) = space.kind() else {
                return Err("no white space".into());
            };
            nodes.push(Node::BeforeSpaceOrEnd {
                space_bit: sets.bit(&unicode(class)?),
            });
        }
        HirKind::Look(look) => return Err(format!("assertion {look:?}")),
        HirKind::Repetition(repetition) if repetition.greedy => {
            let min = repetition.min as usize;
            let max = repetition.max.map_or(usize::MAX, |max| max as usize);
            match repetition.sub.kind() {
                HirKind::Class(class) => {
                    nodes.push(Node::Set {
                        bit: sets.bit(&unicode(class)?),
                        min,
                        max,
                    });
                }
                HirKind::Literal(literal) => {
                    let text = std::str::from_utf8(&literal.0).map_err(|_| "a literal of bytes")?;
                    let mut chars = text.chars();
                    let (Some(char), None) = (chars.next(), chars.next()) else {
                        return Err("a repeated string".into());
                    };
                    nodes.push(Node::Set {
                        bit: sets.bit(&single(char)),
                        min,
                        max,
                    });
                }
                _ if (min, max) == (0, 1) => nodes.push(Node::Group {
                    alternatives: alternatives(inner(&repetition.sub), sets)?,
                    is_optional: true,
                }),
                _ => return Err("a repeated group".into()),
            }
        }
        HirKind::Repetition(_) => return Err("a lazy repetition".into()),
        HirKind::Capture(capture) => append(&capture.sub, sets, nodes)?,
        HirKind::Concat(subs) => {
            for sub in subs {
                append(sub, sets, nodes)?;
            }
        }
        HirKind::Alternation(_) => nodes.push(Node::Group {
            alternatives: alternatives(hir, sets)?,
            is_optional: false,
        }),
    }
    Ok(())
}

fn inner(hir: &Hir) -> &Hir {
    match hir.kind() {
        HirKind::Capture(capture) => inner(&capture.sub),
        _ => hir,
    }
}

fn single(char: char) -> ClassUnicode {
    ClassUnicode::new([regex_syntax::hir::ClassUnicodeRange::new(char, char)])
}

fn unicode(class: &Class) -> Result<ClassUnicode, String> {
    match class {
        Class::Unicode(class) => Ok(class.clone()),
        Class::Bytes(class) => class
            .to_unicode_class()
            .ok_or_else(|| "a class of bytes".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(patterns: &[&str], text: &str) -> Vec<String> {
        split_bytes(patterns, text.as_bytes())
    }

    fn split_bytes(patterns: &[&str], text: &[u8]) -> Vec<String> {
        let mut pieces = Vec::new();
        Splitter::new(patterns).unwrap().split(text, |piece| {
            pieces.push(String::from_utf8_lossy(piece).into_owned())
        });
        pieces
    }

    #[test]
    fn lookahead_leaves_one_space_to_the_next_word() {
        assert_eq!(
            split(&[r" ?\p{L}+|\s+(?!\S)|\s+"], "a   b\tc  "),
            ["a", "  ", " b", "\t", "c", "  "]
        );
    }

    #[test]
    fn a_run_gives_back_what_the_rest_needs() {
        assert_eq!(
            split(&[r"\s*[\r\n]+|\s+"], " \n \n  x"),
            [" \n \n", "  ", "x"]
        );
        assert_eq!(
            split(&[r"[A-Zx]*[a-zx]+|[A-Zx]+[a-zx]*"], "ABxx1CDeFGH"),
            ["ABxx", "1", "CDe", "FGH"]
        );
    }

    #[test]
    fn stages_cut_the_pieces_of_those_before() {
        assert_eq!(
            split(&[r"\p{N}+", "[0-9][0-9][0-9]"], "ab12345c"),
            ["ab", "123", "45", "c"]
        );
        assert_eq!(
            split(&[r"[\r\n]", r"\s+$"], " a  \nb  "),
            [" a", "  ", "\n", "b", "  "]
        );
    }

    #[test]
    fn a_broken_byte_is_one_replacement_character() {
        assert_eq!(
            split_bytes(&[r"\p{L}+"], b"ab\xff\xe4\xb8c"),
            ["ab", "\u{fffd}\u{fffd}", "c"]
        );
    }

    #[test]
    fn constructs_beyond_the_matcher_are_refused() {
        for pattern in ["(ab)+", "a+?", r"\bx", "a(?=b)"] {
            assert!(Splitter::new(&[pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn long_runs_take_linear_time() {
        for (pattern, unit, tail) in [
            (r"\s+$", " ", "x"),
            (r"\s*[\r\n]+|\s+(?!\S)|\s+", " ", "x"),
            (r"[A-Za]*[a-z]+|[A-Za]+[a-z]*", "A", ""),
        ] {
            let text = unit.repeat(300_000) + tail;
            assert_eq!(split(&[pattern], &text).concat(), text);
        }
    }
}
