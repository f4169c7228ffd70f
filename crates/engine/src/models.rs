//! Several models, loaded when they are first asked for, under one budget of memory.
//!
//! One thread loads, one model after the other. Before it takes memory it knows how much: where the
//! budget has no room, models that nobody uses go, the one that was used the longest ago first. If
//! all others are in use, that one takes no new requests until it is free. What cannot fit whatever
//! goes is refused before anything goes.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::chat::renderer::Compile;
use crate::chat::template::ChatTemplate;
use crate::engine::{Backends, Engine, EngineOptions, EngineStats};
use crate::error::{LoadError, ModelsError};
use crate::model::{Model, ModelInfo};
use crate::plan::MemoryPlan;

/// A model that can be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// Its file.
    pub path: PathBuf,
    /// How it is set up.
    pub options: EngineOptions,
    /// Stays once it is loaded, whatever else needs room.
    pub is_pinned: bool,
    /// Goes when nobody has used it for this long.
    pub unload_after: Option<Duration>,
}

impl ModelConfig {
    /// A model with default settings.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> ModelConfig {
        ModelConfig {
            name: name.into(),
            aliases: Vec::new(),
            path: path.into(),
            options: EngineOptions::default(),
            is_pinned: false,
            unload_after: None,
        }
    }
}

/// Where a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    /// Only its file is there.
    Unloaded,
    /// It is being loaded.
    Loading,
    /// It answers.
    Ready,
    /// It goes as soon as its last answer has ended.
    Closing,
}

impl ModelState {
    /// The name in output formats.
    pub fn name(self) -> &'static str {
        match self {
            ModelState::Unloaded => "unloaded",
            ModelState::Loading => "loading",
            ModelState::Ready => "ready",
            ModelState::Closing => "closing",
        }
    }
}

/// What there is to know of one model.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// Its settings.
    pub config: ModelConfig,
    /// Where it is.
    pub state: ModelState,
    /// Bytes of the budget that it takes.
    pub n_bytes: u64,
    /// Bytes of the device's memory that it takes.
    pub n_device_bytes: u64,
    /// Who uses it.
    pub n_users: usize,
    /// What its engine is doing, where it is ready.
    pub stats: Option<EngineStats>,
    /// What computes it, where it is ready.
    pub device: Option<String>,
    /// Its context, where it is ready.
    pub context: Option<usize>,
    /// What there is to say of its file, where it is ready.
    pub info: Option<ModelInfo>,
    /// How often it was loaded.
    pub n_loads: u64,
}

/// Several models under one budget of memory. Clones are the same models.
#[derive(Clone)]
pub struct Models(Arc<Shared>);

/// A model that is in use, and stays while this lives.
pub struct LoadedModel {
    shared: Arc<Shared>,
    key: u64,
    name: String,
    /// Until it is dropped.
    loaded: Option<Loaded>,
}

#[derive(Clone)]
struct Loaded {
    engine: Arc<Engine>,
    template: Arc<Result<Option<ChatTemplate>, LoadError>>,
}

struct Shared {
    backends: Backends,
    compile: Compile,
    /// Of the machine's memory.
    budget: u64,
    state: Mutex<State>,
    /// Told when a user leaves.
    has_room: Condvar,
    /// To the loading thread, which ends when this is gone.
    loads: Mutex<Sender<u64>>,
}

#[derive(Default)]
struct State {
    /// In the order in which they were configured.
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    /// What models take that nobody can use any more, until their engines have ended.
    leaving: Taken,
}

/// A model that nobody can use any more. When this is dropped, which waits for the engine's thread, its memory
/// is free. Not to be dropped under the lock.
struct Leaving {
    shared: Arc<Shared>,
    loaded: Option<Loaded>,
    taken: Taken,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        drop(self.loaded.take());
        let mut state = self.shared.lock();
        state.leaving.machine -= self.taken.machine;
        state.leaving.device -= self.taken.device;
        drop(state);
        self.shared.has_room.notify_all();
    }
}

/// A model, or where it will come out.
enum Asked {
    Ready(LoadedModel),
    Waits(oneshot::Receiver<Result<LoadedModel, ModelsError>>),
}

/// Bytes that a model takes.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    /// Of the machine's memory.
    machine: u64,
    /// Of the device's.
    device: u64,
}

impl Taken {
    fn and(self, other: Taken) -> Taken {
        Taken {
            machine: self.machine.saturating_add(other.machine),
            device: self.device.saturating_add(other.device),
        }
    }
}

type Waiter = oneshot::Sender<Result<LoadedModel, ModelsError>>;

struct Entry {
    config: ModelConfig,
    state: ModelState,
    loaded: Option<Loaded>,
    taken: Taken,
    n_users: usize,
    last_used: Instant,
    n_loads: u64,
    waiters: Vec<Waiter>,
    /// It is not configured any more.
    is_removed: bool,
}

impl Models {
    /// Models on a backend, whose chat templates are compiled by `compile`. `budget_bytes` is for
    /// weights, caches and scratch memory of all that are loaded at once, in the machine's memory;
    /// its device says how much it has itself. With a fallback, a model takes as much of the
    /// machine's as it will on that, so that there is room.
    pub fn new(
        backends: impl Into<Backends>,
        compile: Compile,
        budget_bytes: u64,
        configs: Vec<ModelConfig>,
    ) -> Result<Models, ModelsError> {
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared {
            backends: backends.into(),
            compile,
            budget: budget_bytes,
            state: Mutex::default(),
            has_room: Condvar::new(),
            loads: Mutex::new(sender),
        });
        let models = Models(shared.clone());
        models.configure(configs)?;
        let weak = Arc::downgrade(&shared);
        let run = move || load_all(&weak, &receiver);
        let builder = std::thread::Builder::new().name("minerva-loader".into());
        builder.spawn(run).map_err(LoadError::Thread)?;
        Ok(models)
    }

    /// Sets which models there are. Those that stay as they were stay loaded; those that changed or
    /// went are unloaded when nobody uses them any more.
    pub fn configure(&self, configs: Vec<ModelConfig>) -> Result<(), ModelsError> {
        let mut names = std::collections::BTreeSet::new();
        for config in &configs {
            for name in config.names() {
                if name.is_empty() || !names.insert(name.to_owned()) {
                    return Err(ModelsError::Name { name: name.into() });
                }
            }
        }
        let mut gone = Vec::new();
        let mut state = self.0.lock();
        for entry in state.entries.values_mut() {
            entry.is_removed = !configs.contains(&entry.config);
        }
        for config in configs {
            let mut entries = state.entries.values();
            if entries.any(|entry| !entry.is_removed && entry.config == config) {
                continue;
            }
            let key = state.next_key;
            state.next_key += 1;
            state.entries.insert(key, Entry::new(config));
        }
        let keys: Vec<u64> = state.entries.keys().copied().collect();
        for key in keys {
            gone.extend(state.forget_removed(&self.0, key));
        }
        drop(state);
        // Outside of the lock: it waits for the engine's thread.
        drop(gone);
        self.0.has_room.notify_all();
        Ok(())
    }

    /// Bytes that all loaded models together may take.
    pub fn budget_bytes(&self) -> u64 {
        self.0.budget
    }

    /// What there is to know of each model, in the order of their configuration.
    pub fn list(&self) -> Vec<ModelStatus> {
        let state = self.0.lock();
        let entries = state.entries.values().filter(|entry| !entry.is_removed);
        entries.map(Entry::status).collect()
    }

    /// What there is to know of one model, by its name or an alias.
    pub fn status(&self, name: &str) -> Option<ModelStatus> {
        let state = self.0.lock();
        Some(state.entries[&state.find(name)?].status())
    }

    /// A model by its name or an alias; it is loaded first if it is not. Dropping the future gives
    /// the place in the queue up.
    pub async fn get(&self, name: &str) -> Result<LoadedModel, ModelsError> {
        match self.ask(name)? {
            Asked::Ready(loaded) => Ok(loaded),
            Asked::Waits(answer) => answer.await.unwrap_or(Err(ModelsError::ShuttingDown)),
        }
    }

    /// [`Models::get`] for code that is not async.
    ///
    /// # Panics
    /// In an async context.
    pub fn blocking_get(&self, name: &str) -> Result<LoadedModel, ModelsError> {
        match self.ask(name)? {
            Asked::Ready(loaded) => Ok(loaded),
            Asked::Waits(answer) => {
                let answer = answer.blocking_recv();
                answer.unwrap_or(Err(ModelsError::ShuttingDown))
            }
        }
    }

    /// Unloads a model as soon as nobody uses it; `false` if it is not loaded.
    pub fn unload(&self, name: &str) -> Result<bool, ModelsError> {
        let mut state = self.0.lock();
        let key = state.find(name).ok_or_else(|| state.unknown(name))?;
        let entry = state.entries.get_mut(&key).expect("found above");
        if entry.state != ModelState::Ready {
            return Ok(false);
        }
        entry.state = ModelState::Closing;
        let gone = state.take_if_free(&self.0, key);
        drop(state);
        drop(gone);
        Ok(true)
    }

    fn ask(&self, name: &str) -> Result<Asked, ModelsError> {
        let mut state = self.0.lock();
        let key = state.find(name).ok_or_else(|| state.unknown(name))?;
        let entry = state.entries.get_mut(&key).expect("found above");
        if entry.state == ModelState::Ready {
            return Ok(Asked::Ready(self.0.used(key, entry)));
        }
        entry.waiters.retain(|waiter| !waiter.is_closed());
        if entry.waiters.len() >= entry.config.options.max_waiting {
            return Err(ModelsError::Overloaded {
                n_waiting: entry.waiters.len(),
            });
        }
        let (sender, receiver) = oneshot::channel();
        entry.waiters.push(sender);
        if entry.state == ModelState::Unloaded {
            self.0.order(key, entry);
        }
        Ok(Asked::Waits(receiver))
    }
}

impl ModelConfig {
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name)
            .chain(&self.aliases)
            .map(String::as_str)
    }
}

impl Entry {
    fn new(config: ModelConfig) -> Entry {
        Entry {
            config,
            state: ModelState::Unloaded,
            loaded: None,
            taken: Taken::default(),
            n_users: 0,
            last_used: Instant::now(),
            n_loads: 0,
            waiters: Vec::new(),
            is_removed: false,
        }
    }

    fn status(&self) -> ModelStatus {
        let engine = self.loaded.as_ref().map(|loaded| &loaded.engine);
        ModelStatus {
            config: self.config.clone(),
            state: self.state,
            n_bytes: self.taken.machine,
            n_device_bytes: self.taken.device,
            n_users: self.n_users,
            stats: engine.map(|engine| engine.stats()),
            device: engine.map(|engine| engine.device()),
            context: engine.map(|engine| engine.context()),
            info: engine.map(|engine| engine.model().info()),
            n_loads: self.n_loads,
        }
    }

    fn fail(&mut self, error: &ModelsError) {
        self.state = ModelState::Unloaded;
        self.taken = Taken::default();
        for waiter in self.waiters.drain(..) {
            // One that has gone needs no answer.
            let _ = waiter.send(Err(error.clone()));
        }
    }
}

impl State {
    fn find(&self, name: &str) -> Option<u64> {
        let is_it = |entry: &Entry| !entry.is_removed && entry.config.names().any(|n| n == name);
        let mut entries = self.entries.iter();
        entries.find(|(_, entry)| is_it(entry)).map(|(key, _)| *key)
    }

    fn unknown(&self, name: &str) -> ModelsError {
        let entries = self.entries.values().filter(|entry| !entry.is_removed);
        let names: Vec<&str> = entries.map(|entry| entry.config.name.as_str()).collect();
        ModelsError::Unknown {
            name: name.into(),
            known: names.join(", "),
        }
    }

    /// What the models take that are chosen.
    fn taken(&self, is_chosen: impl Fn(&Entry) -> bool) -> Taken {
        let entries = self.entries.values().filter(|entry| is_chosen(entry));
        entries.fold(Taken::default(), |taken, entry| taken.and(entry.taken))
    }

    /// Takes a closing model out, if nobody uses it.
    fn take_if_free(&mut self, shared: &Arc<Shared>, key: u64) -> Option<Leaving> {
        let entry = self.entries.get_mut(&key)?;
        if entry.state != ModelState::Closing || entry.n_users > 0 {
            return None;
        }
        entry.state = ModelState::Unloaded;
        let leaving = Leaving {
            shared: shared.clone(),
            loaded: entry.loaded.take(),
            taken: std::mem::take(&mut entry.taken),
        };
        self.leaving = self.leaving.and(leaving.taken);
        if entry.is_removed {
            self.entries.remove(&key);
        }
        Some(leaving)
    }

    /// Lets go of a model that is not configured any more, as far as it is not in use.
    fn forget_removed(&mut self, shared: &Arc<Shared>, key: u64) -> Option<Leaving> {
        let entry = self.entries.get_mut(&key)?;
        if !entry.is_removed {
            return None;
        }
        match entry.state {
            ModelState::Unloaded => {
                self.entries.remove(&key);
                None
            }
            ModelState::Ready => {
                entry.state = ModelState::Closing;
                self.take_if_free(shared, key)
            }
            // The loading thread, or the last user, comes by here again.
            ModelState::Loading | ModelState::Closing => self.take_if_free(shared, key),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A share in a model that is ready.
    fn used(self: &Arc<Self>, key: u64, entry: &mut Entry) -> LoadedModel {
        entry.n_users += 1;
        entry.last_used = Instant::now();
        LoadedModel {
            shared: self.clone(),
            key,
            name: entry.config.name.clone(),
            loaded: Some(entry.loaded.clone().expect("a model that is ready")),
        }
    }

    /// Has a model loaded.
    fn order(&self, key: u64, entry: &mut Entry) {
        entry.state = ModelState::Loading;
        if lock(&self.loads).send(key).is_err() {
            entry.fail(&ModelsError::ShuttingDown);
        }
    }

    /// Loads one model and gives it to those that wait for it.
    fn load(self: &Arc<Self>, key: u64) {
        let config = {
            let mut state = self.lock();
            let Some(entry) = state.entries.get_mut(&key) else {
                return;
            };
            if entry.waiters.iter().all(oneshot::Sender::is_closed) {
                // All have gone that wanted it.
                entry.fail(&ModelsError::ShuttingDown);
                let gone = state.forget_removed(self, key);
                drop(state);
                drop(gone);
                return;
            }
            entry.config.clone()
        };
        let result = self.open(key, &config);
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(&key) else {
            return;
        };
        match result {
            Ok(loaded) => {
                entry.state = ModelState::Ready;
                entry.loaded = Some(loaded);
                entry.n_loads += 1;
                entry.last_used = Instant::now();
                let waiters: Vec<Waiter> = entry.waiters.drain(..).collect();
                let mut unwanted = Vec::new();
                for waiter in waiters {
                    unwanted.extend(waiter.send(Ok(self.used(key, entry))).err());
                }
                let gone = state.forget_removed(self, key);
                drop(state);
                // They take the lock.
                drop((unwanted, gone));
            }
            Err(error) => {
                entry.fail(&error);
                let gone = state.forget_removed(self, key);
                drop(state);
                drop(gone);
            }
        }
        self.has_room.notify_all();
    }

    fn open(self: &Arc<Self>, key: u64, config: &ModelConfig) -> Result<Loaded, ModelsError> {
        let model = Arc::new(Model::open(&config.path)?);
        let plan = MemoryPlan::new(&model, &*self.backends.first, &config.options)?;
        let mut needed = Taken {
            machine: plan.total_bytes(),
            device: plan.device.total_bytes(),
        };
        if let Some(fallback) = &self.backends.fallback {
            let plan = MemoryPlan::new(&model, &**fallback, &config.options)?;
            needed.machine = needed.machine.max(plan.total_bytes());
        }
        self.make_room(key, needed)?;
        let template = match model.chat_template(self.compile) {
            // The next one who asks for the model may have more luck.
            Err(error @ (LoadError::Thread(_) | LoadError::Process(_))) => return Err(error.into()),
            // Without it there are still completions.
            template => template,
        };
        let engine = Engine::start(model, self.backends.clone(), &config.options)?;
        Ok(Loaded {
            engine: Arc::new(engine),
            template: Arc::new(template),
        })
    }

    /// Of the device's memory, where it is known: now, as other processes take some, too.
    fn device_budget(&self) -> Option<u64> {
        self.backends.first.device_memory()?.budget_bytes
    }

    /// Waits until as much of the budgets is free, and takes it for a model.
    fn make_room(self: &Arc<Self>, key: u64, needed: Taken) -> Result<(), ModelsError> {
        let mut state = self.lock();
        loop {
            let device_budget = self.device_budget();
            let holds = |taken: Taken| {
                let of_device = device_budget.unwrap_or(u64::MAX);
                taken.machine <= self.budget && taken.device <= of_device
            };
            let taken = state.taken(|_| true).and(needed);
            if holds(taken.and(state.leaving)) {
                let entry = state.entries.get_mut(&key).expect("it is being loaded");
                entry.taken = needed;
                return Ok(());
            }
            let pinned = state.taken(|entry| entry.config.is_pinned);
            if !holds(pinned.and(needed)) {
                let is_machine = pinned.machine.saturating_add(needed.machine) > self.budget;
                let (memory, needed, pinned, budget) = match (is_machine, device_budget) {
                    (false, Some(budget)) => ("device", needed.device, pinned.device, budget),
                    _ => ("machine", needed.machine, pinned.machine, self.budget),
                };
                return Err(ModelsError::DoesNotFit {
                    memory,
                    needed,
                    pinned,
                    budget,
                });
            }
            let victims = state
                .entries
                .iter()
                .filter(|(_, entry)| entry.state == ModelState::Ready && !entry.config.is_pinned);
            // Those that nobody uses first, then by time.
            let victim = victims.min_by_key(|(_, entry)| (entry.n_users > 0, entry.last_used));
            let victim = victim.map(|(key, entry)| (*key, entry.n_users));
            // What is about to go may be enough.
            let victim = victim.filter(|_| !holds(taken));
            let is_closing = |entry: &Entry| entry.state == ModelState::Closing;
            let some_close = state.entries.values().any(is_closing);
            match victim {
                Some((victim, n_users)) if n_users == 0 || !some_close => {
                    let entry = state.entries.get_mut(&victim).expect("found above");
                    entry.state = ModelState::Closing;
                    if let Some(gone) = state.take_if_free(self, victim) {
                        drop(state);
                        drop(gone);
                        state = self.lock();
                    }
                }
                _ => {
                    let waited = self.has_room.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Unloads what nobody has used for its time; how long until the next one may be due.
    fn unload_idle(self: &Arc<Self>) -> Option<Duration> {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut next: Option<Duration> = None;
        let mut state = self.lock();
        let keys: Vec<u64> = state.entries.keys().copied().collect();
        for key in keys {
            let entry = state.entries.get_mut(&key).expect("a key");
            let Some(limit) = entry.config.unload_after else {
                continue;
            };
            if entry.state != ModelState::Ready || entry.n_users > 0 || entry.config.is_pinned {
                continue;
            }
            let idle = now - entry.last_used;
            if idle >= limit {
                entry.state = ModelState::Closing;
                gone.extend(state.take_if_free(self, key));
            } else {
                let left = limit - idle;
                next = Some(next.map_or(left, |next| next.min(left)));
            }
        }
        next
    }
}

/// How often the loading thread looks for models that nobody uses, at the least.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// The loading thread.
fn load_all(shared: &std::sync::Weak<Shared>, loads: &Receiver<u64>) {
    let mut next_check = IDLE_CHECK;
    loop {
        let key = match loads.recv_timeout(next_check) {
            Ok(key) => Some(key),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if let Some(key) = key {
            shared.load(key);
        }
        let next = shared.unload_idle();
        next_check = next.unwrap_or(IDLE_CHECK).min(IDLE_CHECK);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LoadedModel {
    /// Its name, whatever alias it was asked for by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.loaded().engine
    }

    fn loaded(&self) -> &Loaded {
        self.loaded.as_ref().expect("until it is dropped")
    }

    /// Its chat template, `None` if the file has none; an error if it cannot be used.
    pub fn chat_template(&self) -> Result<Option<&ChatTemplate>, &LoadError> {
        match &*self.loaded().template {
            Ok(template) => Ok(template.as_ref()),
            Err(error) => Err(error),
        }
    }
}

impl Deref for LoadedModel {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.loaded().engine
    }
}

impl Drop for LoadedModel {
    fn drop(&mut self) {
        let loaded = self.loaded.take();
        let mut state = self.shared.lock();
        let Some(entry) = state.entries.get_mut(&self.key) else {
            return;
        };
        entry.n_users -= 1;
        entry.last_used = Instant::now();
        let gone = state.take_if_free(&self.shared, self.key);
        // Somebody may have asked for it while it was closing.
        if gone.is_some()
            && let Some(entry) = state.entries.get_mut(&self.key)
            && !entry.waiters.is_empty()
        {
            self.shared.order(self.key, entry);
        }
        drop(state);
        // The engine ends in a thread of its own, with this share in it: this one may be async. Without a
        // thread to be had, it ends here.
        if let Some(gone) = gone {
            let _ = std::thread::Builder::new().spawn(move || drop((loaded, gone)));
        }
        self.shared.has_room.notify_all();
    }
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models")
            .field("models", &self.list())
            .finish_non_exhaustive()
    }
}
