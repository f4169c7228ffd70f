//! The types that keys and values can have in the KV cache, and the memory that they take.
//!
//! Keys and values are converted when they are stored, each head of each position by itself, to
//! what the type's row of the data types' table says: the quantized types keep a scale for each 32
//! elements of a head. Before that they are multiplied by a Hadamard matrix
//! ([`KvType::hadamard_len`]). How the elements lie in memory is the backend's affair; their bytes
//! are counted here, and are the same for every backend.

use std::fmt;
use std::str::FromStr;

use crate::backend::{BackendError, KV_BLOCK_LEN};
use crate::dtype::{DType, f32_to_f16, q4_0, q8_0};
use crate::program::KvShape;

/// How keys or values are stored in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 32-bit floats.
    F32,
    /// Half precision.
    #[default]
    F16,
    /// 8 bits and a scale for each 32 elements: 8.5 bits an element.
    Q8_0,
    /// 4 bits and a scale for each 32 elements: 4.5 bits an element.
    Q4_0,
}

/// The types of keys and of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KvTypes {
    /// Of keys.
    pub k: KvType,
    /// Of values.
    pub v: KvType,
}

/// A name that no cache type has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvTypeError {
    found: String,
}

impl KvType {
    /// Every type, the largest first.
    pub const ALL: &'static [KvType] = &[KvType::F32, KvType::F16, KvType::Q8_0, KvType::Q4_0];

    /// The name, such as `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// The data type that keys and values are turned into.
    pub fn dtype(self) -> DType {
        match self {
            KvType::F32 => DType::F32,
            KvType::F16 => DType::F16,
            KvType::Q8_0 => DType::Q8_0,
            KvType::Q4_0 => DType::Q4_0,
        }
    }

    /// Bytes of one head of one position, or `None` when a head is not made of whole groups.
    /// Floats are padded to a multiple of 16 elements, for whole vectors.
    pub fn head_bytes(self, head_dim: usize) -> Option<usize> {
        let dtype = self.dtype();
        match dtype.block_len() {
            1 => dtype.row_bytes(head_dim.checked_next_multiple_of(16)?),
            _ => dtype.row_bytes(head_dim),
        }
    }

    /// The size n of the Hadamard matrix, `H[i][j] = (-1)^popcount(i & j) / sqrt(n)`, that each n
    /// elements of a head are multiplied by before they are stored: the largest power of two that
    /// divides `head_dim`; 1, which changes nothing, for floats.
    ///
    /// A few elements of keys are many times larger than the others, and one that shares its scale with
    /// others takes most of their bits; H spreads it over all of them (QuaRot,
    /// <https://arxiv.org/abs/2404.00456>). H is symmetric and its own inverse: a query that is
    /// multiplied by it too has the same product with the key, and a sum of values multiplied by it
    /// again is what it was.
    pub fn hadamard_len(self, head_dim: usize) -> usize {
        match self.dtype().block_len() {
            1 => 1,
            _ => 1 << head_dim.trailing_zeros(),
        }
    }

    /// Turns the elements of a head into bytes of [`KvType::dtype`], which turns them back: what a
    /// backend's cache gives back must be what comes of that.
    ///
    /// # Panics
    /// When `out` has not the size of these elements.
    pub(crate) fn quantize_row(self, x: &[f32], out: &mut [u8]) {
        let dtype = self.dtype();
        assert_eq!(
            Some(out.len()),
            dtype.row_bytes(x.len()),
            "bytes of {dtype}"
        );
        let blocks = x.chunks_exact(dtype.block_len());
        for (x, out) in blocks.zip(out.chunks_exact_mut(dtype.block_bytes())) {
            match self {
                KvType::F32 => out.copy_from_slice(&x[0].to_le_bytes()),
                KvType::F16 => out.copy_from_slice(&f32_to_f16(x[0]).to_le_bytes()),
                KvType::Q8_0 => {
                    let (scale, q) = q8_0::quantize(x.first_chunk().expect("a block of 32"));
                    out[..2].copy_from_slice(&scale.to_le_bytes());
                    for (out, q) in out[2..].iter_mut().zip(q) {
                        *out = q as u8;
                    }
                }
                KvType::Q4_0 => {
                    let (scale, codes) = q4_0::quantize(x.first_chunk().expect("a block of 32"));
                    out[..2].copy_from_slice(&scale.to_le_bytes());
                    let (low, high) = codes.split_at(16);
                    for (out, (low, high)) in out[2..].iter_mut().zip(low.iter().zip(high)) {
                        *out = low | high << 4;
                    }
                }
            }
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvType {
    type Err = KvTypeError;

    /// The type with this name, exactly as [`KvType::name`] spells it.
    fn from_str(name: &str) -> Result<KvType, KvTypeError> {
        let all = KvType::ALL.iter().copied();
        all.into_iter()
            .find(|kv_type| kv_type.name() == name)
            .ok_or_else(|| KvTypeError { found: name.into() })
    }
}

impl fmt::Display for KvTypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = KvType::ALL.iter().map(|kv_type| kv_type.name()).collect();
        let (found, names) = (&self.found, names.join(", "));
        write!(f, "cache type: {found:?}, expected one of {names}")
    }
}

impl std::error::Error for KvTypeError {}

impl KvTypes {
    /// Keys and values of one type.
    pub const fn both(kv_type: KvType) -> KvTypes {
        KvTypes {
            k: kv_type,
            v: kv_type,
        }
    }
}

/// Bytes that one block of [`KV_BLOCK_LEN`] positions takes in the cache, in all layers together;
/// an error where a type does not go with a layer's heads. A program loaded with so many blocks has
/// a cache of that many times this.
pub fn kv_block_bytes(kv: &[KvShape], types: KvTypes) -> Result<usize, BackendError> {
    let mut bytes = 0usize;
    for (layer, shape) in kv.iter().enumerate() {
        for (what, kv_type) in [("keys", types.k), ("values", types.v)] {
            let head = kv_type.head_bytes(shape.head_dim);
            let head = head.ok_or(BackendError::KvType {
                what,
                kv_type,
                layer,
                head_dim: shape.head_dim,
            })?;
            let n_heads = shape.n_kv_heads.saturating_mul(KV_BLOCK_LEN);
            bytes = bytes.saturating_add(head.saturating_mul(n_heads));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for &kv_type in KvType::ALL {
            assert_eq!(kv_type.name().parse(), Ok(kv_type));
            assert!(kv_type.dtype().name().eq_ignore_ascii_case(kv_type.name()));
        }
        for name in ["", "F16", "q8", "q5_1", "f16 "] {
            let error = name.parse::<KvType>().unwrap_err().to_string();
            let wanted = format!("cache type: {name:?}, expected one of f32, f16, q8_0, q4_0");
            assert_eq!(error, wanted);
        }
    }

    #[test]
    fn blocks_are_as_large_as_their_types_say() {
        let shape = |n_kv_heads, head_dim| KvShape {
            n_kv_heads,
            head_dim,
        };
        let kv = [shape(3, 64), shape(2, 96)];
        let n_elements = 16 * (3 * 64 + 2 * 96); // of keys, and of values
        let bits = |kv_type| match kv_type {
            KvType::F32 => 64, // in halves of a bit
            KvType::F16 => 32,
            KvType::Q8_0 => 17,
            KvType::Q4_0 => 9,
        };
        for &k in KvType::ALL {
            for &v in KvType::ALL {
                let bytes = n_elements * (bits(k) + bits(v)) / 16;
                assert_eq!(kv_block_bytes(&kv, KvTypes { k, v }), Ok(bytes));
            }
        }
        let odd = [shape(1, 64), shape(1, 80), shape(1, 17)];
        for float in [KvType::F32, KvType::F16] {
            let size = float.dtype().block_bytes();
            let bytes = kv_block_bytes(&odd, KvTypes::both(float));
            assert_eq!(bytes, Ok(2 * size * 16 * (64 + 80 + 32)));
        }
        let types = KvTypes {
            k: KvType::F16,
            v: KvType::Q4_0,
        };
        let error = kv_block_bytes(&odd, types).unwrap_err().to_string();
        let wanted = "cache type q4_0 for values: layer 1 has heads of 80 elements, expected a multiple of 32";
        assert_eq!(error, wanted);
    }

    #[test]
    fn rows_come_back_as_close_as_the_type_allows() {
        let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        for (kv_type, tolerance) in [
            (KvType::F32, 0.0),
            (KvType::F16, 2e-3),
            (KvType::Q8_0, 3.0 / 127.0 / 2.0 + 2e-3),
            (KvType::Q4_0, 3.0 / 8.0),
        ] {
            let dtype = kv_type.dtype();
            let mut bytes = vec![0; dtype.row_bytes(64).unwrap()];
            kv_type.quantize_row(&x, &mut bytes);
            let mut back = vec![0.0; 64];
            dtype.dequantize_row(&bytes, &mut back);
            let far = x.iter().zip(&back).map(|(x, y)| (x - y).abs());
            assert!(far.fold(0.0, f32::max) <= tolerance, "{kv_type}");
        }
    }

    /// Hashes of what the format's own tools (`quantize_row_*_ref` of ggml) make of the same
    /// numbers.
    #[test]
    fn quantized_rows_have_the_bytes_of_the_format() {
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        // Rows of all sizes, and such where many quotients lie between two integers.
        let mut x = Vec::new();
        for block in 0..4000 {
            let numbers: Vec<[u32; 2]> = (0..32).map(|_| [random(), random()]).collect();
            let exponent = (numbers[0][1] % 60) as i32 - 30;
            x.extend(numbers.iter().map(|&[a, _]| match block % 2 {
                0 => ((a >> 8) as f32 / (1 << 23) as f32 - 1.0) * 2f32.powi(exponent),
                _ => ((a % 255) as f32 - 127.0) / 2.0,
            }));
        }
        for (kv_type, wanted) in [
            (KvType::Q8_0, 0xae71_ad47_2a86_a98c),
            (KvType::Q4_0, 0x2c6a_2786_c9be_7695),
        ] {
            let mut bytes = vec![0; kv_type.dtype().row_bytes(x.len()).unwrap()];
            kv_type.quantize_row(&x, &mut bytes);
            let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
            assert_eq!(hash, wanted, "{kv_type}: {hash:#x}");
        }
    }
}
