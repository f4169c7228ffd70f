//! `minerva devices`: what can compute, and how it will.

use std::io::Write;

use minerva_compute::cpu::CpuOptions;
use minerva_compute::{Backend, CpuBackend};
use minerva_gpu::{AdapterInfo, Choice, GpuBackend, GpuOptions, adapters};
use serde_json::json;

use crate::output::{Format, bytes, note_dim, print_json, stdout, table};

/// The options of `devices`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The form of the list
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Lists the processor and every adapter, each opened to say how it will compute.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let cpu = CpuBackend::new(&CpuOptions::default())?.description();
    let gpus: Vec<(AdapterInfo, Result<GpuBackend, String>)> = adapters()
        .into_iter()
        .map(|info| {
            let options = GpuOptions {
                choice: Choice::Named(info.name.clone()),
                ..GpuOptions::default()
            };
            let opened = GpuBackend::new(&options).map_err(|error| error.to_string());
            (info, opened)
        })
        .collect();
    if args.format == Format::Json {
        let gpus = gpus.iter().map(|(info, opened)| {
            json!({
                "name": info.name,
                "interface": info.interface,
                "kind": info.kind.name(),
                "driver": info.driver,
                "memory_bytes": info.memory_bytes,
                "process_memory_bytes": info.process_memory_bytes,
                "max_binding_bytes": info.max_binding_bytes,
                "reduction": opened.as_ref().ok().map(GpuBackend::reduction),
                "dots": opened.as_ref().ok().map(GpuBackend::dots),
                "multiplication": opened.as_ref().ok().map(GpuBackend::multiplication),
                "reads_in_place": opened.as_ref().ok().map(GpuBackend::reads_in_place),
                "error": opened.as_ref().err(),
            })
        });
        return print_json(&json!({ "cpu": cpu, "gpus": gpus.collect::<Vec<_>>() }));
    }
    let rows: Vec<Vec<String>> = gpus
        .iter()
        .map(|(info, opened)| {
            let how = match opened {
                Ok(backend) => format!(
                    "adds up by {}, multiplies by {} and in {}, {}",
                    backend.reduction(),
                    backend.dots(),
                    backend.multiplication(),
                    match backend.reads_in_place() {
                        true => "reads files in place",
                        false => "copies weights",
                    }
                ),
                Err(error) => error.clone(),
            };
            vec![
                info.name.clone(),
                format!("{}, {}", info.interface, info.kind.name()),
                info.memory_bytes.map_or("unknown".into(), bytes),
                info.process_memory_bytes.map_or("unknown".into(), bytes),
                bytes(info.max_binding_bytes),
                how,
                info.driver.clone(),
            ]
        })
        .collect();
    let mut out = stdout();
    let heading = [
        "GPU",
        "THROUGH",
        "MEMORY",
        "FOR US",
        "ONE BUFFER",
        "KERNELS",
        "DRIVER",
    ];
    write!(out, "{}", table(&heading, &[2, 3, 4], &rows))?;
    out.flush()?;
    note_dim(&cpu);
    if gpus.is_empty() {
        note_dim("no GPU: neither Metal nor a Vulkan loader with a driver was found");
    }
    Ok(())
}
