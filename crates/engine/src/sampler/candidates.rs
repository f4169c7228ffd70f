//! The tokens that can still be picked, with their logits.

use std::cmp::Ordering;

use super::math::exp;
use super::rng::Rng;

/// Logits stay within plus and minus this, so that no sum or difference of them overflows.
const MAX_LOGIT: f32 = 1e30;
/// How many candidates are brought into order at first where it is not known how many it takes.
const FIRST_SORTED: usize = 128;

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) token: u32,
    pub(super) logit: f32,
    /// The probability, where [`Candidates::softmax`] has just been called.
    pub(super) p: f32,
}

impl Candidate {
    /// The best first; of equals, the one with the lower token, so that the order is unique.
    fn by_logit(&self, other: &Self) -> Ordering {
        other
            .logit
            .total_cmp(&self.logit)
            .then(self.token.cmp(&other.token))
    }
}

/// The candidates; loaded in the order of the vocabulary, which the stages up to the first filter
/// keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    pub(super) items: Vec<Candidate>,
}

impl Candidates {
    /// Takes the tokens that are not masked. An infinite logit counts as a very large one.
    pub(super) fn load(&mut self, logits: &[f32]) {
        self.items.clear();
        self.items.reserve(logits.len());
        let unmasked = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        self.items.extend(unmasked.map(|(token, logit)| Candidate {
            token: token as u32,
            logit: bounded(f64::from(*logit)),
            p: 0.0,
        }));
    }

    /// Changes the logit of one token, while the candidates are in the order of the vocabulary.
    pub(super) fn change(&mut self, token: u32, change: impl FnOnce(f64) -> f64) {
        if let Ok(idx) = self.items.binary_search_by_key(&token, |item| item.token) {
            self.items[idx].logit = bounded(change(f64::from(self.items[idx].logit)));
        }
    }

    pub(super) fn max_logit(&self) -> f32 {
        self.items
            .iter()
            .fold(-MAX_LOGIT, |max, item| max.max(item.logit))
    }

    /// Computes the probabilities.
    pub(super) fn softmax(&mut self) {
        let max = f64::from(self.max_logit());
        let mut sum = 0.0;
        for item in &mut self.items {
            let p = exp(f64::from(item.logit) - max);
            item.p = p as f32;
            sum += p;
        }
        let scale = (1.0 / sum) as f32;
        for item in &mut self.items {
            item.p = (item.p * scale).min(1.0);
        }
    }

    /// Keeps the `k` candidates with the best logits, at least one, the best first.
    ///
    /// With fewer candidates than `k` they stay in the order they are in.
    ///
    /// One pass that collects what beats the worst of the best `k` so far at the front; each time
    /// `k` more have been collected the front is cut back. Few candidates ever get there.
    pub(super) fn keep_best(&mut self, k: usize) {
        let k = k.max(1);
        if k >= self.items.len() {
            return;
        }
        let room = k.saturating_mul(2).max(FIRST_SORTED).min(self.items.len());
        self.items[..room].select_nth_unstable_by(k - 1, Candidate::by_logit);
        let mut n_kept = k;
        let mut worst = self.items[k - 1];
        for idx in room..self.items.len() {
            let item = self.items[idx];
            if item.by_logit(&worst) == Ordering::Less {
                self.items[n_kept] = item;
                n_kept += 1;
                if n_kept == room {
                    self.items[..room].select_nth_unstable_by(k - 1, Candidate::by_logit);
                    worst = self.items[k - 1];
                    n_kept = k;
                }
            }
        }
        self.items[..n_kept].select_nth_unstable_by(k - 1, Candidate::by_logit);
        self.items.truncate(k);
        self.items.sort_unstable_by(Candidate::by_logit);
    }

    /// Keeps the best candidates, in order, up to the first for which `is_last` holds.
    pub(super) fn keep_until(&mut self, is_last: impl FnMut(usize, &Candidate) -> bool) {
        self.keep_until_by(Candidate::by_logit, is_last);
    }

    /// Like [`Self::keep_until`] in another order. Sorts no more than it needs to.
    pub(super) fn keep_until_by(
        &mut self,
        order: impl Fn(&Candidate, &Candidate) -> Ordering,
        mut is_last: impl FnMut(usize, &Candidate) -> bool,
    ) {
        let mut n_sorted = 0;
        let mut step = FIRST_SORTED;
        while n_sorted < self.items.len() {
            let rest = &mut self.items[n_sorted..];
            let n = step.min(rest.len());
            if n < rest.len() {
                rest.select_nth_unstable_by(n - 1, &order);
            }
            rest[..n].sort_unstable_by(&order);
            if let Some(idx) = (n_sorted..).zip(&rest[..n]).find(|(i, c)| is_last(*i, c)) {
                let n_kept = idx.0 + 1;
                self.items.truncate(n_kept);
                return;
            }
            n_sorted += n;
            step *= 4;
        }
    }

    /// Fills `best` with the best logits in falling order; returns how many there are.
    pub(super) fn best_logits(&self, best: &mut [f64]) -> usize {
        let mut n = 0;
        for item in &self.items {
            let logit = f64::from(item.logit);
            if n == best.len() && logit <= best[n - 1] {
                continue;
            }
            let idx = best[..n].partition_point(|other| *other >= logit);
            n = (n + 1).min(best.len());
            best[idx..n].rotate_right(1);
            best[idx] = logit;
        }
        n
    }

    /// Draws one candidate by its probability.
    pub(super) fn draw(&mut self, rng: &mut Rng) -> Option<Candidate> {
        self.softmax();
        let sum: f64 = self.items.iter().map(|item| f64::from(item.p)).sum();
        let target = rng.uniform() * sum;
        let mut reached = 0.0;
        let drawn = self.items.iter().find(|item| {
            reached += f64::from(item.p);
            reached > target
        });
        // Rounding cannot lead past the end: the sum is made in the same order.
        drawn.or(self.items.last()).copied()
    }
}

/// A logit that is finite; something that is not a number is as bad as can be.
pub(super) fn bounded(logit: f64) -> f32 {
    if logit.is_nan() {
        -MAX_LOGIT
    } else {
        logit.clamp(-f64::from(MAX_LOGIT), f64::from(MAX_LOGIT)) as f32
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
    fn selection_agrees_with_a_full_sort() {
        fn property(logits: Vec<i8>, k: u16) -> bool {
            let logits: Vec<f32> = logits
                .iter()
                .cycle()
                .take(logits.len() * 20)
                .enumerate()
                .map(|(idx, logit)| f32::from(*logit) + (idx % 13) as f32)
                .collect();
            if logits.is_empty() {
                return true;
            }
            let k = 1 + usize::from(k) % logits.len();
            let mut candidates = Candidates::default();
            candidates.load(&logits);
            let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
            sorted.sort_by(|&a, &b| {
                logits[b as usize]
                    .total_cmp(&logits[a as usize])
                    .then(a.cmp(&b))
            });
            let tokens = |candidates: &Candidates| -> Vec<u32> {
                candidates.items.iter().map(|item| item.token).collect()
            };
            let mut in_order = candidates.clone();
            in_order.keep_until(|idx, _| idx + 1 == k);
            candidates.keep_best(k);
            let mut best = tokens(&candidates);
            if k == logits.len() {
                best.clone_from(&sorted);
            }
            tokens(&in_order) == sorted[..k] && best == sorted[..k]
        }
        quickcheck::quickcheck(property as fn(Vec<i8>, u16) -> bool);
    }
}
