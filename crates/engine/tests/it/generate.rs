//! Answers: their end, their text, what they reuse, and what is refused.

use std::ops::ControlFlow;

use minerva_engine::model::ARCHITECTURES;
use minerva_engine::sampler::SamplingParams;
use minerva_engine::{
    Done, Engine, EngineOptions, Event, FinishReason, GenerateRequest, RequestError, Token,
};

use crate::tiny::{FIRST_LETTER, Tiny};

fn engine(context: usize, batch_tokens: usize) -> Engine {
    let options = EngineOptions {
        context: Some(context),
        batch_tokens,
        ..EngineOptions::default()
    };
    Tiny::new(&ARCHITECTURES[0], &[]).engine(&options)
}

/// Greedy, of up to 10 letters: a bias keeps everything else out.
fn request(prompt: &[u32]) -> GenerateRequest {
    let logit_bias = (0..FIRST_LETTER)
        .map(|id| (id, f32::NEG_INFINITY))
        .collect();
    let sampling = SamplingParams {
        temperature: 0.0,
        logit_bias,
        ..SamplingParams::neutral()
    };
    GenerateRequest {
        max_tokens: Some(10),
        ..GenerateRequest::new(prompt.into(), sampling)
    }
}

struct Answer {
    tokens: Vec<Token>,
    n_prefill_events: usize,
    text: String,
    done: Done,
}

impl Answer {
    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

fn answer(engine: &mut Engine, request: &GenerateRequest) -> Answer {
    let mut answer = answer_until(engine, request, |_| false).unwrap();
    answer.text = answer.tokens.iter().map(|token| &*token.text).collect();
    answer.text += &answer.done.text;
    answer
}

/// Breaks at the first event for which `is_enough` says so.
fn answer_until(
    engine: &mut Engine,
    request: &GenerateRequest,
    is_enough: impl Fn(&Event) -> bool,
) -> Result<Answer, RequestError> {
    let (mut tokens, mut n_prefill_events, mut last) = (Vec::new(), 0, None);
    let done = engine.generate(request, &mut |event| {
        assert_eq!(last, None, "nothing comes after the end");
        let flow = if is_enough(&event) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        };
        match event {
            Event::Prefill { n_done, n_total } => {
                assert!(n_done < n_total && tokens.is_empty());
                n_prefill_events += 1;
            }
            Event::Token(token) => tokens.push(token),
            Event::Done(done) => last = Some(done),
        }
        flow
    })?;
    assert_eq!(last.as_ref(), Some(&done), "the last event is the result");
    Ok(Answer {
        tokens,
        n_prefill_events,
        text: String::new(),
        done,
    })
}

#[test]
fn an_answer_is_the_same_cold_warm_and_in_slices() {
    let prompt: Vec<u32> = (0..23).map(|i| 3 + 7 * i).collect();
    let cold = answer(&mut engine(64, 64), &request(&prompt));
    assert_eq!(cold.done.finish_reason, FinishReason::Length);
    assert_eq!(cold.tokens.len(), 10);
    assert_eq!(cold.text.len(), 10);
    assert_eq!(cold.done.usage.completion_tokens, 10);
    assert_eq!(cold.done.usage.cached_tokens, 0);
    assert_eq!(cold.n_prefill_events, 0);

    let sliced = answer(&mut engine(64, 5), &request(&prompt));
    assert_eq!((sliced.ids(), sliced.n_prefill_events), (cold.ids(), 4));

    let mut engine = engine(64, 64);
    let shared = [&prompt[..15], &[9, 9, 9]].concat();
    answer(&mut engine, &request(&shared));
    for cached_tokens in [15, 22] {
        let warm = answer(&mut engine, &request(&prompt));
        assert_eq!(warm.ids(), cold.ids());
        assert_eq!(warm.done.usage.cached_tokens, cached_tokens);
    }
    // The next turn of a chat: prompt and answer are there, but for the answer's last token.
    let next = [&prompt[..], &cold.ids(), &[5, 6]].concat();
    let usage = answer(&mut engine, &request(&next)).done.usage;
    assert_eq!((usage.prompt_tokens, usage.cached_tokens), (35, 32));
}

#[test]
fn log_probabilities_do_not_depend_on_the_cache() {
    let prompt: Vec<u32> = (0..20).map(|i| 3 + 5 * i).collect();
    let request = GenerateRequest {
        logprobs: Some(4),
        ..request(&prompt)
    };
    let mut engine = engine(64, 7);
    let cold = answer(&mut engine, &request);
    let warm = answer(&mut engine, &request);
    assert_eq!(warm.done.usage.cached_tokens, 19);
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
fn an_answer_ends_where_the_context_does() {
    let mut engine = engine(32, 16);
    let request = GenerateRequest {
        max_tokens: None,
        ..request(&[1; 20])
    };
    let whole = answer(&mut engine, &request);
    assert_eq!(whole.done.finish_reason, FinishReason::Length);
    assert_eq!(whole.tokens.len(), 12);
    let none = answer(
        &mut engine,
        &GenerateRequest {
            max_tokens: Some(0),
            ..request
        },
    );
    assert_eq!(
        (none.tokens.len(), none.done.finish_reason),
        (0, FinishReason::Length)
    );
}

#[test]
fn stop_strings_end_an_answer_before_them() {
    let mut engine = engine(64, 64);
    let plain = answer(&mut engine, &request(&[1, 2, 3]));
    let stop = vec!["never".into(), plain.text[4..6].into()];
    let stopped = answer(
        &mut engine,
        &GenerateRequest {
            stop,
            ..request(&[1, 2, 3])
        },
    );
    let end = plain.text.find(&plain.text[4..6]).unwrap();
    assert_eq!(stopped.text, plain.text[..end]);
    assert_eq!(stopped.done.finish_reason, FinishReason::Stop);
    // What only began like a stop string comes with the end.
    let stop = vec![format!("{}!", &plain.text[9..])];
    let held = answer(
        &mut engine,
        &GenerateRequest {
            stop,
            ..request(&[1, 2, 3])
        },
    );
    assert_eq!(held.text, plain.text);
    assert_eq!(held.done.text, plain.text[9..]);
}

#[test]
fn a_token_that_ends_the_text_ends_the_answer() {
    let mut engine = engine(64, 64);
    let mut ends = request(&[1, 2, 3]);
    // The only token that is not masked.
    ends.sampling.logit_bias.retain(|(id, _)| *id != 2);
    ends.sampling
        .logit_bias
        .extend((FIRST_LETTER..FIRST_LETTER + 26).map(|id| (id, f32::NEG_INFINITY)));
    let ended = answer(&mut engine, &ends);
    assert_eq!((ended.tokens.len(), &*ended.text), (0, ""));
    assert_eq!(ended.done.finish_reason, FinishReason::Stop);
    assert_eq!(ended.done.usage.completion_tokens, 1);
    let error = answer_until(
        &mut engine,
        &GenerateRequest {
            ignore_eos: true,
            ..ends
        },
        |_| false,
    );
    assert_eq!(error.err(), Some(RequestError::NoCandidates));
}

#[test]
fn an_answer_can_be_cut_off_at_any_event() {
    let mut engine = engine(64, 5);
    let prompt: Vec<u32> = (0..23).collect();
    let in_prompt = answer_until(&mut engine, &request(&prompt), |event| {
        matches!(event, Event::Prefill { n_done: 10, .. })
    });
    let in_prompt = in_prompt.unwrap();
    assert_eq!(in_prompt.done.finish_reason, FinishReason::Cancelled);
    assert_eq!((in_prompt.tokens.len(), engine.cached().len()), (0, 10));
    let in_answer = answer_until(&mut engine, &request(&prompt), |event| {
        matches!(event, Event::Token(_))
    });
    let in_answer = in_answer.unwrap();
    assert_eq!(in_answer.done.finish_reason, FinishReason::Cancelled);
    assert_eq!(
        (in_answer.tokens.len(), in_answer.done.usage.cached_tokens),
        (1, 10)
    );
}

#[test]
fn a_seed_decides_the_answer() {
    let sampling = |seed| SamplingParams {
        seed: Some(seed),
        ..SamplingParams::neutral()
    };
    let ids = |seed| {
        let request = GenerateRequest {
            sampling: sampling(seed),
            ..request(&[1, 2, 3])
        };
        answer(&mut engine(64, 64), &request).ids()
    };
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1), ids(2));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let mut engine = engine(32, 16);
    let mut check = |request: GenerateRequest, wanted: &str| {
        let error = engine
            .generate(&request, &mut |event| panic!("{event:?}"))
            .unwrap_err();
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
    let long = GenerateRequest {
        stop: vec![String::new()],
        ..request(&[1])
    };
    check(long, "stop: a string of 0 bytes, expected 1 to 4096 bytes");
    let dry = |breakers: Vec<String>| {
        let mut request = request(&[1]);
        request.sampling.dry_multiplier = 1.0;
        request.sampling.dry_sequence_breakers = breakers;
        request
    };
    let wanted = "dry_sequence_breakers: a string of 41 bytes, expected 1 to 40 bytes";
    check(dry(vec!["x".repeat(41)]), wanted);
    check(
        dry(vec!["x".into(); 33]),
        "dry_sequence_breakers: 33 strings, expected at most 32",
    );
    let error = engine.prefill(&[1; 33]).unwrap_err().to_string();
    assert_eq!(
        error,
        "prompt: 33 tokens, expected at most 32, what is left of a context of 32"
    );
}

#[test]
fn breakers_of_several_tokens_are_understood() {
    let mut request = request(&[1, 2, 3]);
    request.sampling.dry_multiplier = 1.0;
    request.sampling.dry_sequence_breakers = ["ab", "z"].map(String::from).into();
    assert_eq!(answer(&mut engine(64, 64), &request).tokens.len(), 10);
}
