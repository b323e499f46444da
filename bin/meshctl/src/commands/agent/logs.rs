//! What agents write to standard error.

use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::Id;
use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Format, Screen};
use crate::session::Session;

/// Lines asked for when following: as many as may appear between two looks.
const FOLLOW_LINES: usize = 1000;
/// Time between two looks when following.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Which lines.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    agent: Id,
    /// Go on with new lines as they appear
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to show
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    tail: u16,
}

/// A line of an agent's log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogLine {
    time: String,
    instance: u32,
    epoch: u64,
    line: String,
}

impl LogLine {
    fn text(&self) -> String {
        format!("{} #{} {}", self.time, self.instance, self.line)
    }
}

pub(super) fn run(arguments: &Logs, session: &mut Session) -> Result<(), Failure> {
    let request = Request::get(&["v1", "agents", &arguments.agent.id, "logs"]);
    let answer = session.send(&request.clone().query("tail", Some(arguments.tail)))?;
    if !arguments.follow {
        return session.out.show(&answer, || {
            let lines: Vec<LogLine> = answer.rows()?;
            Ok(lines
                .iter()
                .fold(Screen::new(), |screen, line| screen.line(line.text())))
        });
    }
    if session.out.format() != Format::Table {
        return Err(Failure::usage(
            "--follow prints lines of text; leave -o out",
        ));
    }
    let mut seen: Vec<LogLine> = answer.rows()?;
    print(&seen, session)?;
    let request = request.query("tail", Some(FOLLOW_LINES));
    loop {
        thread::sleep(FOLLOW_EVERY);
        let lines: Vec<LogLine> = session.send(&request)?.rows()?;
        print(new_lines(&seen, &lines), session)?;
        seen = lines;
    }
}

fn print(lines: &[LogLine], session: &mut Session) -> Result<(), Failure> {
    for line in lines {
        session.out.line(&line.text())?;
    }
    session.out.flush()
}

/// What `now` holds beyond what was seen: both are ends of the same log, so they overlap where nothing was missed.
fn new_lines<'a>(seen: &[LogLine], now: &'a [LogLine]) -> &'a [LogLine] {
    let last_seen = now.iter().enumerate().rev().find(|(index, _)| {
        let known = index + 1;
        let compared = known.min(seen.len());
        compared > 0 && now[known - compared..known] == seen[seen.len() - compared..]
    });
    match last_seen {
        Some((index, _)) => &now[index + 1..],
        None => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<LogLine> {
        let line = |c: char| LogLine {
            time: "t".into(),
            instance: 0,
            epoch: 1,
            line: c.into(),
        };
        text.chars().map(line).collect()
    }

    #[test]
    fn only_lines_that_were_not_seen_are_new() {
        for (seen, now, new) in [
            ("", "abc", "abc"),
            ("abc", "abc", ""),
            ("abc", "abcd", "d"),
            ("bc", "abcd", "d"),
            ("abc", "cd", "d"),
            ("abc", "xyz", "xyz"),
            ("aa", "aaa", ""),
            ("ab", "abab", ""),
            ("abc", "", ""),
        ] {
            assert_eq!(
                new_lines(&lines(seen), &lines(now)),
                lines(new),
                "{seen} {now}"
            );
        }
    }
}
