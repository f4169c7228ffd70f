//! The scheduler against a cache and an engine that only check.

#![allow(
    clippy::needless_pass_by_value,
    reason = "quickcheck calls properties by value"
)]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use quickcheck::{Arbitrary, Gen, quickcheck};

use super::*;

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_sequences: 4,
    max_tokens: 24,
    max_outputs: 8,
    n_blocks: 6,
    max_waiting: 12,
};
/// The longest sequence: prompt and answer.
const CONTEXT: usize = LIMITS.n_blocks * KV_BLOCK_LEN;

fn new(id: SequenceId, tokens: Vec<u32>) -> NewSequence {
    NewSequence {
        id,
        tokens,
        tenant: 0,
        n_choices: 1,
        scores_prompt: false,
        reuses: true,
    }
}

#[derive(Debug, Clone)]
enum Call {
    Add {
        n_tokens: usize,
        shared: u8,
        n_new: usize,
        tenant: u64,
        n_choices: usize,
        scores_prompt: bool,
        reuses: bool,
    },
    Step(usize),
    Remove(usize),
    Pause(usize, bool),
    Rewind(usize, usize),
}

impl Arbitrary for Call {
    fn arbitrary(g: &mut Gen) -> Call {
        let mut below = |n: usize| usize::arbitrary(g) % n;
        match below(16) {
            0..4 => {
                let n_tokens = 1 + below(70);
                Call::Add {
                    n_tokens,
                    shared: below(3) as u8,
                    n_new: 1 + below(CONTEXT - 70),
                    tenant: below(3) as u64,
                    n_choices: 1 + below(3) * below(2),
                    scores_prompt: below(4) == 0,
                    reuses: below(4) > 0,
                }
            }
            4..12 => Call::Step(below(40)),
            12 => Call::Remove(below(8)),
            13..15 => Call::Pause(below(8), below(2) == 0),
            _ => Call::Rewind(below(8), below(20)),
        }
    }
}

/// What a sequence must be.
struct Wanted {
    tokens: Vec<u32>,
    prompt_len: usize,
    n_left: usize,
    n_choices: usize,
    scores: Option<usize>, // tokens of the prompt scored so far
}

/// A cache and an engine that only check: a position holds the hash of all tokens up to it.
struct Checker {
    scheduler: Scheduler,
    cache: Vec<[u64; KV_BLOCK_LEN]>,
    sequences: BTreeMap<SequenceId, Wanted>,
    next_id: SequenceId,
    n_tokens_given: u32,
    steps: Vec<Step>,
    in_work: Option<InWork>,
}

/// A step, and for each slice the hashes of its sequence's tokens and its blocks.
struct InWork {
    step: Step,
    parts: Vec<(Vec<u64>, Vec<u32>)>,
}

fn hashes(tokens: &[u32]) -> Vec<u64> {
    let mut hasher = DefaultHasher::new();
    let hash = |token: &u32| {
        token.hash(&mut hasher);
        hasher.finish()
    };
    tokens.iter().map(hash).collect()
}

impl Checker {
    fn new() -> Checker {
        Checker {
            scheduler: Scheduler::new(LIMITS),
            cache: vec![[0; KV_BLOCK_LEN]; LIMITS.n_blocks],
            sequences: BTreeMap::new(),
            next_id: 0,
            n_tokens_given: 0,
            steps: Vec::new(),
            in_work: None,
        }
    }

    fn call(&mut self, call: &Call) {
        let ids: Vec<SequenceId> = self.sequences.keys().copied().collect();
        let pick = |i: usize| ids.get(i % ids.len().max(1)).copied();
        match *call {
            Call::Add {
                n_tokens,
                shared,
                n_new,
                tenant,
                n_choices,
                scores_prompt,
                reuses,
            } => {
                let id = self.next_id;
                self.next_id += 1;
                let tokens: Vec<u32> = (0..n_tokens as u32)
                    .map(|i| i + 1000 * u32::from(shared))
                    .collect();
                let wanted = Wanted {
                    tokens: tokens.clone(),
                    prompt_len: n_tokens,
                    n_left: n_new.min(CONTEXT - n_tokens),
                    n_choices,
                    scores: scores_prompt.then_some(0),
                };
                let admission = self.scheduler.add(NewSequence {
                    id,
                    tokens,
                    tenant,
                    n_choices,
                    scores_prompt,
                    reuses,
                });
                match admission {
                    Admission::Waits => {}
                    Admission::Displaces(other) => {
                        assert!(self.sequences.remove(&other).is_some());
                    }
                    Admission::Refused => return,
                }
                self.sequences.insert(id, wanted);
            }
            Call::Step(max_prefill) => {
                self.step(max_prefill);
            }
            Call::Remove(i) => {
                if let Some(id) = pick(i) {
                    self.scheduler.remove(id);
                    self.sequences.remove(&id);
                }
            }
            Call::Pause(i, is_paused) => {
                if let Some(id) = pick(i) {
                    self.scheduler.set_paused(id, is_paused);
                }
            }
            Call::Rewind(i, n) => {
                let Some(id) = pick(i) else { return };
                let wanted = self.sequences.get_mut(&id).unwrap();
                let n_new = wanted.tokens.len() - wanted.prompt_len;
                // As an engine does it: right after a token was chosen.
                let runs = self.scheduler.place(id).is_some();
                if n_new > 0 && runs && !self.scheduler.in_work.contains(&id) {
                    let n_tokens = wanted.tokens.len() - n.min(n_new);
                    wanted.tokens.truncate(n_tokens);
                    self.scheduler.rewind(id, n_tokens);
                }
            }
        }
    }

    /// A step of decoding, and the beginning or the end of one of prompts; whether there was
    /// anything to do.
    fn step(&mut self, max_tokens: usize) -> bool {
        let decoding = self.scheduler.schedule_decoding();
        let n_decoding = decoding.slices.len();
        assert!(decoding.n_tokens() == n_decoding && n_decoding <= LIMITS.max_sequences);
        let decoding = self.begin(decoding);
        self.end(decoding);
        if !self.scheduler.has_work() {
            // What was in work is not wanted any more.
            self.in_work = None;
        }
        if let Some(work) = self.in_work.take_if(|_| !max_tokens.is_multiple_of(3)) {
            self.end(work);
            return true;
        }
        if self.in_work.is_some() {
            return true;
        }
        let prompts = self.scheduler.schedule_prompts(max_tokens);
        assert!(prompts.n_tokens() <= max_tokens.min(LIMITS.max_tokens));
        let is_idle = prompts.slices.is_empty();
        let work = self.begin(prompts);
        match max_tokens % 2 {
            0 => self.in_work = Some(work).filter(|_| !is_idle),
            _ => self.end(work),
        }
        !is_idle || n_decoding > 0
    }

    fn begin(&mut self, step: Step) -> InWork {
        let n_outputs: usize = step.slices.iter().map(|s| s.n_outputs).sum();
        assert!(n_outputs <= LIMITS.max_outputs);
        let n_running: usize = self.scheduler.n_places();
        assert!(n_running <= LIMITS.max_sequences);
        for &(from, to) in &step.copies {
            self.cache[to as usize] = self.cache[from as usize];
        }
        let part = |slice: &Slice| {
            let wanted = &self.sequences[&slice.id];
            let (tokens, blocks) = self.scheduler.slice(slice);
            let end = slice.start + slice.n_tokens;
            assert_eq!(tokens, &wanted.tokens[slice.start..end]);
            (hashes(&wanted.tokens), blocks.to_vec())
        };
        let parts: Vec<(Vec<u64>, Vec<u32>)> = step.slices.iter().map(part).collect();
        // A part that is not complete may have written anything.
        for (slice, (_, blocks)) in step.slices.iter().zip(&parts) {
            for position in slice.start..slice.start + slice.n_tokens {
                let block = blocks[position / KV_BLOCK_LEN];
                self.cache[block as usize][position % KV_BLOCK_LEN] = 0;
            }
        }
        self.steps.push(step.clone());
        InWork { step, parts }
    }

    fn end(&mut self, InWork { step, parts }: InWork) {
        let mut written: HashMap<u32, SequenceId> = HashMap::new();
        for (slice, (hashes, blocks)) in step.slices.iter().zip(&parts) {
            for position in 0..slice.start + slice.n_tokens {
                let block = blocks[position / KV_BLOCK_LEN];
                let at = &mut self.cache[block as usize][position % KV_BLOCK_LEN];
                if position >= slice.start {
                    *at = hashes[position];
                    assert_eq!(*written.entry(block).or_insert(slice.id), slice.id);
                }
                assert_eq!(*at, hashes[position], "position {position} of {slice:?}");
            }
            // Nobody else reads what was written.
            for other in self.scheduler.running.iter().filter(|s| s.id != slice.id) {
                let n_read = other.n_computed.div_ceil(KV_BLOCK_LEN);
                assert!(
                    other.block_ids[..n_read]
                        .iter()
                        .all(|b| written.get(b) != Some(&slice.id))
                );
            }
        }
        self.scheduler.complete(&step);
        for slice in &step.slices {
            let end = slice.start + slice.n_tokens;
            // It may have been removed while it was in work.
            let Some(wanted) = self.sequences.get_mut(&slice.id) else {
                continue;
            };
            let is_last = end == wanted.tokens.len();
            let n_scored = slice.n_outputs - usize::from(is_last);
            if let Some(scored) = &mut wanted.scores {
                // Every token of the prompt once, in order.
                assert!(n_scored == 0 || end - usize::from(is_last) == *scored + n_scored);
                *scored += n_scored;
                assert!(!is_last || *scored == wanted.prompt_len - 1);
            } else {
                assert_eq!(n_scored, 0);
            }
            if !is_last {
                continue;
            }
            let mut ids = vec![slice.id];
            for _ in 1..std::mem::replace(&mut wanted.n_choices, 1) {
                self.scheduler.fork(slice.id, self.next_id);
                ids.push(self.next_id);
                self.next_id += 1;
            }
            for id in ids {
                let first = &self.sequences[&slice.id];
                let wanted = Wanted {
                    tokens: first.tokens[..end].to_vec(),
                    scores: first.scores,
                    ..*first
                };
                let wanted = match id == slice.id {
                    true => self.sequences.get_mut(&id).unwrap(),
                    false => self.sequences.entry(id).or_insert(wanted),
                };
                if wanted.n_left == 0 || wanted.tokens.len() == CONTEXT - 1 {
                    self.scheduler.remove(id);
                    self.sequences.remove(&id);
                    continue;
                }
                wanted.n_left -= 1;
                // Sequences go the same way for a while, then apart.
                self.n_tokens_given += 1;
                let token = 5000 + self.n_tokens_given / 7;
                wanted.tokens.push(token);
                self.scheduler.append(id, token);
            }
        }
    }

    /// Runs everything to its end.
    fn finish(&mut self) {
        for id in self.sequences.keys().copied().collect::<Vec<_>>() {
            self.scheduler.set_paused(id, false);
        }
        let mut n_steps = 0;
        while !self.sequences.is_empty() {
            // Sometimes prompts stay in work for a step.
            let is_idle = !self.step(4 + n_steps % 3);
            assert!(!is_idle, "work is left, and nothing is computed");
            n_steps += 1;
            assert!(n_steps < 100_000, "starvation");
        }
        assert_eq!(self.scheduler.block_counts().used, 0, "a block leaked");
        assert_eq!(self.scheduler.counts(), SchedulerCounts::default());
    }
}

quickcheck! {
    fn every_sequence_is_computed_whole_and_every_block_comes_back(calls: Vec<Call>) -> bool {
        let mut checker = Checker::new();
        calls.iter().for_each(|call| checker.call(call));
        checker.finish();
        true
    }

    fn the_same_calls_give_the_same_steps(calls: Vec<Call>) -> bool {
        let run = || {
            let mut checker = Checker::new();
            calls.iter().for_each(|call| checker.call(call));
            checker.steps
        };
        run() == run()
    }
}

fn ids(step: &Step) -> Vec<SequenceId> {
    step.slices.iter().map(|slice| slice.id).collect()
}

/// Computes those that decode, then prompts; each sequence that has its logits gets a token.
fn step(scheduler: &mut Scheduler) -> [Step; 2] {
    let complete = |step: Step, scheduler: &mut Scheduler| {
        scheduler.complete(&step);
        for slice in step.slices.iter().filter(|slice| slice.n_outputs > 0) {
            scheduler.append(slice.id, 9);
        }
        step
    };
    let decoding = scheduler.schedule_decoding();
    let decoding = complete(decoding, scheduler);
    let prompts = scheduler.schedule_prompts(24);
    [decoding, complete(prompts, scheduler)]
}

#[test]
fn prompts_are_cut_and_what_decodes_goes_on_meanwhile() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(new(1, vec![1; 5]));
    let [decoding, prompts] = step(&mut scheduler);
    assert_eq!((decoding.n_tokens(), prompts.n_tokens()), (0, 5));
    assert_eq!(prompts.started, [(1, 0)]);
    scheduler.add(new(2, vec![2; 40]));
    let prompts = scheduler.schedule_prompts(10);
    assert_eq!((ids(&prompts), prompts.n_tokens()), (vec![2], 10));
    for _ in 0..3 {
        let decoding = scheduler.schedule_decoding();
        assert_eq!(ids(&decoding), [1]);
        scheduler.complete(&decoding);
        scheduler.append(1, 9);
    }
    assert!(scheduler.has_work());
    scheduler.complete(&prompts);
    assert!(!scheduler.has_work());
    assert_eq!(scheduler.schedule_prompts(10).slices[0].start, 10);
}

#[test]
fn the_end_of_a_long_prompt_is_not_a_short_one() {
    let mut scheduler = Scheduler::new(LIMITS);
    let prompt: Vec<u32> = (0..40).collect();
    scheduler.add(new(1, vec![1; 5]));
    step(&mut scheduler);
    scheduler.add(new(2, prompt.clone()));
    for _ in 0..2 {
        assert_eq!(scheduler.n_to_come(20), 1);
        step(&mut scheduler);
    }
    assert_eq!(scheduler.n_to_come(20), 2);
    // What is found is not computed.
    scheduler.remove(2);
    scheduler.add(new(3, prompt));
    assert_eq!(scheduler.n_to_come(20), 1);
    scheduler.schedule_prompts(4);
    assert_eq!(scheduler.n_to_come(20), 2);
}

#[test]
fn blocks_of_prompts_in_work_belong_to_nobody_else() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(new(1, vec![1; 5]));
    scheduler.add(new(2, vec![2; 10]));
    let prompts = scheduler.schedule_prompts(24);
    assert_eq!(ids(&prompts), [1, 2]);
    scheduler.remove(1);
    assert!(scheduler.has_work());
    assert_eq!(scheduler.block_counts().used, 2);
    scheduler.complete(&prompts);
    assert_eq!(scheduler.block_counts().used, 1);
    scheduler.append(2, 9);
    // Where nobody wants them any more they are given up at once.
    scheduler.add(new(3, vec![3; 10]));
    scheduler.schedule_prompts(24);
    scheduler.remove(3);
    assert!(!scheduler.has_work());
    assert_eq!(scheduler.block_counts().used, 1);
}

#[test]
fn readers_that_are_behind_keep_nobody_out() {
    // Either all places are taken, or all blocks.
    for (n, n_tokens, n_choices) in [(3, 5, 2), (2, 30, 1)] {
        let mut scheduler = Scheduler::new(LIMITS);
        for id in 1..=n {
            scheduler.add(new(id, vec![id as u32; n_tokens]));
        }
        for _ in 0..6 {
            step(&mut scheduler);
        }
        assert!(scheduler.running.len() == n as usize);
        assert!(scheduler.running.iter().all(Sequence::is_decoding));
        (1..=n).for_each(|id| scheduler.set_paused(id, true));
        let tokens = vec![5; 70];
        scheduler.add(NewSequence {
            n_choices,
            ..new(5, tokens)
        });
        let [decoding, prompts] = step(&mut scheduler);
        assert_eq!((ids(&decoding), ids(&prompts)), (vec![], vec![5]));
        // Who reads on goes on.
        (1..=n).for_each(|id| scheduler.set_paused(id, false));
        scheduler.remove(5);
        let [decoding, prompts] = step(&mut scheduler);
        let all = [ids(&decoding), ids(&prompts)].concat();
        assert_eq!(all.iter().min(), Some(&1));
    }
}

#[test]
fn a_prompt_that_was_there_is_found() {
    let mut scheduler = Scheduler::new(LIMITS);
    let prompt: Vec<u32> = (0..33).collect();
    for (id, n_cached) in [(1, 0), (2, 32)] {
        scheduler.add(new(id, prompt.clone()));
        while !scheduler.running.iter().any(Sequence::is_decoding) {
            let [_, prompts] = step(&mut scheduler);
            for started in &prompts.started {
                assert_eq!(*started, (id, n_cached));
            }
        }
        scheduler.remove(id);
    }
}

#[test]
fn callers_take_turns() {
    let n_blocks = 16;
    let mut scheduler = Scheduler::new(SchedulerLimits { n_blocks, ..LIMITS });
    for id in 0..8 {
        scheduler.add(new(id, vec![id as u32]));
    }
    for id in 8..10 {
        let tenant = id;
        scheduler.add(NewSequence {
            tenant,
            ..new(id, vec![1])
        });
    }
    assert_eq!(ids(&scheduler.schedule_prompts(24)), [0, 8, 9, 1]);
}

#[test]
fn where_too_many_wait_the_one_with_the_most_gives_way() {
    let mut scheduler = Scheduler::new(LIMITS);
    for id in 0..12 {
        assert_eq!(scheduler.add(new(id, vec![1])), Admission::Waits);
    }
    assert_eq!(scheduler.add(new(12, vec![1])), Admission::Refused);
    let other = |id| NewSequence {
        tenant: 1,
        ..new(id, vec![1])
    };
    for (id, displaced) in [(13, 11), (14, 10), (15, 9), (16, 8), (17, 7), (18, 6)] {
        assert_eq!(scheduler.add(other(id)), Admission::Displaces(displaced));
    }
    assert_eq!(scheduler.add(other(19)), Admission::Refused);
}
