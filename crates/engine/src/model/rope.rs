//! Rotary position embedding as files describe it: base, factors, and scaling to longer contexts.
//!
//! Linear scaling divides all positions by a factor (<https://arxiv.org/abs/2306.15595>). YaRN
//! (<https://arxiv.org/abs/2309.00071>) does so for the slow pairs only: with r the turns that a
//! pair makes over the original context, pairs with r above `beta_fast` keep their frequency,
//! those with r below `beta_slow` are divided, and the ones between are mixed linearly in the
//! pair's index; what is turned is scaled by `0.1 ln(factor) + 1`.

use std::f64::consts::TAU;

use minerva_compute::{Pairing, Rope, Weight};

use super::hparams::Keys;
use crate::error::LoadError;

/// The numbers of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeParams {
    /// Elements of each head that are turned; even.
    pub n_dims: usize,
    /// The base of the frequencies, theta in the paper.
    pub freq_base: f32,
    /// How positions are scaled.
    pub scaling: RopeScaling,
    /// Positions that the model was first trained for.
    pub original_context_length: usize,
    /// Factor on what is turned, beside that of YaRN.
    pub attn_factor: f32,
    /// Whether the model was trained with its scaling, if the file says so.
    pub is_finetuned: Option<bool>,
}

/// How positions are scaled to contexts longer than the model was trained for.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Divided by the factor.
    Linear {
        /// Above 0.
        factor: f32,
    },
    /// Slow pairs are divided by the factor, fast ones are not.
    Yarn {
        /// Above 0.
        factor: f32,
        /// Turns over that context from which on a pair keeps its frequency.
        beta_fast: f32,
        /// Turns up to which a pair is divided.
        beta_slow: f32,
    },
    /// Each pair has its own factor, one for contexts up to the original length and another for
    /// longer ones (<https://arxiv.org/abs/2402.13753>): tensors `rope_factors_{short,long}.weight`.
    Long,
}

impl RopeParams {
    pub(crate) fn read(
        keys: &Keys<'_>,
        head_dim: usize,
        context_length: usize,
    ) -> Result<RopeParams, LoadError> {
        let n_dims = keys
            .opt_count("rope.dimension_count", u32::MAX)?
            .unwrap_or(head_dim);
        if n_dims % 2 != 0 || n_dims > head_dim {
            let wanted = format!("an even number up to the head's {head_dim}");
            return Err(keys.error("rope.dimension_count", n_dims, wanted));
        }
        // Older files give a factor alone, under another name; 0 has always meant none.
        let factor_key = ["rope.scaling.factor", "rope.scale_linear"]
            .into_iter()
            .find(|key| keys.metadata.contains(&keys.key(key)));
        let factor = match factor_key {
            None => 1.0,
            Some(key) if keys.metadata.f32(&keys.key(key))? == 0.0 => 1.0,
            Some(key) => keys.opt_above(key, 0.0)?.unwrap_or(1.0),
        };
        let scaling = match keys.metadata.opt_str(&keys.key("rope.scaling.type"))? {
            Some("none") => RopeScaling::None,
            None | Some("linear") if factor == 1.0 => RopeScaling::None,
            None | Some("linear") => RopeScaling::Linear { factor },
            Some("yarn") => RopeScaling::Yarn {
                factor,
                beta_fast: keys
                    .opt_above("rope.scaling.yarn_beta_fast", 0.0)?
                    .unwrap_or(32.0),
                beta_slow: keys
                    .opt_above("rope.scaling.yarn_beta_slow", 0.0)?
                    .unwrap_or(1.0),
            },
            Some("longrope") => RopeScaling::Long,
            Some(other) => {
                let wanted = "none, linear, yarn or longrope".into();
                return Err(keys.error("rope.scaling.type", format!("{other:?}"), wanted));
            }
        };
        Ok(RopeParams {
            n_dims,
            freq_base: keys.opt_above("rope.freq_base", 1.0)?.unwrap_or(10000.0),
            scaling,
            original_context_length: keys
                .opt_count("rope.scaling.original_context_length", u32::MAX)?
                .unwrap_or(context_length),
            attn_factor: keys
                .opt_above("rope.scaling.attn_factor", 0.0)?
                .unwrap_or(1.0),
            is_finetuned: keys
                .metadata
                .opt_bool(&keys.key("rope.scaling.finetuned"))?,
        })
    }

    /// The angle of every pair; `factors`, one for each pair, divide it (`rope_freqs.weight`).
    pub(crate) fn rope(
        &self,
        pairing: Pairing,
        factors: Option<&Weight>,
    ) -> Result<Rope, LoadError> {
        let divisors = match factors {
            None => vec![1.0; self.n_dims / 2],
            Some(factors) => factors.to_f32(),
        };
        if let Some(bad) = divisors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            return Err(LoadError::Tensor {
                name: factors.map_or("", |factors| factors.name()).into(),
                problem: format!("factor {bad}, expected finite numbers above 0"),
            });
        }
        let base = f64::from(self.freq_base);
        let inv_freq = divisors.iter().enumerate().map(|(i, divisor)| {
            let inv_freq = base.powf(-2.0 * i as f64 / self.n_dims as f64) / f64::from(*divisor);
            (inv_freq * self.position_scale(i)) as f32
        });
        let magnitude = match self.scaling {
            RopeScaling::Yarn { factor, .. } if factor > 1.0 => 0.1 * factor.ln() + 1.0,
            _ => 1.0,
        };
        let magnitude = magnitude * self.attn_factor;
        Ok(Rope {
            pairing,
            inv_freq: inv_freq.collect(),
            magnitude,
        })
    }

    /// What the positions are multiplied with for pair `i`.
    fn position_scale(&self, i: usize) -> f64 {
        match self.scaling {
            RopeScaling::None | RopeScaling::Long => 1.0,
            RopeScaling::Linear { factor } => 1.0 / f64::from(factor),
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
            } => {
                // The pair that makes `turns` turns over the original context.
                let pair_of = |turns: f32| {
                    let period = self.original_context_length as f64 / (f64::from(turns) * TAU);
                    self.n_dims as f64 * period.ln() / (2.0 * f64::from(self.freq_base).ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(self.n_dims as f64 - 1.0);
                let ramp = (i as f64 - low) / (high - low).max(0.001);
                let keep = 1.0 - ramp.clamp(0.0, 1.0);
                keep + (1.0 - keep) / f64::from(factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(params: &RopeParams, factors: Option<&[f32]>, wanted: &[f32], magnitude: f32) {
        let factors = factors.map(|x| Weight::from_f32("rope_freqs.weight", (1, x.len()), x));
        let rope = params.rope(Pairing::Halves, factors.as_ref()).unwrap();
        assert_eq!(rope.inv_freq.len(), wanted.len());
        for (found, wanted) in rope.inv_freq.iter().zip(wanted) {
            assert!(
                (found / wanted - 1.0).abs() < 1e-6,
                "{:?}, {wanted}",
                rope.inv_freq
            );
        }
        assert!((rope.magnitude - magnitude).abs() < 1e-6);
    }

    fn params(n_dims: usize, freq_base: f32, scaling: RopeScaling) -> RopeParams {
        RopeParams {
            n_dims,
            freq_base,
            scaling,
            original_context_length: 4096,
            attn_factor: 1.0,
            is_finetuned: None,
        }
    }

    #[test]
    fn plain_linear_and_factors() {
        let plain = params(8, 10000.0, RopeScaling::None);
        check(&plain, None, &[1.0, 0.1, 0.01, 0.001], 1.0);
        check(
            &plain,
            Some(&[1.0, 2.0, 4.0, 8.0]),
            &[1.0, 0.05, 0.0025, 0.000125],
            1.0,
        );
        let linear = params(8, 10000.0, RopeScaling::Linear { factor: 4.0 });
        check(&linear, None, &[0.25, 0.025, 0.0025, 0.00025], 1.0);
        check(
            &RopeParams {
                attn_factor: 1.5,
                ..plain
            },
            None,
            &[1.0, 0.1, 0.01, 0.001],
            1.5,
        );
    }

    /// The numbers were computed in Python from the paper's formulas; the models that these were
    /// taken for agree with llama.cpp.
    #[test]
    fn yarn() {
        let yarn = |n_dims, base, factor, original_context_length, beta_fast, beta_slow| {
            let scaling = RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
            };
            RopeParams {
                original_context_length,
                ..params(n_dims, base, scaling)
            }
        };
        let wanted = [
            1.0,
            3.1622777e-1,
            1e-1,
            2.5693506e-2,
            6.25e-3,
            1.3834965e-3,
            2.5e-4,
            7.905694e-5,
        ];
        check(
            &yarn(16, 1e4, 4.0, 4096, 32.0, 1.0),
            None,
            &wanted,
            1.1386294,
        );
        let wanted = [
            1.0,
            1.9392274e-1,
            3.760603e-2,
            4.102124e-3,
            1.767767e-4,
            3.4281022e-5,
            6.64787e-6,
            1.2891732e-6,
        ];
        check(
            &yarn(16, 5e5, 8.0, 8192, 16.0, 2.0),
            None,
            &wanted,
            1.2079442,
        );
        let wanted = [1.0, 7.5e-2, 5e-3, 5e-4];
        check(&yarn(8, 1e4, 2.0, 64, 32.0, 1.0), None, &wanted, 1.0693147);
    }
}
