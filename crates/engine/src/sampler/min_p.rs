//! Keeps the tokens with at least a given share of the best token's probability.
//!
//! Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs"
//! (2024), <https://arxiv.org/abs/2407.01082>.

use super::candidates::Candidates;
use super::math::ln;
use super::{Mirostat, SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off && params.min_p > 0.0
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, _: &mut State) {
    // p >= share * p_max, in logits.
    let least = f64::from(candidates.max_logit()) + ln(f64::from(params.min_p));
    let is_kept = |logit: f32| f64::from(logit) >= least;
    let n_kept = candidates
        .items
        .iter()
        .filter(|item| is_kept(item.logit))
        .count();
    if n_kept >= params.min_keep as usize {
        candidates.items.retain(|item| is_kept(item.logit));
    } else {
        candidates.keep_best(params.min_keep as usize);
    }
}
