//! The last tokens of a sequence, and how often each occurs among those the penalties look at.

use std::collections::{HashMap, VecDeque};

#[derive(Debug, Clone)]
pub(super) struct History {
    /// Oldest first.
    tokens: VecDeque<u32>,
    /// How many tokens are kept.
    capacity: usize,
    /// How many of the last tokens are counted.
    counted: usize,
    counts: HashMap<u32, u32>,
}

/// A window of the parameters, where -1 is everything.
pub(super) fn window(last_n: i32) -> usize {
    usize::try_from(last_n).unwrap_or(usize::MAX)
}

impl History {
    /// A history that counts over `counted` and is long enough for all `windows`.
    pub(super) fn new(counted: i32, windows: impl Iterator<Item = i32>) -> Self {
        let capacity = windows.map(window).max().unwrap_or(0);
        Self {
            tokens: VecDeque::new(),
            capacity,
            counted: window(counted).min(capacity),
            counts: HashMap::new(),
        }
    }

    pub(super) fn push(&mut self, token: u32) {
        if self.capacity == 0 {
            return;
        }
        if self.counted > 0 {
            *self.counts.entry(token).or_insert(0) += 1;
            if self.tokens.len() >= self.counted {
                let old = self.tokens[self.tokens.len() - self.counted];
                let count = self
                    .counts
                    .get_mut(&old)
                    .expect("a token in the window is counted");
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&old);
                }
            }
        }
        if self.tokens.len() >= self.capacity {
            self.tokens.pop_front();
        }
        self.tokens.push_back(token);
    }

    /// The counts, in no particular order.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.counts.iter().map(|(&token, &count)| (token, count))
    }

    /// The last `n` tokens, newest first.
    pub(super) fn newest(&self, n: usize) -> impl Iterator<Item = u32> {
        self.tokens.iter().rev().take(n).copied()
    }
}

#[cfg(test)]
#[allow(
    clippy::needless_pass_by_value,
    reason = "quickcheck calls properties by value"
)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_window() {
        fn property(tokens: Vec<u8>, counted: u8, other: u8) -> bool {
            let (counted, other) = (i32::from(counted % 9) - 1, i32::from(other % 9) - 1);
            let mut history = History::new(counted, [counted, other].into_iter());
            tokens.iter().enumerate().all(|(idx, token)| {
                history.push(u32::from(token % 4));
                let newest = tokens[..=idx]
                    .iter()
                    .rev()
                    .map(|token| u32::from(token % 4));
                let longest = window(counted).max(window(other));
                let in_window: Vec<u32> = newest.clone().take(window(counted)).collect();
                history.newest(usize::MAX).eq(newest.take(longest))
                    && (0..4).all(|token| {
                        let wanted = in_window.iter().filter(|t| **t == token).count();
                        history.counts.get(&token).map_or(0, |n| *n as usize) == wanted
                    })
            })
        }
        quickcheck::quickcheck(property as fn(Vec<u8>, u8, u8) -> bool);
    }
}
