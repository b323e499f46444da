//! The listing of records, page by page.

use mesh_messages::Timestamp;
use mesh_messages::system::AuditEntry;

use crate::client::{Listing, Request};
use crate::exit::Failure;
use crate::session::Session;

/// Records of one request.
const PAGE_ROWS: usize = 1000;

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
