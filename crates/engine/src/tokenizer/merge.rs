//! Byte-pair merging of one word in near linear time.
//!
//! A word starts as a row of symbols (bytes, or characters). Again and again the adjacent pair of
//! the best rank is merged, the leftmost first among equals. The candidates stand in a heap, so a
//! word of n symbols takes O(n log n); a candidate whose symbols have changed since is skipped when
//! it comes up. Both kinds of vocabulary use this: byte-level BPE ranks pairs by their place in the
//! list of merges, SentencePiece by the score of the token that a pair makes.

use std::{cmp::Reverse, collections::BinaryHeap, collections::HashMap};

/// What a pair of symbols becomes, and how early.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merge {
    pub(super) rank: u32,
    pub(super) id: u32,
}

pub(super) type Merges = HashMap<(u32, u32), Merge, foldhash::fast::RandomState>;

/// A symbol that no merge knows, such as a character that is in no token.
pub(super) const NO_SYMBOL: u32 = u32::MAX;
const NONE: u32 = u32::MAX;

/// A symbol of the word and the bytes it covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    pub(super) id: u32,
    pub(super) start: u32,
    pub(super) len: u32,
    prev: u32,
    next: u32,
}

/// A pair that may be merged; the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    /// The symbols it was pushed for, to see whether they are still there.
    pair: (u32, u32),
    id: u32,
}

/// Buffers that are used again for every word.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Begins a new word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Adds the next symbol of the word, which covers `len` bytes.
    pub(super) fn push(&mut self, id: u32, len: u32) {
        let idx = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |last| last.start + last.len);
        self.symbols.push(Symbol {
            id,
            start,
            len,
            prev: idx.wrapping_sub(1),
            next: idx + 1,
        });
    }

    /// Merges the symbols as far as `merges` says and returns what is left, in order.
    pub(super) fn merge(&mut self, merges: &Merges) -> impl Iterator<Item = Symbol> + '_ {
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for right in 1..self.symbols.len() as u32 {
            self.push_candidate(merges, right - 1, right);
        }
        while let Some(Reverse(Candidate {
            left,
            pair,
            id: merged_id,
            ..
        })) = self.heap.pop()
        {
            let Symbol {
                id,
                next: right,
                prev,
                ..
            } = self.symbols[left as usize];
            if id != pair.0 || right == NONE || self.symbols[right as usize].id != pair.1 {
                continue;
            }
            let Symbol { len, next, .. } = self.symbols[right as usize];
            self.symbols[right as usize].id = NO_SYMBOL;
            let merged = &mut self.symbols[left as usize];
            merged.id = merged_id;
            merged.len += len;
            merged.next = next;
            if next != NONE {
                self.symbols[next as usize].prev = left;
                self.push_candidate(merges, left, next);
            }
            if prev != NONE {
                self.push_candidate(merges, prev, left);
            }
        }
        let mut idx = if self.symbols.is_empty() { NONE } else { 0 };
        std::iter::from_fn(move || {
            let symbol = *self.symbols.get(idx as usize)?;
            idx = symbol.next;
            Some(symbol)
        })
    }

    fn push_candidate(&mut self, merges: &Merges, left: u32, right: u32) {
        let pair = (
            self.symbols[left as usize].id,
            self.symbols[right as usize].id,
        );
        if let Some(merge) = merges.get(&pair) {
            let Merge { rank, id } = *merge;
            self.heap.push(Reverse(Candidate {
                rank,
                left,
                pair,
                id,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(word: &str, merges: &[(u8, u8, u32)]) -> Vec<u32> {
        let merges = merges
            .iter()
            .enumerate()
            .map(|(rank, &(l, r, id))| {
                (
                    (u32::from(l), u32::from(r)),
                    Merge {
                        rank: rank as u32,
                        id,
                    },
                )
            })
            .collect();
        let mut merger = Merger::default();
        for byte in word.bytes() {
            merger.push(u32::from(byte), 1);
        }
        merger.merge(&merges).map(|symbol| symbol.id).collect()
    }

    #[test]
    fn the_best_rank_goes_first_and_then_the_leftmost() {
        assert_eq!(merged("abc", &[(b'b', b'c', 1), (b'a', b'b', 2)]), [97, 1]);
        assert_eq!(merged("aaa", &[(b'a', b'a', 1)]), [1, 97]);
        assert_eq!(merged("aaaa", &[(b'a', b'a', 1), (1, 1, 2)]), [2]);
        assert_eq!(merged("", &[]), [0u32; 0]);
    }

    #[test]
    fn a_long_word_of_one_character_takes_near_linear_time() {
        let n = 200_000;
        assert_eq!(
            merged(&"a".repeat(n), &[(b'a', b'a', 1), (1, 1, 2)]).len(),
            n / 4
        );
    }
}
