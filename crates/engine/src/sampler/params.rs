//! What a request can ask of the sampler: plain data, its defaults and its ranges.

use std::fmt::Display;

use crate::error::RequestError;

/// Which mirostat replaces the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mirostat {
    /// None: the filters are used.
    #[default]
    Off,
    /// The first version, which estimates how the vocabulary is distributed.
    V1,
    /// The second version, which bounds the surprise of a token directly.
    V2,
}

/// The parameters of a [`super::Sampler`]. The defaults are llama.cpp's.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// The seed of the generator; a random one if there is none.
    pub seed: Option<u64>,
    /// Added to the logits of single tokens; `-inf` forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// How many of the last tokens the three penalties look at; 0 for none, -1 for all.
    pub penalty_last_n: i32,
    /// Divides the positive logits of tokens that occurred, multiplies negative ones; 1 is off.
    pub repeat_penalty: f32,
    /// Taken from the logits of tokens that occurred.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens that occurred, for each time they did.
    pub frequency_penalty: f32,
    /// The strength of the DRY penalty; 0 is off.
    pub dry_multiplier: f32,
    /// By what the DRY penalty grows with each repeated token: 1 or more; 0 is off.
    pub dry_base: f32,
    /// Repetitions of up to this many tokens cost nothing in DRY.
    pub dry_allowed_length: u32,
    /// How many of the last tokens DRY looks at; 0 for none, -1 for all.
    pub dry_penalty_last_n: i32,
    /// Text at which a repetition ends for DRY. The caller turns it into tokens.
    pub dry_sequence_breakers: Vec<String>,
    /// Keeps tokens within this many standard deviations of the best logit; 0 or less is off.
    pub top_n_sigma: f32,
    /// Keeps this many of the most probable tokens; 0 is off.
    pub top_k: u32,
    /// Keeps the tokens whose information is closest to the entropy, up to this much probability;
    /// 1 is off.
    pub typical_p: f32,
    /// Keeps the most probable tokens, up to this much probability; 1 is off.
    pub top_p: f32,
    /// Keeps tokens with at least this share of the best one's probability; 0 is off.
    pub min_p: f32,
    /// How often XTC removes the most probable tokens; 0 is off.
    pub xtc_probability: f32,
    /// XTC removes tokens at least this probable, but for the last of them; over 0.5 is off.
    pub xtc_threshold: f32,
    /// At least this many tokens stay after typical, top-p, min-p and XTC.
    pub min_keep: u32,
    /// Divides the logits; 0 or less takes the most probable token.
    pub temperature: f32,
    /// How far the temperature moves up and down with the entropy; 0 is off.
    pub dynatemp_range: f32,
    /// How the entropy maps to that range.
    pub dynatemp_exponent: f32,
    /// Whether mirostat is used in place of the filters.
    pub mirostat: Mirostat,
    /// The surprise mirostat aims for, in bits.
    pub mirostat_tau: f32,
    /// How fast mirostat learns.
    pub mirostat_eta: f32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            seed: None,
            logit_bias: Vec::new(),
            penalty_last_n: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            top_n_sigma: -1.0,
            top_k: 40,
            typical_p: 1.0,
            top_p: 0.95,
            min_p: 0.05,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            min_keep: 0,
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            mirostat: Mirostat::Off,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
        }
    }
}

impl SamplingParams {
    /// Parameters that draw from the model's own distribution.
    pub fn neutral() -> Self {
        Self {
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            temperature: 1.0,
            // More bits of surprise than any token has.
            mirostat_tau: 1e6,
            ..Self::default()
        }
    }

    /// Checks every field against its range.
    pub fn validate(&self) -> Result<(), RequestError> {
        let finite = f32::MIN..=f32::MAX;
        let positive = 0.0..=f32::MAX;
        let share = 0.0..=1.0;
        for (field, found, range) in [
            ("presence_penalty", self.presence_penalty, &finite),
            ("frequency_penalty", self.frequency_penalty, &finite),
            ("dry_multiplier", self.dry_multiplier, &positive),
            ("top_n_sigma", self.top_n_sigma, &finite),
            ("typical_p", self.typical_p, &share),
            ("top_p", self.top_p, &share),
            ("min_p", self.min_p, &share),
            ("xtc_probability", self.xtc_probability, &share),
            ("xtc_threshold", self.xtc_threshold, &share),
            ("temperature", self.temperature, &finite),
            ("dynatemp_range", self.dynatemp_range, &positive),
            ("dynatemp_exponent", self.dynatemp_exponent, &positive),
            ("mirostat_tau", self.mirostat_tau, &positive),
            ("mirostat_eta", self.mirostat_eta, &positive),
        ] {
            let wanted = match range {
                range if *range == share => "0 to 1",
                range if *range == positive => "a number of 0 or more",
                _ => "a number",
            };
            check(range.contains(&found), field, found, wanted)?;
        }
        let repeat = self.repeat_penalty;
        let is_invertible = repeat > 0.0 && repeat.is_finite() && repeat.recip().is_finite();
        check(is_invertible, "repeat_penalty", repeat, "a number over 0")?;
        let base = self.dry_base;
        let is_base = base == 0.0 || (1.0..=f32::MAX).contains(&base);
        check(is_base, "dry_base", base, "0 or a number of 1 or more")?;
        let last_n = self.penalty_last_n;
        check(last_n >= -1, "penalty_last_n", last_n, "-1 or more")?;
        let last_n = self.dry_penalty_last_n;
        check(last_n >= -1, "dry_penalty_last_n", last_n, "-1 or more")?;
        for &(_, bias) in &self.logit_bias {
            check(bias < f32::INFINITY, "logit_bias", bias, "a number or -inf")?;
        }
        Ok(())
    }
}

fn check(
    is_ok: bool,
    field: &'static str,
    found: impl Display,
    wanted: &str,
) -> Result<(), RequestError> {
    match is_ok {
        true => Ok(()),
        false => Err(RequestError::Parameter {
            field,
            found: found.to_string(),
            wanted: wanted.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_field_found_and_wanted() {
        let ok = SamplingParams::default;
        let cases = [
            (
                SamplingParams { top_p: 1.5, ..ok() },
                "top_p: 1.5, expected 0 to 1",
            ),
            (
                SamplingParams {
                    min_p: f32::NAN,
                    ..ok()
                },
                "min_p: NaN, expected 0 to 1",
            ),
            (
                SamplingParams {
                    temperature: f32::INFINITY,
                    ..ok()
                },
                "temperature: inf, expected a number",
            ),
            (
                SamplingParams {
                    repeat_penalty: 0.0,
                    ..ok()
                },
                "repeat_penalty: 0, expected a number over 0",
            ),
            (
                SamplingParams {
                    mirostat_tau: -1.0,
                    ..ok()
                },
                "mirostat_tau: -1, expected a number of 0 or more",
            ),
            (
                SamplingParams {
                    dry_base: 0.5,
                    ..ok()
                },
                "dry_base: 0.5, expected 0 or a number of 1 or more",
            ),
            (
                SamplingParams {
                    penalty_last_n: -2,
                    ..ok()
                },
                "penalty_last_n: -2, expected -1 or more",
            ),
            (
                SamplingParams {
                    logit_bias: vec![(1, f32::NAN)],
                    ..ok()
                },
                "logit_bias: NaN, expected a number or -inf",
            ),
        ];
        for (params, text) in cases {
            assert_eq!(params.validate().unwrap_err().to_string(), text);
        }
        assert_eq!(ok().validate(), Ok(()));
        assert_eq!(SamplingParams::neutral().validate(), Ok(()));
    }
}
