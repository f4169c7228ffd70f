//! The engine's thread: from requests to steps, from logits to events.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use minerva_compute::{Batch, DeviceError, Executable, Sequence};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::EngineStats;
use super::backends::{Loader, not_loaded};
use super::choice::{Choice, Next};
use super::pace::Pace;
use crate::error::{EngineError, RequestError, TimeoutPhase};
use crate::request::{Done, Event, FinishReason, GenerateRequest, Timings, Token, Usage};
use crate::sampler::{TokenLogprobs, logprobs};
use crate::scheduler::{Admission, NewSequence, Scheduler, SequenceId, Slice, Step};

/// How long the thread sleeps while there are requests and none can be computed: until a reader
/// catches up or a deadline passes.
const NAP: Duration = Duration::from_millis(2);

/// Tokens of a prompt that is in soon: streams that run wait a little for many such ones, and not
/// at all for longer ones.
const SHORT_PROMPT: usize = 1024;

/// A request on its way to the thread, with everything that could be prepared elsewhere.
pub(super) struct Job {
    pub(super) request: GenerateRequest,
    pub(super) choices: Vec<Choice>,
    pub(super) received: Instant,
    pub(super) events: Sender<Result<Event, EngineError>>,
    pub(super) is_cancelled: Arc<AtomicBool>,
}

/// All that the thread has.
pub(super) struct Worker {
    loader: Loader,
    /// `None` from a failure of the device to the next step.
    executable: Option<Box<dyn Executable>>,
    scheduler: Scheduler,
    pace: Pace,
    /// The parts of prompts that are in work.
    prompts: Option<Prompts>,
    /// By the id of their first sequence.
    requests: BTreeMap<SequenceId, Request>,
    /// Which request and choice a sequence is, once its prompt is computed.
    sequences: BTreeMap<SequenceId, (SequenceId, usize)>,
    next_id: SequenceId,
    stats: EngineStats,
    shared_stats: Arc<Mutex<EngineStats>>,
}

/// A step of prompts, which steps of decoding interrupt.
struct Prompts {
    step: Step,
    batch: BatchData,
    /// How long it was computed so far.
    time: Duration,
}

/// What a [`Batch`] points to.
struct BatchData {
    tokens: Vec<u32>,
    sequences: Vec<(usize, usize, Vec<u32>)>, // number of tokens, first position, blocks
    outputs: Vec<u32>,
}

impl BatchData {
    fn new(step: &Step, scheduler: &Scheduler) -> BatchData {
        let mut data = BatchData {
            tokens: Vec::new(),
            sequences: Vec::new(),
            outputs: Vec::new(),
        };
        for slice in &step.slices {
            let (tokens, blocks) = scheduler.slice(slice);
            data.tokens.extend_from_slice(tokens);
            let end = data.tokens.len();
            let outputs = end - slice.n_outputs..end;
            data.outputs.extend(outputs.map(|i| i as u32));
            let sequence = (slice.n_tokens, slice.start, blocks.to_vec());
            data.sequences.push(sequence);
        }
        data
    }

    fn with<T>(&self, run: impl FnOnce(&Batch<'_>) -> T) -> T {
        let sequences = self.sequences.iter();
        let sequences: Vec<Sequence<'_>> = sequences
            .map(|(n_tokens, start, blocks)| Sequence {
                n_tokens: *n_tokens,
                start: *start,
                blocks,
            })
            .collect();
        run(&Batch {
            tokens: &self.tokens,
            sequences: &sequences,
            outputs: &self.outputs,
            input: &[],
        })
    }
}

/// A request in the making.
struct Request {
    request: GenerateRequest,
    /// Each until it is done.
    choices: Vec<Option<Choice>>,
    /// Whether it ended with an error, which counts as dropped.
    has_failed: bool,
    /// The sequence of each, once the prompt is computed.
    sequences: Vec<SequenceId>,
    received: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    cached_tokens: usize,
    /// Tokens of the prompt that its reader knows to be computed.
    n_prefilled: usize,
    outlet: Outlet,
}

/// Where a request's events go.
struct Outlet {
    events: Sender<Result<Event, EngineError>>,
    /// Those for which there was no room.
    unsent: VecDeque<Result<Event, EngineError>>,
    is_cancelled: Arc<AtomicBool>,
}

impl Outlet {
    fn send(&mut self, event: Result<Event, EngineError>) {
        self.unsent.push_back(event);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(event) = self.unsent.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.unsent.push_front(event);
                    return;
                }
                // Nobody reads it; the request is dropped before the next step.
                Err(TrySendError::Closed(_)) => self.unsent.clear(),
            }
        }
    }
}

/// What becomes of a request before a step.
enum Fate {
    GoesOn {
        is_paused: bool,
    },
    /// It ends, and there is nobody or nothing to say.
    Gone,
    Ends(FinishReason),
    Fails(EngineError),
}

impl Request {
    fn fate(&mut self, now: Instant) -> Fate {
        self.outlet.flush();
        if self.outlet.events.is_closed() {
            return Fate::Gone;
        }
        let is_done = self.choices.iter().all(Option::is_none);
        let is_paused = !self.outlet.unsent.is_empty();
        if is_done {
            return match is_paused {
                true => Fate::GoesOn { is_paused },
                false => Fate::Gone,
            };
        }
        if self.outlet.is_cancelled.load(Ordering::Relaxed) {
            return Fate::Ends(FinishReason::Cancelled);
        }
        let is_over = |limit: Option<Duration>| limit.filter(|limit| now - self.received > *limit);
        let deadlines = &self.request.deadlines;
        let timeout = |phase, limit| Fate::Fails(EngineError::Timeout { phase, limit });
        if self.first_token.is_some() {
            return match is_over(deadlines.total) {
                Some(_) => Fate::Ends(FinishReason::Timeout),
                None => Fate::GoesOn { is_paused },
            };
        }
        let of_first_token = is_over(deadlines.first_token).or(is_over(deadlines.total));
        match (self.started, is_over(deadlines.queue), of_first_token) {
            (None, Some(limit), _) | (None, None, Some(limit)) => {
                timeout(TimeoutPhase::Queue, limit)
            }
            (Some(_), _, Some(limit)) => timeout(TimeoutPhase::FirstToken, limit),
            _ => Fate::GoesOn { is_paused },
        }
    }

    /// Ends one answer.
    fn finish(&mut self, choice: usize, finish_reason: FinishReason) {
        let Some(ended) = self.choices[choice].take() else {
            return;
        };
        let now = Instant::now();
        let completion_tokens = ended.n_tokens();
        let mut shown = Vec::new();
        let text = ended.finish(&mut shown);
        self.show(choice, shown);
        let since = |later: Option<Instant>, earlier: Option<Instant>| match (later, earlier) {
            (Some(later), Some(earlier)) => later - earlier,
            _ => Duration::ZERO,
        };
        let done = Done {
            text,
            finish_reason,
            usage: Usage {
                prompt_tokens: self.request.prompt.len(),
                cached_tokens: self.cached_tokens,
                completion_tokens,
            },
            timings: Timings {
                queue: self.started.unwrap_or(now) - self.received,
                prefill: since(self.first_token, self.started),
                first_token: since(self.first_token, Some(self.received)),
                decode: since(Some(now), self.first_token),
            },
        };
        self.outlet.send(Ok(Event::Done { choice, done }));
    }

    fn show(&mut self, choice: usize, shown: Vec<Token>) {
        for token in shown {
            self.outlet.send(Ok(Event::Token { choice, token }));
        }
    }
}

impl Worker {
    pub(super) fn new(
        loader: Loader,
        executable: Box<dyn Executable>,
        scheduler: Scheduler,
        shared_stats: Arc<Mutex<EngineStats>>,
    ) -> Worker {
        let stats = EngineStats {
            n_blocks: loader.limits.n_kv_blocks,
            is_on_fallback: loader.is_on_fallback,
            ..EngineStats::default()
        };
        Worker {
            loader,
            executable: Some(executable),
            scheduler,
            pace: Pace::default(),
            prompts: None,
            requests: BTreeMap::new(),
            sequences: BTreeMap::new(),
            next_id: 0,
            stats,
            shared_stats,
        }
    }

    /// Works until the queue is closed.
    pub(super) fn run(mut self, jobs: &Receiver<Box<Job>>) {
        let mut is_idle = true;
        loop {
            // Sleep only where there is nothing to do.
            let job = match (is_idle, self.requests.is_empty()) {
                (true, true) => jobs.recv().map_err(|_| TryRecvError::Disconnected),
                (true, false) => jobs.recv_timeout(NAP).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                }),
                (false, _) => jobs.try_recv(),
            };
            let is_open = match job {
                Ok(job) => {
                    self.accept(*job);
                    loop {
                        match jobs.try_recv() {
                            Ok(job) => self.accept(*job),
                            Err(error) => break error == TryRecvError::Empty,
                        }
                    }
                }
                Err(error) => error == TryRecvError::Empty,
            };
            if !is_open {
                for request in self.requests.values_mut() {
                    if request.choices.iter().any(Option::is_some) {
                        request.outlet.send(Err(EngineError::ShuttingDown));
                    }
                }
                return;
            }
            self.judge();
            is_idle = !self.step();
            self.share_stats();
        }
    }

    fn share_stats(&mut self) {
        let counts = self.scheduler.counts();
        let blocks = self.scheduler.block_counts();
        self.stats.n_waiting = counts.waiting;
        self.stats.n_running = counts.running;
        self.stats.n_preempted = counts.preempted;
        self.stats.n_blocks_used = blocks.used;
        self.stats.n_blocks_cached = blocks.cached;
        self.stats.n_preemptions = self.scheduler.n_preemptions();
        let mut shared = self
            .shared_stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *shared = self.stats;
    }

    /// Lets a request in.
    fn accept(&mut self, job: Job) {
        let Job {
            request,
            choices,
            received,
            events,
            is_cancelled,
        } = job;
        self.stats.n_requests += 1;
        let id = self.next_id;
        self.next_id += 1;
        let n_choices = choices.len();
        let mut request = Request {
            request,
            choices: choices.into_iter().map(Some).collect(),
            has_failed: false,
            sequences: Vec::new(),
            received,
            started: None,
            first_token: None,
            cached_tokens: 0,
            n_prefilled: 0,
            outlet: Outlet {
                events,
                unsent: VecDeque::new(),
                is_cancelled,
            },
        };
        let GenerateRequest { prompt, config, .. } = &request.request;
        let scores_prompt = request.request.prompt_logprobs.is_some();
        if config.max_tokens == Some(0) && !scores_prompt {
            (0..n_choices).for_each(|choice| request.finish(choice, FinishReason::Length));
            self.requests.insert(id, request);
            return;
        }
        let admission = self.scheduler.add(NewSequence {
            id,
            tokens: prompt.clone(),
            tenant: request.request.tenant,
            n_choices,
            scores_prompt,
            reuses: config.cache_prompt,
        });
        let n_waiting = self.scheduler.counts().waiting;
        let overloaded = EngineError::Overloaded { n_waiting };
        match admission {
            Admission::Waits => {}
            Admission::Displaces(other) => self.fail(other, overloaded),
            Admission::Refused => {
                request.outlet.send(Err(overloaded));
                self.stats.n_dropped += 1;
                return;
            }
        }
        request.sequences.push(id);
        self.requests.insert(id, request);
    }

    /// Drops the requests whose reader or time has gone, and holds up those whose reader is behind.
    fn judge(&mut self) {
        let now = Instant::now();
        let ids: Vec<SequenceId> = self.requests.keys().copied().collect();
        for id in ids {
            let request = self.requests.get_mut(&id).expect("a key");
            match request.fate(now) {
                Fate::GoesOn { is_paused } => {
                    for sequence in &request.sequences {
                        self.scheduler.set_paused(*sequence, is_paused);
                    }
                }
                Fate::Gone => {
                    let is_answered = request.choices.iter().all(Option::is_none);
                    match (request.has_failed, is_answered) {
                        // Counted when it failed.
                        (true, _) => {}
                        (false, true) => self.stats.n_answered += 1,
                        (false, false) => self.stats.n_dropped += 1,
                    }
                    self.forget(id);
                }
                Fate::Ends(reason) => {
                    for choice in 0..request.choices.len() {
                        request.finish(choice, reason);
                    }
                    self.end_sequences(id);
                }
                Fate::Fails(error) => self.fail(id, error),
            }
        }
    }

    /// Ends the work for a request with an error. It stays until its reader has taken that.
    fn fail(&mut self, id: SequenceId, error: EngineError) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if request.has_failed {
            return;
        }
        request.outlet.send(Err(error));
        request.choices.fill_with(|| None);
        request.has_failed = true;
        self.stats.n_dropped += 1;
        match request.outlet.unsent.is_empty() {
            true => self.forget(id),
            false => self.end_sequences(id),
        }
    }

    fn end_sequences(&mut self, id: SequenceId) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        for sequence in request.sequences.drain(..) {
            self.scheduler.remove(sequence);
            self.sequences.remove(&sequence);
        }
    }

    fn forget(&mut self, id: SequenceId) {
        self.end_sequences(id);
        self.requests.remove(&id);
    }

    /// Computes a token of each sequence that decodes, then prompts for as long as these may wait;
    /// `false` if there is nothing to compute.
    fn step(&mut self) -> bool {
        let step = self.scheduler.schedule_decoding();
        let n_decoding = step.slices.len();
        if n_decoding > 0 {
            let start = Instant::now();
            let batch = BatchData::new(&step, &self.scheduler);
            let logits = self.compute(&step, |executable| {
                batch.with(|batch| Ok(executable.run(batch)?.to_vec()))
            });
            if self.finish_step(&step, logits) {
                self.pace.decoded(n_decoding, start.elapsed());
            }
        }
        let n_to_come = self.scheduler.n_to_come(SHORT_PROMPT);
        let time = self.pace.time_for_prompts(n_decoding, n_to_come);
        let has_prompts = !time.is_zero() && self.go_on_with_prompts(time, n_decoding);
        has_prompts || n_decoding > 0
    }

    /// Computes prompts for about `time`, while `n_decoding` sequences wait; `false` if there are none.
    fn go_on_with_prompts(&mut self, time: Duration, n_decoding: usize) -> bool {
        if self.prompts.is_some() && !self.scheduler.has_work() {
            // Nobody wants them any more, or another sequence took their blocks.
            if let Some(executable) = &mut self.executable {
                executable.abandon();
            }
            self.prompts = None;
        }
        let Some(mut prompts) = self
            .prompts
            .take()
            .or_else(|| self.begin_prompts(time, n_decoding))
        else {
            return false;
        };
        let start = Instant::now();
        let Prompts { step, batch, .. } = &prompts;
        // Copies are only for the first time.
        let logits = self.compute(step, |executable| {
            batch.with(|batch| Ok(executable.run_for(batch, time)?.map(<[f32]>::to_vec)))
        });
        self.pace.prompts_took(start.elapsed());
        prompts.time += start.elapsed();
        prompts.step.copies.clear();
        let Some(logits) = logits.transpose() else {
            self.prompts = Some(prompts);
            return true;
        };
        let n_tokens = prompts.step.n_tokens();
        if self.finish_step(&prompts.step, logits) {
            self.stats.n_prompt_tokens += n_tokens as u64;
            self.pace.prompts_ended(n_tokens, prompts.time);
        }
        true
    }

    fn begin_prompts(&mut self, time: Duration, n_decoding: usize) -> Option<Prompts> {
        let can_pause = self.executable.as_ref().is_some_and(|e| e.can_pause());
        let max_tokens = self.pace.max_tokens(time, can_pause || n_decoding == 0);
        let step = self.scheduler.schedule_prompts(max_tokens);
        for &(id, n_cached) in &step.started {
            if let Some(request) = self.requests.get_mut(&id) {
                request.started = Some(Instant::now());
                request.cached_tokens = n_cached;
                request.n_prefilled = n_cached;
                self.stats.n_cached_tokens += n_cached as u64;
                let n_total = request.request.prompt.len();
                request.outlet.send(Ok(Event::Prefill {
                    n_done: n_cached,
                    n_total,
                }));
            }
        }
        let batch = BatchData::new(&step, &self.scheduler);
        (!step.slices.is_empty()).then_some(Prompts {
            step,
            batch,
            time: Duration::ZERO,
        })
    }

    /// Ends the requests of a step that failed. The others are computed again, since nobody knows what
    /// the cache holds.
    fn step_failed(&mut self, step: &Step, error: &EngineError) {
        self.stats.n_failed_steps += 1;
        if let EngineError::Device(error) = error {
            self.stats.n_device_failures += 1;
            if self.loader.failed(error) {
                self.executable = None;
            }
        }
        for slice in &step.slices {
            let id = self.request_of(slice.id);
            self.fail(id, error.clone());
        }
        self.scheduler.forget_cache();
    }

    /// Loads the program again, if its device has failed.
    fn load(&mut self) -> Result<(), EngineError> {
        if self.executable.is_none() {
            self.executable = Some(self.loader.load().map_err(not_loaded)?);
            self.stats.n_reloads += 1;
            self.stats.is_on_fallback = self.loader.is_on_fallback;
            // What was measured was another device, or another state of it.
            self.pace = Pace::default();
        }
        Ok(())
    }

    fn request_of(&self, sequence: SequenceId) -> SequenceId {
        self.sequences
            .get(&sequence)
            .map_or(sequence, |(id, _)| *id)
    }

    /// Copies the blocks that a step wants to be copied, and runs it: on a device that has failed,
    /// once the program is loaded again.
    fn compute<T>(
        &mut self,
        step: &Step,
        run: impl FnOnce(&mut dyn Executable) -> Result<T, DeviceError>,
    ) -> Result<T, EngineError> {
        let run = || {
            self.load()?;
            let executable = &mut **self.executable.as_mut().expect("loaded above");
            for &(from, to) in &step.copies {
                executable
                    .copy_block(from, to)
                    .map_err(EngineError::Device)?;
            }
            run(executable).map_err(EngineError::Device)
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("panic without a message");
            Err(EngineError::Failed(text.to_owned()))
        })
    }

    /// Deals with the logits of a step, or fails its requests; whether it was computed.
    fn finish_step(&mut self, step: &Step, logits: Result<Vec<f32>, EngineError>) -> bool {
        let logits = match logits {
            Ok(logits) => logits,
            Err(error) => {
                self.step_failed(step, &error);
                return false;
            }
        };
        self.stats.n_steps += 1;
        self.scheduler.complete(step);
        let vocab_size = self.loader.model.hparams().vocab_size;
        let mut rows = logits.chunks(vocab_size);
        for slice in &step.slices {
            let rows: Vec<&[f32]> = rows.by_ref().take(slice.n_outputs).collect();
            if !self.scheduler.runs(slice.id) {
                // It ended while its prompt was in work, and was told so.
                continue;
            }
            let id = self.request_of(slice.id);
            if let Err(error) = self.outputs(id, slice, &rows) {
                self.fail(id, error.into());
            }
        }
        true
    }

    /// Deals with the logits of one slice.
    fn outputs(
        &mut self,
        id: SequenceId,
        slice: &Slice,
        rows: &[&[f32]],
    ) -> Result<(), RequestError> {
        // Another choice of the same request may have failed.
        let Some(request) = self.requests.get_mut(&id) else {
            return Ok(());
        };
        let prompt = &request.request.prompt;
        let end = slice.start + slice.n_tokens;
        let is_last = end == self.scheduler.n_tokens(slice.id);
        if let (Some(k), false) = (request.request.prompt_logprobs, rows.is_empty()) {
            let first = end - rows.len();
            let scored = rows.iter().zip(prompt.get(first + 1..).unwrap_or_default());
            let scores: Vec<TokenLogprobs> =
                scored.map(|(row, &next)| logprobs(row, next, k)).collect();
            if !scores.is_empty() {
                request.outlet.send(Ok(Event::Prompt(scores)));
            }
        }
        if !is_last {
            let n_total = prompt.len();
            // After a preemption the same tokens are computed again.
            if request.n_prefilled < end && end < n_total {
                request.n_prefilled = end;
                let n_done = end;
                request.outlet.send(Ok(Event::Prefill { n_done, n_total }));
            }
            return Ok(());
        }
        // After a preemption its reader is told no more of the prompt.
        request.n_prefilled = prompt.len();
        let logits = *rows.last().expect("the last token's logits are wanted");
        if let Some(&(_, choice)) = self.sequences.get(&slice.id) {
            return self.choose(id, slice.id, choice, logits);
        }
        // The prompt is computed: each choice becomes a sequence.
        let n_choices = request.choices.len();
        self.sequences.insert(id, (id, 0));
        for choice in 1..n_choices {
            let fork = self.next_id;
            self.next_id += 1;
            self.scheduler.fork(id, fork);
            self.sequences.insert(fork, (id, choice));
            request.sequences.push(fork);
        }
        let sequences = request.sequences.clone();
        for (choice, sequence) in sequences.into_iter().enumerate() {
            self.choose(id, sequence, choice, logits)?;
        }
        Ok(())
    }

    /// Chooses the next token of one sequence.
    fn choose(
        &mut self,
        id: SequenceId,
        sequence: SequenceId,
        choice: usize,
        logits: &[f32],
    ) -> Result<(), RequestError> {
        let Some(request) = self.requests.get_mut(&id) else {
            return Ok(());
        };
        let Some(chooser) = &mut request.choices[choice] else {
            return Ok(());
        };
        let mut shown = Vec::new();
        let next = match request.request.config.max_tokens {
            Some(0) => Next::End(FinishReason::Length),
            _ => {
                self.stats.n_generated_tokens += 1;
                chooser.choose(logits, &mut shown)?
            }
        };
        request.first_token.get_or_insert_with(Instant::now);
        request.show(choice, shown);
        match next {
            Next::Append(token) => self.scheduler.append(sequence, token),
            Next::Rewind(n_tokens) => {
                let n_tokens = request.request.prompt.len() + n_tokens;
                self.scheduler.rewind(sequence, n_tokens);
            }
            Next::End(reason) => {
                request.finish(choice, reason);
                request.sequences.retain(|other| *other != sequence);
                self.scheduler.remove(sequence);
                self.sequences.remove(&sequence);
            }
        }
        Ok(())
    }
}
