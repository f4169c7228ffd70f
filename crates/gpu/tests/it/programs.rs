//! Programs on the device against the reference backend.

use minerva_compute::conformance::cases;
use minerva_gpu::GpuOptions;

use crate::open;

/// Runs every case, and fails with the list of those that failed.
fn check_all(options: &GpuOptions) {
    let Some(backend) = open(options) else {
        return;
    };
    let mut failed = Vec::new();
    for case in cases() {
        match case.check(&backend) {
            Ok(error) => println!("{}: {error:.1e}", case.name),
            Err(failure) => failed.push(format!("{}: {failure}", case.name)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn all_cases_agree_with_the_reference() {
    check_all(&GpuOptions {
        integer_dots: Some(false),
        ..GpuOptions::default()
    });
}

#[test]
fn all_cases_agree_with_integer_dots() {
    check_all(&GpuOptions {
        integer_dots: Some(true),
        ..GpuOptions::default()
    });
}

#[test]
fn all_cases_agree_without_subgroups() {
    check_all(&GpuOptions {
        without_subgroups: true,
        integer_dots: Some(true),
        ..GpuOptions::default()
    });
}

#[test]
fn all_cases_agree_with_checked_accesses() {
    check_all(&GpuOptions {
        checks_accesses: true,
        integer_dots: Some(true),
        ..GpuOptions::default()
    });
}
