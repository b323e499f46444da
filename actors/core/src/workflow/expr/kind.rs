//! The type of an expression, as far as it shows without values: enough to refuse what can never fit.

use cel::common::ast::{Expr as Node, IdedExpr, LiteralValue, operators as op};

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
    pub fn of(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(_) => Self::Bool,
            serde_json::Value::Number(n) if n.is_f64() => Self::Double,
            serde_json::Value::Number(_) => Self::Int,
            serde_json::Value::String(_) => Self::Text,
            serde_json::Value::Array(_) => Self::List,
            serde_json::Value::Object(_) => Self::Map,
        }
    }
}

/// The type, if it shows; or what cannot fit.
pub(super) fn kind_of(node: &IdedExpr) -> Result<Option<Kind>, String> {
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
            let args: Vec<Option<Kind>> =
                call.args.iter().map(kind_of).collect::<Result<_, _>>()?;
            if let Some(target) = &call.target {
                kind_of(target)?;
            }
            of_call(&call.func_name, &args)
        }
        Node::Comprehension(c) => {
            let range = kind_of(&c.iter_range)?;
            if let Some(kind) = range.filter(|kind| !matches!(kind, Kind::List | Kind::Map)) {
                return Err(format!(
                    "type mismatch: goes over a {}, not a list",
                    kind.name()
                ));
            }
            for part in [&c.loop_cond, &c.loop_step, &c.result] {
                kind_of(part)?;
            }
            // `map` and `filter` gather a list; `all` and `exists` begin with a boolean.
            match kind_of(&c.accu_init)? {
                Some(Kind::List) => Ok(Some(Kind::List)),
                Some(Kind::Bool) => Ok(Some(Kind::Bool)),
                _ => Ok(None),
            }
        }
        Node::List(list) => {
            list.elements
                .iter()
                .try_for_each(|part| kind_of(part).map(drop))?;
            Ok(Some(Kind::List))
        }
        Node::Map(_) => {
            let parts = super::parts(&node.expr);
            parts
                .into_iter()
                .try_for_each(|part| kind_of(part).map(drop))?;
            Ok(Some(Kind::Map))
        }
        Node::Select(select) => {
            kind_of(&select.operand)?;
            Ok(select.test.then_some(Kind::Bool))
        }
        Node::Ident(_) | Node::Struct(_) | Node::Unspecified => Ok(None),
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
