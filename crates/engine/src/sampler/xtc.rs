//! "Exclude top choices": now and then removes all but the least of the probable tokens.
//!
//! By p-e-w, <https://github.com/oobabooga/text-generation-webui/pull/6335>.

use super::candidates::Candidates;
use super::{Mirostat, SamplingParams, State};

pub(super) fn is_active(params: &SamplingParams) -> bool {
    params.mirostat == Mirostat::Off && params.xtc_probability > 0.0 && params.xtc_threshold <= 0.5
}

pub(super) fn apply(candidates: &mut Candidates, params: &SamplingParams, state: &mut State) {
    if candidates.items.len() < 2 || state.rng.uniform() >= f64::from(params.xtc_probability) {
        return;
    }
    candidates.softmax();
    let probable = || {
        candidates
            .items
            .iter()
            .filter(|item| item.p >= params.xtc_threshold)
    };
    let n_removed = probable().count().saturating_sub(1);
    if n_removed == 0 || candidates.items.len() - n_removed < params.min_keep as usize {
        return;
    }
    let least = probable().min_by(|a, b| a.p.total_cmp(&b.p).then(b.token.cmp(&a.token)));
    let least = least.expect("at least two are probable").token;
    candidates
        .items
        .retain(|item| item.p < params.xtc_threshold || item.token == least);
}

#[cfg(test)]
mod tests {
    use super::super::Sampler;
    use super::*;

    #[test]
    fn the_least_of_the_probable_stays() {
        let params = SamplingParams {
            xtc_probability: 1.0,
            xtc_threshold: 0.2,
            ..SamplingParams::neutral()
        };
        let mut state = Sampler::new(&params, 4, &[]).unwrap().state;
        let mut candidates = Candidates::default();
        candidates.load(&[0.4f32.ln(), 0.25f32.ln(), 0.3f32.ln(), 0.05f32.ln()]);
        apply(&mut candidates, &params, &mut state);
        let tokens: Vec<u32> = candidates.items.iter().map(|item| item.token).collect();
        assert_eq!(tokens, [1, 3]);
    }
}
