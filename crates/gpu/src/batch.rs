//! What the kernels are told of a batch: one buffer of words, written once a step.

use minerva_compute::{Batch, KV_BLOCK_LEN, Program, Rope, Rows, Sequence};

/// A token that is not there.
const NONE: u32 = u32::MAX;
/// Query rows of one tile of attention.
pub(crate) const TILE_ROWS: usize = 8;

/// Where things are in the batch's words, and how many.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) n_tokens: u32,
    pub(crate) n_outputs: u32,
    pub(crate) tokens_at: u32,
    pub(crate) outputs_at: u32,
    /// For each sequence: first token, first position, number of tokens, place of its blocks.
    pub(crate) sequences_at: u32,
    /// Pairs of neighbouring positions that are stored: two tokens, and the slot of the first.
    pub(crate) pairs_at: u32,
    pub(crate) n_pairs: u32,
    /// For each rotary embedding: for each token the cosines, then the sines, of its pairs.
    pub(crate) turns_at: Vec<u32>,
    /// For each number of heads that share keys: a sequence and its first row of eight.
    pub(crate) tiles: Vec<Tiles>,
    /// Positions of the longest sequence.
    pub(crate) longest: u32,
    /// The most tokens of one sequence in the batch.
    pub(crate) most_tokens: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub(crate) at: u32,
    pub(crate) n: u32,
}

impl Layout {
    pub(crate) fn n_rows(&self, rows: Rows) -> u32 {
        match rows {
            Rows::Tokens => self.n_tokens,
            Rows::Outputs => self.n_outputs,
        }
    }
}

/// The most words that a batch has but for the tables of blocks.
pub(crate) fn max_words(
    program: &Program,
    max_tokens: usize,
    max_outputs: usize,
    shared_heads: &[usize],
) -> usize {
    let turns: usize = program.ropes().iter().map(|r| 2 * r.inv_freq.len()).sum();
    let tiles: usize = shared_heads
        .iter()
        .map(|n| 2 * (n.div_ceil(TILE_ROWS) + 1))
        .sum();
    max_tokens * (1 + 4 + 3 + turns + tiles) + max_outputs
}

/// The layout of the step that follows a batch if each of its sequences goes on with one token, as in
/// decoding; `None` where it is not the next token of each that was asked for.
pub(crate) fn layout_ahead(
    batch: &Batch<'_>,
    ropes: &[Rope],
    shared_heads: &[usize],
) -> Option<Layout> {
    let n = batch.sequences.len();
    if batch.outputs.len() != n {
        return None;
    }
    // A layout is where things are and not what they are: any token and any block will do.
    let ends = || batch.sequences.iter().map(|s| s.start + s.n_tokens);
    let blocks = vec![0; ends().max()? / KV_BLOCK_LEN + 1];
    let sequences: Vec<Sequence<'_>> = ends()
        .map(|start| Sequence {
            n_tokens: 1,
            start,
            blocks: &blocks,
        })
        .collect();
    let next = Batch {
        tokens: &vec![0; n],
        sequences: &sequences,
        outputs: &vec![0; n],
        input: &[],
    };
    Some(lay_out(&next, ropes, shared_heads, &mut Vec::new()))
}

/// Writes a batch down.
pub(crate) fn lay_out(
    batch: &Batch<'_>,
    ropes: &[Rope],
    shared_heads: &[usize],
    words: &mut Vec<u32>,
) -> Layout {
    words.clear();
    let mut layout = Layout {
        n_tokens: batch.tokens.len() as u32,
        n_outputs: batch.outputs.len() as u32,
        ..Layout::default()
    };
    layout.tokens_at = words.len() as u32;
    words.extend_from_slice(batch.tokens);
    layout.outputs_at = words.len() as u32;
    words.extend_from_slice(batch.outputs);

    let mut tables_at = Vec::new();
    for s in batch.sequences {
        let end = s.start + s.n_tokens;
        layout.longest = layout.longest.max(end as u32);
        layout.most_tokens = layout.most_tokens.max(s.n_tokens as u32);
        tables_at.push(words.len() as u32);
        words.extend_from_slice(&s.blocks[..end.div_ceil(KV_BLOCK_LEN)]);
    }
    layout.sequences_at = words.len() as u32;
    let mut first_token = 0;
    for (s, table_at) in batch.sequences.iter().zip(tables_at) {
        words.extend([first_token, s.start as u32, s.n_tokens as u32, table_at]);
        first_token += s.n_tokens as u32;
    }

    layout.pairs_at = words.len() as u32;
    let mut first_token = 0;
    for s in batch.sequences {
        let (start, end) = (s.start, s.start + s.n_tokens);
        for even in (start / 2 * 2..end).step_by(2) {
            let token = |position: usize| match (start..end).contains(&position) {
                true => (first_token + position - start) as u32,
                false => NONE,
            };
            let block = s.blocks[even / KV_BLOCK_LEN];
            let slot = block * KV_BLOCK_LEN as u32 + (even % KV_BLOCK_LEN) as u32;
            words.extend([token(even), token(even + 1), slot]);
            layout.n_pairs += 1;
        }
        first_token += s.n_tokens;
    }

    for n_shared in shared_heads {
        let at = words.len() as u32;
        for (i, s) in batch.sequences.iter().enumerate() {
            for first in (0..s.n_tokens * n_shared).step_by(TILE_ROWS) {
                words.extend([i as u32, first as u32]);
            }
        }
        let n = (words.len() as u32 - at) / 2;
        layout.tiles.push(Tiles { at, n });
    }

    for rope in ropes {
        layout.turns_at.push(words.len() as u32);
        for s in batch.sequences {
            for position in s.start..s.start + s.n_tokens {
                // In f64, as far positions turn often.
                let turns = || {
                    let turn = |f: &f32| (position as f64 * f64::from(*f)).sin_cos();
                    rope.inv_freq.iter().map(turn)
                };
                words.extend(turns().map(|(_, cos)| (cos as f32 * rope.magnitude).to_bits()));
                words.extend(turns().map(|(sin, _)| (sin as f32 * rope.magnitude).to_bits()));
            }
        }
    }
    layout
}
