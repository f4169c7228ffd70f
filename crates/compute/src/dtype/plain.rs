//! The types whose elements are numbers of their own: floats and integers.

use super::block::{Block, Form, f16_to_f32};

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident: |$x:ident: $number:ty| $value:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Block for $name {
            const LEN: usize = 1;
            const BYTES: usize = size_of::<$number>();
            const FORM: Form = Form::Float;

            fn dequantize(bytes: &[u8], out: &mut [f32]) {
                let bytes = bytes.try_into().expect("one block");
                let $x = <$number>::from_le_bytes(bytes);
                out[0] = $value;
            }
        }
    )*};
}

plain! {
    /// 32-bit float.
    F32: |x: f32| x;
    /// 16-bit float of IEEE 754, 11 bits of precision.
    F16: |x: u16| f16_to_f32(x);
    /// The upper half of a 32-bit float. The bits are moved, so a signalling NaN stays one.
    BF16: |x: u16| f32::from_bits(u32::from(x) << 16);
    /// 64-bit float, rounded to the nearest f32.
    F64: |x: f64| x as f32;
    /// 8-bit integer.
    I8: |x: i8| f32::from(x);
    /// 16-bit integer.
    I16: |x: i16| f32::from(x);
    /// 32-bit integer, rounded to the nearest f32.
    I32: |x: i32| x as f32;
    /// 64-bit integer, rounded to the nearest f32.
    I64: |x: i64| x as f32;
}
