//! Scratch memory: slots, which are used again once their readers are done.

use minerva_compute::{BufId, DType, Op, Program, Rows};

use super::{Lowering, PAD_BYTES, stride};
use crate::dtypes::snippet;

/// Index of a piece of scratch memory.
pub(crate) type Slot = usize;

impl Lowering<'_> {
    /// The slot of a buffer that was written.
    pub(super) fn slot(&self, id: BufId) -> Slot {
        self.slot_of[id.index()].expect("buffers are written before they are read")
    }

    /// A slot for a buffer.
    pub(super) fn write(&mut self, id: BufId) -> Slot {
        let shape = self.program.shape(id);
        let slot = self.take(shape.rows, 1, shape.width);
        self.slot_of[id.index()] = Some(slot);
        self.is_interleaved[slot] = is_interleaved(self.program, id);
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
            self.is_interleaved.push(false);
            self.slots.len() - 1
        });
        self.slots[slot] = self.slots[slot].max(n_bytes);
        self.is_free[slot] = false;
        self.is_interleaved[slot] = false;
        slot
    }
}

/// Whether products with a type read rows best that are interleaved: those whose lanes take 32 elements
/// each.
pub(super) fn reads_groups(dtype: DType) -> bool {
    !snippet(dtype).is_plain
}

/// Whether a buffer's rows are interleaved (`wgsl/interleave.wgsl`): those that nothing but such
/// products reads, and that a kernel writes which can.
fn is_interleaved(program: &Program, id: BufId) -> bool {
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
    let can_write = |op: &Op| match op {
        _ if !op.writes().contains(&id) => false,
        Op::RmsNorm { weight, .. } => program.weight(*weight).row_len() == program.shape(id).width,
        Op::Attention(attention) => attention.head_dim.is_multiple_of(4),
        Op::LayerNorm { .. } | Op::GatedMatMul { .. } => true,
        _ => false,
    };
    id != program.result()
        && program.ops().iter().any(can_write)
        && program.ops().iter().all(is_fit)
}
