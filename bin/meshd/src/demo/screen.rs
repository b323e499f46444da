//! What a person sees: a bar on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::telemetry::no_color_unset;

/// Steps of the bar.
const STEPS: u64 = 1000;
/// How often the bar moves by itself.
const TICK: Duration = Duration::from_millis(100);
/// Notable events that are told one by one; a reader wants to see the kinds, the summary counts them.
const EVENTS_MAX: usize = 14;
/// Without a bar, progress is told this often.
const QUARTERS: u64 = 4;

/// The screen.
#[derive(Debug)]
pub(super) struct Screen {
    started: Instant,
    bold: bool,
    bar: ProgressBar,
    /// The quarter that was told last.
    quarter: u64,
    events: usize,
}

impl Screen {
    /// An empty one. The clock of its events starts now.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            bold: io::stdout().is_terminal() && no_color_unset(),
            bar: ProgressBar::hidden(),
            quarter: 0,
            events: 0,
        }
    }

    fn print(&self, text: &str) {
        // Standard output that is closed is no reason to stop: the exit code still tells how it went.
        let _closed = self.bar.suspend(|| writeln!(io::stdout(), "{text}"));
    }

    fn bold(&self, text: &str) -> String {
        if self.bold {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The first line.
    pub(super) fn title(&self, text: &str) {
        self.print(&format!("{}\n", self.bold(&clean(text))));
    }

    /// A new part.
    pub(super) fn heading(&self, text: &str) {
        self.print(&format!("\n{}\n", self.bold(text)));
    }

    /// A line as it is.
    pub(super) fn line(&self, text: &str) {
        self.print(&clean(text));
    }

    /// Indented lines.
    pub(super) fn lines(&self, text: &str) {
        for line in text.lines() {
            let line = clean(line);
            self.print(format!("  {line}").trim_end());
        }
    }

    /// Something has begun whose length is not known yet.
    pub(super) fn begin(&mut self, what: &str) {
        self.print("");
        if io::stderr().is_terminal() {
            self.bar = ProgressBar::new(STEPS);
            // The template is a constant; were it wrong, the default look would do.
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {bar:32} {msg}") {
                self.bar.set_style(style);
            }
            self.bar.set_message(what.to_owned());
            self.bar.enable_steady_tick(TICK);
        }
    }

    /// How far it is, 0 to 1.
    pub(super) fn progress(&mut self, fraction: f64, note: &str) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the bar's steps"
        )]
        #[expect(clippy::cast_precision_loss, reason = "a thousand steps fit")]
        let step = (fraction.clamp(0.0, 1.0) * STEPS as f64) as u64;
        self.bar.set_position(step);
        self.bar.set_message(clean(note));
        let quarter = step * QUARTERS / STEPS;
        if self.bar.is_hidden() && quarter > self.quarter {
            self.quarter = quarter;
            self.tell(&clean(note));
        }
    }

    /// The bar has done its work.
    pub(super) fn end_progress(&mut self) {
        self.bar.finish_and_clear();
        self.bar = ProgressBar::hidden();
    }

    /// Something notable.
    pub(super) fn event(&mut self, text: &str) {
        self.events += 1;
        match self.events {
            ..=EVENTS_MAX => self.tell(&clean(text)),
            _ if self.events == EVENTS_MAX + 1 => {
                self.tell("and so on; the audit log has everything");
            }
            _ => {}
        }
    }

    fn tell(&self, text: &str) {
        self.print(&format!(
            "  {:>5.1} s  {text}",
            self.started.elapsed().as_secs_f64()
        ));
    }
}

/// Names of files may hold anything; nothing of it reaches the terminal as a command.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_cannot_command_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\rc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
