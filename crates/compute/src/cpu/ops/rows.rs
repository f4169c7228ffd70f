//! What is done to one row at a time: norm, rotation, activation. Plain loops; the compiler makes
//! vectors of them, and never reorders a floating-point sum.

use crate::program::Pairing;

/// Independent partial sums of a reduction over a row, added in a fixed order at the end.
const LANES: usize = 16;

/// `out = x / sqrt(mean(x^2) + eps) * weight`, all of one length.
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let scale = 1.0 / (mean_square(x, 0.0) + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// `out = (x - m) / sqrt(mean((x - m)^2) + eps) * weight + bias` with m the mean, all of one length.
#[inline(always)]
pub(crate) fn layer_norm(x: &[f32], (weight, bias): (&[f32], &[f32]), eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == bias.len() && x.len() == out.len());
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x;
    }
    let mean = tree_sum(sums) / x.len() as f32;
    let scale = 1.0 / (mean_square(x, mean) + eps).sqrt();
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

/// `mean((x - center)^2)`.
#[inline(always)]
fn mean_square(x: &[f32], center: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = (x - center).mul_add(x - center, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = (x - center).mul_add(x - center, *sum);
    }
    tree_sum(sums) / x.len() as f32
}

/// Lane i and i + 8 first, then i and i + 4, 2, 1.
#[inline(always)]
pub(crate) fn tree_sum(mut x: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            x[i] += x[i + n];
        }
        n /= 2;
    }
    x[0]
}

/// `y += x`.
#[inline(always)]
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `gate = silu(gate) * up`, where `silu(x) = x / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// `gate = gelu(gate) * up`.
#[inline(always)]
pub(crate) fn gelu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    gelu(gate);
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate *= up;
    }
}

/// `gate = gate / (1 + exp(-alpha * gate)) * (up + 1)`, of a gate of at most the limit, and an up of
/// at most the limit in size.
#[inline(always)]
pub(crate) fn clamped_swiglu(gate: &mut [f32], up: &[f32], (alpha, limit): (f32, f32)) {
    assert_eq!(gate.len(), up.len());
    for (gate, up) in gate.iter_mut().zip(up) {
        // NaN fails every comparison and passes through.
        let g = if *gate > limit { limit } else { *gate };
        let u = if *up > limit { limit } else { *up };
        let u = if u < -limit { -limit } else { u };
        *gate = g / (1.0 + exp(-alpha * g)) * (u + 1.0);
    }
}

/// `x = x / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)`, written as
/// `x / (1 + exp(-2u))`.
#[inline(always)]
pub(crate) fn gelu(x: &mut [f32]) {
    const FACTOR: f32 = -1.595_769_2; // -2 sqrt(2 / pi)
    for x in x {
        *x /= 1.0 + exp(FACTOR * (*x + 0.044_715 * *x * *x * *x));
    }
}

/// `x = cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) fn soft_cap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * (1.0 - 2.0 / (1.0 + exp(2.0 * (*x / cap))));
    }
}

/// `x *= sigmoid(by)`.
#[inline(always)]
pub(crate) fn gate(x: &mut [f32], by: f32) {
    scale(x, 1.0 / (1.0 + exp(-by)));
}

/// `x *= factor`.
#[inline(always)]
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// e^x within 2 units in the last place; 0 below about -87.3 and infinity above about 88.7.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial whose coefficients are those of the
/// Taylor series to the seventh degree (its error there is below 1e-8), times 2^n.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // few bits: n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Beyond these the result is 0 or infinity. NaN fails both comparisons and passes through.
    let y = if x < -87.33 { -87.33 } else { x };
    let y = if y > 88.72 { 88.72 } else { y };
    let shifted = y.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = n.mul_add(-LN2_HIGH, y);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, c);
    }
    // 2^n in two factors, since n may be 128.
    let n = shifted.to_bits() as i32 - 12_582_912.0f32.to_bits() as i32;
    let (a, b) = (n >> 1, n - (n >> 1));
    let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    let result = p * power(a) * power(b);
    let result = if x < -87.33 { 0.0 } else { result };
    if x > 88.72 { f32::INFINITY } else { result }
}

/// Turns the first `2 * n_pairs` elements of a head; `turns` holds the cosines of all pairs, then
/// the sines.
#[inline(always)]
pub(crate) fn rotate(head: &mut [f32], turns: &[f32], pairing: Pairing) {
    let (cos, sin) = turns.split_at(turns.len() / 2);
    match pairing {
        Pairing::Adjacent => {
            let pairs = head.as_chunks_mut::<2>().0.iter_mut();
            for ((pair, cos), sin) in pairs.zip(cos).zip(sin) {
                let [a, b] = *pair;
                *pair = [a * cos - b * sin, a * sin + b * cos];
            }
        }
        Pairing::Halves => {
            let (low, high) = head.split_at_mut(cos.len());
            for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

/// Multiplies each `len` elements by the Hadamard matrix of that size, `(-1)^popcount(i & j) / sqrt(len)`,
/// which is its own inverse; `len` is 1 or a multiple of 16 that is a power of two.
#[inline(always)]
pub(crate) fn hadamard(x: &mut [f32], len: usize) {
    if len == 1 {
        return;
    }
    let factor = 1.0 / (len as f32).sqrt();
    for x in x.chunks_exact_mut(len) {
        let vectors = x.as_chunks_mut::<LANES>().0;
        for vector in &mut *vectors {
            let mut v = vector.map(|x| x * factor);
            for half in [1, 2, 4, 8] {
                v = std::array::from_fn(|i| match i & half {
                    0 => v[i] + v[i ^ half],
                    _ => v[i ^ half] - v[i],
                });
            }
            *vector = v;
        }
        let mut half = 1;
        while half < vectors.len() {
            for both in vectors.chunks_exact_mut(2 * half) {
                let (low, high) = both.split_at_mut(half);
                for (low, high) in low.iter_mut().zip(high) {
                    for (a, b) in low.iter_mut().zip(high) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
            }
            half *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut x = -87.3f32;
        while x < 88.7 {
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (got - want).abs() <= 2.5e-7 * want,
                "exp({x}) = {got}, expected {want}"
            );
            x += 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
