//! How many tokens of prompts go into a step, so that streams that run don't wait for them.
//!
//! A step with decoding sequences should take less than twice the time of one without prompts: of
//! one with as many sequences as there will be soon, since that is what a stream's steps take when
//! short prompts are in; few streams don't keep many from beginning. Both that time and the time of a prompt's token are measured as they go, and the rest is a
//! division. Without decoding sequences a step should be short enough that a request can be
//! cancelled within it.
//!
//! What a step holds does not change any answer, so that times may decide about it.

use std::time::Duration;

/// The longest step, as a multiple of one without prompts. Twice is the aim; times vary.
const MAX_SLOWDOWN: f64 = 1.7;
/// Fewer tokens of a prompt take no less time: what a prompt has in the cache is read for one as for
/// a few.
const MIN_SLICE: usize = 4;
/// How long a step of prompts alone may take.
const MAX_STEP: f64 = 0.5; // seconds
/// A step without prompts is made after this many with them, to measure it again.
const STEPS_BETWEEN_MEASURES: usize = 64;
/// How much a new time counts.
const WEIGHT: f64 = 0.1;
/// Tokens of prompts in a step before anything was measured.
const FIRST_SLICE: usize = 64;

/// Measured times, in seconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of a step without prompts, by the number of sequences.
    decode: Vec<Option<f64>>,
    /// Sums over steps with prompts, older ones counting less: what they took longer than without,
    /// times their tokens of prompts, and the squares of these. The quotient is the time of one
    /// token by least squares, in which a step with few tokens, whose time says little of them,
    /// counts little.
    excess_by_tokens: f64,
    tokens_squared: f64,
    n_since_measure: usize,
}

impl Pace {
    /// Most tokens of prompts in a step with `n_decoding` decoding sequences, where there will be
    /// `n_to_come` soon.
    pub(super) fn max_prefill(&self, n_decoding: usize, n_to_come: usize) -> usize {
        if self.tokens_squared == 0.0 {
            return FIRST_SLICE;
        }
        let token = self.excess_by_tokens / self.tokens_squared;
        if n_decoding == 0 {
            return ((MAX_STEP / token) as usize).max(FIRST_SLICE);
        }
        let is_measured = self.decode.get(n_decoding).is_some_and(Option::is_some);
        if !is_measured || self.n_since_measure >= STEPS_BETWEEN_MEASURES {
            return 0;
        }
        let allowed = MAX_SLOWDOWN * self.decode_time(n_to_come.max(n_decoding), token);
        let left = allowed - self.decode_time(n_decoding, token);
        ((left / token) as usize).max(MIN_SLICE)
    }

    /// Takes the time of a step into account.
    pub(super) fn measured(&mut self, n_decoding: usize, n_prefill: usize, time: Duration) {
        let time = time.as_secs_f64();
        if n_prefill == 0 {
            self.n_since_measure = 0;
            if self.decode.len() <= n_decoding {
                self.decode.resize(n_decoding + 1, None);
            }
            average(&mut self.decode[n_decoding], time);
            return;
        }
        self.n_since_measure += 1;
        // Sequences that were not measured count as tokens do.
        let decode = match self.tokens_squared {
            0.0 => 0.0,
            squared => self.decode_time(n_decoding, self.excess_by_tokens / squared),
        };
        let n = n_prefill as f64;
        let excess = (time - decode).max(0.05 * time);
        self.excess_by_tokens = (1.0 - WEIGHT) * self.excess_by_tokens + n * excess;
        self.tokens_squared = (1.0 - WEIGHT) * self.tokens_squared + n * n;
    }

    /// Of the nearest number of sequences that was measured, and of a token for each one more.
    fn decode_time(&self, n_decoding: usize, token: f64) -> f64 {
        let measured = self.decode.iter().enumerate();
        let measured = measured.filter_map(|(n, time)| Some((n, (*time)?)));
        let nearest = measured.min_by_key(|(n, _)| n.abs_diff(n_decoding));
        let (n, time) = nearest.unwrap_or((0, 0.0));
        time + token * n_decoding.saturating_sub(n) as f64
    }
}

fn average(of: &mut Option<f64>, time: f64) {
    *of = Some(of.map_or(time, |old| old + WEIGHT * (time - old)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_stays_below_twice_the_time_without_prompts() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.max_prefill(1, 1), FIRST_SLICE);
        pace.measured(0, 64, ms(64));
        assert!((499..=500).contains(&pace.max_prefill(0, 0)));
        assert_eq!(pace.max_prefill(1, 1), 0);
        pace.measured(1, 0, ms(10));
        assert!((6..=7).contains(&pace.max_prefill(1, 1)));
        for _ in 0..100 {
            // Each token costs twice what was thought, so that 3 would be right.
            let n = pace.max_prefill(1, 1);
            pace.measured(1, n, ms(10 + 2 * n as u64));
        }
        let n = pace.max_prefill(1, 1);
        assert_eq!(n, MIN_SLICE);
    }

    #[test]
    fn a_slow_step_with_few_tokens_says_little_of_them() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        pace.measured(4, 0, ms(10));
        for _ in 0..4 {
            pace.measured(4, 64, ms(10 + 16));
        }
        let before = pace.max_prefill(4, 4);
        pace.measured(4, 1, ms(100));
        assert!(pace.max_prefill(4, 4) > before * 9 / 10);
    }

    #[test]
    fn steps_without_prompts_are_measured_again() {
        let mut pace = Pace::default();
        pace.measured(2, 0, Duration::from_millis(10));
        let n_steps = (0..1000).take_while(|_| {
            pace.measured(2, 1, Duration::from_millis(11));
            pace.max_prefill(2, 2) > 0
        });
        assert_eq!(n_steps.count() + 1, STEPS_BETWEEN_MEASURES);
    }
}
