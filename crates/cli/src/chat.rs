//! The chat: lines in, answers out, a few commands that begin with a slash.

use std::io::Write;

use minerva_engine::FinishReason;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::answer::{AnswerArgs, SETTINGS};
use crate::output::{note, note_dim, report_error, stdout};
use crate::session::{Message, Session, describe_speed};

const PROMPT: &str = ">>> ";

/// Reads lines and answers them until the input ends or `/quit` is typed.
pub(crate) fn run(
    session: &Session,
    settings: AnswerArgs,
    system: Option<String>,
    is_verbose: bool,
) -> anyhow::Result<()> {
    let mut editor = DefaultEditor::new()?;
    let mut chat = Chat {
        settings,
        system,
        messages: Vec::new(),
        is_verbose,
    };
    note_dim("/help says what can be done, Ctrl-D ends the chat");
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if line.trim().is_empty() {
            continue;
        }
        editor.add_history_entry(&line)?;
        let result = match line.strip_prefix('/') {
            Some("quit") => return Ok(()),
            Some(command) => chat.command(command, session),
            None => chat.answer(line, session),
        };
        // A request that cannot be served ends the request; output that nobody reads ends the chat.
        if let Err(error) = result {
            if crate::output::is_stdout_closed(&error) {
                return Err(error);
            }
            report_error(&error);
        }
    }
}

/// What a chat remembers.
struct Chat {
    settings: AnswerArgs,
    system: Option<String>,
    messages: Vec<Message>,
    is_verbose: bool,
}

impl Chat {
    fn command(&mut self, command: &str, session: &Session) -> anyhow::Result<()> {
        let (name, rest) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "help" => note(&help()),
            "clear" => {
                self.messages.clear();
                note_dim("the conversation is forgotten");
            }
            "system" if !session.is_chat() => {
                anyhow::bail!("/system: without a chat template there is no place for it");
            }
            "system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_owned());
                note_dim(if rest.is_empty() {
                    "no system message"
                } else {
                    "system message set"
                });
            }
            "set" if rest.is_empty() => note(&self.settings.describe()),
            "set" => match rest.split_once(char::is_whitespace) {
                Some((name, value)) => self.settings.set(name, value.trim())?,
                None => anyhow::bail!("/set {rest}: a value is missing"),
            },
            _ => anyhow::bail!("/{name}: no such command\n/help lists them"),
        }
        Ok(())
    }

    /// Answers a line. The conversation only grows by what was answered.
    fn answer(&mut self, line: String, session: &Session) -> anyhow::Result<()> {
        let system = self.system.iter();
        let system = system.map(|text| Message {
            role: "system",
            content: text.clone(),
        });
        let user = Message {
            role: "user",
            content: line,
        };
        let messages: Vec<Message> = system
            .chain(self.messages.iter().cloned())
            .chain([user.clone()])
            .collect();
        let request = self.settings.request(session.encode(&messages)?);
        let mut out = stdout();
        let mut text = String::new();
        let done = session.answer(&request, &mut |token| {
            text += &token.text;
            write!(out, "{}", token.text)?;
            out.flush()?;
            Ok(())
        })?;
        text += &done.text;
        writeln!(out, "{}", done.text)?;
        out.flush()?;
        match done.finish_reason {
            FinishReason::Cancelled => note_dim("stopped"),
            FinishReason::Length => note_dim("the answer reached its greatest length"),
            FinishReason::Timeout => note_dim("the time for the answer is over"),
            FinishReason::Stop => {}
        }
        if self.is_verbose {
            note_dim(&describe_speed(&done, &request));
        }
        self.messages.push(user);
        self.messages.push(Message {
            role: "assistant",
            content: text,
        });
        Ok(())
    }
}

fn help() -> String {
    format!(
        "/clear           forget the conversation\n\
         /system TEXT     set the system message; without TEXT, remove it\n\
         /set NAME VALUE  change a setting: {SETTINGS}\n\
         /set             show the settings\n\
         /quit            leave, as Ctrl-D does\n\
         Ctrl-C stops an answer. Up and down go through what was typed."
    )
}
