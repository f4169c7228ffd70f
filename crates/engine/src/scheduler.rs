//! Which tokens of which sequences the next batch computes.
//!
//! Pure: no clock, thread, channel or tensor; the same calls give the same batches. Sequences that
//! decode are computed together, one token each; prompts in slices, the oldest first, then those of
//! waiting sequences, which are let in for it. A step of prompts may take many steps of decoding: until
//! it is complete its blocks belong to nobody else. When blocks run out, the sequence
//! that was let in last gives its blocks back and is computed again later; so does one whose reader
//! is behind, where another one wants to be let in.
//!
//! Nobody starves: sequences are let in in the order of their callers' turns, none overtakes one
//! that does not fit yet, and the oldest sequence can take the blocks of all others.

use std::collections::{BTreeMap, VecDeque};

use minerva_compute::KV_BLOCK_LEN;

use crate::kv_cache::{Block, BlockCounts, BlockPool};

/// A name for a sequence, never given twice.
pub(crate) type SequenceId = u64;

/// What a scheduler may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchedulerLimits {
    /// Most sequences that are computed at once.
    pub(crate) max_sequences: usize,
    /// Most tokens of one step.
    pub(crate) max_tokens: usize,
    /// Most tokens of one step whose logits are wanted; at least `max_sequences`.
    pub(crate) max_outputs: usize,
    /// Blocks of the cache; enough for the longest sequence.
    pub(crate) n_blocks: usize,
    /// Most sequences that wait to be computed for the first time.
    pub(crate) max_waiting: usize,
}

/// A sequence before it is computed.
#[derive(Debug, Clone)]
pub(crate) struct NewSequence {
    /// Never given twice.
    pub(crate) id: SequenceId,
    /// The prompt; not empty.
    pub(crate) tokens: Vec<u32>,
    /// Who asks: callers take turns.
    pub(crate) tenant: u64,
    /// How many sequences it will be, once the prompt is computed; at most `max_sequences`.
    pub(crate) n_choices: usize,
    /// Whether the logits of every token of the prompt are wanted.
    pub(crate) scores_prompt: bool,
    /// Whether blocks of earlier sequences may be used.
    pub(crate) reuses: bool,
}

/// What becomes of a new sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It waits for its turn.
    Waits,
    /// It waits in the place of this one, the last of the caller that has the most waiting.
    Displaces(SequenceId),
    /// Too many wait.
    Refused,
}

/// A part of a sequence that a step computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The sequence.
    pub(crate) id: SequenceId,
    /// The position of its first token.
    pub(crate) start: usize,
    /// How many tokens.
    pub(crate) n_tokens: usize,
    /// How many of the last of them have their logits wanted.
    pub(crate) n_outputs: usize,
}

/// One step's work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Parts of different sequences.
    pub(crate) slices: Vec<Slice>,
    /// Sequences that were let in: their id, and how many tokens the cache had.
    pub(crate) started: Vec<(SequenceId, usize)>,
    /// Blocks whose content is to be copied, (from, to), before the step is computed.
    pub(crate) copies: Vec<(u32, u32)>,
}

impl Step {
    /// Tokens in all.
    pub(crate) fn n_tokens(&self) -> usize {
        self.slices.iter().map(|slice| slice.n_tokens).sum()
    }
}

/// How many sequences are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SchedulerCounts {
    /// Never computed yet.
    pub(crate) waiting: usize,
    /// Computed, and gave their blocks back.
    pub(crate) preempted: usize,
    /// Being computed.
    pub(crate) running: usize,
}

/// The sequences of one engine, and their blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: SchedulerLimits,
    pool: BlockPool,
    /// By caller, then in order of arrival.
    waiting: BTreeMap<u64, VecDeque<Sequence>>,
    /// Those that gave their blocks back, the one that was let in first in front.
    preempted: VecDeque<Sequence>,
    /// In the order in which they were let in.
    running: Vec<Sequence>,
    /// When each caller had its last turn, as a number of turns.
    turns: BTreeMap<u64, u64>,
    n_turns: u64,
    n_preemptions: u64,
    /// Blocks to be copied by the next step. The sources are held until then.
    copies: Vec<(Block, u32)>,
    /// The sequences whose prompts are in work.
    in_work: Vec<SequenceId>,
    /// All blocks of that step, also of those that were removed since.
    held: Vec<Block>,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    tenant: u64,
    tokens: Vec<u32>,
    /// How many of the tokens are in the cache.
    n_computed: usize,
    /// How many of them were there when it was let in, the last time.
    n_found: usize,
    /// How many tokens' logits were wanted and given: prompts that are scored are not scored again.
    n_scored: usize,
    prompt_len: usize,
    n_choices: usize,
    scores_prompt: bool,
    reuses: bool,
    has_started: bool,
    is_paused: bool,
    /// The order in which it was let in for the first time.
    age: u64,
    blocks: Vec<Block>,
    /// The blocks' places, for batches.
    block_ids: Vec<u32>,
    /// How many of the blocks are published.
    n_published: usize,
}

impl Sequence {
    fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    fn is_decoding(&self) -> bool {
        self.n_pending() == 1 && self.n_computed >= self.prompt_len
    }

    /// Tokens of the prompt whose logits are still wanted; the last one's are those of the first
    /// new token.
    fn n_to_score(&self) -> usize {
        match self.scores_prompt {
            true => (self.prompt_len - 1).saturating_sub(self.n_scored),
            false => 0,
        }
    }

    /// Makes room for tokens up to `len`; as far as blocks go.
    fn grow(&mut self, len: usize, pool: &BlockPool) -> bool {
        while self.blocks.len() * KV_BLOCK_LEN < len {
            match pool.take() {
                Some(block) => self.push(block),
                None => return false,
            }
        }
        true
    }

    fn push(&mut self, block: Block) {
        self.block_ids.push(block.index());
        self.blocks.push(block);
    }

    /// Gives back all blocks but the first `n`, the last one first.
    fn keep_blocks(&mut self, n: usize) {
        while self.blocks.len() > n {
            self.blocks.pop();
        }
        self.block_ids.truncate(n);
        self.n_published = self.n_published.min(n);
        self.n_computed = self.n_computed.min(n * KV_BLOCK_LEN);
    }

    /// Takes over the blocks that hold its beginning. The last token is computed in any case:
    /// its logits are wanted.
    fn find_blocks(&mut self, pool: &BlockPool) {
        if !self.reuses || self.n_to_score() > 0 {
            return;
        }
        let n_full = (self.tokens.len() - 1) / KV_BLOCK_LEN;
        while self.blocks.len() < n_full {
            let tokens = block_tokens(&self.tokens, self.blocks.len());
            let Some(block) = pool.find(self.blocks.last(), tokens) else {
                break;
            };
            self.push(block);
        }
        self.n_published = self.blocks.len();
        self.n_computed = self.blocks.len() * KV_BLOCK_LEN;
    }

    /// Publishes the blocks that have become full.
    fn publish(&mut self, pool: &BlockPool) {
        if !self.reuses {
            return;
        }
        let n_full = self.n_computed / KV_BLOCK_LEN;
        while self.n_published < n_full {
            let i = self.n_published;
            let (before, rest) = self.blocks.split_at_mut(i);
            let block = rest[0].clone();
            rest[0] = pool.publish(block, before.last(), block_tokens(&self.tokens, i));
            self.block_ids[i] = rest[0].index();
            self.n_published += 1;
        }
    }
}

fn block_tokens(tokens: &[u32], block: usize) -> &[u32; KV_BLOCK_LEN] {
    let tokens = &tokens[block * KV_BLOCK_LEN..][..KV_BLOCK_LEN];
    tokens.try_into().expect("a slice of this length")
}

impl Scheduler {
    /// An empty scheduler over an empty cache.
    pub(crate) fn new(limits: SchedulerLimits) -> Scheduler {
        assert!(limits.max_sequences >= 1 && limits.max_tokens >= limits.max_sequences);
        assert!(limits.max_outputs >= limits.max_sequences);
        Scheduler {
            limits,
            pool: BlockPool::new(limits.n_blocks),
            waiting: BTreeMap::new(),
            preempted: VecDeque::new(),
            running: Vec::new(),
            turns: BTreeMap::new(),
            n_turns: 0,
            n_preemptions: 0,
            copies: Vec::new(),
            in_work: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Puts a sequence behind those of its caller. Where too many wait, the caller that has the
    /// most of them gives way to one that has fewer.
    pub(crate) fn add(&mut self, new: NewSequence) -> Admission {
        let NewSequence {
            id,
            tokens,
            tenant,
            n_choices,
            scores_prompt,
            reuses,
        } = new;
        assert!(!tokens.is_empty() && tokens.len() < self.limits.n_blocks * KV_BLOCK_LEN);
        assert!((1..=self.limits.max_sequences).contains(&n_choices));
        let mut admission = Admission::Waits;
        if self.counts().waiting >= self.limits.max_waiting {
            let longest = self.waiting.iter().max_by_key(|(_, queue)| queue.len());
            let own = self.waiting.get(&tenant).map_or(0, VecDeque::len);
            match longest {
                Some((&other, queue)) if queue.len() > own + 1 => {
                    let queue = self.waiting.get_mut(&other).expect("found above");
                    let displaced = queue.pop_back().expect("it has more than one");
                    admission = Admission::Displaces(displaced.id);
                }
                _ => return Admission::Refused,
            }
        }
        let sequence = Sequence {
            id,
            tenant,
            prompt_len: tokens.len(),
            tokens,
            n_computed: 0,
            n_found: 0,
            n_scored: 0,
            n_choices,
            scores_prompt,
            reuses,
            has_started: false,
            is_paused: false,
            age: 0,
            blocks: Vec::new(),
            block_ids: Vec::new(),
            n_published: 0,
        };
        self.waiting.entry(tenant).or_default().push_back(sequence);
        admission
    }

    /// The next token of each sequence that decodes, as far as blocks go.
    pub(crate) fn schedule_decoding(&mut self) -> Step {
        let mut step = self.begin_step();
        let mut i = 0;
        while i < self.running.len() {
            let sequence = &self.running[i];
            if sequence.is_paused || !sequence.is_decoding() {
                i += 1;
                continue;
            }
            let (id, start) = (sequence.id, sequence.n_computed);
            if self.make_room(id, start + 1) {
                step.slices.push(Slice {
                    id,
                    start,
                    n_tokens: 1,
                    n_outputs: 1,
                });
                // A paused one before it may have been preempted.
                i = self.place(id).expect("it has room") + 1;
            }
            // Else it was itself preempted, and the next one stands in its place.
        }
        step
    }

    /// Parts of prompts, at most `max_tokens`. Nothing of them may be [in work](Self::has_work).
    pub(crate) fn schedule_prompts(&mut self, max_tokens: usize) -> Step {
        assert!(!self.has_work(), "prompts are in work");
        let mut step = self.begin_step();
        let mut budget = Budget {
            n_tokens: max_tokens.min(self.limits.max_tokens),
            // One for each sequence that may come to its last token in this step is not in it.
            n_outputs: self.limits.max_outputs - self.limits.max_sequences,
        };
        let prompts = self
            .running
            .iter()
            .filter(|s| !s.is_paused && !s.is_decoding());
        for id in prompts.map(|s| s.id).collect::<Vec<_>>() {
            // One before it may have taken its blocks.
            if budget.n_tokens > 0 && self.place(id).is_some() {
                self.schedule_prefill(id, &mut budget, &mut step);
            }
        }
        while budget.n_tokens > 0 && self.let_in(&mut budget, &mut step) {}
        for slice in &step.slices {
            let index = self.place(slice.id).expect("a scheduled sequence");
            self.in_work.push(slice.id);
            self.held.extend_from_slice(&self.running[index].blocks);
        }
        step
    }

    /// Whether prompts were scheduled, are not complete, and are still wanted: some of their sequences
    /// run, and none had to give its blocks back.
    pub(crate) fn has_work(&self) -> bool {
        !self.in_work.is_empty()
    }

    /// Ends the prompts that are in work.
    pub(crate) fn abandon_work(&mut self) {
        self.in_work.clear();
        self.held.clear();
    }

    fn begin_step(&mut self) -> Step {
        let copies = self.copies.drain(..).map(|(from, to)| (from.index(), to));
        Step {
            copies: copies.collect(),
            ..Step::default()
        }
    }

    /// Gives a running sequence blocks for `len` tokens, by preempting others if need be. `false`
    /// if it was itself the last to give way.
    fn make_room(&mut self, id: SequenceId, len: usize) -> bool {
        loop {
            let Some(index) = self.place(id) else {
                return false;
            };
            if self.running[index].grow(len, &self.pool) {
                return true;
            }
            let victim = self.victim();
            self.preempt(victim);
        }
    }

    /// Who gives blocks back: the youngest of those that wait for their reader, or of all.
    fn victim(&self) -> usize {
        let paused = self.running.iter().rposition(|s| s.is_paused);
        paused.unwrap_or(self.running.len() - 1)
    }

    /// Makes way for a sequence that is to be let in: one whose reader is behind must not keep others
    /// from being computed. `false` if there is none.
    fn preempt_paused(&mut self) -> bool {
        let paused = self.running.iter().rposition(|s| s.is_paused);
        if let Some(index) = paused {
            self.preempt(index);
        }
        paused.is_some()
    }

    fn preempt(&mut self, index: usize) {
        self.n_preemptions += 1;
        let mut sequence = self.running.remove(index);
        if self.in_work.contains(&sequence.id) {
            self.abandon_work();
        }
        sequence.keep_blocks(0);
        let at = self.preempted.partition_point(|s| s.age < sequence.age);
        self.preempted.insert(at, sequence);
    }

    /// Schedules the next slice of a running sequence's prompt, as far as budget and blocks go.
    fn schedule_prefill(&mut self, id: SequenceId, budget: &mut Budget, step: &mut Step) {
        let index = self.place(id).expect("a running sequence");
        let is_oldest = self.running[..index].iter().all(|s| s.is_paused);
        let sequence = &mut self.running[index];
        let start = sequence.n_computed;
        let mut n_tokens = sequence.n_pending().min(budget.n_tokens);
        if sequence.n_to_score() > 0 {
            // One output is its own in any case.
            n_tokens = n_tokens.min(budget.n_outputs.max(1));
        }
        if !sequence.grow(start + n_tokens, &self.pool) {
            let room = sequence.blocks.len() * KV_BLOCK_LEN - start;
            if room == 0 {
                // The oldest takes what it needs; the others wait until blocks come back.
                if !is_oldest || !self.make_room(id, start + 1) {
                    return;
                }
                self.drop_preempted(step);
            }
            n_tokens = n_tokens.min(room.max(1));
        }
        let sequence = &self.running[self.place(id).expect("it has room")];
        let end = start + n_tokens;
        let is_last = end == sequence.tokens.len();
        let n_scored = match sequence.scores_prompt {
            true => {
                let last = end.min(sequence.prompt_len - 1);
                last.saturating_sub(start.max(sequence.n_scored))
            }
            false => 0,
        };
        budget.n_tokens -= n_tokens;
        budget.n_outputs = budget.n_outputs.saturating_sub(n_scored);
        step.slices.push(Slice {
            id,
            start,
            n_tokens,
            n_outputs: n_scored + usize::from(is_last),
        });
    }

    /// Takes the slices of sequences that were preempted for another one out of a step.
    fn drop_preempted(&self, step: &mut Step) {
        step.slices.retain(|slice| self.place(slice.id).is_some());
    }

    /// Lets in the sequence whose turn it is, if it fits.
    fn let_in(&mut self, budget: &mut Budget, step: &mut Step) -> bool {
        let preempted = self.preempted.iter().position(|s| !s.is_paused);
        let tenant = match preempted {
            Some(_) => None,
            None => self.next_tenant(),
        };
        let n_places = self.n_places();
        let pool = self.pool.clone();
        let sequence = match (preempted, tenant) {
            (Some(index), _) => self.preempted.get_mut(index),
            (None, Some(tenant)) => self.waiting.get_mut(&tenant).and_then(VecDeque::front_mut),
            (None, None) => return false,
        };
        let sequence = sequence.expect("found above");
        if n_places + sequence.n_choices > self.limits.max_sequences {
            return self.preempt_paused() && self.let_in(budget, step);
        }
        sequence.find_blocks(&pool);
        let n_needed = (sequence.tokens.len() + 1).div_ceil(KV_BLOCK_LEN) - sequence.blocks.len();
        // One more for each that runs, so that it is not preempted at once.
        let is_first = self.running.is_empty();
        if !is_first && pool.n_available() < n_needed + n_places {
            // Found again when it fits.
            sequence.keep_blocks(0);
            return self.preempt_paused() && self.let_in(budget, step);
        }
        let taken = match (preempted, tenant) {
            (Some(index), _) => self.preempted.remove(index),
            (None, tenant) => tenant.and_then(|tenant| self.take_turn(tenant)),
        };
        let mut sequence = taken.expect("found above");
        sequence.n_found = sequence.n_computed;
        if !sequence.has_started {
            sequence.has_started = true;
            sequence.age = self.n_turns;
            step.started.push((sequence.id, sequence.n_computed));
        }
        let index = self.running.partition_point(|s| s.age < sequence.age);
        let id = sequence.id;
        self.running.insert(index, sequence);
        self.schedule_prefill(id, budget, step);
        true
    }

    /// The caller with the fewest running sequences; of equals, the one whose last turn was the
    /// longest ago.
    fn next_tenant(&self) -> Option<u64> {
        let mut n_running: BTreeMap<u64, usize> = BTreeMap::new();
        for sequence in &self.running {
            *n_running.entry(sequence.tenant).or_default() += sequence.n_choices;
        }
        let key = |tenant: &u64| {
            let n = n_running.get(tenant).copied().unwrap_or(0);
            (n, self.turns.get(tenant).copied().unwrap_or(0), *tenant)
        };
        self.waiting.keys().copied().min_by_key(key)
    }

    fn take_turn(&mut self, tenant: u64) -> Option<Sequence> {
        self.n_turns += 1;
        self.turns.insert(tenant, self.n_turns);
        let queue = self.waiting.get_mut(&tenant)?;
        let sequence = queue.pop_front();
        self.forget_empty(tenant);
        sequence
    }

    fn forget_empty(&mut self, tenant: u64) {
        if self.waiting.get(&tenant).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&tenant);
        }
        // A turn matters only while others wait.
        if self.waiting.is_empty() {
            self.turns.clear();
        }
    }

    /// Notes that a step was computed: its tokens are in the cache, and full blocks are findable.
    pub(crate) fn complete(&mut self, step: &Step) {
        if step.slices.iter().any(|s| self.in_work.contains(&s.id)) {
            self.abandon_work();
        }
        for slice in &step.slices {
            let Some(index) = self.place(slice.id) else {
                continue;
            };
            let sequence = &mut self.running[index];
            sequence.n_computed = slice.start + slice.n_tokens;
            if sequence.scores_prompt {
                sequence.n_scored = sequence.n_scored.max(sequence.n_computed);
            }
            sequence.publish(&self.pool);
        }
    }

    /// Forgets what the cache held: sequences that run give their blocks back, and are computed again.
    pub(crate) fn forget_cache(&mut self) {
        self.copies.clear();
        while let Some(index) = self.running.len().checked_sub(1) {
            self.preempt(index);
        }
        self.pool.forget_all();
    }

    /// Appends the token that was chosen after all others of a sequence were computed.
    pub(crate) fn append(&mut self, id: SequenceId, token: u32) {
        let sequence = self.sequence_mut(id).expect("a running sequence");
        sequence.tokens.push(token);
    }

    /// Makes another sequence of the same tokens, which shares the blocks: of the last one, which
    /// both go on to write, the other gets a copy. All tokens must be computed, and the sequence
    /// have a place for one more choice.
    pub(crate) fn fork(&mut self, id: SequenceId, new_id: SequenceId) {
        let index = self.place(id).expect("a running sequence");
        let sequence = &mut self.running[index];
        assert!(sequence.n_choices > 1 && sequence.n_pending() == 0);
        sequence.n_choices -= 1;
        let mut fork = Sequence {
            id: new_id,
            tokens: sequence.tokens.clone(),
            n_choices: 1,
            blocks: sequence.blocks.clone(),
            block_ids: sequence.block_ids.clone(),
            ..*sequence
        };
        let n_full = fork.n_computed / KV_BLOCK_LEN;
        if !fork.n_computed.is_multiple_of(KV_BLOCK_LEN) {
            let n_computed = fork.n_computed;
            let source = fork.blocks[n_full].clone();
            fork.keep_blocks(n_full);
            // Without a block for the copy, those tokens are computed again.
            if let Some(block) = self.pool.take() {
                self.copies.push((source, block.index()));
                fork.push(block);
                fork.n_computed = n_computed;
            }
        }
        self.running.insert(index + 1, fork);
    }

    /// Takes the last tokens of a running sequence back; `n_tokens`, at least the prompt, are left.
    /// The last of them is computed again, for its logits.
    pub(crate) fn rewind(&mut self, id: SequenceId, n_tokens: usize) {
        let sequence = self.sequence_mut(id).expect("a running sequence");
        assert!(sequence.prompt_len <= n_tokens && n_tokens <= sequence.tokens.len());
        sequence.tokens.truncate(n_tokens);
        sequence.n_computed = sequence.n_computed.min(n_tokens - 1);
        // A block that others have or may find is never written to.
        let n_full = sequence.n_computed / KV_BLOCK_LEN;
        if sequence.n_published > n_full
            || sequence.blocks.get(n_full).is_some_and(Block::is_shared)
        {
            sequence.keep_blocks(n_full);
        }
    }

    /// Whether a sequence's reader is behind: then it is not computed.
    pub(crate) fn set_paused(&mut self, id: SequenceId, is_paused: bool) {
        if let Some(sequence) = self.sequence_mut(id) {
            sequence.is_paused = is_paused;
        }
    }

    /// Forgets a sequence, wherever it is; its blocks come back.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        let is_it = |s: &Sequence| s.id == id;
        self.in_work.retain(|other| *other != id);
        if self.in_work.is_empty() {
            self.held.clear();
        }
        if let Some(index) = self.place(id) {
            self.running.remove(index).keep_blocks(0);
        } else if let Some(index) = self.preempted.iter().position(is_it) {
            self.preempted.remove(index);
        } else {
            let found = self
                .waiting
                .iter()
                .find_map(|(&tenant, queue)| Some((tenant, queue.iter().position(is_it)?)));
            if let Some((tenant, index)) = found {
                let queue = self.waiting.get_mut(&tenant).expect("found above");
                queue.remove(index);
                self.forget_empty(tenant);
            }
        }
        // A copy that nobody reads keeps its source.
        let running = &self.running;
        let is_read = |to: &u32| running.iter().any(|s| s.block_ids.contains(to));
        self.copies.retain(|(_, to)| is_read(to));
    }

    /// The tokens of a slice, and the blocks of its sequence.
    pub(crate) fn slice(&self, slice: &Slice) -> (&[u32], &[u32]) {
        let index = self.place(slice.id).expect("a scheduled sequence");
        let sequence = &self.running[index];
        (
            &sequence.tokens[slice.start..slice.start + slice.n_tokens],
            &sequence.block_ids,
        )
    }

    /// How many sequences will soon go on together: those that do, and those of which no more than
    /// `max_tokens` had to be computed when they came. The end of a long one does not count: streams
    /// would wait longer for it than for its beginning.
    pub(crate) fn n_to_come(&self, max_tokens: usize) -> usize {
        let waiting = self.waiting.values().flatten();
        let all = self.running.iter().chain(&self.preempted).chain(waiting);
        let soon = all
            .filter(|s| s.is_decoding() || s.tokens.len().saturating_sub(s.n_found) <= max_tokens);
        let n = soon.map(|s| s.n_choices).sum::<usize>();
        n.min(self.limits.max_sequences)
    }

    /// How often a sequence gave its blocks back.
    pub(crate) fn n_preemptions(&self) -> u64 {
        self.n_preemptions
    }

    /// Whether a sequence is being computed.
    pub(crate) fn runs(&self, id: SequenceId) -> bool {
        self.place(id).is_some()
    }

    /// How many tokens a running sequence has.
    pub(crate) fn n_tokens(&self, id: SequenceId) -> usize {
        self.place(id)
            .map_or(0, |index| self.running[index].tokens.len())
    }

    /// How many sequences are where.
    pub(crate) fn counts(&self) -> SchedulerCounts {
        SchedulerCounts {
            waiting: self.waiting.values().map(VecDeque::len).sum(),
            preempted: self.preempted.len(),
            running: self.running.len(),
        }
    }

    /// What the cache's blocks are used for.
    pub(crate) fn block_counts(&self) -> BlockCounts {
        self.pool.counts()
    }

    fn place(&self, id: SequenceId) -> Option<usize> {
        self.running.iter().position(|s| s.id == id)
    }

    fn sequence_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        let preempted = self.preempted.iter_mut();
        self.running
            .iter_mut()
            .chain(preempted)
            .find(|s| s.id == id)
    }

    /// Sequences that run or will, once prompts are computed.
    fn n_places(&self) -> usize {
        self.running.iter().map(|s| s.n_choices).sum()
    }
}

/// What is left of a step for prompts.
struct Budget {
    n_tokens: usize,
    n_outputs: usize,
}

#[cfg(test)]
mod tests;
