//! The supervision crate alone: no journal, no agents, no backoff.
//!
//! `cargo bench -p mesh-benches --bench supervision [-- restart|scale|storm|memory]`
//!
//! The baseline is [`bare`]: what somebody writes who needs one strategy and a limit on restarts, in twenty lines.

mod bare;
mod memory;
mod restart;
mod scale;
mod storm;
mod victim;

use mesh_benches::{Report, is_wanted, machine, measure};

#[expect(
    clippy::print_stdout,
    reason = "the results of a benchmark go to the terminal"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Panics are what is measured here; printing them is not.
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if let Some((what, of)) = measure() {
        println!("{}", runtime.block_on(memory::bytes_each(&what, of))?);
        return Ok(());
    }
    println!("{}", machine());
    let mut report = Report::default();
    if is_wanted("restart") {
        runtime.block_on(restart::run(&mut report))?;
    }
    if is_wanted("scale") {
        runtime.block_on(scale::run(&mut report))?;
    }
    if is_wanted("storm") {
        runtime.block_on(storm::run(&mut report))?;
    }
    if is_wanted("memory") {
        memory::run(&mut report)?;
    }
    println!("\n{}", report.table());
    Ok(())
}
