//! What is told to people as it happens, and whether it could be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mesh_messages::Position;
use mesh_messages::problem::Problem;
use mesh_messages::system::AuditEntry;

use crate::mesh::Mesh;
use crate::reads;

/// Records of some kinds, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Alerts {
    /// The records.
    pub items: Vec<AuditEntry>,
    /// There is none that is missing up to this one; `None` while the log is empty. Go on behind it.
    pub through: Option<Position>,
}

/// Who could not be told, and why, for the health report.
#[derive(Debug, Default)]
pub struct Untold(Mutex<BTreeMap<String, String>>);

impl Untold {
    /// Who, and why.
    pub(crate) fn all(&self) -> BTreeMap<String, String> {
        let untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        untold.clone()
    }

    fn note(&self, whom: &str, why: Option<String>) {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => untold.insert(whom.to_owned(), why),
            None => untold.remove(whom),
        };
    }
}

impl Mesh {
    /// The last record that is durable; `None` while there is none.
    ///
    /// # Errors
    /// 503 while the log is being opened.
    pub fn log_end(&self) -> Result<Option<Position>, Problem> {
        let size = self.ctx.store.get()?.journal.durable().borrow().size();
        Ok(size.checked_sub(1).map(Position))
    }

    /// Records of these kinds behind `after`, at most `limit` (at least 1).
    ///
    /// They are durable. Of a kind that ends with a full stop, all that begin so.
    ///
    /// # Errors
    /// 503 while the log or its projections are being opened: ask again.
    pub async fn alerts(
        &self,
        kinds: Vec<String>,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Alerts, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let read = move |store: &_| reads::of_kinds(store, &kinds, after, limit);
        let (items, through) = reads::blocking(store, read).await?;
        Ok(Alerts { items, through })
    }

    /// Says in the health report that somebody cannot be told of alerts, and why; or with `None` that they can be again.
    pub fn alerts_untold(&self, whom: &str, why: Option<String>) {
        self.ctx.untold.note(whom, why);
    }
}
