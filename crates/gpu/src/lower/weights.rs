//! Weights of a program as uploads: what goes to the device once, cut where a buffer ends.

use minerva_compute::{Biased, DType, DeviceError, Weight, WeightId};

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

/// What tells a tensor: its address, its bytes and its type.
pub(super) type Origin = (usize, usize, DType);

/// Rows in one upload.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) upload: usize,
    pub(super) first_row: u32,
    pub(super) n_rows: u32,
}

impl Lowering<'_> {
    /// Whether rows of matrices, one behind the other, can be one upload.
    pub(super) fn can_stack(&self, matrices: &[Biased]) -> bool {
        let weights = || matrices.iter().map(|(id, _)| self.program.weight(*id));
        let n_bytes: u64 = weights().map(|w| w.bytes().len() as u64).sum();
        let first = self.program.weight(matrices[0].0);
        weights().all(|w| (w.dtype(), w.row_len()) == (first.dtype(), first.row_len()))
            && n_bytes.saturating_add(PAD_BYTES) <= self.max_binding_bytes
    }

    /// The uploads of weights, one behind the other: one, unless a single one is larger than a
    /// binding.
    pub(super) fn chunks(&mut self, weights: &[Weight]) -> Result<Vec<Chunk>, DeviceError> {
        let origin = |w: &Weight| (w.bytes().as_ptr() as usize, w.bytes().len(), w.dtype());
        let key: Vec<Origin> = weights.iter().map(origin).collect();
        if let Some(chunks) = self.chunks_of.get(&key) {
            return Ok(chunks.clone());
        }
        let chunks = match weights {
            [weight] => self.cut(weight)?,
            weights => vec![Chunk {
                upload: self.upload_rows(weights.to_vec()),
                first_row: 0,
                n_rows: weights.iter().map(Weight::n_rows).sum::<usize>() as u32,
            }],
        };
        self.chunks_of.insert(key, chunks.clone());
        Ok(chunks)
    }

    fn cut(&mut self, weight: &Weight) -> Result<Vec<Chunk>, DeviceError> {
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
            chunks.push(Chunk {
                upload: self.upload_rows(vec![rows]),
                first_row: first_row as u32,
                n_rows: n_rows as u32,
            });
            first_row += n_rows;
        }
        Ok(chunks)
    }

    pub(super) fn upload_rows(&mut self, weights: Vec<Weight>) -> usize {
        self.uploads.push(Upload::Rows(weights));
        self.uploads.len() - 1
    }

    /// The biases of matrices, one behind the other; zeros for those that have none, if any has.
    pub(super) fn biases(&mut self, matrices: &[Biased]) -> Option<Source> {
        if let [(_, bias)] = matrices {
            return bias.map(|id| self.floats(id));
        }
        matrices.iter().any(|(_, bias)| bias.is_some()).then(|| {
            let of = |(matrix, bias): &Biased| match bias {
                Some(id) => self.program.weight(*id).to_f32(),
                None => vec![0.0; self.program.weight(*matrix).n_rows()],
            };
            let values = matrices.iter().flat_map(of).collect();
            self.uploads.push(Upload::Floats(values));
            Source::Upload(self.uploads.len() - 1)
        })
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
