//! "Don't repeat yourself": a penalty on tokens that would prolong a repetition.
//!
//! By p-e-w, <https://github.com/oobabooga/text-generation-webui/pull/5677>. If the last n tokens
//! already occurred before, the token that came after them there loses
//! `multiplier * base^(n - allowed_length)`, for n of at least the allowed length. A repetition
//! does not reach back over a sequence breaker.

use std::collections::HashMap;

use super::candidates::Candidates;
use super::history::window;
use super::math::pow;
use super::{Mirostat, SamplingParams, State};

/// The breakers, and memory that is used again at each step.
#[derive(Debug, Clone, Default)]
pub(super) struct Dry {
    /// By the first token of a breaker: the rest of it.
    breakers: HashMap<u32, Vec<Vec<u32>>>,
    newest: Vec<u32>,
    repeats: Vec<usize>,
    /// By token: the longest repetition that it would prolong.
    longest: HashMap<u32, usize>,
}

impl Dry {
    pub(super) fn new(breakers: &[Vec<u32>]) -> Self {
        let mut dry = Self::default();
        for breaker in breakers {
            if let Some((&head, tail)) = breaker.split_first() {
                dry.breakers.entry(head).or_default().push(tail.to_vec());
            }
        }
        dry
    }

    /// How many of the last tokens come after the last breaker.
    fn n_after_breaker(&self) -> usize {
        let starts_at = |idx: usize| {
            let tails = self.breakers.get(&self.newest[idx])?;
            let fitting = tails.iter().filter(|tail| {
                tail.len() <= idx
                    && tail
                        .iter()
                        .eq(self.newest[..idx].iter().rev().take(tail.len()))
            });
            fitting.map(|tail| idx - tail.len()).min()
        };
        (0..self.newest.len())
            .find_map(starts_at)
            .unwrap_or(self.newest.len())
    }

    /// Fills `repeats`: how many tokens before and at each place agree with the last ones.
    ///
    /// With the newest token first these are the lengths of common beginnings, which the
    /// Z-algorithm finds in linear time (Gusfield, "Algorithms on strings, trees, and sequences",
    /// 1997).
    fn find_repeats(&mut self) {
        let tokens = &self.newest;
        self.repeats.clear();
        self.repeats.resize(tokens.len(), 0);
        let (mut start, mut end) = (0, 0);
        for idx in 1..tokens.len() {
            let mut n = if idx < end {
                self.repeats[idx - start].min(end - idx)
            } else {
                0
            };
            while idx + n < tokens.len() && tokens[n] == tokens[idx + n] {
                n += 1;
            }
            self.repeats[idx] = n;
            if idx + n > end {
                (start, end) = (idx, idx + n);
            }
        }
    }
}

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off
        && params.dry_multiplier != 0.0
        && params.dry_base >= 1.0
        && params.dry_penalty_last_n != 0
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, state: &mut State) {
    let allowed = params.dry_allowed_length as usize;
    let dry = &mut state.dry;
    dry.newest.clear();
    dry.newest
        .extend(state.history.newest(window(params.dry_penalty_last_n)));
    let limit = dry.n_after_breaker();
    if dry.newest.len() <= allowed || limit < allowed {
        return;
    }
    dry.find_repeats();
    dry.longest.clear();
    for idx in 1..dry.newest.len() {
        let n = dry.repeats[idx].min(limit);
        if n >= allowed {
            let longest = dry.longest.entry(dry.newest[idx - 1]).or_insert(0);
            *longest = n.max(*longest);
        }
    }
    for (&token, &n) in &dry.longest {
        let is_breaker = dry
            .breakers
            .get(&token)
            .is_some_and(|tails| tails.iter().any(Vec::is_empty));
        if !is_breaker {
            let growth = pow(f64::from(params.dry_base), (n - allowed) as f64);
            candidates.change(token, |logit| {
                logit - f64::from(params.dry_multiplier) * growth
            });
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::needless_pass_by_value,
    reason = "quickcheck calls properties by value"
)]
mod tests {
    use super::super::Sampler;
    use super::*;

    fn penalties(tokens: &[u32], breakers: &[Vec<u32>], allowed: u32) -> Vec<f32> {
        let params = SamplingParams {
            dry_multiplier: 1.0,
            dry_base: 2.0,
            dry_allowed_length: allowed,
            ..SamplingParams::neutral()
        };
        let mut sampler = Sampler::new(&params, 6, breakers).unwrap();
        tokens.iter().for_each(|token| sampler.accept(*token));
        let mut candidates = Candidates::default();
        candidates.load(&[0.0; 6]);
        apply(&mut candidates, &params, &mut sampler.state);
        candidates
            .items
            .iter()
            .map(|item| (-item.logit).round())
            .collect()
    }

    #[test]
    fn prolonging_a_repetition_costs() {
        // a b c | c b c y a b c: "abc" came before c, "bc" before y.
        let (a, b, c, y) = (0, 1, 2, 3);
        let tokens = [a, b, c, c, b, c, y, a, b, c];
        assert_eq!(penalties(&tokens, &[], 2), [0.0, 0.0, 2.0, 1.0, 0.0, 0.0]);
        assert_eq!(penalties(&tokens, &[], 1), [0.0, 1.0, 4.0, 2.0, 0.0, 0.0]);
        // A breaker: nothing before the last a counts.
        assert_eq!(
            penalties(&tokens, &[vec![a]], 2),
            [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
        );
        assert_eq!(penalties(&tokens, &[vec![a, b]], 2), [0.0; 6]);
        // A token that is a breaker itself is never penalized.
        assert_eq!(
            penalties(&tokens, &[vec![y]], 2),
            [0.0, 0.0, 2.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn repeats_agree_with_the_plain_definition() {
        fn property(tokens: Vec<u8>) -> bool {
            let newest = tokens.iter().map(|token| u32::from(token % 3)).collect();
            let mut dry = Dry {
                newest,
                ..Dry::default()
            };
            dry.find_repeats();
            (1..dry.newest.len()).all(|idx| {
                let pairs = dry.newest.iter().zip(&dry.newest[idx..]);
                dry.repeats[idx] == pairs.take_while(|(a, b)| a == b).count()
            })
        }
        quickcheck::quickcheck(property as fn(Vec<u8>) -> bool);
    }

    #[test]
    fn endless_repetition_is_bounded() {
        let penalties = penalties(&[1; 3000], &[], 2);
        assert!(penalties.iter().all(|penalty| penalty.is_finite()));
        assert!(penalties[1] > 1e9);
    }
}
