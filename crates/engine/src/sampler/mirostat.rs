//! Mirostat: keeps the surprise of the text at a target, in place of the filters.
//!
//! Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity"
//! (2020), <https://arxiv.org/abs/2007.14966>. Version 1 estimates the exponent of Zipf's law from
//! the most probable tokens and takes from it how many tokens to keep; version 2 keeps the tokens
//! with a surprise of at most mu. Both then move mu by the error of what was drawn.

use super::candidates::Candidates;
use super::math::{ln, pow};
use super::{Mirostat, SamplingParams, State};

/// How many tokens the estimate looks at, as in the paper.
const N_ESTIMATED: usize = 100;

pub(super) fn is_active_1(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::V1
}

pub(super) fn is_active_2(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::V2
}

pub(super) fn apply_1(candidates: &mut Candidates, _: &SamplingParams, state: &mut State) {
    candidates.softmax();
    let mut top = [0.0f64; N_ESTIMATED];
    let n_top = candidates.best_logits(&mut top);
    // The least squares fit of s in p_i ~ i^-s.
    let (mut sum_tb, mut sum_tt) = (0.0, 0.0);
    for (idx, pair) in top[..n_top].windows(2).enumerate() {
        let t = ln((idx + 2) as f64 / (idx + 1) as f64);
        sum_tb += t * (pair[0] - pair[1]);
        sum_tt += t * t;
    }
    if sum_tt == 0.0 {
        return;
    }
    let s = sum_tb / sum_tt;
    let epsilon = s - 1.0;
    let k = pow(
        epsilon * pow(2.0, state.mu) / (1.0 - pow(state.n_vocab as f64, -epsilon)),
        1.0 / s,
    );
    // Where the law does not fit (a flat distribution, say), nothing can be said: keep all.
    if !k.is_nan() {
        candidates.keep_best(k as usize);
    }
}

pub(super) fn apply_2(candidates: &mut Candidates, _: &SamplingParams, state: &mut State) {
    candidates.softmax();
    let is_kept = |p: f32| -ln(f64::from(p)) / std::f64::consts::LN_2 <= state.mu;
    if candidates.items.iter().any(|item| is_kept(item.p)) {
        candidates.items.retain(|item| is_kept(item.p));
    } else {
        candidates.keep_best(1);
    }
}

/// Learns from the probability of the token that was drawn.
pub(super) fn observe(params: &SamplingParams, state: &mut State, p: f32) {
    if params.mirostat != Mirostat::Off {
        let surprise = -ln(f64::from(p)) / std::f64::consts::LN_2;
        let error = surprise - f64::from(params.mirostat_tau);
        state.mu -= f64::from(params.mirostat_eta) * error;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sampler;
    use super::*;

    /// Over a long text the mean surprise comes to the target.
    #[test]
    fn surprise_comes_to_the_target() {
        let logits: Vec<f32> = (0..5000).map(|i| -((i + 1) as f32).ln()).collect();
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for mirostat in [Mirostat::V1, Mirostat::V2] {
            let params = SamplingParams {
                seed: Some(3),
                mirostat,
                mirostat_tau: 4.0,
                temperature: 1.0,
                ..SamplingParams::neutral()
            };
            let mut sampler = Sampler::new(&params, logits.len(), &[]).unwrap();
            let mut mean = 0.0;
            for _ in 0..1000 {
                let token = sampler.sample(&logits).unwrap();
                let p = f64::from(logits[token as usize]).exp() / total;
                mean -= p.log2() / 1000.0;
            }
            // The target is of the kept tokens' distribution; of the whole one it is higher.
            assert!((3.0..6.0).contains(&mean), "{mirostat:?}: {mean}");
        }
    }
}
