//! The models of the settings: from names to files, and into memory.

use std::collections::HashMap;
use std::time::Duration;

use minerva_compute::{KV_BLOCK_LEN, KvTypes};
use minerva_engine::chat::renderer::Compile;
use minerva_engine::{
    Backends, EngineOptions, LoadedModel, ModelConfig, Models, ModelsError, memory_limit,
};
use minerva_hub::{Found, HubConfig, HubError};

use crate::auth::{Caller, Identity};
use crate::config::{ModelSettings, ServerConfig};
use crate::error::{ApiError, ErrorCode};
use crate::failure::models_error;
use crate::metrics::CacheConfig;
use crate::state::AppState;

/// Why the models of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsSetupError {
    /// What stands for a model makes no sense.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// It is not there yet; the second line says how to get it.
    #[error(
        "{model}: not on this machine, it would come from {source_name}\n\
         `minerva pull {model}` fetches it"
    )]
    NotHere {
        /// What stands for the model.
        model: String,
        /// Where it would come from.
        source_name: String,
    },
    /// It needs more memory than it could be given; the second line says what may help.
    #[error("{model}: {error}\n`minerva plan` says which settings free how much")]
    DoesNotFit {
        /// The model's name.
        model: String,
        /// How much it needs, and how much there is.
        error: String,
    },
    /// Names are empty or there twice, or a model cannot be loaded.
    #[error(transparent)]
    Models(#[from] ModelsError),
}

/// The models of the settings, none of them loaded; `compile` is for their chat templates.
pub fn open_models(
    settings: &ServerConfig,
    backends: impl Into<Backends>,
    compile: Compile,
) -> Result<Models, ModelsSetupError> {
    let budget = settings.engine.memory_bytes;
    let budget = budget.unwrap_or_else(|| memory_limit() / 10 * 9);
    Ok(Models::new(backends, compile, budget, configs(settings)?)?)
}

/// The models of the settings as the engine takes them.
pub(crate) fn configs(settings: &ServerConfig) -> Result<Vec<ModelConfig>, ModelsSetupError> {
    if settings.models.is_empty() {
        return Ok(Vec::new());
    }
    let hub = HubConfig::from_env()?;
    let configs = settings.models.iter().map(|model| {
        let ModelSettings {
            name,
            model: file,
            aliases,
            context,
            parallel,
            cache_tokens,
            max_waiting,
            cache_type_k,
            cache_type_v,
            load: _,
            pinned,
            unload_after_seconds,
        } = model.clone();
        let file = file.unwrap_or_else(|| name.clone());
        let path = match minerva_hub::find(&hub, &file)? {
            Found::OnDisk(path) => path,
            Found::Remote { source, .. } => {
                return Err(ModelsSetupError::NotHere {
                    model: file,
                    source_name: source,
                });
            }
        };
        let general = &settings.engine;
        Ok(ModelConfig {
            name,
            aliases,
            path,
            options: EngineOptions {
                context: context.or(general.context),
                max_sequences: parallel.unwrap_or(general.parallel),
                cache_tokens: cache_tokens.or(general.cache_tokens),
                max_waiting: max_waiting.unwrap_or(general.max_waiting),
                kv_types: KvTypes {
                    k: cache_type_k.unwrap_or(general.cache_type_k).0,
                    v: cache_type_v.unwrap_or(general.cache_type_v).0,
                },
                ..EngineOptions::default()
            },
            is_pinned: pinned,
            unload_after: unload_after_seconds.map(Duration::from_secs),
        })
    });
    configs.collect()
}

/// Loads the models that are to be there from the start, and says that the service is ready.
pub(crate) async fn load_first(state: &AppState) -> Result<(), ModelsSetupError> {
    let settings = state.settings();
    for model in settings.config.models.iter().filter(|model| model.load) {
        tracing::info!(model = model.name, "loading");
        let loaded = state.models().get(&model.name).await;
        let loaded = loaded.map_err(|error| match error {
            ModelsError::DoesNotFit { .. } => ModelsSetupError::DoesNotFit {
                model: model.name.clone(),
                error: error.to_string(),
            },
            error => error.into(),
        })?;
        tracing::info!(
            model = model.name,
            context = loaded.context(),
            parallel = loaded.max_sequences(),
            "loaded"
        );
    }
    state.lifecycle().set_ready();
    Ok(())
}

/// The name of the model that a request means; the only one there is if it names none.
pub(crate) fn find(
    state: &AppState,
    identity: &Identity,
    name: Option<&str>,
) -> Result<String, ApiError> {
    let models = state.models();
    let found = match name {
        Some(name) => models.status(name),
        None => match &models.list()[..] {
            [only] => Some(only.clone()),
            all => {
                let names: Vec<&str> = all.iter().map(|s| s.config.name.as_str()).collect();
                let message = format!("model: missing, expected one of: {}", names.join(", "));
                return Err(ApiError::new(ErrorCode::InvalidRequest, message).about("model"));
            }
        },
    };
    let Some(found) = found else {
        let name = name.unwrap_or_default();
        let message = format!("model: {name:?} is not there, /v1/models lists those that are");
        return Err(ApiError::new(ErrorCode::UnknownModel, message).about("model"));
    };
    identity.check_model(&found.config.name)?;
    Ok(found.config.name)
}

/// The model that a request means; it is loaded first if it is not.
pub(crate) async fn get(
    state: &AppState,
    caller: &Caller,
    name: Option<&str>,
    wait: Option<Duration>,
) -> Result<LoadedModel, ApiError> {
    let name = find(state, caller.identity(), name)?;
    let loading = async {
        state
            .models()
            .get(&name)
            .await
            .map_err(|error| models_error(&error))
    };
    let limited = async {
        match wait {
            Some(wait) => tokio::time::timeout(wait, loading).await.map_err(|_| {
                let message = format!("model {name}: not loaded within {} s", wait.as_secs_f64());
                ApiError::new(ErrorCode::QueueTimeout, message)
            })?,
            None => loading.await,
        }
    };
    tokio::select! {
        loaded = limited => loaded,
        error = caller.ended() => Err(error),
    }
}

/// How often each model was loaded again after a failure of its device, as far as it was logged.
pub(crate) type Reloads = HashMap<String, (u64, bool)>;

/// Logs which models were loaded again since.
pub(crate) fn log_reloads(state: &AppState, reloads: &mut Reloads) {
    for status in state.models().list() {
        let stats = status.stats.unwrap_or_default();
        let now = (stats.n_reloads, stats.is_on_fallback);
        let name = status.config.name;
        let before = reloads.insert(name.clone(), now).unwrap_or_default();
        if now != before && now != (0, false) {
            tracing::warn!(
                model = name,
                device = status.device,
                fallback = stats.is_on_fallback,
                reloads = stats.n_reloads,
                "its device failed, and it was loaded again"
            );
        }
    }
}

/// Writes down what the engines do now.
pub(crate) fn measure(state: &AppState) {
    for status in state.models().list() {
        let name = &status.config.name;
        let metrics = state.metrics().model(name);
        metrics.set_memory(status.n_bytes);
        metrics.set_device_memory(status.n_device_bytes);
        let stats = status.stats.unwrap_or_default();
        metrics.set_on_fallback(stats.is_on_fallback);
        metrics.set_running(stats.n_running);
        metrics.set_waiting(stats.n_waiting + stats.n_preempted);
        metrics.set_cache_usage(stats.n_blocks_used as f64 / stats.n_blocks.max(1) as f64);
        if stats.n_blocks > 0 {
            let metrics = state.metrics();
            let config = CacheConfig {
                block_size: KV_BLOCK_LEN,
                n_blocks: stats.n_blocks,
            };
            metrics.set_cache_config(name, config);
        }
    }
}

#[cfg(test)]
mod tests {
    use minerva_compute::KvType;

    use super::*;

    #[test]
    fn the_cache_is_of_the_types_of_the_model_or_of_the_engine() {
        let name = format!("minerva-models-{}.gguf", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, "GGUF").unwrap();
        let settings = format!(
            "[engine]\ncache_type_k = \"q8_0\"\n[[models]]\nname = \"a\"\nmodel = {file:?}\n\
             [[models]]\nname = \"b\"\nmodel = {file:?}\ncache_type_k = \"f32\"\ncache_type_v = \"q4_0\""
        );
        let found = configs(&toml::from_str(&settings).unwrap()).unwrap();
        let types = found.iter().map(|config| config.options.kv_types);
        let wanted = [
            (KvType::Q8_0, KvTypes::default().v),
            (KvType::F32, KvType::Q4_0),
        ];
        assert!(types.eq(wanted.map(|(k, v)| KvTypes { k, v })));
        std::fs::remove_file(file).unwrap();
    }
}
