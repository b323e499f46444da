//! What an evaluation may cost, from above: lists as long as the longest, texts as long as the longest.

use cel::common::ast::{Expr as Node, IdedExpr, LiteralValue, operators as op};
use serde_json::Value;

use super::{Expression, Scope, parts};

/// Bytes that are copied or compared in the time of one step.
const BYTES_PER_STEP: u64 = 64;
/// Bytes of one element of a list.
const ELEMENT_BYTES: u64 = 16;

struct Sizes {
    /// Elements of the longest list or object.
    list: u64,
    /// Bytes of the longest text.
    text: u64,
}

/// The most steps that an evaluation may take.
pub(super) fn work(node: &IdedExpr, expression: &Expression, scope: &Scope<'_>) -> u64 {
    let mut sizes = Sizes { list: 16, text: 64 };
    let mut adds = 0;
    let mut loops = false;
    survey(node, &mut sizes, &mut adds, &mut loops);
    if adds == 0 && !loops {
        // Every node is seen once, and nothing grows.
        return count(node);
    }
    let variables = [("input", scope.input), ("item", scope.item)];
    for (_, value) in variables
        .into_iter()
        .filter(|(name, _)| expression.names(name))
    {
        if let Some(value) = value {
            measure(value, &mut sizes);
        }
    }
    for (id, value) in scope.steps.iter() {
        if expression.steps().contains(*id) {
            measure(value, &mut sizes);
        }
    }
    // Each addition makes at most one more of the longest.
    sizes.list = sizes.list.saturating_mul(1 + adds);
    sizes.text = sizes.text.saturating_mul(1 + adds);
    steps(node, &sizes)
}

fn count(node: &IdedExpr) -> u64 {
    1 + parts(&node.expr).into_iter().map(count).sum::<u64>()
}

fn survey(node: &IdedExpr, sizes: &mut Sizes, adds: &mut u64, loops: &mut bool) {
    match &node.expr {
        Node::Call(call) if call.func_name == op::ADD => *adds += 1,
        Node::Comprehension(_) => *loops = true,
        Node::Literal(LiteralValue::String(text)) => {
            sizes.text = sizes.text.max(text.inner().len() as u64);
        }
        Node::List(list) => sizes.list = sizes.list.max(list.elements.len() as u64),
        _ => {}
    }
    for part in parts(&node.expr) {
        survey(part, sizes, adds, loops);
    }
}

fn measure(value: &Value, sizes: &mut Sizes) {
    match value {
        Value::String(text) => sizes.text = sizes.text.max(text.len() as u64),
        Value::Array(items) => {
            sizes.list = sizes.list.max(items.len() as u64);
            for item in items {
                measure(item, sizes);
            }
        }
        Value::Object(fields) => {
            sizes.list = sizes.list.max(fields.len() as u64);
            for item in fields.values() {
                measure(item, sizes);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn steps(node: &IdedExpr, sizes: &Sizes) -> u64 {
    let below = || {
        parts(&node.expr)
            .into_iter()
            .fold(0_u64, |sum, part| sum.saturating_add(steps(part, sizes)))
    };
    match &node.expr {
        Node::Comprehension(c) => {
            let round = steps(&c.loop_cond, sizes).saturating_add(steps(&c.loop_step, sizes));
            let ends = steps(&c.iter_range, sizes)
                .saturating_add(steps(&c.accu_init, sizes))
                .saturating_add(steps(&c.result, sizes));
            round.saturating_mul(sizes.list).saturating_add(ends)
        }
        Node::Call(call) => {
            let texts = sizes.text / BYTES_PER_STEP;
            let own = match call.func_name.as_str() {
                // The accumulator of a comprehension grows by one element, in place.
                op::ADD if call.args.iter().any(is_text) || appends(call) => 1 + texts,
                op::ADD => 1 + texts.max(sizes.list * ELEMENT_BYTES / BYTES_PER_STEP),
                op::EQUALS | op::NOT_EQUALS if call.args.iter().any(is_literal) => 1,
                op::EQUALS | op::NOT_EQUALS => 1 + texts + sizes.list / ELEMENT_BYTES,
                op::IN => 1 + sizes.list,
                "contains" | "startsWith" | "endsWith" | "string" | "size" => 1 + texts,
                _ => 1,
            };
            own.saturating_add(below())
        }
        _ => 1_u64.saturating_add(below()),
    }
}

fn is_literal(node: &IdedExpr) -> bool {
    matches!(node.expr, Node::Literal(_))
}

fn is_text(node: &IdedExpr) -> bool {
    match &node.expr {
        Node::Literal(_) => true,
        Node::Call(call) if call.func_name == op::ADD => call.args.iter().any(is_text),
        Node::Call(call) => call.func_name == "string",
        _ => false,
    }
}

/// Whether it is the `@result + [x]` of a macro.
fn appends(call: &cel::common::ast::CallExpr) -> bool {
    let accumulates =
        |node: &IdedExpr| matches!(&node.expr, Node::Ident(name) if name.starts_with('@'));
    call.args.first().is_some_and(accumulates)
}
