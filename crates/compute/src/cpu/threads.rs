//! The thread pool, and memory that its threads write to together.
//!
//! A run is one closure that every worker may enter. A worker that wakes too late misses the run
//! instead of delaying it: work inside a run is handed out chunk by chunk, so whoever is there
//! does it. Between runs workers spin for a short while, since decode starts a run every few
//! milliseconds, then sleep.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::simd::tiles::Line;

/// How long an idle worker watches for the next run before it sleeps. Sampling and streaming a
/// token take a fraction of this; waking a sleeping thread costs some 50 µs.
const SPIN: Duration = Duration::from_micros(300);

/// A closure that all workers run; the argument is the worker's index.
type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// A fixed number of threads that enter runs together; the caller is worker 0.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    running: Mutex<()>,
}

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

struct Shared {
    /// Generation of the run in the upper half; [`OPEN`] while it may be entered; below it the
    /// number of workers inside.
    state: AtomicU64,
    stop: AtomicBool,
    job: UnsafeCell<Option<NonNull<Job<'static>>>>,
}

const OPEN: u64 = 1 << 31;
const GENERATION: u64 = 1 << 32;

// SAFETY: `job` is written only while no run is open and nobody is inside, and read only by
// workers that are inside an open run; `state` orders the two.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure, and is only followed inside a run.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `n_threads`, the calling thread among them.
    pub(crate) fn new(n_threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            running: Mutex::new(()),
        };
        for index in 1..n_threads {
            let asleep = Arc::new(AtomicBool::new(false));
            let (shared, flag) = (pool.shared.clone(), asleep.clone());
            let handle = std::thread::Builder::new()
                .name(format!("minerva-{index}"))
                .spawn(move || shared.work(index, &flag))?;
            pool.workers.push(Worker {
                thread: handle.thread().clone(),
                asleep,
                handle: Some(handle),
            });
        }
        Ok(pool)
    }

    /// Number of workers, the caller included.
    pub(crate) fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(0)` here and `job(i)` on every worker i that comes in time; returns when all
    /// that entered have left. Runs of several callers follow each other.
    pub(crate) fn run(&self, job: &Job<'_>) {
        let _one_run = self
            .running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.workers.is_empty() {
            return job(0);
        }
        // SAFETY: only the lifetime changes. Nobody follows the pointer after `close` below has
        // returned, and `job` outlives this call.
        let job_ptr: NonNull<Job<'static>> = unsafe { std::mem::transmute(NonNull::from(job)) };
        // SAFETY: no run is open and nobody is inside, so nobody reads.
        unsafe { *self.shared.job.get() = Some(job_ptr) };
        self.shared
            .state
            .fetch_add(GENERATION | OPEN, Ordering::SeqCst);
        let close = CloseOnDrop(&self.shared); // also when `job` panics
        for worker in &self.workers {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        job(0);
        drop(close);
    }
}

struct CloseOnDrop<'a>(&'a Shared);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut wait = Wait::default();
        while self.0.state.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            wait.once();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker's panic was reported when it happened.
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    fn work(&self, index: usize, asleep: &AtomicBool) {
        let mut seen = 0; // generation of the last run entered
        let mut idle_since: Option<Instant> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let state = self.state.load(Ordering::Acquire);
            if state & OPEN == 0 || state / GENERATION == seen {
                if idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                    (0..32).for_each(|_| std::hint::spin_loop());
                    continue;
                }
                asleep.store(true, Ordering::SeqCst);
                // Whoever opened a run before it could see the flag is seen here.
                let state = self.state.load(Ordering::SeqCst);
                let opened = state & OPEN != 0 && state / GENERATION != seen;
                if !opened && !self.stop.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
                continue;
            }
            let entered = self.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if entered.is_ok() {
                let _leave = LeaveOnDrop(&self.state);
                seen = state / GENERATION;
                // SAFETY: inside an open run the pointer is that of the run's job, which lives
                // until everybody has left.
                let job = unsafe { (*self.job.get()).expect("a run has a job").as_ref() };
                job(index);
            }
            idle_since = None;
        }
    }
}

struct LeaveOnDrop<'a>(&'a AtomicU64);

impl Drop for LeaveOnDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Spins before a wait sleeps: some 10 to 50 µs.
const N_SPINS: u32 = 1000;
/// How long it sleeps at a time.
const SLEEP: Duration = Duration::from_micros(50);

/// Waiting for another thread: some spins, since the wait is usually under a microsecond, then
/// short sleeps. Where the machine is busy the other may have been put aside for milliseconds, and a
/// thread that spins or yields meanwhile uses up its own share of the processor: with as many busy
/// processes as threads a small model decodes a tenth more tokens so.
#[derive(Default)]
pub(crate) struct Wait {
    n: u32,
}

impl Wait {
    /// Waits a little.
    pub(crate) fn once(&mut self) {
        if self.n < N_SPINS {
            self.n += 1;
            std::hint::spin_loop();
        } else {
            std::thread::sleep(SLEEP);
        }
    }
}

/// Types for which any bytes, zeros above all, are a value.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for u32 {}
impl Plain for u16 {}
impl Plain for i8 {}
impl Plain for u8 {}
impl Plain for Line {}
impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A zeroed, cache-aligned array that threads read and write in parts that they agree upon.
pub(crate) struct SharedBuf<T> {
    ptr: NonNull<T>,
    len: usize,
    /// What was allocated; `ptr` is the first cache line in it.
    memory: NonNull<u8>,
}

/// Bytes of a cache line.
const LINE: usize = 64;

// SAFETY: it owns its memory; sharing is the contract of `get` and `get_mut`.
unsafe impl<T: Plain> Send for SharedBuf<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for SharedBuf<T> {}

impl<T: Plain> SharedBuf<T> {
    /// `None` when the memory is refused. Pages that nobody touches are not resident.
    pub(crate) fn zeroed(len: usize) -> Option<SharedBuf<T>> {
        if len == 0 {
            return Some(SharedBuf {
                ptr: NonNull::dangling(),
                len,
                memory: NonNull::dangling(),
            });
        }
        // SAFETY: the layout has a size above zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout::<T>(len)?) })?;
        // SAFETY: the layout has room for a line more; zeros are a value of a `Plain` type.
        let ptr = unsafe { memory.add(memory.align_offset(LINE)) }.cast();
        Some(SharedBuf { ptr, len, memory })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    fn at(&self, range: &Range<usize>) -> *mut T {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part of a shared buffer"
        );
        // SAFETY: checked above.
        unsafe { self.ptr.as_ptr().add(range.start) }
    }

    /// A part to read.
    ///
    /// # Safety
    /// Nobody writes to the part while the slice lives.
    pub(crate) unsafe fn get(&self, range: Range<usize>) -> &[T] {
        // SAFETY: in bounds, initialized, and by the contract not written to.
        unsafe { std::slice::from_raw_parts(self.at(&range), range.len()) }
    }

    /// A part to write.
    ///
    /// # Safety
    /// Nobody else reads or writes the part while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the contract")]
    pub(crate) unsafe fn get_mut(&self, range: Range<usize>) -> &mut [T] {
        // SAFETY: in bounds, initialized, and by the contract nobody else's.
        unsafe { std::slice::from_raw_parts_mut(self.at(&range), range.len()) }
    }

    /// A tile to write: columns `columns` of rows `0..n_rows` of a matrix with rows of `width`.
    ///
    /// # Safety
    /// Nobody else reads or writes the tile while it lives.
    pub(crate) unsafe fn tile(
        &self,
        rows: Range<usize>,
        width: usize,
        columns: Range<usize>,
    ) -> Tile<'_, T> {
        assert!(
            columns.end <= width && rows.end * width <= self.len,
            "tile of a shared buffer"
        );
        let first = rows.start * width + columns.start;
        let ptr = self.at(&(first..first));
        Tile {
            ptr,
            n_rows: rows.len(),
            stride: width,
            width: columns.len(),
            _buf: self,
        }
    }
}

#[cfg(test)]
impl<T: Plain> SharedBuf<T> {
    /// All of it as rows of `width`.
    pub(crate) fn whole(&mut self, width: usize) -> Tile<'_, T> {
        // SAFETY: the borrow keeps everybody else away.
        unsafe { self.tile(0..self.len / width, width, 0..width) }
    }
}

impl<T> Drop for SharedBuf<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            let layout = layout::<T>(self.len).expect("it was allocated with it");
            // SAFETY: the layout that `zeroed` allocated with.
            unsafe { dealloc(self.memory.as_ptr(), layout) }
        }
    }
}

/// The layout of an array and a cache line more. It asks for no alignment: where one is asked for,
/// zeros are written, and all pages are resident from the start.
fn layout<T>(len: usize) -> Option<Layout> {
    let n_bytes = len.checked_mul(size_of::<T>())?.checked_add(LINE)?;
    Layout::array::<u8>(n_bytes).ok()
}

/// Some columns of every row of a matrix, for one thread to write.
pub(crate) struct Tile<'a, T> {
    ptr: *mut T,
    n_rows: usize,
    stride: usize,
    width: usize,
    _buf: &'a SharedBuf<T>,
}

impl<T> Tile<'_, T> {
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.n_rows, "row of a tile");
        // SAFETY: inside the buffer by the check in `tile`, and this tile's alone by its contract;
        // rows do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(row * self.stride), self.width) }
    }

    /// Some of its columns.
    pub(crate) fn columns(&mut self, columns: Range<usize>) -> Tile<'_, T> {
        assert!(
            columns.start <= columns.end && columns.end <= self.width,
            "columns of a tile"
        );
        Tile {
            // SAFETY: inside this tile by the check, which the new one borrows; no further than its end.
            ptr: unsafe { self.ptr.add(columns.start) },
            width: columns.len(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn every_run_is_entered_and_left() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads).unwrap();
            for _ in 0..200 {
                let inside = AtomicUsize::new(0);
                let next = AtomicUsize::new(0);
                let sum = AtomicUsize::new(0);
                pool.run(&|_| {
                    inside.fetch_add(1, Ordering::SeqCst);
                    loop {
                        let i = next.fetch_add(1, Ordering::SeqCst);
                        if i >= 100 {
                            break;
                        }
                        sum.fetch_add(i, Ordering::SeqCst);
                    }
                });
                assert_eq!(sum.into_inner(), 4950);
                assert!((1..=n_threads).contains(&inside.into_inner()));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_for_a_run() {
        let pool = Pool::new(2).unwrap();
        while !pool.workers[0].asleep.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let came = AtomicBool::new(false);
        pool.run(&|worker| {
            if worker == 1 {
                came.store(true, Ordering::SeqCst);
            }
            while !came.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn buffers_begin_with_a_cache_line() {
        let bufs = [1, 5, 100, 70_000].map(|len| SharedBuf::<u8>::zeroed(len).unwrap());
        assert!(bufs.iter().all(|buf| buf.ptr.align_offset(LINE) == 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_that_nobody_touches_are_not_resident() {
        let resident_pages = || -> usize {
            let counts = std::fs::read_to_string("/proc/self/statm").unwrap();
            counts.split(' ').nth(1).unwrap().parse().unwrap()
        };
        let before = resident_pages();
        let buf = SharedBuf::<u8>::zeroed(1 << 30).unwrap();
        let pages_of_half = (1 << 29) / 4096;
        assert!(
            resident_pages() < before + pages_of_half,
            "{} bytes",
            buf.bytes()
        );
    }

    #[test]
    fn tiles_are_columns() {
        let buf = SharedBuf::<f32>::zeroed(12).unwrap();
        // SAFETY: one thread, one tile at a time.
        unsafe {
            let mut tile = buf.tile(0..3, 4, 1..3);
            tile.row(2).copy_from_slice(&[1.0, 2.0]);
            assert_eq!(buf.get(8..12), [0.0, 1.0, 2.0, 0.0]);
        }
    }
}
