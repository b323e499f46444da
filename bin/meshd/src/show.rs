//! `meshd config` and `meshd schema`: what can be said without running anything.

use std::io::{self, Write};

use mesh_actors_core::workflow::document_schema;
use mesh_config::{Config, Origins, Sources, config_schema};
use mesh_messages::klp::klp_schema;
use mesh_messages::manifest::manifest_schema;
use mesh_messages::task::TaskSpec;
use serde_json::Value;

use crate::cli::{ConfigArgs, RunArgs, SchemaOf};
use crate::exit::{Exit, Failure};
use crate::settings;

/// Joins file, environment and flags.
///
/// # Errors
/// A failure of [`Exit::Config`] that names everything that is wrong.
pub(crate) fn load(args: &RunArgs) -> Result<(Config, Origins), Failure> {
    let sources = args
        .sources()
        .map_err(|error| Failure::new(Exit::Config, error))?;
    checked(&sources).map_err(|error| Failure::new(Exit::Config, error))
}

/// What the sources say, if a mesh can run with it.
fn checked(sources: &Sources) -> anyhow::Result<(Config, Origins)> {
    let (config, origins) = Config::load(sources)
        .map_err(|errors| anyhow::anyhow!("the configuration is not valid\n{errors}"))?;
    settings::check(&config)?;
    // Whoever names a directory of agents does not want to run without them.
    if let Some(dir) = &config.agents
        && let Err(error) = std::fs::read_dir(dir)
    {
        let origin = origins
            .get("agents")
            .map(|entry| format!(" ({})", entry.origin))
            .unwrap_or_default();
        anyhow::bail!(
            "agents: cannot read the directory {}: {error}{origin}",
            dir.display()
        );
    }
    Ok((config, origins))
}

/// `meshd config`.
///
/// # Errors
/// See [`load`].
pub(crate) fn config(args: &ConfigArgs) -> Result<Exit, Failure> {
    let (config, origins) = load(&args.run)?;
    if args.check && !args.origin {
        return Ok(Exit::Ok);
    }
    let text = if args.origin {
        origins.to_string()
    } else {
        serde_saphyr::to_string(&config).map_err(|error| Failure::new(Exit::Escalated, error))?
    };
    print(&mut io::stdout(), &text)
}

/// `meshd schema`.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn schema(of: SchemaOf) -> Result<Exit, Failure> {
    let task;
    let schema: &Value = match of {
        SchemaOf::Manifest => manifest_schema(),
        SchemaOf::Klp => klp_schema(),
        SchemaOf::Config => config_schema(),
        SchemaOf::Workflow => document_schema(),
        SchemaOf::Task => {
            task = schemars::schema_for!(TaskSpec).to_value();
            &task
        }
    };
    print(&mut io::stdout(), &format!("{schema:#}\n"))
}

fn print(to: &mut dyn Write, text: &str) -> Result<Exit, Failure> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
        Ok(()) => Ok(Exit::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_agents_that_is_not_there_is_bad_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let flag = |agents: &str| {
            let named = dir.path().join(agents).to_string_lossy().into_owned();
            Sources::default().with_flag("--agents", "agents", named)
        };
        let text = checked(&flag("nowhere")).unwrap_err().to_string();
        assert!(
            text.contains("nowhere") && text.contains("flag:--agents"),
            "{text}"
        );
        checked(&flag(".")).unwrap();
    }

    #[test]
    fn what_manifests_may_name_is_what_this_binary_brings() {
        assert_eq!(mesh_messages::manifest::BUILTINS, crate::builtin::NAMES);
    }

    #[test]
    fn the_printed_configuration_loads_as_the_same() {
        let config = Config::default();
        let text = serde_saphyr::to_string(&config).unwrap();
        let sources = Sources {
            file: Some(("printed.yaml".into(), text.into_bytes())),
            ..Sources::default()
        };
        assert_eq!(Config::load(&sources).unwrap().0, config);
    }
}
