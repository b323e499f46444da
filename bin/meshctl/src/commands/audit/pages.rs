//! The listing of records, page by page.

use mesh_messages::Timestamp;
use mesh_messages::system::AuditEntry;

use crate::client::{Listing, Request};
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Records of one request.
const PAGE_ROWS: usize = 1000;

/// Of which records is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Period {
    /// Not before this time; from the beginning when absent.
    pub(super) since: Option<Timestamp>,
    /// Not after this time; to the end when absent.
    pub(super) until: Option<Timestamp>,
}

impl Period {
    /// A period, unless it ends before it begins.
    pub(super) fn new(since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Self, Failure> {
        match (since, until) {
            (Some(from), Some(to)) if from > to => {
                let text = format!("--since {from} is after --until {to}");
                Err(Failure::new(Exit::Usage, text))
            }
            _ => Ok(Self { since, until }),
        }
    }
}

/// Hands over every record that matches, oldest first.
pub(super) fn each(
    request: &Request,
    since: Option<Timestamp>,
    session: &Session,
    mut take: impl FnMut(AuditEntry),
) -> Result<(), Failure> {
    let request = request
        .clone()
        .query("limit", Some(PAGE_ROWS))
        .query("since", since);
    let mut cursor: Option<String> = None;
    loop {
        let page: Listing<AuditEntry> = session
            .send(&request.clone().query("cursor", cursor.as_deref()))?
            .read()?;
        let is_empty = page.items.is_empty();
        let stands_still = page.next_cursor == cursor;
        page.items.into_iter().for_each(&mut take);
        match page.next_cursor {
            // A page may be empty because much was looked at in vain.
            Some(next) if !is_empty || !stands_still => cursor = Some(next),
            Some(_) | None => return Ok(()),
        }
    }
}
