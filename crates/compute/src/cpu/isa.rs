//! The instruction sets a CPU may have, best last; the best one present is used, unless the
//! environment variable `MINERVA_ISA` names another.

use std::fmt;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the architecture has.
    Scalar,
    /// 64-bit Arm's vectors.
    Neon,
    /// The same with byte dot products.
    NeonDotprod,
    /// The same with products of byte matrices.
    NeonI8mm,
    /// 256-bit vectors with FMA and F16C.
    Avx2,
    /// The same with byte dot products.
    AvxVnni,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// AVX-512 with byte dot products.
    Avx512Vnni,
    /// The same with dot products of bf16, permutations of bytes and GFNI.
    Avx512Bf16,
}

impl Isa {
    /// All of them.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Neon,
        Isa::NeonDotprod,
        Isa::NeonI8mm,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
    ];

    /// The name that `MINERVA_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neondotprod",
            Isa::NeonI8mm => "neoni8mm",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Those that this processor can run, in rising order of speed.
    pub fn available() -> Vec<Isa> {
        Isa::ALL
            .into_iter()
            .filter(|isa| super::kernels::Kernels::get(*isa).is_some())
            .collect()
    }

    /// The best of this processor, or the one that `MINERVA_ISA` names.
    pub fn choose() -> Result<Isa, IsaError> {
        let available = Isa::available();
        let best = *available.last().expect("scalar runs everywhere");
        let Ok(wanted) = std::env::var("MINERVA_ISA") else {
            return Ok(best);
        };
        let found = available
            .iter()
            .find(|isa| isa.name().eq_ignore_ascii_case(&wanted));
        found.copied().ok_or(IsaError { wanted, available })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `MINERVA_ISA` names an instruction set that this processor cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaError {
    pub(super) wanted: String,
    pub(super) available: Vec<Isa>,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.available.iter().map(|isa| isa.name()).collect();
        write!(
            f,
            "MINERVA_ISA: {}, expected one of {}",
            self.wanted,
            names.join(", ")
        )
    }
}

impl std::error::Error for IsaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_last_and_names_are_unique() {
        assert!(Isa::ALL.is_sorted());
        for (i, isa) in Isa::ALL.into_iter().enumerate() {
            assert!(Isa::ALL[..i].iter().all(|other| other.name() != isa.name()));
        }
    }

    /// `.ci/run` names each set on processors that have it, and on one that lacks it.
    #[test]
    fn the_best_is_chosen_or_the_one_that_is_named() {
        let isa = Isa::choose().unwrap_or_else(|error| panic!("{error}"));
        match std::env::var("MINERVA_ISA") {
            Ok(wanted) => assert!(isa.name().eq_ignore_ascii_case(&wanted)),
            Err(_) => assert_eq!(Some(&isa), Isa::available().last()),
        }
    }
}
