//! Alerts: said once when a check's level changes, however often it is looked at, and across restarts of meshd.

use std::collections::BTreeMap;

use mesh_messages::agent::HealthLevel;
use mesh_messages::events::NodeEvent;
use mesh_messages::system::{HealthReport, OverallHealth};

/// Issues that an alert names; the report has them all.
const NAMED_MAX: usize = 64;

/// The checks that are not healthy, by name, as they were said last.
pub(super) type Open = BTreeMap<String, HealthLevel>;

/// What there is to say, given what was said last.
pub(super) fn news(open: &Open, overall: OverallHealth, report: &HealthReport) -> Vec<NodeEvent> {
    let bad = report
        .checks
        .iter()
        .filter(|check| check.status != HealthLevel::Healthy);
    let now: Open = bad
        .clone()
        .map(|check| (check.name.clone(), check.status))
        .collect();
    let mut events = Vec::new();
    if now != *open {
        let raised = bad
            .filter(|check| open.get(&check.name) != Some(&check.status))
            .take(NAMED_MAX)
            .map(|check| format!("{}: {}", check.name, check.detail));
        let cleared = open.keys().filter(|name| !now.contains_key(*name));
        events.push(NodeEvent::Alert {
            raised: raised.collect(),
            cleared: cleared.take(NAMED_MAX).cloned().collect(),
            open: now.clone(),
        });
    }
    if overall != report.status {
        events.push(NodeEvent::HealthChanged {
            from: overall.name().to_owned(),
            to: report.status.name().to_owned(),
            issues: report.issues.iter().take(NAMED_MAX).cloned().collect(),
        });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_messages::Timestamp;
    use mesh_messages::system::HealthCheck;

    fn report(levels: &[(&str, HealthLevel)], detail: &str) -> HealthReport {
        HealthReport {
            status: OverallHealth::of(levels.iter().map(|(_, level)| *level)),
            checks: levels
                .iter()
                .map(|(name, status)| HealthCheck {
                    name: (*name).to_owned(),
                    status: *status,
                    detail: detail.to_owned(),
                    since: None,
                })
                .collect(),
            issues: Vec::new(),
            timestamp: Timestamp::ZERO,
        }
    }

    /// What is said over a row of reports: the alerts' (raised, cleared), and the changes of the whole.
    fn said(reports: &[HealthReport]) -> Vec<String> {
        let (mut open, mut overall) = (Open::new(), OverallHealth::Healthy);
        let mut said = Vec::new();
        for report in reports {
            for event in news(&open, overall, report) {
                match event {
                    NodeEvent::Alert {
                        raised,
                        cleared,
                        open: now,
                    } => {
                        open = now;
                        said.push(format!("+{} -{}", raised.join(","), cleared.join(",")));
                    }
                    NodeEvent::HealthChanged { from, to, .. } => {
                        overall = report.status;
                        said.push(format!("{from} > {to}"));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        said
    }

    use HealthLevel::{Critical, Healthy, Warning};

    #[test]
    fn an_alert_is_said_once_however_often_it_is_looked_at() {
        let bad = |detail| report(&[("disk", Warning), ("journal", Healthy)], detail);
        let reports = [bad("9 MiB"), bad("8 MiB"), bad("7 MiB")];
        assert_eq!(said(&reports), ["+disk: 9 MiB -", "healthy > degraded"]);
    }

    #[test]
    fn each_change_is_said_also_when_the_whole_stays_as_it_is() {
        let of = |levels: &[(&str, HealthLevel)]| report(levels, "x");
        let reports = [
            of(&[("a", Warning), ("b", Healthy)]),
            of(&[("a", Warning), ("b", Warning)]),
            of(&[("a", Critical), ("b", Warning)]),
            of(&[("b", Warning)]),
            of(&[("a", Healthy), ("b", Healthy)]),
            of(&[("a", Healthy), ("b", Healthy)]),
        ];
        let expected = [
            "+a: x -",
            "healthy > degraded",
            "+b: x -",
            "+a: x -",
            "degraded > critical",
            "+ -a",
            "critical > degraded",
            "+ -b",
            "degraded > healthy",
        ];
        assert_eq!(said(&reports), expected);
    }

    #[test]
    fn nothing_is_said_while_all_is_well() {
        let reports = [report(&[("a", Healthy)], "x"), report(&[], "x")];
        assert_eq!(said(&reports), [""; 0]);
    }
}
