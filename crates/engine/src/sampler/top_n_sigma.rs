//! Keeps the tokens whose logits are within n standard deviations of the best one.
//!
//! Tang et al., "Top-nσ: Not All Logits Are You Need" (2024), <https://arxiv.org/abs/2411.07641>.

use super::candidates::Candidates;
use super::{Mirostat, SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off && params.top_n_sigma > 0.0
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, _: &mut State) {
    if params.top_n_sigma <= 0.0 {
        return;
    }
    let n = candidates.items.len() as f64;
    let logits = || candidates.items.iter().map(|item| f64::from(item.logit));
    let mean = logits().sum::<f64>() / n;
    let sigma = (logits()
        .map(|logit| (logit - mean) * (logit - mean))
        .sum::<f64>()
        / n)
        .sqrt();
    let least = f64::from(candidates.max_logit()) - f64::from(params.top_n_sigma) * sigma;
    candidates
        .items
        .retain(|item| f64::from(item.logit) >= least);
}
