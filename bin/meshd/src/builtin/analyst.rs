//! Looks at one file and says what is in it. Its fragile brother dies of the first file of each life.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::sdk::{Agent, Job, Out, log};
use super::walk::FILE_BYTES_MAX;

/// Marks of unfinished work that are counted.
const MARKS: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// A line beyond this is hard to read.
const LONG_LINE: usize = 120;

/// The agent.
#[derive(Debug)]
pub(super) struct Analyst {
    fragile: bool,
}

impl Analyst {
    /// One that copes with every file.
    pub(super) fn steady() -> Self {
        Self { fragile: false }
    }
    /// One that dies of the first file that it is given, in every life: so whatever the tree and however fast the
    /// machine, people see what becomes of such an agent.
    pub(super) fn fragile() -> Self {
        Self { fragile: true }
    }
}

impl Agent for Analyst {
    fn profile(&self) -> (&'static str, &'static [&'static str]) {
        (
            if self.fragile {
                "fragile-analyst"
            } else {
                "analyst"
            },
            &["analyse-file"],
        )
    }

    fn on_task(&mut self, job: Job, out: &mut Out) -> io::Result<()> {
        let Some(path) = job.input["path"].as_str() else {
            return out.fail(&job.task_id, "refusal", "input.path: missing");
        };
        let bytes = match read(Path::new(path)) {
            Ok(bytes) => bytes,
            Err(error) => return out.fail(&job.task_id, "refusal", &format!("{path}: {error}")),
        };
        if self.fragile {
            log(&format!("{path}: this is more than I can take"));
            std::process::abort();
        }
        out.succeed(&job.task_id, &describe(path, &bytes))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("too large"));
    }
    std::fs::read(path)
}

/// What is in a file.
fn describe(path: &str, bytes: &[u8]) -> Value {
    let language = language(path, bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return json!({"path": path, "language": "binary", "bytes": bytes.len()});
    };
    let mut lines = 0_u64;
    let (mut code, mut comments, mut blank, mut long) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut marks: BTreeMap<&str, u64> = BTreeMap::new();
    for line in text.lines() {
        lines += 1;
        let trimmed = line.trim();
        if trimmed.is_empty() {
            blank += 1;
        } else if is_comment(trimmed, language) {
            comments += 1;
        } else {
            code += 1;
        }
        long += u64::from(line.chars().count() > LONG_LINE);
        for mark in MARKS {
            if trimmed
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| word == mark)
            {
                *marks.entry(mark).or_default() += 1;
            }
        }
    }
    json!({
        "path": path, "language": language, "bytes": bytes.len(), "lines": lines, "code": code,
        "comments": comments, "blank": blank, "longLines": long, "marks": marks,
    })
}

fn is_comment(line: &str, language: &str) -> bool {
    let starts: &[&str] = match language {
        "Rust" | "C" | "C++" | "Go" | "Java" | "JavaScript" | "TypeScript" => {
            &["//", "/*", "*", "*/"]
        }
        "Python" | "Shell" | "YAML" | "TOML" | "Makefile" => &["#"],
        "HTML" | "Markdown" => &["<!--"],
        "SQL" => &["--"],
        _ => &[],
    };
    starts.iter().any(|start| line.starts_with(start))
}

fn language(path: &str, bytes: &[u8]) -> &'static str {
    let name = Path::new(path)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or(path);
    let extension = Path::new(name)
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    match extension {
        "rs" => "Rust",
        "c" | "h" => "C",
        "cc" | "cpp" | "hpp" | "cxx" => "C++",
        "go" => "Go",
        "java" => "Java",
        "py" => "Python",
        "js" | "mjs" | "cjs" => "JavaScript",
        "ts" | "tsx" => "TypeScript",
        "sh" | "bash" => "Shell",
        "md" => "Markdown",
        "yaml" | "yml" => "YAML",
        "toml" | "lock" => "TOML",
        "json" => "JSON",
        "html" => "HTML",
        "css" => "CSS",
        "sql" => "SQL",
        "txt" | "tsv" | "csv" => "Text",
        _ if name == "Makefile" => "Makefile",
        _ if bytes.starts_with(b"#!") => "Shell",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_and_marks_counted_as_words() {
        let text = "// a TODO here\nfn main() {}\n\n/* x */ // TODOS are no mark\n";
        let seen = describe("src/main.rs", text.as_bytes());
        assert_eq!(seen["language"], "Rust");
        assert_eq!(
            (seen["lines"].clone(), seen["code"].clone()),
            (json!(4), json!(1))
        );
        assert_eq!(
            (seen["comments"].clone(), seen["blank"].clone()),
            (json!(2), json!(1))
        );
        assert_eq!(seen["marks"], json!({"TODO": 1}));
    }

    #[test]
    fn a_file_that_is_not_text_is_only_measured() {
        let seen = describe("x.bin", &[0xff, 0xfe, 0]);
        assert_eq!(
            seen,
            json!({"path": "x.bin", "language": "binary", "bytes": 3})
        );
    }
}
