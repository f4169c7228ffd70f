//! Weights of a program as uploads: what the device is given once, cut where a buffer ends.

use minerva_compute::{Biased, DType, DeviceError, Weight, WeightId};

use super::{Lowering, PAD_BYTES, Source};
use crate::dtypes::alignment;
use crate::in_place::Pages;

/// Bytes that the device is given once.
pub(crate) enum Upload {
    /// Rows of weights, one behind the other.
    Rows(Vec<Weight>),
    /// Pages that it reads in place, and the weights in them.
    Pages(Pages, Vec<Weight>),
    /// Numbers.
    Floats(Vec<f32>),
}

impl Upload {
    pub(crate) fn n_bytes(&self) -> u64 {
        match self {
            Upload::Rows(weights) | Upload::Pages(_, weights) => {
                weights.iter().map(|w| w.bytes().len() as u64).sum()
            }
            Upload::Floats(values) => 4 * values.len() as u64,
        }
    }

    /// The weights that are in it as they are in the file.
    pub(crate) fn weights(&self) -> &[Weight] {
        match self {
            Upload::Rows(weights) | Upload::Pages(_, weights) => weights,
            Upload::Floats(_) => &[],
        }
    }
}

/// What tells a tensor: its address, its bytes and its type.
pub(super) type Origin = (usize, usize, DType);

/// Where matrices are in an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The byte that the first begins with.
    pub(super) at: u32,
    /// Bytes from the end of the first to the second, and from there to the third; modulo 2^32, as they
    /// may lie in any order.
    pub(super) gaps: [u32; 2],
    /// Bytes from the matrices of an expert to those of the next.
    pub(super) expert_bytes: u32,
}

impl Place {
    /// Of the `n` matrices of each expert in pages, if they lie as such a place says.
    fn in_pages(pages: &Pages, weights: &[Weight], n: usize) -> Option<Place> {
        let at = |i: usize| pages.place(&weights[i]);
        let n_bytes = |i: usize| weights[i].bytes().len();
        let step = match weights.len() > n {
            true => at(n).checked_sub(at(0))?,
            false => 0,
        };
        let is_even = (0..weights.len()).all(|i| at(i) == at(i % n) + i / n * step);
        let alignment = alignment(weights[0].dtype());
        let is_aligned = (0..weights.len()).all(|i| at(i).is_multiple_of(alignment));
        let gap = |i: usize| match i < n {
            true => at(i).wrapping_sub(at(i - 1) + n_bytes(i - 1)) as u32,
            false => 0,
        };
        (is_even && is_aligned).then(|| Place {
            at: at(0) as u32,
            gaps: [gap(1), gap(2)],
            expert_bytes: step as u32,
        })
    }

    /// Of the `n` matrices of each expert, all one behind the other.
    fn one_behind_the_other(weights: &[Weight], n: usize) -> Place {
        let expert = weights[..n].iter().map(|w| w.bytes().len());
        Place {
            at: 0,
            gaps: [0; 2],
            expert_bytes: expert.sum::<usize>() as u32,
        }
    }
}

/// Rows in one upload.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) upload: usize,
    pub(super) place: Place,
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
            weights => vec![self.chunk(weights, 0)],
        };
        self.chunks_of.insert(key, chunks.clone());
        Ok(chunks)
    }

    fn cut(&mut self, weight: &Weight) -> Result<Vec<Chunk>, DeviceError> {
        // Rows may begin and end anywhere in a page.
        let around = PAD_BYTES + 2 * self.abilities.page_bytes.unwrap_or(0) as u64;
        let room = self.max_binding_bytes.saturating_sub(around);
        let rows_at_once = room / weight.row_bytes().max(1) as u64;
        if rows_at_once == 0 {
            return Err(self.too_large(weight, weight.row_bytes() as u64));
        }
        let rows_at_once = usize::try_from(rows_at_once).unwrap_or(usize::MAX);
        // Whole blocks of rows, which become bytes together.
        let rows_at_once = match rows_at_once {
            0..32 => rows_at_once,
            rows => rows / 32 * 32,
        };
        let mut chunks = Vec::new();
        let mut first_row = 0;
        while first_row < weight.n_rows() {
            let n_rows = rows_at_once.min(weight.n_rows() - first_row);
            let rows = weight.rows(first_row..first_row + n_rows);
            chunks.push(self.chunk(&[rows], first_row));
            first_row += n_rows;
        }
        Ok(chunks)
    }

    fn chunk(&mut self, weights: &[Weight], first_row: usize) -> Chunk {
        let (upload, place) = self.place(weights, weights.len());
        Chunk {
            upload,
            place,
            first_row: first_row as u32,
            n_rows: weights.iter().map(Weight::n_rows).sum::<usize>() as u32,
        }
    }

    /// The upload of the `n` matrices of each expert: in place where that can be, or else a copy, which
    /// a binding holds.
    pub(super) fn place(&mut self, weights: &[Weight], n: usize) -> (usize, Place) {
        let in_place = self.in_place(weights, n);
        let (upload, place) = in_place.unwrap_or_else(|| {
            let place = Place::one_behind_the_other(weights, n);
            (Upload::Rows(weights.to_vec()), place)
        });
        self.uploads.push(upload);
        (self.uploads.len() - 1, place)
    }

    fn in_place(&self, weights: &[Weight], n: usize) -> Option<(Upload, Place)> {
        let pages = Pages::of(weights, self.abilities.page_bytes?, PAD_BYTES as usize)?;
        if pages.n_bytes() as u64 > self.max_binding_bytes {
            return None;
        }
        let place = Place::in_pages(&pages, weights, n)?;
        Some((Upload::Pages(pages, weights.to_vec()), place))
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
