//! Weights whose pages the system keeps in memory.

use std::collections::HashSet;
use std::io;

use crate::backend::BackendError;
use crate::program::Program;

/// Reads the weights of a program and has the system keep their pages, each once, until their memory is
/// unmapped.
pub(super) fn lock_weights(program: &Program, tell: &dyn Fn(u64, u64)) -> Result<(), BackendError> {
    let mut seen = HashSet::new();
    let all = program.weights.iter().map(|weight| weight.bytes());
    let all: Vec<&[u8]> = all
        .filter(|bytes| seen.insert((bytes.as_ptr().addr(), bytes.len())))
        .collect();
    let total: usize = all.iter().map(|bytes| bytes.len()).sum();
    let mut done = 0;
    for bytes in all {
        lock(bytes).map_err(|error| BackendError::NotLocked {
            bytes: total,
            problem: error.to_string(),
        })?;
        done += bytes.len();
        tell(done as u64, total as u64);
    }
    Ok(())
}

#[cfg(unix)]
fn lock(bytes: &[u8]) -> io::Result<()> {
    // SAFETY: changes nothing that can be read or written, whatever the range.
    match unsafe { libc::mlock(bytes.as_ptr().cast(), bytes.len()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(unix))]
fn lock(_: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::conformance::every_operation;
    use crate::dtype::DType;

    /// What the system says that it keeps for this process.
    fn locked_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.trim().parse::<usize>().unwrap() << 10
    }

    #[test]
    fn pages_of_weights_are_locked() {
        let mut program = every_operation(DType::Q8_0, 5);
        let twin = program.weights[0].clone();
        program.weights.push(twin);
        let told = Mutex::new(Vec::new());
        let before = locked_bytes();
        lock_weights(&program, &|done, total| {
            told.lock().unwrap().push((done, total));
        })
        .unwrap();
        assert!(locked_bytes() > before);
        let told = told.into_inner().unwrap();
        let n_bytes: usize = program.weights[1..].iter().map(|w| w.bytes().len()).sum();
        assert_eq!(told.last(), Some(&(n_bytes as u64, n_bytes as u64)));
        assert_eq!(told.len(), program.weights.len() - 1);
    }
}
