//! Documents that users hand us: as text, `@FILE`, or `-` for standard input.

use std::io::Read;
use std::path::Path;

use mesh_messages::json;
use serde_json::Value;

use crate::exit::{Exit, Failure};

/// Largest document that is read. meshd takes no message above 1 MiB, so what is larger would be refused anyway.
const INPUT_BYTES_MAX: u64 = 1024 * 1024;
/// Largest file of lines, each of which is sent by itself or with a few others.
const LINES_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Reads a JSON document out of an argument.
///
/// # Errors
/// Wrong usage when the argument itself is no JSON; a failure when the file is none.
pub(crate) fn document(argument: &str, stdin: &mut dyn Read) -> Result<Value, Failure> {
    let (name, bytes) = match argument.strip_prefix('@') {
        Some(path) => (path.to_owned(), file(Path::new(path))?),
        None if argument == "-" => ("standard input".to_owned(), read(stdin, "standard input")?),
        None => {
            return json::parse(argument.as_bytes()).map_err(|error| {
                Failure::usage(format!("{argument:?} is not JSON: {error}"))
                    .hint("quote it for the shell: '{\"text\": \"hi\"}'; @FILE reads a file, - standard input")
            });
        }
    };
    json::parse(&bytes)
        .map_err(|error| Failure::new(Exit::Failed, format!("{name} is not JSON: {error}")))
}

/// Reads a YAML document, of which JSON is one, from a file or from standard input.
///
/// # Errors
/// The file cannot be read, or is no YAML.
pub(crate) fn yaml(path: &Path, stdin: &mut dyn Read) -> Result<Value, Failure> {
    let (name, bytes) = if path == Path::new("-") {
        ("standard input".to_owned(), read(stdin, "standard input")?)
    } else {
        (path.display().to_string(), file(path)?)
    };
    json::parse_yaml(&bytes)
        .map_err(|error| Failure::new(Exit::Failed, format!("{name} is not YAML: {error}")))
}

/// Reads lines from a file or from standard input; what it is called, and its text.
///
/// # Errors
/// It cannot be read, is no text, or is larger than a client should hold.
pub(crate) fn lines(path: &Path, stdin: &mut dyn Read) -> Result<(String, String), Failure> {
    let mut text = String::new();
    let name = if path == Path::new("-") {
        let read = stdin.take(LINES_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| Failure::new(Exit::Failed, format!("standard input: {error}")))?;
        "standard input".to_owned()
    } else {
        let file = std::fs::File::open(path).map_err(|error| Failure::file(path, &error))?;
        let read = file.take(LINES_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| Failure::file(path, &error))?;
        path.display().to_string()
    };
    if text.len() as u64 > LINES_BYTES_MAX {
        let text = format!("{name} is larger than {LINES_BYTES_MAX} bytes; split it");
        return Err(Failure::new(Exit::Failed, text));
    }
    Ok((name, text))
}

fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut file = std::fs::File::open(path).map_err(|error| Failure::file(path, &error))?;
    read(&mut file, &path.display().to_string())
}

fn read(stream: &mut dyn Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    stream
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(Exit::Failed, format!("{name}: {error}")))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::new(
            Exit::Failed,
            format!("{name} is larger than {INPUT_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// Reads `key=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("must be key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_an_argument_a_file_or_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.json");
        std::fs::write(&path, "{\"a\": 2}").unwrap();
        let at = format!("@{}", path.display());
        for (argument, expected) in [("{\"a\": 1}", 1), (at.as_str(), 2), ("-", 3)] {
            assert_eq!(
                document(argument, &mut "{\"a\": 3}".as_bytes()).unwrap(),
                json!({"a": expected})
            );
        }
    }

    #[test]
    fn a_bad_argument_is_wrong_usage_and_a_bad_file_a_failure() {
        assert_eq!(
            document("{", &mut "".as_bytes()).unwrap_err().exit,
            Exit::Usage
        );
        assert_eq!(
            document("{\"a\":1,\"a\":2}", &mut "".as_bytes())
                .unwrap_err()
                .exit,
            Exit::Usage
        );
        assert_eq!(
            document("-", &mut "{".as_bytes()).unwrap_err().exit,
            Exit::Failed
        );
        assert_eq!(
            document("@/nowhere/x", &mut "".as_bytes())
                .unwrap_err()
                .exit,
            Exit::Failed
        );
        let long = vec![b' '; 1024 * 1024 + 1];
        assert!(
            document("-", &mut long.as_slice())
                .unwrap_err()
                .message
                .contains("larger")
        );
    }
}
