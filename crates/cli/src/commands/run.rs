//! `minerva run`: answers a prompt, or chats.

use std::io::{self, IsTerminal, Read, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use minerva_engine::{Done, FinishReason, Token};
use serde_json::{Value, json};

use crate::answer::AnswerArgs;
use crate::backend::BackendArgs;
use crate::output::{Format, note_dim, print_json, stdout};
use crate::session::{Message, Session, SessionOptions, describe_speed, per_second};
use crate::{chat, interrupt, model};

/// The options of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = format!("{}; pulled if it is not there", model::NAME_HELP))]
    model: String,

    /// What to answer; without it, what is piped to standard input, else a chat begins
    #[arg(value_name = "PROMPT")]
    prompt: Option<String>,

    /// Read the prompt from a file; one line break at its end is not part of it
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,

    /// Continue the prompt as it is, without the chat template; special tokens in it are parsed
    #[arg(long)]
    raw: bool,

    /// A system message before the conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,

    /// Most tokens of prompt and answer together [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,

    /// Threads that compute [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    #[command(flatten)]
    backend: BackendArgs,

    /// Give each token its log-probability and the K likeliest tokens; needs --format json
    #[arg(long, value_name = "K")]
    logprobs: Option<usize>,

    /// Text as it comes, or one JSON object at the end
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Tell the speed at the end, on standard error
    #[arg(short, long)]
    verbose: bool,

    // Last, since its heading holds for all that comes after it.
    #[command(flatten)]
    answer: AnswerArgs,
}

/// Answers the prompt; chats if there is none.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(
        args.logprobs.is_none() || args.format == Format::Json,
        "logprobs: text has no place for them, expected --format json"
    );
    let prompt = read_prompt(&args)?;
    ensure!(
        prompt.is_some() || args.format == Format::Text,
        "format: json, expected text in a chat\ngive a prompt to get one answer as JSON"
    );
    let session = Session::open(&SessionOptions {
        model: &args.model,
        context: args.context,
        n_threads: args.threads,
        backend: &args.backend,
        is_raw: args.raw,
    })?;
    ensure!(
        args.system.is_none() || session.is_chat(),
        "system: the model has no chat template, so there is no place for a system message"
    );
    interrupt::install()?;
    match prompt {
        Some(prompt) => answer(&args, &session, prompt),
        None => {
            chat::run(&session, args.answer, args.system, args.verbose)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The prompt of the command line, of a file, or of standard input if that is no terminal.
fn read_prompt(args: &Args) -> anyhow::Result<Option<String>> {
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => return Ok(Some(prompt.clone())),
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?
        }
        (None, None) if io::stdin().is_terminal() => return Ok(None),
        (None, None) => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .context("standard input")?;
            if text.is_empty() {
                bail!("standard input: empty, expected a prompt");
            }
            text
        }
    };
    let text = text
        .strip_suffix('\n')
        .map(|text| text.strip_suffix('\r').unwrap_or(text))
        .unwrap_or(&text);
    Ok(Some(text.to_owned()))
}

fn answer(args: &Args, session: &Session, prompt: String) -> anyhow::Result<ExitCode> {
    let system = args.system.iter().map(|text| Message {
        role: "system",
        content: text.clone(),
    });
    let user = Message {
        role: "user",
        content: prompt,
    };
    let prompt = session.encode(&system.chain([user]).collect::<Vec<_>>())?;
    let mut request = args.answer.request(prompt);
    // JSON always has each token's own.
    request.config.logprobs = (args.format == Format::Json).then(|| args.logprobs.unwrap_or(0));

    let mut out = stdout();
    let mut tokens = Vec::new();
    let mut ends_line = true;
    let done = session.answer(&request, &mut |token| {
        match args.format {
            Format::Text => {
                write!(out, "{}", token.text)?;
                out.flush()?;
                if !token.text.is_empty() {
                    ends_line = token.text.ends_with('\n');
                }
            }
            Format::Json => tokens.push(token.clone()),
        }
        Ok(())
    })?;
    match args.format {
        Format::Text => {
            write!(out, "{}", done.text)?;
            if !done.text.is_empty() {
                ends_line = done.text.ends_with('\n');
            }
            if !ends_line {
                writeln!(out)?;
            }
            out.flush()?;
        }
        Format::Json => print_json(&to_json(args, &request.prompt, tokens, &done))?,
    }
    if args.verbose {
        note_dim(&describe_speed(&done, &request));
    }
    Ok(match done.finish_reason {
        FinishReason::Cancelled => ExitCode::from(interrupt::EXIT_STATUS),
        _ => ExitCode::SUCCESS,
    })
}

fn to_json(args: &Args, prompt: &[u32], mut tokens: Vec<Token>, done: &Done) -> Value {
    // What was held back to the end came with the last token.
    if let Some(last) = tokens.last_mut() {
        last.text += &done.text;
    }
    let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
    let tokens: Vec<Value> = tokens
        .iter()
        .map(|token| {
            let logprobs = token.logprobs.as_ref();
            let top = logprobs.iter().flat_map(|logprobs| &logprobs.top);
            let top: Vec<Value> = top
                .map(|(id, logprob)| json!({"id": id, "logprob": logprob}))
                .collect();
            let logprob = logprobs.map(|logprobs| logprobs.logprob);
            json!({"id": token.id, "text": token.text, "logprob": logprob, "top": top})
        })
        .collect();
    let usage = done.usage;
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let (prefill, decode) = (done.timings.prefill, done.timings.decode);
    let n_prefilled = usage.prompt_tokens - usage.cached_tokens;
    let n_decoded = usage.completion_tokens.saturating_sub(1);
    json!({
        "model": args.model,
        "prompt_tokens": prompt,
        "tokens": tokens,
        "text": text,
        "finish_reason": done.finish_reason.name(),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "timings": {
            "prompt_ms": ms(prefill),
            "prompt_per_second": per_second(n_prefilled, prefill.as_secs_f64()),
            "first_token_ms": ms(done.timings.first_token),
            "predicted_ms": ms(decode),
            "predicted_per_second": per_second(n_decoded, decode.as_secs_f64()),
        },
    })
}
