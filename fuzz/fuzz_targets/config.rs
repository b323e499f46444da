//! A configuration that loads loads again, and equal, once written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_config::{Config, Sources};

fuzz_target!(|bytes: &[u8]| {
    let file = |bytes: Vec<u8>| Sources {
        file: Some(("meshd.yaml".into(), bytes)),
        ..Sources::default()
    };
    let Ok((config, _)) = Config::load(&file(bytes.to_vec())) else {
        return;
    };
    let written = serde_json::to_vec(&config).expect("a configuration is JSON");
    let (again, _) = Config::load(&file(written)).expect("what was written loads again");
    assert_eq!(again, config);
});
