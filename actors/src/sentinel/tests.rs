use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mesh_messages::Epoch;
use mesh_messages::problem::ProblemKind;
use mesh_messages::system::{Caller, Role};
use mesh_persistence::Journal as _;

use super::*;
use crate::clock;
use crate::operations::Action;
use crate::testing::{PATIENCE, Store, until};

fn settings() -> SentinelSettings {
    let many = NonZeroU32::new(1_000_000).unwrap();
    SentinelSettings {
        requests: Quota::per_second(many),
        audit_all_actions: true,
    }
}

struct Fixture {
    store: Store,
    handle: SentinelHandle,
}

impl Fixture {
    async fn new(settings: SentinelSettings) -> Self {
        let fixture = Self {
            store: Store::new(),
            handle: SentinelHandle::new(settings),
        };
        fixture.start().await;
        fixture
    }

    async fn start(&self) {
        let args = SentinelArgs {
            handle: self.handle.clone(),
            store: self.store.cell.clone(),
        };
        let (_actor, _join) = Actor::spawn(None, Sentinel, args).await.unwrap();
        until("the sentinel", || self.handle.is_running()).await;
    }

    async fn stop(&self) {
        let actor = self.handle.slot.current().unwrap();
        actor.stop_and_wait(None, Some(PATIENCE)).await.unwrap();
        assert!(!self.handle.is_running());
    }

    async fn issue(&self, role: Role) -> IssuedToken {
        self.handle
            .issue("user:root", role, Some("echo".to_owned()), None)
            .await
            .unwrap()
    }

    fn knows(&self, token: &str) -> Option<String> {
        self.handle
            .authenticate(Some(token), false)
            .ok()
            .map(|caller| caller.name)
    }
}

/// Starts a sentinel and waits for it.
pub(crate) async fn start(handle: &SentinelHandle, store: &StoreCell) {
    let args = SentinelArgs {
        handle: handle.clone(),
        store: store.clone(),
    };
    let (_actor, _join) = Actor::spawn(None, Sentinel, args).await.unwrap();
    until("the sentinel", || handle.is_running()).await;
}

fn caller(role: Role) -> Caller {
    Caller {
        name: format!("user:{}", role.name()),
        role,
        loopback: false,
        narrowed: Vec::new(),
    }
}

#[tokio::test]
async fn issued_token_opens_until_it_is_revoked_also_after_a_restart() {
    let fixture = Fixture::new(settings()).await;
    let token = fixture.issue(Role::Operator).await;
    assert_eq!(fixture.knows(&token.token), Some("user:echo".to_owned()));
    fixture.stop().await;
    assert!(
        fixture.knows(&token.token).is_some(),
        "the door needs no actor"
    );
    fixture.start().await;
    assert!(fixture.knows(&token.token).is_some());
    fixture.handle.revoke("user:root", &token.id).await.unwrap();
    assert_eq!(fixture.knows(&token.token), None);
    fixture.stop().await;
    fixture.start().await;
    assert_eq!(fixture.knows(&token.token), None);
    let listed = fixture.handle.tokens().await.unwrap();
    assert!(listed[0].revoked);
    let unknown = fixture
        .handle
        .revoke("user:root", "nothing")
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code, unknown.kind),
        ("token_not_found", ProblemKind::NotFound)
    );
}

#[tokio::test]
async fn nothing_of_a_secret_reaches_the_journal() {
    let fixture = Fixture::new(settings()).await;
    let token = fixture.issue(Role::Admin).await;
    let secret = token
        .token
        .rsplit_once(&format!("{}_", token.id))
        .unwrap()
        .1;
    for record in fixture.store.records(&partition::SENTINEL) {
        let text = String::from_utf8(record.body.unwrap().payload).unwrap();
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn a_token_is_given_out_and_opens_only_once_it_is_durable() {
    let fixture = Fixture::new(settings()).await;
    fixture.store.journal.hold();
    let handle = fixture.handle.clone();
    let issuing =
        tokio::spawn(async move { handle.issue("user:root", Role::Admin, None, None).await });
    until("the record", || {
        fixture.store.journal.next_seq(&partition::SENTINEL) == 1
    })
    .await;
    assert!(!issuing.is_finished());
    fixture.store.journal.release();
    let token = issuing.await.unwrap().unwrap();
    assert!(fixture.knows(&token.token).is_some());
}

#[tokio::test]
async fn a_token_whose_record_is_lost_was_never_given_out() {
    let mut fixture = Fixture::new(settings()).await;
    let kept = fixture.issue(Role::Admin).await;
    fixture.store.journal.fail_next_sync();
    let lost = fixture
        .handle
        .issue("user:root", Role::Admin, None, None)
        .await;
    assert!(lost.is_err());
    until("the end of the sentinel", || !fixture.handle.is_running()).await;
    fixture.store.reopen();
    fixture.start().await;
    assert_eq!(fixture.handle.tokens().await.unwrap().len(), 1);
    assert!(fixture.knows(&kept.token).is_some());
}

#[tokio::test]
async fn every_failure_to_authenticate_looks_the_same() {
    let fixture = Fixture::new(settings()).await;
    let token = fixture.issue(Role::Viewer).await;
    let other = fixture.issue(Role::Viewer).await;
    let short = fixture
        .handle
        .issue(
            "user:root",
            Role::Viewer,
            None,
            Some(Duration::from_millis(1)),
        )
        .await
        .unwrap();
    until("the expiry", || clock::now() >= short.expires.unwrap()).await;
    let swapped = format!(
        "mesh_{}_{}",
        token.id,
        other
            .token
            .split_once('_')
            .unwrap()
            .1
            .split_once('_')
            .unwrap()
            .1
    );
    let expected = Problem::new(
        ProblemKind::Unauthenticated,
        "unauthenticated",
        "Invalid authentication",
    );
    for bearer in [
        None,
        Some(""),
        Some("x"),
        Some(swapped.as_str()),
        Some(short.token.as_str()),
    ] {
        assert_eq!(
            fixture.handle.authenticate(bearer, true),
            Err(expected.clone()),
            "{bearer:?}"
        );
    }
    assert_eq!(fixture.handle.refused()["unauthenticated"], 5);
}

#[tokio::test]
async fn denied_and_allowed_actions_are_audited_and_reads_are_not() {
    let fixture = Fixture::new(settings()).await;
    let handle = &fixture.handle;
    handle
        .authorize(&caller(Role::Viewer), Action::Read, "agents")
        .await
        .unwrap();
    let denied = handle
        .authorize(&caller(Role::Viewer), Action::TaskSubmit, "echo")
        .await;
    let problem = denied.unwrap_err();
    assert_eq!(
        (problem.kind, problem.code, problem.detail.as_str()),
        (
            ProblemKind::Forbidden,
            "forbidden",
            "Insufficient permissions"
        )
    );
    handle
        .authorize(&caller(Role::Operator), Action::TaskSubmit, "echo")
        .await
        .unwrap();
    let records = fixture.store.records(&partition::SENTINEL);
    let kinds: Vec<_> = records.iter().map(|r| r.header.kind.to_string()).collect();
    assert_eq!(kinds, ["access.denied", "access.allowed"]);
    let event: SentinelEvent =
        serde_json::from_slice(&records[0].body.as_ref().unwrap().payload).unwrap();
    assert_eq!(
        event,
        SentinelEvent::Denied {
            action: "task.submit".into(),
            resource: "echo".into(),
            user: "user:viewer".into(),
            reason: "Insufficient permissions".into(),
            rule: None,
        }
    );
    assert_eq!(records[0].header.actor, "user:viewer");
}

#[tokio::test]
async fn what_cannot_be_audited_is_not_allowed() {
    let fixture = Fixture::new(settings()).await;
    fixture
        .store
        .journal
        .set_read_only(Some("the disk is full"));
    let refused = fixture
        .handle
        .authorize(&caller(Role::Admin), Action::TaskSubmit, "echo")
        .await;
    assert_eq!(refused.unwrap_err().code, "read_only");
    fixture
        .handle
        .authorize(&caller(Role::Admin), Action::Read, "x")
        .await
        .expect("reads go on");
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_leaves_few_records() {
    let fixture = Fixture::new(settings()).await;
    for _ in 0..1000 {
        drop(fixture.handle.authenticate(Some("mesh_x"), false));
        drop(
            fixture
                .handle
                .authorize(&caller(Role::Viewer), Action::Tokens, "x")
                .await,
        );
    }
    // The list is answered after all that was sent before it.
    fixture.handle.tokens().await.unwrap();
    let refused = fixture.handle.refused();
    assert_eq!(
        (refused["unauthenticated"], refused["forbidden"]),
        (1000, 1000)
    );
    let records = fixture.store.records(&partition::SENTINEL).len() as u64;
    assert!((256..400).contains(&records), "{records}");
    assert_eq!(records + refused["denials_not_recorded"], 2000);
}

#[tokio::test]
async fn a_caller_beyond_its_rate_is_told_when_to_come_back_and_others_are_not_affected() {
    let quota = Quota::with_period(Duration::from_mins(10)).unwrap();
    let burst = quota.allow_burst(NonZeroU32::new(2).unwrap());
    let fixture = Fixture::new(SentinelSettings {
        requests: burst,
        ..settings()
    })
    .await;
    let (one, other) = (caller(Role::Admin), caller(Role::Viewer));
    for _ in 0..2 {
        fixture
            .handle
            .authorize(&one, Action::Read, "x")
            .await
            .unwrap();
    }
    let problem = fixture
        .handle
        .authorize(&one, Action::Read, "x")
        .await
        .unwrap_err();
    assert_eq!(
        (problem.kind, problem.code),
        (ProblemKind::RateLimited, "rate_limited")
    );
    assert!(
        problem
            .retry_after_s
            .is_some_and(|s| (500..=601).contains(&s)),
        "{problem:?}"
    );
    fixture
        .handle
        .authorize(&other, Action::Read, "x")
        .await
        .unwrap();
}

#[tokio::test]
async fn an_agents_sessions_and_tokens_end_with_its_rights() {
    let fixture = Fixture::new(settings()).await;
    let echo = AgentId::new("echo").unwrap();
    let until = clock::now().plus(Duration::from_hours(1));
    let issue = |epoch, until| {
        let issued = fixture.handle.issue_session(&echo, Epoch(epoch), until);
        issued.unwrap()
    };
    let first = issue(1, until);
    let second = issue(2, until);
    // Renewed, the one before goes on, and the one before that does not.
    let renewed = [1, 2].map(|n| issue(2, until.plus(Duration::from_secs(n))));
    assert_eq!(fixture.knows(&second), None);
    assert!(renewed.iter().all(|token| fixture.knows(token).is_some()));
    let [second, _] = renewed;
    // It has an end of its own.
    assert_eq!(fixture.knows(&issue(3, clock::now())), None);
    let durable = fixture.issue(Role::Agent).await;
    assert_eq!(fixture.knows(&first), Some("agent:echo".to_owned()));
    fixture.handle.revoke_session(&echo, Epoch(1));
    assert_eq!(fixture.knows(&first), None);
    assert!(fixture.knows(&second).is_some() && fixture.knows(&durable.token).is_some());
    fixture.handle.revoke_agent("meshd", &echo).await.unwrap();
    assert_eq!(
        (fixture.knows(&second), fixture.knows(&durable.token)),
        (None, None)
    );
    let mut kinds = fixture.store.kinds(&partition::SENTINEL);
    kinds.retain(|kind| kind.starts_with("token."));
    assert_eq!(kinds, ["token.issued", "token.revoked"]);
}

#[tokio::test]
async fn the_admin_token_is_kept_while_it_is_valid_and_replaced_when_it_is_not() {
    let fixture = Fixture::new(settings()).await;
    let data = fixture.store.dir.path();
    let read = || {
        std::fs::read_to_string(data.join(TOKEN_FILE))
            .unwrap()
            .trim_end()
            .to_owned()
    };
    fixture.handle.ensure_admin_token(data).await.unwrap();
    let first = read();
    let caller = fixture.handle.authenticate(Some(&first), true).unwrap();
    assert_eq!(
        (caller.role, caller.name.as_str()),
        (Role::Admin, "user:admin")
    );
    let mode = || {
        std::fs::metadata(data.join(TOKEN_FILE))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(), 0o600);

    std::fs::set_permissions(data.join(TOKEN_FILE), PermissionsExt::from_mode(0o644)).unwrap();
    fixture.handle.ensure_admin_token(data).await.unwrap();
    assert_eq!((read(), mode()), (first.clone(), 0o600));

    let id = first.split('_').nth(1).unwrap();
    fixture.handle.revoke("user:root", id).await.unwrap();
    fixture.handle.ensure_admin_token(data).await.unwrap();
    assert_ne!(read(), first);
    assert!(fixture.knows(&read()).is_some());

    std::fs::remove_file(data.join(TOKEN_FILE)).unwrap();
    fixture.handle.ensure_admin_token(data).await.unwrap();
    assert!(fixture.knows(&read()).is_some());
}
