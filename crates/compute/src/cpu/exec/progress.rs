//! How threads share a step's chunks, and the weights that each of them will read.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cpu::lower::{Matrix, MatrixKernel, Part, Plan, Step};
use crate::cpu::ops::Amount;
use crate::cpu::ops::ahead::{self, Order};
use crate::cpu::simd::LANES;

/// How far a step is. A line of the cache for each number that threads write, so that they don't
/// disturb each other.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) n_chunks: usize,
    /// Of each thread's share of the chunks, the next one.
    pub(super) next: Vec<Line>,
    pub(super) done: Line,
}

#[repr(align(64))]
#[derive(Default)]
pub(super) struct Line(pub(super) AtomicUsize);

impl Progress {
    pub(super) fn new(n_threads: usize) -> Progress {
        Progress {
            next: std::iter::repeat_with(Line::default)
                .take(n_threads)
                .collect(),
            ..Progress::default()
        }
    }

    /// The next chunk for a thread, and whether it is of its own share, which goes first: so a thread
    /// reads weights that lie beside each other. The shares of others are for those that are done.
    pub(super) fn claim(&self, worker: usize) -> Option<(usize, bool)> {
        let n_threads = self.next.len();
        (0..n_threads).find_map(|i| {
            let of = (worker + i) % n_threads;
            let (next, end) = (&self.next[of].0, share(self.n_chunks, of, n_threads).end);
            if next.load(Ordering::Relaxed) >= end {
                return None;
            }
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            (chunk < end).then_some((chunk, i == 0))
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.done.0.load(Ordering::Acquire) >= self.n_chunks
    }

    pub(super) fn reset(&mut self, n_chunks: usize) {
        self.n_chunks = n_chunks;
        *self.done.0.get_mut() = 0;
        let n_threads = self.next.len();
        for (i, next) in self.next.iter_mut().enumerate() {
            *next.0.get_mut() = share(n_chunks, i, n_threads).start;
        }
    }
}

/// The chunks that one of some threads begins with.
pub(super) fn share(n_chunks: usize, thread: usize, n_threads: usize) -> Range<usize> {
    n_chunks * thread / n_threads..n_chunks * (thread + 1) / n_threads
}

/// The quantized weights that a thread reads in its own shares of all steps, with so many tokens;
/// but for experts, which are chosen late.
pub(super) fn weights_in_order(
    plan: &Plan,
    amount: Amount,
    thread: usize,
    n_threads: usize,
) -> Order {
    let mut parts: Vec<ahead::Part> = Vec::new();
    let mut firsts = Vec::new();
    for step in &plan.steps {
        let first = parts.len();
        firsts.push(first);
        let mut add = |matrix: &Matrix, rows: Range<usize>| {
            let start = matrix.weight.bytes().as_ptr().addr();
            let row_bytes = matrix.weight.row_bytes();
            let stream_bytes = matrix.chunk_rows(amount) / LANES * row_bytes;
            let bytes = start + rows.start * row_bytes..start + rows.end * row_bytes;
            match parts[first..].last_mut() {
                _ if !matches!(matrix.kernel, MatrixKernel::Group(_)) => {}
                Some(last)
                    if last.bytes.end == bytes.start && last.stream_bytes == stream_bytes =>
                {
                    last.bytes.end = bytes.end;
                }
                _ => parts.push(ahead::Part {
                    bytes,
                    stream_bytes,
                }),
            }
        };
        match step {
            Step::MatMul { parts, .. } => {
                let chunks = parts.iter().flat_map(|Part { matrix, .. }| {
                    let rows = move |chunk| (matrix, matrix.rows_of(chunk, amount));
                    (0..matrix.n_chunks(amount)).map(rows)
                });
                let chunks: Vec<_> = chunks.collect();
                for (matrix, rows) in &chunks[share(chunks.len(), thread, n_threads)] {
                    add(matrix, rows.clone());
                }
            }
            Step::Gated {
                gate,
                up,
                is_grouped: false,
                ..
            } => {
                for chunk in share(gate[0].n_chunks(amount), thread, n_threads) {
                    let rows = gate[0].rows_of(chunk, amount);
                    add(&gate[0], rows.clone());
                    add(&up[0], rows);
                }
            }
            _ => {}
        }
    }
    Order::new(parts, firsts)
}
