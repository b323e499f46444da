//! OTP's semantics, case by case, on the machine alone. The names carry the cases' ids.
#![expect(
    clippy::unwrap_used,
    reason = "a test helper that unwraps fails its test"
)]

mod admin;
mod auto_shutdown;
mod bench;
mod intensity;
mod restart_types;
mod specs;
mod stopping;
mod strategies;
