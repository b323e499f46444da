//! Whatever comes over the sockets and in the memory file between launcher and helper of a sandbox is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mesh_sandbox::fuzz_wire(bytes));
