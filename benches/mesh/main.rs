//! The whole mesh, with native agents: journal, fault policy, task machine and all.
//!
//! `cargo bench -p mesh-benches --bench mesh [-- restart|scale|storm|memory|flows]`; `MESH_BENCH_AGENTS` (10000) says how
//! many agents, or runs of workflows, there are at most.

mod flows;
mod memory;
mod restart;
mod storm;
mod worker;
mod world;

use mesh_benches::{Report, is_wanted, machine, measure};

#[expect(
    clippy::print_stdout,
    reason = "the results of a benchmark go to the terminal"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The mesh would build sandboxes with this very image.
    if mesh_sandbox::is_helper_invocation() {
        mesh_sandbox::sandbox_main();
    }
    // Panics are what is measured here; printing them is not.
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if let Some((what, of)) = measure() {
        let measured = match &*what {
            flows::BYTES => runtime.block_on(flows::bytes_each(of))?,
            flows::WAVES => runtime.block_on(flows::micros_in_waves(of))?,
            flows::MICROS => runtime.block_on(flows::micros_each(of))?,
            _ => runtime.block_on(memory::bytes_each(&what, of))?,
        };
        println!("{measured}");
        return Ok(());
    }
    println!("{}", machine());
    let mut report = Report::default();
    if is_wanted("restart") {
        runtime.block_on(restart::run(&mut report))?;
    }
    if is_wanted("scale") {
        runtime.block_on(restart::scale(&mut report))?;
    }
    if is_wanted("storm") {
        runtime.block_on(storm::run(&mut report))?;
    }
    if is_wanted("memory") {
        memory::run(&mut report)?;
    }
    if is_wanted("flows") {
        flows::run(&mut report)?;
    }
    println!("\n{}", report.table());
    Ok(())
}
