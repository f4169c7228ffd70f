//! Chat templates in processes of their own, so that a hostile one harms nobody else.
//!
//! A template is compiled and rendered as always, by the engine's [`in_process`] with its limits,
//! but in another process: this binary, started with the hidden command [`COMMAND`]. What those
//! limits leave open then ends that process and not this one, and the next rendering starts another:
//! too much memory (its allocator has a limit, which holds on every system), too deep a stack, and
//! work that has no end.
//!
//! Each template has one process, which renders one chat at a time and lives as long as the template
//! does. Its standard input takes the source and then, for each rendering, the variables as JSON,
//! each with its length before it; a reply to each comes out of its standard output. When its input
//! ends, with the process that started it, so does it.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use minerva_engine::chat::renderer::{MAX_OUTPUT_BYTES, Renderer, TIME_LIMIT, in_process};
use minerva_engine::{EngineError, LoadError, RequestError};
use minijinja::Value;

use crate::ALLOCATOR;

/// The command that is such a process.
pub(crate) const COMMAND: &str = "render-template";
/// Memory that a process may allocate: its work pays for 256 MiB, and what it is given, a body of
/// at most 32 MiB, and its output come beside that. Its stack comes on top.
const MEMORY_LIMIT: usize = 512 << 20;
/// Time until a process is ended that should have answered after [`TIME_LIMIT`].
const PATIENCE: Duration = TIME_LIMIT.saturating_mul(2);
/// What is read of the last words of a process.
const MAX_LAST_WORDS: u64 = 4096;

/// The first byte of a reply, before length and text: the text is what was asked for.
const DONE: u8 = 0;
/// The text says what is wrong with the template, or with what it was given.
const REFUSED: u8 = 1;

/// Compiles a template in a process of its own, which will render it.
pub(crate) fn isolated(source: &str) -> Result<Box<dyn Renderer>, LoadError> {
    let (process, variables) = Process::start(source).map_err(|failure| match failure {
        Failure::Template(text) | Failure::Ended(text) => LoadError::ChatTemplate(text),
        Failure::Start(error) => LoadError::Process(error),
    })?;
    Ok(Box::new(Isolated {
        source: source.to_owned(),
        variables,
        process: Mutex::new(process),
    }))
}

#[derive(Debug)]
struct Isolated {
    source: String,
    variables: HashSet<String>,
    process: Mutex<Process>,
}

/// Why nothing was rendered.
#[derive(Debug)]
enum Failure {
    /// The template refused, or went over a limit.
    Template(String),
    /// The process has ended, and not of a limit of its own.
    Ended(String),
    /// There is no process or thread to be had.
    Start(io::Error),
}

impl Renderer for Isolated {
    fn variables(&self) -> &HashSet<String> {
        &self.variables
    }

    fn render(&self, variables: Value) -> Result<String, EngineError> {
        let message = serde_json::to_vec(&variables)
            .map_err(|error| RequestError::ChatTemplate(format!("its variables: {error}")))?;
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if process.has_ended() {
            *process = Process::start(&self.source)?.0;
        }
        match process.ask(&message) {
            // Somebody else may have ended it, as a system does that is short of memory.
            Err(Failure::Ended(_)) => {
                *process = Process::start(&self.source)?.0;
                Ok(process.ask(&message)?)
            }
            replied => Ok(replied?),
        }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> EngineError {
        match failure {
            Failure::Template(text) | Failure::Ended(text) => {
                RequestError::ChatTemplate(text).into()
            }
            Failure::Start(error) => {
                EngineError::Failed(format!("cannot start a process for the template: {error}"))
            }
        }
    }
}

/// A running process; it ends with this.
#[derive(Debug)]
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Process {
    /// Starts a process and has it compile a template, whose variables it tells.
    fn start(source: &str) -> Result<(Process, HashSet<String>), Failure> {
        let child = command().and_then(|mut command| command.spawn());
        let mut child = child.map_err(Failure::Start)?;
        let mut process = Process {
            stdin: child.stdin.take().expect("it is piped"),
            stdout: child.stdout.take().expect("it is piped"),
            child,
        };
        let variables = process.ask(source.as_bytes())?;
        let variables = serde_json::from_str(&variables)
            .map_err(|error| Failure::Template(format!("its variables: {error}")))?;
        Ok((process, variables))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a message and waits for the reply; a process that sends none has ended then.
    fn ask(&mut self, message: &[u8]) -> Result<String, Failure> {
        let start = Instant::now();
        let Process {
            child,
            stdin,
            stdout,
        } = self;
        // Nothing is sent: that it is dropped ends the watch.
        let (done, is_done) = mpsc::sync_channel::<()>(0);
        let watch = move || {
            if is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // Reading its output ends then.
                let _ = child.kill();
            }
        };
        let replied = thread::scope(|scope| {
            let watching = thread::Builder::new().spawn_scoped(scope, watch);
            watching.map_err(Failure::Start)?;
            let replied = write(stdin, message).and_then(|()| read_reply(stdout));
            drop(done);
            Ok(replied)
        })?;
        match replied {
            Ok(reply) => {
                if start.elapsed() >= TIME_LIMIT {
                    // What it gave up still runs in it.
                    self.end();
                }
                reply.map_err(Failure::Template)
            }
            Err(_) if start.elapsed() >= PATIENCE => {
                self.end();
                let limit = PATIENCE.as_secs();
                Err(Failure::Template(format!(
                    "it ran for {limit} s, expected less"
                )))
            }
            Err(_) => Err(self.end()),
        }
    }

    /// Ends the process if it has not ended by itself, and says what it ended of.
    fn end(&mut self) -> Failure {
        // What has ended needs no killing.
        let _ = self.child.kill();
        let ended = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let mut last_words = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            // What it did not say, or not in text, is not known.
            let _ = stderr.take(MAX_LAST_WORDS).read_to_string(&mut last_words);
        }
        if last_words.contains("memory allocation of ") {
            let limit = MEMORY_LIMIT >> 20;
            Failure::Template(format!(
                "it needs more memory than the {limit} MiB that it may have"
            ))
        } else if last_words.contains("overflowed its stack") {
            Failure::Template("it is nested deeper than its stack allows".to_owned())
        } else {
            Failure::Ended(format!("its process ended: {ended}"))
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// This binary, as a process that renders.
fn command() -> io::Result<Command> {
    // The file under the name may be another by now.
    let program = match cfg!(target_os = "linux") {
        true => "/proc/self/exe".into(),
        false => std::env::current_exe()?,
    };
    let mut command = Command::new(program);
    command.arg(COMMAND);
    // It would go on about the least of errors.
    command.env_remove("RUST_BACKTRACE");
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        command.arg0("minerva");
        // The terminal sends Ctrl-C to a whole group; it is not for this one.
        command.process_group(0);
    }
    Ok(command)
}

/// Is such a process: compiles the template that comes in, and renders it until the input ends.
pub(crate) fn run() -> anyhow::Result<()> {
    let limited = ALLOCATOR.set_limit(MEMORY_LIMIT);
    limited.map_err(|()| anyhow::anyhow!("more memory is in use than a template may have"))?;
    #[cfg(target_os = "linux")]
    be_expendable();
    // A panic is answered as an error; nobody reads what it would print.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let Some(source) = read(&mut input)? else {
        return Ok(());
    };
    let template = match in_process(&String::from_utf8(source)?) {
        Ok(template) => template,
        Err(LoadError::ChatTemplate(text)) => return Ok(reply(&mut output, REFUSED, &text)?),
        Err(error) => return Ok(reply(&mut output, REFUSED, &error.to_string())?),
    };
    let variables = serde_json::to_string(template.variables())?;
    reply(&mut output, DONE, &variables)?;
    while let Some(message) = read(&mut input)? {
        let rendered = serde_json::from_slice(&message)
            .map_err(|error| EngineError::Failed(error.to_string()))
            .and_then(|variables| template.render(variables));
        match rendered {
            Ok(text) => reply(&mut output, DONE, &text)?,
            Err(EngineError::Request(RequestError::ChatTemplate(text))) => {
                reply(&mut output, REFUSED, &text)?;
            }
            Err(error) => reply(&mut output, REFUSED, &error.to_string())?,
        }
    }
    Ok(())
}

/// Where memory runs out, the system is to end this process and not the one that started it; and
/// that it went over its limit is nothing to keep a picture of its memory for.
#[cfg(target_os = "linux")]
fn be_expendable() {
    for (file, value) in [("oom_score_adj", "1000"), ("coredump_filter", "0")] {
        // A system without them has other ways.
        let _ = std::fs::write(format!("/proc/self/{file}"), value);
    }
}

fn write(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)?;
    out.flush()
}

/// What [`write()`] wrote; `None` at the end of the input.
fn read(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 8];
    match input.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let len = u64::from_le_bytes(len);
    let mut bytes = Vec::new();
    match input.take(len).read_to_end(&mut bytes)? as u64 == len {
        true => Ok(Some(bytes)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn reply(out: &mut impl Write, kind: u8, text: &str) -> io::Result<()> {
    out.write_all(&[kind])?;
    write(out, text.as_bytes())
}

/// The text of a reply, as an error if it says what is wrong.
fn read_reply(input: &mut impl Read) -> io::Result<Result<String, String>> {
    let mut kind = [0];
    input.read_exact(&mut kind)?;
    // A process whose memory was overrun might send without end.
    let most = MAX_OUTPUT_BYTES + size_of::<u64>();
    let text = read(&mut input.take(most as u64))?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    match kind {
        [DONE] => Ok(Ok(text)),
        [REFUSED] => Ok(Err(text)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
