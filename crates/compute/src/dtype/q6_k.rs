//! Q6_K: 6-bit codes around 32 in groups of 16, whose 8-bit scales share one f16 factor.
//!
//! Bytes: 128 of lower bits, 64 of upper bits, 16 signed scales, f16 factor. Each half of the block
//! takes 64 bytes of lower bits (all low halves first, then all high halves) and 32 of upper bits
//! (two bits at a time).

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, spread_nibbles};

/// A block of Q6_K.
pub(super) struct Q6K;

impl Block for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(32);
    const MAX: u8 = 63;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let d = f16_at(bytes, 208);
        for (&byte, scale) in bytes[192..208].iter().zip(scales) {
            *scale = d * f32::from(byte as i8);
        }
        let low_bits = bytes[..128].chunks_exact(64);
        let high_bits = bytes[128..192].chunks_exact(32);
        for ((low_bits, high_bits), q) in low_bits.zip(high_bits).zip(q.chunks_exact_mut(128)) {
            spread_nibbles(low_bits, q, |code| code as i8 - 32);
            for (c, q) in q.chunks_exact_mut(32).enumerate() {
                for (&byte, q) in high_bits.iter().zip(q) {
                    *q += ((byte >> (2 * c) & 3) << 4) as i8;
                }
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        for half in 0..2 {
            for quarter in 0..2 {
                // Sixteens 0, 2, 4 and 6 behind the first. Each is written out: in a loop over them codes would
                // go through memory, which costs a fifth of all.
                out.part(s, Self::BYTES / 8);
                let (at, first) = (16 * quarter, 8 * half + quarter);
                let upper = s.load_rows(&rows[128 + 32 * half + at..], stride);
                let (mut even, mut odd) = (upper, upper);
                for (even, odd) in even.iter_mut().zip(&mut odd) {
                    *even = s.and(*even, s.splat_i8(0x33));
                    *odd = s.and(s.shr(*odd, 2), s.splat_i8(0x33));
                }
                let low = s.load_rows(&rows[64 * half + at..], stride);
                out.put(s, first, codes(s, low, even, Nibbles::Low));
                out.put(s, first + 4, codes(s, low, even, Nibbles::High));
                out.part(s, Self::BYTES / 8);
                let low = s.load_rows(&rows[64 * half + 32 + at..], stride);
                out.put(s, first + 2, codes(s, low, odd, Nibbles::Low));
                out.put(s, first + 6, codes(s, low, odd, Nibbles::High));
            }
        }
        // Behind the products, for which there are few registers. The factor is read with the last two scales: four bytes of a row
        // go into a register, two by way of another one. Scales stay in the highest byte, 2^24 times as large, which takes no
        // second shift.
        let d = s.load_f16_rows_behind(&rows[206..], stride);
        let d = s.mul(d, s.splat(1.0 / (1 << 24) as f32));
        let scales = s.load_rows(&rows[192..], stride);
        for (c, scales) in scales.into_iter().enumerate() {
            for j in 0..4 {
                let scale = s.and(s.shl(scales, 24 - 8 * j), s.splat_i32(0xff << 24));
                out.put_scale(s, 4 * c + j as usize, s.mul(d, s.to_f32(scale)));
            }
        }
    }
}

/// Which four bits of each byte.
#[derive(Clone, Copy)]
enum Nibbles {
    Low,
    High,
}

/// Four bits of each byte of `low` and above them two of `upper`, which has those in the same half and nothing
/// above: one choice between bits, where there is an instruction for that, clears what was shifted in as well.
#[inline(always)]
fn codes<S: Simd>(s: S, mut low: [S::I; 4], upper: [S::I; 4], nibbles: Nibbles) -> [S::I; 4] {
    for (low, upper) in low.iter_mut().zip(upper) {
        let (four, two) = match nibbles {
            Nibbles::Low => (*low, s.shl(upper, 4)),
            Nibbles::High => (s.shr(*low, 4), upper),
        };
        *low = s.select(0x0f, four, two);
    }
    low
}
