//! `meshctl`, the client of meshd.
//!
//! `cli` says what can be typed, `commands` does it, `client` speaks HTTP, `output` prints, `exit` ends. It decides
//! nothing about agents or tasks; all of that is meshd's.

mod bundle;
mod cli;
mod client;
mod commands;
mod endpoint;
mod exit;
mod input;
mod output;
mod session;
mod tls;
mod watch;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::endpoint::Environment;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Style};
use crate::session::Session;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2; so do --help and --version, with 0.
    let Cli { globals, command } = Cli::parse();
    let env = Environment::read();
    let terminal = io::stdout().is_terminal();
    let style = Style {
        terminal,
        progress: io::stderr().is_terminal(),
        colour: terminal && !env.no_color,
    };
    let out = Output::new(
        globals.output,
        globals.quiet,
        style,
        Box::new(io::stdout()),
        Box::new(io::stderr()),
    );
    // `top` is for watching; only where nobody watches is one look enough.
    let watch = globals.watch || (matches!(command, Command::Top) && terminal);
    let mut session = Session::new(globals, env, out);
    let result = match (watch, command.is_watchable()) {
        (true, true) => watch::repeat(&mut session, |session| commands::run(&command, session)),
        (true, false) => Err(Failure::usage(
            "--watch goes with commands that show a state, such as `meshctl agent list`",
        )),
        (false, _) => commands::run(&command, &mut session),
    };
    // What was shown before a failure is still a result.
    let flushed = session.out.flush();
    let result = result.and(flushed);
    let exit = result.map_or_else(
        |failure| {
            session.out.fail(&failure);
            failure.exit
        },
        |()| Exit::Ok,
    );
    ExitCode::from(exit.code())
}
