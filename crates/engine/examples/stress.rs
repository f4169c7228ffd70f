//! Many short requests that are cancelled at random, or models that are switched all the time: the
//! counters must add up, some prompts must have the scores that the processor gives them, no block may
//! leak, and memory must stay flat.
//!
//! ```text
//! stress requests N MODEL.gguf
//! stress switches N MODEL.gguf OTHER.gguf
//! stress gap N MODEL.gguf
//! stress --gpu losses N MODEL.gguf
//! ```
//!
//! With `--gpu` before it all, a GPU computes; `losses` are requests while the device is lost again and
//! again. `gap` measures how much the tokens of one stream slow
//! down while a prompt of N tokens comes in, beside those before and after it, since machines drift.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use minerva_compute::cpu::CpuOptions;
use minerva_compute::{Backend, CpuBackend, DeviceError};
use minerva_engine::chat::renderer::in_process;
use minerva_engine::{
    Answer, Deadlines, Engine, EngineError, EngineOptions, Evaluator, EvaluatorOptions, Event,
    GenerateConfig, GenerateRequest, MemoryPlan, Model, ModelConfig, Models,
};

use minerva_gpu::{GpuBackend, GpuOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Threads that ask.
const N_CLIENTS: u64 = 24;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let (gpu, arguments) = match arguments {
        ["--gpu", rest @ ..] => (
            Some(Arc::new(GpuBackend::new(&GpuOptions::default())?)),
            rest,
        ),
        rest => (None, rest),
    };
    let backend: Arc<dyn Backend> = match &gpu {
        Some(gpu) => gpu.clone(),
        None => Arc::new(CpuBackend::new(&CpuOptions::default())?),
    };
    match (arguments, gpu) {
        (["requests", n, model], gpu) => requests(backend, n, model, gpu.as_deref(), false),
        (["losses", n, model], Some(gpu)) => requests(backend, n, model, Some(&gpu), true),
        (["switches", n, model, other], _) => switches(backend, n, [model, other]),
        (["gap", n, model], _) => gap(backend, n, model),
        _ => Err(
            "expected: requests N MODEL, switches N MODEL OTHER, gap N MODEL, or \
                  --gpu losses N MODEL"
                .into(),
        ),
    }
}

/// Prompts whose scores are known, and one of so many requests asks for those of one of them.
const N_KNOWN: usize = 8;
const KNOWN_EVERY: u64 = 16;

/// How far a score may be from the processor's, whose sums are in another order.
const TOLERANCE: f32 = 0.02;

/// Steps from one loss of the device to the next.
const LOSSES_EVERY: u64 = 20;

/// How long a client waits that was told that too many do.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What became of requests, as those who asked saw it.
#[derive(Default)]
struct Outcomes {
    submitted: AtomicU64,
    answered: AtomicU64,
    dropped: AtomicU64,
    timed_out: AtomicU64,
    /// With the device.
    failed: AtomicU64,
    /// Attempts; each was made again.
    overloaded: AtomicU64,
    /// Scores that were compared.
    compared: AtomicU64,
}

/// A prompt, and the scores of its tokens but the first.
struct Known {
    prompt: Vec<u32>,
    scores: Vec<f32>,
}

/// Prompts with the scores that the processor gives them.
fn known(model: &Arc<Model>) -> Result<Vec<Known>> {
    let cpu = CpuBackend::new(&CpuOptions::default())?;
    let mut evaluator = Evaluator::new(model.clone(), &cpu, &EvaluatorOptions::default())?;
    let vocab_size = model.hparams().vocab_size;
    let known = (0..N_KNOWN).map(|i| {
        let prompt: Vec<u32> = (0..10 + 5 * i)
            .map(|j| ((i * 7919 + j * 104_729) % vocab_size) as u32)
            .collect();
        let scores = evaluator.score(&prompt, 1)?;
        Ok(Known { prompt, scores })
    });
    known.collect()
}

fn requests(
    backend: Arc<dyn Backend>,
    n: &str,
    path: &str,
    gpu: Option<&GpuBackend>,
    is_lost: bool,
) -> Result<()> {
    let n: u64 = n.parse()?;
    let options = EngineOptions {
        context: Some(128),
        max_sequences: 16,
        // Ten blocks, of which each sequence may need eight: some are preempted.
        cache_tokens: Some(160),
        max_waiting: 20,
        ..EngineOptions::default()
    };
    let model = Arc::new(Model::open(path)?);
    let known = known(&model)?;
    // With what stays: kernels, and buffers for uploads.
    drop(Engine::start(model.clone(), backend.clone(), &options)?);
    let before = gpu.map(GpuBackend::held).transpose()?;
    let engine = Engine::start(model, backend, &options)?;
    let outcomes = Outcomes::default();
    let is_over = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    let start = Instant::now();
    let warm = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let clients = (0..N_CLIENTS).map(|_| {
            scope.spawn(|| -> Result<()> {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= n {
                        return Ok(());
                    }
                    if number == n / 10 {
                        warm.store(resident_bytes()?, Ordering::Relaxed);
                    }
                    if number.is_multiple_of((n / 10).max(1)) {
                        let mib = resident_bytes()? >> 20;
                        println!("{number:>6} requests, {mib} MiB, {:?}", engine.stats());
                    }
                    ask(&engine, number, &known, &outcomes)?;
                }
            })
        });
        let clients = clients.collect::<Vec<_>>();
        if let (Some(gpu), true) = (gpu, is_lost) {
            scope.spawn(|| {
                let mut next = LOSSES_EVERY;
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(BACK_OFF / 10);
                    if engine.stats().n_steps >= next {
                        gpu.lose_device("taken away");
                        next += LOSSES_EVERY;
                    }
                }
            });
        }
        let joined = clients.into_iter().map(|client| client.join());
        let joined: Vec<_> = joined.collect();
        is_over.store(true, Ordering::Relaxed);
        for client in joined {
            client.map_err(|_| "a client panicked")??;
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    // The last readers have gone; the engine sees it before its next step.
    let deadline = Instant::now() + Duration::from_secs(10);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let submitted = count(&outcomes.submitted);
    let mut stats = engine.stats();
    while stats.n_answered + stats.n_dropped < stats.n_requests && Instant::now() < deadline {
        std::thread::yield_now();
        stats = engine.stats();
    }
    println!("{stats:?}");
    let (answered, timed_out) = (count(&outcomes.answered), count(&outcomes.timed_out));
    let (dropped, failed) = (count(&outcomes.dropped), count(&outcomes.failed));
    let (overloaded, compared) = (count(&outcomes.overloaded), count(&outcomes.compared));
    println!(
        "asked {n}: answered {answered}, dropped {dropped}, timed out {timed_out}, failed {failed}, \
         and told {overloaded} times to come again; {compared} scores compared; in the engine \
         {submitted}; {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let after = resident_bytes()?;
    let warm = count(&warm);
    println!(
        "resident: {} MiB after a tenth, {} MiB at the end",
        warm >> 20,
        after >> 20
    );
    check("sums", answered + dropped + timed_out + failed == n)?;
    let n_known = n.div_ceil(KNOWN_EVERY);
    // A loss ends some of them.
    check("scores", compared == n_known || is_lost && compared > 0)?;
    check("requests", stats.n_requests == submitted)?;
    check(
        "ends",
        stats.n_answered + stats.n_dropped == stats.n_requests,
    )?;
    check("blocks", stats.n_blocks_used == 0)?;
    check(
        "sequences",
        (stats.n_running, stats.n_waiting, stats.n_preempted) == (0, 0, 0),
    )?;
    check("preemptions", stats.n_preemptions > 0)?;
    match is_lost {
        false => check("failures", stats.n_failed_steps == 0)?,
        true => {
            check("losses", stats.n_reloads > 0 && failed > 0)?;
            check(
                "failures",
                stats.n_failed_steps == stats.n_device_failures
                    && stats.n_reloads <= stats.n_failed_steps,
            )?;
        }
    }
    check("memory", after < warm + (64 << 20))?;
    drop(engine);
    let left = gpu.map(GpuBackend::held).transpose()?;
    if let (Some(before), Some(left)) = (before, left) {
        println!("on the device: {before:?} before, {left:?} after");
        check("device memory", left.bytes <= before.bytes)?;
        // A device that was lost and is used no more is gone with its kernels.
        check(
            "objects",
            left.objects == before.objects || is_lost && left.objects < before.objects,
        )?;
    }
    Ok(())
}

/// One short request, which may be left at any event, or one whose scores are known.
fn ask(engine: &Engine, number: u64, known: &[Known], outcomes: &Outcomes) -> Result<()> {
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    let vocab_size = engine.model().hparams().vocab_size as u64;
    let shared = below(4) * 16;
    let mut prompt: Vec<u32> = (0..shared).map(|i| (i % vocab_size) as u32).collect();
    prompt.extend((0..1 + below(40)).map(|_| below(vocab_size) as u32));
    let mut config = GenerateConfig {
        max_tokens: Some(1 + below(32) as usize),
        ..GenerateConfig::default()
    };
    config.sampling.seed = Some(number);
    let mut request = GenerateRequest::new(prompt, config);
    request.n_choices = 1 + (below(10) == 0) as usize;
    request.tenant = below(5);
    if below(4) == 0 {
        let time = Some(Duration::from_millis(below(400)));
        request.deadlines = Deadlines {
            queue: time.filter(|_| below(2) == 0),
            first_token: time.filter(|_| below(2) == 0),
            total: time.filter(|_| below(2) == 0),
        };
    }
    let mut leaves_after = (below(3) == 0).then(|| below(10));
    let known = number.is_multiple_of(KNOWN_EVERY).then(|| {
        let index = (number / KNOWN_EVERY) as usize % known.len();
        &known[index]
    });
    if let Some(known) = known {
        let config = GenerateConfig {
            max_tokens: Some(1),
            ..GenerateConfig::default()
        };
        request = GenerateRequest::new(known.prompt.clone(), config);
        request.prompt_logprobs = Some(0);
        leaves_after = None;
    }
    let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    let answer = loop {
        match engine.submit(request.clone()) {
            Ok(answer) => {
                add(&outcomes.submitted);
                match attend(answer, leaves_after)? {
                    Some(end) => break end,
                    None => add(&outcomes.overloaded),
                }
            }
            Err(EngineError::Overloaded { .. }) => add(&outcomes.overloaded),
            Err(error) => return Err(error.into()),
        };
        std::thread::sleep(BACK_OFF);
    };
    match answer {
        End::Left => add(&outcomes.dropped),
        End::TimedOut => add(&outcomes.timed_out),
        End::Failed => add(&outcomes.failed),
        End::Answered(scores) => {
            if let Some(known) = known {
                let pairs = known.scores.iter().zip(&scores);
                let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                if scores.len() != known.scores.len() || far.is_nan() || far > TOLERANCE {
                    return Err(format!("request {number}: scores are off by {far}").into());
                }
                add(&outcomes.compared);
            }
            add(&outcomes.answered)
        }
    };
    Ok(())
}

/// How a request ended.
enum End {
    Left,
    TimedOut,
    Failed,
    /// With the scores of the prompt, if they were asked for.
    Answered(Vec<f32>),
}

/// Reads an answer, but no more events than this; `None` if too many waited.
fn attend(answer: Answer, leaves_after: Option<u64>) -> Result<Option<End>> {
    let mut scores = Vec::new();
    if leaves_after == Some(0) {
        return Ok(Some(End::Left));
    }
    for (i, event) in (1..).zip(answer.blocking()) {
        match event {
            Ok(Event::Prompt(tokens)) => scores.extend(tokens.iter().map(|token| token.logprob)),
            Ok(Event::Done { .. } | Event::Prefill { .. } | Event::Token { .. }) => {}
            Err(EngineError::Timeout { .. }) => return Ok(Some(End::TimedOut)),
            Err(EngineError::Overloaded { .. }) => return Ok(None),
            Err(EngineError::Device(DeviceError::Lost(_))) => return Ok(Some(End::Failed)),
            Err(error) => return Err(error.into()),
        }
        if Some(i) == leaves_after {
            return Ok(Some(End::Left));
        }
    }
    Ok(Some(End::Answered(scores)))
}

fn switches(backend: Arc<dyn Backend>, n: &str, paths: [&str; 2]) -> Result<()> {
    let n: usize = n.parse()?;
    let options = EngineOptions::default();
    let mut budget = 0;
    for path in paths {
        let plan = MemoryPlan::new(&Model::open(path)?, &*backend, &options)?;
        budget = budget.max(plan.total_bytes());
    }
    let configs = [("a", paths[0]), ("b", paths[1])];
    let configs = configs.map(|(name, path)| ModelConfig::new(name, path));
    // Room for one of them.
    let models = Models::new(backend, in_process, budget, configs.into())?;
    let config = GenerateConfig {
        max_tokens: Some(1),
        ..GenerateConfig::default()
    };
    let (mut loads, mut firsts) = (Vec::new(), Vec::new());
    // After a tenth, with the model loaded that is loaded at the end: they are not of one size.
    let (mut warm, warm_at) = (0, n / 10 + (n / 10 + n + 1) % 2);
    for i in 0..n {
        let start = Instant::now();
        let model = models.blocking_get(["a", "b"][i % 2])?;
        loads.push(start.elapsed());
        model.blocking_generate("Hello", &config)?;
        firsts.push(start.elapsed());
        drop(model);
        if i == warm_at {
            warm = resident_bytes()?;
        }
        if i.is_multiple_of((n / 10).max(1)) {
            println!("{i:>6} switches, {} MiB", resident_bytes()? >> 20);
        }
    }
    for (name, times) in [("to load", &mut loads), ("to the first token", &mut firsts)] {
        times.sort();
        let (median, max) = (times[n / 2], times[n - 1]);
        println!("{name}: median {median:.0?}, at most {max:.0?}");
    }
    let after = resident_bytes()?;
    println!(
        "resident: {} MiB after a tenth, {} MiB at the end",
        warm >> 20,
        after >> 20
    );
    check("memory", after < warm + (64 << 20))
}

fn gap(backend: Arc<dyn Backend>, n: &str, path: &str) -> Result<()> {
    let n: usize = n.parse()?;
    let options = EngineOptions {
        context: Some(n + 8),
        max_sequences: 2,
        ..EngineOptions::default()
    };
    let engine = Engine::start(Arc::new(Model::open(path)?), backend, &options)?;
    let config = GenerateConfig {
        ignore_eos: true,
        ..GenerateConfig::default()
    };
    let mut running = engine.generate_streaming("Once upon a time", &config)?;
    let mut token = || -> Result<Duration> {
        let start = Instant::now();
        running.blocking_next().ok_or("the stream has ended")??;
        Ok(start.elapsed())
    };
    for _ in 0..20 {
        token()?;
    }
    let mut before = (0..100).map(|_| token()).collect::<Result<Vec<_>>>()?;
    let vocab_size = engine.model().hparams().vocab_size as u32;
    let prompt: Vec<u32> = (0..n as u32)
        .map(|i| 100 + i * 7919 % (vocab_size - 100))
        .collect();
    let one = GenerateConfig {
        max_tokens: Some(1),
        ..GenerateConfig::default()
    };
    let (start, stats) = (Instant::now(), engine.stats());
    let long = engine.submit(GenerateRequest::new(prompt, one))?;
    let mut meanwhile = Vec::new();
    std::thread::scope(|scope| {
        let long = scope.spawn(|| long.blocking().for_each(drop));
        while !long.is_finished() {
            meanwhile.push(token()?);
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let n_steps = engine.stats().n_steps - stats.n_steps;
    let mut after = (0..100).map(|_| token()).collect::<Result<Vec<_>>>()?;
    let quantile = |times: &[f64], q: usize| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        times[(times.len() - 1) * q / 100]
    };
    let show = |what: &str, times: &[f64]| {
        let [p50, p90, p99] = [50, 90, 99].map(|q| quantile(times, q));
        println!("{what}: median {p50:.2}, p90 {p90:.2}, p99 {p99:.2}");
    };
    let [before, meanwhile, after] = [&mut before, &mut meanwhile, &mut after].map(|times| {
        times
            .iter()
            .map(|time| time.as_secs_f64() * 1e3)
            .collect::<Vec<_>>()
    });
    show("gap before, ms", &before);
    show("gap meanwhile, ms", &meanwhile);
    show("gap after, ms", &after);
    // The stream becomes slower as it becomes longer.
    let (first, last) = (quantile(&before, 50), quantile(&after, 50));
    let ratios: Vec<f64> = (0..meanwhile.len())
        .map(|i| meanwhile[i] / (first + (last - first) * i as f64 / meanwhile.len() as f64))
        .collect();
    show("multiple of the usual gap", &ratios);
    let n_above = ratios.iter().filter(|ratio| **ratio > 2.0).count();
    println!(
        "{n_above} of {} above 2; {n} tokens in {seconds:.1} s and {n_steps} steps",
        ratios.len()
    );
    Ok(())
}

fn check(what: &str, holds: bool) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(format!("{what}: do not add up").into()),
    }
}

/// Memory of this process, mapped files included.
fn resident_bytes() -> Result<u64> {
    let pid = sysinfo::get_current_pid()?;
    let mut system = sysinfo::System::new();
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), false);
    Ok(system
        .process(pid)
        .ok_or("this process is not listed")?
        .memory())
}
