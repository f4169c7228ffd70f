//! The reference backend: plain loops over f32, to be read top to bottom; the truth that every
//! other backend is judged by. It is never tuned.
//!
//! Weights are turned into f32 when a program is loaded, and all arithmetic is f32. The KV cache
//! holds the bytes of its data types, and is turned into f32 whenever it is read.

use std::ops::Range;

use crate::backend::{
    Backend, BackendError, Batch, DeviceError, Executable, KV_BLOCK_LEN, Limits, Memory, OnDevice,
    ProgramWidths,
};
use crate::dtype::DType;
use crate::kv::{KvType, kv_block_bytes};
use crate::program::{
    Activation, Attention, Biased, BufId, Experts, Function, KvShape, Op, Pairing, Program, Rope,
    WeightId,
};

/// Runs programs with plain loops, on one thread.
#[derive(Debug, Default)]
pub struct ReferenceBackend;

impl Backend for ReferenceBackend {
    fn description(&self) -> String {
        "reference (plain f32 loops)".into()
    }

    fn kernel(&self, _dtype: DType) -> String {
        "f32 loops".into()
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        let width: usize = program.buffers.iter().map(|b| b.width).sum();
        let block_bytes = kv_block_bytes(&program.kv, limits.kv_types)?;
        Ok(Memory {
            kv_bytes: limits.n_kv_blocks.saturating_mul(block_bytes),
            scratch_bytes: limits.max_tokens.saturating_mul(4 * width),
            device: OnDevice::default(),
        })
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        let weights = program.weights.iter().map(|w| w.to_f32()).collect();
        let buffers = vec![Vec::new(); program.buffers.len()];
        let kv_types = limits.kv_types;
        kv_block_bytes(&program.kv, kv_types)?;
        let cache = program.kv.iter().map(|shape| LayerCache {
            k: HeadRows::zeroed(kv_types.k, shape, limits.n_kv_blocks),
            v: HeadRows::zeroed(kv_types.v, shape, limits.n_kv_blocks),
        });
        let cache = cache.collect();
        Ok(Box::new(Reference {
            program,
            limits,
            weights,
            buffers,
            cache,
        }))
    }
}

struct Reference {
    program: Program,
    limits: Limits,
    weights: Vec<Vec<f32>>,
    buffers: Vec<Vec<f32>>, // one for each BufId, [n_rows, width]
    cache: Vec<LayerCache>,
}

/// Keys and values of one layer.
struct LayerCache {
    k: HeadRows,
    v: HeadRows,
}

/// Keys or values of one layer, `[slot][n_kv_heads]` rows of bytes of `head_dim` elements; the slot
/// of position p is `blocks[p / KV_BLOCK_LEN] * KV_BLOCK_LEN + p % KV_BLOCK_LEN`.
struct HeadRows {
    kv_type: KvType,
    head_dim: usize,
    head_bytes: usize,
    n_heads: usize,
    bytes: Vec<u8>,
}

impl HeadRows {
    fn zeroed(kv_type: KvType, shape: &KvShape, n_blocks: usize) -> HeadRows {
        let head_bytes = kv_type.head_bytes(shape.head_dim);
        let head_bytes = head_bytes.expect("checked for every layer");
        HeadRows {
            kv_type,
            head_dim: shape.head_dim,
            head_bytes,
            n_heads: shape.n_kv_heads,
            bytes: vec![0; n_blocks * KV_BLOCK_LEN * shape.n_kv_heads * head_bytes],
        }
    }

    /// Where a head of a slot lies, without what pads it.
    fn place(&self, slot: usize, head: usize) -> Range<usize> {
        let n_bytes = self.kv_type.dtype().row_bytes(self.head_dim);
        let at = (slot * self.n_heads + head) * self.head_bytes;
        at..at + n_bytes.expect("checked when loaded")
    }

    fn store(&mut self, slot: usize, x: &[f32]) {
        let x = hadamard(x, self.kv_type.hadamard_len(self.head_dim));
        for (head, x) in x.chunks(self.head_dim).enumerate() {
            let place = self.place(slot, head);
            self.kv_type.quantize_row(x, &mut self.bytes[place]);
        }
    }

    /// What was put into the slots, `[n_slots, n_heads * head_dim]`.
    fn read(&self, slots: impl Iterator<Item = usize>) -> Vec<f32> {
        let (dtype, mut head_out) = (self.kv_type.dtype(), vec![0.0; self.head_dim]);
        let mut out = Vec::new();
        for slot in slots {
            for head in 0..self.n_heads {
                dtype.dequantize_row(&self.bytes[self.place(slot, head)], &mut head_out);
                out.extend_from_slice(&head_out);
            }
        }
        hadamard(&out, self.kv_type.hadamard_len(self.head_dim))
    }
}

impl Executable for Reference {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        batch.check(&self.limits, &ProgramWidths::of(&self.program));
        for i in 0..self.program.ops.len() {
            match self.program.ops[i].clone() {
                Op::Input { out } => self.buffers[out.0 as usize] = batch.input.to_vec(),
                Op::Embed { table, out } => self.embed(batch, table, out),
                Op::RmsNorm {
                    x,
                    weight,
                    eps,
                    out,
                } => {
                    let x = self.rows(x);
                    let weight = self.weight(weight);
                    let y = x
                        .chunks(weight.len())
                        .flat_map(|row| rms_norm(row, weight, eps));
                    self.buffers[out.0 as usize] = y.collect();
                }
                Op::LayerNorm {
                    x,
                    weight,
                    bias,
                    eps,
                    out,
                } => {
                    let x = self.rows(x);
                    let (weight, bias) = (self.weight(weight), self.weight(bias));
                    let y = x
                        .chunks(weight.len())
                        .flat_map(|row| layer_norm(row, weight, bias, eps));
                    self.buffers[out.0 as usize] = y.collect();
                }
                Op::Map { x, function, out } => {
                    let y = self.rows(x).iter().map(|x| apply(function, *x));
                    self.buffers[out.0 as usize] = y.collect();
                }
                Op::Add { a, b, out } => {
                    let mut y = self.rows(a).to_vec();
                    add(&mut y, self.rows(b));
                    self.buffers[out.0 as usize] = y;
                }
                Op::MatMul { x, parts } => {
                    for part in parts {
                        let mut y = self.product(self.rows(x), (part.weight, part.bias));
                        if let Some(residual) = part.residual {
                            add(&mut y, self.rows(residual));
                        }
                        self.buffers[part.out.0 as usize] = y;
                    }
                }
                Op::GatedMatMul {
                    x,
                    gate,
                    up,
                    activation,
                    out,
                } => {
                    let y = self.gated(self.rows(x), gate, up, activation);
                    self.buffers[out.0 as usize] = y;
                }
                Op::Experts(experts) => self.experts(&experts),
                Op::Gate { x, by, out } => {
                    let rows = self.rows(x).chunks(self.width(x)).zip(self.rows(by));
                    let y = rows.flat_map(|(x, by)| {
                        let factor = 1.0 / (1.0 + (-by).exp());
                        x.iter().map(move |x| factor * x)
                    });
                    self.buffers[out.0 as usize] = y.collect();
                }
                Op::Attention(attention) => self.attention(batch, &attention),
                Op::Gather { x, out } => {
                    let width = self.width(x);
                    let rows = batch.outputs.iter().map(|&row| row as usize * width);
                    let y = rows
                        .flat_map(|at| &self.rows(x)[at..at + width])
                        .copied()
                        .collect();
                    self.buffers[out.0 as usize] = y;
                }
            }
        }
        Ok(self.rows(self.program.result))
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        assert!((from.max(to) as usize) < self.limits.n_kv_blocks, "block");
        for layer in &mut self.cache {
            for rows in [&mut layer.k, &mut layer.v] {
                let len = KV_BLOCK_LEN * rows.n_heads * rows.head_bytes;
                let (from, to) = (from as usize * len, to as usize * len);
                rows.bytes.copy_within(from..from + len, to);
            }
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn memory(&self) -> Memory {
        let memory = ReferenceBackend.plan(&self.program, self.limits);
        memory.expect("it was loaded")
    }
}

impl Reference {
    fn rows(&self, id: BufId) -> &[f32] {
        &self.buffers[id.0 as usize]
    }

    fn width(&self, id: BufId) -> usize {
        self.program.shape(id).width
    }

    fn weight(&self, id: WeightId) -> &[f32] {
        &self.weights[id.0 as usize]
    }

    /// `weight * x (+ bias)` for each row of x.
    fn product(&self, x: &[f32], (weight, bias): Biased) -> Vec<f32> {
        let row_len = self.program.weight(weight).row_len();
        let mut y = matmul(x, self.weight(weight), row_len);
        if let Some(bias) = bias {
            let bias = self.weight(bias);
            y.chunks_mut(bias.len()).for_each(|row| add(row, bias));
        }
        y
    }

    fn gated(&self, x: &[f32], gate: Biased, up: Biased, activation: Activation) -> Vec<f32> {
        let (gate, up) = (self.product(x, gate), self.product(x, up));
        let pairs = gate.iter().zip(&up);
        pairs.map(|(g, u)| activate(activation, *g, *u)).collect()
    }

    fn embed(&mut self, batch: &Batch<'_>, table: WeightId, out: BufId) {
        let width = self.width(out);
        let table = self.weight(table);
        let rows = batch
            .tokens
            .iter()
            .map(|&token| &table[token as usize * width..][..width]);
        self.buffers[out.0 as usize] = rows.flatten().copied().collect();
    }

    fn experts(&mut self, e: &Experts) {
        let (width, n_experts) = (self.width(e.x), self.width(e.scores));
        let mut out = vec![0.0; self.rows(e.x).len()];
        let rows = self
            .rows(e.x)
            .chunks(width)
            .zip(self.rows(e.scores).chunks(n_experts));
        for ((x, scores), out) in rows.zip(out.chunks_mut(width)) {
            let mut shares = scores.to_vec();
            softmax(&mut shares);
            let mut order: Vec<usize> = (0..n_experts).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order.truncate(e.n_used);
            let total: f32 = match e.normalizes {
                true => order.iter().map(|&i| shares[i]).sum(),
                false => 1.0,
            };
            for i in order {
                let [gate, up, down] = e.experts[i];
                let y = self.gated(x, gate, up, e.activation);
                for (out, y) in out.iter_mut().zip(self.product(&y, down)) {
                    *out += shares[i] / total * y;
                }
            }
        }
        self.buffers[e.out.0 as usize] = out;
    }

    fn attention(&mut self, batch: &Batch<'_>, a: &Attention) {
        let (dim, kv_width) = (a.head_dim, a.n_kv_heads * a.head_dim);
        let mut out = vec![0.0; batch.tokens.len() * a.n_heads * dim];
        let mut first_row = 0;
        for sequence in batch.sequences {
            let slot = |position: usize| {
                let block = sequence.blocks[position / KV_BLOCK_LEN] as usize;
                block * KV_BLOCK_LEN + position % KV_BLOCK_LEN
            };
            // Turn the new keys, and put them and the new values into the cache.
            for i in 0..sequence.n_tokens {
                let (row, position) = (first_row + i, sequence.start + i);
                let mut k = self.rows(a.k)[row * kv_width..][..kv_width].to_vec();
                if let Some(rope) = a.rope {
                    let rope = &self.program.ropes[rope.0 as usize];
                    k.chunks_mut(dim)
                        .for_each(|head| rotate(head, position, rope));
                }
                let v = self.buffers[a.v.0 as usize][row * kv_width..][..kv_width].to_vec();
                self.cache[a.layer].k.store(slot(position), &k);
                self.cache[a.layer].v.store(slot(position), &v);
            }
            // Each query sees the positions up to its own, or the last ones of them.
            let end = sequence.start + sequence.n_tokens;
            let k = self.cache[a.layer].k.read((0..end).map(slot));
            let v = self.cache[a.layer].v.read((0..end).map(slot));
            for i in 0..sequence.n_tokens {
                let (row, position) = (first_row + i, sequence.start + i);
                for head in 0..a.n_heads {
                    let at = (row * a.n_heads + head) * dim;
                    let kv_at = head / (a.n_heads / a.n_kv_heads) * dim;
                    let mut q = self.rows(a.q)[at..at + dim].to_vec();
                    if let Some(rope) = a.rope {
                        rotate(&mut q, position, &self.program.ropes[rope.0 as usize]);
                    }
                    let first = a.window.map_or(0, |n| (position + 1).saturating_sub(n));
                    let mut scores: Vec<f32> = (first..=position)
                        .map(|p| a.scale * dot(&q, &k[p * kv_width + kv_at..][..dim]))
                        .collect();
                    if let Some(cap) = a.soft_cap {
                        scores
                            .iter_mut()
                            .for_each(|x| *x = apply(Function::SoftCap(cap), *x));
                    }
                    if let Some(sinks) = a.sinks {
                        scores.push(self.weight(sinks)[head]);
                    }
                    softmax(&mut scores);
                    scores.truncate(position + 1 - first); // a sink has no value
                    for (p, score) in (first..).zip(&scores) {
                        let v = &v[p * kv_width + kv_at..][..dim];
                        out[at..at + dim]
                            .iter_mut()
                            .zip(v)
                            .for_each(|(o, v)| *o += score * v);
                    }
                }
            }
            first_row += sequence.n_tokens;
        }
        self.buffers[a.out.0 as usize] = out;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let x: Vec<f32> = x.iter().map(|x| x - mean).collect();
    let mut y = rms_norm(&x, weight, eps);
    add(&mut y, bias);
    y
}

/// `[n_tokens, width]` times the transpose of `[n_rows, width]`: `[n_tokens, n_rows]`.
fn matmul(x: &[f32], weight: &[f32], width: usize) -> Vec<f32> {
    let rows = |x: &[f32]| weight.chunks(width).map(|w| dot(w, x)).collect::<Vec<_>>();
    x.chunks(width).flat_map(rows).collect()
}

fn activate(activation: Activation, gate: f32, up: f32) -> f32 {
    match activation {
        Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
        Activation::Gelu => apply(Function::Gelu, gate) * up,
        Activation::ClampedSwiglu { alpha, limit } => {
            // Not `min`, which would drop what is not a number.
            let gate = if gate > limit { limit } else { gate };
            let up = up.clamp(-limit, limit);
            gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
        }
    }
}

fn apply(function: Function, x: f32) -> f32 {
    match function {
        Function::Scale(factor) => factor * x,
        Function::Gelu => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Function::SoftCap(cap) => cap * (x / cap).tanh(),
    }
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// Each `len` elements times the Hadamard matrix of that size.
fn hadamard(x: &[f32], len: usize) -> Vec<f32> {
    let factor = 1.0 / (len as f32).sqrt();
    let product = |x: &[f32], i: usize| {
        let signed = x
            .iter()
            .enumerate()
            .map(|(j, x)| match (i & j).count_ones() % 2 {
                0 => *x,
                _ => -x,
            });
        factor * signed.sum::<f32>()
    };
    let pieces = x.chunks(len);
    pieces
        .flat_map(|x| (0..len).map(|i| product(x, i)))
        .collect()
}

fn rotate(head: &mut [f32], position: usize, rope: &Rope) {
    let half = rope.inv_freq.len();
    for (i, inv_freq) in rope.inv_freq.iter().enumerate() {
        let (sin, cos) = (position as f64 * f64::from(*inv_freq)).sin_cos();
        let (sin, cos) = (sin as f32 * rope.magnitude, cos as f32 * rope.magnitude);
        let (i, j) = match rope.pairing {
            Pairing::Adjacent => (2 * i, 2 * i + 1),
            Pairing::Halves => (i, i + half),
        };
        let (a, b) = (head[i], head[j]);
        (head[i], head[j]) = (a * cos - b * sin, a * sin + b * cos);
    }
}
