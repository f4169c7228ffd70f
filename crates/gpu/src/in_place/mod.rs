//! Buffers over pages that the processor has already, such as a mapped file's: where both share their
//! memory, the device reads weights in place.
//!
//! wgpu makes buffers of memory that it allocates; these are made beneath it, in `metal.rs` on macOS and
//! `vulkan.rs` elsewhere. A driver may refuse; weights are copied then.

#[cfg(target_os = "macos")]
mod metal;
#[cfg(not(target_os = "macos"))]
mod vulkan;

use minerva_compute::{Bytes, Weight};

#[cfg(target_os = "macos")]
use metal as interface;
#[cfg(not(target_os = "macos"))]
use vulkan as interface;

use crate::device::AdapterKind;

/// Pages, and the bytes in them, which are kept while these live.
#[derive(Clone)]
pub(crate) struct Pages {
    bytes: Bytes,
    /// The byte that the first page begins with.
    first: usize,
    /// Of whole pages: the last may be longer than the bytes.
    n_bytes: usize,
}

impl Pages {
    /// The pages of weights, with so many bytes behind them; `None` where the weights do not lie in the
    /// same bytes, these do not begin with a page, or end too soon.
    pub(crate) fn of(weights: &[Weight], page_bytes: usize, pad_bytes: usize) -> Option<Pages> {
        let bytes = weights.first()?.surroundings();
        let range = bytes.as_ptr_range();
        let are_together = weights.iter().all(|weight| {
            let around = weight.surroundings();
            around.as_ptr_range() == range
        });
        if !are_together || !range.start.addr().is_multiple_of(page_bytes) {
            return None;
        }
        let begin = |weight: &Weight| weight.bytes().as_ptr().addr() - range.start.addr();
        let first = weights.iter().map(begin).min()? / page_bytes * page_bytes;
        let end = weights.iter().map(|w| begin(w) + w.bytes().len()).max()?;
        let end = end.checked_add(pad_bytes)?.next_multiple_of(page_bytes);
        (end <= bytes.len().next_multiple_of(page_bytes)).then_some(Pages {
            bytes,
            first,
            n_bytes: end - first,
        })
    }

    /// Where they begin. All of them can be read: what a page has a byte of is mapped as a whole.
    fn start(&self) -> *const u8 {
        self.bytes[self.first..].as_ptr()
    }

    /// Bytes of all of them.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The byte of the pages that one of the weights begins with.
    pub(crate) fn place(&self, weight: &Weight) -> usize {
        weight.bytes().as_ptr().addr() - self.start().addr()
    }
}

/// Bytes of a page, where the device can read the processor's memory in place.
pub(crate) fn page_bytes(adapter: &wgpu::Adapter, kind: AdapterKind) -> Option<usize> {
    let has_all_memory = interface::KINDS.contains(&kind);
    has_all_memory
        .then(|| interface::page_bytes(adapter))
        .flatten()
}

/// Opens a device that can read such pages.
pub(crate) fn request_device(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Result<(wgpu::Device, wgpu::Queue), String> {
    interface::request_device(adapter, descriptor)
}

/// A buffer over pages; `None` where the driver refuses.
pub(crate) fn buffer(device: &wgpu::Device, pages: &Pages) -> Option<wgpu::Buffer> {
    let descriptor = wgpu::BufferDescriptor {
        label: Some("weights in place"),
        size: pages.n_bytes as u64,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    };
    interface::buffer(device, pages, &descriptor)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minerva_compute::DType;
    use minerva_compute::conformance::Paged;

    use super::*;

    const PAGE: usize = 4096;

    /// A weight of so many bytes at a place.
    fn weight(owner: &Arc<Paged>, at: usize, n_bytes: usize) -> Weight {
        let bytes = Bytes::new(owner.clone(), at..at + n_bytes).unwrap();
        Weight::new("weight", DType::I8, (1, n_bytes), bytes).unwrap()
    }

    #[test]
    fn pages_are_those_of_all_weights() {
        let owner = Arc::new(Paged::new(&[0; 5 * PAGE + 1]));
        let pages = |places: &[(usize, usize)], pad| {
            let weights: Vec<Weight> = places
                .iter()
                .map(|&(at, n_bytes)| weight(&owner, at, n_bytes))
                .collect();
            let pages = Pages::of(&weights, PAGE, pad)?;
            let places: Vec<usize> = weights.iter().map(|w| pages.place(w)).collect();
            Some((pages.first, pages.n_bytes, places))
        };
        assert_eq!(pages(&[(0, 1)], 0), Some((0, PAGE, vec![0])));
        assert_eq!(
            pages(&[(3 * PAGE + 7, 9), (PAGE + 5, 1)], 0),
            Some((PAGE, 3 * PAGE, vec![2 * PAGE + 7, 5]))
        );
        // To the end of the last page, of which there is one byte.
        let last = (5 * PAGE, 1);
        assert_eq!(pages(&[last], PAGE - 1), Some((5 * PAGE, PAGE, vec![0])));
        assert_eq!(pages(&[last], PAGE), None);
        assert_eq!(pages(&[], 0), None);
    }

    #[test]
    fn other_bytes_are_not_paged() {
        let owner = Arc::new(Paged::new(&[0; PAGE]));
        let other = Arc::new(Paged::new(&[0; PAGE]));
        let apart = [weight(&owner, 0, 8), weight(&other, 0, 8)];
        assert!(Pages::of(&apart, PAGE, 0).is_none());
        let owner = Arc::new(Paged::shifted(&[0; PAGE], 8));
        assert!(Pages::of(&[weight(&owner, 0, 8)], PAGE, 0).is_none());
    }
}
