//! A value that is accepted has one canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_messages::json;

fuzz_target!(|bytes: &[u8]| {
    drop(json::parse_yaml(bytes));
    let Ok(value) = json::parse(bytes) else {
        return;
    };
    let canonical = json::canonical(&value);
    let again = json::parse(&canonical).expect("the canonical form is JSON");
    assert_eq!(json::canonical(&again), canonical);
});
