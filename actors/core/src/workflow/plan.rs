//! A document as it runs: expressions read, names resolved, waits known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_messages::json;
use mesh_messages::schema::FieldError;
use mesh_messages::task::TaskSpec;
use mesh_messages::team::TeamOrder;
use mesh_messages::workflow::{
    Approval, Compensation, OnError, ServiceTarget, StepKind, SubWorkflow, WorkflowDocument,
    WorkflowStep,
};
use serde_json::Value;

use super::expr::{Expression, Kind, Known, of_schema};
use super::template::{Template, Wrong};

/// A document, ready to run.
#[derive(Debug)]
pub struct Plan {
    pub(crate) document: Arc<WorkflowDocument>,
    pub(crate) digest: String,
    pub(crate) steps: Vec<StepPlan>,
    pub(crate) by_id: BTreeMap<String, usize>,
    pub(crate) output: Option<Template>,
    /// Steps in all, those of the workflows in it included.
    pub(crate) size: usize,
}

/// A step, ready to run.
#[derive(Debug)]
pub(crate) struct StepPlan {
    pub(crate) id: String,
    /// The steps it waits for, by number.
    pub(crate) deps: Vec<usize>,
    pub(crate) when: Option<Template>,
    pub(crate) each: Option<Template>,
    /// Most rounds, and what ends them earlier.
    pub(crate) repeat: Option<(u32, Option<Template>)>,
    pub(crate) input: Template,
    /// The list of what its tasks claim.
    pub(crate) claims: Option<Template>,
    pub(crate) work: Work,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) on_error: OnError,
    pub(crate) undo: Option<Undo>,
}

/// What a step is made of.
#[derive(Debug)]
pub(crate) enum Work {
    /// A task for an agent or a person; its input comes with each unit.
    Task(Box<TaskSpec>),
    Service(ServiceTarget),
    Run(Arc<Plan>),
    /// A run, too, whose plan is drafted when the step begins.
    Team(Box<TeamOrder>),
}

/// What takes a step back.
#[derive(Debug)]
pub(crate) struct Undo {
    /// The step's output when absent.
    pub(crate) input: Option<Template>,
    pub(crate) claims: Option<Template>,
    pub(crate) work: Work,
    pub(crate) timeout_ms: Option<u64>,
}

impl StepPlan {
    pub(crate) fn kind(&self) -> StepKind {
        match &self.work {
            Work::Task(spec) if spec.approval.is_some() => StepKind::Approval,
            Work::Task(_) => StepKind::Task,
            Work::Service(_) => StepKind::Service,
            Work::Run(_) => StepKind::Workflow,
            Work::Team(_) => StepKind::Team,
        }
    }
}

/// Digest of a document: the same text for the same content.
///
/// # Panics
/// Never: a document has text for keys.
pub fn digest_of(document: &WorkflowDocument) -> String {
    let value = serde_json::to_value(document).expect("a document has string keys only");
    let digest = blake3::hash(&json::canonical(&value));
    format!("blake3:{}", digest.to_hex())
}

impl Plan {
    /// Makes a plan of a document, and says what is wrong with its expressions and waits.
    ///
    /// A document that was accepted once always has a plan; what it lacks shows when it is needed. Named workflows have
    /// to be written out.
    pub(crate) fn make(document: Arc<WorkflowDocument>, errors: &mut Vec<FieldError>) -> Self {
        let digest = digest_of(&document);
        let ids: BTreeSet<&str> = document.steps.iter().map(|step| step.id.as_str()).collect();
        let mut by_id: BTreeMap<String, usize> = BTreeMap::new();
        for (index, step) in document.steps.iter().enumerate() {
            // Of two steps of one id, which is refused, the first one is meant.
            by_id.entry(step.id.clone()).or_insert(index);
        }
        let outputs = outputs(&document);
        let schemas = schemas(&document);
        let known = Known {
            outputs: &outputs,
            schemas: &schemas,
            one_of: None,
        };
        let mut size = document.steps.len();
        let mut steps = Vec::with_capacity(size);
        for (index, step) in document.steps.iter().enumerate() {
            let mut maker = Maker {
                ids: &ids,
                by_id: &by_id,
                known,
                path: format!("steps[{index}]"),
                errors,
            };
            let plan = maker.step(step);
            if let Work::Run(inner) = &plan.work {
                size += inner.size;
            }
            steps.push(plan);
        }
        let output = document.output.as_ref().map(|output| {
            let mut wrong = Vec::new();
            let template = Template::read(output, &ids, "", &mut wrong);
            let mut maker = Maker {
                ids: &ids,
                by_id: &by_id,
                known,
                path: "output".to_owned(),
                errors,
            };
            maker.told("", wrong);
            let allowed = Allowed::default();
            maker.names("", &template, &allowed);
            template
        });
        Self {
            document,
            digest,
            steps,
            by_id,
            output,
            size,
        }
    }

    /// The document as it is drawn: each step comes after all that it waits for, also those that its expressions name.
    pub fn drawn(&self) -> WorkflowDocument {
        let mut document = self.document().clone();
        for (step, plan) in document.steps.iter_mut().zip(&self.steps) {
            let ids = plan.deps.iter().filter_map(|dep| self.steps.get(*dep));
            step.after = ids.map(|before| before.id.clone()).collect();
        }
        document
    }

    /// Its document, named workflows written out.
    pub fn document(&self) -> &WorkflowDocument {
        &self.document
    }

    /// Steps in all, those of the workflows in it included.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The steps that no other one waits for.
    pub(crate) fn last_steps(&self) -> impl Iterator<Item = (usize, &StepPlan)> {
        let followed: BTreeSet<usize> = self
            .steps
            .iter()
            .flat_map(|step| step.deps.iter().copied())
            .collect();
        self.steps
            .iter()
            .enumerate()
            .filter(move |(index, _)| !followed.contains(index))
    }
}

/// What is known of what steps make, before they make it.
fn outputs(document: &WorkflowDocument) -> BTreeMap<&str, Kind> {
    let of = |step: &WorkflowStep| {
        if step.for_each.is_some() {
            return Some(Kind::List);
        }
        if step.approval.is_some() {
            return Some(Kind::Map);
        }
        of_schema(step.contract.as_ref()?.output_schema.as_ref()?)
    };
    let steps = document.steps.iter();
    steps
        .filter_map(|step| Some((step.id.as_str(), of(step)?)))
        .collect()
}

/// The schemas that outputs satisfy as a whole.
fn schemas(document: &WorkflowDocument) -> BTreeMap<&str, &Value> {
    let steps = document.steps.iter();
    let whole = steps.filter(|step| step.for_each.is_none() && step.approval.is_none());
    whole
        .filter_map(|step| {
            let schema = step.contract.as_ref()?.output_schema.as_ref()?;
            Some((step.id.as_str(), schema))
        })
        .collect()
}

/// What an expression may name beside `input` and other steps.
#[derive(Debug, Default, Clone, Copy)]
struct Allowed<'a> {
    own: Option<&'a str>,
    item: bool,
    round: bool,
}

/// Makes the plan of one step.
struct Maker<'a> {
    ids: &'a BTreeSet<&'a str>,
    by_id: &'a BTreeMap<String, usize>,
    known: Known<'a>,
    path: String,
    errors: &'a mut Vec<FieldError>,
}

impl<'a> Maker<'a> {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        let dot = if field.is_empty() || field.starts_with('[') {
            ""
        } else {
            "."
        };
        let path = format!("{}{dot}{field}", self.path);
        self.errors.push(FieldError::new(path, message));
    }

    fn told(&mut self, field: &str, wrong: Vec<Wrong>) {
        for (path, error) in wrong {
            let below = path.strip_prefix('.').unwrap_or(&path);
            let joined = if field.is_empty() {
                below.to_owned()
            } else {
                format!("{field}{path}")
            };
            self.add(&joined, error.to_string());
        }
    }

    fn template(&mut self, field: &str, value: &Value, allowed: &Allowed<'_>) -> Template {
        let mut wrong = Vec::new();
        let template = Template::read(value, self.ids, "", &mut wrong);
        self.told(field, wrong);
        self.names(field, &template, allowed);
        template
    }

    fn typed(&mut self, field: &str, value: &Value, allowed: &Allowed<'_>, kind: Kind) -> Template {
        let mut wrong = Vec::new();
        let template = Template::bare(value, self.ids, "", &mut wrong);
        self.told(field, wrong);
        if let Some(found) = template
            .kind_within(self.known)
            .filter(|found| *found != kind)
        {
            let message = format!(
                "type mismatch: must be a {}, not a {}",
                kind.name(),
                found.name()
            );
            self.add(field, message);
        }
        self.names(field, &template, allowed);
        template
    }

    /// Says what an expression names that is not there.
    fn names(&mut self, field: &str, template: &Template, allowed: &Allowed<'_>) {
        let mut expressions = Vec::new();
        template.expressions(&mut expressions);
        for expression in expressions {
            if let Err(why) = expression.kind_within(self.known) {
                self.add(field, format!("{why} in ${{{}}}", expression.text()));
            }
            for step in expression.steps() {
                if !self.ids.contains(step.as_str()) {
                    let message = format!("unknown step \"{step}\" in ${{{}}}", expression.text());
                    self.add(field, message);
                }
            }
            let under = [
                ("item", allowed.item),
                ("index", allowed.item),
                ("round", allowed.round),
            ];
            for (name, known) in under {
                if expression.names(name) && !known {
                    let place = if name == "round" { "repeat" } else { "forEach" };
                    self.add(field, format!("{name} is known under {place} only"));
                }
            }
            if let Some(own) = allowed.own.filter(|own| expression.steps().contains(*own)) {
                let message = format!("step \"{own}\" cannot use its own output here");
                self.add(field, message);
            }
        }
    }

    fn step(&mut self, step: &'a WorkflowStep) -> StepPlan {
        let own = Some(step.id.as_str());
        let (each, repeats) = (step.for_each.is_some(), step.repeat.is_some());
        let before = Allowed {
            own,
            item: false,
            round: false,
        };
        // A round sees what the one before it made.
        let inside = Allowed {
            own: own.filter(|_| !repeats),
            item: each,
            round: repeats,
        };
        let after = Allowed {
            own: None,
            item: each,
            round: repeats,
        };
        let when = step
            .when
            .as_ref()
            .map(|v| self.typed("when", v, &before, Kind::Bool));
        let items = step
            .for_each
            .as_ref()
            .map(|v| self.typed("forEach", v, &before, Kind::List));
        let input = step
            .input
            .as_ref()
            .map_or(Template::Constant(Value::Null), |value| {
                self.template("input", value, &inside)
            });
        let claims = (!step.claims.is_empty()).then(|| {
            let claims = serde_json::to_value(&step.claims).unwrap_or_default();
            self.template("claims", &claims, &inside)
        });
        let repeat = step.repeat.as_ref().map(|repeat| {
            let until = repeat.until.as_ref();
            let until = until.map(|v| self.typed("repeat.until", v, &after, Kind::Bool));
            (repeat.max, until)
        });
        // It sees what its own item made, and not the list.
        self.known.one_of = own.filter(|_| each);
        let undo = step.compensate.as_ref().map(|undo| self.undo(undo, &after));
        self.known.one_of = None;
        let deps = self.deps(
            step,
            [when.as_ref(), items.as_ref(), Some(&input), claims.as_ref()],
            repeat.as_ref(),
        );
        StepPlan {
            id: step.id.clone(),
            deps,
            when,
            each: items,
            repeat,
            input,
            claims,
            work: self.work(step),
            timeout_ms: step.timeout_ms,
            on_error: step.on_error,
            undo,
        }
    }

    fn work(&mut self, step: &WorkflowStep) -> Work {
        if let Some(service) = &step.service {
            return Work::Service(service.target());
        }
        if let Some(SubWorkflow::Inline(document)) = &step.workflow {
            let mut inner = Vec::new();
            let plan = Plan::make(Arc::new((**document).clone()), &mut inner);
            for error in inner {
                self.add(&format!("workflow.{}", error.path), error.message);
            }
            return Work::Run(Arc::new(plan));
        }
        if let Some(team) = &step.team {
            return Work::Team(Box::new(team.clone()));
        }
        let approval = step.approval.as_ref().map(Approval::spec);
        Work::Task(Box::new(TaskSpec {
            kind: step.kind.clone(),
            requirements: step.requirements.clone(),
            agent: step.agent.clone(),
            prefer: step.prefer.clone(),
            priority: step.priority,
            timeout_ms: step.timeout_ms.filter(|_| approval.is_none()),
            retry: step.retry.clone(),
            contract: step.contract.clone(),
            escalate: step.escalate.clone(),
            trust: step.trust,
            approval,
            ..TaskSpec::default()
        }))
    }

    fn undo(&mut self, undo: &Compensation, allowed: &Allowed<'_>) -> Undo {
        let input = undo.input.as_ref();
        let input = input.map(|value| self.template("compensate.input", value, allowed));
        let claims = (!undo.claims.is_empty()).then(|| {
            let claims = serde_json::to_value(&undo.claims).unwrap_or_default();
            self.template("compensate.claims", &claims, allowed)
        });
        let work = match &undo.service {
            Some(service) => Work::Service(service.target()),
            None => Work::Task(Box::new(TaskSpec {
                kind: undo.kind.clone(),
                requirements: undo.requirements.clone(),
                timeout_ms: undo.timeout_ms,
                trust: undo.trust,
                ..TaskSpec::default()
            })),
        };
        Undo {
            input,
            claims,
            work,
            timeout_ms: undo.timeout_ms,
        }
    }

    /// What it waits for: `after`, and whatever its expressions name.
    fn deps(
        &mut self,
        step: &WorkflowStep,
        templates: [Option<&Template>; 4],
        repeat: Option<&(u32, Option<Template>)>,
    ) -> Vec<usize> {
        let mut deps = BTreeSet::new();
        for (nth, id) in step.after.iter().enumerate() {
            match self.by_id.get(id) {
                Some(index) => {
                    deps.insert(*index);
                }
                None => self.add(&format!("after[{nth}]"), format!("unknown step \"{id}\"")),
            }
        }
        let mut expressions: Vec<&Expression> = Vec::new();
        let until = repeat.and_then(|(_, until)| until.as_ref());
        for template in templates.into_iter().flatten().chain(until) {
            template.expressions(&mut expressions);
        }
        let named = expressions.iter().flat_map(|expression| expression.steps());
        let others = named.filter(|id| **id != step.id);
        deps.extend(others.filter_map(|id| self.by_id.get(id)));
        deps.into_iter().collect()
    }
}
