//! What an agent without permissions shares with its own processes.

use mesh_tests::Daemon;
use serde_json::{Value, json};

/// Its `/dev/shm` is in memory, bounded, nobody else's, and starts nothing.
pub(super) fn shares_memory_with_itself_alone(daemon: &Daemon) {
    let shared = daemon.output("obey", &json!([
        {"run": "open('/dev/shm/mine', 'w').write('#!/bin/sh') and os.chmod('/dev/shm/mine', 0o700)"},
        {"run": "__import__('subprocess').run(['/dev/shm/mine'])"},
        {"run": "open('/dev/shm/large', 'wb').write(bytes(65 << 20))"},
        {"run": "os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize <= 64 << 20"},
    ]));
    assert_eq!(shared[0], Value::Null, "{shared}");
    assert!(
        shared[1].as_str().is_some_and(|e| e.contains("ermission")),
        "{shared}"
    );
    assert!(shared[2].is_string(), "{shared}");
    assert_eq!(shared[3], true, "{shared}");
    assert!(!std::path::Path::new("/dev/shm/mine").exists());
}
