//! Adds the caller's bias to single logits; `-inf` forbids a token.

use super::candidates::Candidates;
use super::{SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    !params.logit_bias.is_empty()
}

/// Sums up the biases of each token, and orders them.
pub(super) fn merge(biases: &mut Vec<(u32, f32)>) {
    biases.sort_unstable_by_key(|(token, _)| *token);
    biases.dedup_by(|later, first| {
        let is_same = later.0 == first.0;
        if is_same {
            first.1 += later.1;
        }
        is_same
    });
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, _: &mut State) {
    for &(token, bias) in &params.logit_bias {
        candidates.change(token, |logit| logit + f64::from(bias));
    }
    let forbidden = |token: u32| {
        let found = params
            .logit_bias
            .binary_search_by_key(&token, |(token, _)| *token);
        found.is_ok_and(|idx| params.logit_bias[idx].1 == f32::NEG_INFINITY)
    };
    if params
        .logit_bias
        .iter()
        .any(|(_, bias)| *bias == f32::NEG_INFINITY)
    {
        candidates.items.retain(|item| !forbidden(item.token));
    }
}
