//! `minerva selftest`: the conformance cases of the GPU's kernels on this machine, as a report;
//! with `--speed`, how fast its matrix products are.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use minerva_compute::DType;
use minerva_compute::conformance::{Case, cases};
use minerva_gpu::speed::{N_TOKENS, Size, copy_speed, speed};
use minerva_gpu::{Choice, GpuBackend, GpuOptions};

use crate::output::stdout;

/// The options of `selftest`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The GPU: gpu for the best adapter, or a part of an adapter's name
    #[arg(long, value_name = "DEVICE", default_value = "gpu")]
    device: String,

    /// Measure the matrix products of these types too, or of all
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',', num_args = 0.., require_equals = true)]
    speed: Option<Vec<String>>,
}

/// Runs every case with and without subgroups, and with checks of every access.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let choice = match args.device.as_str() {
        "gpu" => Choice::Best,
        name => Choice::Named(name.into()),
    };
    let types = match &args.speed {
        None => Vec::new(),
        Some(names) if names.is_empty() => DType::ALL.to_vec(),
        Some(names) => names
            .iter()
            .map(|name| dtype(name))
            .collect::<Result<_, _>>()?,
    };
    let usual = GpuOptions {
        choice,
        ..GpuOptions::default()
    };
    let backend = GpuBackend::new(&usual)?;
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
            "minerva {}, {} {}: {}, {}, {}, {}, adds up by {}, multiplies by {} and in {}: {mode}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            info.name,
            info.interface,
            info.kind.name(),
            info.driver,
            backend.reduction(),
            backend.dots(),
            backend.multiplication(),
        )?;
        for case in &cases {
            n_failed += usize::from(!check(case, &backend, &mut out)?);
        }
    }
    writeln!(out, "{} cases, {n_failed} failed", 3 * cases.len())?;
    if !types.is_empty() {
        let copied = copy_speed(&backend, Size::default())?;
        writeln!(out, "copy     {:8.2} GB/s", copied / 1e9)?;
    }
    for dtype in types {
        let speed = speed(&backend, dtype, Size::default())?;
        writeln!(
            out,
            "{dtype:<8} {:8.2} GB/s for one token, {:9.2} GFLOP/s for {N_TOKENS}",
            speed.bytes_per_s / 1e9,
            speed.operations_per_s / 1e9,
        )?;
        out.flush()?;
    }
    Ok(match n_failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn dtype(name: &str) -> anyhow::Result<DType> {
    DType::from_name(name).with_context(|| format!("speed: {name:?}, expected types such as Q4_K"))
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
