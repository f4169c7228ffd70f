//! `minerva selftest`: the conformance cases of the GPU's kernels on this machine, as a report.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use minerva_gpu::conformance::{Case, cases};
use minerva_gpu::{Choice, GpuBackend, GpuOptions};

use crate::output::stdout;

/// The options of `selftest`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The GPU: gpu for the best adapter, or a part of an adapter's name
    #[arg(long, value_name = "DEVICE", default_value = "gpu")]
    device: String,
}

/// Runs every case with and without subgroups, and with checks of every access.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let choice = match args.device.as_str() {
        "gpu" => Choice::Best,
        name => Choice::Named(name.into()),
    };
    let usual = GpuOptions {
        choice,
        ..GpuOptions::default()
    };
    let without_subgroups = GpuOptions {
        without_subgroups: true,
        ..usual.clone()
    };
    let checked = GpuOptions {
        checks_accesses: true,
        ..usual.clone()
    };
    let mut out = stdout();
    let cases = cases();
    let mut n_failed = 0;
    for (mode, options) in [
        ("as used", usual),
        ("without subgroups", without_subgroups),
        ("with checks", checked),
    ] {
        let backend = GpuBackend::new(&options)?;
        let info = backend.adapter();
        writeln!(
            out,
            "minerva {}, {} {}: {}, {}, {}, {}, adds up by {}: {mode}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            info.name,
            info.interface,
            info.kind.name(),
            info.driver,
            backend.reduction(),
        )?;
        for case in &cases {
            n_failed += usize::from(!check(case, &backend, &mut out)?);
        }
    }
    writeln!(out, "{} cases, {n_failed} failed", 3 * cases.len())?;
    Ok(match n_failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Runs one case and writes its line; `false` if it failed.
fn check(case: &Case, backend: &GpuBackend, out: &mut impl Write) -> anyhow::Result<bool> {
    let start = Instant::now();
    let result = case.check(backend);
    let name = &case.name;
    match &result {
        Ok(error) => writeln!(
            out,
            "  ok     {name}: error {error:.1e}, {:.2?}",
            start.elapsed()
        )?,
        Err(failure) => writeln!(out, "  FAILED {name}: {failure}")?,
    }
    out.flush()?;
    Ok(result.is_ok())
}
