//! What an agent declares that its capabilities take and give (`profiles` of its manifest), held against its work.

use serde_json::Value;

use mesh_messages::manifest::AgentManifest;
use mesh_messages::schema::Checker;
use mesh_messages::{Failure, FailureClass};

/// Most violations that one failure names.
const VIOLATIONS_NAMED_MAX: usize = 5;

/// The schemas of an agent's profiles, ready for use.
#[derive(Debug, Default)]
pub struct Terms(Vec<Term>);

#[derive(Debug)]
struct Term {
    capability: String,
    input: Option<Checker>,
    output: Option<Checker>,
}

impl Terms {
    /// Those of a manifest. A schema that cannot be used, as registering refuses it, holds nobody to anything.
    pub fn of(manifest: &AgentManifest) -> Self {
        let compiled = |schema: &Option<Value>| Checker::new(schema.clone()?).ok();
        let terms = manifest.profiles.iter().map(|(capability, profile)| Term {
            capability: capability.clone(),
            input: compiled(&profile.input),
            output: compiled(&profile.output),
        });
        Self(terms.filter(Term::says_something).collect())
    }

    /// Whether the agent takes a task with this input, which needs these capabilities.
    ///
    /// # Errors
    /// `declined`, with the capability and where its schema is broken: the task is another agent's, if anybody's.
    pub fn takes(&self, needs: &[String], input: &Value) -> Result<(), Failure> {
        self.hold(needs, input, |term| term.input.as_ref())
            .map_err(|why| {
                let text = format!("the input is not what its profile takes: {why}");
                Failure::new(FailureClass::Declined, text)
            })
    }

    /// Whether the result of such a task is what the agent says it gives.
    ///
    /// # Errors
    /// `contract`, with the capability and where its schema is broken.
    pub fn gives(&self, needs: &[String], output: &Value) -> Result<(), Failure> {
        self.hold(needs, output, |term| term.output.as_ref())
            .map_err(|why| {
                let text = format!("the output is not what its profile gives: {why}");
                Failure::new(FailureClass::Contract, text)
            })
    }

    fn hold(
        &self,
        needs: &[String],
        value: &Value,
        side: impl Fn(&Term) -> Option<&Checker>,
    ) -> Result<(), String> {
        for term in self.0.iter().filter(|it| needs.contains(&it.capability)) {
            let mut wrong = side(term).map_or_else(Vec::new, |checker| checker.check(value));
            if !wrong.is_empty() {
                wrong.truncate(VIOLATIONS_NAMED_MAX);
                let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
                return Err(format!("{}: {}", term.capability, wrong.join("; ")));
            }
        }
        Ok(())
    }
}

impl Term {
    fn says_something(&self) -> bool {
        self.input.is_some() || self.output.is_some()
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::manifest::{ManifestFormat, parse_manifest};
    use serde_json::json;

    use super::*;

    fn terms() -> Terms {
        let number =
            json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
        let manifest = json!({
            "id": "sum", "version": "1.0.0", "capabilities": ["sum", "echo"], "runtime": {"kind": "command", "command": "cat"},
            "profiles": {"sum": {"input": number, "output": {"type": "integer"}}, "echo": {"cost": 1.0}}
        });
        let parsed = parse_manifest(manifest.to_string().as_bytes(), ManifestFormat::Json);
        Terms::of(&parsed.unwrap().manifest)
    }

    #[test]
    fn what_a_profile_does_not_take_is_declined_and_what_it_does_not_give_breaks_the_contract() {
        let (terms, sum, echo) = (terms(), ["sum".to_owned()], ["echo".to_owned()]);
        assert_eq!(terms.takes(&sum, &json!({"n": 1})), Ok(()));
        let declined = terms.takes(&sum, &json!({"n": "x"})).unwrap_err();
        assert_eq!(declined.class, FailureClass::Declined);
        assert!(declined.message.contains("sum: n"), "{declined:?}");
        assert_eq!(terms.gives(&sum, &json!(3)), Ok(()));
        let broken = terms.gives(&sum, &json!("3")).unwrap_err();
        assert_eq!(broken.class, FailureClass::Contract);
        // Only what the task needs is held against it.
        assert_eq!(terms.takes(&echo, &json!("x")), Ok(()));
        let both = [&sum[..], &echo[..]].concat();
        assert!(terms.takes(&both, &json!("x")).is_err());
    }
}
