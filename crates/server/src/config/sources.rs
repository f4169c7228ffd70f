//! Where settings come from: a file, overridden by the environment, and that by the command line.
//!
//! A value is checked where it comes from, so that a message names the file, variable or option
//! that has to change.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::setting::{SETTINGS, Setting, insert, sections, to_table, value_of};
use super::{ModelSettings, ServerConfig};

/// The list of models in the file.
const MODELS: &str = "models";

/// Where the settings come from; the same sources are read again on a reload.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Values of this machine for settings that have no default of their own: key and text.
    pub defaults: Vec<(&'static str, String)>,
    /// The settings file.
    pub file: Option<PathBuf>,
    /// Variables of the environment; those that are none of ours are passed over.
    pub env: Vec<(String, String)>,
    /// Options of the command line: the setting's key and the text given.
    pub flags: Vec<(&'static str, String)>,
    /// Models of the command line: names of `[[models]]`, paths, or names of `minerva list`. They
    /// are loaded when the service starts.
    pub models: Vec<String>,
}

/// The settings in effect, and where each came from.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The settings.
    pub config: ServerConfig,
    /// The source of each setting that is not a default, by key.
    pub set_by: BTreeMap<&'static str, SetBy>,
}

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetBy {
    /// The settings file.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
    /// An option of the command line.
    Flag(&'static str),
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetBy::File(path) => write!(f, "{}", path.display()),
            SetBy::Env(name) => f.write_str(name),
            SetBy::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// There is no such setting.
    #[error("{set_by}: {key}: no such setting, expected one of {}", expected.join(", "))]
    Unknown {
        /// Where it stands.
        set_by: SetBy,
        /// Its name.
        key: String,
        /// The settings of that section, or the sections.
        expected: Vec<String>,
    },
    /// A value is not what the setting takes.
    #[error("{set_by}: {key}: {found}, expected {expected}")]
    Value {
        /// Where it stands.
        set_by: SetBy,
        /// The setting.
        key: &'static str,
        /// What was found.
        found: String,
        /// What was wanted.
        expected: String,
    },
    /// A `[[models]]` is not one.
    #[error("{}: [[models]]: {problem}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Two settings do not go together.
    #[error("{0}")]
    Contradiction(String),
}

impl Sources {
    /// The sources of this process.
    pub fn from_env(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        // Bytes that are not UTF-8 become ones that no setting accepts.
        let env = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .filter(|(name, _)| name.starts_with("MINERVA_"))
            .collect();
        Self {
            defaults: Vec::new(),
            file,
            env,
            flags,
            models: Vec::new(),
        }
    }

    /// Reads, merges and checks.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut table = Table::new();
        let mut set_by = BTreeMap::new();
        let mut models = Vec::new();
        for (setting, text) in find_keys(&self.defaults) {
            insert(&mut table, setting.key, setting.parse(text));
        }
        if let Some(path) = &self.file {
            let (settings, in_file) = read_file(path)?;
            models = in_file;
            for (setting, value) in settings {
                put(
                    &mut table,
                    &mut set_by,
                    setting,
                    value,
                    SetBy::File(path.clone()),
                )?;
            }
        }
        for (name, text) in &self.env {
            // An empty variable counts as unset.
            if text.is_empty() {
                continue;
            }
            let Some(setting) = find_env(name)? else {
                continue;
            };
            put(
                &mut table,
                &mut set_by,
                setting,
                setting.parse(text),
                SetBy::Env(name.clone()),
            )?;
        }
        for (setting, text) in find_keys(&self.flags) {
            put(
                &mut table,
                &mut set_by,
                setting,
                setting.parse(text),
                SetBy::Flag(setting.flag),
            )?;
        }
        let mut config: ServerConfig = table.try_into().map_err(|error: toml::de::Error| {
            ConfigError::Contradiction(error.message().to_owned())
        })?;
        for name in &self.models {
            add_model(&mut models, name);
        }
        config.models = models;
        match (&config.tls.cert, &config.tls.key) {
            (Some(_), None) => Err(ConfigError::Contradiction(
                "tls.cert: set without tls.key, expected both or neither".to_owned(),
            )),
            (None, Some(_)) => Err(ConfigError::Contradiction(
                "tls.key: set without tls.cert, expected both or neither".to_owned(),
            )),
            _ => Ok(Loaded { config, set_by }),
        }
    }
}

/// The settings that these keys name; the keys are those of the list.
fn find_keys<'a>(
    values: &'a [(&'static str, String)],
) -> impl Iterator<Item = (&'static Setting, &'a str)> {
    let find = |key| SETTINGS.iter().find(move |setting| setting.key == key);
    values
        .iter()
        .filter_map(move |(key, text)| Some((find(*key)?, text.as_str())))
}

/// Has a model of the command line loaded at the start, one of the file or another.
fn add_model(models: &mut Vec<ModelSettings>, given: &str) {
    let is_it = |model: &&mut ModelSettings| {
        model.name == given || model.aliases.iter().any(|alias| alias == given)
    };
    if let Some(model) = models.iter_mut().find(is_it) {
        model.load = true;
        return;
    }
    // What stands after the last slash says enough: `models/tiny.gguf` is asked for as `tiny`.
    let name = given.rsplit(['/', '\\']).next().unwrap_or(given);
    models.push(ModelSettings {
        name: name.strip_suffix(".gguf").unwrap_or(name).to_owned(),
        model: Some(given.to_owned()),
        load: true,
        ..ModelSettings::default()
    });
}

/// What a file has.
type FileSettings = (Vec<(&'static Setting, Value)>, Vec<ModelSettings>);

/// The settings of a file; each is one of the list.
fn read_file(path: &Path) -> Result<FileSettings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|reason| ConfigError::Read {
        path: path.to_owned(),
        reason,
    })?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: 1 + text.bytes().take(start).filter(|&b| b == b'\n').count(),
            message: error.message().to_owned(),
        }
    })?;
    let unknown = |key: String, expected: Vec<String>| ConfigError::Unknown {
        set_by: SetBy::File(path.to_owned()),
        key,
        expected,
    };
    let mut found = Vec::new();
    let mut models = Vec::new();
    for (section, value) in table {
        if section == MODELS {
            models = value
                .try_into()
                .map_err(|error: toml::de::Error| ConfigError::Model {
                    path: path.to_owned(),
                    problem: error.message().to_owned(),
                })?;
            continue;
        }
        let prefix = format!("{section}.");
        let keys = || {
            SETTINGS
                .iter()
                .filter(|setting| setting.key.starts_with(&prefix))
        };
        let (Value::Table(settings), Some(_)) = (value, keys().next()) else {
            let expected = sections().into_iter().chain(["[[models]]".to_owned()]);
            return Err(unknown(section, expected.collect()));
        };
        for (name, value) in settings {
            let key = format!("{prefix}{name}");
            match SETTINGS.iter().find(|setting| setting.key == key) {
                Some(setting) => found.push((setting, value)),
                None => {
                    let expected = keys().map(|setting| setting.key.to_owned()).collect();
                    return Err(unknown(key, expected));
                }
            }
        }
    }
    Ok((found, models))
}

/// The setting of a variable. A name that begins as those of a section do, and is none, is an
/// error; any other variable is somebody else's.
fn find_env(name: &str) -> Result<Option<&'static Setting>, ConfigError> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.env() == name) {
        return Ok(Some(setting));
    }
    for section in sections() {
        let prefix = format!(
            "MINERVA_{}_",
            section.trim_matches(['[', ']']).to_uppercase()
        );
        if name.starts_with(&prefix) {
            return Err(ConfigError::Unknown {
                set_by: SetBy::Env(name.to_owned()),
                key: name.to_owned(),
                expected: SETTINGS
                    .iter()
                    .map(Setting::env)
                    .filter(|env| env.starts_with(&prefix))
                    .collect(),
            });
        }
    }
    Ok(None)
}

/// Puts a checked value into its section.
fn put(
    table: &mut Table,
    all_set_by: &mut BTreeMap<&'static str, SetBy>,
    setting: &'static Setting,
    value: Value,
    set_by: SetBy,
) -> Result<(), ConfigError> {
    if let Err(expected) = setting.check(&value) {
        return Err(ConfigError::Value {
            set_by,
            key: setting.key,
            found: value.to_string(),
            expected,
        });
    }
    insert(table, setting.key, value);
    all_set_by.insert(setting.key, set_by);
    Ok(())
}

impl Loaded {
    /// The settings as a file that would give them, with the source of each as a comment.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for section in sections() {
            let name = section.trim_matches(['[', ']']);
            text += &format!("{section}\n");
            for setting in SETTINGS {
                let Some(key) = setting.key.strip_prefix(&format!("{name}.")) else {
                    continue;
                };
                let source = self
                    .set_by
                    .get(setting.key)
                    .map_or_else(|| "default".to_owned(), ToString::to_string);
                text += &match value_of(&self.config, setting.key) {
                    Some(value) => format!("{key} = {value} # {source}\n"),
                    None => format!("# {key} is not set\n"),
                };
            }
            text.push('\n');
        }
        for model in &self.config.models {
            let model = toml::to_string(model).expect("text, numbers and flags");
            text += &format!("[[{MODELS}]]\n{model}\n");
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    }

    /// These settings with the new values of those that a running server can take, and the keys
    /// of those that differ and that it cannot.
    pub(crate) fn reloaded(&self, new: &Loaded) -> (Loaded, Vec<&'static str>) {
        let mut table = to_table(&self.config);
        let mut set_by = self.set_by.clone();
        let mut kept = Vec::new();
        for setting in SETTINGS {
            let value = value_of(&new.config, setting.key);
            if !setting.is_reloaded {
                if value != value_of(&self.config, setting.key) {
                    kept.push(setting.key);
                }
                continue;
            }
            if let Some(value) = value {
                insert(&mut table, setting.key, value);
            }
            match new.set_by.get(setting.key) {
                Some(source) => set_by.insert(setting.key, source.clone()),
                None => set_by.remove(setting.key),
            };
        }
        let mut config: ServerConfig = table
            .try_into()
            .expect("the values are those of two configurations");
        config.models.clone_from(&new.config.models);
        (Loaded { config, set_by }, kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;

    fn env(vars: &[(&str, &str)]) -> Sources {
        Sources {
            env: vars
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Sources::default()
        }
    }

    #[test]
    fn the_list_has_every_field_and_no_other() {
        let mut config = ServerConfig::default();
        config.tls.cert = Some("c".into());
        config.tls.key = Some("k".into());
        config.auth.keys_file = Some("f".into());
        config.auth.shared_keys = Some("s".into());
        config.engine.memory_bytes = Some(1);
        config.engine.gpu_memory_bytes = Some(1);
        config.engine.context = Some(2);
        config.engine.cache_tokens = Some(2);
        let table = Table::try_from(&config).unwrap();
        let fields: Vec<String> = table
            .iter()
            .flat_map(|(section, value)| {
                let names = value.as_table().unwrap().keys();
                names.map(move |name| format!("{section}.{name}"))
            })
            .collect();
        let mut listed: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        let mut fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        listed.sort_unstable();
        fields.sort_unstable();
        assert_eq!(fields, listed);
    }

    #[test]
    fn defaults_pass_their_own_checks_and_come_back_from_toml() {
        let loaded = Loaded::default();
        for setting in SETTINGS {
            if let Some(value) = value_of(&loaded.config, setting.key) {
                setting.check(&value).unwrap();
            }
        }
        let again: ServerConfig = toml::from_str(&loaded.to_toml()).unwrap();
        assert_eq!(again, loaded.config);
    }

    #[test]
    fn the_command_line_overrides_the_environment() {
        let mut sources = env(&[
            ("MINERVA_LISTEN_PORT", "1"),
            ("MINERVA_LISTEN_ALLOWED_HOSTS", "a.example, b.example"),
            ("MINERVA_ISA", "scalar"),
            ("MINERVA_PORT", "tcp://10.0.0.1:80"),
        ]);
        sources.flags.push(("listen.port", "2".to_owned()));
        let loaded = sources.load().unwrap();
        assert_eq!(loaded.config.listen.port, 2);
        assert_eq!(
            loaded.config.listen.allowed_hosts,
            ["a.example", "b.example"]
        );
        assert_eq!(loaded.set_by["listen.port"].to_string(), "--port");
        assert_eq!(loaded.set_by.len(), 2);
    }

    #[test]
    fn a_message_names_source_setting_found_and_expected() {
        let message = |vars: &[(&str, &str)]| env(vars).load().unwrap_err().to_string();
        assert_eq!(
            message(&[("MINERVA_LISTEN_PORT", "65536")]),
            "MINERVA_LISTEN_PORT: listen.port: 65536, expected a whole number from 0 to 65535"
        );
        assert_eq!(
            message(&[("MINERVA_AUTH_MODE", "maybe")]),
            "MINERVA_AUTH_MODE: auth.mode: \"maybe\", expected one of auto, required, off"
        );
        assert_eq!(
            message(&[("MINERVA_LOG_LEVELS", "info")]),
            "MINERVA_LOG_LEVELS: MINERVA_LOG_LEVELS: no such setting, expected one of MINERVA_LOG_FORMAT, MINERVA_LOG_LEVEL"
        );
        for (name, value) in [
            ("MINERVA_LISTEN_HOST", "example.com"),
            ("MINERVA_LISTEN_ALLOWED_HOSTS", "a:80"),
            ("MINERVA_LISTEN_ALLOWED_ORIGINS", "https://a.example/path"),
            ("MINERVA_LISTEN_PORT", "-1"),
            ("MINERVA_LISTEN_PORT", "1e3"),
            ("MINERVA_TLS_CERT", "only.pem"),
        ] {
            assert!(message(&[(name, value)]).contains("expected"), "{name}");
        }
    }

    #[test]
    fn models_of_the_command_line_join_those_of_the_file() {
        let folder = std::env::temp_dir().join(format!("minerva-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("minerva.toml");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Sources {
                file: Some(file.clone()),
                models: vec!["b".to_owned(), "models/c.gguf".to_owned()],
                ..Sources::default()
            }
            .load()
        };
        let loaded = load(
            "[[models]]\nname = \"a\"\naliases = [\"b\"]\n[[models]]\nname = \"d\"\nparallel = 2",
        )
        .unwrap();
        let models: Vec<(&str, bool)> = loaded
            .config
            .models
            .iter()
            .map(|model| (model.name.as_str(), model.load))
            .collect();
        assert_eq!(models, [("a", true), ("d", false), ("c", true)]);
        let again: ServerConfig = toml::from_str(&loaded.to_toml()).unwrap();
        assert_eq!(again, loaded.config);
        let error = load("[[models]]\nname = \"a\"\ncolor = 1").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("[[models]]: unknown field `color`"),
            "{error}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_reload_tells_what_it_cannot_do() {
        let mut new = ServerConfig::default();
        new.listen.port = 1;
        new.log.level = LogLevel::Debug;
        let new = Loaded {
            config: new,
            set_by: BTreeMap::from([("log.level", SetBy::Flag("log-level"))]),
        };
        let (loaded, kept) = Loaded::default().reloaded(&new);
        assert_eq!(kept, ["listen.port"]);
        assert_eq!(loaded.config.listen.port, 8080);
        assert_eq!(loaded.config.log.level, LogLevel::Debug);
        assert_eq!(loaded.set_by, new.set_by);
    }
}
