//! The table that a run prints, in the form in which `docs/benchmarks.md` holds it.

use std::fmt::Write as _;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Time, in microseconds.
    Micros,
    /// Memory.
    Bytes,
    /// Things.
    Count,
    /// Things per second.
    PerSecond,
}

/// What is wanted of a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// At most so many times the baseline.
    Times(f64),
    /// At most the baseline.
    AtMost,
    /// At least this share of the baseline.
    Share(f64),
    /// Nothing; it is there to be read with the others.
    None,
}

/// The results of a run.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<String>,
}

impl Report {
    /// Adds a result and prints it. What the baseline is, `baseline_name` says.
    #[expect(
        clippy::print_stdout,
        reason = "the results of a benchmark go to the terminal"
    )]
    pub fn row(&mut self, name: &str, unit: Unit, ours: f64, baseline: (&str, f64), goal: Goal) {
        let (baseline_name, baseline) = baseline;
        let ratio = ours / baseline;
        let (wanted, verdict) = match goal {
            Goal::Times(most) => (format!("≤ {most}×"), verdict(ratio <= most)),
            Goal::AtMost => ("≤ baseline".to_owned(), verdict(ours <= baseline)),
            Goal::Share(least) => (format!("≥ {least}×"), verdict(ratio >= least)),
            Goal::None => ("–".to_owned(), "–"),
        };
        let row = format!(
            "| {name} | {} | {} ({baseline_name}) | {ratio:.2} | {wanted} | {verdict} |",
            amount(unit, ours),
            amount(unit, baseline),
        );
        println!("{row}");
        self.rows.push(row);
    }

    /// The whole table.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| measure | ours | baseline | ratio | goal | |\n|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            // Writing to a text cannot fail.
            _ = writeln!(table, "{row}");
        }
        table
    }
}

/// A count as a number that can be divided; exact below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "what is counted here is far below 2^53"
)]
pub fn number(count: u64) -> f64 {
    count as f64
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

fn amount(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Micros if number >= 10_000.0 => format!("{:.1} ms", number / 1000.0),
        Unit::Micros => format!("{number:.1} µs"),
        Unit::Bytes if number >= 1024.0 * 1024.0 * 1024.0 => {
            format!("{:.2} GiB", number / (1024.0 * 1024.0 * 1024.0))
        }
        Unit::Bytes => format!("{number:.0} B"),
        Unit::Count => format!("{number:.0}"),
        Unit::PerSecond => format!("{number:.0}/s"),
    }
}
