//! What the processor can do at most, and what share of it a test reaches.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use minerva_compute::Cost;
use minerva_compute::cpu::{Isa, Peak, Roofline};
use minerva_engine::memory_available;
use serde_json::{Value, json};

use crate::backend::Opened;
use crate::output::{bytes, stdout, table};

/// The limits of the processor on a backend's threads.
pub(super) struct Measured {
    n_threads: usize,
    roofline: Roofline,
    /// That of the instruction set in use.
    peak: Peak,
}

/// Shares of the limits, 1 for all of it.
#[derive(Clone, Copy)]
pub(super) struct Shares {
    /// Of what can be read from memory in a second.
    pub(super) read: f64,
    /// Of what can be multiplied: the least time that the products take, by the time taken.
    pub(super) computed: f64,
}

impl Measured {
    /// Measures the processor's limits; anything else has none that are known.
    pub(super) fn new(opened: &Opened) -> anyhow::Result<Measured> {
        let Some(cpu) = &opened.cpu else {
            bail!(
                "roofline: {}, expected the processor\n`minerva selftest --speed` measures a GPU",
                opened.backend.description()
            );
        };
        let roofline = cpu.roofline(memory_available())?;
        let isa = cpu.isa();
        let peak = roofline.peaks.iter().find(|peak| peak.isa == isa);
        Ok(Measured {
            n_threads: opened.n_threads,
            peak: *peak.expect("of all instruction sets that can be in use"),
            roofline,
        })
    }

    pub(super) fn isa(&self) -> Isa {
        self.peak.isa
    }

    /// What was reached where so much was read and computed in this time.
    pub(super) fn shares(&self, cost: Cost, time: Duration) -> Shares {
        let seconds = time.as_secs_f64();
        let some = |n: u64, per_s: Option<f64>| per_s.map_or(0.0, |per_s| n as f64 / per_s);
        let computing = cost.int8_operations as f64 / self.peak.int8_operations_per_s
            + cost.f32_operations as f64 / self.peak.f32_operations_per_s
            + some(cost.int16_operations, self.peak.int16_operations_per_s)
            + some(cost.bf16_operations, self.peak.bf16_operations_per_s);
        Shares {
            read: cost.read_bytes as f64 / seconds / self.roofline.read_bytes_per_s,
            computed: computing / seconds,
        }
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        let Roofline {
            read_bytes_per_s,
            buffer_bytes,
            cache_bytes,
            ref peaks,
        } = self.roofline;
        let threads = match self.n_threads {
            1 => "1 thread reads".into(),
            n => format!("{n} threads read"),
        };
        let caches = match cache_bytes {
            Some(n) => format!("the last caches have {}", bytes(n)),
            None => "nobody says how large the caches are".into(),
        };
        let mut out = stdout();
        writeln!(
            out,
            "{threads} {:.2} GB/s of memory ({} in turn; {caches}) and compute\n",
            read_bytes_per_s / 1e9,
            bytes(buffer_bytes),
        )?;
        let rows: Vec<Vec<String>> = peaks
            .iter()
            .map(|peak| {
                let some = |per_s: Option<f64>| match per_s {
                    Some(n) => format!("{:.1}", n / 1e9),
                    None => "-".into(),
                };
                vec![
                    peak.isa.to_string(),
                    some(Some(peak.int8_operations_per_s)),
                    some(peak.int16_operations_per_s),
                    some(Some(peak.f32_operations_per_s)),
                    some(peak.bf16_operations_per_s),
                    if peak.isa == self.isa() { "in use" } else { "" }.into(),
                ]
            })
            .collect();
        let heading = [
            "INSTRUCTIONS",
            "INT8 GOPS",
            "INT16 GOPS",
            "F32 GFLOPS",
            "BF16 GFLOPS",
            "",
        ];
        writeln!(out, "{}", table(&heading, &[1, 2, 3, 4], &rows))?;
        out.flush()?;
        Ok(())
    }

    pub(super) fn to_json(&self) -> Value {
        let peaks = self.roofline.peaks.iter().map(|peak| {
            json!({
                "isa": peak.isa.name(),
                "int8_operations_per_s": peak.int8_operations_per_s,
                "int16_operations_per_s": peak.int16_operations_per_s,
                "bf16_operations_per_s": peak.bf16_operations_per_s,
                "f32_operations_per_s": peak.f32_operations_per_s,
            })
        });
        json!({
            "n_threads": self.n_threads,
            "read_bytes_per_s": self.roofline.read_bytes_per_s,
            "buffer_bytes": self.roofline.buffer_bytes,
            "cache_bytes": self.roofline.cache_bytes,
            "isa": self.isa().name(),
            "peaks": peaks.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_the_least_time_by_the_time_taken() {
        let peak = Peak {
            isa: Isa::Scalar,
            int8_operations_per_s: 100.0,
            int16_operations_per_s: Some(50.0),
            bf16_operations_per_s: Some(1000.0),
            f32_operations_per_s: 10.0,
        };
        let limits = Measured {
            n_threads: 1,
            roofline: Roofline {
                read_bytes_per_s: 50.0,
                buffer_bytes: 1,
                cache_bytes: None,
                peaks: vec![peak],
            },
            peak,
        };
        let cost = Cost {
            read_bytes: 50,
            int8_operations: 50,
            int16_operations: 10,
            bf16_operations: 500,
            f32_operations: 5,
        };
        let shares = limits.shares(cost, Duration::from_secs(2));
        assert_eq!((shares.read, shares.computed), (0.5, 0.85));
    }
}
