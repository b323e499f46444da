//! Planted bugs: each is put into a copy of the sources, and the tests of its crate have to fail.
//!
//! A test suite that passes says little unless it would have failed. The list is in [`planted`]; each entry is a mistake
//! that somebody could make, as an edit of one place. The copy lies under `target/mutants`, so nothing of the working
//! tree is touched, and keeps its build, so that a run costs one crate's rebuild per bug.

mod planted;
mod tree;

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Write as _;
use std::time::{Duration, Instant};

use planted::{MUTANTS, Mutant};
use tree::{Outcome, Tree};

/// A mutant that makes the tests run for longer than this is caught, too: nobody would let it pass.
const TIME_MAX: Duration = Duration::from_mins(10);

/// Arguments of `mutants`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those whose name contains this
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print the list, and plant nothing
    #[arg(long)]
    list: bool,
}

/// Plants them one after the other; false when one of them was not caught.
pub(crate) fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let wanted = |mutant: &&Mutant| {
        let name = args.name.as_deref().unwrap_or_default();
        mutant.name.contains(name)
    };
    let chosen: Vec<&Mutant> = MUTANTS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        return Err("no planted bug has such a name; --list shows them".into());
    }
    let mut out = std::io::stdout().lock();
    if args.list {
        for mutant in chosen {
            writeln!(
                out,
                "{:<28} {:<24} {}",
                mutant.name, mutant.package, mutant.bug
            )?;
        }
        return Ok(true);
    }

    let tree = Tree::copy()?;
    let packages: BTreeSet<&str> = chosen.iter().map(|mutant| mutant.package).collect();
    for package in packages {
        writeln!(out, "{package}: its tests, with nothing planted")?;
        match tree.test(package, TIME_MAX)? {
            Outcome::Passed => {}
            Outcome::Caught { by } => {
                return Err(format!("{package} fails as it is: {by}").into());
            }
            Outcome::DoesNotBuild { why } => {
                return Err(format!("{package} does not build:\n{why}").into());
            }
        }
    }

    let mut escaped = Vec::new();
    for mutant in &chosen {
        let began = Instant::now();
        let planted = tree.plant(mutant)?;
        let outcome = tree.test(mutant.package, TIME_MAX);
        planted.remove()?;
        let took = began.elapsed().as_secs();
        match outcome? {
            Outcome::Caught { by } => {
                writeln!(out, "caught   {:<28} {took:>4} s  by {by}", mutant.name)?;
            }
            Outcome::Passed => {
                writeln!(
                    out,
                    "ESCAPED  {:<28} {took:>4} s  {}",
                    mutant.name, mutant.bug
                )?;
                escaped.push(mutant.name);
            }
            // A bug that the compiler refuses proves nothing about the tests.
            Outcome::DoesNotBuild { why } => {
                return Err(format!("{} does not build:\n{why}", mutant.name).into());
            }
        }
    }
    let caught = chosen.len() - escaped.len();
    writeln!(
        out,
        "\n{caught} of {} planted bugs were caught",
        chosen.len()
    )?;
    for name in &escaped {
        writeln!(out, "again: cargo run -p mesh-tests -- mutants {name}")?;
    }
    Ok(escaped.is_empty())
}
