//! `minerva tokenize`: the token ids of the bytes on standard input.

use std::io::{self, Read, Write};

use anyhow::Context;
use minerva_engine::tokenizer::EncodeOptions;
use serde_json::json;

use crate::model;
use crate::output::{Format, stdout};

/// The options of `tokenize`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP)]
    model: String,

    /// Do not add BOS and EOS where the model wants them
    #[arg(long)]
    no_bos: bool,

    /// Do not take the texts of control tokens for these tokens
    #[arg(long)]
    no_parse_special: bool,

    /// A line for each token, or an array of ids
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Reads all of standard input, every byte of it, and writes its tokens.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let model = model::open(&model::find(&args.model)?)?;
    let mut text = Vec::new();
    io::stdin()
        .read_to_end(&mut text)
        .context("standard input")?;
    let tokenizer = model.tokenizer();
    let options = EncodeOptions {
        add_special: !args.no_bos,
        parse_special: !args.no_parse_special,
    };
    let tokens = tokenizer.encode(&text, options);
    let mut out = io::BufWriter::new(stdout());
    match args.format {
        Format::Json => writeln!(out, "{}", json!(tokens))?,
        Format::Text => {
            for id in tokens {
                let bytes = tokenizer.token_bytes(id).unwrap_or_default();
                writeln!(out, "{id:>6} {:?}", String::from_utf8_lossy(bytes))?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
