//! Showing something again whenever the mesh reports that anything happened.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::client::{Client, EventReader, Request};
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Shortest time between two looks: more often than this nobody can read, and a busy mesh reports all the time.
const LOOK_MIN: Duration = Duration::from_millis(500);
/// Longest time between two looks: what changes without an event, such as memory use, is seen by then.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its first line.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// Runs `show` again and again until it fails. A terminal is redrawn; elsewhere, what did not change is not repeated.
/// Once it was seen, a mesh that does not answer is waited for, wherever it comes back: restarts are to be watched, too.
///
/// # Errors
/// What `show` fails with, but for a mesh that was there and does not answer now.
pub(crate) fn repeat(
    session: &mut Session,
    mut show: impl FnMut(&mut Session) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut wakeups = Wakeups::new(session)?;
    let mut last = Vec::new();
    let (mut seen, mut lost) = (false, false);
    loop {
        match show(session) {
            Ok(()) => {}
            Err(failure) if seen && is_away(&failure) => {
                session.out.take();
                if !lost {
                    session.out.note("meshd does not answer; waiting for it");
                }
                lost = true;
                session.find_again();
                thread::sleep(LOOK_MAX);
                continue;
            }
            Err(failure) => return Err(failure),
        }
        seen = true;
        if std::mem::take(&mut lost) {
            session.out.note("meshd is back");
            wakeups = Wakeups::new(session)?;
        }
        let shown = session.out.take();
        if shown != last {
            if session.out.style().terminal {
                session.out.write(CLEAR)?;
            }
            session.out.write(&shown)?;
            last = shown;
        }
        thread::sleep(LOOK_MIN);
        wakeups.wait(LOOK_MAX);
    }
}

/// Whether it is down, or on its way up or down.
fn is_away(failure: &Failure) -> bool {
    matches!(
        failure.exit,
        Exit::Unreachable | Exit::TryAgain | Exit::TimedOut
    )
}

/// Tells when something happened in the mesh, so that a look is worth its while.
#[derive(Debug)]
pub(crate) struct Wakeups(Receiver<()>);

impl Wakeups {
    /// Listens from now on. Where events cannot be had, only time passes.
    ///
    /// # Errors
    /// When no daemon can be named; that it does not answer shows elsewhere.
    pub(crate) fn new(session: &Session) -> Result<Self, Failure> {
        let client = session.another_client()?;
        // One pending wake-up says all there is to say.
        let (send, receive) = sync_channel(1);
        thread::spawn(move || {
            let mut wake = || !matches!(send.try_send(()), Err(TrySendError::Disconnected(())));
            // Who was away for a while does not know what happened.
            while listen(&client, &mut wake) && wake() {
                thread::sleep(LOOK_MAX);
            }
        });
        Ok(Self(receive))
    }

    /// Waits until something happened, but not longer than `most`.
    pub(crate) fn wait(&self, most: Duration) {
        if self.0.recv_timeout(most) == Err(RecvTimeoutError::Disconnected) {
            thread::sleep(most);
        }
    }
}

/// Listens until the stream ends; false when nobody listens to us any more.
fn listen(client: &Client, wake: &mut impl FnMut() -> bool) -> bool {
    let Ok(stream) = client.stream(&Request::get(&["v1", "events"])) else {
        return true;
    };
    let mut events = EventReader::new(stream);
    // A stream that broke off ends with an error.
    while matches!(events.next(), Some(Ok(_))) {
        if !wake() {
            return false;
        }
    }
    true
}
