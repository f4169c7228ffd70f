//! The settings of the service as options: one for each row of the service's list.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use minerva_server::{SETTINGS, Sources};

use crate::model;

const CONFIG: &str = "config";
const KEYS_FILE: &str = "auth.keys_file";

/// The options, and the settings file.
pub(crate) struct SettingArgs {
    file: Option<PathBuf>,
    flags: Vec<(&'static str, String)>,
}

impl SettingArgs {
    /// Where settings come from: this machine's defaults, the file, the environment, the options.
    pub(crate) fn sources(&self) -> anyhow::Result<Sources> {
        sources(self.file.clone(), self.flags.clone())
    }
}

/// The sources of settings with these options; without a file, the one of `MINERVA_CONFIG`.
pub(crate) fn sources(
    file: Option<PathBuf>,
    flags: Vec<(&'static str, String)>,
) -> anyhow::Result<Sources> {
    let variable = || std::env::var_os("MINERVA_CONFIG").filter(|path| !path.is_empty());
    let file = file.or_else(|| variable().map(PathBuf::from));
    let mut sources = Sources::from_env(file, flags);
    let keys_file = model::hub()?.home.join("keys.redb");
    let keys_file = keys_file
        .to_str()
        .with_context(|| format!("{}: not UTF-8, expected text", keys_file.display()))?;
    sources.defaults.push((KEYS_FILE, keys_file.to_owned()));
    Ok(sources)
}

/// The option of one setting, for commands that take no others.
pub(crate) fn keys_file(path: Option<String>) -> Vec<(&'static str, String)> {
    path.map(|path| (KEYS_FILE, path)).into_iter().collect()
}

// By hand, since the list of settings is the service's and not known to a derive.
impl clap::Args for SettingArgs {
    fn augment_args(mut command: Command) -> Command {
        command = command.next_help_heading("Settings").arg(
            Arg::new(CONFIG)
                .long(CONFIG)
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Settings in TOML; each option below is a line of it [default: $MINERVA_CONFIG]"),
        );
        for setting in SETTINGS {
            let help = match setting.default() {
                Some(default) if default != "[]" => {
                    format!("{} [default: {}]", setting.help, default.trim_matches('"'))
                }
                _ => setting.help.to_owned(),
            };
            let action = match setting.is_list() {
                true => ArgAction::Append,
                false => ArgAction::Set,
            };
            let mut arg = Arg::new(setting.key)
                .long(setting.flag)
                .value_name(setting.value_name)
                .action(action)
                .help(help);
            // As with the other commands that run models.
            if setting.flag == "context" {
                arg = arg.short('c');
            }
            if setting.flag == "gpu-layers" {
                arg = arg.alias("n-gpu-layers");
            }
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = SETTINGS.iter().filter_map(|setting| {
            let values: Vec<&str> = matches
                .get_many::<String>(setting.key)?
                .map(String::as_str)
                .collect();
            Some((setting.key, values.join(",")))
        });
        Ok(Self {
            file: matches.get_one(CONFIG).cloned(),
            flags: flags.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
