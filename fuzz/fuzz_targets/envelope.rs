//! An envelope that is accepted is written back as it was sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_messages::klp::{self, Defaults, StatusUpdate, TaskRequest, TaskResult};

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = klp::decode_line(bytes) else {
        return;
    };
    drop(envelope.payload_as::<TaskRequest>());
    drop(envelope.payload_as::<TaskResult>());
    drop(envelope.payload_as::<StatusUpdate>());
    let again =
        klp::decode(envelope.as_sent(), &Defaults::default()).expect("what was sent reads again");
    assert_eq!(again, envelope);
    assert_eq!(again.signing_input(), envelope.signing_input());
});
