//! What each step does for one chunk. Why the `unsafe` here is sound is said in the module above.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::backend::KV_BLOCK_LEN;
use crate::cpu::kernels::{FastKernels, Int16Kernels, TileKernels};
use crate::cpu::lower::{
    AttentionSlots, FAST_TOKENS, FINE, Matrix, MatrixKernel, Part, Slot, SlotShape, Step,
};
use crate::cpu::ops::Amount;
use crate::cpu::ops::attention::{HeadCache, QueryRow, UNIT, Weight};
use crate::cpu::ops::float_matmul::FloatKind;
use crate::cpu::ops::int16::Int16Buf;
use crate::cpu::ops::kv_tile::Tiles;
use crate::cpu::ops::tile_matmul::TokenTiles;
use crate::program::{Activation, Attention, Function};

use super::{ProductScratch, QueryPart, Run, Scratch, SlotMemory, Target, TileBuf};

impl Run<'_> {
    /// Row `row` of a slot that earlier steps wrote.
    fn read(&self, slot: Slot, row: usize) -> &[f32] {
        let width = self.core.plan.slots[slot].width;
        // SAFETY: see the module's doc; nobody writes to a slot that a step reads.
        unsafe {
            self.pass.slots[slot]
                .f32
                .get(row * width..(row + 1) * width)
        }
    }

    /// Columns of one row of a slot that this chunk writes.
    ///
    /// # Safety
    /// They belong to the chunk alone.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the contract")]
    unsafe fn row_mut(&self, slot: Slot, row: usize, columns: Range<usize>) -> &mut [f32] {
        let at = row * self.core.plan.slots[slot].width;
        // SAFETY: the caller's promise.
        unsafe {
            self.pass.slots[slot]
                .f32
                .get_mut(at + columns.start..at + columns.end)
        }
    }

    /// Quantizes columns of a row that this chunk has written, or rounds them.
    ///
    /// # Safety
    /// They belong to the chunk alone, and are whole groups.
    unsafe fn quantize(&self, slot: Slot, row: usize, columns: Range<usize>) {
        let SlotMemory {
            f32,
            quant,
            tiles,
            int16,
            words,
        } = &self.pass.slots[slot];
        let SlotShape { width, n_words, .. } = self.core.plan.slots[slot];
        let at = row * width;
        // SAFETY: the caller's promise.
        unsafe {
            let x = f32.get(at + columns.start..at + columns.end);
            if let Some((kernels, tiles)) = self.tiles(tiles) {
                return (kernels.round)(x, &mut tiles.span(row, columns));
            }
            if let Some((kernels, int16)) = self.int16(int16, self.n_rows(slot)) {
                (kernels.to_int16)(x, &mut int16.span(row, columns.clone()));
            }
            if n_words > 0 {
                let [start, end] =
                    [columns.start, columns.end].map(|at| row * n_words + at * n_words / width);
                (self.core.kernels.round)(x, words.get_mut(start..end));
            }
            // No quantized weight reads it.
            let Some(quant) = quant else {
                return;
            };
            let span = |row| quant.span(row, columns.start, columns.len());
            match self.core.plan.slots[slot].n_quants {
                FINE => {
                    let (mut high, mut low) = (span(FINE * row), span(FINE * row + 1));
                    (self.core.kernels.quantize_fine)(x, &mut high, &mut low);
                }
                _ => (self.core.kernels.quantize)(x, &mut span(row)),
            }
        }
    }

    /// What many tokens are computed with, where this batch has so many.
    fn fast(&self) -> Option<FastKernels> {
        self.core.fast.filter(|_| self.amount() == Amount::Fast)
    }

    /// The tiles of a slot, where this batch uses them.
    pub(super) fn tiles<'a>(
        &self,
        tiles: &'a Option<TokenTiles>,
    ) -> Option<(&'static TileKernels, &'a TokenTiles)> {
        Some((self.fast()?.tiles()?, tiles.as_ref()?))
    }

    /// The whole numbers of a slot, where so many of its rows use them: a few of an expert do not.
    pub(super) fn int16<'a>(
        &self,
        int16: &'a Option<Int16Buf>,
        n_rows: usize,
    ) -> Option<(&'static Int16Kernels, &'a Int16Buf)> {
        let fast = self.fast().filter(|_| n_rows >= FAST_TOKENS)?;
        Some((fast.int16()?, int16.as_ref()?))
    }

    /// Runs one chunk of a step.
    pub(super) fn chunk(&self, step: &Step, chunk: usize, scratch: &mut Scratch) {
        let width = |slot: Slot| self.core.plan.slots[slot].width;
        let amount = self.amount();
        match step {
            Step::Input { out, quantize } => {
                let n = width(*out);
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..n) };
                y.copy_from_slice(&self.pass.work.input[chunk * n..][..n]);
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Embed {
                table,
                out,
                quantize,
            } => {
                let token = self.pass.work.tokens[chunk] as usize;
                // SAFETY: see the module's doc; row `chunk`.
                table.dequantize_row(token, unsafe { self.row_mut(*out, chunk, 0..width(*out)) });
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::RmsNorm {
                x,
                weight,
                eps,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                let x = self.read(*x, chunk).chunks_exact(weight.len());
                for (x, y) in x.zip(y.chunks_exact_mut(weight.len())) {
                    (self.core.kernels.rms_norm)(x, weight, *eps, y);
                }
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                (self.core.kernels.layer_norm)(self.read(*x, chunk), (weight, bias), *eps, y);
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Map {
                x,
                function,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*x, chunk));
                match *function {
                    Function::Scale(factor) => (self.core.kernels.scale)(y, factor),
                    Function::Gelu => (self.core.kernels.gelu)(y),
                    Function::SoftCap(cap) => (self.core.kernels.soft_cap)(y, cap),
                }
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Add {
                a,
                b,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*a, chunk));
                (self.core.kernels.add)(y, self.read(*b, chunk));
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Gather { x, out, quantize } => {
                let row = self.pass.work.outputs[chunk] as usize;
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*x, row));
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Quantize { slot } => self.quantize_row(*slot, chunk, true),
            Step::MatMul { x, parts } => {
                let mut chunk = chunk;
                for part in parts {
                    let n_chunks = part.matrix.n_chunks(amount);
                    if chunk < n_chunks {
                        return self.matmul_chunk(*x, part, chunk, scratch);
                    }
                    chunk -= n_chunks;
                }
            }
            Step::Gated {
                x,
                gate,
                up,
                activation,
                out,
                quantize,
                is_grouped,
            } => {
                let (n_chunks, len) = (gate[0].n_chunks(amount), gate[0].chunk_rows(amount));
                let columns = gate[0].rows_of(chunk % n_chunks, amount);
                let (expert, x_rows) = match is_grouped {
                    false => (0, 0..self.n_rows(*x)),
                    true => match self.expert_rows(chunk / n_chunks) {
                        Some(expert) => expert,
                        None => return,
                    },
                };
                let (gate, up) = (&gate[expert], &up[expert]);
                let buf = &self.pass.slots[*out].f32;
                let gate_out = Target {
                    buf,
                    width: width(*out),
                    first: columns.start,
                    first_row: x_rows.start,
                };
                let up_buf = &scratch.up;
                let up_out = Target {
                    buf: up_buf,
                    width: len,
                    first: 0,
                    first_row: 0,
                };
                let x = (*x, x_rows.clone());
                // SAFETY: see the module's doc; these columns of these rows, and this thread's memory.
                unsafe {
                    self.product(
                        gate,
                        x.clone(),
                        columns.clone(),
                        &mut scratch.products,
                        &gate_out,
                    );
                    self.product(up, x, columns.clone(), &mut scratch.products, &up_out);
                }
                for (i, row) in x_rows.enumerate() {
                    // SAFETY: as above.
                    let (y, up) = unsafe {
                        let up = up_buf.get(i * len..i * len + columns.len());
                        (self.row_mut(*out, row, columns.clone()), up)
                    };
                    self.activate(*activation, y, up);
                    if *quantize {
                        // SAFETY: as above.
                        unsafe { self.quantize(*out, row, columns.clone()) };
                    }
                }
            }
            Step::Route {
                scores,
                n_used,
                normalizes,
            } => {
                let all = chunk * n_used..(chunk + 1) * n_used;
                // SAFETY: see the module's doc; what is kept of this row.
                let (chosen, shares) = unsafe {
                    let chosen = self.pass.routing.chosen.get_mut(all.clone());
                    (chosen, self.pass.routing.shares.get_mut(all))
                };
                (self.core.kernels.route)(self.read(*scores, chunk), *normalizes, chosen, shares);
            }
            Step::GroupByExpert { scores, n_used } => {
                self.group_by_expert(width(*scores), self.n_rows(*scores), *n_used);
            }
            Step::Spread { x, out, quantize } => {
                // SAFETY: see the module's doc; written by an earlier step, and row `chunk`.
                let (source, y) = unsafe {
                    let source = self.pass.routing.sources.get(chunk..chunk + 1)[0] as usize;
                    (source, self.row_mut(*out, chunk, 0..width(*out)))
                };
                y.copy_from_slice(self.read(*x, source));
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::ExpertMatMul { x, matrices, out } => {
                let n_chunks = matrices[0].n_chunks(amount);
                let Some((expert, x_rows)) = self.expert_rows(chunk / n_chunks) else {
                    return;
                };
                let rows = matrices[0].rows_of(chunk % n_chunks, amount);
                let target = Target {
                    buf: &self.pass.slots[*out].f32,
                    width: width(*out),
                    first: rows.start,
                    first_row: x_rows.start,
                };
                let scratch = &mut scratch.products;
                // SAFETY: see the module's doc; these columns of this expert's rows.
                unsafe { self.product(&matrices[expert], (*x, x_rows), rows, scratch, &target) };
            }
            Step::Combine {
                x,
                n_used,
                out,
                quantize,
            } => {
                let all = chunk * n_used..(chunk + 1) * n_used;
                // SAFETY: see the module's doc; written by earlier steps, and row `chunk`.
                let (places, shares, y) = unsafe {
                    let places = self.pass.routing.places.get(all.clone());
                    let y = self.row_mut(*out, chunk, 0..width(*out));
                    (places, self.pass.routing.shares.get(all), y)
                };
                y.fill(0.0);
                for (place, share) in places.iter().zip(shares) {
                    (self.core.kernels.add_share)(y, self.read(*x, *place as usize), *share);
                }
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Gate {
                x,
                by,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*x, chunk));
                (self.core.kernels.gate)(y, self.read(*by, chunk)[0]);
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Store { spec, slots } => self.store(spec, slots, chunk),
            Step::Attend {
                spec,
                slots,
                sinks,
                quantize,
            } => self.attend((spec, slots), sinks.as_deref(), *quantize, chunk, scratch),
        }
    }

    /// The `index`-th expert that some row goes through, and its grouped rows.
    pub(super) fn expert_rows(&self, index: usize) -> Option<(usize, Range<usize>)> {
        // SAFETY: see the module's doc; written by an earlier step.
        let (spans, n) = unsafe {
            let n = self.pass.routing.n_spans.get(0..1)[0] as usize;
            (self.pass.routing.spans.get(0..3 * n), n)
        };
        (index < n).then(|| {
            let span = &spans[3 * index..3 * index + 3];
            (span[0] as usize, span[1] as usize..span[2] as usize)
        })
    }

    /// Gives every choice of every row a place among the rows that are grouped by expert.
    fn group_by_expert(&self, n_experts: usize, n_rows: usize, n_used: usize) {
        let n = n_rows * n_used;
        let routing = &self.pass.routing;
        // SAFETY: see the module's doc; this step has one chunk.
        let (chosen, places, sources, spans, n_spans) = unsafe {
            (
                routing.chosen.get(0..n),
                routing.places.get_mut(0..n),
                routing.sources.get_mut(0..n),
                routing.spans.get_mut(0..3 * n_experts),
                &mut routing.n_spans.get_mut(0..1)[0],
            )
        };
        let mut next = vec![0u32; n_experts]; // how many rows, then the next one's place
        for &expert in chosen {
            next[expert as usize] += 1;
        }
        let (mut first, mut index) = (0, 0);
        for (expert, next) in next.iter_mut().enumerate() {
            let end = first + *next;
            if *next > 0 {
                spans[3 * index..3 * index + 3].copy_from_slice(&[expert as u32, first, end]);
                index += 1;
            }
            *next = first;
            first = end;
        }
        *n_spans = index as u32;
        for (i, (&expert, place)) in chosen.iter().zip(places).enumerate() {
            *place = next[expert as usize];
            next[expert as usize] += 1;
            sources[*place as usize] = (i / n_used) as u32;
        }
    }

    /// `gate = activation(gate, up)`.
    fn activate(&self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        match activation {
            Activation::Silu => (self.core.kernels.silu_mul)(gate, up),
            Activation::Gelu => (self.core.kernels.gelu_mul)(gate, up),
            Activation::ClampedSwiglu { alpha, limit } => {
                (self.core.kernels.clamped_swiglu)(gate, up, (alpha, limit));
            }
        }
    }

    fn quantize_row(&self, slot: Slot, row: usize, wanted: bool) {
        if wanted {
            // SAFETY: only called by chunks that own the whole row.
            unsafe { self.quantize(slot, row, 0..self.core.plan.slots[slot].width) };
        }
    }

    /// Rows `rows` of `matrix`, those of one chunk, times rows of slot `x`, and the bias.
    ///
    /// # Safety
    /// `out` has columns for these rows that belong to the chunk alone.
    unsafe fn product(
        &self,
        matrix: &Matrix,
        (x, x_rows): (Slot, Range<usize>),
        rows: Range<usize>,
        scratch: &mut ProductScratch,
        out: &Target<'_>,
    ) {
        let Matrix {
            weight,
            kernel,
            bias,
            ..
        } = matrix;
        let row_bytes = weight.row_bytes();
        let bytes = &weight.bytes()[rows.start * row_bytes..rows.end * row_bytes];
        let n_rows = x_rows.len();
        let out_rows = out.first_row..out.first_row + n_rows;
        let columns = out.first..out.first + rows.len();
        // SAFETY: the caller's promise.
        let mut tile = unsafe { out.buf.tile(out_rows, out.width, columns) };
        let SlotMemory {
            f32,
            quant,
            tiles,
            int16,
            words,
        } = &self.pass.slots[x];
        let SlotShape {
            width,
            n_quants,
            n_planes,
            n_words,
            ..
        } = self.core.plan.slots[x];
        match (kernel, self.tiles(tiles), self.int16(int16, n_rows)) {
            (MatrixKernel::Group(kernel), Some((kernels, tiles)), _) => {
                let own = scratch.tiles.as_mut().expect("there are tiles");
                let own = (&mut scratch.panels, own);
                // SAFETY: see the module's doc; nobody writes to a slot that a step reads.
                let x = unsafe { tiles.rows(x_rows) };
                (kernels.product)(kernel, (bytes, row_bytes), &x, own, &mut tile);
            }
            (MatrixKernel::Group(kernel), None, _) => {
                let quant = quant.as_ref().expect("lowered with a quantized twin");
                // SAFETY: as above.
                let x = unsafe { quant.rows(n_quants * x_rows.start..n_quants * x_rows.end) };
                if n_quants == FINE {
                    let n = rows.len();
                    // SAFETY: this thread's alone.
                    let mut both = unsafe { scratch.fine.tile(0..x.n_rows, n, 0..n) };
                    kernel.product((bytes, row_bytes), &x, &mut scratch.panels, &mut both);
                    for row in 0..n_rows {
                        tile.row(row).copy_from_slice(both.row(FINE * row));
                        (self.core.kernels.add)(tile.row(row), both.row(FINE * row + 1));
                    }
                } else {
                    kernel.product((bytes, row_bytes), &x, &mut scratch.panels, &mut tile);
                }
            }
            (
                MatrixKernel::Float(
                    kind @ (FloatKind::F16 | FloatKind::Bf16 | FloatKind::Bf16Rounded),
                ),
                Some((kernels, tiles)),
                _,
            ) if n_planes == 2 => {
                let own = scratch.tiles.as_mut().expect("there are tiles");
                // SAFETY: as above.
                let x = unsafe { tiles.rows(x_rows) };
                let is_f16 = *kind == FloatKind::F16;
                (kernels.float_product)(is_f16, (bytes, row_bytes), &x, own, &mut tile);
            }
            (MatrixKernel::Float(FloatKind::F16), _, Some((kernels, int16))) => {
                // SAFETY: as above.
                let x = unsafe { int16.rows(x_rows) };
                let panels = &mut scratch.panels;
                kernels
                    .f16
                    .product((bytes, row_bytes), &x, panels, &mut tile);
            }
            (MatrixKernel::Float(kind), ..) => {
                let (buf, width) = match kind {
                    FloatKind::Bf16Rounded => (words, n_words),
                    _ => (f32, width),
                };
                // SAFETY: as above.
                let x = unsafe { buf.get(x_rows.start * width..x_rows.end * width) };
                (self.core.kernels.float_matmul)(
                    (*kind, bytes),
                    (x, width),
                    &mut scratch.floats,
                    &mut tile,
                );
            }
        }
        if let Some(bias) = bias {
            for row in 0..n_rows {
                (self.core.kernels.add)(tile.row(row), &bias[rows.clone()]);
            }
        }
    }

    fn matmul_chunk(&self, x: Slot, part: &Part, chunk: usize, scratch: &mut Scratch) {
        let Part {
            matrix,
            residual,
            out,
            quantize,
        } = part;
        let rows = matrix.rows_of(chunk, self.amount());
        let width = self.core.plan.slots[*out].width;
        let target = Target {
            buf: &self.pass.slots[*out].f32,
            width,
            first: rows.start,
            first_row: 0,
        };
        let all = 0..self.n_rows(x);
        // SAFETY: see the module's doc; columns `rows`.
        unsafe {
            self.product(
                matrix,
                (x, all),
                rows.clone(),
                &mut scratch.products,
                &target,
            )
        };
        if residual.is_none() && !quantize {
            return;
        }
        for row in 0..self.n_rows(x) {
            // SAFETY: see the module's doc; columns `rows`.
            let y = unsafe { self.row_mut(*out, row, rows.clone()) };
            if let Some(residual) = residual {
                (self.core.kernels.add)(y, &self.read(*residual, row)[rows.clone()]);
            }
            if *quantize {
                // SAFETY: see the module's doc; columns `rows`.
                unsafe { self.quantize(*out, row, rows.clone()) };
            }
        }
    }

    /// Turns queries and keys of some tokens of one block, and puts keys and values there, all
    /// multiplied by a Hadamard matrix where the cache's types want it.
    fn store(&self, spec: &Attention, slots: &AttentionSlots, chunk: usize) {
        let (sequence, first, n) = self.pass.work.block_spans[chunk];
        let blocks = &self.pass.work.sequences[sequence].1;
        let cache = &self.core.caches[spec.layer];
        let head_dim = spec.head_dim;
        let [k_len, v_len] = [&cache.k, &cache.v].map(|tiles| tiles.kv_type.hadamard_len(head_dim));
        for row in first..first + n {
            // SAFETY: see the module's doc; rows of this chunk's tokens.
            let [q, k, v] = unsafe {
                [
                    (slots.q, spec.n_heads),
                    (slots.k, spec.n_kv_heads),
                    (slots.v, spec.n_kv_heads),
                ]
                .map(|(slot, n_heads)| self.row_mut(slot, row, 0..n_heads * head_dim))
            };
            if let Some(rope) = slots.rope {
                let index = rope.0 as usize;
                let (rope, turns) = (&self.core.ropes[index], &self.pass.turns[index]);
                let len = 2 * rope.inv_freq.len();
                // SAFETY: written by the first step, read-only since.
                let turns = unsafe { turns.get(row * len..(row + 1) * len) };
                for head in q
                    .chunks_exact_mut(head_dim)
                    .chain(k.chunks_exact_mut(head_dim))
                {
                    (self.core.kernels.rotate)(head, turns, rope.pairing);
                }
            }
            (self.core.kernels.hadamard)(q, k_len);
            (self.core.kernels.hadamard)(k, k_len);
            (self.core.kernels.hadamard)(v, v_len);
            let position = self.pass.work.positions[row];
            let block = blocks[position / KV_BLOCK_LEN] as usize;
            for head in 0..spec.n_kv_heads {
                let tile = |tiles: &TileBuf| {
                    let at = (head * self.core.limits.n_kv_blocks + block) * tiles.tile_bytes;
                    at..at + tiles.tile_bytes
                };
                // SAFETY: see the module's doc; a block that a batch writes to belongs to one
                // sequence, and its tokens in this block are all in this chunk.
                let (k_tile, v_tile) = unsafe {
                    (
                        cache.k.buf.get_mut(tile(&cache.k)),
                        cache.v.buf.get_mut(tile(&cache.v)),
                    )
                };
                let head = head * head_dim..(head + 1) * head_dim;
                (self.core.kernels.store_key)(cache.k.kv_type, &k[head.clone()], k_tile, position);
                let at = (position, cache.dim);
                (self.core.kernels.store_value)(cache.v.kv_type, &v[head], v_tile, at);
            }
        }
    }

    /// The query heads of one key/value head, for some tokens and units of positions.
    fn attend(
        &self,
        (spec, slots): (&Attention, &AttentionSlots),
        sinks: Option<&[f32]>,
        quantize: bool,
        chunk: usize,
        scratch: &mut Scratch,
    ) {
        let (part, kv_head) = (chunk / spec.n_kv_heads, chunk % spec.n_kv_heads);
        let part = &self.pass.work.query_parts[part];
        let n_shared = spec.n_heads / spec.n_kv_heads;
        let mut out = Attended {
            spec,
            slots,
            heads: kv_head * n_shared..(kv_head + 1) * n_shared,
            rows: part.first..part.first + part.n,
            weights: vec![Weight::NONE; part.n * n_shared],
        };
        let len = out.weights.len() * (spec.head_dim + 2);
        match part.cut {
            None => {
                let result = &mut scratch.unit_result[..len];
                for unit in part.units.clone() {
                    self.attend_unit(&out, (part, kv_head), unit, result);
                    self.merge(&mut out, unit, result);
                }
            }
            Some(cut) => {
                let result = |unit: usize| {
                    let unit = (cut.at + unit * part.n) * spec.n_heads * (spec.head_dim + 2);
                    unit + kv_head * len..unit + (kv_head + 1) * len
                };
                let unit = part.units.start;
                // SAFETY: see the module's doc; the results of this chunk's unit and head.
                let mine = unsafe { self.pass.unit_results.get_mut(result(unit)) };
                self.attend_unit(&out, (part, kv_head), unit, mine);
                let ended =
                    &self.pass.work.ended[cut.index * self.core.plan.max_kv_heads + kv_head];
                // Each layer adds as many. What the others wrote is seen by the last.
                let n_ended = ended.fetch_add(1, Ordering::AcqRel) + 1;
                if !n_ended.is_multiple_of(cut.n_units) {
                    return;
                }
                for unit in 0..cut.n_units {
                    // SAFETY: all chunks that write them have ended.
                    let result = unsafe { self.pass.unit_results.get(result(unit)) };
                    self.merge(&mut out, unit, result);
                }
            }
        }
        let columns = out.heads.start * spec.head_dim..out.heads.end * spec.head_dim;
        let v_type = self.core.caches[spec.layer].v.kv_type;
        let v_len = v_type.hadamard_len(spec.head_dim);
        for (row, weights) in out.rows.zip(out.weights.chunks_exact(n_shared)) {
            // SAFETY: see the module's doc; the columns of these rows are this chunk's, or of
            // the last of the chunks that share them.
            let mixed = unsafe { self.row_mut(slots.out, row, columns.clone()) };
            let heads = mixed.chunks_exact_mut(spec.head_dim).zip(weights);
            for ((mix, weight), head) in heads.zip(out.heads.clone()) {
                weight.finish(mix, sinks.map(|sinks| sinks[head]));
            }
            (self.core.kernels.hadamard)(mixed, v_len);
            if quantize {
                // SAFETY: as above; whole groups by the lowering.
                unsafe { self.quantize(slots.out, row, columns.clone()) };
            }
        }
    }

    /// Puts into `result`, for each token and head, what the positions of a unit mix, and then what
    /// they weigh.
    fn attend_unit(
        &self,
        out: &Attended<'_>,
        (part, kv_head): (&QueryPart, usize),
        unit: usize,
        result: &mut [f32],
    ) {
        let (spec, cache) = (out.spec, &self.core.caches[out.spec.layer]);
        let tiles = |tiles: &TileBuf| {
            let len = self.core.limits.n_kv_blocks * tiles.tile_bytes;
            kv_head * len..(kv_head + 1) * len
        };
        // SAFETY: see the module's doc; nobody writes to the cache in this step.
        let (k, v) = unsafe {
            (
                cache.k.buf.get(tiles(&cache.k)),
                cache.v.buf.get(tiles(&cache.v)),
            )
        };
        let cache = HeadCache {
            k: Tiles {
                kv_type: cache.k.kv_type,
                bytes: k,
            },
            v: Tiles {
                kv_type: cache.v.kv_type,
                bytes: v,
            },
            dim: cache.dim,
            blocks: &self.pass.work.sequences[part.sequence].1,
            scale: spec.scale,
            soft_cap: spec.soft_cap,
        };
        let (mixes, weights) = result.split_at_mut(out.weights.len() * spec.head_dim);
        let mut mixes = mixes.chunks_exact_mut(spec.head_dim);
        let mut rows = Vec::with_capacity(out.weights.len());
        for row in out.rows.clone() {
            let q = self.read(out.slots.q, row).chunks_exact(spec.head_dim);
            let q = q.skip(out.heads.start).take(out.heads.len());
            rows.extend(q.zip(&mut mixes).map(|(q, mix)| QueryRow {
                q,
                seen: self.seen(spec, row),
                mix,
                weight: Weight::NONE,
            }));
        }
        (self.core.kernels.attend)(&cache, unit * UNIT, &mut rows);
        for (weight, row) in weights.as_chunks_mut().0.iter_mut().zip(rows) {
            *weight = [row.weight.max, row.weight.sum];
        }
    }

    /// The positions that a token sees.
    pub(super) fn seen(&self, spec: &Attention, row: usize) -> Range<usize> {
        spec.seen(self.pass.work.positions[row])
    }

    /// Adds what the positions of a unit gave, those after the units before.
    fn merge(&self, out: &mut Attended<'_>, unit: usize, result: &[f32]) {
        let (head_dim, n_heads) = (out.spec.head_dim, out.heads.len());
        let (mixes, weights) = result.split_at(out.weights.len() * head_dim);
        let new = weights
            .as_chunks()
            .0
            .iter()
            .zip(mixes.chunks_exact(head_dim));
        for (i, ((&[max, sum], new_mix), weight)) in new.zip(&mut out.weights).enumerate() {
            let (row, head) = (out.rows.start + i / n_heads, out.heads.start + i % n_heads);
            let seen = self.seen(out.spec, row);
            if unit * UNIT >= seen.end || (unit + 1) * UNIT <= seen.start {
                continue;
            }
            // SAFETY: see the module's doc; the columns of this row are this chunk's, or of
            // the last of the chunks that share them.
            let mix =
                unsafe { self.row_mut(out.slots.out, row, head * head_dim..(head + 1) * head_dim) };
            let new = Weight { max, sum };
            if seen.start / UNIT == unit {
                mix.copy_from_slice(new_mix);
                *weight = new;
            } else {
                weight.merge(mix, (new, new_mix));
            }
        }
    }
}

/// Where attention's results for some tokens and heads go, and what they weigh so far.
struct Attended<'a> {
    spec: &'a Attention,
    slots: &'a AttentionSlots,
    heads: Range<usize>,
    rows: Range<usize>,
    weights: Vec<Weight>, // [row][head]
}
