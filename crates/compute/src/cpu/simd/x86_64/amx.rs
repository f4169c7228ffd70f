//! AMX's tiles of bf16, beside AVX-512.

use core::arch::asm;
use core::arch::x86_64::*;
use std::sync::LazyLock;

use super::super::LANES;
use super::super::tiles::{
    COLUMNS, Factors, Line, PanelTile, SumTile, Tiles, TokenTile, WeightTile,
};
use super::avx512::Avx512Vnni;

/// The processor has tiles and their products of bf16, and the system lets this process use them.
#[derive(Clone, Copy)]
pub(crate) struct Amx(Avx512Vnni);

impl Amx {
    /// `None` where the processor lacks an instruction, or the system refuses the tiles' memory.
    pub(crate) fn detect() -> Option<Amx> {
        static HAS: LazyLock<bool> = LazyLock::new(|| {
            is_x86_feature_detected!("avx512bf16") && has_tiles() && may_use_tiles()
        });
        Avx512Vnni::detect().filter(|_| *HAS).map(Amx)
    }

    /// Sets this thread's tiles up.
    #[inline(always)]
    fn set_up(self) {
        // SAFETY: `self` proves the instruction, which reads the 64 bytes of the configuration; it
        // describes shapes that every processor with tiles has.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) }
    }

    /// Forgets them: tiles that are set up slow down switches between threads.
    #[inline(always)]
    fn release(self) {
        // SAFETY: `self` proves the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// What the processor says of itself.
fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let features = (__cpuid(0).eax >= 7).then(|| __cpuid_count(7, 0).edx);
    features.is_some_and(|features| features & (TILE | BF16) == TILE | BF16)
}

/// Asks Linux, which gives threads memory for tiles only where a process has asked; all threads of the
/// process may use them then.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call reads two numbers, and changes nothing that the compiler knows of.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// How other systems are asked is not known here.
#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// The layout that `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    n_rows: [u8; 16],
}

/// Eight tiles of sixteen lines.
const CONFIG: Config = {
    let (mut row_bytes, mut n_rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        (row_bytes[i], n_rows[i]) = (64, 16);
        i += 1;
    }
    Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes,
        n_rows,
    }
};

impl Tiles for Amx {
    type Simd = Avx512Vnni;
    #[inline(always)]
    fn simd(self) -> Avx512Vnni {
        self.0
    }

    #[inline(always)]
    fn round(self, x: &[f32; COLUMNS]) -> Line {
        let mut out = Line([0; COLUMNS]);
        // SAFETY: `self` proves the instructions; reads and writes stay inside the arrays.
        unsafe {
            let x: *const f32 = x.as_ptr();
            let both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x.add(LANES)), _mm512_loadu_ps(x));
            out.0 = std::mem::transmute::<__m512bh, [u16; COLUMNS]>(both);
        }
        out
    }

    #[inline(always)]
    fn convert(self, panel: PanelTile<'_>, is_signed: bool, out: &mut WeightTile) {
        debug_assert!(!is_signed, "panels of AVX-512 are without a sign");
        // SAFETY: `self` proves the instructions; reads and writes stay inside the arrays.
        unsafe {
            // Sixteen rows' even column, then their odd one, to row by row.
            let order: [u16; 32] = const {
                let mut order = [0; 32];
                let mut row = 0;
                while row < LANES {
                    (order[2 * row], order[2 * row + 1]) = (row as u16, (LANES + row) as u16);
                    row += 1;
                }
                order
            };
            let order = _mm512_loadu_si512(order.as_ptr().cast());
            let byte = _mm512_set1_epi32(0xff);
            let (mut scales, mut biases) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
            for half in 0..2 {
                scales[half] = _mm512_loadu_ps(panel.scales[half].as_ptr());
                let min = match panel.mins {
                    Some(mins) => _mm512_loadu_ps(mins[half].as_ptr()),
                    None => _mm512_setzero_ps(),
                };
                biases[half] = _mm512_fnmadd_ps(_mm512_set1_ps(panel.offset), scales[half], min);
            }
            for (i, q) in panel.q.iter().enumerate() {
                let (scale, bias) = (scales[i / 4], biases[i / 4]);
                let q = _mm512_loadu_si512(q.as_ptr().cast());
                let columns = [
                    _mm512_and_si512(q, byte),
                    _mm512_and_si512(_mm512_srli_epi32::<8>(q), byte),
                    _mm512_and_si512(_mm512_srli_epi32::<16>(q), byte),
                    _mm512_srli_epi32::<24>(q),
                ];
                let mut values = [_mm512_setzero_ps(); 4];
                for (value, column) in values.iter_mut().zip(columns) {
                    *value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(column), scale, bias);
                }
                for (i, out) in out[2 * i..2 * i + 2].iter_mut().enumerate() {
                    let both = _mm512_cvtne2ps_pbh(values[2 * i + 1], values[2 * i]);
                    let both = std::mem::transmute::<__m512bh, __m512i>(both);
                    let lines = _mm512_permutexvar_epi16(order, both);
                    _mm512_storeu_si512(out.0.as_mut_ptr().cast(), lines);
                }
            }
        }
    }

    #[inline(always)]
    fn multiply(self, factors: &Factors<'_>, begins: bool, sums: &mut [[SumTile; 2]]) {
        let (n_blocks, n_pairs) = factors.shape(sums);
        self.set_up();
        let tokens = |block: usize| &factors.tokens[block * factors.stride..][..factors.n];
        for block in (0..n_blocks).step_by(2) {
            let (first, second) = sums[block * n_pairs..].split_at_mut(n_pairs);
            let pairs = factors.weights.chunks_exact(factors.n);
            for (pair, weights) in pairs.enumerate() {
                match second.get_mut(pair) {
                    Some(second) => {
                        let x = [tokens(block), tokens(block + 1)];
                        // SAFETY: tiles are set up, with shapes of these types.
                        unsafe { two_blocks(x, weights, begins, [&mut first[pair], second]) }
                    }
                    // SAFETY: as above.
                    None => unsafe {
                        one_block(tokens(block), weights, begins, &mut first[pair]);
                    },
                }
            }
        }
        self.release();
    }

    fn peak(self, n_rounds: usize) {
        self.set_up();
        // SAFETY: tiles are set up; nothing else is touched.
        unsafe {
            asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) n_rounds.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem),
            );
        }
        self.release();
    }
}

/// Sums 0 to 3, of tokens 4 and 5 and weights 6 and 7.
///
/// # Safety
/// Tiles are set up as [`CONFIG`] says.
#[inline(always)]
unsafe fn two_blocks(
    x: [&[TokenTile]; 2],
    weights: &[[WeightTile; 2]],
    begins: bool,
    sums: [&mut [SumTile; 2]; 2],
) {
    let n = weights.len();
    assert!(n > 0 && x[0].len() == n && x[1].len() == n);
    let [a, b] = sums;
    // SAFETY: the caller's promise; `n` tiles are read of each slice, one after the other, and four sums.
    unsafe {
        asm!(
            "test {begins:e}, {begins:e}",
            "jnz 2f",
            "tileloadd tmm0, [{a} + {line}]",
            "tileloadd tmm1, [{a} + {line} + 1024]",
            "tileloadd tmm2, [{b} + {line}]",
            "tileloadd tmm3, [{b} + {line} + 1024]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "tileloadd tmm4, [{x0} + {line}]",
            "tileloadd tmm6, [{w} + {line}]",
            "tileloadd tmm7, [{w} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{x1} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x0}, 1024",
            "add {x1}, 1024",
            "add {w}, 2048",
            "dec {n}",
            "jnz 3b",
            "tilestored [{a} + {line}], tmm0",
            "tilestored [{a} + {line} + 1024], tmm1",
            "tilestored [{b} + {line}], tmm2",
            "tilestored [{b} + {line} + 1024], tmm3",
            begins = in(reg) u32::from(begins),
            a = in(reg) a,
            b = in(reg) b,
            line = in(reg) size_of::<Line>(),
            x0 = inout(reg) x[0].as_ptr() => _,
            x1 = inout(reg) x[1].as_ptr() => _,
            w = inout(reg) weights.as_ptr() => _,
            n = inout(reg) n => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The same for sixteen tokens: sums 0 and 1.
///
/// # Safety
/// As for [`two_blocks`].
#[inline(always)]
unsafe fn one_block(
    x: &[TokenTile],
    weights: &[[WeightTile; 2]],
    begins: bool,
    sums: &mut [SumTile; 2],
) {
    let n = weights.len();
    assert!(n > 0 && x.len() == n);
    // SAFETY: as above, with two sums.
    unsafe {
        asm!(
            "test {begins:e}, {begins:e}",
            "jnz 2f",
            "tileloadd tmm0, [{a} + {line}]",
            "tileloadd tmm1, [{a} + {line} + 1024]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "3:",
            "tileloadd tmm4, [{x} + {line}]",
            "tileloadd tmm6, [{w} + {line}]",
            "tileloadd tmm7, [{w} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {x}, 1024",
            "add {w}, 2048",
            "dec {n}",
            "jnz 3b",
            "tilestored [{a} + {line}], tmm0",
            "tilestored [{a} + {line} + 1024], tmm1",
            begins = in(reg) u32::from(begins),
            a = in(reg) sums,
            line = in(reg) size_of::<Line>(),
            x = inout(reg) x.as_ptr() => _,
            w = inout(reg) weights.as_ptr() => _,
            n = inout(reg) n => _,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
