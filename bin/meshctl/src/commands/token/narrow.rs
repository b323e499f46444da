//! Narrowing tokens and reading them, without a daemon.

use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use clap::Args;
use mesh_messages::Timestamp;
use mesh_messages::access::AccessVerb;
use mesh_messages::capability::{CAPABILITY_BYTES_MAX, Capability, CapabilityError, Limits};
use mesh_messages::identity::DidKey;
use mesh_messages::units::Span;
use serde_json::json;
use zeroize::Zeroizing;

use crate::client::Answer;
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

/// What is taken away.
#[derive(Debug, Args)]
pub(crate) struct Narrow {
    /// The token, @FILE, or - for standard input
    token: String,
    /// Only this may be done; may be given several times
    #[arg(long = "verb", value_name = "VERB")]
    verbs: Vec<AccessVerb>,
    /// Only tasks of this type; * at the end stands for all that begin like it
    #[arg(long = "task-type", value_name = "TYPE")]
    task_types: Vec<String>,
    /// Only tasks all of whose requirements are named so
    #[arg(long = "requires", value_name = "CAPABILITY")]
    requirements: Vec<String>,
    /// Only tasks for this agent by name, and only control of it
    #[arg(long = "agent", value_name = "ID")]
    agents: Vec<String>,
    /// Only for so long
    #[arg(long, value_name = "TIME")]
    ttl: Option<Span>,
    /// How often what it starts may be handed on from agent to agent
    #[arg(long, value_name = "N")]
    hops: Option<u8>,
}

/// What is read.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The token, @FILE, or - for standard input
    pub(super) token: String,
    /// The node that must have issued it; the one that it names itself when absent
    #[arg(long, value_name = "DID")]
    pub(super) node: Option<DidKey>,
}

impl Narrow {
    fn limits(&self) -> Limits {
        fn named<T: Clone>(names: &[T]) -> Option<Vec<T>> {
            (!names.is_empty()).then(|| names.to_vec())
        }
        Limits {
            verbs: named(&self.verbs),
            task_types: named(&self.task_types),
            requirements: named(&self.requirements),
            agents: named(&self.agents),
            expires: self.ttl.map(|ttl| now().plus(ttl.duration())),
            hops: self.hops,
        }
    }
}

/// Prints the narrowed token.
pub(super) fn narrow(order: &Narrow, session: &mut Session) -> Result<(), Failure> {
    let limits = order.limits();
    if limits.is_empty() {
        let text = "name what is to be taken away: --verb, --task-type, --requires, --agent, --ttl or --hops";
        return Err(Failure::new(Exit::Failed, text));
    }
    let token = read(&order.token)?;
    let mut next = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *next).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("the system gives no randomness: {error}"),
        )
    })?;
    let narrowed = token.narrow(&limits, &next).map_err(unfit)?;
    let text = narrowed.text();
    let answer = Answer::from_value(&json!({"token": &*text, "limits": limits}));
    session
        .out
        .show(&answer, || Ok(Screen::new().line(&*text).named([&*text])))
}

/// Shows what a token says.
pub(super) fn inspect(
    token: &str,
    node: Option<&DidKey>,
    session: &mut Session,
) -> Result<(), Failure> {
    let token = read(token)?;
    let claimed = token.claimed_mesh();
    let mesh = node.or(claimed.as_ref());
    let mesh = mesh.ok_or_else(|| Failure::new(Exit::Failed, "the token names no node"))?;
    let proven = token.verify(mesh).map_err(unfit)?;
    if node.is_none() {
        session.out.note(&format!(
            "the signatures lead to {mesh}, which the token names itself; --node compares it"
        ));
    }
    let answer = Answer::from_value(&json!({
        "id": proven.root.id,
        "mesh": proven.root.mesh,
        "role": proven.root.role,
        "subject": proven.root.subject,
        "expires": proven.root.expires,
        "narrowed": proven.narrowed,
    }));
    session.out.show(&answer, || {
        let root = &proven.root;
        let until = root
            .expires
            .map_or_else(|| "for good".to_owned(), |end| format!("until {end}"));
        let mut screen = Screen::new().line(format!(
            "{}  {} {}, {until}",
            root.id,
            root.role.name(),
            root.subject
        ));
        for block in &proven.narrowed {
            let limits = serde_json::to_string(&block.limits).unwrap_or_default();
            screen = screen.line(format!("{}  {limits}", block.id));
        }
        Ok(screen.named([root.id.as_str()]))
    })
}

/// Reads a token from where the argument says.
fn read(argument: &str) -> Result<Capability, Failure> {
    let limit = CAPABILITY_BYTES_MAX as u64 + 2;
    let mut text = Zeroizing::new(String::new());
    let done = match argument.strip_prefix('@') {
        Some(path) => std::fs::File::open(Path::new(path))
            .and_then(|file| file.take(limit).read_to_string(&mut text)),
        None if argument == "-" => std::io::stdin().take(limit).read_to_string(&mut text),
        None => {
            text.push_str(argument);
            Ok(0)
        }
    };
    done.map_err(|error| Failure::new(Exit::Failed, format!("{argument}: {error}")))?;
    Capability::read(text.trim()).map_err(unfit)
}

fn unfit(error: CapabilityError) -> Failure {
    Failure::new(Exit::Failed, format!("the token {error}"))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::from_millis(since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }))
}
