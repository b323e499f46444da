//! Joins what the analysts found into one report.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use serde_json::{Value, json};

use super::sdk::{Agent, Job, Out};

/// Rows of each list in the report; a reader sees the whole on one screen.
const ROWS: usize = 5;
/// Languages with a row of their own.
const LANGUAGES: usize = 7;

/// The agent.
#[derive(Debug)]
pub(super) struct Reporter;

impl Agent for Reporter {
    fn profile(&self) -> (&'static str, &'static [&'static str]) {
        ("reporter", &["write-report"])
    }

    fn on_task(&mut self, job: Job, out: &mut Out) -> io::Result<()> {
        let Some(files) = job.input["files"].as_array() else {
            return out.fail(&job.task_id, "refusal", "input.files: missing");
        };
        let root = job.input["root"].as_str().unwrap_or(".");
        let failed = job.input["failed"]
            .as_array()
            .map_or(&[] as &[Value], Vec::as_slice);
        let mut text = report(root, files, failed);
        if let Some(left_out @ 1..) = job.input["leftOut"].as_u64() {
            // Writing to a String cannot fail.
            let _infallible = writeln!(
                text,
                "\n{left_out} more files were left out: too large, or too many"
            );
        }
        out.succeed(&job.task_id, &json!({"text": text, "files": files.len()}))
    }
}

#[derive(Debug, Default)]
struct Sum {
    files: u64,
    lines: u64,
    code: u64,
    comments: u64,
    blank: u64,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.lines += other.lines;
        self.code += other.code;
        self.comments += other.comments;
        self.blank += other.blank;
    }
}

fn number(file: &Value, key: &str) -> u64 {
    file[key].as_u64().unwrap_or(0)
}

fn short<'a>(root: &str, path: &'a str) -> &'a str {
    path.strip_prefix(root)
        .map_or(path, |p| p.trim_start_matches('/'))
}

/// The report, as plain text of fixed width.
fn report(root: &str, files: &[Value], failed: &[Value]) -> String {
    let mut by_language: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut total = Sum::default();
    for file in files {
        let sum = by_language
            .entry(file["language"].as_str().unwrap_or("Other"))
            .or_default();
        let one = Sum {
            files: 1,
            lines: number(file, "lines"),
            code: number(file, "code"),
            comments: number(file, "comments"),
            blank: number(file, "blank"),
        };
        sum.add(&one);
        total.add(&one);
    }
    let mut languages: Vec<_> = by_language.into_iter().collect();
    languages.sort_by(|a, b| b.1.lines.cmp(&a.1.lines).then(a.0.cmp(b.0)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = table(&mut text, &languages, &total);
    let _infallible = lists(&mut text, root, files, failed);
    text
}

fn table(text: &mut String, languages: &[(&str, Sum)], total: &Sum) -> std::fmt::Result {
    writeln!(
        text,
        "{:<12} {:>6} {:>8} {:>8} {:>9} {:>7}",
        "language", "files", "lines", "code", "comments", "blank"
    )?;
    let row = |text: &mut String, name: &str, s: &Sum| {
        writeln!(
            text,
            "{name:<12} {:>6} {:>8} {:>8} {:>9} {:>7}",
            s.files, s.lines, s.code, s.comments, s.blank
        )
    };
    let (named, unnamed): (Vec<_>, Vec<_>) =
        languages.iter().partition(|(name, _)| *name != "Other");
    for (name, sum) in named.iter().take(LANGUAGES) {
        row(text, name, sum)?;
    }
    let mut others = Sum::default();
    for (_, sum) in named.iter().skip(LANGUAGES).chain(&unnamed) {
        others.add(sum);
    }
    if others.files > 0 {
        row(text, "other", &others)?;
    }
    row(text, "total", total)
}

fn lists(text: &mut String, root: &str, files: &[Value], failed: &[Value]) -> std::fmt::Result {
    let path = |file: &Value| short(root, file["path"].as_str().unwrap_or("?")).to_owned();
    let mut largest: Vec<&Value> = files.iter().collect();
    largest.sort_by(|a, b| {
        number(b, "lines")
            .cmp(&number(a, "lines"))
            .then_with(|| path(a).cmp(&path(b)))
    });
    writeln!(text, "\nlongest files")?;
    for file in largest.iter().take(ROWS).filter(|f| number(f, "lines") > 0) {
        writeln!(text, "  {:>6} lines  {}", number(file, "lines"), path(file))?;
    }
    let marks = |file: &Value| -> u64 {
        file["marks"]
            .as_object()
            .map_or(0, |m| m.values().filter_map(Value::as_u64).sum())
    };
    let mut marked: Vec<&Value> = files.iter().filter(|f| marks(f) > 0).collect();
    marked.sort_by(|a, b| marks(b).cmp(&marks(a)).then_with(|| path(a).cmp(&path(b))));
    if !marked.is_empty() {
        writeln!(text, "\nunfinished by their own word")?;
        for file in marked.iter().take(ROWS) {
            writeln!(text, "  {:>6} marks  {}", marks(file), path(file))?;
        }
    }
    let long: u64 = files.iter().map(|f| number(f, "longLines")).sum();
    if long > 0 {
        writeln!(text, "\n{long} lines are longer than 120 characters")?;
    }
    if !failed.is_empty() {
        writeln!(text, "\nnot analysed")?;
        for file in failed.iter().take(ROWS) {
            let error = file["error"].as_str().unwrap_or("?");
            // Errors name the whole path; the report has named it already.
            let error = error
                .strip_prefix(file["path"].as_str().unwrap_or_default())
                .unwrap_or(error);
            writeln!(text, "  {}: {}", path(file), error.trim_start_matches(": "))?;
        }
        if failed.len() > ROWS {
            writeln!(text, "  and {} more", failed.len() - ROWS)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_adds_up_and_names_files_relative_to_the_root() {
        let file = |path: &str, lines: u64| json!({"path": path, "language": "Rust", "lines": lines, "code": lines});
        let text = report("/r", &[file("/r/a.rs", 2), file("/r/b.rs", 3)], &[]);
        assert!(
            text.contains("total             2        5        5"),
            "{text}"
        );
        assert!(text.contains("3 lines  b.rs"), "{text}");
    }
}
