//! Keeps the tokens whose information is closest to the entropy, up to a sum of probability.
//!
//! Meister et al., "Locally Typical Sampling" (2022), <https://arxiv.org/abs/2202.00666>.

use super::candidates::Candidates;
use super::math::{exp, ln};
use super::{Mirostat, SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off && params.typical_p < 1.0
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, _: &mut State) {
    if params.typical_p >= 1.0 {
        return;
    }
    candidates.softmax();
    let max = f64::from(candidates.max_logit());
    // With Z the sum of e^logit: -ln p = ln Z - logit, and the entropy is the mean of that.
    let log_z = ln(candidates
        .items
        .iter()
        .map(|item| exp(f64::from(item.logit) - max))
        .sum())
        + max;
    let items = candidates.items.iter().filter(|item| item.p > 0.0);
    let entropy: f64 = items
        .map(|item| f64::from(item.p) * (log_z - f64::from(item.logit)))
        .sum();
    let distance = |logit: f32| (log_z - f64::from(logit) - entropy).abs();
    let mut sum = 0.0;
    candidates.keep_until_by(
        |a, b| {
            let order = distance(a.logit).total_cmp(&distance(b.logit));
            order
                .then(b.logit.total_cmp(&a.logit))
                .then(a.token.cmp(&b.token))
        },
        |idx, item| {
            sum += item.p;
            sum > params.typical_p && idx + 1 >= params.min_keep as usize
        },
    );
}
