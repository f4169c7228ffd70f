//! From logits to a token: a chain of small stages.
//!
//! Each stage removes candidates or changes their logits, and lives in a file of its own; `STAGES`
//! is the list of them in the order in which they run. What is left is drawn from by a generator of
//! the request's own, so that a request with a seed gives the same tokens whatever else runs. The
//! stages compute with the arithmetic of `math`, which is the same on every platform.
//!
//! Order, names and defaults are those of llama.cpp, the ones users know.

mod candidates;
mod history;
mod logprobs;
mod math;
mod params;
mod rng;

mod dry;
mod logit_bias;
mod min_p;
mod mirostat;
mod penalties;
mod temperature;
mod top_k;
mod top_n_sigma;
mod top_p;
mod typical;
mod xtc;

use candidates::Candidates;
use history::History;
pub use logprobs::{TokenLogprobs, logprobs};
pub use params::{Mirostat, SamplingParams};
use rng::Rng;

use crate::error::RequestError;

/// One step of the chain.
struct Stage {
    /// Which file it is.
    name: &'static str,
    /// Whether these parameters ask for it.
    is_active: fn(&SamplingParams) -> bool,
    /// Removes candidates or changes logits.
    apply: fn(&mut Candidates, &SamplingParams, &mut State),
}

const fn stage(
    name: &'static str,
    is_active: fn(&SamplingParams) -> bool,
    apply: fn(&mut Candidates, &SamplingParams, &mut State),
) -> Stage {
    Stage {
        name,
        is_active,
        apply,
    }
}

/// The stages in the order in which they run.
///
/// First what changes single logits, while the candidates are still in the order of the
/// vocabulary; then the filters, the cheapest of which, top-k, comes as early as it can, so that
/// the others see few candidates; temperature last, so that filters judge what the model said and
/// not what the temperature made of it. Mirostat replaces all filters: with it only the bias, the
/// temperature and its own stage run.
const STAGES: &[Stage] = &[
    stage("logit_bias", logit_bias::is_active, logit_bias::apply),
    stage("penalties", penalties::is_active, penalties::apply),
    stage("dry", dry::is_active, dry::apply),
    stage("top_n_sigma", top_n_sigma::is_active, top_n_sigma::apply),
    stage("top_k", top_k::is_active, top_k::apply),
    stage("typical", typical::is_active, typical::apply),
    stage("top_p", top_p::is_active, top_p::apply),
    stage("min_p", min_p::is_active, min_p::apply),
    stage("xtc", xtc::is_active, xtc::apply),
    stage("temperature", temperature::is_active, temperature::apply),
    stage("mirostat_1", mirostat::is_active_1, mirostat::apply_1),
    stage("mirostat_2", mirostat::is_active_2, mirostat::apply_2),
];

/// What the stages remember from token to token.
#[derive(Debug, Clone)]
struct State {
    n_vocab: usize,
    rng: Rng,
    history: History,
    dry: dry::Dry,
    /// Mirostat's running bound of surprise, in bits.
    mu: f64,
}

/// What a sampler remembers at one time.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot(State);

/// Picks the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    state: State,
    seed: u64,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for one sequence over a vocabulary of `n_vocab` tokens.
    ///
    /// `dry_breakers` are [`SamplingParams::dry_sequence_breakers`] as tokens: every sequence of
    /// tokens whose text contains a breaker.
    pub fn new(
        params: &SamplingParams,
        n_vocab: usize,
        dry_breakers: &[Vec<u32>],
    ) -> Result<Self, RequestError> {
        params.validate()?;
        if let Some((token, _)) = params
            .logit_bias
            .iter()
            .find(|(t, _)| *t as usize >= n_vocab)
        {
            return Err(RequestError::Parameter {
                field: "logit_bias",
                found: format!("token {token}"),
                wanted: format!("a token below {n_vocab}"),
            });
        }
        let mut params = params.clone();
        logit_bias::merge(&mut params.logit_bias);
        let seed = params.seed.unwrap_or_else(rng::random_seed);
        let windows = [
            Some(params.penalty_last_n).filter(|_| penalties::is_active(&params)),
            Some(params.dry_penalty_last_n).filter(|_| dry::is_active(&params)),
        ];
        let state = State {
            n_vocab,
            rng: Rng::new(seed),
            history: History::new(params.penalty_last_n, windows.into_iter().flatten()),
            dry: dry::Dry::new(dry_breakers),
            mu: 2.0 * f64::from(params.mirostat_tau),
        };
        Ok(Self {
            params,
            state,
            seed,
            candidates: Candidates::default(),
        })
    }

    /// The seed in use: the one of the parameters, or the random one taken in its place.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Picks a token; `None` if every token is masked (its logit is `-inf` or not a number).
    ///
    /// Does not [`accept`](Self::accept) it. After the first call nothing is allocated.
    ///
    /// # Panics
    /// If there is not one logit for each token of the vocabulary.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        assert_eq!(logits.len(), self.state.n_vocab, "one logit for each token");
        let candidates = &mut self.candidates;
        candidates.load(logits);
        let active = STAGES
            .iter()
            .filter(|stage| (stage.is_active)(&self.params));
        for stage in active {
            // Every token is masked: by the logits, or by the caller's bias.
            if candidates.items.is_empty() {
                return None;
            }
            (stage.apply)(candidates, &self.params, &mut self.state);
            debug_assert!(
                candidates.items.iter().all(|item| item.logit.is_finite()),
                "{}: every logit stays finite",
                stage.name
            );
        }
        let drawn = candidates.draw(&mut self.state.rng)?;
        mirostat::observe(&self.params, &mut self.state, drawn.p);
        Some(drawn.token)
    }

    /// What it remembers, to go back to.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.state.clone())
    }

    /// Goes back to an earlier time, as if nothing had been sampled or accepted since.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        self.state = snapshot.0.clone();
    }

    /// Records a token of the sequence, sampled or of the prompt, for the stages that look back.
    pub fn accept(&mut self, token: u32) {
        self.state.history.push(token);
    }
}

#[cfg(test)]
#[allow(
    clippy::needless_pass_by_value,
    reason = "quickcheck calls properties by value"
)]
mod tests {
    use quickcheck::{Arbitrary, Gen};

    use super::*;

    /// Logits as a model, or a broken one, may give them.
    #[derive(Debug, Clone)]
    struct Logits(Vec<f32>);

    impl Arbitrary for Logits {
        fn arbitrary(g: &mut Gen) -> Self {
            let n = 1 + usize::arbitrary(g) % 600;
            let special = [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                f32::MIN,
                0.0,
                -0.0,
            ];
            let one = |g: &mut Gen| match u8::arbitrary(g) {
                0..30 => *g.choose(&special).unwrap(),
                _ => f32::from(i16::arbitrary(g)) / 2000.0,
            };
            Self((0..n).map(|_| one(g)).collect())
        }
    }

    /// Parameters with every stage on, within the allowed ranges.
    fn everything(seed: u64, mirostat: u8) -> SamplingParams {
        SamplingParams {
            seed: Some(seed),
            logit_bias: vec![(0, 1.5), (0, f32::NEG_INFINITY)],
            repeat_penalty: 1.2,
            presence_penalty: 0.3,
            frequency_penalty: 0.2,
            dry_multiplier: 0.8,
            dry_allowed_length: 1,
            top_n_sigma: 2.0,
            typical_p: 0.9,
            xtc_probability: 0.5,
            dynatemp_range: 0.3,
            mirostat: [Mirostat::Off, Mirostat::V1, Mirostat::V2][mirostat as usize % 3],
            ..SamplingParams::default()
        }
    }

    fn state(params: &SamplingParams, n_vocab: usize) -> State {
        let mut sampler = Sampler::new(params, n_vocab, &[vec![3]]).unwrap();
        for token in [1, 2, 1, 2, 1, 5] {
            sampler.accept(token);
        }
        sampler.state
    }

    /// Parameters that switch stages on one at a time.
    fn one_by_one() -> Vec<(&'static str, SamplingParams)> {
        let neutral = SamplingParams::neutral;
        let all = everything(1, 0);
        vec![
            (
                "logit_bias",
                SamplingParams {
                    logit_bias: vec![(1, -3.0)],
                    ..neutral()
                },
            ),
            (
                "penalties",
                SamplingParams {
                    repeat_penalty: 1.5,
                    ..neutral()
                },
            ),
            (
                "dry",
                SamplingParams {
                    dry_multiplier: 1.0,
                    dry_allowed_length: 1,
                    ..neutral()
                },
            ),
            (
                "top_n_sigma",
                SamplingParams {
                    top_n_sigma: 1.0,
                    ..neutral()
                },
            ),
            (
                "top_k",
                SamplingParams {
                    top_k: 7,
                    ..neutral()
                },
            ),
            (
                "typical",
                SamplingParams {
                    typical_p: 0.5,
                    ..neutral()
                },
            ),
            (
                "top_p",
                SamplingParams {
                    top_p: 0.7,
                    ..neutral()
                },
            ),
            (
                "min_p",
                SamplingParams {
                    min_p: 0.2,
                    ..neutral()
                },
            ),
            (
                "xtc",
                SamplingParams {
                    xtc_probability: 1.0,
                    ..neutral()
                },
            ),
            (
                "temperature",
                SamplingParams {
                    temperature: 0.5,
                    ..neutral()
                },
            ),
            (
                "mirostat_1",
                SamplingParams {
                    mirostat: Mirostat::V1,
                    mirostat_tau: 2.0,
                    ..all.clone()
                },
            ),
            (
                "mirostat_2",
                SamplingParams {
                    mirostat: Mirostat::V2,
                    mirostat_tau: 2.0,
                    ..all
                },
            ),
        ]
    }

    #[test]
    fn every_stage_can_be_switched_on() {
        let switches = one_by_one();
        assert_eq!(switches.len(), STAGES.len());
        for (stage, (name, params)) in STAGES.iter().zip(switches) {
            assert_eq!(stage.name, name);
            assert!((stage.is_active)(&params), "{name}");
        }
    }

    #[test]
    fn neutral_parameters_change_nothing() {
        fn property(logits: Logits) -> bool {
            let params = SamplingParams::neutral();
            let mut state = state(&params, logits.0.len());
            let mut before = Candidates::default();
            before.load(&logits.0);
            if before.items.is_empty() {
                return true;
            }
            before.softmax();
            STAGES.iter().all(|stage| {
                let mut after = Candidates::default();
                after.load(&logits.0);
                // Even when it is asked to run.
                (stage.apply)(&mut after, &params, &mut state);
                after.softmax();
                after.items.sort_by_key(|item| item.token);
                let probable = |candidates: &Candidates| -> Vec<(u32, f32)> {
                    let items = candidates.items.iter().filter(|item| item.p > 0.0);
                    items.map(|item| (item.token, item.p)).collect()
                };
                probable(&before) == probable(&after)
            }) && STAGES.iter().all(|stage| !(stage.is_active)(&params))
        }
        quickcheck::quickcheck(property as fn(Logits) -> bool);
    }

    #[test]
    fn what_is_left_is_a_distribution() {
        fn property(logits: Logits) -> bool {
            one_by_one()
                .into_iter()
                .zip(STAGES)
                .all(|((_, mut params), stage)| {
                    params
                        .logit_bias
                        .retain(|(token, _)| (*token as usize) < logits.0.len());
                    let mut state = state(&params, logits.0.len());
                    let mut candidates = Candidates::default();
                    candidates.load(&logits.0);
                    if candidates.items.is_empty() {
                        return true;
                    }
                    (stage.apply)(&mut candidates, &params, &mut state);
                    if candidates.items.is_empty() {
                        return stage.name == "logit_bias";
                    }
                    candidates.softmax();
                    let sum: f64 = candidates.items.iter().map(|item| f64::from(item.p)).sum();
                    (sum - 1.0).abs() < 1e-4
                        && candidates
                            .items
                            .iter()
                            .all(|item| (0.0..=1.0).contains(&item.p))
                })
        }
        quickcheck::quickcheck(property as fn(Logits) -> bool);
    }

    #[test]
    fn masked_tokens_are_never_picked_and_seeds_repeat() {
        fn property(logits: Logits, seed: u64, mirostat: u8) -> bool {
            let params = everything(seed, mirostat);
            let run = || {
                let mut sampler = Sampler::new(&params, logits.0.len(), &[vec![3]]).unwrap();
                let mut tokens = Vec::new();
                for _ in 0..20 {
                    let token = sampler.sample(&logits.0);
                    tokens.push(token);
                    if let Some(token) = token {
                        sampler.accept(token);
                    }
                }
                tokens
            };
            let is_masked = |token: usize| {
                token == 0 || logits.0[token].is_nan() || logits.0[token] == f32::NEG_INFINITY
            };
            let all_masked = (0..logits.0.len()).all(is_masked);
            let tokens = run();
            tokens == run()
                && tokens.iter().all(|token| match token {
                    Some(token) => !is_masked(*token as usize),
                    None => all_masked,
                })
        }
        quickcheck::quickcheck(property as fn(Logits, u64, u8) -> bool);
    }

    #[test]
    fn greedy_takes_the_best_and_the_first_of_equals() {
        let params = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(&params, 5, &[]).unwrap();
        assert_eq!(sampler.sample(&[0.0, 2.0, 1.0, 2.0, f32::NAN]), Some(1));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 5]), None);
        assert_eq!(
            sampler.sample(&[f32::INFINITY, 2.0, f32::INFINITY, 0.0, 0.0]),
            Some(0)
        );
    }

    /// The generator and the arithmetic are ours: these tokens are the same on every platform.
    #[test]
    fn a_seed_is_a_promise() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32) / 10.0).collect();
        let params = SamplingParams {
            seed: Some(42),
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(&params, logits.len(), &[]).unwrap();
        let tokens: Vec<u32> = (0..8).map(|_| sampler.sample(&logits).unwrap()).collect();
        assert_eq!(tokens, [999, 60, 726, 494, 898, 90, 434, 90]);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0f32, 1.0, 2.0, 3.0];
        let params = SamplingParams {
            seed: Some(1),
            ..SamplingParams::neutral()
        };
        let mut sampler = Sampler::new(&params, 4, &[]).unwrap();
        let mut counts = [0.0f64; 4];
        for _ in 0..20_000 {
            counts[sampler.sample(&logits).unwrap() as usize] += 1.0 / 20_000.0;
        }
        for (count, logit) in counts.iter().zip(logits) {
            let wanted =
                f64::from(logit).exp() / logits.map(|l| f64::from(l).exp()).iter().sum::<f64>();
            assert!((count - wanted).abs() < 0.01, "{count} {wanted}");
        }
    }
}
