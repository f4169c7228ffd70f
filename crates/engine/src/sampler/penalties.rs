//! Penalties on tokens that occurred among the last ones: repetition, presence and frequency.
//!
//! Repetition: Keskar et al., "CTRL" (2019), <https://arxiv.org/abs/1909.05858>; there a logit is
//! divided, which would favor a token with a negative one, so such logits are multiplied. Presence
//! and frequency are those of OpenAI's API.

use super::candidates::Candidates;
use super::{Mirostat, SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off
        && params.penalty_last_n != 0
        && (params.repeat_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0)
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, state: &mut State) {
    let repeat = f64::from(params.repeat_penalty);
    for (token, count) in state.history.counts() {
        candidates.change(token, |logit| {
            let repeated = if logit <= 0.0 {
                logit * repeat
            } else {
                logit / repeat
            };
            repeated
                - f64::from(count) * f64::from(params.frequency_penalty)
                - f64::from(params.presence_penalty)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sampler;
    use super::*;

    #[test]
    fn formula() {
        let params = SamplingParams {
            repeat_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            penalty_last_n: 3,
            ..SamplingParams::neutral()
        };
        let mut sampler = Sampler::new(&params, 4, &[]).unwrap();
        // The first one has left the window.
        for token in [3, 0, 1, 1] {
            sampler.accept(token);
        }
        let mut candidates = Candidates::default();
        candidates.load(&[2.0, -2.0, 1.0, 1.0]);
        apply(&mut candidates, &params, &mut sampler.state);
        let logits: Vec<f32> = candidates.items.iter().map(|item| item.logit).collect();
        assert_eq!(logits, [0.25, -5.0, 1.0, 1.0]);
    }
}
