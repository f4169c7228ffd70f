//! How many tokens of prompts go into a step, so that streams that run don't wait for them.
//!
//! A step with decoding sequences should take less than twice the time of one without prompts: of
//! one with as many sequences as there will be soon, since that is what a stream's steps take when
//! short prompts are in; few streams don't keep many from beginning. Both that time and the time of
//! a prompt's token are measured as they go. Without decoding sequences a step should be short
//! enough that a request can be cancelled within it.
//!
//! What prompts may take is granted anew by each step, and what they took is subtracted. So where a
//! single token takes longer than that, as deep in a long prompt, steps without prompts stand
//! between, and the mean holds however wrong a guess was. What is left over is carried to the next
//! step: a slice that is larger by one now and then shows that tokens come cheaper together, which
//! steps of one token each would never find out.
//!
//! What a step holds does not change any answer, so that times may decide about it.

use std::time::Duration;

/// The mean step, as a multiple of one without prompts. Twice is the aim; times vary.
const MAX_SLOWDOWN: f64 = 1.7;
/// How long a step of prompts alone may take.
const MAX_STEP: f64 = 0.5; // seconds
/// A step without prompts is made after this many with them, to measure it again.
const STEPS_BETWEEN_MEASURES: usize = 64;
/// How much a new time counts.
const WEIGHT: f64 = 0.1;
/// Tokens of prompts in a step before anything was measured.
const FIRST_SLICE: usize = 64;
/// A step with at least as many tokens of prompts counts fully. The time of one with fewer says less of
/// them; one with more says no more, since what tokens take together is not what few take.
const FULL_SLICE: usize = 32;

/// Measured times, in seconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of a step without prompts, by the number of sequences.
    decode: Vec<Option<f64>>,
    /// The mean time of one token of a prompt is the quotient of two sums over steps with prompts, in
    /// which older ones count less: of times by weights, and of weights.
    weighted_times: f64,
    weights: f64,
    n_since_measure: usize,
    /// What prompts may take now.
    credit: f64,
    /// What the step in work was granted.
    granted: f64,
}

impl Pace {
    /// Most tokens of prompts in the next step, with `n_decoding` decoding sequences, where there
    /// will be `n_to_come` soon.
    pub(super) fn max_prefill(&mut self, n_decoding: usize, n_to_come: usize) -> usize {
        let Some(token) = self.token() else {
            return FIRST_SLICE;
        };
        if n_decoding == 0 {
            return ((MAX_STEP / token) as usize).max(FIRST_SLICE);
        }
        let is_measured = self.decode.get(n_decoding).is_some_and(Option::is_some);
        if !is_measured || self.n_since_measure >= STEPS_BETWEEN_MEASURES {
            return 0;
        }
        let allowed = MAX_SLOWDOWN * self.decode_time(n_to_come.max(n_decoding), token);
        self.granted = allowed - self.decode_time(n_decoding, token);
        // No more is saved than makes up a whole token.
        self.credit = (self.credit + self.granted).min(self.granted + token);
        (self.credit.max(0.0) / token) as usize
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
        let decode = self.decode_time(n_decoding, self.token().unwrap_or(0.0));
        let excess = (time - decode).max(0.05 * time);
        let weight = (n_prefill.min(FULL_SLICE) as f64).powi(2);
        self.weighted_times =
            (1.0 - WEIGHT) * self.weighted_times + weight * excess / n_prefill as f64;
        self.weights = (1.0 - WEIGHT) * self.weights + weight;
        if n_decoding > 0 {
            // A step that was held up by others than its prompts is not paid for in full.
            self.credit = (self.credit - excess).max(-2.0 * self.granted);
        }
    }

    /// The mean time of one token of a prompt, if any was measured.
    fn token(&self) -> Option<f64> {
        (self.weights > 0.0).then(|| self.weighted_times / self.weights)
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

    const MS: f64 = 1e-3;

    /// Steps with `n_decoding` streams while a prompt comes in: the time of each as a multiple of one
    /// without prompts. `excess` is what a slice takes, by its length and first position.
    fn slowdowns(prompt_len: usize, excess: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let decode = 10.0 * MS;
        let mut pace = Pace::default();
        // What came before: prompts alone, and the stream alone.
        pace.measured(0, 512, Duration::from_secs_f64(512.0 * 0.6 * MS));
        pace.measured(1, 0, Duration::from_secs_f64(decode));
        let (mut steps, mut position) = (Vec::new(), 0);
        while position < prompt_len {
            let n = pace.max_prefill(1, 1).min(512).min(prompt_len - position);
            let excess = if n == 0 {
                0.0
            } else {
                excess(n as f64, position as f64)
            };
            position += n;
            pace.measured(1, n, Duration::from_secs_f64(decode + excess));
            steps.push((decode + excess) / decode);
        }
        steps
    }

    #[test]
    fn steps_take_less_than_twice_the_time_without_prompts() {
        // As measured of a model of 135 M parameters on two cores.
        let small = |n: f64, at: f64| (0.4 * n + at * 1e-3 * (1.1 + 0.9 * n)) * MS;
        let steps = slowdowns(8192, small);
        let mean = steps.iter().sum::<f64>() / steps.len() as f64;
        assert!((1.6..1.75).contains(&mean), "{mean}");
        let n_above = steps.iter().filter(|&&step| step > 2.0).count();
        // A token at the end takes as long as one and a half steps.
        assert!(n_above < steps.len() * 2 / 5 && steps.iter().all(|&step| step < 3.0));
        // Where tokens are cheap only the first steps, which know nothing yet, are longer.
        let steps = slowdowns(8192, |n, at| (0.1 * n + at * 1e-5 * (1.1 + 0.9 * n)) * MS);
        let n_above = steps.iter().filter(|&&step| step > 2.0).count();
        assert!(n_above <= 3, "{n_above} of {}", steps.len());
    }

    #[test]
    fn slices_grow_to_what_takes_the_time_that_there_is() {
        // Most of a slice's time does not depend on its length: 5 ms for one token, 7 for 9.
        let steps = slowdowns(2000, |n, _| (4.75 + 0.25 * n) * MS);
        assert!(steps.len() < 2000 / 9 + 50, "{} steps", steps.len());
    }

    #[test]
    fn a_slow_step_with_few_tokens_says_little_of_them() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        pace.measured(4, 0, ms(10));
        for _ in 0..4 {
            pace.measured(4, 64, ms(10 + 16));
        }
        let before = pace.token();
        pace.measured(4, 1, ms(100));
        assert!(pace.token() < before.map(|token| token * 1.2));
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
