//! Every primitive of every instruction set against its plain twin, bit for bit.

use super::{LANES, RUN, Scalar, Simd, Vector};
use crate::cpu::Isa;
use crate::cpu::ops::group_matmul::start_of;
use crate::dtype::iq_grids::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};

/// What the primitives answer, by their names.
type Answers = Vec<(String, Vec<u32>)>;

#[test]
fn every_primitive_is_its_plain_twin() {
    let want = answers(Scalar);
    for isa in Isa::available() {
        let got = match isa {
            Isa::Scalar => continue,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => answers(super::Neon::detect().unwrap()),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => answers(super::NeonDotprod::detect().unwrap()),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => answers(super::NeonI8mm::detect().unwrap()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => answers(super::Avx2::detect().unwrap()),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => answers(super::AvxVnni::detect().unwrap()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => answers(super::Avx512::detect().unwrap()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => answers(super::Avx512Vnni::detect().unwrap()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => answers(super::Avx512Bf16::detect().unwrap()),
            #[allow(unreachable_patterns, reason = "sets of the other architectures")]
            _ => unreachable!("{isa} is not of this architecture"),
        };
        for ((name, got), (_, want)) in got.iter().zip(&want) {
            assert!(got == want, "{name} of {isa}: {got:x?}, not {want:x?}");
        }
        // What not all sets have comes last.
        let has_all = cfg!(target_arch = "x86_64");
        assert!(got.len() == want.len() || !has_all && got.len() < want.len());
    }
}

/// Calls every primitive with the same inputs whatever the set.
fn answers<S: Simd>(s: S) -> Answers {
    let mut all = Answers::new();
    conversions(s, &mut all);
    floats(s, &mut all);
    integers(s, &mut all);
    tables(s, &mut all);
    products(s, &mut all);
    sixteen_columns(s, &mut all);
    panels::<S, 1, 1>(s, &mut all);
    panels::<S, 2, 1>(s, &mut all);
    panels::<S, 4, 1>(s, &mut all);
    panels::<S, 4, 2>(s, &mut all);
    panels::<S, 6, 2>(s, &mut all);
    rows(s, &mut all);
    halves(s, &mut all);
    if S::HAS_I16_DOTS {
        sixteen_bits(s, &mut all);
    }
    all
}

/// Numbers without a pattern, the same in every run.
fn random() -> impl FnMut() -> u32 {
    let mut state = 1u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

/// Vectors that have all values of a byte between them, in `from` + 0..64 and so on.
fn all_bytes(from: usize) -> impl Iterator<Item = [u8; 4 * LANES]> {
    (0..4).map(move |part| std::array::from_fn(|i| (from + 64 * part + i) as u8))
}

fn random_bytes<const N: usize>(next: &mut impl FnMut() -> u32) -> [u8; N] {
    std::array::from_fn(|_| (next() >> 24) as u8)
}

/// A part of a panel, as if it were in fours.
fn in_fours<S: Simd>(panel: &[[u8; 4 * LANES]]) -> Vec<u32> {
    let bytes = panel.as_flattened();
    let at = |row: usize, column: usize| {
        let begin = column / S::BESIDE * LANES + row;
        begin * S::BESIDE + column % S::BESIDE
    };
    let rows = |four| (0..LANES).flat_map(move |row| (0..4).map(move |i| (row, 4 * four + i)));
    let all = (0..panel.len()).flat_map(rows);
    all.map(|(row, column)| u32::from(bytes[at(row, column)]))
        .collect()
}

/// The bits of numbers, those of all NaN alike.
fn bits<S: Simd>(s: S, x: S::F) -> Vec<u32> {
    let mut all = [0.0; LANES];
    s.store(x, &mut all);
    all.map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() })
        .to_vec()
}

fn lanes<S: Simd>(s: S, x: S::I) -> Vec<u32> {
    let mut bytes = [0; 4 * LANES];
    s.store_i8x4(x, &mut bytes);
    let lanes = bytes.as_chunks::<4>().0;
    lanes.iter().map(|lane| u32::from_le_bytes(*lane)).collect()
}

fn conversions<S: Simd>(s: S, all: &mut Answers) {
    for first in (0..=u16::MAX).step_by(LANES) {
        let halves = std::array::from_fn(|i| first + i as u16);
        all.push((format!("load_f16 {first}"), bits(s, s.load_f16(&halves))));
        all.push((format!("load_bf16 {first}"), bits(s, s.load_bf16(&halves))));
        let mut upper = 0xabcd_u32;
        let lanes = halves.map(|half| {
            upper = upper.wrapping_mul(0x9e37_79b9);
            upper << 16 | u32::from(half)
        });
        let bytes = lanes.map(u32::to_le_bytes);
        let x = s.load_i8x4(bytes.as_flattened().try_into().unwrap());
        all.push((format!("f16_to_f32 {first}"), bits(s, s.f16_to_f32(x))));
    }
    for first in (0..=u8::MAX).step_by(LANES) {
        let bytes = std::array::from_fn(|i| first + i as u8);
        all.push((format!("load_i8 {first}"), bits(s, s.load_i8(&bytes))));
        for shift in [0, 4] {
            let x = s.load_i4(&bytes, shift);
            all.push((format!("load_i4 {first}, {shift}"), bits(s, x)));
        }
    }
    let mut next = random();
    for i in 0..100 {
        let x = s.load_i8x4(&random_bytes(&mut next));
        all.push((format!("to_f32 {i}"), bits(s, s.to_f32(x))));
        all.push((format!("float_of {i}"), bits(s, s.float_of(x))));
        all.push((format!("load_i8x4 {i}"), lanes(s, x)));
    }
}

fn floats<S: Simd>(s: S, all: &mut Answers) {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
    ];
    let mut next = random();
    for i in 0..200 {
        let mut numbers = || -> [f32; LANES] {
            std::array::from_fn(|_| match next() % 4 {
                0 => special[next() as usize % special.len()],
                1 => f32::from_bits(next()),
                _ => (next() as i32 as f32) / 1e9,
            })
        };
        let (x, y, z) = (numbers(), numbers(), numbers());
        let finite = x.map(|x| if x.is_finite() && x != 0.0 { x } else { 0.25 });
        let (a, b, c) = (s.load(&x), s.load(&y), s.load(&z));
        all.push((format!("mul {i}"), bits(s, s.mul(a, b))));
        all.push((format!("fma {i}"), bits(s, s.fma(a, b, c))));
        all.push((format!("sum {i}"), bits(s, s.splat(s.sum(a)))));
        let mut eight = [a; 8];
        for x in &mut eight[1..] {
            *x = s.load(&numbers());
        }
        for (row, sum) in s.sum_eight(eight).into_iter().enumerate() {
            all.push((format!("sum_eight {i}, {row}"), bits(s, s.splat(sum))));
        }
        let least = s.load(&finite.map(f32::abs));
        all.push((format!("max_abs {i}"), bits(s, s.max_abs(least, b))));
        let max = s.max(s.load(&finite));
        all.push((format!("max {i}"), vec![max.to_bits()]));
        // At most 127 after the factor, halves and NaN among them.
        let small = y.map(|y| if y.abs() > 254.0 { 253.0 } else { y });
        let mut q = [0; LANES];
        let sum = s.to_i8(s.load(&small), s.splat(0.5), &mut q);
        let mut answer = vec![sum as u32];
        answer.extend(q.map(|q| q as u32));
        all.push((format!("to_i8 {i}"), answer));
    }
}

/// Pairs of bf16, normal and not, added to what is normal and what is not.
#[cfg(target_arch = "x86_64")]
#[test]
fn dots_of_bf16_are_two_rounded_sums() {
    let Some(s) = super::Avx512Bf16::detect() else {
        eprintln!("no such instructions here");
        return;
    };
    let normal = |x: f32| match x.is_subnormal() {
        true => 0.0f32.copysign(x),
        false => x,
    };
    let half = |x: u32, shift: u32| normal(f32::from_bits(x << shift & 0xffff_0000));
    let mut next = random();
    for i in 0..100_000 {
        let mut numbers = || -> [u32; LANES] {
            std::array::from_fn(|_| match next() % 8 {
                0 => [0, 0x8000_7f80, 0xff80_0001, 0x0001_807f, 0x0080_0080][next() as usize % 5],
                1..4 => next() & 0x807f_ffff | 0x3f80_0000, // such as may cancel
                _ => next(),
            })
        };
        let [a, b, c] = [numbers(), numbers(), numbers()];
        let got = s.dot_bf16(
            s.load(&a.map(f32::from_bits)),
            s.load(&b.map(f32::from_bits)),
            s.load(&c.map(f32::from_bits)),
        );
        for (lane, got) in bits(s, got).into_iter().enumerate() {
            let (a, b) = (a[lane], b[lane]);
            let upper = half(a, 0).mul_add(half(b, 0), normal(f32::from_bits(c[lane])));
            let want = normal(half(a, 16).mul_add(half(b, 16), normal(upper)));
            let is_same = want.to_bits() == got || want.is_nan() && f32::from_bits(got).is_nan();
            assert!(is_same, "{i}, lane {lane}: {got:x}, expected {want:e}");
        }
    }
}

/// Sums of three tokens and four rows, of vectors of all magnitudes.
fn halves<S: Simd>(s: S, all: &mut Answers) {
    let mut next = random();
    let mut vector = || std::array::from_fn(|_| f32::from_bits(next() & 0xbfff_ffff));
    for n in [0, 1, 7] {
        let rows: Vec<[Vector; 4]> = (0..n).map(|_| [0; 4].map(|_| Vector(vector()))).collect();
        let x: Vec<[f32; LANES]> = (0..3 * n).map(|_| vector()).collect();
        let tokens = std::array::from_fn(|t| &x[t * n..][..n]);
        let mut sums = [[Vector([0.5; LANES]); 4]; 3];
        s.add_in_halves::<4, 3>(&rows, &tokens, &mut sums);
        let sums = sums.as_flattened().iter().flat_map(|sum| sum.0);
        all.push((
            format!("add_in_halves {n}"),
            sums.map(f32::to_bits).collect(),
        ));
    }
}

/// What there is for whole numbers of 16 bits.
fn sixteen_bits<S: Simd>(s: S, all: &mut Answers) {
    let mut next = random();
    for i in 0..1000 {
        let [a, b, acc] = [0; 3].map(|_| {
            let bytes = std::array::from_fn(|_| match next() % 8 {
                0 => 0x80,
                1 => 0x7f,
                2 => 0,
                _ => (next() >> 24) as u8,
            });
            s.load_i8x4(&bytes)
        });
        all.push((format!("dot_i16 {i}"), lanes(s, s.dot_i16(acc, a, b))));
        for factor in [0.0, 1.0, 0.3] {
            let x: [f32; LANES] = std::array::from_fn(|lane| match (i + lane) % 40 {
                0 => f32::NAN,
                1 if factor == 0.0 => f32::INFINITY,
                2 => 32767.0,
                3 => -32767.0,
                4 => 2.5,
                _ => (next() as i32 >> 17) as f32 + 0.5 * (next() % 2) as f32,
            });
            let mut q = [0; 2 * LANES];
            s.to_i16(s.load(&x), s.splat(factor), &mut q);
            all.push((format!("to_i16 {i}"), q.map(u32::from).to_vec()));
        }
    }
}

fn integers<S: Simd>(s: S, all: &mut Answers) {
    let mut next = random();
    let fixed = all_bytes(0).chain(all_bytes(77));
    let inputs = fixed.chain((0..50).map(|_| random_bytes(&mut next)));
    let inputs: Vec<_> = inputs.collect();
    for (i, (x, y)) in inputs.iter().zip(inputs[1..].iter()).enumerate() {
        let (a, b) = (s.load_i8x4(x), s.load_i8x4(y));
        all.push((format!("and {i}"), lanes(s, s.and(a, b))));
        all.push((format!("or {i}"), lanes(s, s.or(a, b))));
        all.push((format!("select {i}"), lanes(s, s.select(0x35, a, b))));
        all.push((format!("mul_i32 {i}"), lanes(s, s.mul_i32(a, b))));
        all.push((format!("add_i8 {i}"), lanes(s, s.add_i8(a, b))));
        for n in 0..32 {
            all.push((format!("shl {i}, {n}"), lanes(s, s.shl(a, n))));
            all.push((format!("shr {i}, {n}"), lanes(s, s.shr(a, n))));
            all.push((format!("sar {i}, {n}"), lanes(s, s.sar(a, n))));
        }
    }
    for i in i8::MIN..=i8::MAX {
        all.push((format!("splat_i8 {i}"), lanes(s, s.splat_i8(i))));
        let x = i32::from(i).wrapping_mul(0x0123_4567);
        all.push((format!("splat_i32 {x}"), lanes(s, s.splat_i32(x))));
    }
}

fn tables<S: Simd>(s: S, all: &mut Answers) {
    let mut next = random();
    let table = random_bytes(&mut next).map(|q: u8| q as i8);
    let fours: [[i8; 4]; 512] =
        std::array::from_fn(|_| random_bytes(&mut next).map(|q: u8| q as i8));
    let eights: [[i8; 8]; 2048] =
        std::array::from_fn(|_| random_bytes(&mut next).map(|q: u8| q as i8));
    for i in 0..300 {
        let bytes = random_bytes(&mut next);
        let x = s.load_i8x4(&bytes);
        let codes = s.load_i8x4(&bytes.map(|byte| byte & 15));
        all.push((format!("lookup {i}"), lanes(s, s.lookup(&table, codes))));
        all.push((format!("gather {i}"), lanes(s, s.gather(&fours, x))));
        for (half, x) in s.gather_eight(&eights, x).into_iter().enumerate() {
            all.push((format!("gather_eight {i}, {half}"), lanes(s, x)));
        }
        let others = [0, 1, 2].map(|_| s.load_i8x4(&random_bytes(&mut next)));
        let [y, z, w] = others;
        for (part, x) in (s.look_up_eights(&IQ2_XXS, [x, y]).into_iter())
            .chain(s.look_up_eights(&IQ2_XS, [y, z]))
            .chain(s.look_up_eights(&IQ2_S, [z, x]))
            .chain(s.look_up_fours(&IQ3_XXS, [x, y, z, w]))
            .chain(s.look_up_fours(&IQ3_S, [w, z, y, x]))
            .enumerate()
        {
            all.push((format!("values {i}, {part}"), lanes(s, x)));
        }
        let codes = s.load_i8x4(&bytes.map(|byte| byte & 0x7f));
        all.push((format!("with_parity {i}"), lanes(s, s.with_parity(codes))));
    }
    for from in 0..16 {
        for (part, x) in all_bytes(from).enumerate() {
            // All signs with all bytes.
            let signs = all_bytes(16 * from).nth(part).unwrap();
            let x = s.negate_i8(s.load_i8x4(&x), s.load_i8x4(&signs));
            all.push((format!("negate_i8 {from}, {part}"), lanes(s, x)));
        }
    }
}

fn products<S: Simd>(s: S, all: &mut Answers) {
    let groups = (0..64).map(|g| std::array::from_fn(|i| (4 * g + i) as u8));
    for x in groups.chain([[127; 4], [129; 4], [127, 129, 127, 129]]) {
        let x = x.map(|x| (x as i8).max(-127));
        let sum = x.iter().map(|&x| i32::from(x)).sum();
        let four = s.splat_i32(i32::from_le_bytes(x.map(|x| x as u8)));
        for (i, w) in (0..4)
            .flat_map(all_bytes)
            .chain([[128; 64], [127; 64]])
            .enumerate()
        {
            let signed = w.map(|w| w.wrapping_add(S::SIGNED_OFFSET));
            let start = s.splat_i32(start_of(sum, S::SIGNED_OFFSET));
            let dot = s.dot4_signed(start, s.load_i8x4(&signed), four);
            all.push((format!("dot4_signed {x:?}, {i}"), lanes(s, dot)));
            let unsigned = s.load_i8x4(&w.map(|w| w & 127));
            let dot = s.dot4(s.splat_i32(start_of(sum, 64)), unsigned, four);
            all.push((format!("dot4 {x:?}, {i}"), lanes(s, dot)));
        }
    }
}

/// How large weights without a sign may be, where they have none.
const MAXES: [Option<u8>; 6] = [None, Some(127), Some(63), Some(31), Some(15), Some(3)];

fn sixteen_columns<S: Simd>(s: S, all: &mut Answers) {
    let mut next = random();
    for i in 0..60 {
        let max = MAXES[i % MAXES.len()];
        let weights = std::array::from_fn(|_| {
            let bytes = match i {
                0 => [128; 4 * LANES],
                1..=12 => [127; 4 * LANES],
                _ => random_bytes(&mut next),
            };
            s.load_i8x4(&match max {
                Some(max) => bytes.map(|w| w & max),
                None => bytes.map(|w| w.wrapping_add(S::SIGNED_OFFSET)),
            })
        });
        let x = std::array::from_fn(|_| match i {
            0..=6 => [127; 4],
            7..=12 => [-127; 4],
            _ => random_bytes(&mut next).map(|x: u8| (x as i8).max(-127)),
        });
        let sum: i32 = x.as_flattened().iter().map(|&x| i32::from(x)).sum();
        let offset = if max.is_none() { S::SIGNED_OFFSET } else { 0 };
        let dot = s.dot16(s.splat_i32(start_of(sum, offset)), weights, &x, max);
        all.push((format!("dot16 {max:?}, {i}"), lanes(s, dot)));
        let dot = s.dot16_of_many(s.splat_i32(start_of(sum, offset)), weights, &x, max);
        all.push((format!("dot16_of_many {max:?}, {i}"), lanes(s, dot)));
    }
}

fn panels<S: Simd, const N: usize, const P: usize>(s: S, all: &mut Answers) {
    const COLUMNS: usize = 64;
    let mut next = random();
    for i in 0..60 {
        let max = MAXES[i % MAXES.len()];
        let offset = if max.is_none() { S::SIGNED_OFFSET } else { 0 };
        let panels: [[[u8; 4 * LANES]; COLUMNS / 4]; P] = std::array::from_fn(|_| {
            let mut panel = [[0; 4 * LANES]; COLUMNS / 4];
            for out in panel.as_chunks_mut::<4>().0 {
                let q = std::array::from_fn(|_| {
                    // The largest and the smallest too, in all places at once.
                    let mut bytes: [u8; 4 * LANES] = match i {
                        0 => [128; 4 * LANES],
                        1..=6 => [127; 4 * LANES],
                        _ => random_bytes(&mut next),
                    };
                    if let Some(max) = max {
                        bytes = bytes.map(|w| w & max);
                    }
                    s.load_i8x4(&bytes.map(|w| w.wrapping_add(offset)))
                });
                s.store_panel(q, out);
            }
            if P == 1 {
                let what = format!("store_panel {i}");
                let less = panel.map(|q| q.map(|w| w.wrapping_sub(offset)));
                all.push((what, in_fours::<S>(&less)));
            }
            panel
        });
        let x: [[[i8; 4]; COLUMNS / 4]; N] = std::array::from_fn(|t| {
            std::array::from_fn(|_| match (i, t % 2) {
                (0..=6, 0) => [127; 4],
                (0..=6, _) => [-127; 4],
                _ => random_bytes(&mut next).map(|x: u8| (x as i8).max(-127)),
            })
        });
        for fours in [0..4, 4..8, 0..8, 8..16] {
            let sum = |t: usize| -> i32 {
                let x = x[t][fours.clone()].as_flattened();
                x.iter().map(|&x| i32::from(x)).sum()
            };
            let starts = std::array::from_fn(|t| [s.splat_i32(start_of(sum(t), offset)); P]);
            let weights = std::array::from_fn(|p| &panels[p][..]);
            let tokens = std::array::from_fn(|t| &x[t][..]);
            let dots = s.dot_panels::<N, P>(starts, (&weights, &tokens), fours.clone(), max);
            for (t, dots) in dots.into_iter().enumerate() {
                for (p, dot) in dots.into_iter().enumerate() {
                    let what = format!("dot_panels {N} {P}, {i}, {fours:?}, {t}, {p}");
                    all.push((what, lanes(s, dot)));
                }
            }
        }
    }
}

fn rows<S: Simd>(s: S, all: &mut Answers) {
    let mut next = random();
    for stride in [16, 17, 34, 110] {
        let byte = |i| match stride {
            16 => i as u8, // all of them
            _ => (next() >> 24) as u8,
        };
        let bytes: Vec<u8> = (0..16 * stride).map(byte).collect();
        for (c, x) in s.load_rows(&bytes, stride).into_iter().enumerate() {
            all.push((format!("load_rows {stride}, {c}"), lanes(s, x)));
        }
        let halves = s.load_f16_rows(&bytes, stride);
        all.push((format!("load_f16_rows {stride}"), bits(s, halves)));
        let behind = s.load_f16_rows_behind(&bytes, stride);
        all.push((format!("load_f16_rows_behind {stride}"), bits(s, behind)));
        let fours = s.load_four_of_rows(&bytes, stride);
        all.push((format!("load_four_of_rows {stride}"), lanes(s, fours)));
        for x in [[[127; 4]; 4], [[-127; 4]; 4], {
            std::array::from_fn(|i| std::array::from_fn(|j| (127 - 16 * (4 * i + j) as i32) as i8))
        }] {
            let dots = row_products(s, (&bytes, stride), &x);
            all.push((format!("quarters {stride}, {x:?}"), lanes(s, dots)));
        }
    }
    let rows: [[i8; RUN]; LANES] =
        std::array::from_fn(|_| random_bytes(&mut next).map(|q: u8| q as i8));
    for at in [0, 32, 224] {
        for offset in [0, 1, 64, 128] {
            let mut out = [[0; 64]; 8];
            s.interleave(&rows, at, offset, &mut out);
            all.push((format!("interleave {at}, {offset}"), in_fours::<S>(&out)));
        }
    }
}

/// Three more than sixteen products of each row of signed weights, in quarters where a set has them.
fn row_products<S: Simd>(s: S, (rows, stride): (&[u8], usize), x: &[[i8; 4]; 4]) -> S::I {
    let start = 3 + start_of(
        x.as_flattened().iter().map(|&x| i32::from(x)).sum(),
        S::SIGNED_OFFSET,
    );
    let rows: Vec<u8> = rows
        .iter()
        .map(|w| w.wrapping_add(S::SIGNED_OFFSET))
        .collect();
    if S::HAS_QUARTERS {
        let sums = [s.splat_i32(0); 4];
        let sums = s.dot_quarters(sums, s.load_quarters(&rows, stride), x);
        return s.sum_quarters(start, sums);
    }
    s.dot16(s.splat_i32(start), s.load_rows(&rows, stride), x, None)
}

/// Tiles of each kind against the plain ones, with every kind of number.
#[test]
#[cfg(target_arch = "x86_64")]
fn tiles_are_their_plain_twin() {
    let Some(amx) = super::Amx::detect() else {
        println!("skipped: no AMX here");
        return;
    };
    let want = tile_answers(super::PlainTiles);
    let got = tile_answers(amx);
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let is_nan = |bits: u32| f32::from_bits(bits).is_nan();
            let is_sum = name.starts_with("sums");
            let same = got == want || is_sum && is_nan(*got) && is_nan(*want);
            assert!(same, "{name}, {i}: {got:x}, not {want:x}");
        }
        assert_eq!(got.len(), want.len(), "{name}");
    }
    assert_eq!(got.len(), want.len());
}

/// What tiles answer, by name: bits.
#[cfg(target_arch = "x86_64")]
fn tile_answers<T: super::tiles::Tiles>(tiles: T) -> Answers {
    use super::tiles::{COLUMNS, Factors, Line, PanelTile, SumTile, TokenTile, WeightTile};

    let mut next = random();
    let mut all = Answers::new();
    let lines = |lines: &[Line]| -> Vec<u32> {
        let numbers = lines.iter().flat_map(|line| line.0);
        numbers.map(u32::from).collect()
    };
    // Ties of both kinds, the largest, what overflows, what is not normal, what is no number.
    let special = [
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_7fff,
        0x7f7f_ffff,
        0x7f7f_7fff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0001,
        0x7f80_0001,
        0xffbf_ffff,
        0x0000_0001,
        0x807f_ffff,
        0x0080_0000,
        0x8000_0000,
        0x007f_8000,
        0x007f_ffff,
    ];
    for n in 0..100 {
        let x: [f32; COLUMNS] = std::array::from_fn(|i| match (n, i) {
            (0, _) => f32::from_bits(special[i % special.len()]),
            _ => f32::from_bits(next()),
        });
        all.push((format!("round {n}"), lines(&[tiles.round(&x)])));
    }
    let blank: WeightTile = [Line([0; COLUMNS]); COLUMNS / 2];
    for from in [0, 1, 66, 131] {
        let mut bytes = all_bytes(0).chain(all_bytes(from));
        let q: [[u8; 4 * LANES]; COLUMNS / 4] = std::array::from_fn(|_| bytes.next().unwrap());
        let mut numbers = || std::array::from_fn(|_| f32::from_bits(next()));
        let (scales, mins) = ([numbers(), numbers()], [numbers(), numbers()]);
        for (offset, mins) in [(0.0, None), (8.0, None), (0.0, Some(mins.each_ref()))] {
            let panel = PanelTile {
                q: &q,
                offset,
                scales: scales.each_ref(),
                mins,
            };
            let mut out = blank;
            tiles.convert(panel, false, &mut out);
            all.push((format!("convert from {from}, {offset}"), lines(&out)));
        }
    }
    // Numbers of every exponent, among them what is not normal and what overflows, and usual ones.
    for (what, mask, one) in [("any", 0xffff, 0), ("usual", 0x83ff, 0x3c00)] {
        for (n_blocks, n_pairs, n, begins) in [
            (1, 1, 1, true),
            (2, 1, 3, false),
            (3, 2, 2, true),
            (3, 1, 4, false),
            (4, 3, 2, false),
        ] {
            let mut line = || Line(std::array::from_fn(|_| next() as u16 & mask | one));
            let stride = n + 1;
            let x: Vec<TokenTile> = (0..n_blocks * stride)
                .map(|_| std::array::from_fn(|_| line()))
                .collect();
            let weights: Vec<[WeightTile; 2]> = (0..n_pairs * n)
                .map(|_| std::array::from_fn(|_| std::array::from_fn(|_| line())))
                .collect();
            let start = SumTile(std::array::from_fn(|i| [i as f32 - 7.5; LANES]));
            let mut sums = vec![[start; 2]; n_blocks * n_pairs];
            let factors = Factors {
                n,
                tokens: &x,
                stride,
                weights: &weights,
            };
            tiles.multiply(&factors, begins, &mut sums);
            let bits = sums.as_flattened().iter().flat_map(|sums| sums.0);
            let bits = bits.flatten().map(f32::to_bits).collect();
            all.push((
                format!("sums of {what}, {n_blocks} {n_pairs} {n} {begins}"),
                bits,
            ));
        }
    }
    all
}
