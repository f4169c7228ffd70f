//! A small matcher for the regular expressions of pre-tokenizers.
//!
//! Pre-tokenizer patterns cut a text into words. They use lookahead (`\s+(?!\S)`), which the linear
//! engines do not offer, and they run over untrusted text, which rules out a general backtracking
//! one. They are simple, though: sequences of repeated character sets. So a pattern is parsed by
//! `regex-syntax`, each distinct set becomes one bit, one table gives every character the bits of
//! the sets it is in, and matching is a walk over those bits. A repeated set gives characters back
//! one at a time if the rest does not match; groups, once matched, do not. In the patterns of
//! [`super::pretokenize`] what is given back is looked at a bounded number of times, so the time is
//! linear in the text. The patterns that cut digits in threes from the right look ahead over all of
//! them; they are known by their text ([`DIGIT_GROUPS`]) and cut in one walk.
//!
//! Each byte that is not part of well-formed UTF-8 is matched as one U+FFFD.

use std::collections::HashMap;

use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind, Look};

/// One bit per character set in the low 30 bits, the length in bytes less one in the high two.
type CharInfo = u32;

/// As many sets as fit beside the length.
const MAX_SETS: usize = 30;
/// Alternatives of a pattern.
const MAX_ALTERNATIVES: usize = 32;
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
enum Stage {
    Pattern(Vec<Alternative>),
    DigitGroups(DigitGroups),
}

#[derive(Debug)]
struct Alternative {
    nodes: Vec<Node>,
    /// If the alternative begins with an unbounded run: its set. Where that fails at the start of a
    /// run it fails everywhere in it, so it is not tried again before the run's end. Without this,
    /// `\s+$` would be quadratic.
    leading_run: Option<u32>,
}

/// How a run of digits is cut in threes from the right.
#[derive(Debug)]
struct DigitGroups {
    digit_bit: u32,
    /// A run before one of these is left alone.
    not_before_bit: u32,
    /// Whether the run is also cut from what stands around it.
    is_isolated: bool,
}

/// A pattern that cuts digits in threes from the right, and what it amounts to.
struct DigitPattern {
    pattern: &'static str,
    digits: &'static str,
    not_before: Option<&'static str>,
    is_isolated: bool,
}

const DIGIT_GROUPS: &[DigitPattern] = &[
    DigitPattern {
        pattern: r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
        digits: r"\p{N}",
        not_before: None,
        is_isolated: true,
    },
    DigitPattern {
        pattern: r"\d{1,3}(?=(?:\d{3})*\b)",
        digits: r"\d",
        // Oniguruma, which the model's own tokenizer uses, counts these among the letters, and no
        // other number that is none.
        not_before: Some(r"[\w²³¹¼½¾]"),
        is_isolated: true,
    },
    DigitPattern {
        pattern: r"(?=(\d{3})+(?!\d))",
        digits: r"\d",
        not_before: None,
        is_isolated: false,
    },
];

#[derive(Debug)]
enum Node {
    /// Between `min` and `max` characters of the set, as many as possible.
    Set { bit: u32, min: usize, max: usize },
    /// The first of the alternatives that matches, between `min` and `max` times.
    Group {
        alternatives: Vec<Vec<Node>>,
        min: usize,
        max: usize,
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
            if let Some(known) = DIGIT_GROUPS.iter().find(|known| known.pattern == *pattern) {
                stages.push(Stage::DigitGroups(DigitGroups {
                    digit_bit: sets.bit_of(known.digits)?,
                    not_before_bit: known.not_before.map_or(Ok(0), |set| sets.bit_of(set))?,
                    is_isolated: known.is_isolated,
                }));
                continue;
            }
            // A construct of regex-syntax that no pattern uses stands in for the lookahead.
            let text = pattern.replace(r"(?!\S)", r"\b{end-half}");
            let hir = regex_syntax::Parser::new()
                .parse(&text)
                .map_err(|error| format!("pattern {pattern}: {error}"))?;
            let alternatives = alternatives(&hir, &mut sets)?.into_iter().map(|nodes| {
                let leading_run = match nodes.first() {
                    Some(&Node::Set {
                        bit,
                        max: usize::MAX,
                        ..
                    }) => Some(bit),
                    _ => None,
                };
                Alternative { nodes, leading_run }
            });
            if alternatives.len() > MAX_ALTERNATIVES {
                return Err(format!(
                    "pattern {pattern}: {} alternatives",
                    alternatives.len()
                ));
            }
            stages.push(Stage::Pattern(alternatives.collect()));
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
        let alternatives = match stage {
            Stage::Pattern(alternatives) => alternatives,
            Stage::DigitGroups(groups) => {
                return self.split_digits(groups, stage_idx, chars, out);
            }
        };
        // Where an alternative with a leading run is to be tried again.
        let mut retry_at = [0; MAX_ALTERNATIVES];
        // What lies between two matches is a piece too.
        let mut unmatched_from = 0;
        let mut pos = 0;
        while pos < chars.len() {
            let end = alternatives
                .iter()
                .zip(&mut retry_at)
                .find_map(|(alternative, retry_at)| {
                    if pos < *retry_at {
                        return None;
                    }
                    let end = match_sequence(&alternative.nodes, chars, pos);
                    if let (None, Some(bit)) = (end, alternative.leading_run) {
                        *retry_at = pos + run_len(bit, &chars[pos..]);
                    }
                    end
                });
            match end {
                Some(end) if end > pos => {
                    self.split_stage(stage_idx + 1, &chars[unmatched_from..pos], out);
                    self.split_stage(stage_idx + 1, &chars[pos..end], out);
                    pos = end;
                    unmatched_from = end;
                }
                _ => pos += 1,
            }
        }
        self.split_stage(stage_idx + 1, &chars[unmatched_from..], out);
    }

    fn split_digits(
        &self,
        groups: &DigitGroups,
        stage_idx: usize,
        chars: &[CharInfo],
        out: &mut dyn FnMut(&[CharInfo]),
    ) {
        let mut piece_from = 0;
        let mut cut = |pos: usize| {
            self.split_stage(stage_idx + 1, &chars[piece_from..pos], out);
            piece_from = pos;
        };
        let mut pos = 0;
        while pos < chars.len() {
            let end = pos + run_len(groups.digit_bit, &chars[pos..]);
            let is_left_alone = chars
                .get(end)
                .is_some_and(|info| info & groups.not_before_bit != 0);
            if end == pos || is_left_alone {
                pos = end.max(pos + 1);
                continue;
            }
            if groups.is_isolated {
                cut(pos);
            }
            let first = pos + (end - pos) % 3;
            for group in (first..end).step_by(3) {
                cut(group);
            }
            if groups.is_isolated {
                cut(end);
            }
            pos = end;
        }
        cut(chars.len());
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
            min,
            max,
        } => {
            let mut pos = pos;
            for n_matched in 0..*max {
                let end = alternatives
                    .iter()
                    .find_map(|nodes| match_sequence(nodes, chars, pos));
                match end {
                    Some(end) if end > pos => pos = end,
                    Some(_) => break,
                    None if n_matched >= *min => break,
                    None => return None,
                }
            }
            match_sequence(rest, chars, pos)
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

    /// The bit of a set that is written as a pattern.
    fn bit_of(&mut self, pattern: &str) -> Result<u32, String> {
        let hir = regex_syntax::parse(pattern).map_err(|error| error.to_string())?;
        match hir.kind() {
            HirKind::Class(class) => Ok(self.bit(&unicode(class)?)),
            _ => Err(format!("{pattern} is not a set")),
        }
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
            nodes.push(Node::BeforeSpaceOrEnd {
                space_bit: sets.bit_of(r"\s")?,
            });
        }
        HirKind::Look(look) => return Err(format!("assertion {look:?}")),
        HirKind::Repetition(repetition) if repetition.greedy => {
            let min = repetition.min as usize;
            let max = repetition.max.map_or(usize::MAX, |max| max as usize);
            let set = match repetition.sub.kind() {
                HirKind::Class(class) => Some(unicode(class)?),
                HirKind::Literal(literal) => only_char(&literal.0).map(single),
                _ => None,
            };
            nodes.push(match set {
                Some(set) => Node::Set {
                    bit: sets.bit(&set),
                    min,
                    max,
                },
                None => Node::Group {
                    alternatives: alternatives(inner(&repetition.sub), sets)?,
                    min,
                    max,
                },
            });
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
            min: 1,
            max: 1,
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

/// The character that the bytes are, if they are one.
fn only_char(bytes: &[u8]) -> Option<char> {
    let mut chars = std::str::from_utf8(bytes).ok()?.chars();
    chars.next().filter(|_| chars.next().is_none())
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
    fn groups_repeat_without_giving_back() {
        assert_eq!(split(&["x(ab)+"], "xababaxb"), ["xabab", "axb"]);
        assert_eq!(split(&["a(?: [bc])*"], "a b c da"), ["a b c", " d", "a"]);
        assert_eq!(split(&["(?:ab|c){2,3}"], "abcabccab"), ["abcab", "ccab"]);
    }

    #[test]
    fn digits_are_cut_in_threes_from_the_right() {
        let numbers = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))";
        assert_eq!(split(&[numbers], "a12345½b"), ["a", "123", "45½", "b"]);
        assert_eq!(split(&[numbers], "1 1234"), ["1", " ", "1", "234"]);
        let words = r"\d{1,3}(?=(?:\d{3})*\b)";
        assert_eq!(
            split(&[words], "1234a 12345."),
            ["1234a ", "12", "345", "."]
        );
        assert_eq!(split(&[words], "4⒋522x 4½"), ["4", "⒋522x 4½"]);
        let cuts = r"(?=(\d{3})+(?!\d))";
        assert_eq!(split(&[cuts], "12345 x"), ["12", "345 x"]);
        assert_eq!(split(&[cuts], "½123 12"), ["½", "123 12"]);
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
        for pattern in ["a+?", r"\bx", "a(?=b)"] {
            assert!(Splitter::new(&[pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn long_runs_take_linear_time() {
        for (pattern, unit, tail) in [
            (r"\s+$", " ", "x"),
            (r"\s*[\r\n]+|\s+(?!\S)|\s+", " ", "x"),
            (r"[A-Za]*[a-z]+|[A-Za]+[a-z]*", "A", ""),
            (r"\s*[\r\n]+|\s{512}(?!\S)|\s{1,2}(?!\S)|\s", " ", "x"),
            (r"\s*[\r\n]+|x*y|\s", " \t", "x"),
            ("a(?: a)*", "a ", "x"),
            (r"\d{1,3}(?=(?:\d{3})*\b)", "1", "x"),
            (r"(?=(\d{3})+(?!\d))", "1", "x"),
        ] {
            let text = unit.repeat(300_000) + tail;
            assert_eq!(split(&[pattern], &text).concat(), text);
        }
    }
}
