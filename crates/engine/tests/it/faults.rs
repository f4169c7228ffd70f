//! Devices that fail: which requests that ends, and what goes on.

use std::sync::{Arc, Mutex};

use minerva_compute::{
    Backend, BackendError, Batch, DType, DeviceError, DeviceLayers, Executable, Limits, Memory,
    Program, ReferenceBackend, SplitBackend,
};
use minerva_engine::model::ARCHITECTURES;
use minerva_engine::{
    Backends, Engine, EngineError, EngineOptions, Event, GenerateConfig, GenerateRequest, Token,
};
use minerva_gpu::GpuBackend;

use crate::forward::gpu;
use crate::tiny::Tiny;
use crate::wait_until;

/// The reference backend as a device that fails when it is told to.
#[derive(Clone, Default)]
struct Device(Arc<Mutex<Faults>>);

#[derive(Default)]
struct Faults {
    /// Fails the step that comes after so many.
    next: Option<(usize, DeviceError)>,
    /// Fails every attempt to load.
    is_gone: bool,
    /// Panics with every attempt to load, as a driver's library may.
    is_broken: bool,
    n_loads: usize,
}

impl Device {
    fn fails_after(&self, n_steps: usize, error: DeviceError) {
        self.0.lock().unwrap().next = Some((n_steps, error));
    }

    fn set_gone(&self, is_gone: bool) {
        self.0.lock().unwrap().is_gone = is_gone;
    }
}

fn lost() -> DeviceError {
    DeviceError::Lost("taken away".into())
}

impl Backend for Device {
    fn description(&self) -> String {
        "device".into()
    }

    fn kernel(&self, dtype: DType) -> String {
        ReferenceBackend.kernel(dtype)
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        ReferenceBackend.plan(program, limits)
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        let is_broken = self.0.lock().unwrap().is_broken;
        assert!(!is_broken, "a broken driver");
        let mut faults = self.0.lock().unwrap();
        if faults.is_gone {
            return Err(BackendError::Device {
                device: self.description(),
                error: lost(),
            });
        }
        faults.n_loads += 1;
        Ok(Box::new(Loaded {
            device: self.clone(),
            program: ReferenceBackend.load(program, limits)?,
            is_lost: false,
        }))
    }
}

struct Loaded {
    device: Device,
    program: Box<dyn Executable>,
    is_lost: bool,
}

impl Executable for Loaded {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        let mut faults = self.device.0.lock().unwrap();
        let error = match &mut faults.next {
            Some((0, error)) => Some(error.clone()),
            Some((n_steps, _)) => {
                *n_steps -= 1;
                None
            }
            None => None,
        };
        if let Some(error) = error {
            faults.next = None;
            self.is_lost = matches!(error, DeviceError::Lost(_));
            return Err(error);
        }
        match self.is_lost {
            true => Err(lost()),
            false => self.program.run(batch),
        }
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.program.copy_block(from, to)
    }

    fn limits(&self) -> Limits {
        self.program.limits()
    }

    fn memory(&self) -> Memory {
        self.program.memory()
    }
}

fn start(backends: impl Into<Backends>, max_sequences: usize) -> Engine {
    let model = Tiny::new(&ARCHITECTURES[0], &[]).open().unwrap();
    let options = EngineOptions {
        context: Some(64),
        max_sequences,
        ..EngineOptions::default()
    };
    Engine::start(Arc::new(model), backends, &options).unwrap()
}

fn request(number: u32) -> GenerateRequest {
    let mut config = GenerateConfig {
        max_tokens: Some(8),
        ignore_eos: true,
        ..GenerateConfig::default()
    };
    config.sampling.seed = Some(u64::from(number));
    // A beginning that several share.
    let tokens = (0..32).map(|i| 3 + 7 * i % 250);
    GenerateRequest::new(tokens.chain([3 + number]).collect(), config)
}

fn tokens(
    events: impl Iterator<Item = Result<Event, EngineError>>,
) -> Result<Vec<u32>, EngineError> {
    let mut tokens = Vec::new();
    for event in events {
        if let Event::Token { token, .. } = event? {
            let Token { id, .. } = token;
            tokens.push(id);
        }
    }
    Ok(tokens)
}

fn answer(engine: &Engine, number: u32) -> Result<Vec<u32>, EngineError> {
    tokens(engine.submit(request(number)).unwrap().blocking())
}

/// What a device that never fails answers.
fn wanted(n: u32) -> Vec<Vec<u32>> {
    let engine = start(Arc::new(ReferenceBackend), 2);
    (0..n)
        .map(|number| answer(&engine, number).unwrap())
        .collect()
}

/// Nothing is held any more.
fn is_clean(engine: &Engine) {
    wait_until(|| {
        let stats = engine.stats();
        stats.n_answered + stats.n_dropped == stats.n_requests
    });
    let stats = engine.stats();
    let held = (stats.n_blocks_used, stats.n_running, stats.n_waiting);
    assert_eq!(held, (0, 0, 0), "{stats:?}");
}

#[test]
fn a_lost_device_fails_the_step_and_is_opened_again() {
    let wanted = wanted(4);
    for n_steps in 0..12 {
        let device = Device::default();
        let engine = start(Arc::new(device.clone()), 2);
        assert_eq!(answer(&engine, 0).unwrap(), wanted[0]);
        device.fails_after(n_steps, lost());
        // Two at once, two that wait for their turn.
        let answers: Vec<_> = (0..4)
            .map(|number| engine.submit(request(number)).unwrap())
            .collect();
        let mut n_failed = 0;
        for (number, answer) in answers.into_iter().enumerate() {
            match tokens(answer.blocking()) {
                Ok(found) => assert_eq!(found, wanted[number], "after {n_steps} steps"),
                Err(error) => {
                    assert_eq!(error, EngineError::Device(lost()));
                    n_failed += 1;
                }
            }
        }
        assert!((1..=2).contains(&n_failed), "{n_failed} of 4 were computed");
        for number in 0..4 {
            assert_eq!(answer(&engine, number).unwrap(), wanted[number as usize]);
        }
        let stats = engine.stats();
        assert_eq!(
            (
                stats.n_device_failures,
                stats.n_reloads,
                stats.is_on_fallback
            ),
            (1, 1, false)
        );
        assert_eq!(engine.device(), "device");
        assert_eq!(device.0.lock().unwrap().n_loads, 2);
        is_clean(&engine);
    }
}

#[test]
fn a_device_without_memory_fails_the_step_alone() {
    let wanted = wanted(1);
    let device = Device::default();
    let engine = start(Arc::new(device.clone()), 2);
    for error in [
        DeviceError::OutOfMemory("a buffer".into()),
        DeviceError::Refused("a submission".into()),
        DeviceError::Kernel {
            name: "mul_mv".into(),
            reason: "no kernel".into(),
        },
    ] {
        device.fails_after(3, error.clone());
        assert_eq!(answer(&engine, 0), Err(EngineError::Device(error)));
        assert_eq!(answer(&engine, 0).unwrap(), wanted[0]);
    }
    let stats = engine.stats();
    assert_eq!((stats.n_device_failures, stats.n_reloads), (3, 0));
    is_clean(&engine);
}

#[test]
fn a_device_that_stays_away_fails_requests_until_it_is_back() {
    let wanted = wanted(1);
    let device = Device::default();
    let engine = start(Arc::new(device.clone()), 2);
    device.set_gone(true);
    device.fails_after(2, lost());
    for _ in 0..3 {
        assert_eq!(answer(&engine, 0), Err(EngineError::Device(lost())));
    }
    device.set_gone(false);
    let set_broken = |is_broken| device.0.lock().unwrap().is_broken = is_broken;
    set_broken(true);
    for _ in 0..2 {
        let failed = EngineError::Failed("a broken driver".into());
        assert_eq!(answer(&engine, 0), Err(failed));
    }
    set_broken(false);
    assert_eq!(answer(&engine, 0).unwrap(), wanted[0]);
    assert_eq!(engine.stats().n_reloads, 1);
    is_clean(&engine);
}

#[test]
fn the_fallback_takes_over_if_there_is_one() {
    let wanted = wanted(2);
    for error in [lost(), DeviceError::OutOfMemory("a buffer".into())] {
        let device = Device::default();
        let backends = Backends {
            first: Arc::new(device.clone()),
            fallback: Some(Arc::new(ReferenceBackend)),
        };
        let engine = start(backends.clone(), 2);
        assert_eq!(engine.device(), "device");
        device.fails_after(2, error.clone());
        assert_eq!(answer(&engine, 0), Err(EngineError::Device(error)));
        for number in 0..2 {
            assert_eq!(answer(&engine, number).unwrap(), wanted[number as usize]);
        }
        assert_eq!(engine.device(), ReferenceBackend.description());
        let stats = engine.stats();
        assert_eq!((stats.n_reloads, stats.is_on_fallback), (1, true));
        is_clean(&engine);
        // One that is loaded when the device has gone never was on it.
        device.set_gone(true);
        let engine = start(backends, 2);
        assert_eq!(answer(&engine, 1).unwrap(), wanted[1]);
        assert_eq!(engine.device(), ReferenceBackend.description());
    }
}

#[test]
fn a_gpu_that_is_lost_is_opened_again() {
    let Some(gpu) = gpu() else { return };
    let gpu: Arc<GpuBackend> = Arc::new(gpu);
    let engine = start(gpu.clone(), 2);
    let wanted = answer(&engine, 0).unwrap();
    for n_losses in 1..=3 {
        gpu.lose_device("taken away");
        assert_eq!(answer(&engine, 0), Err(EngineError::Device(lost())));
        assert_eq!(answer(&engine, 0).unwrap(), wanted);
        assert_eq!(engine.stats().n_reloads, n_losses);
    }
    is_clean(&engine);
}

#[test]
fn a_model_that_is_split_goes_on_too() {
    let wanted = wanted(2);
    let device = Device::default();
    let first = DeviceLayers::First(1);
    let split = SplitBackend::new(Arc::new(device.clone()), Arc::new(ReferenceBackend), first);
    let engine = start(Arc::new(split), 2);
    assert_eq!(answer(&engine, 0).unwrap(), wanted[0]);
    device.fails_after(3, lost());
    assert_eq!(answer(&engine, 1), Err(EngineError::Device(lost())));
    for number in 0..2 {
        assert_eq!(answer(&engine, number).unwrap(), wanted[number as usize]);
    }
    assert_eq!(engine.stats().n_reloads, 1);
    // Several answers to one prompt: blocks are copied in every part.
    let both = |engine: &Engine| {
        let mut request = request(0);
        request.n_choices = 2;
        let mut choices = vec![Vec::new(); 2];
        for event in engine.submit(request).unwrap().blocking() {
            if let Event::Token { choice, token } = event.unwrap() {
                choices[choice].push(token.id);
            }
        }
        choices
    };
    assert_eq!(both(&engine), both(&start(Arc::new(ReferenceBackend), 2)));
    is_clean(&engine);
}
