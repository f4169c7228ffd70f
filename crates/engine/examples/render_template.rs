//! Renders chat templates for `scripts/compare_templates.py`: one JSON object a line in, one out.
//!
//! In: `{"source", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token",
//! "extra", "special_tokens", "now"}`, the last in seconds since 1970. Out:
//! `{"segments": [[text, parse_special], ...]}` or `{"error"}`.

use std::io::BufRead;
use std::time::{Duration, SystemTime};

use minerva_engine::chat::renderer::in_process;
use minerva_engine::chat::template::{ChatInput, ChatTemplate};
use minerva_engine::tokenizer::Segment;
use minijinja::Value;
use minijinja::value::Serde;
use serde_json::{Value as Json, json};

fn render(job: &Json) -> Result<Json, String> {
    let text = |key: &str| job[key].as_str().unwrap_or_default();
    let specials: Vec<&str> = job["special_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let renderer = in_process(text("source")).map_err(|error| error.to_string())?;
    let template = ChatTemplate::new(renderer, &specials);
    let extra = job["extra"].as_object().into_iter().flatten();
    let input = ChatInput {
        messages: Value::from(Serde(&job["messages"])),
        tools: Value::from(Serde(&job["tools"])),
        add_generation_prompt: job["add_generation_prompt"].as_bool().unwrap_or(false),
        bos_token: text("bos_token"),
        eos_token: text("eos_token"),
        extra: extra
            .map(|(name, value)| (name.clone(), Value::from(Serde(value))))
            .collect(),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(job["now"].as_u64().unwrap_or(0)),
    };
    let segments = template.render(&input).map_err(|error| error.to_string())?;
    let pair = |segment: Segment<String>| json!([segment.text, segment.parse_special]);
    Ok(segments.into_iter().map(pair).collect())
}

fn main() -> std::io::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let result = match serde_json::from_str(&line?) {
            Ok(job) => render(&job),
            Err(error) => Err(format!("input: {error}")),
        };
        let answer = match result {
            Ok(segments) => json!({ "segments": segments }),
            Err(error) => json!({ "error": error }),
        };
        println!("{answer}");
    }
    Ok(())
}
