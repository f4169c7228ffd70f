//! How much memory this process may use.

use sysinfo::System;

/// Bytes of memory of this machine, or of the control group that this process is in where that is
/// less.
pub fn memory_limit() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let group = system.cgroup_limits().map(|limits| limits.total_memory);
    let machine = system.total_memory();
    // A group without a limit says 0, or more than there is.
    group
        .filter(|group| *group > 0)
        .map_or(machine, |group| group.min(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some() {
        assert!(memory_limit() > 1 << 20);
    }
}
