//! Scratch memory: slots, which are used again once their readers are done.

use std::ops::Range;

use minerva_compute::{BufId, DType, Op, Rows};

use super::products::MUL_MM_FROM;
use super::{Lowering, PAD_BYTES, stride};
use crate::dtypes::snippet;
use crate::kernels::Form;

/// Index of a piece of scratch memory.
pub(crate) type Slot = usize;

/// How rows lie in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Plain,
    /// Turned for lanes with a group of elements each (`wgsl/interleave.wgsl`).
    Interleaved,
    /// Those of a few tokens as bytes (`wgsl/bytes.wgsl`), of many plain.
    Bytes,
    /// The same, but that what reads those of a few tokens has to divide them by their norm, whose epsilon
    /// has these bits: the product before the norm wrote them.
    BytesBeforeNorm(u32),
}

impl Lowering<'_> {
    /// The slot of a buffer that was written.
    pub(super) fn slot(&self, id: BufId) -> Slot {
        self.slot_of[id.index()].expect("buffers are written before they are read")
    }

    /// A slot for a buffer.
    pub(super) fn write(&mut self, id: BufId) -> Slot {
        if let Some(slot) = self.slot_of[id.index()] {
            return slot; // of a norm, that the product before began
        }
        let shape = self.program.shape(id);
        let slot = self.take(shape.rows, 1, shape.width);
        self.slot_of[id.index()] = Some(slot);
        self.layout_of[slot] = self.layout(id);
        slot
    }

    /// A slot for so many rows of this width for each token or output.
    pub(super) fn take(&mut self, rows: Rows, copies: usize, width: usize) -> Slot {
        let n_rows = self.max_rows(rows);
        let len = n_rows.saturating_mul(copies).saturating_mul(stride(width));
        self.take_len(len)
    }

    pub(super) fn max_rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.limits.max_tokens,
            Rows::Outputs => self.limits.max_outputs,
        }
    }

    /// The free slot whose size is the nearest, which grows where it must.
    pub(super) fn take_len(&mut self, len: usize) -> Slot {
        let n_bytes = (len as u64).saturating_mul(4).saturating_add(PAD_BYTES);
        let free = (0..self.slots.len()).filter(|&slot| self.is_free[slot]);
        let nearest = free.min_by_key(|&slot| self.slots[slot].abs_diff(n_bytes));
        let slot = nearest.unwrap_or_else(|| {
            self.slots.push(0);
            self.is_free.push(true);
            self.layout_of.push(Layout::Plain);
            self.slots.len() - 1
        });
        self.slots[slot] = self.slots[slot].max(n_bytes);
        self.is_free[slot] = false;
        self.layout_of[slot] = Layout::Plain;
        slot
    }

    /// How the rows of a buffer lie: as products with blocks read them best, if nothing else reads it and
    /// a kernel writes it that can.
    pub(super) fn layout(&self, id: BufId) -> Layout {
        let program = self.program;
        let read = |weight| reads_groups(program.weight(weight).dtype());
        let is_fit = |op: &Op| match op {
            _ if !op.reads().contains(&id) => true,
            Op::MatMul { x, parts } => {
                let is_residual = parts.iter().any(|part| part.residual == Some(id));
                *x == id && !is_residual && parts.iter().all(|part| read(part.weight))
            }
            Op::GatedMatMul { gate, up, .. } => read(gate.0) && read(up.0),
            _ => false,
        };
        let has_dots = self.abilities.has_integer_dots;
        let can_write = |op: &Op| match op {
            _ if !op.writes().contains(&id) => false,
            Op::RmsNorm { weight, .. } => {
                program.weight(*weight).row_len() == program.shape(id).width
            }
            Op::LayerNorm { .. } => true,
            Op::Attention(attention) => {
                let together = if has_dots { 32 } else { 4 };
                attention.head_dim.is_multiple_of(together)
            }
            Op::GatedMatMul { gate, up, .. } if has_dots => self.gated_has_bytes(*gate, *up),
            Op::GatedMatMul { .. } => true,
            _ => false,
        };
        let is_best = id != program.result()
            && program.ops().iter().any(can_write)
            && program.ops().iter().all(is_fit);
        match is_best {
            true if has_dots => Layout::Bytes,
            true => Layout::Interleaved,
            false => Layout::Plain,
        }
    }

    /// What kernels write a slot's rows in, for what numbers of them.
    pub(super) fn forms(&self, slot: Slot) -> Vec<(Form, Range<u32>)> {
        match self.layout_of[slot] {
            // Those of a few tokens are written.
            Layout::BytesBeforeNorm(_) => vec![(Form::F32, MUL_MM_FROM..u32::MAX)],
            Layout::Bytes => vec![
                (Form::Bytes, 1..MUL_MM_FROM),
                (Form::F32, MUL_MM_FROM..u32::MAX),
            ],
            Layout::Plain | Layout::Interleaved => vec![(Form::F32, 1..u32::MAX)],
        }
    }

    /// Whether rows of a few tokens are bytes.
    pub(super) fn has_bytes(&self, slot: Slot) -> bool {
        matches!(
            self.layout_of[slot],
            Layout::Bytes | Layout::BytesBeforeNorm(_)
        )
    }

    /// Whether the rows of a slot are interleaved, for the numbers of a kernel.
    pub(super) fn is_interleaved(&self, slot: Slot) -> u32 {
        u32::from(self.layout_of[slot] == Layout::Interleaved)
    }
}

/// Whether products with a type read 32 elements at a time.
pub(super) fn reads_groups(dtype: DType) -> bool {
    !snippet(dtype).is_plain
}
