//! How much memory this process may use.

use std::path::Path;

use sysinfo::System;

/// Bytes of memory of this machine, or of the control group that this process is in where that is
/// less.
pub fn memory_limit() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let machine = system.total_memory();
    group_limit(Path::new("/")).map_or(machine, |group| group.min(machine))
}

/// Bytes of memory that are free, or would be without the caches of files: at most [`memory_limit`].
pub fn memory_available() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    system.available_memory().min(memory_limit())
}

/// The least limit of the control groups that this process is in, and of those around them, as Linux
/// shows them below `root`. A container may see its own group as the outermost one.
fn group_limit(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        // A number, controllers, a path; the second version has no controllers there.
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let groups = Path::new(group.trim_start_matches('/')).ancestors();
        let limits = groups.filter_map(|group| {
            let limit = std::fs::read_to_string(root.join(mount).join(group).join(file)).ok()?;
            // Else it is "max": there is none.
            limit.trim().parse().ok()
        });
        limits.min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some() {
        assert!(memory_limit() > 1 << 20);
        assert!((1..=memory_limit()).contains(&memory_available()));
    }

    /// The limit that a tree of files says.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let name = format!("minerva-memory-{:?}", std::thread::current().id());
        let root = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let limit = group_limit(&root);
        std::fs::remove_dir_all(root).unwrap();
        limit
    }

    #[test]
    fn the_group_or_one_around_it_has_a_limit() {
        let group = ("proc/self/cgroup", "0::/system.slice/minerva.service\n");
        let outer = |text| ("sys/fs/cgroup/system.slice/memory.max", text);
        let inner = "sys/fs/cgroup/system.slice/minerva.service/memory.max";
        assert_eq!(limit(&[group, outer("max\n"), (inner, "max\n")]), None);
        let max = "536870912\n";
        assert_eq!(
            limit(&[group, outer("max\n"), (inner, max)]),
            Some(512 << 20)
        );
        assert_eq!(
            limit(&[group, outer(max), (inner, "1073741824\n")]),
            Some(512 << 20)
        );
        // In a container: its own group is the outermost, whatever it is called outside.
        let outermost = ("sys/fs/cgroup/memory.max", max);
        assert_eq!(
            limit(&[("proc/self/cgroup", "0::/\n"), outermost]),
            Some(512 << 20)
        );
        assert_eq!(limit(&[group, outermost]), Some(512 << 20));
    }

    #[test]
    fn the_first_version_has_a_hierarchy_for_memory() {
        let group = (
            "proc/self/cgroup",
            "5:devices:/\n4:memory,hugetlb:/a:b/c\n0::/\n",
        );
        let limit_in_bytes = "sys/fs/cgroup/memory/a:b/c/memory.limit_in_bytes";
        let none = (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(
            limit(&[group, none, (limit_in_bytes, "4096\n")]),
            Some(4096)
        );
    }

    #[test]
    fn other_systems_have_no_groups() {
        assert_eq!(limit(&[("etc/hostname", "mac\n")]), None);
    }
}
