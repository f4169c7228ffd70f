//! The most that an instruction set can do: multiply what the nearest cache holds, and read memory.
//!
//! For benchmarks, which say what share of it other kernels reach. What is loaded is multiplied into several
//! sums, so that loads take no time, and no multiplication waits for the one before. How many sums are
//! best depends on the registers, so that callers try all of [`N_SUMS`].

use crate::cpu::simd::{LANES, Simd};

/// Vectors that are multiplied in each round; a multiple of all [`N_SUMS`]. They take 6 KiB.
pub(crate) const N_VECTORS: usize = 96;
/// How many sums may be in work.
pub(crate) const N_SUMS: [usize; 3] = [4, 8, 12];
/// Places that [`read`] goes through at a time.
const N_STREAMS: usize = 4;
/// Bytes that are read at once.
const VECTOR_BYTES: usize = 4 * LANES;

/// Vectors of which none lies across two lines of a cache, where its load would take twice as long.
#[repr(align(64))]
pub(crate) struct Vectors<T>(pub(crate) [T; N_VECTORS]);

/// The largest value among [`Bytes`].
pub(crate) const MAX: u8 = 3;

/// What is multiplied: values of at most [`MAX`], so that sums stay in range for 100,000 rounds.
pub(crate) type Bytes = Vectors<[u8; VECTOR_BYTES]>;
/// What is multiplied in f32.
pub(crate) type Floats = Vectors<[f32; LANES]>;

/// Products of bytes and their sums: in each round [`N_VECTORS`] times 64 multiplications.
#[inline(always)]
pub(crate) fn int8<S: Simd>(
    s: S,
    weights: &Bytes,
    (n_sums, n_rounds): (usize, usize),
    out: &mut [u8; VECTOR_BYTES],
) {
    match n_sums {
        4 => int8_sums::<S, 4>(s, weights, n_rounds, out),
        8 => int8_sums::<S, 8>(s, weights, n_rounds, out),
        _ => int8_sums::<S, 12>(s, weights, n_rounds, out),
    }
}

#[inline(always)]
fn int8_sums<S: Simd, const N: usize>(
    s: S,
    weights: &Bytes,
    n_rounds: usize,
    out: &mut [u8; VECTOR_BYTES],
) {
    if const { S::BESIDE == 8 } {
        return int8_tokens::<S, N>(s, weights, n_rounds, out);
    }
    let mut sums = [s.splat_i32(0); N];
    // No compiler may see that all are alike.
    let x = std::hint::black_box([-1, 0, 1].map(|x| [[x; 4]; N]));
    for round in 0..n_rounds {
        let x = &x[round % 3];
        for weights in weights.0[..N_VECTORS / N].as_chunks::<4>().0 {
            let mut w = [s.splat_i32(0); 4];
            for (w, weights) in w.iter_mut().zip(weights) {
                *w = s.load_i8x4(weights);
            }
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = s.dot16(*sum, w, &[*x; 4], Some(MAX));
            }
        }
    }
    let all = sums.into_iter().reduce(|a, b| s.or(a, b));
    s.store_i8x4(all.expect("at least one sum"), out);
}

/// The same in 16 bits, where [`Simd::HAS_I16_DOTS`]: half as many multiplications.
#[inline(always)]
pub(crate) fn int16<S: Simd>(
    s: S,
    weights: &Bytes,
    (n_sums, n_rounds): (usize, usize),
    out: &mut [u8; VECTOR_BYTES],
) {
    match n_sums {
        4 => int16_sums::<S, 4>(s, weights, n_rounds, out),
        8 => int16_sums::<S, 8>(s, weights, n_rounds, out),
        _ => int16_sums::<S, 12>(s, weights, n_rounds, out),
    }
}

#[inline(always)]
fn int16_sums<S: Simd, const N: usize>(
    s: S,
    weights: &Bytes,
    n_rounds: usize,
    out: &mut [u8; VECTOR_BYTES],
) {
    let mut sums = [s.splat_i32(0); N];
    // No compiler may see that all are alike.
    let x = std::hint::black_box([[-1; 4], [0; 4], [1, 0, 1, 0]].map(|x| [x; N]));
    for round in 0..n_rounds {
        let x = &x[round % 3];
        for weights in &weights.0[..N_VECTORS / N] {
            let w = s.load_i8x4(weights);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = s.dot_i16(*sum, w, s.splat_four(x));
            }
        }
    }
    let all = sums.into_iter().reduce(|a, b| s.or(a, b));
    s.store_i8x4(all.expect("at least one sum"), out);
}

/// The same where an instruction multiplies several tokens: `N` of them with a part of the vectors.
#[inline(always)]
fn int8_tokens<S: Simd, const N: usize>(
    s: S,
    weights: &Bytes,
    n_rounds: usize,
    out: &mut [u8; VECTOR_BYTES],
) {
    // No compiler may see that all tokens are alike.
    let x = std::hint::black_box([-1, 0, 1].map(|x| [[x; 4]; N_VECTORS]));
    let mut sums = [[s.splat_i32(0)]; N];
    for round in 0..n_rounds {
        let mut tokens = [&x[round % 3][..]; N];
        for (t, token) in tokens.iter_mut().enumerate() {
            *token = &token[t * (N_VECTORS / N)..];
        }
        sums = s.dot_panels(sums, (&[&weights.0], &tokens), 0..N_VECTORS / N, None);
    }
    let all = sums
        .as_flattened()
        .iter()
        .copied()
        .reduce(|a, b| s.or(a, b));
    s.store_i8x4(all.expect("at least one sum"), out);
}

/// The same in f32: in each round [`N_VECTORS`] times 16 multiplications.
#[inline(always)]
pub(crate) fn f32<S: Simd>(
    s: S,
    weights: &Floats,
    numbers: (usize, usize),
    out: &mut [f32; LANES],
) {
    float::<S, false>(s, weights, numbers, out);
}

/// The same in bf16, where [`Simd::HAS_BF16_DOTS`]: twice as many multiplications.
#[inline(always)]
pub(crate) fn bf16<S: Simd>(
    s: S,
    weights: &Floats,
    numbers: (usize, usize),
    out: &mut [f32; LANES],
) {
    float::<S, true>(s, weights, numbers, out);
}

#[inline(always)]
fn float<S: Simd, const DOTS: bool>(
    s: S,
    weights: &Floats,
    (n_sums, n_rounds): (usize, usize),
    out: &mut [f32; LANES],
) {
    match n_sums {
        4 => float_sums::<S, DOTS, 4>(s, weights, n_rounds, out),
        8 => float_sums::<S, DOTS, 8>(s, weights, n_rounds, out),
        _ => float_sums::<S, DOTS, 12>(s, weights, n_rounds, out),
    }
}

#[inline(always)]
fn float_sums<S: Simd, const DOTS: bool, const N: usize>(
    s: S,
    weights: &Floats,
    n_rounds: usize,
    out: &mut [f32; LANES],
) {
    // As above.
    let mut sums = std::hint::black_box([0.0; N]).map(|sum| s.splat(sum));
    for round in 0..n_rounds {
        let x = s.splat((round % 3) as f32 - 1.0);
        for weights in &weights.0[..N_VECTORS / N] {
            let w = s.load(weights);
            for sum in &mut sums {
                *sum = match DOTS {
                    true => s.dot_bf16(w, x, *sum),
                    false => s.fma(w, x, *sum),
                };
            }
        }
    }
    let one = s.splat(1.0);
    let all = sums.into_iter().reduce(|a, b| s.fma(a, one, b));
    s.store(all.expect("at least one sum"), out);
}

/// Reads bytes, whole vectors of each stream, and asks for those that lie `ahead` bytes further on.
#[inline(always)]
pub(crate) fn read<S: Simd>(s: S, bytes: &[u8], ahead: usize, out: &mut [u8; VECTOR_BYTES]) {
    let vectors = bytes.as_chunks::<VECTOR_BYTES>().0;
    let len = vectors.len() / N_STREAMS;
    let streams: [_; N_STREAMS] = std::array::from_fn(|i| &vectors[i * len..(i + 1) * len]);
    let mut seen = [s.splat_i32(0); N_STREAMS];
    for i in 0..len {
        for (seen, stream) in seen.iter_mut().zip(streams) {
            s.prefetch(stream[i].as_ptr().wrapping_add(ahead));
            *seen = s.or(*seen, s.load_i8x4(&stream[i]));
        }
    }
    let all = seen.into_iter().reduce(|a, b| s.or(a, b));
    s.store_i8x4(all.expect("at least one stream"), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::kernels::Kernels;

    #[test]
    fn every_instruction_set_multiplies_and_reads_everything() {
        for isa in Isa::available() {
            let kernels = Kernels::get(isa).unwrap();
            for n_sums in N_SUMS {
                // The rounds are of -1, 0, 1, -1.
                let mut out = [0; VECTOR_BYTES];
                (kernels.peak_int8)(
                    &Vectors([[1; VECTOR_BYTES]; N_VECTORS]),
                    (n_sums, 4),
                    &mut out,
                );
                let each = -4 * (N_VECTORS / n_sums) as i32;
                let want = each.to_le_bytes().repeat(LANES);
                assert_eq!(out[..], want, "{isa}, {n_sums} sums");
                if let Some(kernels) = kernels.int16 {
                    let mut out = [0; VECTOR_BYTES];
                    (kernels.peak)(
                        &Vectors([[1; VECTOR_BYTES]; N_VECTORS]),
                        (n_sums, 4),
                        &mut out,
                    );
                    let each = -2 * 0x0101 * (N_VECTORS / n_sums) as i32;
                    let want = each.to_le_bytes().repeat(LANES);
                    assert_eq!(out[..], want, "{isa}, {n_sums} sums of 16 bits");
                }
                let mut out = [0.0; LANES];
                (kernels.peak_f32)(&Vectors([[0.5; LANES]; N_VECTORS]), (n_sums, 4), &mut out);
                assert_eq!(out, [-0.5 * N_VECTORS as f32; LANES], "{isa}");
            }
            let mut bytes = [0u8; 64 * VECTOR_BYTES];
            for at in 0..bytes.len() {
                bytes[at] = 5;
                let mut out = [0; VECTOR_BYTES];
                (kernels.read)(&bytes, 256, &mut out);
                assert_eq!(out.iter().position(|&x| x == 5), Some(at % VECTOR_BYTES));
                bytes[at] = 0;
            }
        }
    }
}
