//! Tokenizes texts with the vocabulary of a GGUF file, for comparison with other tokenizers.
//!
//! `tokenize MODEL [--add-special] [--parse-special] [--decode]`: reads texts from standard input,
//! each ended by a NUL byte, and writes for each the token ids as one line of JSON. With `--decode`
//! a line is an object with the ids and the text that they decode to as hexadecimal bytes. `--time`
//! encodes standard input as one text and writes megabytes a second to standard error.

use std::{
    error::Error,
    io::{Read, Write},
    time::Instant,
};

use minerva_engine::tokenizer::{EncodeOptions, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let model = args
        .iter()
        .find(|arg| !arg.starts_with("--"))
        .ok_or("usage: tokenize MODEL")?;
    let options = EncodeOptions {
        add_special: has("--add-special"),
        parse_special: has("--parse-special"),
    };
    let bytes = std::fs::read(model)?;
    let gguf = minerva_gguf::Gguf::parse(&bytes)?;
    let start = Instant::now();
    let tokenizer = Tokenizer::from_metadata(&gguf.metadata)?;
    let load_time = start.elapsed();
    let mut input = Vec::new();
    std::io::stdin().lock().read_to_end(&mut input)?;
    if has("--time") {
        let start = Instant::now();
        let tokens = tokenizer.encode(&input, options);
        let rate = input.len() as f64 / start.elapsed().as_secs_f64() / 1e6;
        eprintln!(
            "load {load_time:?}, {} tokens, {rate:.1} MB/s",
            tokens.len()
        );
        return Ok(());
    }
    let texts: Vec<&[u8]> = match input.strip_suffix(b"\0") {
        Some(texts) => texts.split(|&byte| byte == 0).collect(),
        None if input.is_empty() => Vec::new(),
        None => return Err("standard input does not end with a NUL byte".into()),
    };
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    for tokens in tokenizer.encode_batch(&texts, options) {
        if has("--decode") {
            let text = tokenizer.decode_bytes(&tokens, false);
            let hex: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(output, "{{\"ids\":{tokens:?},\"text\":\"{hex}\"}}")?;
        } else {
            writeln!(output, "{tokens:?}")?;
        }
    }
    Ok(output.flush()?)
}
