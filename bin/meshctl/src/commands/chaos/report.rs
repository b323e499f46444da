//! The verdict as people and programs read it.

use std::time::Duration;

use serde_json::{Value, json};

use super::coverage::Seen;
use super::evidence::{Dealt, Evidence, Outcome};
use super::judge::{Finding, Verdict};
use super::plan::Stroke;
use crate::exit::Exit;
use crate::output::{Cell, Screen, Table, span};

/// All that a run led to.
#[derive(Debug)]
pub(super) struct Report<'r> {
    pub(super) seed: u64,
    /// The command that does the same again.
    pub(super) again: &'r str,
    pub(super) evidence: &'r Evidence,
    pub(super) findings: &'r [Finding],
    pub(super) seen: &'r [Seen],
}

/// The verdict on the whole: the worst of the parts.
pub(super) fn whole(findings: &[Finding]) -> Verdict {
    let any = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    if any(Verdict::Broken) {
        Verdict::Broken
    } else if any(Verdict::Undecided) {
        Verdict::Undecided
    } else if any(Verdict::Held) {
        Verdict::Held
    } else {
        Verdict::NotTested
    }
}

/// How a run with these findings ends.
pub(super) fn exit(findings: &[Finding]) -> Exit {
    match whole(findings) {
        Verdict::Held => Exit::Ok,
        // A run that put nothing to the test shows nothing.
        Verdict::Broken | Verdict::NotTested => Exit::Failed,
        Verdict::Undecided => Exit::TimedOut,
    }
}

fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let index = (sorted.len() * percent).div_ceil(100).checked_sub(1)?;
    sorted.get(index).copied()
}

/// `p50 1.2 ms, p99 3.4 ms`, of microseconds.
fn latency(micros: &[u64]) -> Option<(u64, u64)> {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    Some((percentile(&sorted, 50)?, percentile(&sorted, 99)?))
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

fn told(latency: Option<(u64, u64)>) -> String {
    latency.map_or_else(
        || "nobody asked".to_owned(),
        |(p50, p99)| format!("p50 {}, p99 {}", millis(p50), millis(p99)),
    )
}

impl Report<'_> {
    /// For people.
    pub(super) fn screen(&self) -> Screen {
        let mut table = Table::new(&["INVARIANT", "VERDICT", "EVIDENCE"]);
        for finding in self.findings {
            table.row([
                finding.invariant.into(),
                Cell::state(finding.verdict.word()),
                finding.evidence.as_str().into(),
            ]);
        }
        let mut seen = Table::new(&["SEEN", "TIMES"]);
        for Seen { what, times } in self.seen {
            let times = if *times == 0 {
                "never".to_owned()
            } else {
                times.to_string()
            };
            seen.row([what.as_str().into(), times.into()]);
        }
        let answers = &self.evidence.answers;
        let mut screen = Screen::new().table(table);
        for finding in self
            .findings
            .iter()
            .filter(|finding| !finding.ids.is_empty())
        {
            for id in &finding.ids {
                screen = screen.line(format!("{}: {id}", finding.invariant));
            }
        }
        screen = screen
            .table(seen)
            .line(format!(
                "answers about others: before {}; during {}",
                told(latency(&answers.before)),
                told(latency(&answers.during))
            ))
            .line(format!("verdict: {}", whole(self.findings).word()))
            .line(format!("again: {}", self.again));
        screen.named(self.findings.iter().map(|finding| finding.invariant))
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let pair = |latency: Option<(u64, u64)>| {
            latency.map(|(p50, p99)| json!({ "p50Us": p50, "p99Us": p99 }))
        };
        let answers = &self.evidence.answers;
        json!({
            "verdict": whole(self.findings),
            "seed": self.seed,
            "again": self.again,
            "scope": { "agents": self.evidence.scope, "parts": self.evidence.parts },
            "findings": self.findings,
            "seen": self.seen,
            "latency": {
                "before": pair(latency(&answers.before)),
                "during": pair(latency(&answers.during)),
                "unanswered": answers.failed,
            },
            "blows": self.evidence.dealt.iter().map(blow).collect::<Vec<_>>(),
        })
    }
}

fn blow(dealt: &Dealt) -> Value {
    let outcome = match &dealt.outcome {
        Outcome::Struck(answer) => json!({ "struck": answer }),
        Outcome::Refused { code, detail } => {
            json!({ "refused": { "code": code, "detail": detail } })
        }
        Outcome::Unknown(why) => json!({ "unknown": why }),
    };
    json!({ "atMs": dealt.at_ms, "order": dealt.order, "outcome": outcome })
}

/// The blows that a run would deal.
pub(super) fn planned(strokes: &[Stroke], again: &str) -> (Value, Screen) {
    let mut table = Table::new(&["AT", "ACTION", "TARGET", "HOW MUCH"]);
    let mut rows = Vec::new();
    for Stroke { at, order } in strokes {
        let target = match (&order.agent, &order.part, order.instance) {
            (Some(agent), _, Some(instance)) => format!("{agent}#{instance}"),
            (Some(agent), _, None) => agent.to_string(),
            (None, Some(part), _) => part.clone(),
            (None, None, _) => String::new(),
        };
        let much = match (order.duration_ms, order.lines) {
            (Some(ms), _) => span(ms),
            (None, Some(lines)) => format!("{lines} lines"),
            (None, None) => "-".to_owned(),
        };
        table.row([
            span(millis_of(*at)).into(),
            order.action.name().into(),
            target.into(),
            much.into(),
        ]);
        rows.push(json!({ "atMs": millis_of(*at), "order": order }));
    }
    let screen = Screen::new()
        .table(table)
        .line(format!("{} blows; nothing was done", strokes.len()))
        .line(format!("to do it: {again}"));
    (json!({ "blows": rows, "again": again }), screen)
}

fn millis_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict) -> Finding {
        Finding {
            invariant: "x",
            promise: "x",
            verdict,
            evidence: String::new(),
            ids: Vec::new(),
        }
    }

    #[test]
    fn the_whole_is_as_bad_as_its_worst_part() {
        use Verdict::{Broken, Held, NotTested, Undecided};
        for (parts, expected, code) in [
            (vec![Held, NotTested], Held, 0),
            (vec![Held, Undecided, NotTested], Undecided, 7),
            (vec![Held, Undecided, Broken], Broken, 1),
            (vec![NotTested], NotTested, 1),
        ] {
            let findings: Vec<_> = parts.into_iter().map(finding).collect();
            assert_eq!((whole(&findings), exit(&findings).code()), (expected, code));
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_measured() {
        assert_eq!(latency(&[]), None);
        assert_eq!(latency(&[7]), Some((7, 7)));
        assert_eq!(
            latency(&(1..=100).rev().collect::<Vec<_>>()),
            Some((50, 99))
        );
        assert_eq!(millis(1234), "1.2 ms");
    }
}
