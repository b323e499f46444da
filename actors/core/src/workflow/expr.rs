//! Expressions: CEL, read once with its document and evaluated over what a run has so far.
//!
//! The crate `cel` reads and evaluates; this module bounds it. What an expression names is known before it runs, so that
//! steps are found in documents and only what is named is handed over; what it may cost is estimated from above before it
//! runs, since the crate itself has no limit; and a panic in it is an error of the expression.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use cel::common::ast::{EntryExpr, Expr as Node, IdedExpr, LiteralValue, operators};
use cel::{Context, Env, Value as Cel, parser::Parser};
use serde_json::{Map, Number, Value};

mod cost;
mod kind;
mod scan;

pub use kind::Kind;
pub(crate) use kind::{Known, of_schema};
pub(crate) use scan::{Piece, pieces};

/// Longest expression, in bytes: what is longer belongs into an agent.
pub const EXPRESSION_BYTES_MAX: usize = 2048;
/// Deepest nesting of an expression; the crate evaluates recursively.
pub const EXPRESSION_DEPTH_MAX: usize = 48;
/// Most operators, selections and brackets of an expression: a chain of them is read as deep as it is long.
pub const EXPRESSION_OPERATORS_MAX: usize = 128;
/// Most work of one evaluation, in steps of roughly a hundred nanoseconds: a second at the very worst.
pub const WORK_MAX: u64 = 10_000_000;
/// Most bytes to which the expressions of one value may be written out: what a text is named for a thousand times is
/// written a thousand times. As much as all items of a step may get together.
pub const WRITTEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What an element of a list or an object takes besides its content.
const ELEMENT_BYTES: usize = 16;
/// Longest message of the crate that is repeated.
const MESSAGE_MAX: usize = 300;

/// The variables that an expression may name.
pub(crate) const VARIABLES: [&str; 5] = ["input", "steps", "item", "index", "round"];

/// A text is no expression that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidExpression(pub String);

/// An expression could not be evaluated over these values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("${{{source_text}}}: {why}")]
pub struct EvaluationError {
    /// The expression.
    pub source_text: String,
    /// Why not.
    pub why: String,
}

/// An expression, read.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    node: Arc<IdedExpr>,
    /// The variables that it names.
    variables: BTreeSet<String>,
    /// The steps that it names.
    steps: BTreeSet<String>,
    /// Its type, as far as it shows without values.
    kind: Option<Kind>,
}

/// What expressions see.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope<'a> {
    pub(crate) input: Option<&'a Value>,
    /// `output`, `state` and `error` of the steps that may be named.
    pub(crate) steps: Arc<BTreeMap<&'a str, Value>>,
    /// The same as CEL has it, once it was needed: a thousand items see one input.
    seen: Arc<Seen>,
    pub(crate) item: Option<&'a Value>,
    pub(crate) index: Option<u32>,
    pub(crate) round: Option<u32>,
}

/// What was handed over before.
#[derive(Debug, Default)]
struct Seen {
    input: OnceLock<Cel>,
    steps: OnceLock<BTreeMap<String, Cel>>,
}

impl<'a> Scope<'a> {
    /// What is seen from a run with this input and these steps.
    pub(crate) fn new(input: &'a Value, steps: BTreeMap<&'a str, Value>) -> Self {
        Self {
            input: Some(input),
            steps: Arc::new(steps),
            ..Self::default()
        }
    }

    fn input(&self) -> Option<Cel> {
        let input = self.input?;
        Some(self.seen.input.get_or_init(|| cel(input)).clone())
    }

    fn steps(&self, named: &BTreeSet<String>) -> Cel {
        let seen = self.seen.steps.get_or_init(|| {
            let all = self.steps.iter();
            all.map(|(id, value)| ((*id).to_owned(), cel(value)))
                .collect()
        });
        let map = seen.iter().filter(|(id, _)| named.contains(*id));
        let map = map.map(|(id, value)| (cel::objects::Key::from(id.clone()), value.clone()));
        Cel::Map(cel::objects::Map {
            map: Arc::new(map.collect()),
        })
    }
}

impl Expression {
    /// Reads an expression; `ids` are the steps of its document.
    ///
    /// # Errors
    /// [`InvalidExpression`]: it does not parse, is too large, or its types cannot fit.
    pub fn read(text: &str, ids: &BTreeSet<&str>) -> Result<Self, InvalidExpression> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let message = format!(
                "the expression has {} bytes; at most {EXPRESSION_BYTES_MAX} are accepted",
                text.len()
            );
            return Err(InvalidExpression(message));
        }
        if scan::operators(text) > EXPRESSION_OPERATORS_MAX {
            let message = format!(
                "the expression has more than {EXPRESSION_OPERATORS_MAX} operators and brackets"
            );
            return Err(InvalidExpression(message));
        }
        let plain = scan::quote_ids(text, ids);
        let node = parsed(&plain)?;
        if depth(&node) > EXPRESSION_DEPTH_MAX {
            let message =
                format!("the expression is nested deeper than {EXPRESSION_DEPTH_MAX} levels");
            return Err(InvalidExpression(message));
        }
        let mut names = Names::default();
        names.visit(&node, &mut Vec::new())?;
        let kind = kind::kind_of(&node).map_err(InvalidExpression)?;
        let expression = Self {
            text: text.trim().to_owned(),
            node: Arc::new(node),
            variables: names.variables,
            steps: names.steps,
            kind,
        };
        // What depends on nothing can be tried at once.
        if expression.variables.is_empty() {
            expression
                .evaluate(&Scope::default())
                .map_err(|error| InvalidExpression(error.why))?;
        }
        Ok(expression)
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The steps that it names.
    pub fn steps(&self) -> &BTreeSet<String> {
        &self.steps
    }

    /// Whether it names a variable.
    pub fn names(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Its type, as far as it shows without values.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Its type by what is known of the steps.
    ///
    /// # Errors
    /// What cannot fit.
    pub(crate) fn kind_within(&self, known: Known<'_>) -> Result<Option<Kind>, String> {
        kind::kind_within(&self.node, known)
    }

    /// Its value.
    ///
    /// # Errors
    /// [`EvaluationError`]: it does not fit the values, or would take too long.
    pub(crate) fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, EvaluationError> {
        self.evaluate_within(scope, &mut Left::default())
    }

    /// Its value, if that takes no more than is left.
    ///
    /// # Errors
    /// As with [`Expression::evaluate`].
    pub(crate) fn evaluate_within(
        &self,
        scope: &Scope<'_>,
        left: &mut Left,
    ) -> Result<Value, EvaluationError> {
        let fail = |why: String| EvaluationError {
            source_text: self.text.clone(),
            why: cut(&why),
        };
        let work = cost::work(&self.node, self, scope);
        if work > WORK_MAX {
            return Err(fail(format!(
                "may take {work} steps over these values, more than {WORK_MAX}; do it in an agent"
            )));
        }
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::new(Env::stdlib()));
            self.fill(&mut context, scope);
            Cel::resolve(&self.node, &context).map_err(|error| error.to_string())
        }));
        match evaluated {
            Ok(Ok(value)) => json(&value, left).map_err(fail),
            Ok(Err(why)) => Err(fail(why)),
            Err(_panic) => Err(fail("it cannot be evaluated".to_owned())),
        }
    }

    fn fill(&self, context: &mut Context<'_, '_>, scope: &Scope<'_>) {
        let mut add = |name: &str, value: Option<Cel>| {
            if let Some(value) = value.filter(|_| self.names(name)) {
                context.add_variable_from_value(name, value);
            }
        };
        let named = |name: &str| self.names(name);
        add(
            "input",
            scope
                .input
                .filter(|_| named("input"))
                .and_then(|_| scope.input()),
        );
        add("item", scope.item.filter(|_| named("item")).map(cel));
        add("index", scope.index.map(|index| Cel::Int(index.into())));
        add("round", scope.round.map(|round| Cel::Int(round.into())));
        add("steps", named("steps").then(|| scope.steps(&self.steps)));
    }
}

/// Stack for reading an expression: the crate's parser takes tens of kilobytes a level, and looks a few levels beyond its
/// own limit when it recovers from errors.
const PARSER_STACK: usize = 32 * 1024 * 1024;

/// What the parser makes of a text; a panic in it is an error.
fn parsed(text: &str) -> Result<IdedExpr, InvalidExpression> {
    let depth = u16::try_from(EXPRESSION_DEPTH_MAX).unwrap_or(u16::MAX);
    let source = text.to_owned();
    let read = move || {
        let parser = Parser::new().max_recursion_depth(depth);
        parser.parse(&source).map_err(|errors| {
            let first = errors.errors.first();
            let message = first.map_or_else(|| "it does not parse".to_owned(), |e| e.msg.clone());
            InvalidExpression(cut(&format!("not a CEL expression: {message}")))
        })
    };
    // Read once per document, so a thread of its own costs nothing that shows.
    let thread = std::thread::Builder::new().stack_size(PARSER_STACK);
    let panicked = || InvalidExpression("not a CEL expression".to_owned());
    match thread.spawn(read).map(std::thread::JoinHandle::join) {
        Ok(Ok(read)) => read,
        Ok(Err(_panic)) => Err(panicked()),
        Err(_no_thread) => Err(InvalidExpression(
            "no thread to read it; try again".to_owned(),
        )),
    }
}

fn cut(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The parts of a node, one level down.
pub(crate) fn parts(node: &Node) -> Vec<&IdedExpr> {
    match node {
        Node::Call(call) => call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .collect(),
        Node::Comprehension(c) => {
            vec![
                &c.iter_range,
                &c.accu_init,
                &c.loop_cond,
                &c.loop_step,
                &c.result,
            ]
        }
        Node::List(list) => list.elements.iter().collect(),
        Node::Map(map) => entries(map.entries.iter().map(|e| &e.expr)),
        Node::Struct(literal) => entries(literal.entries.iter().map(|e| &e.expr)),
        Node::Select(select) => vec![&*select.operand],
        Node::Ident(_) | Node::Literal(_) | Node::Unspecified => Vec::new(),
    }
}

fn entries<'a>(entries: impl Iterator<Item = &'a EntryExpr>) -> Vec<&'a IdedExpr> {
    let mut parts = Vec::new();
    for entry in entries {
        match entry {
            EntryExpr::MapEntry(entry) => parts.extend([&entry.key, &entry.value]),
            EntryExpr::StructField(field) => parts.push(&field.value),
        }
    }
    parts
}

fn depth(node: &IdedExpr) -> usize {
    1 + parts(&node.expr).into_iter().map(depth).max().unwrap_or(0)
}

/// Collects what an expression names.
#[derive(Default)]
struct Names {
    variables: BTreeSet<String>,
    steps: BTreeSet<String>,
}

impl Names {
    fn visit(&mut self, node: &IdedExpr, bound: &mut Vec<String>) -> Result<(), InvalidExpression> {
        if let Some(step) = step_of(&node.expr) {
            self.variables.insert("steps".to_owned());
            self.steps.insert(step.to_owned());
            return Ok(());
        }
        match &node.expr {
            Node::Ident(name) if bound.contains(name) => Ok(()),
            Node::Ident(name) if name == "steps" => Err(InvalidExpression(
                "name one step: steps.<id>.output".to_owned(),
            )),
            Node::Ident(name) if VARIABLES.contains(&name.as_str()) => {
                self.variables.insert(name.clone());
                Ok(())
            }
            Node::Ident(name) => Err(InvalidExpression(format!(
                "unknown variable \"{name}\"; there are {}",
                VARIABLES.join(", ")
            ))),
            Node::Comprehension(c) => {
                self.visit(&c.iter_range, bound)?;
                self.visit(&c.accu_init, bound)?;
                let before = bound.len();
                bound.push(c.iter_var.clone());
                bound.extend(c.iter_var2.clone());
                bound.push(c.accu_var.clone());
                for part in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.visit(part, bound)?;
                }
                bound.truncate(before);
                Ok(())
            }
            Node::Struct(literal) => Err(InvalidExpression(format!(
                "unknown type \"{}\"",
                literal.type_name
            ))),
            node => parts(node)
                .into_iter()
                .try_for_each(|part| self.visit(part, bound)),
        }
    }
}

/// The step that `steps.<id>` or `steps["<id>"]` names.
fn step_of(node: &Node) -> Option<&str> {
    let is_steps = |node: &IdedExpr| matches!(&node.expr, Node::Ident(name) if name == "steps");
    match node {
        Node::Select(select) if is_steps(&select.operand) => Some(&select.field),
        Node::Call(call) if call.func_name == operators::INDEX => {
            let [of, Node::Literal(LiteralValue::String(id))] =
                [call.args.first()?, call.args.get(1)?].map(|arg| &arg.expr)
            else {
                return None;
            };
            matches!(of, Node::Ident(name) if name == "steps").then(|| id.inner())
        }
        _ => None,
    }
}

/// A JSON value as CEL has it. Whole numbers are `int`, all others `double`.
fn cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Cel::Int(int),
            (None, Some(float)) => Cel::Float(float),
            (None, None) => Cel::Null,
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(cel).collect())),
        Value::Object(fields) => {
            let map = fields
                .iter()
                .map(|(key, value)| (cel::objects::Key::from(key.clone()), cel(value)));
            Cel::Map(cel::objects::Map {
                map: Arc::new(map.collect()),
            })
        }
    }
}

/// How many bytes may still be written out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left(usize);

impl Default for Left {
    fn default() -> Self {
        Self(WRITTEN_BYTES_MAX)
    }
}

impl Left {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.0.checked_sub(bytes.saturating_add(ELEMENT_BYTES));
        self.0 = left.ok_or_else(|| {
            format!("it is written out to more than {WRITTEN_BYTES_MAX} bytes; do it in an agent")
        })?;
        Ok(())
    }
}

/// The largest whole number that every reader of JSON takes for the same; larger ones are refused wherever they come in.
const EXACT_MAX: u64 = (1 << 53) - 1;

fn json(value: &Cel, left: &mut Left) -> Result<Value, String> {
    left.take(match value {
        Cel::String(text) => text.len(),
        _ => 0,
    })?;
    Ok(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => Value::Bool(*value),
        Cel::Int(int) if int.unsigned_abs() <= EXACT_MAX => Value::from(*int),
        Cel::UInt(int) if *int <= EXACT_MAX => Value::from(*int),
        Cel::Int(_) | Cel::UInt(_) => {
            let text = format!(
                "a whole number is beyond {EXACT_MAX}, up to which JSON carries them exactly; make it a text with string()"
            );
            return Err(text);
        }
        Cel::Float(float) => Number::from_f64(*float)
            .map(Value::Number)
            .ok_or_else(|| format!("{float} is no number that JSON has"))?,
        Cel::String(text) => Value::String(text.to_string()),
        Cel::List(items) => {
            let items = items.iter().map(|item| json(item, left));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Cel::Map(map) => {
            let mut fields = Map::new();
            for (key, value) in map.map.iter() {
                let key = key.to_string();
                left.take(key.len())?;
                fields.insert(key, json(value, left)?);
            }
            Value::Object(fields)
        }
        other => return Err(format!("a {} has no JSON form", other.type_of())),
    })
}

#[cfg(test)]
mod tests;
