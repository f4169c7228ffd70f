//! Finds stop strings in streamed text and holds back what may become one.
//!
//! The matcher is the automaton of Aho and Corasick ("Efficient string matching: an aid to
//! bibliographic search", 1975): one step per byte, whatever the number of stop strings. The depth
//! of its state is the length of the longest tail of the text that begins a stop string, which is
//! what must be held back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::error::RequestError;

/// The most stop strings one request may have.
pub const MAX_STOP_STRINGS: usize = 256;
/// The most bytes one stop string may have.
pub const MAX_STOP_STRING_BYTES: usize = 4096;

/// What [`StopMatcher::push`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopProgress {
    /// Text that is safe to show: it cannot be part of a stop string any more.
    pub text: String,
    /// The index of the stop string that was found; the text before it is all in `text`.
    pub matched: Option<usize>,
}

#[derive(Debug, Default)]
struct Node {
    next: BTreeMap<u8, usize>,
    fail: usize,
    depth: usize,
    /// The longest stop string that ends here: (its length in bytes, its index).
    ends: Option<(usize, usize)>,
}

/// A matcher of stop strings over text that arrives in pieces.
///
/// The stop string that is complete first wins; of two that are complete at the same byte, the
/// longer one, so that as little as possible of a stop string is shown.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    nodes: Arc<[Node]>,
    state: usize,
    held: String,
    matched: Option<usize>,
}

impl StopMatcher {
    /// A matcher of `stops`; an empty list never matches and never holds anything back. `field` is
    /// what errors call the list.
    pub fn new<S: AsRef<str>>(field: &'static str, stops: &[S]) -> Result<Self, RequestError> {
        let error = |found: String, wanted: String| RequestError::Parameter {
            field,
            found,
            wanted,
        };
        if stops.len() > MAX_STOP_STRINGS {
            let wanted = format!("at most {MAX_STOP_STRINGS} strings");
            return Err(error(format!("{} strings", stops.len()), wanted));
        }
        let mut nodes = vec![Node::default()];
        for (idx, stop) in stops.iter().enumerate() {
            let bytes = stop.as_ref().as_bytes();
            if bytes.is_empty() || bytes.len() > MAX_STOP_STRING_BYTES {
                let wanted = format!("1 to {MAX_STOP_STRING_BYTES} bytes");
                return Err(error(format!("a string of {} bytes", bytes.len()), wanted));
            }
            let mut at = 0;
            for &byte in bytes {
                let fresh = nodes.len();
                let next = *nodes[at].next.entry(byte).or_insert(fresh);
                if next == fresh {
                    let depth = nodes[at].depth + 1;
                    nodes.push(Node {
                        depth,
                        ..Node::default()
                    });
                }
                at = next;
            }
            nodes[at].ends.get_or_insert((bytes.len(), idx));
        }
        let mut queue = VecDeque::from([0]);
        while let Some(at) = queue.pop_front() {
            let children: Vec<_> = nodes[at]
                .next
                .iter()
                .map(|(&byte, &node)| (byte, node))
                .collect();
            for (byte, child) in children {
                let fail = if at == 0 {
                    0
                } else {
                    step(&nodes, nodes[at].fail, byte)
                };
                nodes[child].fail = fail;
                if nodes[child].ends.is_none() {
                    nodes[child].ends = nodes[fail].ends;
                }
                queue.push_back(child);
            }
        }
        Ok(Self {
            nodes: nodes.into(),
            state: 0,
            held: String::new(),
            matched: None,
        })
    }

    /// Takes the next piece of text; says what can be shown, and whether a stop string was found.
    ///
    /// After a match everything else is swallowed.
    pub fn push(&mut self, piece: &str) -> StopProgress {
        if self.matched.is_some() {
            return StopProgress {
                text: String::new(),
                matched: self.matched,
            };
        }
        let n_held = self.held.len();
        self.held.push_str(piece);
        for at in n_held..self.held.len() {
            self.state = step(&self.nodes, self.state, self.held.as_bytes()[at]);
            if let Some((len, idx)) = self.nodes[self.state].ends {
                self.matched = Some(idx);
                // The match is a whole string that begins in what is held, so its start is a
                // character boundary.
                self.held.truncate(at + 1 - len);
                return StopProgress {
                    text: std::mem::take(&mut self.held),
                    matched: self.matched,
                };
            }
        }
        let rest = self
            .held
            .split_off(self.held.len() - self.nodes[self.state].depth);
        StopProgress {
            text: std::mem::replace(&mut self.held, rest),
            matched: None,
        }
    }

    /// Whether the text may have begun one of the strings.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The text ended: gives back what was held for a stop string that did not come.
    pub fn finish(&mut self) -> String {
        self.state = 0;
        std::mem::take(&mut self.held)
    }
}

fn step(nodes: &[Node], mut at: usize, byte: u8) -> usize {
    loop {
        if let Some(&next) = nodes[at].next.get(&byte) {
            return next;
        }
        if at == 0 {
            return 0;
        }
        at = nodes[at].fail;
    }
}

#[cfg(test)]
#[allow(
    clippy::needless_pass_by_value,
    reason = "quickcheck calls properties by value"
)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = StopMatcher::new("stop", stops).unwrap();
        let mut texts = Vec::new();
        let mut matched = None;
        for piece in pieces {
            let progress = matcher.push(piece);
            texts.push(progress.text);
            matched = progress.matched;
        }
        texts.push(matcher.finish());
        (texts, matched)
    }

    #[test]
    fn holds_back_a_partial_match() {
        let (texts, matched) = run(&["<end>"], &["a<e", "n", "x<en", "d>b", "c"]);
        assert_eq!(texts, ["a", "", "<enx", "", "", ""]);
        assert_eq!(matched, Some(0));
    }

    #[test]
    fn flushes_what_did_not_become_a_stop_string() {
        assert_eq!(
            run(&["<end>"], &["a<en"]),
            (vec!["a".into(), "<en".into()], None)
        );
        assert_eq!(
            run(&[], &["a<en"]),
            (vec!["a<en".into(), String::new()], None)
        );
    }

    #[test]
    fn overlapping_and_nested_stops() {
        // "bc" is complete before "abcd" can be.
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]).1, Some(1));
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]).0[0], "xa");
        // Both end at the same byte: the longer one is cut.
        assert_eq!(run(&["b", "ab"], &["xab"]).0[0], "x");
        // The failure links find a start inside a failed match.
        assert_eq!(
            run(&["aab"], &["aa", "aab"]).0[..2],
            ["".to_string(), "aa".to_string()]
        );
    }

    #[test]
    fn characters_are_never_cut() {
        let (texts, matched) = run(&["é!", "ê"], &["aé", "è", "é", "!"]);
        assert_eq!(texts[..4], ["a", "éè", "", ""].map(String::from));
        assert_eq!(matched, Some(0));
    }

    #[test]
    fn bad_stop_strings_are_refused() {
        assert!(StopMatcher::new("stop", &[""]).is_err());
        assert!(StopMatcher::new("stop", &["x".repeat(MAX_STOP_STRING_BYTES + 1)]).is_err());
        assert!(StopMatcher::new("stop", &vec!["x"; MAX_STOP_STRINGS + 1]).is_err());
    }

    /// Whatever the pieces, the text shown is the text before the first stop string.
    #[test]
    fn agrees_with_a_search_of_the_whole_text() {
        fn property(text: Vec<u8>, stops: Vec<Vec<u8>>, cuts: Vec<u8>) -> bool {
            let letters = |bytes: &[u8]| {
                bytes
                    .iter()
                    .map(|b| ['a', 'b', 'é'][*b as usize % 3])
                    .collect()
            };
            let text: String = letters(&text);
            let stops: Vec<String> = stops
                .iter()
                .map(|s| letters(&s[..s.len().min(3)]))
                .filter(|s: &String| !s.is_empty())
                .take(4)
                .collect();
            let first = stops
                .iter()
                .filter_map(|s| text.find(s).map(|i| (i + s.len(), i)))
                .min();
            let wanted = &text[..first.map_or(text.len(), |(_, start)| start)];
            let mut matcher = StopMatcher::new("stop", &stops).unwrap();
            let mut shown = String::new();
            let mut rest: Vec<char> = text.chars().collect();
            for cut in cuts.iter().chain([&255]) {
                let n = (*cut as usize % 5).min(rest.len());
                let n = if *cut == 255 { rest.len() } else { n };
                let piece: String = rest.drain(..n).collect();
                shown += &matcher.push(&piece).text;
            }
            shown += &matcher.finish();
            shown == wanted
        }
        quickcheck::quickcheck(property as fn(Vec<u8>, Vec<Vec<u8>>, Vec<u8>) -> bool);
    }
}
