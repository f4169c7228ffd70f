//! `minerva key`: makes, lists and revokes the API keys of the service.
//!
//! It writes to the database itself; a running server sees the change within a second or two.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use minerva_server::{
    Clock, KeyLimits, KeyObject, KeyRecord, KeyStore, NewKey, Scope, Usage, key_object,
};
use serde_json::json;

use crate::output::{Format, count, note_dim, print_json, stdout, table};
use crate::settings;

/// The options of `key`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a key, which is written to standard output, once
    Create(Create),
    /// List all keys and what they used
    List(List),
    /// Write the valid keys as a file for --shared-keys; it has their hashes, not the keys
    Export(Export),
    /// Revoke a key; its running requests end
    Revoke(Revoke),
}

/// The database, for every action.
#[derive(clap::Args)]
struct Database {
    /// Settings in TOML, which may name the database [default: $MINERVA_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Database of API keys [default: keys.redb in the model folder]
    #[arg(long, value_name = "FILE")]
    keys_file: Option<String>,
}

/// The options of every action but `export`.
#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    database: Database,

    /// The form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(clap::Args)]
struct Create {
    /// Who or what the key is for
    #[arg(value_name = "NAME")]
    name: String,

    /// What it may be used for
    #[arg(
        long = "scope",
        value_name = "SCOPE,…",
        value_enum,
        value_delimiter = ',',
        default_value = "infer"
    )]
    scopes: Vec<ScopeName>,

    /// Models that it may run [default: all]
    #[arg(long = "model", value_name = "MODEL,…", value_delimiter = ',')]
    models: Vec<String>,

    /// Most requests in a minute [default: no limit]
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,

    /// Most tokens of prompts and answers in a minute [default: no limit]
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,

    /// Most tokens of prompts and answers in a day of UTC [default: no limit]
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,

    /// Most requests at the same time [default: no limit]
    #[arg(long, value_name = "N")]
    concurrency: Option<u64>,

    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Export {
    #[command(flatten)]
    database: Database,
}

#[derive(clap::Args)]
struct Revoke {
    /// The id of the key, or its name if no other has it
    #[arg(value_name = "KEY")]
    id_or_name: String,

    #[command(flatten)]
    common: Common,
}

/// A scope by name.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ScopeName {
    /// To run models
    Infer,
    /// To read the figures
    Metrics,
    /// To make, list and revoke keys over HTTP
    Admin,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Infer => Scope::Infer,
            ScopeName::Metrics => Scope::Metrics,
            ScopeName::Admin => Scope::Admin,
        }
    }
}

/// Does the one thing that is asked for.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Create(args) => create(args),
        Action::List(args) => list(args),
        Action::Export(args) => export(args),
        Action::Revoke(args) => revoke(args),
    }
}

impl Common {
    fn open(self) -> anyhow::Result<(KeyStore, Format)> {
        Ok((self.database.open()?, self.format))
    }
}

impl Database {
    fn open(self) -> anyhow::Result<KeyStore> {
        let flags = settings::keys_file(self.keys_file);
        let loaded = settings::sources(self.config, flags)?.load()?;
        let path = loaded.config.auth.keys_file;
        let path = path.context("auth.keys_file: not set, expected a path")?;
        Ok(KeyStore::new(path))
    }
}

fn create(args: Create) -> anyhow::Result<()> {
    let (store, format) = args.common.open()?;
    let new = NewKey {
        name: args.name,
        scopes: args.scopes.into_iter().map(Scope::from).collect(),
        models: (!args.models.is_empty()).then_some(args.models),
        limits: KeyLimits {
            requests_per_minute: args.requests_per_minute,
            tokens_per_minute: args.tokens_per_minute,
            tokens_per_day: args.tokens_per_day,
            concurrency: args.concurrency,
        },
    };
    let (record, key) = store.create(new, Clock::System.now())?;
    if format == Format::Json {
        let made = KeyObject {
            key: Some(key),
            ..key_object(&record, &Usage::default())
        };
        return print_json(&json!(made));
    }
    let mut out = stdout();
    writeln!(out, "{key}")?;
    out.flush()?;
    note_dim(&format!(
        "key {} for {}: keep it, it is shown this once; {} has its hash",
        record.id,
        record.name,
        store.path().display()
    ));
    Ok(())
}

fn list(args: List) -> anyhow::Result<()> {
    let (store, format) = args.common.open()?;
    let keys = store.list()?;
    if format == Format::Json {
        let keys = keys.iter().map(|(key, usage)| key_object(key, usage));
        return print_json(&json!({"keys": keys.collect::<Vec<KeyObject>>()}));
    }
    let rows: Vec<Vec<String>> = keys.iter().map(|(key, usage)| row(key, usage)).collect();
    let heading = [
        "ID", "NAME", "SCOPES", "MODELS", "LIMITS", "REQUESTS", "TOKENS", "STATE",
    ];
    let mut out = stdout();
    write!(out, "{}", table(&heading, &[5, 6], &rows))?;
    out.flush()?;
    note_dim(&format!("keys file: {}", store.path().display()));
    Ok(())
}

fn row(key: &KeyRecord, usage: &Usage) -> Vec<String> {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
    let limits: Vec<String> = [
        (key.limits.requests_per_minute, "req/min"),
        (key.limits.tokens_per_minute, "tok/min"),
        (key.limits.tokens_per_day, "tok/day"),
        (key.limits.concurrency, "at once"),
    ]
    .iter()
    .filter_map(|(limit, unit)| Some(format!("{} {unit}", (*limit)?)))
    .collect();
    let none = |text: String| {
        if text.is_empty() {
            "none".to_owned()
        } else {
            text
        }
    };
    let state = match key.revoked {
        Some(_) => "revoked",
        None => "valid",
    };
    vec![
        key.id.clone(),
        key.name.clone(),
        scopes.join(","),
        key.models
            .as_ref()
            .map_or_else(|| "all".to_owned(), |models| models.join(",")),
        none(limits.join(", ")),
        usage.requests.to_string(),
        count(usage.prompt_tokens.saturating_add(usage.completion_tokens)),
        state.to_owned(),
    ]
}

fn export(args: Export) -> anyhow::Result<()> {
    let keys = args.database.open()?.list()?;
    let valid = keys.into_iter().filter(|(key, _)| key.revoked.is_none());
    let valid: Vec<KeyRecord> = valid.map(|(key, _)| key).collect();
    print_json(&serde_json::to_value(valid)?)
}

fn revoke(args: Revoke) -> anyhow::Result<()> {
    let (store, format) = args.common.open()?;
    let (record, usage) = store.revoke(&args.id_or_name, Clock::System.now())?;
    if format == Format::Json {
        return print_json(&json!(key_object(&record, &usage)));
    }
    note_dim(&format!("key {} for {} is revoked", record.id, record.name));
    Ok(())
}
