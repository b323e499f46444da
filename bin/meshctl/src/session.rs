//! What a command works with: the daemon, found when it is first needed, and the output.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Globals;
use crate::client::{Answer, Client, Request};
use crate::endpoint::{self, Environment, Flags};
use crate::exit::Failure;
use crate::output::Output;

/// Rows asked for at once; meshd gives no more than this in one page.
const PAGE_ROWS: usize = 1000;

/// One run of meshctl.
#[derive(Debug)]
pub(crate) struct Session {
    globals: Globals,
    env: Environment,
    client: OnceCell<Client>,
    /// Where results and remarks go.
    pub(crate) out: Output,
}

impl Session {
    /// Looks for nothing yet: some commands need no daemon.
    pub(crate) fn new(globals: Globals, env: Environment, out: Output) -> Self {
        Self {
            globals,
            env,
            client: OnceCell::new(),
            out,
        }
    }

    fn flags(&self) -> Flags<'_> {
        Flags {
            url: self.globals.url.as_deref(),
            token_file: self.globals.token_file.as_deref(),
            data: self.globals.data.as_deref(),
            ca: self.globals.ca.as_deref(),
            cert: self.globals.cert.as_deref(),
            cert_key: self.globals.cert_key.as_deref(),
        }
    }

    /// The daemon's data directory on this machine, if it is on this one.
    pub(crate) fn data_dir(&self) -> PathBuf {
        endpoint::data_dir(self.flags(), &self.env)
    }

    /// The data directory that the user named, if any.
    pub(crate) fn named_data(&self) -> Option<PathBuf> {
        endpoint::named_data(self.flags(), &self.env)
    }

    /// Whether the user named a daemon, which then need not be the one of this machine.
    pub(crate) fn is_named(&self) -> bool {
        endpoint::is_named(self.flags(), &self.env)
    }

    /// A second way to the same daemon, for a thread of its own.
    pub(crate) fn another_client(&self) -> Result<Client, Failure> {
        Ok(Client::new(endpoint::find(self.flags(), &self.env)?)?)
    }

    /// Finds the daemon anew with the next request: it may have come back elsewhere.
    pub(crate) fn find_again(&mut self) {
        self.client = OnceCell::new();
    }

    /// The daemon.
    pub(crate) fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.another_client()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: &Request) -> Result<Answer, Failure> {
        Ok(self.client()?.send(request)?)
    }

    /// Reads a listing to its end, or up to `limit` rows, over as many pages as it takes.
    pub(crate) fn pages(&mut self, request: &Request, limit: usize) -> Result<Answer, Failure> {
        let mut rows: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page_rows = (limit - rows.len()).clamp(1, PAGE_ROWS);
            let page = request
                .clone()
                .query("limit", Some(page_rows))
                .query("cursor", cursor.as_deref());
            let answer = self.send(&page)?;
            let listing: crate::client::Listing<Value> = answer.read()?;
            let is_last = listing.next_cursor.is_none() || listing.items.is_empty();
            if rows.is_empty() && (is_last || listing.items.len() >= limit) {
                self.tell_more(limit, listing.next_cursor.is_some());
                return Ok(answer);
            }
            rows.extend(listing.items);
            cursor = listing.next_cursor;
            if is_last || rows.len() >= limit {
                self.tell_more(limit, cursor.is_some());
                return Ok(Answer::from_value(
                    &json!({ "items": rows, "nextCursor": cursor }),
                ));
            }
        }
    }

    fn tell_more(&mut self, limit: usize, more: bool) {
        if more {
            self.out.note(&format!(
                "only the first {limit} are shown; --limit asks for more"
            ));
        }
    }
}

/// Pauses between two looks at something that changes: short at first, then longer, never longer than [`Self::MAX`].
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Pauses {
    const MIN: Duration = Duration::from_millis(20);
    const MAX: Duration = Duration::from_secs(1);

    /// From the shortest on.
    pub(crate) fn new() -> Self {
        Self(Self::MIN)
    }

    /// Waits for one pause, but not longer than `most`.
    pub(crate) fn pause(&mut self, most: Duration) {
        std::thread::sleep(self.0.min(most));
        self.0 = (self.0 * 2).min(Self::MAX);
    }
}
