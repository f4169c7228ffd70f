//! Attention: keys and values into the cache, then over spans of the context.

use minerva_compute::{Attention, DeviceError, KV_BLOCK_LEN, KvTypes, Pairing};

use super::{Lowering, MAX_ROWS, Source, launch, stride};
use crate::batch::{Layout, TILE_ROWS};
use crate::kernels::{ATTEND_ROWS, Form, Kernel, MAX_HEAD_DIM};

/// Positions of the shortest span that attention is split into.
const MIN_SPAN: u32 = 128;
/// Attention is split no further where so many workgroups run.
const ENOUGH_WORKGROUPS: u32 = 1024;
/// Rows of parts of attention that there is room for.
const MAX_PARTS: u32 = 4096;

impl Lowering<'_> {
    pub(super) fn attention(&mut self, a: &Attention) -> Result<(), DeviceError> {
        let dim = a.head_dim;
        if dim > MAX_HEAD_DIM {
            return Err(DeviceError::Unsupported(format!(
                "heads of {dim} elements, expected at most {MAX_HEAD_DIM}"
            )));
        }
        let gqa = a.n_heads / a.n_kv_heads;
        let max_tiles = self.limits.max_tokens * gqa.div_ceil(TILE_ROWS);
        if max_tiles > MAX_ROWS {
            return Err(DeviceError::Unsupported(format!(
                "{max_tiles} tiles of {TILE_ROWS} query rows in one batch, expected at most {MAX_ROWS}"
            )));
        }
        let KvTypes {
            k: k_type,
            v: v_type,
        } = self.limits.kv_types;
        let head_words = |kv_type: minerva_compute::KvType| {
            let head_bytes = kv_type.head_bytes(dim).expect("checked for every layer");
            (KV_BLOCK_LEN * head_bytes / 4) as u32
        };
        let (k_words, v_words) = (head_words(k_type), head_words(v_type));
        let [k_hadamard, v_hadamard] =
            [k_type, v_type].map(|kv_type| kv_type.hadamard_len(dim) as u32);
        let [q, k, v] = [a.q, a.k, a.v].map(|id| self.slot(id));
        let out = self.write(a.out);
        let is_interleaved = self.is_interleaved(out);
        let kv_stride = stride(a.n_kv_heads * dim) as u32;
        let q_stride = stride(a.n_heads * dim) as u32;
        let (dim32, n_heads, n_kv_heads) = (dim as u32, a.n_heads as u32, a.n_kv_heads as u32);
        let rope = a.rope.map(|id| {
            let rope = &self.program.ropes()[id.index()];
            let halves = u32::from(rope.pairing == Pairing::Halves);
            (id.index(), rope.inv_freq.len() as u32, halves)
        });
        let turns = move |b: &Layout| match rope {
            Some((idx, n_pairs, halves)) => [n_pairs, halves, b.turns_at[idx]],
            None => [0; 3],
        };
        let bindings = [
            Source::Slot(k),
            Source::Slot(v),
            Source::Batch,
            Source::Keys(a.layer),
            Source::Values(a.layer),
        ];
        self.push(Kernel::Store(self.limits.kv_types), &bindings, move |b| {
            let [n_turned, halves, turns_at] = turns(b);
            let numbers = [
                dim32, n_kv_heads, kv_stride, n_turned, halves, turns_at, b.pairs_at, k_words,
                v_words, k_hadamard, v_hadamard,
            ];
            launch(&numbers, [b.n_pairs, n_kv_heads, 2])
        });

        let tiling = self.shared_heads.iter().position(|n| *n == gqa);
        let tiling = tiling.unwrap_or_else(|| {
            self.shared_heads.push(gqa);
            self.shared_heads.len() - 1
        });
        let sinks = a.sinks.map(|id| self.floats(id));
        let has_sinks = u32::from(sinks.is_some());
        let sinks = sinks.unwrap_or(Source::Nothing);
        let window = a.window.map_or(0, |n| n.min(u32::MAX as usize) as u32);
        let (scale, soft_cap) = (a.scale, a.soft_cap.unwrap_or(0.0));
        let n_tokens = self.limits.max_tokens as u32;
        let max_parts = MAX_PARTS.max(n_heads).min(n_tokens.max(1) * n_heads * 64);
        let parts = self.take_len(max_parts as usize * (stride(dim) + 4));
        let splits = move |b: &Layout| {
            let workgroups = b.tiles[tiling].n * n_kv_heads;
            let n = (b.longest.div_ceil(MIN_SPAN))
                .min(ENOUGH_WORKGROUPS.div_ceil(workgroups.max(1)))
                .min(max_parts / (b.n_tokens * n_heads).max(1))
                .max(1);
            let span = b.longest.div_ceil(n).next_multiple_of(64);
            (b.longest.div_ceil(span), span)
        };
        // Where each sequence has one token, as in decoding, no more rows than that has.
        let gqa = gqa as u32;
        let of_one = ATTEND_ROWS.into_iter().find(|&rows| gqa <= rows);
        let n_rows = move |b: &Layout| match of_one {
            Some(rows) if b.most_tokens == 1 => rows,
            _ => TILE_ROWS as u32,
        };
        let mut all_rows = vec![TILE_ROWS as u32];
        all_rows.extend(of_one.filter(|&rows| rows < TILE_ROWS as u32));
        let forms = self.forms(out);
        let whole = forms
            .iter()
            .map(|(form, range)| (false, *form, range.clone()));
        let in_parts = std::iter::once((true, Form::F32, 1..u32::MAX));
        for ((is_split, form, range), rows) in whole
            .chain(in_parts)
            .flat_map(|target| all_rows.iter().map(move |&rows| (target.clone(), rows)))
        {
            let target = if is_split { parts } else { out };
            let bindings = [
                Source::Slot(q),
                Source::Keys(a.layer),
                Source::Values(a.layer),
                Source::Batch,
                sinks,
                Source::Slot(target),
            ];
            let kernel = Kernel::Attend(self.limits.kv_types, rows, form);
            self.push(kernel, &bindings, move |b| {
                let (n_splits, span) = splits(b);
                let is_own = range.contains(&b.n_tokens) && n_rows(b) == rows;
                if (n_splits > 1) != is_split || !is_own {
                    return None;
                }
                let [n_turned, halves, turns_at] = turns(b);
                let numbers = [
                    dim32,
                    n_heads,
                    n_kv_heads,
                    q_stride,
                    q_stride,
                    n_turned,
                    halves,
                    turns_at,
                    b.tiles[tiling].at,
                    b.sequences_at,
                    n_splits,
                    span,
                    k_words,
                    v_words,
                    window,
                    has_sinks,
                    scale.to_bits(),
                    soft_cap.to_bits(),
                    is_interleaved,
                    k_hadamard,
                    v_hadamard,
                ];
                launch(&numbers, [b.tiles[tiling].n, n_kv_heads, n_splits])
            });
        }
        let bindings = [Source::Slot(parts), sinks, Source::Slot(out)];
        for (form, range) in forms {
            self.push(Kernel::Join(form), &bindings, move |b| {
                let (n_splits, _) = splits(b);
                if n_splits == 1 || !range.contains(&b.n_tokens) {
                    return None;
                }
                let numbers = [
                    dim32,
                    n_heads,
                    q_stride,
                    n_splits,
                    has_sinks,
                    is_interleaved,
                ];
                launch(&numbers, [n_heads, b.n_tokens, 1])
            });
        }
        self.is_free[parts] = true;
        Ok(())
    }
}
