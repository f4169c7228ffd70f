//! Keeps the most probable tokens, up to a sum of probability ("nucleus").
//!
//! Holtzman et al., "The Curious Case of Neural Text Degeneration" (2019),
//! <https://arxiv.org/abs/1904.09751>.

use super::candidates::Candidates;
use super::{Mirostat, SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off && params.top_p < 1.0
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, _: &mut State) {
    if params.top_p >= 1.0 {
        return;
    }
    candidates.softmax();
    let mut sum = 0.0;
    candidates.keep_until(|idx, item| {
        sum += item.p;
        sum >= params.top_p && idx + 1 >= params.min_keep as usize
    });
}
