//! `minerva serve`: the service over HTTP, until a signal ends it.

use std::io::Write;
use std::num::NonZeroUsize;

use minerva_compute::DeviceLayers;
use minerva_compute::cpu::{self, CpuOptions};
use minerva_engine::Backends;
use minerva_server::{Batches, DeviceFallback, EngineSettings, WeightsPlace};

use crate::backend::{self, Device, Placement};
use crate::isolated::isolated;
use crate::model::NAME_HELP;
use crate::output::stdout;
use crate::settings::SettingArgs;

/// The options of `serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Models to load at the start, beside those of the settings file
    #[arg(value_name = "MODEL", long_help = NAME_HELP)]
    models: Vec<String>,

    /// Threads that compute [default: one per core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    #[command(flatten)]
    settings: SettingArgs,
}

/// Serves; the one line on standard output says where, when it listens.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut sources = args.settings.sources()?;
    sources.models.clone_from(&args.models);
    let open = |settings: &EngineSettings| Ok(backends(settings, args.threads)?);
    minerva_server::serve(sources, open, isolated, |server| {
        // Nobody may read it; the service goes on.
        let mut out = stdout();
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(out, "minerva {version}: {}", server.url());
        let _ = out.flush();
    })?;
    Ok(())
}

/// What computes, as the settings say.
fn backends(
    settings: &EngineSettings,
    n_threads: Option<NonZeroUsize>,
) -> anyhow::Result<Backends> {
    let device: Device = settings.device.parse().map_err(anyhow::Error::msg)?;
    let cpu = CpuOptions {
        threads: n_threads.map(NonZeroUsize::get),
        weights: match settings.weights {
            WeightsPlace::Mapped => cpu::WeightsPlace::Mapped,
            WeightsPlace::Locked => cpu::WeightsPlace::Locked,
            WeightsPlace::Copied => cpu::WeightsPlace::Copied,
        },
        has_fast_batches: settings.batches == Batches::Fast,
        ..CpuOptions::default()
    };
    let fallback = match settings.device_fallback {
        DeviceFallback::None => None,
        DeviceFallback::Cpu => Some(backend::processor(&cpu)?.backend),
    };
    let layers = settings.gpu_layers.0;
    // A GPU that computes everything needs no threads and has one way to compute; what takes over for it
    // has options of its own.
    let is_for_fallback =
        fallback.is_some() && layers == DeviceLayers::All && matches!(device, Device::Gpu(_));
    let placement = Placement {
        device,
        layers,
        gpu_memory_bytes: settings.gpu_memory_bytes,
        cpu: CpuOptions {
            threads: cpu.threads.filter(|_| !is_for_fallback),
            has_fast_batches: cpu.has_fast_batches && !is_for_fallback,
            weights: match cpu.weights {
                cpu::WeightsPlace::Locked if is_for_fallback => cpu::WeightsPlace::Mapped,
                other => other,
            },
            ..cpu
        },
    };
    Ok(Backends {
        first: placement.open()?.backend,
        fallback,
    })
}
