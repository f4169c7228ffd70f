//! Where the time of a test goes: the steps of a program, put together by what they do.

use std::time::Duration;

use minerva_compute::{Cost, StepProfile};
use serde_json::{Value, json};

use crate::output::table;

use super::limits;

/// Steps that do the same in all layers.
struct Kind {
    /// What they do, such as `product Q4_K ffn_down`.
    name: String,
    n_calls: u64,
    time: Duration,
    cost: Cost,
}

/// What the steps of all repetitions of a test took.
pub(super) struct Profile {
    /// The longest first.
    kinds: Vec<Kind>,
    /// From the first step to the last, with what lies between the batches.
    time: Duration,
}

impl Profile {
    /// Puts steps together; `time` is that of all repetitions.
    pub(super) fn new(steps: Vec<StepProfile>, time: Duration) -> Profile {
        let mut kinds: Vec<Kind> = Vec::new();
        for step in steps.into_iter().filter(|step| step.n_calls > 0) {
            let name = name(&step);
            let at = kinds.iter().position(|kind| kind.name == name);
            let at = at.unwrap_or_else(|| {
                kinds.push(Kind {
                    name,
                    n_calls: 0,
                    time: Duration::ZERO,
                    cost: Cost::default(),
                });
                kinds.len() - 1
            });
            kinds[at].n_calls += step.n_calls;
            kinds[at].time += step.time;
            kinds[at].cost += step.cost;
        }
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.time));
        Profile { kinds, time }
    }

    /// What all steps read and computed.
    pub(super) fn cost(&self) -> Cost {
        let mut all = Cost::default();
        for kind in &self.kinds {
            all += kind.cost;
        }
        all
    }

    /// The time of all repetitions.
    pub(super) fn time(&self) -> Duration {
        self.time
    }

    /// Time in no step: between batches, and before and after them.
    fn rest(&self) -> Duration {
        let steps = self.kinds.iter().map(|kind| kind.time).sum();
        self.time.saturating_sub(steps)
    }

    fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.time.as_secs_f64()
    }

    pub(super) fn table(&self, limits: Option<&limits::Measured>) -> String {
        let row = |name: &str, n_calls: Option<u64>, time: Duration, cost: Cost| {
            let seconds = time.as_secs_f64();
            let rate = |n: u64| match n {
                0 => String::new(),
                n => format!("{:.2}", n as f64 / seconds / 1e9),
            };
            let mut row = vec![
                name.to_owned(),
                n_calls.map_or(String::new(), |n| n.to_string()),
                format!("{:.2}", seconds * 1e3),
                percent(self.share(time)),
                rate(cost.read_bytes),
                rate(cost.operations()),
            ];
            if let Some(limits) = limits {
                let shares = limits.shares(cost, time);
                let shown = |n: u64, share: f64| match n {
                    0 => String::new(),
                    _ => percent(share),
                };
                row.push(shown(cost.read_bytes, shares.read));
                row.push(shown(cost.operations(), shares.computed));
            }
            row
        };
        let mut rows: Vec<Vec<String>> = self
            .kinds
            .iter()
            .map(|kind| row(&kind.name, Some(kind.n_calls), kind.time, kind.cost))
            .collect();
        rows.push(row("between steps", None, self.rest(), Cost::default()));
        rows.push(row("all", None, self.time, self.cost()));
        let mut heading = vec!["STEP", "CALLS", "MS", "SHARE", "GB/S", "GOPS"];
        if limits.is_some() {
            heading.extend(["OF MEMORY", "OF PEAK"]);
        }
        table(&heading, &[1, 2, 3, 4, 5, 6, 7], &rows)
    }

    pub(super) fn to_json(&self) -> Value {
        let kinds = self.kinds.iter().map(|kind| {
            json!({
                "step": kind.name,
                "calls": kind.n_calls,
                "time_ns": kind.time.as_nanos() as u64,
                "share": self.share(kind.time),
                "read_bytes": kind.cost.read_bytes,
                "int8_operations": kind.cost.int8_operations,
                "int16_operations": kind.cost.int16_operations,
                "bf16_operations": kind.cost.bf16_operations,
                "f32_operations": kind.cost.f32_operations,
            })
        });
        kinds.collect()
    }
}

/// A share for people.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// What a step does, with which types or kernel and which matrices, in whichever layer.
fn name(step: &StepProfile) -> String {
    let mut roles: Vec<String> = Vec::new();
    let mut types: Vec<&str> = Vec::new();
    for (name, dtype) in &step.weights {
        let role = role(name);
        if !roles.contains(&role) {
            roles.push(role);
        }
        if !types.contains(&dtype.name()) {
            types.push(dtype.name());
        }
    }
    // A kernel is of a type.
    let how = match step.kernel.is_empty() {
        true => types.join("+"),
        false => step.kernel.clone(),
    };
    [step.op, &how, &roles.join("+")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A matrix's name without its layer and its number: `attn_q` for `blk.3.attn_q.weight`.
fn role(name: &str) -> String {
    let is_role = |part: &&str| {
        !["blk", "weight"].contains(part) && !part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts: Vec<&str> = name.split('.').filter(is_role).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use minerva_compute::DType;

    use super::*;

    fn step(op: &'static str, weights: &[(&str, DType)], ms: u64) -> StepProfile {
        let weights = weights.iter().map(|&(name, dtype)| (name.into(), dtype));
        StepProfile {
            op,
            kernel: String::new(),
            weights: weights.collect(),
            n_calls: 2,
            time: Duration::from_millis(ms),
            cost: Cost {
                read_bytes: 5_000_000,
                int8_operations: 0,
                int16_operations: 0,
                bf16_operations: 0,
                f32_operations: 0,
            },
        }
    }

    #[test]
    fn layers_are_put_together_and_mixtures_told_apart() {
        let steps = vec![
            step("product", &[("blk.0.ffn_down.weight", DType::Q4K)], 1),
            step("product", &[("blk.1.ffn_down.weight", DType::Q6K)], 2),
            step("product", &[("blk.12.ffn_down.weight", DType::Q4K)], 3),
            step(
                "gated product",
                &[
                    ("blk.1.ffn_gate.0.weight", DType::Q4K),
                    ("blk.1.ffn_gate.1.weight", DType::Q4K),
                    ("blk.1.ffn_up.0.weight", DType::Q6K),
                ],
                3,
            ),
            StepProfile {
                n_calls: 0,
                ..step("add", &[], 0)
            },
            StepProfile {
                kernel: "mul_mv_Q4_K".into(),
                ..step("product", &[("output.weight", DType::Q4K)], 1)
            },
        ];
        let profile = Profile::new(steps, Duration::from_millis(11));
        let names: Vec<&str> = profile.kinds.iter().map(|kind| &kind.name[..]).collect();
        assert_eq!(
            names,
            [
                "product Q4_K ffn_down",
                "gated product Q4_K+Q6_K ffn_gate+ffn_up",
                "product Q6_K ffn_down",
                "product mul_mv_Q4_K output",
            ]
        );
        assert_eq!(
            (profile.kinds[0].n_calls, profile.cost().read_bytes),
            (4, 25_000_000)
        );
        let table = profile.table(None);
        let cells = |line: usize| -> Vec<&str> {
            let line = table.lines().nth(line).unwrap();
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        };
        assert_eq!(
            cells(1),
            ["product Q4_K ffn_down", "4", "4.00", "36.4 %", "2.50"]
        );
        assert_eq!(cells(5), ["between steps", "1.00", "9.1 %"]);
        assert_eq!(cells(6), ["all", "11.00", "100.0 %", "2.27"]);
    }
}
