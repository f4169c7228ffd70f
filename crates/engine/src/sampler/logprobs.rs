//! Log-probabilities of the model's own distribution, before any stage.

use super::candidates::{Candidates, bounded};
use super::math::{exp, ln};

/// The log-probability of a token and of the best ones.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token asked for; `-inf` if it is masked.
    pub logprob: f32,
    /// The most probable tokens, the best first; of equals, the lower token first. Masked tokens
    /// are left out.
    pub top: Vec<(u32, f32)>,
}

/// The natural logarithm of the softmax over all logits, for `token` and the `n_top` best.
///
/// A logit that is `-inf` or not a number masks its token.
///
/// # Panics
/// If there is no logit for `token`.
pub fn logprobs(logits: &[f32], token: u32, n_top: usize) -> TokenLogprobs {
    let unmasked = || {
        logits
            .iter()
            .filter(|l| **l > f32::NEG_INFINITY)
            .map(|l| f64::from(bounded(f64::from(*l))))
    };
    let max = unmasked().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + ln(unmasked().map(|logit| exp(logit - max)).sum());
    let logit = logits[token as usize];
    let logprob = match logit > f32::NEG_INFINITY {
        true => (f64::from(bounded(f64::from(logit))) - log_sum) as f32,
        false => f32::NEG_INFINITY,
    };
    let mut top = Vec::new();
    if n_top > 0 {
        let mut candidates = Candidates::default();
        candidates.load(logits);
        candidates.keep_best(n_top);
        candidates.keep_until(|_, _| false);
        let items = candidates.items.iter();
        top.extend(items.map(|item| (item.token, (f64::from(item.logit) - log_sum) as f32)));
    }
    TokenLogprobs { logprob, top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax() {
        let logits = [1.0f32, f32::NAN, 3.0, f32::NEG_INFINITY, 3.0];
        let sum = 1.0f64.exp() + 2.0 * 3.0f64.exp();
        let wanted = |logit: f64| (logit - sum.ln()) as f32;
        let found = logprobs(&logits, 0, 9);
        assert_eq!(found.logprob, wanted(1.0));
        assert_eq!(
            found.top,
            [(2, wanted(3.0)), (4, wanted(3.0)), (0, wanted(1.0))]
        );
        assert_eq!(logprobs(&logits, 1, 0).logprob, f32::NEG_INFINITY);
        assert_eq!(logprobs(&logits, 3, 1).top, [(2, wanted(3.0))]);
        let masked = logprobs(&[f32::NAN; 3], 0, 2);
        assert_eq!((masked.logprob, masked.top), (f32::NEG_INFINITY, vec![]));
    }
}
