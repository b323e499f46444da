//! The type of an expression, as far as it shows without values: enough to refuse what can never fit.

use std::collections::BTreeMap;

use cel::common::ast::{CallExpr, Expr as Node, IdedExpr, LiteralValue, operators as op};
use serde_json::Value;

/// A type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// Any other number.
    Double,
    /// A text.
    Text,
    /// A list.
    List,
    /// An object.
    Map,
    /// Null.
    Null,
}

impl Kind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Double => "double",
            Self::Text => "string",
            Self::List => "list",
            Self::Map => "map",
            Self::Null => "null",
        }
    }

    /// The type of a JSON value.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Bool,
            Value::Number(n) if n.is_f64() => Self::Double,
            Value::Number(_) => Self::Int,
            Value::String(_) => Self::Text,
            Value::Array(_) => Self::List,
            Value::Object(_) => Self::Map,
        }
    }
}

/// What is known of the values that an expression sees, before there are any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// The types of what steps make, as far as they show. Where a step was skipped or has failed it is null all the same.
    pub(crate) outputs: &'a BTreeMap<&'a str, Kind>,
    /// The schemas that outputs satisfy, by step; of each item under `forEach`, so such steps are left out.
    pub(crate) schemas: &'a BTreeMap<&'a str, &'a Value>,
    /// The step of which not all is seen, but what one of its items made.
    pub(crate) one_of: Option<&'a str>,
}

impl<'a> Known<'a> {
    fn output(&self, step: &str) -> Option<Kind> {
        let kind = self.outputs.get(step).copied();
        kind.filter(|_| self.one_of != Some(step))
    }

    fn schema(&self, step: &str) -> Option<&'a Value> {
        let schema = self.schemas.get(step).copied();
        schema.filter(|_| self.one_of != Some(step))
    }
}

/// The type of what satisfies a schema, if it says one. A number is an int or a double.
pub(crate) fn of_schema(schema: &Value) -> Option<Kind> {
    match schema.get("type")?.as_str()? {
        "boolean" => Some(Kind::Bool),
        "integer" => Some(Kind::Int),
        "string" => Some(Kind::Text),
        "array" => Some(Kind::List),
        "object" => Some(Kind::Map),
        "null" => Some(Kind::Null),
        _ => None,
    }
}

/// The name of a field that a node takes, and of what.
fn field_of(node: &IdedExpr) -> Option<(&IdedExpr, &str)> {
    match &node.expr {
        Node::Select(select) => Some((&select.operand, &select.field)),
        Node::Call(call) if call.func_name == op::INDEX => {
            let [of, key] = call.args.as_slice() else {
                return None;
            };
            match &key.expr {
                Node::Literal(LiteralValue::String(field)) => Some((of, field.inner())),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The schema of what a node is, where it is an output or a field of one, and the schema says.
///
/// # Errors
/// The schema allows no such field.
fn schema_of<'a>(node: &IdedExpr, known: Known<'a>) -> Result<Option<&'a Value>, String> {
    let Some((of, field)) = field_of(node) else {
        return Ok(None);
    };
    if let Some(step) = super::step_of(&of.expr) {
        return Ok(known.schema(step).filter(|_| field == "output"));
    }
    let Some(whole) = schema_of(of, known)? else {
        return Ok(None);
    };
    let properties = whole.get("properties").and_then(Value::as_object);
    if let Some(schema) = properties.and_then(|properties| properties.get(field)) {
        return Ok(Some(schema));
    }
    let closed = whole.get("additionalProperties") == Some(&Value::Bool(false));
    // What a schema says in other words may name fields as well.
    let plain = ["patternProperties", "$ref", "allOf", "anyOf", "oneOf"];
    if closed && plain.iter().all(|other| whole.get(other).is_none()) {
        return Err(format!(
            "type mismatch: the outputSchema allows no field \"{field}\""
        ));
    }
    Ok(None)
}

/// What a step shows.
const SHOWN: [&str; 3] = ["output", "state", "error"];

/// The functions that there are, and how many values each takes, the one before the dot included.
const FUNCTIONS: [(&str, usize); 7] = [
    ("size", 1),
    ("int", 1),
    ("double", 1),
    ("string", 1),
    ("contains", 2),
    ("startsWith", 2),
    ("endsWith", 2),
];

/// Refuses what is called and is not there.
fn callable(call: &CallExpr) -> Result<(), String> {
    let name = call.func_name.as_str();
    // The others are operators.
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Ok(());
    }
    let Some((_, takes)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = FUNCTIONS.iter().map(|(known, _)| *known).collect();
        return Err(format!(
            "unknown function \"{name}\"; there are {}, has(field), and map, filter, all, exists, exists_one over lists",
            names.join(", ")
        ));
    };
    let given = call.args.len() + usize::from(call.target.is_some());
    if given != *takes {
        let what = if *takes == 1 { "value" } else { "values" };
        return Err(format!("{name} takes {takes} {what}, not {given}"));
    }
    Ok(())
}

/// What `steps.<id>.<field>` is, if that is what a node says.
fn of_step(node: &IdedExpr, known: Known<'_>) -> Option<Result<Option<Kind>, String>> {
    let (step, field) = match &node.expr {
        Node::Select(select) => (super::step_of(&select.operand.expr)?, select.field.as_str()),
        Node::Call(call) if call.func_name == op::INDEX => {
            let step = super::step_of(&call.args.first()?.expr)?;
            match &call.args.get(1)?.expr {
                Node::Literal(LiteralValue::String(field)) => (step, field.inner()),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(match field {
        "output" => Ok(known.output(step)),
        "state" => Ok(Some(Kind::Text)),
        "error" => Ok(None),
        other => Err(format!(
            "step \"{step}\" has {}, and no {other}",
            SHOWN.join(", ")
        )),
    })
}

/// The type, if it shows; or what cannot fit. What is called and is not there does not fit.
pub(super) fn kind_of(node: &IdedExpr) -> Result<Option<Kind>, String> {
    Typed::default().kind(node)
}

/// The same by what is known of steps.
pub(super) fn kind_within(node: &IdedExpr, known: Known<'_>) -> Result<Option<Kind>, String> {
    let (known, bound) = (Some(known), Vec::new());
    Typed { known, bound }.kind(node)
}

/// Finds types.
#[derive(Default)]
struct Typed<'k> {
    known: Option<Known<'k>>,
    /// Names that a loop around gives something else.
    bound: Vec<String>,
}

impl Typed<'_> {
    fn kind(&mut self, node: &IdedExpr) -> Result<Option<Kind>, String> {
        if let Some(known) = self.known
            && let Some(found) = of_step(node, known)
        {
            let shown = found?;
            return Ok(match &node.expr {
                Node::Select(select) if select.test => Some(Kind::Bool),
                _ => shown,
            });
        }
        if let Some(known) = self.known
            && let Some(schema) = schema_of(node, known).or_else(|why| match &node.expr {
                // Whether it is there may be asked all the same.
                Node::Select(select) if select.test => Ok(None),
                _ => Err(why),
            })?
        {
            return Ok(match &node.expr {
                Node::Select(select) if select.test => Some(Kind::Bool),
                _ => of_schema(schema),
            });
        }
        match &node.expr {
            Node::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Some(Kind::Bool),
                LiteralValue::Double(_) => Some(Kind::Double),
                LiteralValue::Int(_) => Some(Kind::Int),
                LiteralValue::Null => Some(Kind::Null),
                LiteralValue::String(_) => Some(Kind::Text),
                LiteralValue::Bytes(_) | LiteralValue::UInt(_) => None,
            }),
            Node::Call(call) => {
                callable(call)?;
                let args: Vec<Option<Kind>> = call
                    .args
                    .iter()
                    .map(|arg| self.kind(arg))
                    .collect::<Result<_, _>>()?;
                if let Some(target) = &call.target {
                    self.kind(target)?;
                }
                of_call(&call.func_name, &args)
            }
            Node::Comprehension(c) => {
                let range = self.kind(&c.iter_range)?;
                if let Some(kind) = range.filter(|kind| !matches!(kind, Kind::List | Kind::Map)) {
                    return Err(format!(
                        "type mismatch: goes over a {}, not a list",
                        kind.name()
                    ));
                }
                let before = self.bound.len();
                self.bound.push(c.iter_var.clone());
                self.bound.extend(c.iter_var2.clone());
                for part in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.kind(part)?;
                }
                self.bound.truncate(before);
                // `map` and `filter` gather a list; `all` and `exists` begin with a boolean.
                match self.kind(&c.accu_init)? {
                    Some(Kind::List) => Ok(Some(Kind::List)),
                    Some(Kind::Bool) => Ok(Some(Kind::Bool)),
                    _ => Ok(None),
                }
            }
            Node::List(list) => {
                list.elements
                    .iter()
                    .try_for_each(|part| self.kind(part).map(drop))?;
                Ok(Some(Kind::List))
            }
            Node::Map(_) => {
                let parts = super::parts(&node.expr);
                parts
                    .into_iter()
                    .try_for_each(|part| self.kind(part).map(drop))?;
                Ok(Some(Kind::Map))
            }
            Node::Select(select) => {
                self.kind(&select.operand)?;
                Ok(select.test.then_some(Kind::Bool))
            }
            Node::Ident(name) if matches!(name.as_str(), "round" | "index") => {
                Ok((!self.bound.contains(name)).then_some(Kind::Int))
            }
            Node::Ident(_) | Node::Struct(_) | Node::Unspecified => Ok(None),
        }
    }
}

fn of_call(name: &str, args: &[Option<Kind>]) -> Result<Option<Kind>, String> {
    let known: Vec<Kind> = args.iter().copied().flatten().collect();
    let mismatch = || {
        let names: Vec<_> = known.iter().map(|kind| kind.name()).collect();
        let sign = name.trim_matches('_').trim_start_matches('@');
        Err(format!(
            "type mismatch: {sign} does not take {}",
            names.join(" and ")
        ))
    };
    let first_two = match known[..] {
        [a, b] => Some((a, b)),
        _ => None,
    };
    match name {
        op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT => {
            if known.iter().any(|kind| *kind != Kind::Bool) {
                return mismatch();
            }
            Ok(Some(Kind::Bool))
        }
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
            let number = |kind| matches!(kind, Kind::Int | Kind::Double);
            let unordered = |kind: &Kind| matches!(kind, Kind::List | Kind::Map | Kind::Null);
            let fits = first_two.is_none_or(|(a, b)| a == b || number(a) && number(b));
            if !fits || known.iter().any(unordered) {
                return mismatch();
            }
            Ok(Some(Kind::Bool))
        }
        op::ADD => {
            let adds = |kind: &Kind| !matches!(kind, Kind::Bool | Kind::Map | Kind::Null);
            if !known.iter().all(adds) || first_two.is_some_and(|(a, b)| a != b) {
                return mismatch();
            }
            Ok(known.first().copied())
        }
        op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO => {
            let number = |kind: &Kind| matches!(kind, Kind::Int | Kind::Double);
            if !known.iter().all(number) || first_two.is_some_and(|(a, b)| a != b) {
                return mismatch();
            }
            Ok(known.first().copied())
        }
        op::CONDITIONAL => {
            if args
                .first()
                .copied()
                .flatten()
                .is_some_and(|kind| kind != Kind::Bool)
            {
                return Err("type mismatch: what stands before ? is no bool".to_owned());
            }
            let branches = (
                args.get(1).copied().flatten(),
                args.get(2).copied().flatten(),
            );
            Ok(branches.0.filter(|kind| branches.1 == Some(*kind)))
        }
        op::EQUALS | op::NOT_EQUALS | op::IN | "startsWith" | "endsWith" | "contains" => {
            Ok(Some(Kind::Bool))
        }
        "size" | "int" => Ok(Some(Kind::Int)),
        "double" => Ok(Some(Kind::Double)),
        "string" => Ok(Some(Kind::Text)),
        _ => Ok(None),
    }
}
