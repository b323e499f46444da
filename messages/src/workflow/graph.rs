//! The graph of a document as a Mermaid flowchart.

use std::fmt::Write as _;

use super::{ServiceTarget, SubWorkflow, WorkflowDocument, WorkflowRun, WorkflowStep};

/// Longest label of a node, in characters; the whole text is in the document.
const LABEL_MAX: usize = 60;

/// The graph, with the states of a run where one is given. Edges are `after`, and what expressions name where a run
/// tells it.
pub fn mermaid(document: &WorkflowDocument, run: Option<&WorkflowRun>) -> String {
    let mut text = String::from("flowchart TD\n");
    let number = |id: &str| document.steps.iter().position(|step| step.id == id);
    for (index, step) in document.steps.iter().enumerate() {
        let shown = run.and_then(|run| run.steps.iter().find(|view| view.id == step.id));
        let inner = step.workflow.is_some() || step.team.is_some();
        let (open, close) = match (&step.approval, inner, &step.service) {
            (Some(_), _, _) => ("{{", "}}"),
            (_, true, _) => ("[[", "]]"),
            (_, _, Some(_)) => ("([", "])"),
            (None, false, None) => ("[", "]"),
        };
        let mut label = format!("{}\n{}", step.id, what(step));
        if let Some(shown) = shown {
            let _infallible = write!(label, "\n{}", shown.state);
        }
        let _infallible = writeln!(text, "  s{index}{open}\"{}\"{close}", escaped(&label));
        if let Some(shown) = shown {
            let _infallible = writeln!(text, "  class s{index} {}", shown.state);
        }
    }
    for (index, step) in document.steps.iter().enumerate() {
        let shown = run.and_then(|run| run.steps.iter().find(|view| view.id == step.id));
        let after = shown.map_or(&step.after, |view| &view.after);
        for from in after.iter().filter_map(|id| number(id)) {
            let _infallible = match step.when.as_ref().and_then(|when| when.as_str()) {
                Some(when) => writeln!(text, "  s{from} -->|\"{}\"| s{index}", escaped(when)),
                None => writeln!(text, "  s{from} --> s{index}"),
            };
        }
    }
    text.push_str("  classDef succeeded fill:#cfc\n  classDef running fill:#cdf\n");
    text.push_str("  classDef failed fill:#fcc\n  classDef dead_lettered fill:#fcc\n");
    text
}

fn what(step: &WorkflowStep) -> String {
    let mut what = if let Some(approval) = &step.approval {
        format!("approval {}", approval.message())
    } else if let Some(service) = &step.service {
        match service.target() {
            ServiceTarget::Plain(call) => format!("{} {}", call.method.name(), call.url),
            ServiceTarget::Registered(call) => format!("service {call}"),
        }
    } else if let Some(team) = &step.team {
        let needs = team.requirements.join(", ");
        format!("{} team of {needs}", team.pattern.name())
    } else {
        match &step.workflow {
            Some(SubWorkflow::Named(name)) => format!("workflow {name}"),
            Some(SubWorkflow::Inline(document)) => format!("workflow {}", document.name),
            None if step.requirements.is_empty() => step.kind.clone().unwrap_or_default(),
            None => step.requirements.join(", "),
        }
    };
    if step.for_each.is_some() {
        what.push_str(" (each)");
    }
    if let Some(repeat) = &step.repeat {
        let _infallible = write!(what, " (at most {}x)", repeat.max);
    }
    what.trim().to_owned()
}

/// Text within quotes of a flowchart: no quotes, line ends as breaks, markup and directives as entities.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for line in text.split('\n') {
        if !out.is_empty() {
            out.push_str("<br/>");
        }
        let cut = line.chars().take(LABEL_MAX);
        for c in cut {
            match c {
                '"' => out.push_str("#quot;"),
                '<' => out.push_str("#lt;"),
                '>' => out.push_str("#gt;"),
                '#' => out.push_str("#35;"),
                ';' => out.push_str("#59;"),
                c if c.is_control() => out.push(' '),
                c => out.push(c),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_graph_shows_steps_edges_and_conditions_and_escapes_them() {
        let document: WorkflowDocument = serde_json::from_value(json!({"steps": [
            {"id": "a", "requirements": ["x"]},
            {"id": "ask", "approval": "say \"yes\"; <b>", "after": ["a"], "when": "${input.n > 1}"},
        ]}))
        .unwrap();
        let text = mermaid(&document, None);
        assert!(
            text.starts_with("flowchart TD\n  s0[\"a<br/>x\"]\n"),
            "{text}"
        );
        assert!(
            text.contains("s1{{\"ask<br/>approval say #quot;yes#quot;#59; #lt;b#gt;\"}}"),
            "{text}"
        );
        assert!(text.contains("s0 -->|\"${input.n #gt; 1}\"| s1"), "{text}");
    }
}
