//! Compiles a chat template, a Jinja2 template, and renders it as transformers would.
//!
//! A template is code from a stranger: its size, its work, its recursion and its output are
//! limited, and it sees nothing but what it is given. What a template creates is paid for from the
//! same budget as its instructions.
//!
//! A few things the engine underneath, minijinja 3.1, does not charge for: compiling long chains of
//! operators, turning a list into text or comparing it, however often it holds itself, and dropping
//! a deeply nested list. So a template is compiled and runs on a thread of its own, with a stack
//! for the deepest nesting, and is given up after a time limit. A thread cannot be stopped from
//! outside, so while one that was given up still runs, its template is not rendered again: a
//! hostile template costs a program one thread. Nor is there a limit to the memory of such a
//! thread: who opens files of strangers and must go on sets a [`Compile`] of their own, which has
//! [`in_process`] do this in another process, one that may be ended and whose memory is limited.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};

use super::python;
use crate::error::{EngineError, LoadError, RequestError};

/// The most bytes the source of a template may have; the largest in use have about 30 KiB.
pub const MAX_SOURCE_BYTES: usize = 1 << 18;
/// The most bytes one rendering may write.
pub const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Time allowed for compiling, and for one rendering: more than its work takes on a slow machine.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Work allowed for one rendering: an instruction, or 64 bytes of data made, costs 1. Long chats
/// need some thousands; this is about a second, and 256 MiB.
const FUEL: u64 = 4_000_000;
/// Stack of a thread that compiles or renders. [`FUEL`] allows lists nested some 300,000 deep, and
/// dropping one takes under 1 KiB a level; a source of [`MAX_SOURCE_BYTES`] takes less. Only what
/// is touched is resident.
const STACK_BYTES: usize = 512 << 20;
/// Nested calls, loops and conditions, in units of minijinja.
const RECURSION_LIMIT: usize = 200;
/// The longest message of `raise_exception` that is passed on.
const MAX_ERROR_CHARS: usize = 1000;

/// A compiled template.
pub trait Renderer: fmt::Debug + Send + Sync {
    /// The variables that the template reads.
    fn variables(&self) -> &HashSet<String>;

    /// The text that it makes of `variables`, a map.
    fn render(&self, variables: Value) -> Result<String, EngineError>;
}

/// Compiles the source of a template.
pub type Compile = fn(&str) -> Result<Box<dyn Renderer>, LoadError>;

/// The template's name; it has no ending that would switch on HTML escaping.
const NAME: &str = "chat_template";
/// The variable with the moment that `strftime_now` tells, in seconds since 1970; not a name that
/// a template can write.
pub(super) const NOW: &str = "now of the request";

/// Compiles a template to be rendered on threads of this process, within the limits that the
/// module describes.
pub fn in_process(source: &str) -> Result<Box<dyn Renderer>, LoadError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(LoadError::ChatTemplate(format!(
            "source: {} bytes, expected at most {MAX_SOURCE_BYTES}",
            source.len()
        )));
    }
    let source = without_generation_tags(source);
    let n_lost = Arc::default();
    let compiled = on_own_thread(TIME_LIMIT, &n_lost, || compile(source));
    let (environment, variables) = compiled
        .map_err(LoadError::Thread)?
        .map_err(LoadError::ChatTemplate)?;
    Ok(Box::new(InProcess {
        environment: Arc::new(environment),
        variables,
        n_lost,
    }))
}

#[derive(Debug)]
struct InProcess {
    environment: Arc<Environment<'static>>,
    variables: HashSet<String>,
    /// Renderings that were given up and still run.
    n_lost: Arc<AtomicUsize>,
}

impl Renderer for InProcess {
    fn variables(&self) -> &HashSet<String> {
        &self.variables
    }

    fn render(&self, variables: Value) -> Result<String, EngineError> {
        let environment = self.environment.clone();
        let work = move || run(&environment, variables);
        on_own_thread(TIME_LIMIT, &self.n_lost, work)
            .map_err(|error| EngineError::Failed(format!("cannot start a thread: {error}")))?
            .map_err(|text| RequestError::ChatTemplate(text).into())
    }
}

fn compile(source: String) -> Result<(Environment<'static>, HashSet<String>), String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_formatter(write_value);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", python::to_str);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
        .add_template_owned(NAME, source)
        .map_err(|error| describe(&error))?;
    let template = environment.get_template(NAME).expect("it was just added");
    let variables = template.undeclared_variables(false);
    Ok((environment, variables))
}

fn run(environment: &Environment<'static>, variables: Value) -> Result<String, String> {
    let template = environment.get_template(NAME).expect("it was added");
    let mut output = LimitedOutput { bytes: Vec::new() };
    template
        .render_captured_to(variables, &mut output)
        .map_err(|error| describe(&error))?;
    Ok(String::from_utf8(output.bytes).expect("a template writes whole strings"))
}

/// Runs `work` with a stack of [`STACK_BYTES`], and gives it up after `limit`; not while other work
/// that was given up still runs. The outer error says that there is no thread.
fn on_own_thread<T: Send + 'static>(
    limit: Duration,
    n_lost: &Arc<AtomicUsize>,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> io::Result<Result<T, String>> {
    if n_lost.load(Ordering::Acquire) > 0 {
        return Ok(Err("an earlier rendering is without end".to_string()));
    }
    // Without room: what is sent was taken, or the receiver is gone.
    let (sender, receiver) = mpsc::sync_channel(0);
    let end = Arc::clone(n_lost);
    std::thread::Builder::new()
        .name("chat-template".to_string())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let done = done.unwrap_or_else(|_| Err("rendering it panicked".to_string()));
            if sender.send(done).is_err() {
                end.fetch_sub(1, Ordering::Release);
            }
        })?;
    Ok(receiver
        .recv_timeout(limit)
        .unwrap_or_else(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                n_lost.fetch_add(1, Ordering::Release);
                let seconds = limit.as_secs();
                Err(format!("it ran for {seconds} s, expected less"))
            }
            mpsc::RecvTimeoutError::Disconnected => Err("its thread ended".to_string()),
        }))
}

/// Collects what is written, up to [`MAX_OUTPUT_BYTES`].
struct LimitedOutput {
    bytes: Vec<u8>,
}

impl io::Write for LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            let text = format!("the prompt is larger than {MAX_OUTPUT_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line that says what went wrong and where.
fn describe(error: &Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it needs more work or memory than a template may".to_string(),
        (_, Some(detail)) => detail.chars().take(MAX_ERROR_CHARS).collect(),
        (kind, None) => kind.to_string(),
    };
    let mut source = std::error::Error::source(error);
    // The chain is as long as the nesting of calls, which is limited; its start says enough.
    for _ in 0..3 {
        let Some(cause) = source else { break };
        let cause_text: String = cause.to_string().chars().take(MAX_ERROR_CHARS).collect();
        text.push_str(": ");
        text.push_str(&cause_text);
        source = cause.source();
    }
    match error.line() {
        Some(line) => format!("{text} (line {line})"),
        None => text,
    }
}

fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::to_str(state, value)?),
    };
    written.map_err(Error::from)
}

/// In Python text, lists, maps and undefined values can be iterated.
fn is_iterable(value: &Value) -> bool {
    !matches!(
        value.kind(),
        ValueKind::None | ValueKind::Bool | ValueKind::Number
    ) && (value.is_undefined() || value.as_str().is_some() || value.try_iter().is_ok())
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
}

fn strftime_now(state: &State<'_, '_>, format: &str) -> Result<String, Error> {
    let seconds = state
        .lookup(NOW)
        .and_then(|now| u64::try_from(now).ok())
        .unwrap_or(0);
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds.min(u32::MAX.into()));
    state.consume_fuel(format.len() as u64)?;
    python::strftime(format, now)
}

/// Replaces the tags `generation` and `endgeneration`, with which transformers finds the tokens to
/// train on, by a condition that is always true: white space is trimmed around it in the same way.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        rest = tag;
        let inner = tag.strip_prefix(['-', '+']).unwrap_or(tag);
        let word = inner.trim_start();
        let (name, replacement) = match word.starts_with("end") {
            true => ("endgeneration", "endif"),
            false => ("generation", "if true"),
        };
        let Some(after) = word.strip_prefix(name) else {
            continue;
        };
        let end = after.trim_start();
        if end
            .strip_prefix(['-', '+'])
            .unwrap_or(end)
            .starts_with("%}")
        {
            out.push_str(&tag[..tag.len() - word.len()]);
            out.push_str(replacement);
            out.push(' ');
            rest = end;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles and renders a template, with the moment 0.
    fn render(source: &str) -> Result<String, String> {
        let renderer = in_process(source).map_err(|error| error.to_string())?;
        let rendered = renderer.render(Value::from_pairs([(NOW, Value::from(0))]));
        rendered.map_err(|error| error.to_string())
    }

    #[test]
    fn values_print_as_in_python() {
        let cases = [
            (
                "{{ none }} {{ true }} {{ 1e20 }} {{ 1.0 }} {{ nothing }}",
                "None True 1e+20 1.0 ",
            ),
            (
                "{{ ['a', none, {'b': false}] }}",
                "['a', None, {'b': False}]",
            ),
            (
                "{{ {'a': [1, 2.5], 'b': {}} | tojson }}",
                "{\"a\": [1, 2.5], \"b\": {}}",
            ),
            (
                "{{ [1, [], {}] | tojson(indent=2) }}",
                "[\n  1,\n  [],\n  {}\n]",
            ),
            (
                "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}",
                "{\"a\": 2, \"b\": 1}",
            ),
            ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
            ("{{ 'é<\"\\n' | tojson }}", "\"é<\\\"\\n\""),
            (
                "{{ 'é😀' | tojson(ensure_ascii=true) }}",
                "\"\\u00e9\\ud83d\\ude00\"",
            ),
            ("{{ none is iterable }} {{ 'a' is iterable }}", "False True"),
            ("{{ strftime_now('%d %b %Y') }}", "01 Jan 1970"),
            (
                "a\n  {%- generation -%}\n b \n{%- endgeneration %}\nc",
                "abc",
            ),
            ("{{ (none | string) + '!' }}", "None!"),
        ];
        for (source, wanted) in cases {
            assert_eq!(render(source).unwrap(), wanted, "{source}");
        }
    }

    #[test]
    fn the_template_can_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert_eq!(error, "chat template: roles must alternate (line 1)");
        let error = in_process("\n{% if %}").unwrap_err();
        assert!(error.to_string().starts_with("chat template: "), "{error}");
        assert!(error.to_string().ends_with("(line 2)"), "{error}");
        let error = in_process(&" ".repeat(MAX_SOURCE_BYTES + 1)).unwrap_err();
        assert!(error.to_string().contains("expected at most"), "{error}");
    }

    #[test]
    fn hostile_templates_end_with_an_error() {
        let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
        let double = "{% set ns = namespace(a='x') %}{% for i in range(99) %}";
        for source in [
            "{{ 'x' * 10**9 }}",
            "{{ [1] * 10**9 }}",
            "{% for i in range(10**9) %}{% endfor %}",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{{ range(10**12) | list }}",
            &format!("{double}{{% set ns.a = ns.a ~ ns.a %}}{{% endfor %}}"),
            &format!("{double}{{% set ns.a = ns.a + ns.a %}}{{% endfor %}}"),
            &format!("{double}{{% set ns.a = [ns.a, ns.a] %}}{{% endfor %}}{{{{ ns.a }}}}"),
            &format!("{double}{{% set ns.a = [ns.a, ns.a] %}}{{% endfor %}}{{{{ ns.a|tojson }}}}"),
            &format!("{double}{{% set ns.a = ns.a.replace('x', 'xxxx') %}}{{% endfor %}}"),
            "{{ '%1000000000d' | format(1) }}",
            "{{ '{:1000000000}'.format(1) }}",
            "{{ 'x' | indent(1000000000) }}",
            "{{ 'x' | center(1000000000) }}",
            "{{ [1] | tojson(indent=1000000000) }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
            "{% include 'chat_template' %}",
            "{% import '/etc/passwd' as p %}",
            &format!("{{{{ {deep} }}}}"),
            &"{% if true %}".repeat(50_000),
            "{{ 9999999999 ** 9999999999 }}",
            "{{ strftime_now('%Y' * 1000000) * 1000 }}",
        ] {
            let shown: String = source.chars().take(80).collect();
            let result = render(source);
            let error = result.expect_err(&shown);
            assert!(
                error.starts_with("chat template: ") && error.len() < 4000,
                "{shown}: {error}"
            );
        }
    }

    #[test]
    fn deep_lists_do_not_overflow_the_stack() {
        let deepen = "{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}";
        let source = format!("{{% set ns = namespace(a=[]) %}}{deepen}{deepen}{deepen}done");
        match render(&source) {
            Ok(text) => assert_eq!(text, "done"),
            Err(error) => assert!(error.contains("more work"), "{error}"),
        }
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        for (start, link, end) in [
            ("{{ ", "x~", "x }}"),
            ("{{ ", "-", "x }}"),
            ("{{ ", "x if x else ", "x }}"),
            ("{{ x", "|e", " }}"),
            ("{{ x", "()", " }}"),
            ("{% if x %}", "{% elif x %}", "{% endif %}"),
        ] {
            let n_links = (MAX_SOURCE_BYTES - start.len() - end.len()) / link.len();
            // Whether it is too much or not: it comes back.
            let _ = render(&format!("{start}{}{end}", link.repeat(n_links)));
        }
    }

    #[test]
    fn endless_work_is_given_up() {
        let (keep, wait) = mpsc::channel::<()>();
        let endless = move || {
            let _ = wait.recv();
            Ok(())
        };
        let n_lost = Arc::default();
        let error = on_own_thread(Duration::ZERO, &n_lost, endless)
            .unwrap()
            .unwrap_err();
        assert!(error.contains("it ran for 0 s"), "{error}");
        // No second thread, until the first has ended.
        let error = on_own_thread(TIME_LIMIT, &n_lost, || Ok(()))
            .unwrap()
            .unwrap_err();
        assert!(error.contains("without end"), "{error}");
        drop(keep);
        while n_lost.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        on_own_thread(TIME_LIMIT, &n_lost, || Ok(()))
            .unwrap()
            .unwrap();
    }
}
