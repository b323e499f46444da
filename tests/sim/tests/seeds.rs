//! A few seeds of the simulation in every test run; `cargo run --release -p mesh-tests -- sim` has many.

use mesh_sim::{Outcome, Plan, run};

fn simulate(seed: u64, kills: u64) -> Outcome {
    run(&Plan {
        seed,
        kills,
        print: None,
    })
}

#[test]
fn a_few_seeds_keep_every_promise() {
    for seed in 1..=4 {
        let outcome = simulate(seed, 120);
        assert!(
            outcome.breach.is_none(),
            "seed {seed} with 120 faults: {:?}",
            outcome.breach
        );
        assert!(
            outcome.tasks > 0,
            "seed {seed}: nobody was promised anything"
        );
    }
}

#[test]
fn one_seed_is_one_trace() {
    let (once, again, other) = (simulate(5, 60), simulate(5, 60), simulate(6, 60));
    assert_eq!((&once.trace, once.steps), (&again.trace, again.steps));
    assert_ne!(once.trace, other.trace);
}
