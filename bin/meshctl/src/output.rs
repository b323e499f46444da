//! What goes to standard output, in the form that was asked for; and what goes to standard error beside it.

mod progress;
mod screen;
mod text;

use std::io::{self, Write};

use serde_json::Value;

use crate::client::Answer;
use crate::exit::{Exit, Failure};

pub(crate) use progress::Progress;
pub(crate) use screen::{Cell, Screen, Table};
pub(crate) use text::{compact, megabytes, percent, plain, quality, span};

/// The forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// The HTTP answer's JSON.
    Json,
    /// The same as YAML.
    Yaml,
    /// Ids only, one per line.
    Name,
}

/// How a terminal, or whatever else reads us, is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
    /// Standard error is a terminal, so progress may be shown there.
    pub(crate) progress: bool,
    /// Colours may be used on standard output.
    pub(crate) colour: bool,
}

/// Standard output and standard error.
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    style: Style,
    /// Filled by a command, handed on by [`Output::flush`], so that a repeated command can be compared first.
    buffer: Vec<u8>,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
}

impl Output {
    /// Writes to the given streams.
    pub(crate) fn new(
        format: Format,
        quiet: bool,
        style: Style,
        out: Box<dyn Write>,
        err: Box<dyn Write>,
    ) -> Self {
        Self {
            format,
            quiet,
            style,
            buffer: Vec::new(),
            out,
            err,
        }
    }

    /// The form that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// How the readers are to be served.
    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Shows an answer: as it is in JSON and YAML, else as the screen that `screen` makes of it.
    ///
    /// # Errors
    /// When it has no names and `-o name` was asked for, and whatever `screen` fails with.
    pub(crate) fn show(
        &mut self,
        answer: &Answer,
        screen: impl FnOnce() -> Result<Screen, Failure>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json if self.style.terminal => self.value(&answer.value("text")?),
            Format::Json if answer.text().is_empty() => Ok(()),
            Format::Json => Ok(writeln!(self.buffer, "{}", Self::one_line(answer)?)?),
            Format::Yaml => self.value(&answer.value("text")?),
            Format::Table | Format::Name => self.screen(&screen()?),
        }
    }

    /// The answer's JSON; as it came when that is one line already.
    fn one_line(answer: &Answer) -> Result<String, Failure> {
        let value = answer.value("text")?;
        let came = answer.text().trim_end();
        let as_it_came = came.starts_with(['{', '[']) && !came.contains('\n');
        Ok(if as_it_came {
            came.to_owned()
        } else {
            value.to_string()
        })
    }

    /// Shows a value: JSON, pretty on a terminal; or YAML, when that was asked for.
    pub(crate) fn value(&mut self, value: &Value) -> Result<(), Failure> {
        if self.format == Format::Yaml {
            let text = serde_saphyr::to_string(value).map_err(|error| {
                Failure::new(Exit::Bug, format!("cannot write it as YAML: {error}"))
            })?;
            writeln!(self.buffer, "{}", text.trim_end())?;
        } else if self.style.terminal {
            writeln!(self.buffer, "{value:#}")?;
        } else {
            writeln!(self.buffer, "{value}")?;
        }
        Ok(())
    }

    /// Shows what was made for people, or its names.
    pub(crate) fn screen(&mut self, screen: &Screen) -> Result<(), Failure> {
        if self.format == Format::Name {
            let names = screen.names().ok_or_else(|| {
                Failure::usage("this command has no names to print")
                    .hint("use -o table, json or yaml")
            })?;
            for name in names {
                writeln!(self.buffer, "{}", plain(name))?;
            }
        } else if !(self.quiet && screen.is_confirmation()) {
            self.buffer.extend(screen.render(self.style).into_bytes());
        }
        Ok(())
    }

    /// Writes a line as it is, but for what a terminal would obey instead of showing it.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.buffer, "{}", plain(line))?)
    }

    /// Tells something beside the result, on standard error, unless quiet was asked for.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.quiet {
            // Nobody is left to be told that telling failed.
            drop(writeln!(self.err, "{}", plain(text)));
        }
    }

    /// A warning: told on standard error even when quiet was asked for.
    pub(crate) fn warn(&mut self, text: &str) {
        drop(writeln!(self.err, "meshctl: warning: {}", plain(text)));
    }

    /// Progress on standard error: on a terminal, and unless quiet was asked for.
    pub(crate) fn progress(&self, message: &str) -> Progress {
        Progress::new(self.style.progress && !self.quiet, message)
    }

    /// Tells a failure.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        drop(failure.report(&mut *self.err));
    }

    /// Takes what was shown since the last flush, unwritten.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Writes bytes through, past the buffer; for streams.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// Hands on what was shown.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let shown = self.take();
        Ok(self.write(&shown)?)
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("format", &self.format)
            .field("style", &self.style)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(format: Format, quiet: bool, style: Style, answer: &Value) -> Result<String, Failure> {
        let mut out = Output::new(
            format,
            quiet,
            style,
            Box::new(io::sink()),
            Box::new(io::sink()),
        );
        out.show(&Answer::from_value(answer), || {
            let mut table = Table::new(&["ID", "STATE"]);
            table.row(["t1".into(), Cell::state("running")]);
            Ok(Screen::new().table(table).named(["t1"]))
        })?;
        Ok(String::from_utf8(out.take()).unwrap())
    }

    #[test]
    fn every_format_shows_the_same_answer() {
        let answer = json!({"items": [{"id": "t1", "n": 1.0}], "nextCursor": null});
        let show = |format| shown(format, false, Style::default(), &answer).unwrap();
        assert_eq!(
            show(Format::Json),
            "{\"items\":[{\"id\":\"t1\",\"n\":1.0}],\"nextCursor\":null}\n"
        );
        assert_eq!(show(Format::Name), "t1\n");
        assert_eq!(show(Format::Table), "ID  STATE\nt1  running\n");
        let read: Value = serde_saphyr::from_str(&show(Format::Yaml)).unwrap();
        assert_eq!(read, answer);
    }

    #[test]
    fn json_is_pretty_on_a_terminal_only() {
        let style = Style {
            terminal: true,
            ..Style::default()
        };
        let text = shown(Format::Json, false, style, &json!({"a": 1})).unwrap();
        assert_eq!(text, "{\n  \"a\": 1\n}\n");
    }

    #[test]
    fn what_has_no_names_refuses_to_print_them() {
        let mut out = Output::new(
            Format::Name,
            false,
            Style::default(),
            Box::new(io::sink()),
            Box::new(io::sink()),
        );
        let failure = out.screen(&Screen::new().line("hello")).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn quiet_drops_confirmations_and_keeps_results() {
        let mut out = Output::new(
            Format::Table,
            true,
            Style::default(),
            Box::new(io::sink()),
            Box::new(io::sink()),
        );
        out.screen(&Screen::confirmation("done", "echo")).unwrap();
        out.screen(&Screen::new().line("result")).unwrap();
        assert_eq!(out.take(), b"result\n");
    }
}
