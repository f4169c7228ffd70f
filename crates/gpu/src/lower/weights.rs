//! Weights of a program as uploads: what goes to the device once, cut where a buffer ends.

use minerva_compute::{DType, DeviceError, Weight, WeightId};

use super::{Lowering, PAD_BYTES, Source};

/// Bytes that go to the device once.
pub(crate) enum Upload {
    /// Rows of weights, one behind the other.
    Rows(Vec<Weight>),
    /// Numbers.
    Floats(Vec<f32>),
}

impl Upload {
    pub(crate) fn n_bytes(&self) -> u64 {
        match self {
            Upload::Rows(weights) => weights.iter().map(|w| w.bytes().len() as u64).sum(),
            Upload::Floats(values) => 4 * values.len() as u64,
        }
    }
}

/// Rows of a weight in one upload.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) upload: usize,
    pub(super) first_row: u32,
    pub(super) n_rows: u32,
}

impl Lowering<'_> {
    /// The uploads of a weight: one, unless it is larger than a binding.
    pub(super) fn chunks(&mut self, weight: &Weight) -> Result<Vec<Chunk>, DeviceError> {
        let bytes = weight.bytes();
        let key = (bytes.as_ptr() as usize, bytes.len(), weight.dtype());
        if let Some(chunks) = self.chunks_of.get(&key) {
            return Ok(chunks.clone());
        }
        let room = self.max_binding_bytes.saturating_sub(PAD_BYTES);
        let rows_at_once = room / weight.row_bytes().max(1) as u64;
        if rows_at_once == 0 {
            return Err(self.too_large(weight, weight.row_bytes() as u64));
        }
        let rows_at_once = usize::try_from(rows_at_once).unwrap_or(usize::MAX);
        let mut chunks = Vec::new();
        let mut first_row = 0;
        while first_row < weight.n_rows() {
            let n_rows = rows_at_once.min(weight.n_rows() - first_row);
            let rows = weight.rows(first_row..first_row + n_rows);
            self.uploads.push(Upload::Rows(vec![rows]));
            chunks.push(Chunk {
                upload: self.uploads.len() - 1,
                first_row: first_row as u32,
                n_rows: n_rows as u32,
            });
            first_row += n_rows;
        }
        self.chunks_of.insert(key, chunks.clone());
        Ok(chunks)
    }

    pub(super) fn too_large(&self, weight: &Weight, wanted_bytes: u64) -> DeviceError {
        DeviceError::NoRoom {
            what: format!("{} in one buffer", weight.name()),
            wanted_bytes,
            available_bytes: self.max_binding_bytes,
        }
    }

    /// A vector as f32, uploaded once.
    pub(super) fn floats(&mut self, id: WeightId) -> Source {
        let (uploads, weight) = (&mut self.uploads, self.program.weight(id));
        Source::Upload(*self.floats_of.entry(id).or_insert_with(|| {
            uploads.push(Upload::Floats(weight.to_f32()));
            uploads.len() - 1
        }))
    }

    pub(super) fn grid(&mut self, dtype: DType) -> Source {
        if !self.grids.contains(&dtype) {
            self.grids.push(dtype);
        }
        Source::Grid(dtype)
    }
}
