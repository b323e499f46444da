//! The simulation of `tests/sim`, over many seeds: a process for each, as many at a time as there are processors.
//!
//! Seeds share nothing, so what one of them breaks shows in its own process and can be had again with one command. When
//! all have passed, every edge of the table must have been taken by some of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mesh_sim::{Outcome, Plan};
use serde_json::{Value, json};

/// Arguments of `sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Faults of each seed
    #[arg(long, default_value_t = 1000)]
    kills: u64,
    /// Only this seed, in this process
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens; with --seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Do not demand that every edge of every machine was taken: for few seeds or few faults
    #[arg(long)]
    partial: bool,
    /// Answer in JSON: how the runs of single seeds talk to the one that started them
    #[arg(long, hide = true, requires = "seed")]
    report: bool,
}

/// How often each edge was taken, by machine and name.
type Taken = BTreeMap<(String, String), u64>;

/// Simulates; false when a promise was broken.
pub(crate) fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    match args.seed {
        Some(seed) => one(args, seed),
        None => many(args),
    }
}

fn print_line(line: &str) {
    // Whoever does not read on need not be told.
    let _nobody_reads = writeln!(std::io::stdout(), "{line}");
}

fn one(args: &Args, seed: u64) -> Result<bool, Box<dyn Error>> {
    let began = Instant::now();
    let outcome = mesh_sim::run(&Plan {
        seed,
        kills: args.kills,
        print: args.trace.then_some(print_line as fn(&str)),
    });
    let mut out = std::io::stdout().lock();
    if args.report {
        writeln!(out, "{}", report(&outcome))?;
        return Ok(outcome.breach.is_none());
    }
    let Outcome {
        breach,
        trace,
        lines,
        steps,
        time,
        lives,
        tasks,
        records,
        edges: _,
    } = &outcome;
    writeln!(
        out,
        "seed {seed}: {} faults, {steps} steps, {} s of virtual time, {lives} lives of meshd, {tasks} tasks, {records} records",
        args.kills,
        time / 1000
    )?;
    say_how_long_it_took(began)?;
    writeln!(out, "trace {trace} ({lines} lines)")?;
    if let Some((breach, at, step)) = breach {
        writeln!(out, "BROKEN at {at} ms, step {step}: {breach}")?;
    }
    Ok(breach.is_none())
}

/// Not with the rest, which is the same for the same seeds to the byte.
fn say_how_long_it_took(began: Instant) -> std::io::Result<()> {
    let took = began.elapsed().as_millis();
    writeln!(std::io::stderr(), "in {took} ms")
}

fn report(outcome: &Outcome) -> Value {
    let edges: Vec<Value> = outcome
        .edges
        .counts()
        .filter(|(.., count)| *count > 0)
        .map(|(machine, edge, count)| json!([machine, edge, count]))
        .collect();
    let breach = outcome
        .breach
        .as_ref()
        .map(|(breach, at, step)| format!("at {at} ms, step {step}: {breach}"));
    json!({
        "breach": breach, "trace": outcome.trace, "steps": outcome.steps, "time": outcome.time,
        "lives": outcome.lives, "tasks": outcome.tasks, "records": outcome.records, "edges": edges,
    })
}

/// What all seeds together came to.
#[derive(Debug, Default)]
struct Sum {
    done: u64,
    steps: u64,
    time: u64,
    lives: u64,
    tasks: u64,
    taken: Taken,
    /// In the order of their seeds: the same traces give the same digest.
    traces: BTreeMap<u64, String>,
    broken: BTreeMap<u64, String>,
}

impl Sum {
    fn add(&mut self, seed: u64, answer: Result<Value, String>) {
        self.done += 1;
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                self.broken.insert(seed, why);
                return;
            }
        };
        let number = |name: &str| answer[name].as_u64().unwrap_or_default();
        self.steps += number("steps");
        self.time += number("time");
        self.lives += number("lives");
        self.tasks += number("tasks");
        if let Some(trace) = answer["trace"].as_str() {
            self.traces.insert(seed, trace.to_owned());
        }
        if let Some(breach) = answer["breach"].as_str() {
            self.broken.insert(seed, breach.to_owned());
        }
        for edge in answer["edges"].as_array().into_iter().flatten() {
            if let (Some(machine), Some(name), Some(count)) =
                (edge[0].as_str(), edge[1].as_str(), edge[2].as_u64())
            {
                let key = (machine.to_owned(), name.to_owned());
                *self.taken.entry(key).or_default() += count;
            }
        }
    }
}

fn many(args: &Args) -> Result<bool, Box<dyn Error>> {
    let began = Instant::now();
    let program = std::env::current_exe()?;
    let (next, upto) = (AtomicU64::new(args.from), args.from + args.seeds);
    let sum = Mutex::new(Sum::default());
    writeln!(
        std::io::stdout(),
        "seeds {} to {}, {} faults each",
        args.from,
        upto.saturating_sub(1),
        args.kills
    )?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= upto {
                        return;
                    }
                    let answer = ask(&program, seed, args.kills);
                    let mut sum = sum
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(seed, answer);
                    tell(&sum, (seed, args), began);
                }
            });
        }
    });
    let sum = sum
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    conclude(&sum, args, began)
}

/// Has a process of its own simulate one seed.
fn ask(program: &std::path::Path, seed: u64, kills: u64) -> Result<Value, String> {
    let (seed, kills) = (seed.to_string(), kills.to_string());
    let ran = Command::new(program)
        .args(["sim", "--report", "--seed", &seed, "--kills", &kills])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it could not be started: {error}"))?;
    serde_json::from_slice(&ran.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&ran.stderr);
        format!("it ended with {} and said: {}", ran.status, said.trim())
    })
}

fn tell(sum: &Sum, (seed, args): (u64, &Args), began: Instant) {
    let mut out = std::io::stdout().lock();
    // Whoever does not read on need not be told.
    let _nobody_reads = if let Some(breach) = sum.broken.get(&seed) {
        let kills = args.kills;
        writeln!(
            out,
            "seed {seed} BROKEN {breach}\n  again: cargo run --release -p mesh-tests -- sim --seed {seed} --kills {kills}\n  (with --trace, everything that happened)"
        )
    } else if sum.done.is_multiple_of(10) || sum.done == args.seeds {
        let (done, seeds, broken) = (sum.done, args.seeds, sum.broken.len());
        let seconds = began.elapsed().as_secs();
        writeln!(
            std::io::stderr(),
            "{done} of {seeds} seeds in {seconds} s, {broken} broken"
        )
    } else {
        Ok(())
    };
}

fn conclude(sum: &Sum, args: &Args, began: Instant) -> Result<bool, Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let missed: Vec<String> = mesh_sim::edges::EDGES
        .iter()
        .flat_map(|(machine, edges)| edges.iter().map(move |edge| (*machine, *edge)))
        .filter(|(machine, edge)| {
            !sum.taken
                .contains_key(&((*machine).to_owned(), (*edge).to_owned()))
        })
        .map(|(machine, edge)| format!("{machine}: {edge}"))
        .collect();
    let edges: usize = mesh_sim::edges::EDGES
        .iter()
        .map(|(_, edges)| edges.len())
        .sum();
    for edge in &missed {
        writeln!(out, "never taken: {edge}")?;
    }
    // How thin the ice is: an edge that few took may be missed by the next change.
    let rarest = sum.taken.iter().min_by_key(|(_, count)| **count);
    if let Some(((machine, edge), count)) = rarest {
        writeln!(out, "taken least, {count} times: {machine}: {edge}")?;
    }
    let traces: Vec<&str> = sum.traces.values().map(String::as_str).collect();
    writeln!(
        out,
        "{} seeds x {} faults: {} steps, {} h of virtual time, {} lives of meshd, {} tasks; {} of {edges} edges taken; {} broken",
        args.seeds,
        args.kills,
        sum.steps,
        sum.time / 3_600_000,
        sum.lives,
        sum.tasks,
        edges - missed.len(),
        sum.broken.len()
    )?;
    say_how_long_it_took(began)?;
    writeln!(out, "traces {}", mesh_sim::digest(&traces.concat()))?;
    Ok(sum.broken.is_empty() && (args.partial || missed.is_empty()))
}
