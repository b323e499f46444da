//! `meshctl chaos`: hurts a running mesh on purpose, and judges from outside whether its promises held.
//!
//! ```text
//!  seed, scope ──► plan (pure) ──► campaign: blows, load, looks ──► rest ──► evidence ──► judge (pure) ──► report
//! ```

mod campaign;
mod collect;
mod coverage;
mod evidence;
mod fleet;
mod judge;
mod load;
mod plan;
mod processes;
mod report;
mod stories;

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_messages::AgentId;
use mesh_messages::chaos::ChaosAction;
use mesh_messages::units::Span;

use self::campaign::Campaign;
use self::evidence::Evidence;
use self::fleet::Scope;
use self::load::{Load, Tasks};
use self::plan::Wish;
use self::report::Report;
use crate::client::Answer;
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

const AFTER_HELP: &str = "\
Needs the admin's token, and chaos.enabled in meshd's configuration. Never touches the root of the tree, nor what the scope
does not name. Exits 0 when every promise that was put to the test held, 1 when one was broken (or nothing was tested),
7 when tasks have not ended yet.

Examples:
  meshctl chaos --all --dry-run --seed 7
  meshctl chaos --agent echo --action kill,pause --every 1s --for 30s --load echo
  meshctl chaos --capability fetch --load 'fetch={\"url\": \"x\"}' --tasks 200
  meshctl chaos --tree orchestrator --tree bus --every 8s --for 60s --json";

/// From one blow to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Duration);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be a number of blows per s, m or h, such as 2/s".to_owned();
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count: f64 = count.parse().map_err(|_| wrong())?;
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        if !(count.is_finite() && count > 0.0) {
            return Err(wrong());
        }
        let every = Duration::try_from_secs_f64(seconds / count).map_err(|_| wrong())?;
        // Faster than that no blow could be answered before the next.
        if every < Duration::from_millis(20) {
            return Err("at most 50/s".to_owned());
        }
        Ok(Self(every))
    }
}

/// Hurt a running fleet on purpose, and judge whether the mesh kept its promises
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Chaos {
    /// How to hurt: kill, pause, hang, leak, garbage, flood; all of them when absent, kill alone for parts of the tree
    #[arg(long, value_name = "ACTION[,ACTION…]", value_delimiter = ',')]
    action: Vec<ChaosAction>,
    /// How often, such as 2/s or 30/m
    #[arg(long, value_name = "N/s", conflicts_with = "every")]
    rate: Option<Rate>,
    /// How often, as the time from one blow to the next
    #[arg(long, value_name = "TIME", default_value = "2s")]
    every: Span,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "60s")]
    time: Span,
    /// The number that decides which blow falls on whom and when; a random one when absent
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// An agent to hurt; may be repeated
    #[arg(long, value_name = "ID")]
    agent: Vec<AgentId>,
    /// Hurt every agent with this capability
    #[arg(long, value_name = "CAPABILITY")]
    capability: Option<String>,
    /// Kill this actor of the supervision tree, such as bus, work/orchestrator or agent:echo; may be repeated
    #[arg(long, value_name = "PATH")]
    tree: Vec<String>,
    /// Hurt every agent
    #[arg(long)]
    all: bool,
    /// How long a pause, a hang or a leak lasts at most
    #[arg(long, value_name = "TIME", default_value = "5s")]
    hold: Span,
    /// Submit tasks for this capability meanwhile, with this input; may be repeated
    #[arg(long, value_name = "CAPABILITY[=JSON]")]
    load: Vec<Load>,
    /// How many tasks to submit, with --load
    #[arg(long, value_name = "N", default_value_t = 50)]
    tasks: u32,
    /// How long to wait afterwards until the fleet is at rest
    #[arg(long, value_name = "TIME", default_value = "90s")]
    settle: Span,
    /// Only show the blows that would fall
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON; the same as -o json
    #[arg(long)]
    json: bool,
}

/// The last part of a path in the tree: names are unique in it.
fn part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Chaos {
    fn every(&self) -> Duration {
        self.rate
            .map_or_else(|| self.every.duration(), |rate| rate.0)
    }

    /// What to do, when it makes sense.
    fn wish(&self, seed: u64, prey: Vec<plan::Prey>) -> Result<Wish, Failure> {
        let parts: Vec<String> = self.tree.iter().map(|path| part(path).to_owned()).collect();
        let actions = if !self.action.is_empty() {
            self.action.clone()
        } else if prey.is_empty() {
            vec![ChaosAction::Kill]
        } else {
            ChaosAction::ALL.to_vec()
        };
        if prey.is_empty() && !actions.contains(&ChaosAction::Kill) {
            return Err(Failure::usage(
                "parts of the tree can only be killed; leave --action out",
            ));
        }
        if self.every().is_zero() {
            return Err(Failure::usage("--every must be longer than nothing"));
        }
        Ok(Wish {
            seed,
            actions,
            agents: prey,
            parts,
            every: self.every(),
            time: self.time.duration(),
            hold: self.hold.duration(),
        })
    }

    /// The command that does the same again.
    fn again(&self, seed: u64) -> String {
        let mut words = vec![format!("meshctl chaos --seed {seed}")];
        if !self.action.is_empty() {
            let names: Vec<_> = self.action.iter().map(|action| action.name()).collect();
            words.push(format!("--action {}", names.join(",")));
        }
        words.push(format!("--every {}ms", self.every().as_millis()));
        words.push(format!(
            "--for {} --hold {} --settle {}",
            self.time, self.hold, self.settle
        ));
        words.extend(self.agent.iter().map(|agent| format!("--agent {agent}")));
        words.extend(
            self.capability
                .iter()
                .map(|name| format!("--capability {}", quoted(name))),
        );
        words.extend(
            self.tree
                .iter()
                .map(|path| format!("--tree {}", quoted(path))),
        );
        if self.all {
            words.push("--all".to_owned());
        }
        for Load { capability, input } in &self.load {
            words.push(format!(
                "--load {}",
                quoted(&format!("{capability}={input}"))
            ));
        }
        if !self.load.is_empty() {
            words.push(format!("--tasks {}", self.tasks));
        }
        words.join(" ")
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A number that fits JSON.
fn random_seed() -> Result<u64, Failure> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(
            Exit::Bug,
            format!("the system gives no randomness: {error}"),
        )
    })?;
    Ok(u64::from(u32::from_le_bytes(bytes)))
}

/// `meshctl chaos`.
pub(super) fn run(arguments: &Chaos, session: &mut Session) -> Result<(), Failure> {
    let scope = Scope {
        agents: &arguments.agent,
        capability: arguments.capability.as_deref(),
        all: arguments.all,
        parts: !arguments.tree.is_empty(),
    };
    if scope.agents.is_empty()
        && scope.capability.is_none()
        && !scope.all
        && arguments.tree.is_empty()
    {
        return Err(Failure::usage("say whom to hurt")
            .hint("--agent ID, --capability CAPABILITY, --tree PATH or --all"));
    }
    let seed = arguments.seed.map_or_else(random_seed, Ok)?;
    let again = arguments.again(seed);
    let fleet = fleet::find(&scope, session)?;
    let wish = arguments.wish(seed, fleet.prey.clone())?;
    let strokes = plan::plan(&wish);
    if arguments.dry_run {
        let (value, screen) = report::planned(&strokes, &again);
        return show(arguments, &value, screen, session);
    }
    let start = fleet::start(&fleet, session)?;
    let settle = arguments.settle.duration();
    let mut tasks = Tasks::new(
        &arguments.load,
        arguments.tasks,
        wish.time,
        settle,
        &format!("{seed}-{:x}", random_seed()?),
    );
    session.out.note(&format!("seed {seed}; again: {again}"));
    let mut campaign = Campaign::begin(start.at, &fleet, session);
    campaign.run(strokes, &mut tasks, wish.time)?;

    // Whatever was acknowledged until now has to end.
    let mut owed = start.tasks.clone();
    owed.extend(collect::submitted(&collect::audit(
        start.from,
        campaign.session,
    )?));
    owed.extend(tasks.acknowledged);
    let waited: BTreeSet<_> = owed.keys().cloned().collect();
    let unsettled = campaign.rest(waited, settle)?;
    let watched = collect::watched(&owed, campaign.session)?;
    let running = campaign.running()?;
    campaign.answers.after = Some(campaign.alive());
    let is_running = |agent: &AgentId, epoch| running.contains(&(agent.clone(), epoch));
    let evidence = Evidence {
        scope: fleet.prey.iter().map(|prey| prey.agent.clone()).collect(),
        parts: wish.parts.iter().cloned().collect(),
        ended: campaign.now(),
        facts: collect::audit(start.from, campaign.session)?,
        tasks: watched,
        processes: campaign.trees.left(is_running),
        log: collect::log(&start, campaign.session),
        dealt: std::mem::take(&mut campaign.dealt),
        answers: std::mem::take(&mut campaign.answers),
        agents: start.agents,
        unsettled,
    };
    let findings = judge::judge(&evidence);
    let seen = coverage::coverage(&evidence);
    let report = Report {
        seed,
        again: &again,
        evidence: &evidence,
        findings: &findings,
        seen: &seen,
    };
    show(arguments, &report.json(), report.screen(), session)?;
    match report::exit(&findings) {
        Exit::Ok => Ok(()),
        // The report has told why.
        bad => Err(Failure::silent(bad)),
    }
}

fn show(
    arguments: &Chaos,
    value: &serde_json::Value,
    screen: Screen,
    session: &mut Session,
) -> Result<(), Failure> {
    if arguments.json {
        return session.out.value(value);
    }
    session.out.show(&Answer::from_value(value), || Ok(screen))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        chaos: Chaos,
    }

    fn parse(line: &[&str]) -> Chaos {
        let words = std::iter::once("meshctl").chain(line.iter().copied());
        Line::try_parse_from(words).unwrap().chaos
    }

    #[test]
    fn a_rate_is_the_time_from_one_blow_to_the_next() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.0);
        assert_eq!(rate("2/s"), Ok(Duration::from_millis(500)));
        assert_eq!(rate("30/m"), Ok(Duration::from_secs(2)));
        assert_eq!(rate("0.5/s"), Ok(Duration::from_secs(2)));
        for wrong in ["2", "0/s", "-1/s", "x/s", "2/d", "51/s", "nan/s", "inf/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_that_repeats_a_run_says_all_that_it_depends_on() {
        let line = [
            "--agent",
            "echo",
            "--rate",
            "4/s",
            "--for",
            "10s",
            "--action",
            "kill,flood",
            "--tree",
            "work/bus",
            "--load",
            r#"echo={"a": 1}"#,
            "--tasks",
            "9",
        ];
        let again = parse(&line).again(7);
        assert_eq!(
            again,
            "meshctl chaos --seed 7 --action kill,flood --every 250ms --for 10s --hold 5s --settle 90s \
             --agent echo --tree work/bus --load 'echo={\"a\":1}' --tasks 9"
        );
    }

    #[test]
    fn parts_of_the_tree_are_killed_and_agents_hurt_in_every_way_unless_told_otherwise() {
        let prey = || {
            vec![plan::Prey {
                agent: AgentId::new("echo").unwrap(),
                replicas: 1,
            }]
        };
        let wish = |line: &[&str], prey| parse(line).wish(1, prey);
        assert_eq!(wish(&["--all"], prey()).unwrap().actions, ChaosAction::ALL);
        let tree = wish(&["--tree", "mesh/work/bus"], Vec::new()).unwrap();
        assert_eq!(
            (tree.actions, tree.parts),
            (vec![ChaosAction::Kill], vec!["bus".to_owned()])
        );
        let refused = wish(&["--tree", "bus", "--action", "pause"], Vec::new()).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert_eq!(
            wish(&["--all", "--every", "0s"], prey()).unwrap_err().exit,
            Exit::Usage
        );
    }
}
