//! A file of definitions.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ServiceDefinition;
use crate::json;
use crate::schema::{Checker, FieldError};

/// What a file of definitions holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    /// The services.
    pub services: Vec<ServiceDefinition>,
}

impl ServiceFile {
    /// Reads one, YAML or JSON.
    ///
    /// # Errors
    /// All that is wrong, each with its path; as far as can be told without the configuration.
    pub fn read(text: &str) -> Result<Self, Vec<FieldError>> {
        let one = |why: String| vec![FieldError::new("", why)];
        let value = json::parse_yaml(text.as_bytes()).map_err(|error| one(error.to_string()))?;
        let checker = Checker::of::<Self>().map_err(|error| one(error.to_string()))?;
        let errors = checker.check(&value);
        if !errors.is_empty() {
            return Err(errors);
        }
        let file: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            vec![FieldError::new(
                error.path().to_string(),
                error.inner().to_string(),
            )]
        })?;
        let mut seen = BTreeSet::new();
        let mut errors = Vec::new();
        for (index, service) in file.services.iter().enumerate() {
            let at = format!("services[{index}]");
            if !seen.insert(&service.id) {
                errors.push(FieldError::new(format!("{at}.id"), "is there twice"));
            }
            let own = service.errors().into_iter();
            errors.extend(
                own.map(|error| FieldError::new(format!("{at}.{}", error.path), error.message)),
            );
        }
        if errors.is_empty() {
            Ok(file)
        } else {
            Err(errors)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let errors = ServiceFile::read(text).unwrap_err();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn a_file_is_read_whole_or_refused_with_all_that_is_wrong() {
        let good =
            "services:\n- {id: a, name: A, type: llm, endpoints: [{name: x, url: 'https://a'}]}\n";
        assert_eq!(ServiceFile::read(good).unwrap().services.len(), 1);
        assert_eq!(
            ServiceFile::read("services: []").unwrap(),
            ServiceFile::default()
        );
        let twice = format!("{good}- {{id: a, name: ' ', type: llm, endpoints: []}}\n");
        assert_eq!(
            paths(&twice),
            [
                "services[1].id",
                "services[1].name",
                "services[1].endpoints"
            ]
        );
        assert_eq!(
            paths("services:\n- {id: a, name: A, type: magic, endpoints: []}\n"),
            ["services[0].type"]
        );
        assert!(!paths("nonsense: 1").is_empty() && !paths("[").is_empty());
    }
}
