//! Answers: their end, their text, what they reuse, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use minerva_compute::cpu::CpuOptions;
use minerva_compute::{CpuBackend, ReferenceBackend};
use minerva_engine::model::ARCHITECTURES;
use minerva_engine::sampler::{SamplingParams, TokenLogprobs};
use minerva_engine::{
    Backends, Completion, Deadlines, Done, Engine, EngineError, EngineOptions, Event, FinishReason,
    GenerateConfig, GenerateRequest, RequestError, TimeoutPhase, Token,
};

use crate::tiny::{FIRST_LETTER, Random, Tiny};
use crate::wait_until;

fn start(options: &EngineOptions) -> Engine {
    start_on(Arc::new(ReferenceBackend), options)
}

fn start_on(backend: impl Into<Backends>, options: &EngineOptions) -> Engine {
    let model = Tiny::new(&ARCHITECTURES[0], &[]).open().unwrap();
    Engine::start(Arc::new(model), backend, options).unwrap()
}

fn engine(context: usize, batch_tokens: usize) -> Engine {
    start(&EngineOptions {
        context: Some(context),
        batch_tokens,
        ..EngineOptions::default()
    })
}

/// Greedy, of up to 10 letters: a bias keeps everything else out.
fn config() -> GenerateConfig {
    let logit_bias = (0..FIRST_LETTER)
        .map(|id| (id, f32::NEG_INFINITY))
        .collect();
    GenerateConfig {
        sampling: SamplingParams {
            temperature: 0.0,
            logit_bias,
            ..SamplingParams::neutral()
        },
        max_tokens: Some(10),
        ..GenerateConfig::default()
    }
}

fn request(prompt: &[u32]) -> GenerateRequest {
    with(prompt, |_| {})
}

fn with(prompt: &[u32], change: impl Fn(&mut GenerateConfig)) -> GenerateRequest {
    let mut config = config();
    change(&mut config);
    GenerateRequest::new(prompt.into(), config)
}

/// One choice of an answer.
#[derive(Default)]
struct Choice {
    tokens: Vec<Token>,
    done: Option<Done>,
}

impl Choice {
    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    fn text(&self) -> String {
        let text: String = self.tokens.iter().map(|token| &*token.text).collect();
        text + &self.done().text
    }

    fn done(&self) -> &Done {
        self.done.as_ref().expect("every choice ends")
    }
}

/// Everything that a request gave.
#[derive(Default)]
struct Answered {
    choices: Vec<Choice>,
    n_prefill_events: usize,
    prompt: Vec<TokenLogprobs>,
}

fn collect(
    events: impl Iterator<Item = Result<Event, EngineError>>,
) -> Result<Answered, EngineError> {
    let mut answered = Answered::default();
    let mut at = 0;
    for event in events {
        match event? {
            Event::Prefill { n_done, n_total } => {
                assert!(
                    n_done < n_total && (at == 0 || at < n_done) && answered.choices.is_empty()
                );
                at = n_done;
                answered.n_prefill_events += 1;
            }
            Event::Prompt(scores) => answered.prompt.extend(scores),
            Event::Token { choice, token } => {
                let choice = grow(&mut answered.choices, choice);
                assert_eq!(choice.done, None, "nothing comes after the end");
                choice.tokens.push(token);
            }
            Event::Done { choice, done } => {
                let choice = grow(&mut answered.choices, choice);
                assert_eq!(choice.done, None, "one end");
                choice.done = Some(done);
            }
        }
    }
    assert!(answered.choices.iter().all(|choice| choice.done.is_some()));
    Ok(answered)
}

fn grow(choices: &mut Vec<Choice>, index: usize) -> &mut Choice {
    while choices.len() <= index {
        choices.push(Choice::default());
    }
    &mut choices[index]
}

fn answer_all(engine: &Engine, request: GenerateRequest) -> Result<Answered, EngineError> {
    collect(engine.submit(request)?.blocking())
}

fn answer(engine: &Engine, request: GenerateRequest) -> Choice {
    answer_all(engine, request).unwrap().choices.remove(0)
}

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| 3 + 7 * i % 250).collect()
}

#[test]
fn an_answer_is_the_same_cold_warm_and_in_slices() {
    let prompt = prompt(39);
    let cold = answer_all(&engine(64, 64), request(&prompt)).unwrap();
    assert_eq!(cold.n_prefill_events, 1);
    let cold = &cold.choices[0];
    let done = cold.done();
    assert_eq!(done.finish_reason, FinishReason::Length);
    assert_eq!((cold.tokens.len(), cold.text().len()), (10, 10));
    assert_eq!(done.usage.completion_tokens, 10);
    assert_eq!(done.usage.cached_tokens, 0);

    let sliced = answer_all(&engine(64, 10), request(&prompt)).unwrap();
    assert_eq!(sliced.n_prefill_events, 4);
    assert_eq!(sliced.choices[0].ids(), cold.ids());

    let engine = engine(64, 64);
    let shared = [&prompt[..20], &[9, 9, 9]].concat();
    answer(&engine, request(&shared));
    // Whole blocks are found again.
    for cached_tokens in [16, 32] {
        let warm = answer(&engine, request(&prompt));
        assert_eq!(warm.ids(), cold.ids());
        assert_eq!(warm.done().usage.cached_tokens, cached_tokens);
    }
    // The next turn of a chat: prompt and answer are there, but for the last block's part.
    let next = [&prompt[..], &cold.ids(), &[5, 6]].concat();
    let usage = answer(&engine, request(&next)).done().usage;
    assert_eq!((usage.prompt_tokens, usage.cached_tokens), (51, 48));
    // Only where it is wanted.
    let uncached = answer(&engine, with(&prompt, |config| config.cache_prompt = false));
    assert_eq!(uncached.done().usage.cached_tokens, 0);
    assert_eq!(uncached.ids(), cold.ids());
}

#[test]
fn log_probabilities_do_not_depend_on_the_cache() {
    let request = with(&prompt(20), |config| config.logprobs = Some(4));
    let engine = engine(64, 7);
    let cold = answer(&engine, request.clone());
    let warm = answer(&engine, request);
    assert_eq!(warm.done().usage.cached_tokens, 16);
    for (cold, warm) in cold.tokens.iter().zip(&warm.tokens) {
        let (cold, warm) = (
            cold.logprobs.as_ref().unwrap(),
            warm.logprobs.as_ref().unwrap(),
        );
        assert!((cold.logprob - warm.logprob).abs() < 1e-4);
        assert_eq!(cold.top.len(), 4);
        // The bias is the sampler's: the model's own choice may be another token.
        assert!(cold.logprob <= cold.top[0].1);
    }
}

#[test]
fn a_prompt_is_scored_token_by_token() {
    let prompt = prompt(30);
    let tiny = Tiny::new(&ARCHITECTURES[0], &[]);
    let options = minerva_engine::EvaluatorOptions {
        batch_outputs: 8,
        ..Default::default()
    };
    let wanted = tiny.evaluator(&options).score(&prompt, 1).unwrap();
    for (batch_tokens, batch_scores) in [(64, 16), (7, 16), (64, 3), (64, 1)] {
        let engine = start(&EngineOptions {
            context: Some(64),
            batch_tokens,
            batch_scores,
            ..EngineOptions::default()
        });
        for max_tokens in [0, 10] {
            let mut request = with(&prompt, |config| config.max_tokens = Some(max_tokens));
            request.prompt_logprobs = Some(2);
            let answered = answer_all(&engine, request).unwrap();
            let scores: Vec<f32> = answered.prompt.iter().map(|one| one.logprob).collect();
            assert_eq!(scores.len(), 29);
            let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
            assert!(scores.iter().zip(&wanted).all(is_close), "{scores:?}");
            assert!(answered.prompt.iter().all(|one| one.top.len() == 2));
            assert_eq!(answered.choices[0].tokens.len(), max_tokens);
        }
    }
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let engine = engine(32, 16);
    let whole = answer(&engine, with(&[1; 20], |config| config.max_tokens = None));
    assert_eq!(whole.done().finish_reason, FinishReason::Length);
    assert_eq!(whole.tokens.len(), 12);
    let none = answer(
        &engine,
        with(&[1; 20], |config| config.max_tokens = Some(0)),
    );
    assert_eq!(none.tokens.len(), 0);
    assert_eq!(none.done().finish_reason, FinishReason::Length);
}

#[test]
fn stop_strings_end_an_answer_before_them() {
    let engine = engine(64, 64);
    let text = answer(&engine, request(&[1, 2, 3])).text();
    let stop = |stop: &[&str]| {
        let stop: Vec<String> = stop.iter().map(|&text| text.into()).collect();
        answer(
            &engine,
            with(&[1, 2, 3], |config| config.stop = stop.clone()),
        )
    };
    let stopped = stop(&["never", &text[4..6]]);
    assert_eq!(stopped.text(), text[..text.find(&text[4..6]).unwrap()]);
    assert_eq!(stopped.done().finish_reason, FinishReason::Stop);
    // What only began like a stop string comes with the end.
    let held = stop(&[&format!("{}!", &text[9..])]);
    assert_eq!(
        (held.text(), &*held.done().text),
        (text.clone(), &text[9..])
    );
}

#[test]
fn banned_strings_do_not_appear() {
    let engine = engine(64, 64);
    let sampled = |seed, banned: &[String], stop: &[String]| {
        let request = with(&[1, 2, 3], |config| {
            config.sampling.temperature = 1.5;
            config.sampling.seed = Some(seed);
            config.max_tokens = Some(30);
            config.banned_strings = banned.to_vec();
            config.stop = stop.to_vec();
        });
        answer(&engine, request)
    };
    let mut n_changed = 0;
    for seed in 0..20 {
        let plain = sampled(seed, &[], &[]).text();
        let banned = [&plain[3..5], &plain[9..12], &plain[10..14]].map(String::from);
        let changed = sampled(seed, &banned, &[]);
        assert_eq!(changed.tokens.len(), 30);
        assert!(!banned.iter().any(|text| changed.text().contains(text)));
        assert_eq!(changed.text()[..3], plain[..3]);
        n_changed += usize::from(changed.text() != plain);
        // A ban of what doesn't come changes nothing.
        assert_eq!(sampled(seed, &["???".into()], &[]).text(), plain);
        // Stop strings are found all the same.
        let stop = [changed.text()[20..22].to_string()];
        let stopped = sampled(seed, &banned, &stop);
        assert_eq!(
            stopped.text(),
            changed.text()[..changed.text().find(&stop[0]).unwrap()]
        );
    }
    assert_eq!(n_changed, 20);
    let all: Vec<String> = ('a'..='z').map(String::from).collect();
    let request = with(&[1, 2, 3], |config| config.banned_strings = all.clone());
    let error = answer_all(&engine, request).err();
    assert_eq!(error, Some(RequestError::NoCandidates.into()));
}

#[test]
fn a_token_that_ends_the_text_ends_the_answer() {
    let engine = engine(64, 64);
    let ends = with(&[1, 2, 3], |config| {
        // The only token that is not masked.
        let bias = &mut config.sampling.logit_bias;
        bias.retain(|(id, _)| *id != 2);
        bias.extend((FIRST_LETTER..FIRST_LETTER + 26).map(|id| (id, f32::NEG_INFINITY)));
    });
    let ended = answer(&engine, ends.clone());
    assert_eq!((ended.tokens.len(), &*ended.text()), (0, ""));
    assert_eq!(ended.done().finish_reason, FinishReason::Stop);
    assert_eq!(ended.done().usage.completion_tokens, 1);
    let mut goes_on = ends;
    goes_on.config.ignore_eos = true;
    let error = answer_all(&engine, goes_on).err();
    assert_eq!(error, Some(RequestError::NoCandidates.into()));
}

#[test]
fn several_answers_to_one_prompt() {
    let engine = engine(64, 64);
    let one = |seed| {
        with(&prompt(21), |config| {
            config.sampling.seed = Some(seed);
            config.sampling.temperature = 1.0;
        })
    };
    let mut several = one(5);
    several.n_choices = 3;
    let answered = answer_all(&engine, several).unwrap();
    assert_eq!(answered.choices.len(), 3);
    for (seed, choice) in (5..).zip(&answered.choices) {
        // As if each had been asked for by itself.
        assert_eq!(choice.ids(), answer(&engine, one(seed)).ids());
    }
    // 21 tokens were computed once, and the first token of each answer is chosen from them.
    assert_eq!(engine.stats().n_prompt_tokens, 21 + 3 * 5);
}

#[test]
fn an_answer_can_be_cancelled() {
    let engine = engine(128, 16);
    let long = with(&prompt(40), |config| config.max_tokens = None);
    let mut answer = engine.submit(long.clone()).unwrap();
    answer.cancel();
    let mut last = None;
    while let Some(event) = answer.events_blocking() {
        last = Some(event.unwrap());
    }
    let Some(Event::Done { done, .. }) = last else {
        panic!("{last:?}")
    };
    assert_eq!(done.finish_reason, FinishReason::Cancelled);
    // A reader that goes away is noticed too.
    drop(engine.submit(long).unwrap());
    wait_until(|| engine.stats().n_dropped == 1 && engine.stats().n_blocks_used == 0);
}

trait EventsBlocking {
    fn events_blocking(&mut self) -> Option<Result<Event, EngineError>>;
}

impl EventsBlocking for minerva_engine::Answer {
    fn events_blocking(&mut self) -> Option<Result<Event, EngineError>> {
        let mut next = std::pin::pin!(self.next());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            match next.as_mut().poll(&mut context) {
                std::task::Poll::Ready(event) => return event,
                std::task::Poll::Pending => std::thread::yield_now(),
            }
        }
    }
}

#[test]
fn deadlines_end_requests() {
    let engine = engine(64, 64);
    let over = Some(Duration::ZERO);
    let limited = |deadlines| GenerateRequest {
        deadlines,
        ..request(&prompt(30))
    };
    for deadlines in [
        Deadlines {
            queue: over,
            ..Deadlines::default()
        },
        Deadlines {
            total: over,
            ..Deadlines::default()
        },
    ] {
        let error = answer_all(&engine, limited(deadlines)).err();
        let phase = TimeoutPhase::Queue;
        let limit = Duration::ZERO;
        assert_eq!(error, Some(EngineError::Timeout { phase, limit }));
    }
    wait_until(|| engine.stats().n_dropped == 2);
}

/// Long enough for a request to begin.
const SOON: Option<Duration> = Some(Duration::from_millis(300));

/// A prompt in more steps than the channel of its events holds: it is not whole while nobody reads.
fn endless_prompt() -> (Engine, GenerateRequest) {
    let engine = start(&EngineOptions {
        context: Some(128),
        batch_tokens: 1,
        max_sequences: 1,
        ..EngineOptions::default()
    });
    (
        engine,
        with(&prompt(120), |config| config.max_tokens = None),
    )
}

#[test]
fn a_deadline_ends_a_prompt_in_the_middle() {
    for of_first_token in [true, false] {
        let (engine, mut request) = endless_prompt();
        request.deadlines = Deadlines {
            queue: None,
            first_token: SOON.filter(|_| of_first_token),
            total: SOON.filter(|_| !of_first_token),
        };
        let answer = engine.submit(request).unwrap();
        wait_until(|| engine.stats().n_dropped == 1 && engine.stats().n_blocks_used == 0);
        assert!((1..120).contains(&engine.stats().n_prompt_tokens));
        // The error comes after all that was on its way when the time was over.
        let events: Vec<_> = answer.blocking().collect();
        let phase = TimeoutPhase::FirstToken;
        let limit = SOON.unwrap();
        let (last, before) = events.split_last().unwrap();
        assert_eq!(
            last.as_ref().err(),
            Some(&EngineError::Timeout { phase, limit })
        );
        assert!(
            before
                .iter()
                .all(|event| matches!(event, Ok(Event::Prefill { .. })))
        );
        wait_until(|| engine.stats().n_requests == 1 && engine.stats().n_dropped == 1);
        assert_eq!(engine.stats().n_answered, 0);
    }
}

#[test]
fn a_deadline_ends_an_answer_with_what_there_is() {
    let engine = engine(128, 64);
    let mut request = with(&[1, 2, 3], |config| config.max_tokens = None);
    request.deadlines.total = SOON;
    // Nobody reads, so that it is held up before its end.
    let answer = engine.submit(request).unwrap();
    wait_until(|| engine.stats().n_requests == 1 && engine.stats().n_blocks_used > 0);
    wait_until(|| engine.stats().n_blocks_used == 0);
    let choice = collect(answer.blocking()).unwrap().choices.remove(0);
    assert_eq!(choice.done().finish_reason, FinishReason::Timeout);
    assert!((1..125).contains(&choice.tokens.len()));
}

#[test]
fn a_reader_that_leaves_ends_a_prompt_in_the_middle() {
    let (engine, request) = endless_prompt();
    let mut answer = engine.submit(request).unwrap();
    assert!(matches!(
        answer.events_blocking(),
        Some(Ok(Event::Prefill { .. }))
    ));
    drop(answer);
    wait_until(|| engine.stats().n_dropped == 1 && engine.stats().n_blocks_used == 0);
    assert!(engine.stats().n_prompt_tokens < 120);
}

#[test]
fn a_slow_reader_holds_up_itself_alone() {
    let engine = engine(128, 16);
    let endless = with(&[1, 2, 3], |config| config.max_tokens = None);
    // More events than the channel holds, and nobody reads them yet.
    let slow = engine.submit(endless.clone()).unwrap();
    for _ in 0..3 {
        assert_eq!(answer(&engine, request(&prompt(20))).tokens.len(), 10);
    }
    let ids = collect(slow.blocking()).unwrap().choices.remove(0).ids();
    assert_eq!(ids.len(), 125);
    assert_eq!(ids, answer(&engine, endless).ids());
}

#[test]
fn a_full_queue_is_an_error_at_once() {
    let engine = start(&EngineOptions {
        context: Some(128),
        max_sequences: 1,
        max_waiting: 2,
        ..EngineOptions::default()
    });
    let endless = with(&[1, 2, 3], |config| config.max_tokens = None);
    let mut answers: Vec<_> = Vec::new();
    let overloaded = loop {
        match engine.submit(endless.clone()) {
            Ok(answer) => answers.push(answer),
            Err(error) => break error,
        }
        if answers.len() == 100 {
            break EngineError::ShuttingDown;
        }
    };
    // Either here, or as the answer of those that the thread did not let in.
    let refused = answers
        .into_iter()
        .filter_map(|answer| collect(answer.blocking()).err());
    let refused: Vec<EngineError> = refused.chain([overloaded]).collect();
    let is_overloaded = |error: &EngineError| matches!(error, EngineError::Overloaded { .. });
    assert!(refused.iter().any(is_overloaded), "{refused:?}");
}

#[test]
fn a_seed_decides_the_answer() {
    let ids = |seed| {
        let request = with(&[1, 2, 3], |config| {
            config.sampling = SamplingParams {
                seed: Some(seed),
                ..SamplingParams::neutral()
            };
        });
        answer(&engine(64, 64), request).ids()
    };
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1), ids(2));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let engine = engine(32, 16);
    let check = |request: GenerateRequest, wanted: &str| {
        let error = engine.submit(request).unwrap_err();
        assert_eq!(error.to_string(), wanted);
    };
    check(
        request(&[1; 32]),
        "prompt: 32 tokens, expected fewer than the context of 32",
    );
    check(request(&[]), "prompt: no tokens, expected at least 1");
    check(
        request(&[1, 285]),
        "prompt: token 285, expected ids below 285",
    );
    for n_choices in [0, 5] {
        check(
            GenerateRequest {
                n_choices,
                ..request(&[1])
            },
            &format!("n: {n_choices}, expected 1 to 4, the sequences computed at once"),
        );
    }
    check(
        with(&[1], |config| config.stop = vec![String::new()]),
        "stop: a string of 0 bytes, expected 1 to 4096 bytes",
    );
    check(
        with(&[1], |config| config.banned_strings = vec![String::new()]),
        "banned_strings: a string of 0 bytes, expected 1 to 4096 bytes",
    );
    let dry = |breakers: Vec<String>| {
        with(&[1], |config| {
            config.sampling.dry_multiplier = 1.0;
            config.sampling.dry_sequence_breakers = breakers.clone();
        })
    };
    let wanted = "dry_sequence_breakers: a string of 41 bytes, expected 1 to 40 bytes";
    check(dry(vec!["x".repeat(41)]), wanted);
    check(
        dry(vec!["x".into(); 33]),
        "dry_sequence_breakers: 33 strings, expected at most 32",
    );
    let mut evaluator = Tiny::new(&ARCHITECTURES[0], &[]).evaluator(&Default::default());
    let error = evaluator.prefill(&[1; 129]).unwrap_err().to_string();
    assert_eq!(
        error,
        "prompt: 129 tokens, expected at most 128, what is left of a context of 128"
    );
}

#[test]
fn breakers_of_several_tokens_are_understood() {
    let request = with(&[1, 2, 3], |config| {
        config.sampling.dry_multiplier = 1.0;
        config.sampling.dry_sequence_breakers = ["ab", "z"].map(String::from).into();
    });
    assert_eq!(answer(&engine(64, 64), request).tokens.len(), 10);
}

#[test]
fn text_in_and_text_out() {
    let engine = engine(64, 64);
    let whole: Completion = engine.blocking_generate("abc", &config()).unwrap();
    assert_eq!((whole.text.len(), whole.tokens.len()), (10, 10));
    let mut tokens = engine.generate_streaming("abc", &config()).unwrap();
    let mut text = String::new();
    while let Some(token) = tokens.blocking_next() {
        text += &token.unwrap().text;
    }
    text += &tokens.done().unwrap().text;
    assert_eq!(text, whole.text);
}

#[test]
fn an_engine_that_goes_ends_its_answers() {
    let engine = engine(128, 16);
    let endless = with(&[1, 2, 3], |config| config.max_tokens = None);
    let answers: Vec<_> = (0..6)
        .map(|_| engine.submit(endless.clone()).unwrap())
        .collect();
    drop(engine);
    for answer in answers {
        match collect(answer.blocking()) {
            Ok(_) | Err(EngineError::ShuttingDown) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Random requests, the same for the same number.
fn random_request(number: u64) -> GenerateRequest {
    let mut random = Random(number + 1);
    let mut below = |n: usize| ((random.next() + 1.0) / 2.0 * n as f32) as usize % n;
    // Some begin alike.
    let shared = prompt(40);
    let mut tokens = shared[..below(40)].to_vec();
    tokens.extend((0..1 + below(50)).map(|i| (i * 7 + below(200)) as u32 % 280));
    let mut request = with(&tokens, |_| {});
    let config = &mut request.config;
    config.sampling.temperature = [0.0, 1.0, 2.0][below(3)];
    config.sampling.seed = Some(number);
    config.sampling.repeat_penalty = [1.0, 1.3][below(2)];
    config.max_tokens = Some(1 + below(30));
    config.logprobs = [None, Some(2)][below(2)];
    config.cache_prompt = below(5) > 0;
    if below(4) == 0 {
        config.banned_strings = vec!["a".into(), "ce".into()];
    }
    request.n_choices = 1 + below(2) * below(3);
    request.prompt_logprobs = [None, None, None, Some(1)][below(4)];
    request.tenant = below(3) as u64;
    request
}

/// Threads that ask, for two requests at once each: enough for a batch of 32.
const N_CLIENTS: u64 = 20;

#[test]
fn the_same_text_whatever_the_company() {
    // As the crate of kernels promises, on the CPU: the same bits.
    let backend = CpuBackend::new(&CpuOptions {
        threads: Some(2),
        ..CpuOptions::default()
    });
    let backend = Arc::new(backend.unwrap());
    let alone = start_on(
        backend.clone(),
        &EngineOptions {
            context: Some(128),
            ..EngineOptions::default()
        },
    );
    let n = 60;
    let wanted: Vec<Answered> = (0..n)
        .map(|number| {
            let mut request = random_request(number);
            request.config.cache_prompt = false;
            answer_all(&alone, request).unwrap()
        })
        .collect();
    for (batch_tokens, max_sequences, cache_tokens) in [(512, 32, None), (24, 8, Some(160))] {
        let engine = start_on(
            backend.clone(),
            &EngineOptions {
                context: Some(128),
                batch_tokens,
                max_sequences,
                cache_tokens,
                ..EngineOptions::default()
            },
        );
        std::thread::scope(|scope| {
            for first in 0..N_CLIENTS {
                let (engine, wanted) = (&engine, &wanted);
                scope.spawn(move || {
                    for number in (first..n).step_by(N_CLIENTS as usize) {
                        // Several at once from each thread, and some that are dropped.
                        let dropped = engine.submit(random_request(number + 1000)).unwrap();
                        let answer = engine.submit(random_request(number)).unwrap();
                        let found = collect(answer.blocking()).unwrap();
                        drop(dropped);
                        let wanted = &wanted[number as usize];
                        assert_eq!(found.prompt, wanted.prompt, "request {number}");
                        for (found, wanted) in found.choices.iter().zip(&wanted.choices) {
                            assert_eq!(found.tokens, wanted.tokens, "request {number}");
                            assert_eq!(found.done().text, wanted.done().text);
                        }
                    }
                });
            }
        });
        wait_until(|| engine.stats().n_answered + engine.stats().n_dropped == 2 * n);
        let stats = engine.stats();
        assert_eq!(
            (stats.n_blocks_used, stats.n_running, stats.n_waiting),
            (0, 0, 0)
        );
        assert!(stats.n_cached_tokens > 0 && stats.n_failed_steps == 0);
        assert_eq!(stats.n_preemptions > 0, cache_tokens.is_some(), "{stats:?}");
    }
}
