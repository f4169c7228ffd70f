//! Log lines on standard error, as text or JSON, with the ids of request and key; never prompts.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// The filter of the process' one subscriber.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Sends log lines of this process to standard error; once, and before the first of them.
pub(crate) fn init(log: &Log) {
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let is_colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(is_colored).compact().boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    // Who embeds the service may have a subscriber of their own, which stays.
    if subscriber.try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes the level of a running process.
pub(crate) fn set_level(level: LogLevel) {
    if let Some(filter) = FILTER.get()
        && let Err(error) = filter.reload(targets(level))
    {
        tracing::error!(%error, "the log level stays as it was");
    }
}

/// Ours at the level; of the libraries what a person has to know.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("minerva", level)
}
