//! Runs the client as a script would.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::binaries::{MESHCTL, binary};

/// How a run of `meshctl` ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    line: String,
}

impl Ran {
    /// The same, once the exit code is the expected one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code of `meshctl {}`\nstdout: {}\nstderr: {}",
            self.line, self.out, self.err
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| {
            panic!(
                "`meshctl {}` printed no JSON ({error}): {}",
                self.line, self.out
            )
        })
    }
}

/// Runs `meshctl` against the daemon of a data directory, with nothing of the caller's environment.
pub fn meshctl(data: &Path, arguments: &[&str]) -> Ran {
    let ran = Command::new(binary(MESHCTL))
        .args(arguments)
        .env_clear()
        .env("MESH_DATA", data)
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .expect("meshctl runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("meshctl writes UTF-8");
    Ran {
        code: ran
            .status
            .code()
            .unwrap_or_else(|| 128 + signal(ran.status)),
        out: text(ran.stdout),
        err: text(ran.stderr),
        line: arguments.join(" "),
    }
}

fn signal(status: std::process::ExitStatus) -> i32 {
    std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
}
