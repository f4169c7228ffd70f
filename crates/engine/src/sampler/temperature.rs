//! Divides the logits by the temperature; 0 or less keeps the most probable token alone.
//!
//! With a range, the temperature follows the entropy of what is left: certain where the model is,
//! inventive where it has a choice ("dynamic temperature", by kalomaze,
//! <https://github.com/ggml-org/llama.cpp/pull/4972>):
//! `low + (high - low) * (entropy / greatest possible entropy)^exponent`.

use super::candidates::{Candidates, bounded};
use super::math::{ln, pow};
use super::{SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.temperature != 1.0 || params.dynatemp_range > 0.0
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, _: &mut State) {
    let mut temperature = f64::from(params.temperature);
    if params.dynatemp_range > 0.0 {
        if candidates.items.len() < 2 {
            return;
        }
        let range = f64::from(params.dynatemp_range);
        let low = (temperature - range).max(0.0);
        let high = (temperature + range).max(0.0);
        candidates.softmax();
        let ps = candidates
            .items
            .iter()
            .map(|item| f64::from(item.p))
            .filter(|p| *p > 0.0);
        let entropy: f64 = ps.map(|p| -p * ln(p)).sum();
        let share = (entropy / ln(candidates.items.len() as f64)).clamp(0.0, 1.0);
        temperature = low + (high - low) * pow(share, f64::from(params.dynatemp_exponent));
    }
    if temperature <= 0.0 {
        candidates.keep_best(1);
        return;
    }
    if temperature == 1.0 {
        return;
    }
    // From the greatest logit down: it is what stays exact if the quotients grow very large.
    let max = f64::from(candidates.max_logit());
    for item in &mut candidates.items {
        item.logit = bounded((f64::from(item.logit) - max) / temperature);
    }
}
