//! A mixture of experts: the choice for each token, and the sum of what its experts answer.

use super::rows::exp;

/// The experts with the largest scores, best first, the first of equals; and their shares, which are
/// the softmax over all scores, or over the chosen ones if it `normalizes`.
#[inline(always)]
pub(crate) fn route(scores: &[f32], normalizes: bool, experts: &mut [u32], shares: &mut [f32]) {
    for rank in 0..experts.len() {
        let (before, rest) = experts.split_at_mut(rank);
        let mut best: Option<usize> = None;
        for (i, score) in scores.iter().enumerate() {
            if best.is_none_or(|best| *score > scores[best]) && !before.contains(&(i as u32)) {
                best = Some(i);
            }
        }
        rest[0] = best.expect("there are more experts than are used") as u32;
    }
    let max = scores[experts[0] as usize];
    let mut sum = 0.0;
    for (share, expert) in shares.iter_mut().zip(&*experts) {
        *share = exp(scores[*expert as usize] - max);
        sum += *share;
    }
    if !normalizes {
        sum = scores.iter().map(|score| exp(score - max)).sum();
    }
    for share in shares {
        *share /= sum;
    }
}

/// `out += share * x`.
#[inline(always)]
pub(crate) fn add_share(out: &mut [f32], x: &[f32], share: f32) {
    assert_eq!(out.len(), x.len());
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.mul_add(share, *out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_chosen_in_order() {
        let scores = [0.5, 2.0, f32::NAN, 2.0, 1.0];
        let (mut experts, mut shares) = ([0; 3], [0.0; 3]);
        route(&scores, true, &mut experts, &mut shares);
        assert_eq!(experts, [1, 3, 4]);
        let sum = 2.0 + (-1.0f32).exp();
        for (share, wanted) in shares.into_iter().zip([1.0, 1.0, (-1.0f32).exp()]) {
            assert!((share - wanted / sum).abs() < 1e-6);
        }
        route(&scores[..2], false, &mut experts[..1], &mut shares[..1]);
        assert!((shares[0] - 1.0 / (1.0 + (-1.5f32).exp())).abs() < 1e-6);
        // Not a number is a number of no expert, but someone must be chosen.
        route(&[f32::NAN; 4], true, &mut experts, &mut shares);
        assert_eq!(experts, [0, 1, 2]);
    }
}
