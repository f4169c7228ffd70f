//! Keeps the k most probable tokens.
//!
//! Fan et al., "Hierarchical Neural Story Generation" (2018), <https://arxiv.org/abs/1805.04833>.

use super::candidates::Candidates;
use super::{Mirostat, SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off && params.top_k > 0
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, _: &mut State) {
    if params.top_k > 0 {
        candidates.keep_best(params.top_k as usize);
    }
}
