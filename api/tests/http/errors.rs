//! The table of codes, its document and the sources agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_api::codes::{self, CODES};
use mesh_messages::problem::ProblemKind;

const KINDS: [ProblemKind; 11] = [
    ProblemKind::Malformed,
    ProblemKind::Invalid,
    ProblemKind::Unauthenticated,
    ProblemKind::Forbidden,
    ProblemKind::NotFound,
    ProblemKind::Conflict,
    ProblemKind::TooLarge,
    ProblemKind::RateLimited,
    ProblemKind::Unavailable,
    ProblemKind::Timeout,
    ProblemKind::Internal,
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("codes.rs")
        {
            let text = fs::read_to_string(&path).unwrap();
            // Tests at the end of a file may make up codes.
            found.push((path, text.split("#[cfg(test)]").next().unwrap().to_owned()));
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for directory in ["messages/src", "actors/src", "actors/core/src", "api/src"] {
        let directory = root().join(directory);
        if directory.exists() {
            sources(&directory, &mut found);
        }
    }
    found
}

/// The codes that follow a piece of source text directly, as first argument or after the kind.
fn codes_after<'s>(text: &'s str, piece: &str) -> Vec<&'s str> {
    let like_a_code = |text: &&str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    text.match_indices(piece)
        .filter_map(|(at, _)| {
            text[at + piece.len()..]
                .trim_start()
                .strip_prefix('"')?
                .split('"')
                .next()
        })
        .filter(like_a_code)
        .collect()
}

#[test]
fn every_code_in_the_sources_is_in_the_table_with_its_status() {
    let mut pieces: Vec<(String, Option<u16>)> = KINDS
        .iter()
        .map(|kind| (format!("ProblemKind::{kind:?},"), Some(kind.status())))
        .collect();
    for (constructor, kind) in [
        ("invalid(", ProblemKind::Invalid),
        ("unavailable(", ProblemKind::Unavailable),
    ] {
        pieces.push((format!("Problem::{constructor}"), Some(kind.status())));
        pieces.push((format!("Self::{constructor}"), Some(kind.status())));
    }
    pieces.push(("Refusal::new(".to_owned(), None));
    let mut seen = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for (path, text) in all_sources() {
        for (piece, status) in &pieces {
            for code in codes_after(&text, piece) {
                seen.insert(code.to_owned());
                match codes::find(code) {
                    None => wrong.insert(format!(
                        "{}: {code} ({status:?}) is not in the table",
                        path.display()
                    )),
                    Some(entry) if status.is_some_and(|status| status != entry.status) => {
                        wrong.insert(format!("{}: {code} is {status:?} here", path.display()))
                    }
                    Some(_) => false,
                };
            }
        }
    }
    assert!(
        seen.len() > 20,
        "the search finds next to nothing: {seen:?}"
    );
    assert!(wrong.is_empty(), "see api/src/codes.rs: {wrong:#?}");
}

#[test]
fn every_code_of_the_table_is_in_the_sources_once_and_in_order() {
    let sources = all_sources();
    for entry in CODES {
        let literal = format!("\"{}\"", entry.code);
        assert!(
            sources.iter().any(|(_, text)| text.contains(&literal)),
            "{} is said by nobody",
            entry.code
        );
    }
    let keys: Vec<_> = CODES
        .iter()
        .map(|entry| (entry.status, entry.code))
        .collect();
    let sorted: BTreeSet<_> = keys.iter().copied().collect();
    assert_eq!(
        keys,
        sorted.into_iter().collect::<Vec<_>>(),
        "by status and name, each once"
    );
}

/// `UPDATE_DOCS=1 cargo test -p mesh-api` writes the document.
#[test]
fn the_document_is_the_table() {
    let path = root().join("docs/errors.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, codes::markdown()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written,
        codes::markdown(),
        "write it anew: UPDATE_DOCS=1 cargo test -p mesh-api"
    );
}

#[test]
fn every_code_of_the_protocol_is_in_the_table() {
    let source = fs::read_to_string(root().join("messages/src/klp/error.rs")).unwrap();
    let names: Vec<_> = source
        .split("pub const fn name(self)")
        .nth(1)
        .unwrap()
        .split("impl ")
        .next()
        .unwrap()
        .split('"')
        .skip(1)
        .step_by(2)
        .collect();
    assert!(
        names.contains(&"not_allowed") && names.len() > 10,
        "{names:?}"
    );
    for name in names {
        assert!(codes::find(name).is_some(), "{name} is not in the table");
    }
}
