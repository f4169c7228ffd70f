//! Exponential and logarithm that give the same bits on every platform.
//!
//! The ones of the standard library are those of the platform's C library, which differ in their
//! last bits. Here only operations are used that IEEE 754 defines exactly. The error is below
//! 1e-14, far below what the f32 logits carry.

use std::f64::consts::{LN_2, LOG2_E};

/// 1/13!, 1/12!, ..., 1/0!: the series of e^x, highest power first.
const SERIES: [f64; 14] = {
    let mut series = [1.0; 14];
    let mut factorial = 1.0;
    let mut k = 1;
    while k < 14 {
        factorial *= k as f64;
        series[13 - k] = 1.0 / factorial;
        k += 1;
    }
    series
};

/// 2^n as a float, for n in -1022..=1023.
fn power_of_two(n: i64) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// e^x; 0 below -708 and infinite above 709.
pub(super) fn exp(x: f64) -> f64 {
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    if x < -708.0 {
        return 0.0;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    // x = n ln 2 + r with |r| <= ln 2 / 2; the series of e^r needs 13 terms for 1e-16.
    let n = (x * LOG2_E).round_ties_even();
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut sum = 0.0;
    for coefficient in SERIES {
        sum = sum * r + coefficient;
    }
    sum * power_of_two(n as i64)
}

/// The natural logarithm; -inf for 0, not a number below it.
pub(super) fn ln(x: f64) -> f64 {
    if x <= 0.0 || !x.is_finite() {
        return match x {
            0.0 => f64::NEG_INFINITY,
            f64::INFINITY => f64::INFINITY,
            _ => f64::NAN,
        };
    }
    if x < f64::MIN_POSITIVE {
        return ln(x * power_of_two(100)) - 100.0 * LN_2;
    }
    // x = 2^n m with m in sqrt(1/2)..sqrt(2), and ln m = 2 atanh((m - 1) / (m + 1)).
    let mut n = ((x.to_bits() >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits((x.to_bits() & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m /= 2.0;
        n += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let s_squared = s * s;
    let mut sum = 0.0;
    for k in (0..=10).rev() {
        sum = sum * s_squared + 1.0 / f64::from(2 * k + 1);
    }
    n as f64 * LN_2 + 2.0 * s * sum
}

/// x^y for x >= 0.
pub(super) fn pow(x: f64, y: f64) -> f64 {
    if y == 0.0 { 1.0 } else { exp(y * ln(x)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_c_library() {
        for i in -70_000..=70_000 {
            let x = f64::from(i) / 100.0;
            assert!(
                (exp(x) / x.exp() - 1.0).abs() < 1e-14,
                "{x}: {} {}",
                exp(x),
                x.exp()
            );
            let y = x.exp();
            assert!(
                (ln(y) - y.ln()).abs() < 1e-14 * y.ln().abs().max(1.0),
                "{y}"
            );
        }
        assert_eq!(
            (exp(0.0), exp(f64::NEG_INFINITY), exp(1e9)),
            (1.0, 0.0, f64::INFINITY)
        );
        assert_eq!(
            (ln(1.0), ln(0.0), ln(f64::INFINITY)),
            (0.0, f64::NEG_INFINITY, f64::INFINITY)
        );
        assert!((ln(5e-324) - 5e-324f64.ln()).abs() < 1e-11);
        assert!(exp(f64::NAN).is_nan() && ln(f64::NAN).is_nan() && ln(-1.0).is_nan());
        assert_eq!((pow(0.0, 0.0), pow(0.0, 2.0)), (1.0, 0.0));
        assert!((pow(1.75, 10.0) / 1.75f64.powi(10) - 1.0).abs() < 1e-13);
    }
}
