//! Durable work against what the disk allows: the journal, acknowledgements, whole tasks, and what size costs.
//!
//! `cargo bench -p mesh-benches --bench journal [-- log|ack|tasks|http|klp|size]`; `MESH_BENCH_TASKS` (1000000) says how
//! many finished tasks there are at most, `MESH_BENCH_DIR` where the data lies (a temporary directory unless set).

mod ack;
mod disk;
mod http;
mod log;
mod noop;
mod size;
mod tasks;
mod world;

use mesh_benches::{Report, is_wanted, machine};

#[expect(
    clippy::print_stdout,
    reason = "the results of a benchmark go to the terminal"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The mesh would build sandboxes with this very image.
    if mesh_sandbox::is_helper_invocation() {
        mesh_sandbox::sandbox_main();
    }
    if noop::is_agent() {
        return Ok(noop::run_agent()?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if let Some(step) = size::step() {
        return runtime.block_on(size::run_step(step));
    }
    println!("{}", machine());
    let mut report = Report::default();
    if is_wanted("log") {
        runtime.block_on(log::run(&mut report))?;
    }
    if is_wanted("ack") {
        runtime.block_on(ack::run(&mut report))?;
    }
    if is_wanted("tasks") {
        runtime.block_on(tasks::in_process(&mut report))?;
    }
    if is_wanted("klp") {
        runtime.block_on(tasks::by_process(&mut report))?;
    }
    if is_wanted("http") {
        runtime.block_on(tasks::over_http(&mut report))?;
    }
    if is_wanted("size") {
        size::run(&mut report)?;
    }
    println!("\n{}", report.table());
    Ok(())
}
