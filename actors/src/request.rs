//! The request that a piece of work is done for, so that what it leads to in any partition says so.
//!
//! It travels with the caller's own task, not in arguments: every [`Cause`](crate::partition::Cause) that is made while a
//! request is served bears the request's id, and the record by which it was allowed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use mesh_messages::{Position, TaskId};

/// Longest id of a request in a record: it can be the caller's own.
const ID_CHARS_MAX: usize = 128;

#[derive(Debug)]
struct Request {
    id: Option<String>,
    allowed: Mutex<Option<Position>>,
    denied: AtomicBool,
    task: Option<TaskId>,
}

tokio::task_local! {
    static REQUEST: Request;
}

/// Does something for a request of this id.
pub async fn within<T>(id: &str, work: impl Future<Output = T>) -> T {
    let plain = id.chars().filter(|c| !c.is_control()).take(ID_CHARS_MAX);
    let request = Request {
        id: Some(plain.collect()),
        allowed: Mutex::new(None),
        denied: AtomicBool::new(false),
        task: None,
    };
    REQUEST.scope(request, work).await
}

/// Does something that follows from a record, for the request that the record belongs to.
pub(crate) async fn following<T>(
    cause: Option<Position>,
    correlation: Option<String>,
    work: impl Future<Output = T>,
) -> T {
    working_on(None, cause, correlation, work).await
}

/// The same on behalf of a task.
pub(crate) async fn working_on<T>(
    task: Option<TaskId>,
    cause: Option<Position>,
    correlation: Option<String>,
    work: impl Future<Output = T>,
) -> T {
    let request = Request {
        id: correlation,
        allowed: Mutex::new(cause),
        denied: AtomicBool::new(false),
        task,
    };
    REQUEST.scope(request, work).await
}

/// The task on behalf of which this is done, if meshd knows one.
pub(crate) fn task() -> Option<TaskId> {
    REQUEST
        .try_with(|request| request.task.clone())
        .ok()
        .flatten()
}

/// From here on this record is what the request's doings follow from.
pub(crate) fn allowed_by(position: Position) {
    let _outside_of_requests = REQUEST.try_with(|request| {
        *request
            .allowed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(position);
    });
}

/// The request was denied something, which is on record.
pub(crate) fn denied() {
    let _outside_of_requests =
        REQUEST.try_with(|request| request.denied.store(true, Ordering::Relaxed));
}

/// Whether its denial is on record, so that its end needs no other; outside of requests nothing is.
pub(crate) fn was_denied() -> bool {
    let denied = REQUEST.try_with(|request| request.denied.load(Ordering::Relaxed));
    denied.unwrap_or(false)
}

/// The record that allowed the request, and its id; outside of requests neither.
pub(crate) fn current() -> (Option<Position>, Option<String>) {
    let found = REQUEST.try_with(|request| {
        let allowed = request
            .allowed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (*allowed, request.id.clone())
    });
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Cause;

    #[tokio::test]
    async fn what_is_done_for_a_request_names_it_and_what_allowed_it() {
        let cause = within("r-1\n", async {
            let before = Cause::by("user:ada");
            assert_eq!(
                (before.cause, before.correlation.as_deref()),
                (None, Some("r-1"))
            );
            allowed_by(Position(7));
            Cause::by("user:ada")
        });
        assert_eq!(cause.await.cause, Some(Position(7)));
        let outside = Cause::by("user:ada");
        assert_eq!((outside.cause, outside.correlation), (None, None));
        denied();
        assert!(!was_denied());
        let known = within("r-2", async {
            let before = was_denied();
            denied();
            (before, was_denied())
        });
        assert_eq!(known.await, (false, true));
    }
}
