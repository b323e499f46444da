//! A manifest that is accepted is accepted again, and equal, once written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_messages::manifest::{ManifestFormat, parse_manifest};

fuzz_target!(|bytes: &[u8]| {
    let Ok(parsed) = parse_manifest(bytes, ManifestFormat::Detect) else {
        return;
    };
    let written = serde_json::to_vec(&parsed.manifest).expect("a manifest is JSON");
    let again =
        parse_manifest(&written, ManifestFormat::Json).expect("what was written reads again");
    assert_eq!(again.manifest, parsed.manifest);
});
