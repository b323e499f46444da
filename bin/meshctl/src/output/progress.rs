//! A spinner or a bar on standard error. On anything but a terminal it is nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// Progress that is being shown; it disappears when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(shown: bool, message: &str) -> Self {
        if !shown {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Says what is going on.
    pub(crate) fn say(&self, message: &str) {
        self.0.set_message(super::plain(message));
    }

    /// Counts bytes from now on, towards `total`.
    pub(crate) fn count_bytes(&self, total: u64) {
        self.0.disable_steady_tick();
        self.0.set_length(total);
        // The template is a constant; were it wrong, the default look would do.
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
        {
            self.0.set_style(style);
        }
    }

    /// How many bytes are done, whether or not it is known of how many.
    pub(crate) fn so_far(&self, bytes: u64) {
        match self.0.length() {
            Some(_) => self.at(bytes),
            None => self.say(&format!("{bytes} bytes")),
        }
    }

    /// How many bytes are done.
    pub(crate) fn at(&self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
