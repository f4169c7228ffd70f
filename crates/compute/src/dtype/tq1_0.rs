//! TQ1_0: ternary digits -1, 0, 1, five to a byte, and one scale for 256 elements.
//!
//! Bytes: 32 with five digits each, 16 with five digits each, 4 with four digits each, f16 scale. Each
//! of the three runs holds the first digits of all its bytes, then the second digits, and so on.

use super::block::{Block, Form, f16_at};

/// A block of TQ1_0.
pub(super) struct TQ1_0;

impl Block for TQ1_0 {
    const LEN: usize = 256;
    const BYTES: usize = 54;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(1);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f16_at(bytes, 52));
        let (first, rest) = q.split_at_mut(5 * 32);
        let (second, third) = rest.split_at_mut(5 * 16);
        spread_digits(&bytes[..32], first);
        spread_digits(&bytes[32..48], second);
        spread_digits(&bytes[48..52], third);
    }
}

/// Spreads ternary digits: the first digits of all bytes, then the second digits, and so on.
///
/// A byte is a fraction of 256 in base 3, so multiplying by 3 moves its first digit above the
/// eighth bit and leaves the other digits as the next fraction.
#[inline(always)]
fn spread_digits(packed: &[u8], q: &mut [i8]) {
    let mut power = 1u8;
    for q in q.chunks_exact_mut(packed.len()) {
        for (&byte, q) in packed.iter().zip(q) {
            let fraction = u16::from(byte.wrapping_mul(power));
            *q = ((fraction * 3) >> 8) as i8 - 1;
        }
        power = power.wrapping_mul(3);
    }
}
