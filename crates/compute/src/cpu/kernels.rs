//! The table of kernels, compiled once for each instruction set.
//!
//! A kernel's body (`cpu/ops`) is inlined into one function for each instruction set, which has
//! that set's features enabled; [`Kernels::get`] answers the functions of a set that the processor
//! has.

use crate::dtype::{Block, BlockVisitor, DType, Form};
use crate::kv::KvType;
use crate::program::Pairing;

use super::isa::Isa;
use super::ops::ahead::Ahead;
use super::ops::attention::{self, HeadCache, QueryRow};
use super::ops::experts;
use super::ops::float_matmul::{self, FloatKind, FloatScratch};
use super::ops::group_matmul::{
    self, GroupKernel, Operands, Panel, Panels, Rows, Streams, Sums, offsets,
};
use super::ops::int16::{self, Int16Span};
use super::ops::kv_tile;
use super::ops::peak;
use super::ops::quantize::{self, QuantRows, QuantSpan};
use super::ops::rows;
use super::ops::tile_matmul::{self, TileScratch, TokenRows, TokenSpan};
use super::simd::PlainTiles;
use super::simd::tiles::Tiles;
use super::simd::{self, Simd};
use super::threads::Tile;

/// [`rows::layer_norm`].
pub(crate) type LayerNorm = fn(&[f32], (&[f32], &[f32]), f32, &mut [f32]);
/// [`group_matmul::multiply`] for one form of weights.
type Multiply = fn(&Operands<'_>, &mut Sums);
/// [`float_matmul::float_matmul`].
pub(crate) type FloatMatMul =
    fn((FloatKind, &[u8]), (&[f32], usize), &mut FloatScratch, &mut Tile<'_, f32>);
/// [`attention::attend`].
pub(crate) type Attend = fn(&HeadCache<'_>, usize, &mut [QueryRow<'_>]);
/// [`kv_tile::store_key`].
pub(crate) type StoreKey = fn(KvType, &[f32], &mut [u8], usize);
/// [`kv_tile::store_value`].
pub(crate) type StoreValue = fn(KvType, &[f32], &mut [u8], (usize, usize));
/// [`peak::int8`], and [`peak::int16`].
pub(crate) type PeakInt = fn(&peak::Bytes, (usize, usize), &mut [u8; 64]);
/// [`peak::f32`].
pub(crate) type PeakF32 = fn(&peak::Floats, (usize, usize), &mut [f32; simd::LANES]);

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    pub(crate) quantize: fn(&[f32], &mut QuantSpan<'_>),
    /// [`quantize::quantize_fine`].
    pub(crate) quantize_fine: fn(&[f32], &mut QuantSpan<'_>, &mut QuantSpan<'_>),
    pub(crate) rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) layer_norm: LayerNorm,
    pub(crate) add: fn(&mut [f32], &[f32]),
    pub(crate) scale: fn(&mut [f32], f32),
    pub(crate) gelu: fn(&mut [f32]),
    pub(crate) soft_cap: fn(&mut [f32], f32),
    pub(crate) silu_mul: fn(&mut [f32], &[f32]),
    pub(crate) gelu_mul: fn(&mut [f32], &[f32]),
    pub(crate) clamped_swiglu: fn(&mut [f32], &[f32], (f32, f32)),
    pub(crate) gate: fn(&mut [f32], f32),
    pub(crate) route: fn(&[f32], bool, &mut [u32], &mut [f32]),
    pub(crate) add_share: fn(&mut [f32], &[f32], f32),
    pub(crate) rotate: fn(&mut [f32], &[f32], Pairing),
    pub(crate) hadamard: fn(&mut [f32], usize),
    /// `None` for types of [`Form::Float`].
    pub(crate) group_kernel: fn(DType) -> Option<GroupKernel>,
    pub(crate) float_matmul: FloatMatMul,
    /// Where there are such instructions.
    pub(crate) int16: Option<&'static Int16Kernels>,
    /// [`float_matmul::round`].
    pub(crate) round: fn(&[f32], &mut [f32]),
    /// [`float_matmul::rounded_words`].
    pub(crate) rounded_words: fn(usize) -> usize,
    pub(crate) attend: Attend,
    pub(crate) store_key: StoreKey,
    pub(crate) store_value: StoreValue,
    pub(crate) peak_int8: PeakInt,
    pub(crate) peak_f32: PeakF32,
    /// [`peak::bf16`], where there are such instructions.
    pub(crate) peak_bf16: Option<PeakF32>,
    /// [`peak::read`].
    pub(crate) read: fn(&[u8], usize, &mut [u8; 64]),
}

impl Kernels {
    /// Whether numbers of bf16 are multiplied in pairs.
    pub(crate) fn has_bf16_dots(&self) -> bool {
        self.peak_bf16.is_some()
    }

    /// The kernels of `isa`, or `None` where the processor lacks an instruction of it.
    pub(crate) fn get(isa: Isa) -> Option<&'static Kernels> {
        match isa {
            Isa::Scalar => scalar::get(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::get(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => neondotprod::get(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => neoni8mm::get(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::get(),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avxvnni::get(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::get(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512vnni::get(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => avx512bf16::get(),
            #[allow(unreachable_patterns, reason = "sets of the other architectures")]
            _ => None,
        }
    }
}

/// The kernels of one instruction set for whole numbers of 16 bits.
pub(crate) struct Int16Kernels {
    /// [`int16::to_int16`].
    pub(crate) to_int16: fn(&[f32], &mut Int16Span<'_>),
    /// For weights of F16, over what [`int16::Int16Buf`] has.
    pub(crate) f16: GroupKernel,
    /// [`peak::int16`].
    pub(crate) peak: PeakInt,
}

/// What many tokens are computed with, where batches are fast.
#[derive(Clone, Copy)]
pub(crate) enum FastKernels {
    /// Weights of all types but F32, F64 and integers.
    Tiles(&'static TileKernels),
    /// Weights of F16.
    Int16(&'static Int16Kernels),
}

impl FastKernels {
    /// Those that go with the kernels of `isa`, or `None` where there are none.
    pub(crate) fn get(isa: Isa) -> Option<FastKernels> {
        let int16 = || Kernels::get(isa)?.int16.map(FastKernels::Int16);
        TileKernels::get(isa).map(FastKernels::Tiles).or_else(int16)
    }

    pub(crate) fn tiles(self) -> Option<&'static TileKernels> {
        match self {
            FastKernels::Tiles(kernels) => Some(kernels),
            FastKernels::Int16(_) => None,
        }
    }

    pub(crate) fn int16(self) -> Option<&'static Int16Kernels> {
        match self {
            FastKernels::Tiles(_) => None,
            FastKernels::Int16(kernels) => Some(kernels),
        }
    }
}

/// [`tile_matmul::product`].
type TileProduct = fn(
    &GroupKernel,
    (&[u8], usize),
    &TokenRows<'_>,
    (&mut Panels, &mut TileScratch),
    &mut Tile<'_, f32>,
);

/// [`tile_matmul::float_product`].
type FloatTileProduct =
    fn(bool, (&[u8], usize), &TokenRows<'_>, &mut TileScratch, &mut Tile<'_, f32>);

/// The kernels of a processor's tiles.
pub(crate) struct TileKernels {
    /// [`tile_matmul::round`].
    pub(crate) round: fn(&[f32], &mut TokenSpan<'_>),
    pub(crate) product: TileProduct,
    pub(crate) float_product: FloatTileProduct,
    /// [`Tiles::peak`].
    pub(crate) peak: fn(usize),
}

impl TileKernels {
    /// Those that go with the kernels of `isa`, or `None` where there are none.
    fn get(isa: Isa) -> Option<&'static TileKernels> {
        match isa {
            Isa::Scalar => PlainTiles::detect().map(|_| &PLAIN_TILES),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 => simd::Amx::detect().map(|_| &AMX_TILES),
            _ => None,
        }
    }
}

/// One function for a kernel: `fn name(args) = body(args)` becomes a function that enters the
/// features and calls the body there.
macro_rules! enter {
    ($isa:ident, [$($feature:meta)?], |$($arg:ident: $type:ty),*| $token:ident => $body:expr) => {
        |$($arg: $type),*| {
            $(#[$feature])?
            fn inside(
                #[allow(unused_variables, reason = "plain loops need no token")]
                $token: simd::$isa,
                $($arg: $type),*
            ) {
                $body
            }
            let token = simd::$isa::detect().expect("a table is only given out where detected");
            #[allow(unused_unsafe, reason = "a set without features needs none")]
            // SAFETY: the token proves that the processor has the features.
            unsafe {
                inside(token, $($arg),*)
            }
        }
    };
}

/// The products of one form, by its [`offsets`].
macro_rules! multiply {
    ($isa:ident, [$($feature:meta)?], $group_len:literal, $has_min:literal) => {
        [
            multiply!($isa, [$($feature)?], $group_len, $has_min, offsets::NONE),
            multiply!($isa, [$($feature)?], $group_len, $has_min, offsets::UNSIGNED),
            multiply!($isa, [$($feature)?], $group_len, $has_min, offsets::SIGNED),
        ]
    };
    ($isa:ident, [$($feature:meta)?], $group_len:literal, $has_min:literal, $offset:path) => {
        enter!($isa, [$($feature)?], |operands: &Operands<'_>, sums: &mut Sums| s =>
            group_matmul::multiply::<_, $group_len, $has_min, { $offset }>(s, operands, sums))
    };
}

macro_rules! instance {
    ($module:ident, $isa:ident, [$($feature:meta)?]) => {
        mod $module {
            use super::*;

            pub(super) fn get() -> Option<&'static Kernels> {
                simd::$isa::detect().map(|_| &KERNELS)
            }

            static KERNELS: Kernels = Kernels {
                quantize: enter!($isa, [$($feature)?], |x: &[f32], out: &mut QuantSpan<'_>| s =>
                    quantize::quantize(s, x, out)),
                quantize_fine: enter!($isa, [$($feature)?],
                    |x: &[f32], high: &mut QuantSpan<'_>, low: &mut QuantSpan<'_>| s =>
                    quantize::quantize_fine(s, x, high, low)),
                rms_norm: enter!($isa, [$($feature)?],
                    |x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]| s =>
                    rows::rms_norm(x, weight, eps, out)),
                add: enter!($isa, [$($feature)?], |y: &mut [f32], x: &[f32]| s => rows::add(y, x)),
                layer_norm: enter!($isa, [$($feature)?],
                    |x: &[f32], weights: (&[f32], &[f32]), eps: f32, out: &mut [f32]| s =>
                    rows::layer_norm(x, weights, eps, out)),
                scale: enter!($isa, [$($feature)?], |y: &mut [f32], factor: f32| s =>
                    rows::scale(y, factor)),
                gelu: enter!($isa, [$($feature)?], |y: &mut [f32]| s => rows::gelu(y)),
                soft_cap: enter!($isa, [$($feature)?], |y: &mut [f32], cap: f32| s =>
                    rows::soft_cap(y, cap)),
                silu_mul: enter!($isa, [$($feature)?], |gate: &mut [f32], up: &[f32]| s =>
                    rows::silu_mul(gate, up)),
                gelu_mul: enter!($isa, [$($feature)?], |gate: &mut [f32], up: &[f32]| s =>
                    rows::gelu_mul(gate, up)),
                clamped_swiglu: enter!($isa, [$($feature)?],
                    |gate: &mut [f32], up: &[f32], numbers: (f32, f32)| s =>
                    rows::clamped_swiglu(gate, up, numbers)),
                gate: enter!($isa, [$($feature)?], |x: &mut [f32], by: f32| s => rows::gate(x, by)),
                route: enter!($isa, [$($feature)?],
                    |scores: &[f32], normalizes: bool, chosen: &mut [u32], shares: &mut [f32]| s =>
                    experts::route(scores, normalizes, chosen, shares)),
                add_share: enter!($isa, [$($feature)?], |y: &mut [f32], x: &[f32], share: f32| s =>
                    experts::add_share(y, x, share)),
                rotate: enter!($isa, [$($feature)?],
                    |head: &mut [f32], turns: &[f32], pairing: Pairing| s =>
                    rows::rotate(head, turns, pairing)),
                hadamard: enter!($isa, [$($feature)?], |x: &mut [f32], len: usize| s =>
                    rows::hadamard(x, len)),
                group_kernel: |dtype| dtype.visit::<Choose>(),
                float_matmul: enter!($isa, [$($feature)?],
                    |weight: (FloatKind, &[u8]), x: (&[f32], usize),
                     scratch: &mut FloatScratch, out: &mut Tile<'_, f32>| s =>
                    float_matmul::float_matmul(s, weight, x, scratch, out)),
                int16: if <simd::$isa as Simd>::HAS_I16_DOTS { Some(&INT16) } else { None },
                round: enter!($isa, [$($feature)?], |x: &[f32], out: &mut [f32]| s =>
                    float_matmul::round(s, x, out)),
                rounded_words: float_matmul::rounded_words::<simd::$isa>,
                attend: enter!($isa, [$($feature)?],
                    |cache: &HeadCache<'_>, unit: usize, rows: &mut [QueryRow<'_>]| s =>
                    attention::attend(s, cache, unit, rows)),
                store_key: enter!($isa, [$($feature)?],
                    |kv_type: KvType, k: &[f32], tile: &mut [u8], position: usize| s =>
                    kv_tile::store_key(kv_type, k, tile, position)),
                store_value: enter!($isa, [$($feature)?],
                    |kv_type: KvType, v: &[f32], tile: &mut [u8], at: (usize, usize)| s =>
                    kv_tile::store_value(kv_type, v, tile, at)),
                peak_int8: enter!($isa, [$($feature)?],
                    |weights: &peak::Bytes, numbers: (usize, usize), out: &mut [u8; 64]| s =>
                    peak::int8(s, weights, numbers, out)),
                peak_f32: enter!($isa, [$($feature)?],
                    |weights: &peak::Floats, numbers: (usize, usize),
                     out: &mut [f32; simd::LANES]| s =>
                    peak::f32(s, weights, numbers, out)),
                peak_bf16: if <simd::$isa as Simd>::HAS_BF16_DOTS {
                    Some(enter!($isa, [$($feature)?],
                        |weights: &peak::Floats, numbers: (usize, usize),
                         out: &mut [f32; simd::LANES]| s =>
                        peak::bf16(s, weights, numbers, out)))
                } else {
                    None
                },
                read: enter!($isa, [$($feature)?],
                    |bytes: &[u8], ahead: usize, out: &mut [u8; 64]| s =>
                    peak::read(s, bytes, ahead, out)),
            };

            static INT16: Int16Kernels = Int16Kernels {
                to_int16: enter!($isa, [$($feature)?], |x: &[f32], out: &mut Int16Span<'_>| s =>
                    int16::to_int16(s, x, out)),
                f16: GroupKernel {
                    unpack: enter!($isa, [$($feature)?],
                        |rows: &Rows<'_>, panel: &mut Panel, ahead: &mut Ahead| s =>
                        int16::unpack(s, rows, panel, ahead)),
                    multiply: multiply!($isa, [$($feature)?], 64, false, offsets::INT16),
                    direct: None,
                    direct_few: None,
                    group_len: int16::GROUP_BYTES,
                    has_min: false,
                    offset: 0,
                    is_signed: true,
                    max: 0,
                },
                peak: enter!($isa, [$($feature)?],
                    |weights: &peak::Bytes, numbers: (usize, usize), out: &mut [u8; 64]| s =>
                    peak::int16(s, weights, numbers, out)),
            };

            /// `[group_len == 32][has_min][offsets]`.
            static MULTIPLY: [[[Multiply; 3]; 2]; 2] = [
                [multiply!($isa, [$($feature)?], 16, false), multiply!($isa, [$($feature)?], 16, true)],
                [multiply!($isa, [$($feature)?], 32, false), multiply!($isa, [$($feature)?], 32, true)],
            ];

            struct Choose;

            impl BlockVisitor for Choose {
                type Output = Option<GroupKernel>;

                fn visit<B: Block>() -> Option<GroupKernel> {
                    let Form::Groups { group_len, has_min } = B::FORM else {
                        return None;
                    };
                    $(#[$feature])?
                    fn inside<B: Block>(
                        s: simd::$isa,
                        rows: &Rows<'_>,
                        panel: &mut Panel,
                        ahead: &mut Ahead,
                    ) {
                        group_matmul::unpack::<_, B>(s, rows, panel, ahead);
                    }
                    fn direct<B: Block, const N: usize>(
                        rows: &Streams<'_>,
                        x: (&QuantRows<'_>, [usize; N]),
                        out: &mut [[f32; simd::LANES]; N],
                        ahead: &mut Ahead,
                    ) {
                        $(#[$feature])?
                        fn inside<B: Block, const N: usize>(
                            s: simd::$isa,
                            rows: &Streams<'_>,
                            x: (&QuantRows<'_>, [usize; N]),
                            out: &mut [[f32; simd::LANES]; N],
                            ahead: &mut Ahead,
                        ) {
                            group_matmul::direct::<_, B, N>(s, rows, x, out, ahead);
                        }
                        let token = simd::$isa::detect().expect("as for the whole table");
                        #[allow(unused_unsafe, reason = "a set without features needs none")]
                        // SAFETY: the token proves that the processor has the features.
                        unsafe {
                            inside::<B, N>(token, rows, x, out, ahead)
                        }
                    }
                    let offset = match B::OFFSET {
                        Some(0) => offsets::NONE,
                        Some(_) => offsets::UNSIGNED,
                        None => offsets::SIGNED,
                    };
                    Some(GroupKernel {
                        unpack: |rows, panel, ahead| {
                            let token = simd::$isa::detect().expect("as for the whole table");
                            #[allow(unused_unsafe, reason = "a set without features needs none")]
                            // SAFETY: the token proves that the processor has the features.
                            unsafe {
                                inside::<B>(token, rows, panel, ahead)
                            }
                        },
                        multiply: MULTIPLY[usize::from(group_len == 32)][usize::from(has_min)]
                            [usize::from(offset)],
                        direct: if const { group_matmul::has_rows::<simd::$isa, B>() } {
                            Some((direct::<B, 1>, direct::<B, 2>))
                        } else {
                            None
                        },
                        direct_few: if const { group_matmul::few_are_direct::<simd::$isa, B>() } {
                            Some((direct::<B, 4>, direct::<B, 8>))
                        } else {
                            None
                        },
                        group_len,
                        has_min,
                        offset: group_matmul::offset::<simd::$isa, B>(),
                        is_signed: B::OFFSET.is_none() && <simd::$isa as Simd>::SIGNED_OFFSET == 0,
                        max: B::MAX,
                    })
                }
            }
        }
    };
}

macro_rules! tile_instance {
    ($name:ident, $tiles:ident, [$($feature:meta)?]) => {
        static $name: TileKernels = TileKernels {
            round: enter!($tiles, [$($feature)?], |x: &[f32], out: &mut TokenSpan<'_>| s =>
                tile_matmul::round(s, x, out)),
            product: enter!($tiles, [$($feature)?],
                |kernel: &GroupKernel, rows: (&[u8], usize), x: &TokenRows<'_>,
                 own: (&mut Panels, &mut TileScratch), out: &mut Tile<'_, f32>| s =>
                tile_matmul::product(s, kernel, rows, x, own, out)),
            float_product: enter!($tiles, [$($feature)?],
                |is_f16: bool, rows: (&[u8], usize), x: &TokenRows<'_>,
                 scratch: &mut TileScratch, out: &mut Tile<'_, f32>| s =>
                tile_matmul::float_product(s, is_f16, rows, x, scratch, out)),
            peak: enter!($tiles, [$($feature)?], |n_rounds: usize| s => s.peak(n_rounds)),
        };
    };
}

tile_instance!(PLAIN_TILES, PlainTiles, []);
#[cfg(target_arch = "x86_64")]
tile_instance!(
    AMX_TILES,
    Amx,
    [target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c"
    )]
);

instance!(scalar, Scalar, []);
#[cfg(target_arch = "aarch64")]
instance!(neon, Neon, []);
#[cfg(target_arch = "aarch64")]
instance!(
    neondotprod,
    NeonDotprod,
    [target_feature(enable = "dotprod")]
);
#[cfg(target_arch = "aarch64")]
instance!(
    neoni8mm,
    NeonI8mm,
    [target_feature(enable = "dotprod,i8mm")]
);
#[cfg(target_arch = "x86_64")]
instance!(avx2, Avx2, [target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
instance!(
    avxvnni,
    AvxVnni,
    [target_feature(enable = "avx2,fma,f16c,avxvnni")]
);
#[cfg(target_arch = "x86_64")]
instance!(
    avx512,
    Avx512,
    [target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
    )]
);
#[cfg(target_arch = "x86_64")]
instance!(
    avx512vnni,
    Avx512Vnni,
    [target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"
    )]
);

#[cfg(target_arch = "x86_64")]
instance!(
    avx512bf16,
    Avx512Bf16,
    [target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx512vbmi,gfni,avx2,fma,f16c"
    )]
);

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::cpu::ops::group_matmul::Panels;
    use crate::cpu::ops::quantize::QuantBuf;
    use crate::cpu::threads::SharedBuf;

    #[test]
    fn heads_are_multiplied_by_the_hadamard_matrix() {
        for (n, len) in [(96, 32), (192, 64), (160, 32), (128, 128), (256, 256)] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
            let mut bits = None;
            for isa in Isa::available() {
                let mut y = x.clone();
                (Kernels::get(isa).unwrap().hadamard)(&mut y, len);
                for (i, y) in y.iter().enumerate() {
                    let (first, row) = (i / len * len, i % len);
                    let product = (0..len).map(|j| {
                        let sign = 1.0 - 2.0 * f64::from((row & j).count_ones() % 2);
                        sign * f64::from(x[first + j])
                    });
                    let wanted = product.sum::<f64>() / (len as f64).sqrt();
                    let is_close = (f64::from(*y) - wanted).abs() < 1e-5;
                    assert!(is_close, "{isa}, {n} by {len}, element {i}: {y}, {wanted}");
                }
                let now: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
                assert_eq!(*bits.get_or_insert_with(|| now.clone()), now, "{isa}");
                (Kernels::get(isa).unwrap().hadamard)(&mut y, 1);
                assert_eq!(now, y.iter().map(|y| y.to_bits()).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_row_is_the_same_among_any_others() {
        // More than one strip, and more tokens than are summed at a time.
        const WIDTH: usize = 1280;
        const MANY: usize = group_matmul::TOKENS + 3;
        let x = QuantBuf::zeroed(MANY, WIDTH).unwrap();
        for t in 0..MANY {
            let row: Vec<f32> = (0..WIDTH)
                .map(|i| ((i * (t % 9 + 7)) as f32).sin())
                .collect();
            let kernels = Kernels::get(Isa::available()[0]).unwrap();
            // SAFETY: nobody else uses it.
            (kernels.quantize)(&row, &mut unsafe { x.span(t, 0, WIDTH) });
        }
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let all = Isa::available().into_iter();
        for (isa, &dtype) in all.flat_map(|isa| DType::ALL.iter().map(move |d| (isa, d))) {
            let Some(kernel) = (Kernels::get(isa).unwrap().group_kernel)(dtype) else {
                continue;
            };
            let row_bytes = dtype.row_bytes(WIDTH).unwrap();
            let bytes: Vec<u8> = (0..103 * row_bytes).map(|_| random()).collect();
            let product = |rows: Range<usize>, n_tokens: usize| {
                let mut out = SharedBuf::zeroed(n_tokens * rows.len()).unwrap();
                let mut out = out.whole(rows.len());
                let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
                let mut panels = Panels::new(Ahead::new(Default::default()));
                // SAFETY: nobody writes to it any more.
                let x = unsafe { x.rows(0..n_tokens) };
                kernel.product((bytes, row_bytes), &x, &mut panels, &mut out);
                let rows = (0..n_tokens).map(|t| out.row(t).to_vec());
                rows.collect::<Vec<_>>()
            };
            let want: Vec<_> = (0..103).map(|row| product(row..row + 1, 9)).collect();
            let same = |got: f32, row: usize, t: usize| {
                let want = want[row][t % 9][0];
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()
            };
            let mut sizes: Vec<_> = [5, 16, 40, 64, 103]
                .into_iter()
                .flat_map(|n| [1, 2, 3, 8, 9].map(|n_tokens| (n, n_tokens)))
                .collect();
            if let DType::Q4K | DType::Q6K | DType::Q8_0 = dtype {
                sizes.push((40, MANY));
            }
            for (n, n_tokens) in sizes {
                for (t, got) in product(0..n, n_tokens).into_iter().enumerate() {
                    for (row, got) in got.into_iter().enumerate() {
                        assert!(
                            same(got, row, t),
                            "{dtype}, {isa}, row {row} of {n}, token {t}"
                        );
                    }
                }
            }
        }
    }
}
