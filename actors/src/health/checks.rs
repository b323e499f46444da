//! The checks: each looks at one thing, none waits for another, and one that hangs is a result of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_messages::agent::{FaultState, HealthLevel, Lifecycle};
use mesh_messages::system::{HealthCheck, HealthReport, OverallHealth};

use crate::clock::now;
use crate::context::Context;
use crate::directory::AgentEntry;
use crate::store::OpenStore;

/// How long one check may take. It reads what lies in memory, or a few bytes of a disk, so one that takes seconds has
/// found what is wrong by taking them.
const CHECK_MAX: Duration = Duration::from_secs(5);
/// Records by which the projections may lag before it is worth saying.
const LAG_MAX: u64 = 10_000;
/// Free bytes of the data directory's disk below which it is worth saying.
const FREE_MIN: u64 = 256 * 1024 * 1024;
/// How long an agent may wait for another one before it is worth saying. It goes on waiting, which costs nothing.
const WAIT_MAX: Duration = Duration::from_mins(1);

type Look = Arc<dyn Fn() -> Vec<HealthCheck> + Send + Sync>;

/// One check, which may have several results.
struct Probe {
    name: &'static str,
    /// How bad it is when it hangs.
    hung: HealthLevel,
    look: Look,
    /// It is looking; when it hangs, it goes on doing so, and is not begun a second time.
    busy: Arc<AtomicBool>,
    limit: Duration,
}

/// All checks of this node.
pub(super) struct Checks(Vec<Probe>);

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|probe| probe.name))
            .finish()
    }
}

/// Says that nobody is looking any more, also when the one who looked panicked.
struct Looking(Arc<AtomicBool>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Probe {
    fn new(name: &'static str, hung: HealthLevel, look: Look) -> Self {
        Self {
            name,
            hung,
            look,
            busy: Arc::default(),
            limit: CHECK_MAX,
        }
    }

    async fn run(&self) -> Vec<HealthCheck> {
        let failed = |why: &str| vec![check(self.name, self.hung, why)];
        let hangs = || failed(&format!("does not answer within {:?}", self.limit));
        if self.busy.swap(true, Ordering::AcqRel) {
            return hangs();
        }
        let (look, looking) = (Arc::clone(&self.look), Looking(Arc::clone(&self.busy)));
        let found = tokio::task::spawn_blocking(move || {
            let found = look();
            drop(looking);
            found
        });
        match tokio::time::timeout(self.limit, found).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => failed("the check itself failed"),
            Err(_) => hangs(),
        }
    }
}

impl Checks {
    pub(super) fn new(ctx: &Arc<Context>) -> Self {
        let with = |look: fn(&Context) -> Vec<HealthCheck>| -> Look {
            let ctx = Arc::clone(ctx);
            Arc::new(move || look(&ctx))
        };
        let (warning, critical) = (HealthLevel::Warning, HealthLevel::Critical);
        Self(vec![
            Probe::new("journal", critical, with(journal)),
            Probe::new("projections", warning, with(projections)),
            Probe::new("disk", warning, with(disk)),
            Probe::new("agents", warning, with(agents)),
            Probe::new("services", warning, with(services)),
            Probe::new("alerts", warning, with(alerts)),
        ])
    }

    /// Makes all checks at once. Takes no longer than the longest of them may.
    pub(super) async fn run(&self) -> HealthReport {
        let all = futures::future::join_all(self.0.iter().map(Probe::run)).await;
        report(all.into_iter().flatten().collect())
    }
}

fn report(checks: Vec<HealthCheck>) -> HealthReport {
    let issues = checks
        .iter()
        .filter(|c| c.status != HealthLevel::Healthy)
        .map(|c| format!("{}: {}", c.name, c.detail))
        .collect();
    HealthReport {
        status: OverallHealth::of(checks.iter().map(|c| c.status)),
        checks,
        issues,
        timestamp: now(),
    }
}

fn check(name: &str, status: HealthLevel, detail: &str) -> HealthCheck {
    HealthCheck {
        name: name.to_owned(),
        status,
        detail: detail.to_owned(),
        since: None,
    }
}

fn journal(ctx: &Context) -> Vec<HealthCheck> {
    let is = |level, detail: &str| vec![check("journal", level, detail)];
    let store = match ctx.store.get() {
        Ok(store) => store,
        Err(error) => return is(HealthLevel::Critical, &error.to_string()),
    };
    let durable = store.journal.durable().borrow().clone();
    match (durable.failed, store.journal.admission()) {
        (Some(failed), _) => is(HealthLevel::Critical, &failed.to_string()),
        (None, Err(full)) => is(HealthLevel::Critical, &full.to_string()),
        (None, Ok(())) => is(HealthLevel::Healthy, "takes writes"),
    }
}

fn projections(ctx: &Context) -> Vec<HealthCheck> {
    // Without a store the journal's own check says what is wrong.
    let store = ctx.store.get().ok();
    store.iter().map(|store| lag(store)).collect()
}

fn lag(store: &OpenStore) -> HealthCheck {
    let is = |level, detail: &str| check("projections", level, detail);
    let size = store.journal.durable().borrow().size();
    match store.projections.next_position() {
        Ok(next) if size.saturating_sub(next) <= LAG_MAX => {
            is(HealthLevel::Healthy, "up with the journal")
        }
        Ok(next) => {
            let lag = size.saturating_sub(next);
            is(HealthLevel::Warning, &format!("{lag} records behind"))
        }
        Err(error) => is(HealthLevel::Warning, &format!("being rebuilt: {error}")),
    }
}

fn disk(ctx: &Context) -> Vec<HealthCheck> {
    let is = |level, detail: &str| vec![check("disk", level, detail)];
    match rustix::fs::statvfs(&ctx.settings.data) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < FREE_MIN {
                let text = format!("{} MiB free", free / (1024 * 1024));
                is(HealthLevel::Warning, &text)
            } else {
                is(HealthLevel::Healthy, "enough room")
            }
        }
        Err(error) => is(
            HealthLevel::Warning,
            &format!("cannot be measured: {error}"),
        ),
    }
}

/// One for each service that is to be called.
fn services(ctx: &Context) -> Vec<HealthCheck> {
    let all = ctx.desk.all();
    let called = all.iter().filter(|served| served.is_wanted());
    let looked = called.map(|served| {
        let name = format!("services.{}", served.kept.definition.id);
        match served.trouble() {
            None => check(&name, HealthLevel::Healthy, "answers"),
            Some(trouble) => check(&name, HealthLevel::Warning, &trouble),
        }
    });
    looked.collect()
}

/// One for whoever should be told and cannot be.
fn alerts(ctx: &Context) -> Vec<HealthCheck> {
    let untold = ctx.untold.all();
    let to = |(whom, why): (&String, &String)| {
        check(
            &format!("alerts.{whom}"),
            HealthLevel::Warning,
            &format!("not told: {why}"),
        )
    };
    untold.iter().map(to).collect()
}

fn agents(ctx: &Context) -> Vec<HealthCheck> {
    let all = ctx.directory.all();
    let level = |entry: &Arc<AgentEntry>| agent(entry).map(|check| waiting(ctx, entry, check));
    all.iter().filter_map(level).collect()
}

/// An agent is not there because one that it needs is not: for a moment that is the order of things.
fn waiting(ctx: &Context, entry: &AgentEntry, well: HealthCheck) -> HealthCheck {
    let state = entry.state();
    let waits = well.status == HealthLevel::Healthy
        && state.running
        && state.instances.is_empty()
        && now().since(state.updated_at) > WAIT_MAX;
    let manifest = state.version().filter(|_| waits).map(|v| &v.manifest);
    let lacks = manifest.map_or_else(Vec::new, |manifest| ctx.directory.unmet(manifest));
    if lacks.is_empty() {
        return well;
    }
    let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
    let text = format!("waits before its start: {}", lacks.join(", "));
    check(&well.name, HealthLevel::Warning, &text)
}

/// An agent that is isolated, or whose replicas are not well. What its fault policy has in hand already (a restart after
/// a pause) is no news for people.
fn agent(entry: &AgentEntry) -> Option<HealthCheck> {
    let state = entry.state();
    let essential = state.manifest().is_some_and(|m| m.policy.essential);
    let because = || state.fault.as_ref().and_then(|f| f.reason.clone());
    let (level, what, why) = match (state.fault_state(), state.stage()) {
        (_, Lifecycle::Terminated | Lifecycle::Audited | Lifecycle::Defined) => return None,
        (FaultState::Quarantined, _) if essential => (
            HealthLevel::Critical,
            "in quarantine, and essential",
            because(),
        ),
        (FaultState::Quarantined, _) => (HealthLevel::Warning, "in quarantine", because()),
        (FaultState::Open, _) => (HealthLevel::Warning, "breaker open", because()),
        _ => {
            let live = entry.live();
            match live.values().find_map(|instance| instance.live.drained()) {
                Some(why) => (HealthLevel::Warning, "drains and is watched", Some(why)),
                None => (HealthLevel::Healthy, "ok", None),
            }
        }
    };
    let detail = why.map_or_else(|| what.to_owned(), |why| format!("{what}: {why}"));
    Some(check(&format!("agent:{}", entry.id), level, &detail))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::mpsc;

    use super::*;

    fn probe(name: &'static str, look: impl Fn() + Send + Sync + 'static) -> Probe {
        let look: Look = Arc::new(move || {
            look();
            vec![check(name, HealthLevel::Healthy, "ok")]
        });
        Probe::new(name, HealthLevel::Warning, look)
    }

    fn level(report: &HealthReport, name: &str) -> HealthLevel {
        let found = report.checks.iter().find(|check| check.name == name);
        found.map(|check| check.status).unwrap()
    }

    #[tokio::test]
    async fn a_check_that_hangs_is_an_issue_holds_up_nobody_and_is_not_begun_again() {
        let (go, wait) = mpsc::channel::<()>();
        let begun = Arc::new(AtomicU32::new(0));
        let wait = std::sync::Mutex::new(wait);
        let counted = Arc::clone(&begun);
        let checks = Checks(vec![
            Probe {
                limit: Duration::from_millis(50),
                ..probe("hangs", move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                    wait.lock().unwrap().recv().unwrap();
                })
            },
            probe("fine", || {}),
        ]);
        for _ in 0..3 {
            let report = checks.run().await;
            assert_eq!(level(&report, "hangs"), HealthLevel::Warning);
            assert_eq!(level(&report, "fine"), HealthLevel::Healthy);
            assert_eq!(report.status, OverallHealth::Degraded);
            assert_eq!(report.issues, ["hangs: does not answer within 50ms"]);
            assert_eq!(begun.load(Ordering::SeqCst), 1);
        }
        go.send(()).unwrap();
        crate::testing::until("it is free again", || {
            !checks.0[0].busy.load(Ordering::SeqCst)
        })
        .await;
        go.send(()).unwrap();
        let report = checks.run().await;
        assert_eq!(report.status, OverallHealth::Healthy, "{report:?}");
    }

    #[tokio::test]
    async fn a_check_that_panics_is_an_issue_and_is_made_again() {
        let times = AtomicU32::new(0);
        let checks = Checks(vec![probe("odd", move || {
            assert!(times.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
        })]);
        let report = checks.run().await;
        assert_eq!(report.issues, ["odd: the check itself failed"]);
        assert_eq!(checks.run().await.issues, [""; 0]);
    }
}
