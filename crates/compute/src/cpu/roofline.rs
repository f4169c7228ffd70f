//! What a machine can do at most, measured: how fast memory is read, and how fast numbers are
//! multiplied. A kernel is as fast as it can be where it reaches one of the two.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::backend::BackendError;

use super::kernels::{FastKernels, Kernels, PeakF32, PeakInt};
use super::ops::peak;
use super::simd::LANES;
use super::simd::tiles::{COLUMNS, TILE_PRODUCTS};
use super::{CpuBackend, Isa};

/// What all threads of a backend together can do at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    /// Bytes read from memory in a second.
    pub read_bytes_per_s: f64,
    /// Bytes that were read in turn: many times what caches hold, where there was room.
    pub buffer_bytes: u64,
    /// Bytes of the last caches, where the system says; the figure for memory has a part of cache in it
    /// where the buffer is not much larger.
    pub cache_bytes: Option<u64>,
    /// What each instruction set of this processor multiplies, in rising order.
    pub peaks: Vec<Peak>,
}

/// What an instruction set multiplies at most, with the primitives that Minerva's kernels use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Which.
    pub isa: Isa,
    /// Multiplications of bytes and additions to sums of 32 bits, in a second.
    pub int8_operations_per_s: f64,
    /// The same of 16 bits, where batches are fast by them.
    pub int16_operations_per_s: Option<f64>,
    /// Those of bf16 and additions to f32: in tiles where the backend uses some, else in vectors where there are dot products.
    pub bf16_operations_per_s: Option<f64>,
    /// Multiplications and additions of f32, in a second.
    pub f32_operations_per_s: f64,
}

/// How many times the last caches a buffer is.
const CACHES: u64 = 8;
/// The least buffer, and the one where nobody says how large caches are.
const LEAST_BYTES: u64 = 1 << 30;
/// What a thread fills at once.
const PART_BYTES: usize = 16 << 20;
/// What a thread reads at once.
const CHUNK_BYTES: usize = 1 << 20;
/// How far ahead memory is asked for; the best counts.
const AHEAD: [usize; 3] = [0, 1024, 4096];
/// How often each measurement is repeated; the fastest counts.
const REPETITIONS: usize = 3;
/// Rounds of multiplications that a thread does at once, some 10 to 100 µs.
const ROUNDS: usize = 1000;
/// The same for tiles: fewer, as plain loops go through them too.
const TILE_ROUNDS: usize = 400;
/// How long multiplications are measured at a time.
const MULTIPLYING: Duration = Duration::from_millis(10);

impl CpuBackend {
    /// Measures this machine with the backend's threads, in some seconds. Of `available_bytes` of memory
    /// at most half is used; less than a chunk for each thread is an error.
    pub fn roofline(&self, available_bytes: u64) -> Result<Roofline, BackendError> {
        let cache_bytes = last_cache_bytes(Path::new("/sys/devices/system/cpu"));
        let wanted = cache_bytes.unwrap_or(0).saturating_mul(CACHES);
        let buffer_bytes = wanted.max(LEAST_BYTES).min(available_bytes / 2);
        let peaks = Isa::available().into_iter().map(|isa| self.peak(isa));
        let peaks = peaks.collect();
        let (buffer_bytes, read_bytes_per_s) = self.read_speed(buffer_bytes)?;
        Ok(Roofline {
            read_bytes_per_s,
            buffer_bytes,
            cache_bytes,
            peaks,
        })
    }

    /// The bytes that a buffer has, and how many are read in a second.
    fn read_speed(&self, buffer_bytes: u64) -> Result<(u64, f64), BackendError> {
        let n_parts = usize::try_from(buffer_bytes).unwrap_or(usize::MAX) / PART_BYTES;
        let no_memory = BackendError::OutOfMemory {
            what: "a buffer to read",
            bytes: n_parts.max(1).saturating_mul(PART_BYTES),
        };
        if n_parts == 0 {
            return Err(no_memory);
        }
        // Threads fill parts, so that on machines with several memories each is used. They are filled
        // with other than zeros: pages that nobody has written to are all the same one.
        let parts = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        self.pool.run(&|_| {
            while next.fetch_add(1, Ordering::Relaxed) < n_parts {
                let mut part: Vec<u8> = Vec::new();
                if part.try_reserve_exact(PART_BYTES).is_ok() {
                    part.resize(PART_BYTES, 1);
                    let parts = parts.lock();
                    parts.unwrap_or_else(|e| e.into_inner()).push(part);
                }
            }
        });
        let parts = parts.into_inner().unwrap_or_else(|e| e.into_inner());
        if parts.len() < n_parts {
            return Err(no_memory);
        }
        let chunks: Vec<&[u8]> = parts.iter().flat_map(|p| p.chunks(CHUNK_BYTES)).collect();
        let mut best = f64::INFINITY;
        for ahead in AHEAD {
            for _ in 0..REPETITIONS {
                let next = AtomicUsize::new(0);
                let start = Instant::now();
                self.pool.run(&|_| {
                    while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut out = [0; 64];
                        (self.kernels.read)(chunk, ahead, &mut out);
                        std::hint::black_box(out);
                    }
                });
                best = best.min(start.elapsed().as_secs_f64());
            }
        }
        let n_bytes = (n_parts * PART_BYTES) as u64;
        Ok((n_bytes, n_bytes as f64 / best))
    }

    fn peak(&self, isa: Isa) -> Peak {
        let kernels = Kernels::get(isa).expect("among the available");
        // Two operations for each multiplication.
        let bytes = std::hint::black_box(peak::Vectors([[peak::MAX; 64]; peak::N_VECTORS]));
        let integer = |kernel: PeakInt, n_sums| {
            let mut out = [0; 64];
            kernel(&bytes, (n_sums, ROUNDS), &mut out);
            std::hint::black_box(out);
        };
        let int8 = |n_sums| integer(kernels.peak_int8, n_sums);
        let floats = std::hint::black_box(peak::Vectors([[0.5; 16]; peak::N_VECTORS]));
        let float = |kernel: PeakF32, n_sums| {
            let mut out = [0.0; 16];
            kernel(&floats, (n_sums, ROUNDS), &mut out);
            std::hint::black_box(out);
        };
        let f32 = |n_sums| float(kernels.peak_f32, n_sums);
        let fast = self.fast.and_then(|_| FastKernels::get(isa));
        let tiles = fast.and_then(FastKernels::tiles).map(|tiles| {
            let call = |_| (tiles.peak)(TILE_ROUNDS);
            let operations = TILE_ROUNDS * TILE_PRODUCTS * 2 * LANES * LANES * COLUMNS;
            operations as f64 * self.calls_per_s(&call)
        });
        let vectors = (2 * ROUNDS * peak::N_VECTORS) as f64;
        let int16 = fast.and_then(FastKernels::int16).map(|kernels| {
            let call = |n_sums| integer(kernels.peak, n_sums);
            32.0 * vectors * self.calls_per_s(&call)
        });
        let bf16 = || {
            let kernel = kernels.peak_bf16?;
            Some(32.0 * vectors * self.calls_per_s(&|n_sums| float(kernel, n_sums)))
        };
        Peak {
            isa,
            int8_operations_per_s: 64.0 * vectors * self.calls_per_s(&int8),
            int16_operations_per_s: int16,
            bf16_operations_per_s: tiles.or_else(bf16),
            f32_operations_per_s: 16.0 * vectors * self.calls_per_s(&f32),
        }
    }

    /// How often all threads together call a function in a second, with the best number of sums.
    fn calls_per_s(&self, call: &(dyn Fn(usize) + Sync)) -> f64 {
        let mut best = 0f64;
        for n_sums in peak::N_SUMS {
            for _ in 0..REPETITIONS {
                let n_calls = AtomicUsize::new(0);
                let start = Instant::now();
                self.pool.run(&|_| {
                    while start.elapsed() < MULTIPLYING {
                        call(n_sums);
                        n_calls.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let seconds = start.elapsed().as_secs_f64();
                best = best.max(n_calls.into_inner() as f64 / seconds);
            }
        }
        best
    }
}

/// Bytes of all last caches, as Linux lists them in `folder`: one for each group of processors that share
/// one.
fn last_cache_bytes(folder: &Path) -> Option<u64> {
    let mut caches = std::collections::BTreeMap::new();
    for cpu in 0..1024 {
        let cpu = folder.join(format!("cpu{cpu}/cache"));
        // Caches are listed from the nearest on, at most two for each of four levels.
        let last = (0..8).rev().map(|i| cpu.join(format!("index{i}")));
        let Some(last) = last.into_iter().find(|path| path.exists()) else {
            // None, or one that is off.
            continue;
        };
        let read = |file| std::fs::read_to_string(last.join(file)).ok();
        let size = read("size")?;
        let size = size.trim();
        let (number, unit) = match size.char_indices().last()? {
            (at, 'K') => (&size[..at], 1 << 10),
            (at, 'M') => (&size[..at], 1 << 20),
            _ => (size, 1),
        };
        let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
        caches.insert(read("shared_cpu_list")?, bytes);
    }
    (!caches.is_empty()).then(|| caches.into_values().fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuOptions;

    #[test]
    fn a_machine_reads_and_multiplies() {
        let threads = Some(2);
        let backend = CpuBackend::new(&CpuOptions {
            threads,
            ..CpuOptions::default()
        });
        let backend = backend.unwrap();
        let roofline = backend.roofline(64 << 20).unwrap();
        assert_eq!(roofline.buffer_bytes, 32 << 20);
        assert!(roofline.read_bytes_per_s > 0.0 && roofline.read_bytes_per_s.is_finite());
        let isas: Vec<Isa> = roofline.peaks.iter().map(|peak| peak.isa).collect();
        assert_eq!(isas, Isa::available());
        for peak in roofline.peaks {
            assert!(peak.int8_operations_per_s > 0.0 && peak.f32_operations_per_s > 0.0);
            assert!(peak.bf16_operations_per_s.is_none_or(|n| n > 0.0));
            let has_dots = peak.isa == Isa::Avx512Bf16;
            assert_eq!(peak.bf16_operations_per_s.is_some(), has_dots);
        }
        let error = backend.roofline(1 << 20).unwrap_err();
        assert!(error.to_string().contains("a buffer to read"), "{error}");
    }

    #[test]
    fn last_caches_are_counted_once_for_those_that_share_them() {
        let folder = std::env::temp_dir().join(format!("minerva-caches-{}", std::process::id()));
        let write = |cpu: usize, index: usize, size: &str, shared: &str| {
            let folder = folder.join(format!("cpu{cpu}/cache/index{index}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("size"), size).unwrap();
            std::fs::write(folder.join("shared_cpu_list"), shared).unwrap();
        };
        assert_eq!(last_cache_bytes(&folder), None);
        // One in between is off.
        for (cpu, shared) in [(0, "0-1\n"), (1, "0-1\n"), (3, "3-4\n"), (4, "3-4\n")] {
            write(cpu, 0, "48K\n", "0\n");
            write(cpu, 3, "32768K\n", shared);
        }
        assert_eq!(last_cache_bytes(&folder), Some(64 << 20));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
