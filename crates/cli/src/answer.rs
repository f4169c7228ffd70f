//! How answers are made: the options of a request, on the command line and by `/set` in a chat.

use anyhow::{anyhow, bail};
use minerva_engine::sampler::{Mirostat, SamplingParams};
use minerva_engine::{GenerateConfig, GenerateRequest};

/// The options of an answer; a chat can change those that [`AnswerArgs::set`] lists.
#[derive(clap::Args)]
pub(crate) struct AnswerArgs {
    /// Most tokens of an answer [default: what fits into the context]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    /// End the answer before this text; can be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Never write this text: another token is chosen where it would begin; can be given several
    /// times
    #[arg(long, value_name = "TEXT")]
    banned_string: Vec<String>,

    /// Go on where the model would end the answer
    #[arg(long)]
    ignore_eos: bool,

    #[command(flatten)]
    sampling: SamplingArgs,
}

/// The options of sampling; their defaults are the engine's.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Spread of the choice; 0 always takes the likeliest token
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().temperature)]
    temperature: f32,

    /// Choose among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = SamplingParams::default().top_k)]
    top_k: u32,

    /// Choose among the likeliest tokens that together have this probability; 1 for all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().top_p)]
    top_p: f32,

    /// Choose among tokens of at least this share of the likeliest one's probability; 0 for all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().min_p)]
    min_p: f32,

    /// Choose among tokens whose information is closest to what is expected, up to this much
    /// probability; 1 for all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().typical_p)]
    typical_p: f32,

    /// Choose among tokens within this many standard deviations of the best logit; 0 or less for
    /// all
    #[arg(long, value_name = "X", allow_negative_numbers = true,
        default_value_t = SamplingParams::default().top_n_sigma)]
    top_n_sigma: f32,

    /// How often the likeliest tokens are left out but for the last of them (XTC); 0 for never
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().xtc_probability)]
    xtc_probability: f32,

    /// How likely a token must be for that
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().xtc_threshold)]
    xtc_threshold: f32,

    /// How far the temperature moves up and down with the entropy; 0 for not at all
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().dynatemp_range)]
    dynatemp_range: f32,

    /// How the entropy maps to that range
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().dynatemp_exponent)]
    dynatemp_exponent: f32,

    /// Choose by mirostat in place of the filters: 0 for not, 1 or 2 for its versions
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_mirostat)]
    mirostat: Mirostat,

    /// The surprise that mirostat aims for, in bits
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().mirostat_tau)]
    mirostat_tau: f32,

    /// How fast mirostat learns
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().mirostat_eta)]
    mirostat_eta: f32,

    /// How many of the last tokens the next three penalties look at; -1 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        default_value_t = SamplingParams::default().penalty_last_n)]
    repeat_last_n: i32,

    /// Make tokens that were there less likely; 1 for not at all
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().repeat_penalty)]
    repeat_penalty: f32,

    /// Taken from the logit of every token that was there
    #[arg(long, value_name = "X", allow_negative_numbers = true,
        default_value_t = SamplingParams::default().presence_penalty)]
    presence_penalty: f32,

    /// Taken from the logit of a token for each time that it was there
    #[arg(long, value_name = "X", allow_negative_numbers = true,
        default_value_t = SamplingParams::default().frequency_penalty)]
    frequency_penalty: f32,

    /// How much a token costs that goes on with a repetition (DRY); 0 for nothing
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().dry_multiplier)]
    dry_multiplier: f32,

    /// By what that grows with each repeated token
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().dry_base)]
    dry_base: f32,

    /// Repetitions of up to this many tokens cost nothing
    #[arg(long, value_name = "N", default_value_t = SamplingParams::default().dry_allowed_length)]
    dry_allowed_length: u32,

    /// How many of the last tokens DRY looks at; -1 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        default_value_t = SamplingParams::default().dry_penalty_last_n)]
    dry_penalty_last_n: i32,

    /// Text at which a repetition ends for DRY; can be given several times [default: a line break,
    /// : " and *]
    #[arg(long, value_name = "TEXT")]
    dry_sequence_breaker: Vec<String>,

    /// Added to the logit of a token; can be given several times
    #[arg(long, value_name = "ID=X", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,

    /// Seed of the choice: the same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || format!("{text:?}, expected a token id, = and a number, such as 42=-1.5");
    let (id, bias) = text.split_once('=').ok_or_else(wrong)?;
    Ok((
        id.parse().map_err(|_| wrong())?,
        bias.parse().map_err(|_| wrong())?,
    ))
}

fn parse_mirostat(text: &str) -> Result<Mirostat, String> {
    match text {
        "0" => Ok(Mirostat::Off),
        "1" => Ok(Mirostat::V1),
        "2" => Ok(Mirostat::V2),
        _ => Err(format!("{text:?}, expected 0, 1 or 2")),
    }
}

/// What `/set` can change, as `/help` shows it.
pub(crate) const SETTINGS: &str = "temperature, top-k, top-p, min-p, repeat-penalty, \
     presence-penalty, frequency-penalty, seed, max-tokens";

impl AnswerArgs {
    /// The request that goes on with a prompt.
    pub(crate) fn request(&self, prompt: Vec<u32>) -> GenerateRequest {
        let s = &self.sampling;
        let sampling = SamplingParams {
            temperature: s.temperature,
            top_k: s.top_k,
            top_p: s.top_p,
            min_p: s.min_p,
            typical_p: s.typical_p,
            top_n_sigma: s.top_n_sigma,
            xtc_probability: s.xtc_probability,
            xtc_threshold: s.xtc_threshold,
            dynatemp_range: s.dynatemp_range,
            dynatemp_exponent: s.dynatemp_exponent,
            mirostat: s.mirostat,
            mirostat_tau: s.mirostat_tau,
            mirostat_eta: s.mirostat_eta,
            dry_multiplier: s.dry_multiplier,
            dry_base: s.dry_base,
            dry_allowed_length: s.dry_allowed_length,
            dry_penalty_last_n: s.dry_penalty_last_n,
            dry_sequence_breakers: match s.dry_sequence_breaker.is_empty() {
                true => SamplingParams::default().dry_sequence_breakers,
                false => s.dry_sequence_breaker.clone(),
            },
            penalty_last_n: s.repeat_last_n,
            repeat_penalty: s.repeat_penalty,
            presence_penalty: s.presence_penalty,
            frequency_penalty: s.frequency_penalty,
            logit_bias: s.logit_bias.clone(),
            seed: Some(s.seed.unwrap_or_else(new_seed)),
            ..SamplingParams::default()
        };
        let config = GenerateConfig {
            sampling,
            stop: self.stop.clone(),
            banned_strings: self.banned_string.clone(),
            ignore_eos: self.ignore_eos,
            max_tokens: self.max_tokens,
            ..GenerateConfig::default()
        };
        GenerateRequest::new(prompt, config)
    }

    /// Changes one setting, by the name of its option.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        let s = &mut self.sampling;
        match name {
            "temperature" => s.temperature = parse(name, value)?,
            "top-k" => s.top_k = parse(name, value)?,
            "top-p" => s.top_p = parse(name, value)?,
            "min-p" => s.min_p = parse(name, value)?,
            "repeat-penalty" => s.repeat_penalty = parse(name, value)?,
            "presence-penalty" => s.presence_penalty = parse(name, value)?,
            "frequency-penalty" => s.frequency_penalty = parse(name, value)?,
            "seed" => s.seed = Some(parse(name, value)?),
            "max-tokens" => self.max_tokens = Some(parse(name, value)?),
            _ => bail!("{name}: no such setting, expected one of: {SETTINGS}"),
        }
        Ok(())
    }

    /// All settings with their values, one a line.
    pub(crate) fn describe(&self) -> String {
        let s = &self.sampling;
        let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
        format!(
            "temperature {}\ntop-k {}\ntop-p {}\nmin-p {}\nrepeat-penalty {}\npresence-penalty {}\n\
             frequency-penalty {}\nseed {}\nmax-tokens {}",
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repeat_penalty,
            s.presence_penalty,
            s.frequency_penalty,
            or(s.seed.map(|seed| seed.to_string()), "new each time"),
            or(self.max_tokens.map(|max| max.to_string()), "what fits"),
        )
    }
}

fn parse<T: std::str::FromStr>(name: &str, value: &str) -> anyhow::Result<T> {
    value
        .parse()
        .map_err(|_| anyhow!("{name}: {value:?}, expected a number"))
}

/// A number that nobody chose: the keys of the standard library's hash maps are random.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Short enough to be typed again.
    RandomState::new().hash_one(0) >> 32
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        answer: AnswerArgs,
    }

    #[test]
    fn every_setting_can_be_set_and_is_shown() {
        let mut answer = Cli::parse_from(["test"]).answer;
        for name in SETTINGS.split(", ") {
            answer.set(name, "1").unwrap();
            assert!(answer.describe().contains(&format!("{name} 1")), "{name}");
            assert!(answer.set(name, "many").is_err(), "{name}");
        }
        assert!(
            answer
                .set("heat", "1")
                .unwrap_err()
                .to_string()
                .contains("temperature")
        );
    }

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        assert_eq!(parse_bias("42=-1.5"), Ok((42, -1.5)));
        for wrong in ["42", "=1", "x=1", "-1=1", "1=x"] {
            assert!(parse_bias(wrong).is_err(), "{wrong}");
        }
    }
}
