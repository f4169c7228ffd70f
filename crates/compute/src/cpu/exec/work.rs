//! A batch, cut into what the steps' chunks are of.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use crate::backend::{Batch, KV_BLOCK_LEN};
use crate::cpu::ops::attention::UNIT;

use super::QUERY_TOKENS;

/// What a batch means for the steps.
#[derive(Default)]
pub(super) struct Work {
    pub(super) max_cut_units: usize,
    pub(super) tokens: Vec<u32>,
    pub(super) input: Vec<f32>, // of each token, where the program begins with rows
    pub(super) positions: Vec<usize>, // of each token
    pub(super) outputs: Vec<u32>,
    pub(super) sequences: Vec<(usize, Vec<u32>)>, // first token, blocks
    /// Tokens of one sequence in one block: (sequence, first token, number).
    pub(super) block_spans: Vec<(usize, usize, usize)>,
    pub(super) query_parts: Vec<QueryPart>,
    /// How often a chunk of a cut part ended, `[cut][kv head]`.
    pub(super) ended: Vec<AtomicUsize>,
}

/// Tokens of one sequence, whose queries are one chunk for each head of the cache, and the units of
/// positions (`ops/attention.rs`) that it goes through.
#[derive(Clone)]
pub(super) struct QueryPart {
    pub(super) sequence: usize,
    pub(super) first: usize,
    pub(super) n: usize,
    pub(super) units: Range<usize>,
    pub(super) cut: Option<Cut>,
}

/// How the positions of some tokens are shared among chunks, one for each unit.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub(super) index: usize,
    pub(super) n_units: usize,
    /// Where the results of the first unit lie, in tokens.
    pub(super) at: usize,
}

impl Work {
    pub(super) fn set(&mut self, batch: &Batch<'_>, max_kv_heads: usize) {
        self.tokens.clear();
        self.tokens.extend(batch.tokens);
        self.input.clear();
        self.input.extend(batch.input);
        self.outputs.clear();
        self.outputs.extend(batch.outputs);
        self.positions.clear();
        self.block_spans.clear();
        self.query_parts.clear();
        self.sequences
            .resize_with(batch.sequences.len(), Default::default);
        let mut first = 0;
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let (start, blocks) = &mut self.sequences[index];
            *start = first;
            blocks.clear();
            blocks.extend(sequence.blocks);
            let end = sequence.start + sequence.n_tokens;
            self.positions.extend(sequence.start..end);
            let mut position = sequence.start;
            while position < end {
                let n = (KV_BLOCK_LEN - position % KV_BLOCK_LEN).min(end - position);
                self.block_spans
                    .push((index, first + position - sequence.start, n));
                position += n;
            }
            for i in (0..sequence.n_tokens).step_by(QUERY_TOKENS) {
                let n = QUERY_TOKENS.min(sequence.n_tokens - i);
                self.query_parts.push(QueryPart {
                    sequence: index,
                    first: first + i,
                    n,
                    units: 0..(sequence.start + i + n).div_ceil(UNIT),
                    cut: None,
                });
            }
            first += sequence.n_tokens;
        }
        self.cut_units(max_kv_heads);
    }

    /// Shares long contexts among chunks where there are few tokens.
    pub(super) fn cut_units(&mut self, max_kv_heads: usize) {
        let is_long = |part: &&QueryPart| part.units.len() > 1;
        let long = || self.query_parts.iter().filter(is_long);
        let n_units: usize = long().map(|part| part.n * part.units.len()).sum();
        if n_units > self.max_cut_units {
            return;
        }
        let n_ended = long().count() * max_kv_heads;
        self.ended.clear();
        self.ended.resize_with(n_ended, AtomicUsize::default);
        let (mut index, mut at) = (0, 0);
        for part in std::mem::take(&mut self.query_parts) {
            if !is_long(&&part) {
                self.query_parts.push(part);
                continue;
            }
            let n_units = part.units.len();
            let cut = Some(Cut { index, n_units, at });
            index += 1;
            at += part.n * n_units;
            self.query_parts.extend(part.units.map(|unit| QueryPart {
                units: unit..unit + 1,
                cut,
                ..part
            }));
        }
    }
}
