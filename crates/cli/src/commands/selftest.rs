//! `minerva selftest`: the conformance cases of the GPU's kernels on this machine, as a report;
//! with `--speed`, how fast its matrix products are.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use minerva_compute::DType;
use minerva_compute::conformance::{Case, cases};
use minerva_gpu::speed::{Matrices, N_TOKENS, Size, copy_speed, speed};
use minerva_gpu::{Choice, GpuBackend, GpuOptions};

use crate::output::stdout;

/// Whose matrices are measured.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Shape {
    #[value(name = "7B")]
    Of7B,
    Tiny,
}

/// The options of `selftest`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The GPU: gpu for the best adapter, auto for the best that is not the processor itself, or a part of an
    /// adapter's name
    #[arg(long, value_name = "DEVICE", default_value = "gpu")]
    device: String,

    /// Measure the matrix products of a model in these types too, or in all
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',', num_args = 0.., require_equals = true)]
    speed: Option<Vec<String>>,

    /// Of which model: 7B, or tiny, to try it out
    #[arg(long, value_enum, default_value = "7B", requires = "speed")]
    speed_shape: Shape,

    /// Measure only
    #[arg(long, requires = "speed")]
    speed_only: bool,
}

/// Runs every case with and without subgroups, and with checks of every access; then measures.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let choice = match args.device.as_str() {
        "gpu" => Choice::Best,
        "auto" => Choice::Hardware,
        "cpu" => anyhow::bail!("--device: found cpu, expected a GPU: this tests a GPU's kernels"),
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
    let mut out = stdout();
    let n_failed = match args.speed_only {
        true => 0,
        false => check_all(&usual, &mut out)?,
    };
    if !types.is_empty() {
        let size = match args.speed_shape {
            Shape::Of7B => Size::of_7b(),
            Shape::Tiny => Size::tiny(),
        };
        measure(&GpuBackend::new(&usual)?, &types, size, &mut out)?;
    }
    Ok(match n_failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// How many cases failed.
fn check_all(usual: &GpuOptions, out: &mut impl Write) -> anyhow::Result<usize> {
    let without_subgroups = GpuOptions {
        without_subgroups: true,
        ..usual.clone()
    };
    let checked = GpuOptions {
        checks_accesses: true,
        ..usual.clone()
    };
    let cases = cases();
    let mut n_failed = 0;
    for (mode, options) in [
        ("as used", usual),
        ("without subgroups", &without_subgroups),
        ("with checks", &checked),
    ] {
        let backend = GpuBackend::new(options)?;
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
            n_failed += usize::from(!check(case, &backend, out)?);
        }
    }
    writeln!(out, "{} cases, {n_failed} failed", 3 * cases.len())?;
    Ok(n_failed)
}

/// A table of how fast the products of a model's matrices are, and copies of as many bytes.
fn measure(
    backend: &GpuBackend,
    types: &[DType],
    size: Size,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let copied = copy_speed(backend, size.bytes, size)?;
    writeln!(
        out,
        "\ncopy of {} MiB: {:.2} GB/s",
        size.bytes >> 20,
        copied / 1e9
    )?;
    writeln!(
        out,
        "\n{:<8} {:<24} {:>5} {:>6} {:>8} {:>8} {:>9} {:>10}",
        "TYPE", "MATRICES", "ROWS", "LENGTH", "MB", "GB/s", "COPY GB/s", "GFLOP/s"
    )?;
    for &dtype in types {
        for matrices in Matrices::of(size) {
            let n_bytes = matrices.n_bytes(dtype);
            let copied = copy_speed(backend, n_bytes, size)?;
            let speed = speed(backend, dtype, &matrices, size)?;
            writeln!(
                out,
                "{:<8} {:<24} {:>5} {:>6} {:>8.2} {:>8.2} {:>9.2} {:>10.2}",
                dtype.to_string(),
                matrices.name,
                matrices.n * matrices.n_rows,
                matrices.row_len,
                n_bytes as f64 / 1e6,
                speed.bytes_per_s / 1e9,
                copied / 1e9,
                speed.operations_per_s / 1e9,
            )?;
            out.flush()?;
        }
    }
    writeln!(
        out,
        "\nGB/s of weights for one token, GFLOP/s for {N_TOKENS} tokens"
    )?;
    Ok(())
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
