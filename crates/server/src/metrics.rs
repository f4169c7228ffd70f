//! Counters, gauges and histograms: each is named once, in [`METRICS`], with its alias of vLLM.
//!
//! Dashboards and inference gateways (llm-d, the Gateway API Inference Extension) read vLLM's
//! names; a metric with an alias is written under both, with the label `model_name` in place of
//! `model`. Handles are taken once per model, so that a token costs no look-up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// The name that vLLM has for it.
    pub alias: Option<&'static str>,
    /// What it counts, one line.
    pub help: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// From a cached prompt of a small model to a queue that nobody should wait in.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
];

/// Between tokens: from a small model on a GPU to a large one that shares a processor.
const TOKEN_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0,
];

/// Tokens of a prompt or an answer, by powers of two.
const TOKENS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
    65536.0, 131072.0, 262144.0, 1048576.0,
];

macro_rules! metrics {
    ($($variant:ident = $kind:expr, $name:literal, $alias:expr, $help:literal;)*) => {
        /// Rows of [`METRICS`].
        #[derive(Clone, Copy)]
        enum Id { $($variant,)* }

        /// Every metric, in the order of its number.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            alias: $alias,
            help: $help,
            kind: $kind,
        },)*];
    };
}

use Kind::{Counter as C, Gauge as G, Histogram as H};

metrics! {
    // the server
    BuildInfo = G, "minerva_build_info", None, "The version, as a label of 1";
    StartTime = G, "process_start_time_seconds", None, "When the process started, in seconds since 1970";
    ResidentMemory = G, "process_resident_memory_bytes", None, "Memory of the process that is in RAM";
    HttpRequests = C, "minerva_http_requests_total", None, "Requests answered, by method, route and status";
    HttpSeconds = H(SECONDS), "minerva_http_request_duration_seconds", None, "From a request's head to the end of its answer, by route";
    HttpRunning = G, "minerva_http_requests_running", None, "Requests whose answers are not at their end";
    HttpAborted = C, "minerva_http_requests_aborted_total", None, "Requests whose clients went away before the end of the answer";
    Errors = C, "minerva_errors_total", None, "Requests refused or failed, by error code";
    Panics = C, "minerva_panics_total", None, "Requests that failed by a fault of the program";
    Connections = G, "minerva_connections", None, "Open connections";
    // each model
    Running = G, "minerva_requests_running", Some("vllm:num_requests_running"), "Requests in prefill or decode";
    Waiting = G, "minerva_requests_waiting", Some("vllm:num_requests_waiting"), "Requests in the queue";
    CacheUsage = G, "minerva_kv_cache_usage_ratio", Some("vllm:kv_cache_usage_perc"), "Used part of the KV cache, 0 to 1";
    CacheBlocks = G, "minerva_kv_cache_blocks", None, "Blocks that the KV cache has";
    CacheConfig = G, "minerva_kv_cache_config_info", Some("vllm:cache_config_info"), "Sizes of the KV cache, as labels of 1";
    ModelMemory = G, "minerva_model_memory_bytes", None, "Memory of weights, cache and scratch";
    DeviceMemory = G, "minerva_model_device_memory_bytes", None, "Memory of weights, cache and scratch on a device beside the processor";
    Fallback = G, "minerva_model_on_fallback", None, "1 where a model's device has failed and another one computes it";
    FirstToken = H(SECONDS), "minerva_time_to_first_token_seconds", Some("vllm:time_to_first_token_seconds"), "From a request's arrival to its first token";
    BetweenTokens = H(TOKEN_SECONDS), "minerva_inter_token_latency_seconds", Some("vllm:inter_token_latency_seconds"), "From one token of a request to the next";
    QueueSeconds = H(SECONDS), "minerva_queue_time_seconds", Some("vllm:request_queue_time_seconds"), "From a request's arrival to the start of its prefill";
    RequestSeconds = H(SECONDS), "minerva_request_duration_seconds", Some("vllm:e2e_request_latency_seconds"), "From a request's arrival to its last token";
    PromptTokens = C, "minerva_prompt_tokens_total", Some("vllm:prompt_tokens_total"), "Tokens of prompts, cached ones too";
    CachedTokens = C, "minerva_cached_tokens_total", Some("vllm:prefix_cache_hits_total"), "Tokens of prompts that the cache held";
    CompletionTokens = C, "minerva_completion_tokens_total", Some("vllm:generation_tokens_total"), "Tokens of answers";
    RequestPrompt = H(TOKENS), "minerva_request_prompt_tokens", Some("vllm:request_prompt_tokens"), "Tokens of a request's prompt";
    RequestCompletion = H(TOKENS), "minerva_request_completion_tokens", Some("vllm:request_generation_tokens"), "Tokens of a request's answer";
    Finished = C, "minerva_requests_finished_total", Some("vllm:request_success_total"), "Requests that ended, by reason";
}

const METADATA: Metadata<'static> = Metadata::new("minerva", Level::INFO, None);

/// All metrics of a server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    models: Mutex<HashMap<String, Arc<ModelMetrics>>>,
    http_running: Gauge,
    http_aborted: Counter,
    panics: Counter,
    connections: Gauge,
    resident: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in METRICS {
            if let Kind::Histogram(buckets) = metric.kind {
                for name in [Some(metric.name), metric.alias].into_iter().flatten() {
                    builder = builder
                        .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
                        .expect("the list of buckets is not empty");
                }
            }
        }
        let recorder = builder.build_recorder();
        for metric in METRICS {
            for name in [Some(metric.name), metric.alias].into_iter().flatten() {
                let name = KeyName::from(name);
                let help = metric.help.into();
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, None, help),
                    Kind::Gauge => recorder.describe_gauge(name, None, help),
                    Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
                }
            }
        }
        let gauge = |id, labels| recorder.register_gauge(&key(id, labels), &METADATA);
        gauge(
            Id::BuildInfo,
            vec![Label::new("version", env!("CARGO_PKG_VERSION"))],
        )
        .set(1.0);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        gauge(Id::StartTime, Vec::new()).set(since.unwrap_or_default().as_secs_f64());
        let counter = |id| recorder.register_counter(&key(id, Vec::new()), &METADATA);
        Self {
            handle: recorder.handle(),
            models: Mutex::default(),
            http_running: gauge(Id::HttpRunning, Vec::new()),
            http_aborted: counter(Id::HttpAborted),
            panics: counter(Id::Panics),
            connections: gauge(Id::Connections, Vec::new()),
            resident: gauge(Id::ResidentMemory, Vec::new()),
            recorder,
        }
    }

    /// Everything as Prometheus' text.
    pub fn render(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes as f64);
        }
        self.handle.render()
    }

    /// Folds what was recorded into the histograms. Without it, and without a scrape, samples pile up.
    pub(crate) fn fold(&self) {
        self.handle.run_upkeep();
    }

    /// The metrics of a model, made on first use.
    pub fn model(&self, name: &str) -> Arc<ModelMetrics> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = models.get(name) {
            return Arc::clone(model);
        }
        let model = Arc::new(ModelMetrics::new(&self.recorder, name));
        models.insert(name.to_owned(), Arc::clone(&model));
        model
    }

    /// Counts how a model's request ended; `reason` is one of a few words.
    pub fn finished(&self, model: &str, reason: &'static str) {
        for (name, model_label, reason_label) in [
            (METRICS[Id::Finished as usize].name, "model", "reason"),
            (
                "vllm:request_success_total",
                "model_name",
                "finished_reason",
            ),
        ] {
            let labels = vec![
                Label::new(model_label, model.to_owned()),
                Label::new(reason_label, reason),
            ];
            let key = Key::from_parts(name, labels);
            self.recorder.register_counter(&key, &METADATA).increment(1);
        }
    }

    /// Says what a model's cache is; vLLM has its blocks as labels.
    pub fn set_cache_config(&self, model: &str, config: CacheConfig) {
        let CacheConfig {
            block_size,
            n_blocks,
        } = config;
        let labels = vec![Label::new("model", model.to_owned())];
        let blocks = key(Id::CacheBlocks, labels);
        self.recorder
            .register_gauge(&blocks, &METADATA)
            .set(n_blocks as f64);
        for (name, model_label, blocks_label) in [
            (METRICS[Id::CacheConfig as usize].name, "model", "n_blocks"),
            ("vllm:cache_config_info", "model_name", "num_gpu_blocks"),
        ] {
            let labels = vec![
                Label::new(model_label, model.to_owned()),
                Label::new("block_size", block_size.to_string()),
                Label::new(blocks_label, n_blocks.to_string()),
            ];
            let key = Key::from_parts(name, labels);
            self.recorder.register_gauge(&key, &METADATA).set(1.0);
        }
    }

    /// A request began.
    pub(crate) fn http_started(&self) {
        self.http_running.increment(1.0);
    }

    /// A request's answer is at its end, or its client is gone.
    pub(crate) fn http_ended(&self, end: &HttpEnd) {
        self.http_running.decrement(1.0);
        if !end.is_whole {
            self.http_aborted.increment(1);
        }
        let labels = vec![
            Label::new("method", end.method),
            Label::new("route", end.route),
            Label::new("status", end.status.to_string()),
        ];
        let key_requests = key(Id::HttpRequests, labels);
        self.recorder
            .register_counter(&key_requests, &METADATA)
            .increment(1);
        let key_seconds = key(Id::HttpSeconds, vec![Label::new("route", end.route)]);
        self.recorder
            .register_histogram(&key_seconds, &METADATA)
            .record(end.time.as_secs_f64());
    }

    /// A request was refused or failed, in its answer or in the middle of its stream.
    pub fn error(&self, code: &'static str) {
        let key = key(Id::Errors, vec![Label::new("code", code)]);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// A handler, or a step of the engine, panicked.
    pub fn panicked(&self) {
        self.panics.increment(1);
    }

    /// Open connections; the guard counts one.
    pub(crate) fn connection(&self) -> GaugeGuard {
        self.connections.increment(1.0);
        GaugeGuard(self.connections.clone())
    }
}

/// How an HTTP request ended.
pub(crate) struct HttpEnd {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) status: u16,
    pub(crate) time: Duration,
    /// Whether the client got the whole answer.
    pub(crate) is_whole: bool,
}

/// The sizes of a KV cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// Positions of a block.
    pub block_size: usize,
    /// Blocks of the cache.
    pub n_blocks: usize,
}

/// The tokens of a request that ended.
#[derive(Debug, Clone, Copy)]
pub struct RequestTokens {
    /// Of its prompt.
    pub prompt: usize,
    /// Of its prompt, those that the cache held.
    pub cached: usize,
    /// Of its answer.
    pub completion: usize,
}

/// Takes one from a gauge when it is dropped.
pub(crate) struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

fn key(id: Id, labels: Vec<Label>) -> Key {
    Key::from_parts(METRICS[id as usize].name, labels)
}

/// Resident memory of this process, where the system says it in a file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// A handle and that of its alias.
struct Twin<T>(T, Option<T>);

/// The metrics of one model.
pub struct ModelMetrics {
    running: Twin<Gauge>,
    waiting: Twin<Gauge>,
    cache_usage: Twin<Gauge>,
    memory: Twin<Gauge>,
    device_memory: Twin<Gauge>,
    fallback: Twin<Gauge>,
    first_token: Twin<Histogram>,
    between_tokens: Twin<Histogram>,
    queue_seconds: Twin<Histogram>,
    request_seconds: Twin<Histogram>,
    prompt_tokens: Twin<Counter>,
    cached_tokens: Twin<Counter>,
    completion_tokens: Twin<Counter>,
    request_prompt: Twin<Histogram>,
    request_completion: Twin<Histogram>,
}

impl ModelMetrics {
    fn new(recorder: &PrometheusRecorder, model: &str) -> Self {
        let gauge = |id| twin(id, model, |key| recorder.register_gauge(key, &METADATA));
        let counter = |id| twin(id, model, |key| recorder.register_counter(key, &METADATA));
        let histogram = |id| twin(id, model, |key| recorder.register_histogram(key, &METADATA));
        Self {
            running: gauge(Id::Running),
            waiting: gauge(Id::Waiting),
            cache_usage: gauge(Id::CacheUsage),
            memory: gauge(Id::ModelMemory),
            device_memory: gauge(Id::DeviceMemory),
            fallback: gauge(Id::Fallback),
            first_token: histogram(Id::FirstToken),
            between_tokens: histogram(Id::BetweenTokens),
            queue_seconds: histogram(Id::QueueSeconds),
            request_seconds: histogram(Id::RequestSeconds),
            prompt_tokens: counter(Id::PromptTokens),
            cached_tokens: counter(Id::CachedTokens),
            completion_tokens: counter(Id::CompletionTokens),
            request_prompt: histogram(Id::RequestPrompt),
            request_completion: histogram(Id::RequestCompletion),
        }
    }

    /// Sets how many requests are in prefill or decode.
    pub fn set_running(&self, n: usize) {
        self.running.set(n as f64);
    }

    /// Sets how many requests are in the queue.
    pub fn set_waiting(&self, n: usize) {
        self.waiting.set(n as f64);
    }

    /// Sets the used part of the cache, 0 to 1.
    pub fn set_cache_usage(&self, ratio: f64) {
        self.cache_usage.set(ratio);
    }

    /// Sets the memory of weights, cache and scratch.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.set(bytes as f64);
    }

    /// Sets the memory on a device beside the processor.
    pub fn set_device_memory(&self, bytes: u64) {
        self.device_memory.set(bytes as f64);
    }

    /// Sets whether its device has failed, and another one computes it.
    pub fn set_on_fallback(&self, is_on_fallback: bool) {
        self.fallback.set(f64::from(u8::from(is_on_fallback)));
    }

    /// A request left the queue.
    pub fn started(&self, waited: Duration) {
        self.queue_seconds.record(waited);
    }

    /// A request has its first token.
    pub fn first_token(&self, since_arrival: Duration) {
        self.first_token.record(since_arrival);
    }

    /// A request has its next token.
    pub fn next_token(&self, since_last: Duration) {
        self.between_tokens.record(since_last);
    }

    /// A request ended.
    pub fn ended(&self, since_arrival: Duration, tokens: RequestTokens) {
        let RequestTokens {
            prompt,
            cached,
            completion,
        } = tokens;
        self.request_seconds.record(since_arrival);
        self.prompt_tokens.add(prompt);
        self.cached_tokens.add(cached);
        self.completion_tokens.add(completion);
        self.request_prompt.record_count(prompt);
        self.request_completion.record_count(completion);
    }
}

fn twin<T>(id: Id, model: &str, register: impl Fn(&Key) -> T) -> Twin<T> {
    let metric = &METRICS[id as usize];
    let labeled = |name, label| {
        let labels = vec![Label::new(label, model.to_owned())];
        register(&Key::from_parts(name, labels))
    };
    Twin(
        labeled(metric.name, "model"),
        metric.alias.map(|alias| labeled(alias, "model_name")),
    )
}

impl<T> Twin<T> {
    fn each(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.0).chain(&self.1)
    }
}

impl Twin<Gauge> {
    fn set(&self, value: f64) {
        self.each().for_each(|gauge| gauge.set(value));
    }
}

impl Twin<Counter> {
    fn add(&self, n: usize) {
        self.each().for_each(|counter| counter.increment(n as u64));
    }
}

impl Twin<Histogram> {
    fn record(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.each().for_each(|histogram| histogram.record(seconds));
    }

    fn record_count(&self, n: usize) {
        self.each().for_each(|histogram| histogram.record(n as f64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names: Vec<&str> = METRICS
            .iter()
            .flat_map(|metric| [Some(metric.name), metric.alias])
            .flatten()
            .collect();
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n_names);
        for metric in METRICS {
            let is_counter = matches!(metric.kind, Kind::Counter);
            assert_eq!(
                metric.name.ends_with("_total"),
                is_counter,
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn a_model_is_written_under_both_names() {
        let metrics = Metrics::new();
        let model = metrics.model("tiny");
        model.set_running(2);
        model.set_waiting(3);
        model.set_cache_usage(0.25);
        model.set_memory(1 << 20);
        model.started(Duration::from_millis(2));
        model.first_token(Duration::from_millis(20));
        model.next_token(Duration::from_millis(4));
        let tokens = RequestTokens {
            prompt: 10,
            cached: 4,
            completion: 2,
        };
        model.ended(Duration::from_millis(30), tokens);
        metrics.finished("tiny", "stop");
        let config = CacheConfig {
            block_size: 16,
            n_blocks: 64,
        };
        metrics.set_cache_config("tiny", config);
        metrics.fold();
        let text = metrics.render();
        for line in [
            "minerva_requests_running{model=\"tiny\"} 2",
            "vllm:num_requests_running{model_name=\"tiny\"} 2",
            "vllm:num_requests_waiting{model_name=\"tiny\"} 3",
            "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.25",
            "vllm:cache_config_info{model_name=\"tiny\",block_size=\"16\",num_gpu_blocks=\"64\"} 1",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"0.025\"} 1",
            "vllm:inter_token_latency_seconds_count{model_name=\"tiny\"} 1",
            "vllm:e2e_request_latency_seconds_count{model_name=\"tiny\"} 1",
            "vllm:prompt_tokens_total{model_name=\"tiny\"} 10",
            "vllm:generation_tokens_total{model_name=\"tiny\"} 2",
            "minerva_cached_tokens_total{model=\"tiny\"} 4",
            "minerva_requests_finished_total{model=\"tiny\",reason=\"stop\"} 1",
            "# TYPE vllm:time_to_first_token_seconds histogram",
            "# HELP minerva_queue_time_seconds From a request's arrival to the start of its prefill",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
