//! Several models under one budget: what is loaded, what goes, what waits, what is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use minerva_compute::{
    Backend, BackendError, Batch, CpuBackend, DType, DeviceError, DeviceMemory, Executable, Limits,
    Memory, OnDevice, Program, cpu::CpuOptions,
};
use minerva_engine::chat::renderer::in_process;
use minerva_engine::model::ARCHITECTURES;
use minerva_engine::{
    Backends, EngineOptions, GenerateConfig, MemoryPlan, Model, ModelConfig, ModelState, Models,
    ModelsError,
};

use crate::files::TempFile;
use crate::tiny::Tiny;
use crate::wait_until;

/// Files, and the bytes that each model takes.
struct Setup {
    files: Vec<TempFile>,
    backend: Arc<dyn Backend>,
    n_bytes: u64,
}

impl Setup {
    fn new(n: usize) -> Setup {
        let tiny = Tiny::new(&ARCHITECTURES[0], &[]);
        let files: Vec<TempFile> = (0..n).map(|_| tiny.write()).collect();
        let backend: Arc<dyn Backend> = Arc::new(
            CpuBackend::new(&CpuOptions {
                threads: Some(1),
                ..CpuOptions::default()
            })
            .unwrap(),
        );
        let model = Model::open(&files[0].path).unwrap();
        let plan = MemoryPlan::new(&model, &*backend, &EngineOptions::default()).unwrap();
        Setup {
            files,
            backend,
            n_bytes: plan.total_bytes(),
        }
    }

    /// Models m0, m1, … with room for `n_loaded` at once.
    fn models(&self, n_loaded: u64) -> Models {
        self.changed(n_loaded, |_, _| {})
    }

    fn changed(&self, n_loaded: u64, change: impl Fn(usize, &mut ModelConfig)) -> Models {
        let budget = n_loaded * self.n_bytes;
        Models::new(
            self.backend.clone(),
            in_process,
            budget,
            self.configs(change),
        )
        .unwrap()
    }

    fn configs(&self, change: impl Fn(usize, &mut ModelConfig)) -> Vec<ModelConfig> {
        let config = |(i, file): (usize, &TempFile)| {
            let mut config = ModelConfig::new(format!("m{i}"), &file.path);
            change(i, &mut config);
            config
        };
        self.files.iter().enumerate().map(config).collect()
    }
}

fn states(models: &Models) -> Vec<ModelState> {
    models.list().iter().map(|status| status.state).collect()
}

use ModelState::{Closing, Loading, Ready, Unloaded};

#[test]
fn what_was_used_the_longest_ago_goes() {
    let setup = Setup::new(3);
    let models = setup.models(2);
    assert_eq!(states(&models), [Unloaded; 3]);
    drop(models.blocking_get("m0").unwrap());
    drop(models.blocking_get("m1").unwrap());
    drop(models.blocking_get("m0").unwrap());
    assert_eq!(states(&models), [Ready, Ready, Unloaded]);
    let m2 = models.blocking_get("m2").unwrap();
    assert_eq!(states(&models), [Ready, Unloaded, Ready]);
    // One that is in use stays.
    drop(models.blocking_get("m0").unwrap());
    let _m1 = models.blocking_get("m1").unwrap();
    assert_eq!(states(&models), [Unloaded, Ready, Ready]);
    drop(m2);
    let loads: Vec<u64> = models.list().iter().map(|status| status.n_loads).collect();
    assert_eq!(loads, [1, 2, 1]);
    let bytes: u64 = models.list().iter().map(|status| status.n_bytes).sum();
    assert_eq!(bytes, models.budget_bytes());
}

#[test]
fn where_all_are_in_use_a_request_waits() {
    let setup = Setup::new(2);
    let models = setup.models(1);
    let m0 = models.blocking_get("m0").unwrap();
    std::thread::scope(|scope| {
        let m1 = scope.spawn(|| models.blocking_get("m1").unwrap());
        wait_until(|| states(&models) == [Closing, Loading]);
        // It takes nobody else, and who asks for it waits behind.
        let again = scope.spawn(|| models.blocking_get("m0").unwrap().name().to_owned());
        let text = m0.blocking_generate(
            "ab",
            &GenerateConfig {
                max_tokens: Some(3),
                ..GenerateConfig::default()
            },
        );
        assert_eq!(text.unwrap().done.usage.completion_tokens, 3);
        drop(m0);
        let m1 = m1.join().unwrap();
        assert_eq!(m1.name(), "m1");
        drop(m1);
        assert_eq!(again.join().unwrap(), "m0");
    });
    assert_eq!(states(&models), [Ready, Unloaded]);
}

#[test]
fn pinned_models_stay_and_what_cannot_fit_is_refused() {
    let setup = Setup::new(2);
    let models = setup.changed(1, |i, config| config.is_pinned = i == 0);
    drop(models.blocking_get("m0").unwrap());
    let error = models.blocking_get("m1").unwrap_err();
    let needed = setup.n_bytes;
    let wanted = format!(
        "the model needs {needed} bytes of the machine's memory, expected at most 0 of the budget of {needed} \
         ({needed} are pinned)"
    );
    assert_eq!(error.to_string(), wanted);
    assert_eq!(states(&models), [Ready, Unloaded]);
}

#[test]
fn names_and_aliases() {
    let setup = Setup::new(2);
    let models = setup.changed(2, |i, config| config.aliases = vec![format!("alias{i}")]);
    assert_eq!(models.blocking_get("alias1").unwrap().name(), "m1");
    let error = models.blocking_get("m2").unwrap_err().to_string();
    assert_eq!(error, "model \"m2\": not found, expected one of: m0, m1");
    let twice = setup.configs(|_, config| config.aliases = vec!["same".into()]);
    let error = models.configure(twice).unwrap_err();
    assert!(matches!(error, ModelsError::Name { name } if name == "same"));
    assert_eq!(states(&models), [Unloaded, Ready]);
}

#[test]
fn a_file_that_cannot_be_loaded_leaves_the_others_alone() {
    let setup = Setup::new(2);
    let models = setup.changed(2, |i, config| {
        if i == 1 {
            config.path = "/nowhere/model.gguf".into();
        }
    });
    let m0 = models.blocking_get("m0").unwrap();
    for _ in 0..2 {
        let error = models.blocking_get("m1").unwrap_err().to_string();
        assert_eq!(error, "/nowhere/model.gguf: no such file");
    }
    assert_eq!(states(&models), [Ready, Unloaded]);
    assert!(
        m0.blocking_generate(
            "a",
            &GenerateConfig {
                max_tokens: Some(1),
                ..GenerateConfig::default()
            }
        )
        .is_ok()
    );
}

#[test]
fn idle_models_are_unloaded() {
    let setup = Setup::new(2);
    let models = setup.changed(2, |i, config| {
        config.unload_after = (i == 0).then_some(Duration::ZERO);
    });
    let m0 = models.blocking_get("m0").unwrap();
    drop(models.blocking_get("m1").unwrap());
    assert_eq!(states(&models), [Ready, Ready]);
    drop(m0);
    wait_until(|| states(&models) == [Unloaded, Ready]);
    assert!(models.unload("m1").unwrap());
    assert!(!models.unload("m1").unwrap());
    assert_eq!(states(&models), [Unloaded, Unloaded]);
}

#[test]
fn models_can_be_changed_while_they_are_in_use() {
    let setup = Setup::new(2);
    let models = setup.models(2);
    let m0 = models.blocking_get("m0").unwrap();
    let m1 = models.blocking_get("m1").unwrap();
    let changed = setup.configs(|i, config| {
        if i == 1 {
            config.options.max_sequences = 2;
        }
    });
    models.configure(changed).unwrap();
    // m1 has another engine now; the old one ends with its last user.
    assert_eq!(states(&models), [Ready, Unloaded]);
    drop(m1);
    assert_eq!(models.blocking_get("m1").unwrap().max_sequences(), 2);
    models.configure(Vec::new()).unwrap();
    assert!(models.list().is_empty() && models.blocking_get("m0").is_err());
    assert!(
        m0.blocking_generate(
            "a",
            &GenerateConfig {
                max_tokens: Some(1),
                ..GenerateConfig::default()
            }
        )
        .is_ok()
    );
}

#[test]
fn many_users_of_many_models() {
    let setup = Setup::new(4);
    let models = setup.models(2);
    let n_answers = AtomicUsize::new(0);
    let config = GenerateConfig {
        max_tokens: Some(2),
        ..GenerateConfig::default()
    };
    std::thread::scope(|scope| {
        for user in 0..6 {
            let (models, n_answers, config) = (&models, &n_answers, &config);
            scope.spawn(move || {
                for i in 0..30 {
                    let model = models.blocking_get(&format!("m{}", (user * 7 + i * 3) % 4));
                    model.unwrap().blocking_generate("abc", config).unwrap();
                    n_answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(n_answers.into_inner(), 180);
    let list = models.list();
    assert!(list.iter().all(|status| status.n_users == 0));
    let bytes: u64 = list.iter().map(|status| status.n_bytes).sum();
    assert!(bytes <= models.budget_bytes());
}

/// The processor as a device with so many bytes of its own, as far as plans go.
struct Device {
    backend: Arc<dyn Backend>,
    budget_bytes: AtomicU64,
    /// Programs that have memory, and the most that had at once.
    n_loaded: Arc<AtomicUsize>,
    most_loaded: AtomicUsize,
}

impl Device {
    fn new(backend: &Arc<dyn Backend>, budget_bytes: u64) -> Arc<Device> {
        Arc::new(Device {
            backend: backend.clone(),
            budget_bytes: budget_bytes.into(),
            n_loaded: Arc::default(),
            most_loaded: AtomicUsize::new(0),
        })
    }
}

impl Backend for Device {
    fn description(&self) -> String {
        "device".into()
    }

    fn kernel(&self, dtype: DType) -> String {
        self.backend.kernel(dtype)
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        Some(DeviceMemory {
            budget_bytes: Some(self.budget_bytes.load(Ordering::Relaxed)),
            taken_bytes: 0,
            is_shared: false,
        })
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        let memory = self.backend.plan(program, limits)?;
        let weights = program.weights().iter().map(|w| w.bytes().len() as u64);
        Ok(Memory {
            kv_bytes: 0,
            scratch_bytes: 0,
            device: OnDevice {
                n_layers: program.n_layers(),
                weights_bytes: weights.sum(),
                kv_bytes: memory.kv_bytes as u64,
                scratch_bytes: memory.scratch_bytes as u64,
            },
        })
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        let n_loaded = 1 + self.n_loaded.fetch_add(1, Ordering::SeqCst);
        self.most_loaded.fetch_max(n_loaded, Ordering::SeqCst);
        Ok(Box::new(Slow {
            model: self.backend.load(program, limits)?,
            n_loaded: self.n_loaded.clone(),
        }))
    }
}

/// A program whose memory is free some time after it was let go.
struct Slow {
    model: Box<dyn Executable>,
    n_loaded: Arc<AtomicUsize>,
}

impl Executable for Slow {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        self.model.run(batch)
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.model.copy_block(from, to)
    }

    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn memory(&self) -> Memory {
        self.model.memory()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(200));
        self.n_loaded.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_budget_is_free_when_memory_is() {
    let setup = Setup::new(2);
    let device = Device::new(&setup.backend, u64::MAX);
    let budget = 10 * setup.n_bytes;
    let model = Model::open(&setup.files[0].path).unwrap();
    let plan = MemoryPlan::new(&model, &*device, &EngineOptions::default()).unwrap();
    let needed = plan.device.total_bytes();
    device.budget_bytes.store(needed, Ordering::Relaxed);
    let configs = setup.configs(|_, _| {});
    let models = Models::new(device.clone(), in_process, budget, configs).unwrap();
    for _ in 0..3 {
        let m0 = models.blocking_get("m0").unwrap();
        std::thread::scope(|scope| {
            let m1 = scope.spawn(|| models.blocking_get("m1").unwrap());
            wait_until(|| states(&models) == [Closing, Loading]);
            // Its last user goes, but the program takes its time.
            drop(m0);
            drop(m1.join().unwrap());
        });
        assert!(models.unload("m1").unwrap());
    }
    assert_eq!(device.most_loaded.load(Ordering::SeqCst), 1);

    // Other processes may take of a device's memory, and give it back.
    device.budget_bytes.store(2 * needed, Ordering::Relaxed);
    drop(models.blocking_get("m0").unwrap());
    device.budget_bytes.store(needed, Ordering::Relaxed);
    drop(models.blocking_get("m1").unwrap());
    assert_eq!(states(&models), [Unloaded, Ready]);
    device.budget_bytes.store(2 * needed, Ordering::Relaxed);
    drop(models.blocking_get("m0").unwrap());
    assert_eq!(states(&models), [Ready, Ready]);
}

#[test]
fn a_device_has_a_budget_of_its_own() {
    let setup = Setup::new(2);
    let on_device = |budget_bytes| Device::new(&setup.backend, budget_bytes);
    let model = Model::open(&setup.files[0].path).unwrap();
    let plan = MemoryPlan::new(&model, &*on_device(0), &EngineOptions::default()).unwrap();
    let needed = plan.device.total_bytes();
    assert!(needed > 0 && plan.total_bytes() < needed / 2, "{plan:?}");
    // The machine has room for many, the device for one.
    let budget = 10 * setup.n_bytes;
    let configs = || setup.configs(|_, _| {});
    let models = Models::new(on_device(needed), in_process, budget, configs()).unwrap();
    drop(models.blocking_get("m0").unwrap());
    let status = models.status("m0").unwrap();
    assert_eq!(
        (status.n_device_bytes, status.n_bytes),
        (needed, plan.total_bytes())
    );
    assert_eq!(status.device.as_deref(), Some("device"));
    drop(models.blocking_get("m1").unwrap());
    assert_eq!(states(&models), [Unloaded, Ready]);
    let models = Models::new(on_device(needed - 1), in_process, budget, configs()).unwrap();
    let error = models.blocking_get("m0").unwrap_err().to_string();
    let wanted = format!(
        "the model needs {needed} bytes of the device's memory, expected at most {0} of the budget of \
         {0} (0 are pinned)",
        needed - 1
    );
    assert_eq!(error, wanted);
    // A fallback needs room too, before it is needed.
    let backends = Backends {
        first: on_device(needed),
        fallback: Some(setup.backend.clone()),
    };
    let models = Models::new(backends, in_process, setup.n_bytes - 1, configs()).unwrap();
    let error = models.blocking_get("m0").unwrap_err().to_string();
    assert!(error.contains("of the machine's memory"), "{error}");
}
