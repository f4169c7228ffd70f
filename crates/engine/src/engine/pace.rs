//! How long prompts are computed between two steps of the streams that run.
//!
//! Two tokens of a stream should be less than twice as far apart as without prompts: as with as many
//! sequences as there will be soon, since that is what a stream's steps take when short prompts are
//! in; few streams don't keep many from beginning. So after each step of decoding prompts get a part
//! of what such a step takes. What they take more or less is settled with the next ones, so that the
//! mean holds however wrong a guess was.
//!
//! Without streams prompts are computed until requests should be looked at again. What is computed
//! together in which order does not change any answer, so that times may decide about it.

use std::time::Duration;

/// The mean distance of two tokens, as a multiple of one without prompts. Twice is the aim; times vary, and a step
/// that follows prompts finds less in the caches.
const MAX_SLOWDOWN: f64 = 1.4;
/// The same while short prompts come in, which is soon over: nearer to twice, so that they begin sooner.
const MAX_SHORT_SLOWDOWN: f64 = 1.9;
/// How long prompts are computed before requests that were cancelled are noticed, where nothing
/// decodes.
const MAX_TIME: f64 = 0.05; // seconds
/// How long the parts of prompts that are in work together may take in all: others wait for them.
const MAX_WORK: f64 = 0.25; // seconds
/// The most that prompts pay back, as a multiple of what they get after a step.
const MAX_DEBT: f64 = 8.0;
/// How much a new time counts.
const WEIGHT: f64 = 0.1;
/// Tokens of prompts that are worked on together, before anything was measured; never fewer where they
/// can be left in the middle.
const MIN_TOKENS: usize = 64;

/// Measured times, in seconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of a step of decoding, by the number of sequences.
    decode: Vec<Mean>,
    /// Of a prompt's token, computed with many others.
    token: Mean,
    /// The same of few tokens, which take longer, for as long as nothing else was measured.
    token_of_few: Option<f64>,
    /// What prompts may take now.
    credit: f64,
}

impl Pace {
    /// How long prompts may be computed after a step of `n_decoding` sequences, where there will be
    /// `n_to_come` soon.
    pub(super) fn time_for_prompts(&mut self, n_decoding: usize, n_to_come: usize) -> Duration {
        if n_decoding == 0 {
            self.credit = 0.0;
            return Duration::from_secs_f64(MAX_TIME);
        }
        let decode = self.decode_time(n_decoding);
        // What was measured of more sequences may be of shorter ones, and old: never less than of these.
        let to_come = self.decode_time(n_to_come.max(n_decoding)).max(decode);
        let slowdown = match n_to_come > n_decoding {
            true => MAX_SHORT_SLOWDOWN,
            false => MAX_SLOWDOWN,
        };
        let allowed = slowdown * to_come - decode;
        // What was too little is not saved: a pause would follow. What was far too much, as where a file
        // is read for the first time, is not paid for in full: prompts would wait for long.
        self.credit = (self.credit.max(-MAX_DEBT * allowed) + allowed).min(allowed);
        Duration::from_secs_f64(self.credit.max(0.0))
    }

    /// Most tokens of prompts that should be worked on together. Where nobody waits for them, since
    /// nothing decodes or they can be left in the middle, these may be many; else as many as take
    /// `time`.
    pub(super) fn max_tokens(&self, time: Duration, nobody_waits: bool) -> usize {
        let Some(token) = self.token_time() else {
            return MIN_TOKENS;
        };
        match nobody_waits {
            true => ((MAX_WORK / token) as usize).max(MIN_TOKENS),
            false => ((time.as_secs_f64() / token) as usize).max(1),
        }
    }

    /// A step of decoding took so long.
    pub(super) fn decoded(&mut self, n_sequences: usize, time: Duration) {
        if self.decode.len() <= n_sequences {
            self.decode.resize(n_sequences + 1, Mean::default());
        }
        self.decode[n_sequences].add(time.as_secs_f64());
    }

    /// Prompts were worked on for so long.
    pub(super) fn prompts_took(&mut self, time: Duration) {
        self.credit -= time.as_secs_f64();
    }

    /// Parts of prompts are computed, and took so long in all.
    pub(super) fn prompts_ended(&mut self, n_tokens: usize, time: Duration) {
        let token = time.as_secs_f64() / n_tokens as f64;
        match n_tokens >= MIN_TOKENS {
            true => self.token.add(token),
            false => self.token_of_few = Some(token),
        }
    }

    fn token_time(&self) -> Option<f64> {
        self.token.get().or(self.token_of_few)
    }

    /// Of the nearest number of sequences that was measured, and of a token for each one more.
    fn decode_time(&self, n_sequences: usize) -> f64 {
        let measured = self.decode.iter().enumerate();
        let measured = measured.filter_map(|(n, time)| Some((n, time.get()?)));
        let nearest = measured.min_by_key(|(n, _)| n.abs_diff(n_sequences));
        let (n, time) = nearest.unwrap_or((0, 0.0));
        let n_more = n_sequences.saturating_sub(n);
        time + self.token_time().unwrap_or(0.0) * n_more as f64
    }
}

/// A mean in which new times count more than old ones. The first ones count alike, since the very first
/// often took longer: what it needed was not in memory.
#[derive(Debug, Default, Clone, Copy)]
struct Mean {
    value: f64,
    n: u32,
}

impl Mean {
    fn add(&mut self, time: f64) {
        self.n = self.n.saturating_add(1);
        self.value += WEIGHT.max(1.0 / f64::from(self.n)) * (time - self.value);
    }

    /// `None` before the first time.
    fn get(&self) -> Option<f64> {
        (self.n > 0).then_some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e-3;

    fn ms(time: f64) -> Duration {
        Duration::from_secs_f64(time * MS)
    }

    #[test]
    fn a_slow_beginning_is_soon_forgotten() {
        let mut pace = Pace::default();
        // A few tokens with a file that is read for the first time.
        pace.prompts_ended(10, ms(60.0));
        pace.decoded(1, ms(40.0));
        for _ in 0..3 {
            pace.prompts_ended(160, ms(100.0));
            pace.decoded(1, ms(4.0));
        }
        // Seven more of 0.625 ms after one of 13.
        let allowed = pace.time_for_prompts(1, 8);
        assert!(allowed < ms(21.0), "{allowed:?}");
    }

    #[test]
    fn tokens_are_less_than_twice_as_far_apart_as_without_prompts() {
        let decode = 10.0;
        // A kernel goes on for up to 2 ms after its time is over.
        for late in [0.0, 0.3, 2.0] {
            let mut pace = Pace::default();
            let mut gaps = Vec::new();
            for i in 0..1000 {
                pace.decoded(1, ms(decode));
                let time = pace.time_for_prompts(1, 1);
                let took = match time.is_zero() {
                    true => 0.0,
                    false => time.as_secs_f64() / MS + late * f64::from(i % 7) / 6.0,
                };
                pace.prompts_took(ms(took));
                gaps.push((decode + took) / decode);
            }
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            assert!((1.39..1.41).contains(&mean), "{mean}");
            assert!(gaps.iter().all(|gap| *gap < 2.0));
        }
    }

    #[test]
    fn a_backend_that_cannot_pause_keeps_the_mean() {
        // Most of the time does not depend on the number of tokens.
        let mut pace = Pace::default();
        let (mut sum, mut n_tokens) = (0.0, 0);
        for _ in 0..1000 {
            pace.decoded(1, ms(10.0));
            let time = pace.time_for_prompts(1, 1);
            let mut took = 0.0;
            if !time.is_zero() {
                let n = pace.max_tokens(time, false);
                took = 5.0 + 0.25 * n as f64;
                pace.prompts_took(ms(took));
                pace.prompts_ended(n, ms(took));
                n_tokens += n;
            }
            sum += 10.0 + took;
        }
        assert!((1.35..1.45).contains(&(sum / 1e4)), "{sum}");
        assert!(n_tokens > 1000, "{n_tokens}");
    }

    #[test]
    fn a_stall_does_not_keep_prompts_waiting_for_long() {
        let mut pace = Pace::default();
        pace.decoded(1, ms(10.0));
        let time = pace.time_for_prompts(1, 1);
        pace.prompts_took(time + ms(60_000.0));
        let n_steps = (0..100).take_while(|_| pace.time_for_prompts(1, 1).is_zero());
        assert!((4..12).contains(&n_steps.count()));
    }

    #[test]
    fn what_others_wait_for_is_short() {
        let mut pace = Pace::default();
        assert_eq!(pace.max_tokens(ms(5.0), true), MIN_TOKENS);
        pace.prompts_ended(512, ms(512.0));
        assert_eq!(pace.max_tokens(ms(5.0), true), 250);
        assert_eq!(pace.max_tokens(ms(5.0), false), 5);
        pace.prompts_ended(512, ms(512.0 * 1000.0));
        assert_eq!(pace.max_tokens(ms(5.0), true), MIN_TOKENS);
    }

    #[test]
    fn a_long_stream_keeps_nobody_from_beginning() {
        let mut pace = Pace::default();
        pace.decoded(2, ms(10.0));
        for _ in 0..100 {
            pace.decoded(1, ms(50.0));
        }
        assert_eq!(pace.time_for_prompts(1, 2), ms(45.0));
    }

    #[test]
    fn few_streams_do_not_keep_many_from_beginning() {
        let mut pace = Pace::default();
        pace.decoded(1, ms(10.0));
        pace.decoded(16, ms(30.0));
        let alone = pace.time_for_prompts(1, 1);
        assert_eq!(alone, ms(4.0));
        let before_many = pace.time_for_prompts(1, 16);
        assert_eq!(before_many, ms(47.0));
    }
}
