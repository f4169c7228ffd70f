//! What an execution will take, computed without taking it.

use crate::backend::{BackendError, Limits, Memory, OnDevice};
use crate::cpu::kernels::{FastKernels, Kernels};
use crate::cpu::lower::{FINE, Plan, lower};
use crate::cpu::ops::float_matmul::FloatScratch;
use crate::cpu::ops::group_matmul::Panels;
use crate::cpu::ops::int16::Int16Buf;
use crate::cpu::ops::quantize::QuantBuf;
use crate::cpu::ops::tile_matmul::{TileScratch, TokenTiles};
use crate::kv::kv_block_bytes;
use crate::program::{Program, Rows};

use super::{QUERY_TOKENS, max_cut_units};

/// The same numbers as the loaded execution's; the largest number where they overflow.
pub(in crate::cpu) fn plan(
    program: &Program,
    kernels: (&Kernels, Option<FastKernels>),
    n_threads: usize,
    limits: &Limits,
) -> Result<Memory, BackendError> {
    let plan = lower(program, kernels, n_threads);
    let max_rows = limits.max_tokens.max(limits.max_outputs);
    let thread = (Panels::BYTES + FloatScratch::BYTES)
        .saturating_add(product(&[plan.max_chunk(max_rows), 4]))
        .saturating_add(product(&[plan.max_chunk(limits.max_outputs), FINE, 4]))
        .saturating_add(product(&[QUERY_TOKENS, plan.max_unit_result, 4]))
        .saturating_add(match plan.uses_tiles() {
            true => TileScratch::bytes_for(max_rows),
            false => 0,
        });
    let parts = [
        product(&[n_threads, thread]),
        pass_bytes(
            &plan,
            program,
            (limits.max_tokens, limits.max_outputs),
            limits,
        ),
        pass_bytes(
            &plan,
            program,
            (limits.max_between, limits.max_between),
            limits,
        ),
    ];
    let block_bytes = kv_block_bytes(&program.kv, limits.kv_types)?;
    Ok(Memory {
        kv_bytes: limits.n_kv_blocks.saturating_mul(block_bytes),
        scratch_bytes: parts.into_iter().fold(0, usize::saturating_add),
        device: OnDevice::default(),
    })
}

/// Memory for batches of at most so many tokens and outputs.
fn pass_bytes(
    plan: &Plan,
    program: &Program,
    (max_tokens, max_outputs): (usize, usize),
    limits: &Limits,
) -> usize {
    let slots = plan.slots.iter().map(|shape| {
        let n_rows = match shape.rows {
            Rows::Tokens => max_tokens,
            Rows::Outputs => max_outputs,
        };
        let len = product(&[n_rows, shape.copies, shape.width]);
        let quant = QuantBuf::bytes_for(len.saturating_mul(shape.n_quants));
        let tiles = match plan.has_tiles(shape, max_tokens) {
            true => {
                let n_rows = n_rows.saturating_mul(shape.copies);
                TokenTiles::bytes_for(n_rows, shape.width, shape.n_planes)
            }
            false => 0,
        };
        let int16 = match plan.has_int16(shape, max_tokens) {
            true => Int16Buf::bytes_for(len),
            false => 0,
        };
        let words = product(&[n_rows, shape.copies, shape.n_words, 4]);
        [len.saturating_mul(4), quant, tiles, int16, words]
            .into_iter()
            .fold(0, usize::saturating_add)
    });
    let turns = program
        .ropes
        .iter()
        .map(|rope| product(&[max_tokens, 2 * rope.inv_freq.len(), 4]));
    let units = product(&[max_cut_units(max_tokens, limits), plan.max_unit_result, 4]);
    let (n_experts, n_used) = plan.max_experts;
    // Four numbers for each copy of a row, three for each expert, and one.
    let routing = product(&[4, max_tokens.max(max_outputs), n_used, 4])
        .saturating_add(4 * (3 * n_experts + 1));
    let parts = slots.chain(turns).chain([routing, units]);
    parts.fold(0, usize::saturating_add)
}

fn product(factors: &[usize]) -> usize {
    factors.iter().fold(1, |n, f| n.saturating_mul(*f))
}
