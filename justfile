# Recipes that only look: check, test, demo, ci, deep. One that writes: fix.

# Format, lints, documentation: quick enough for every save.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Writes what check would complain about, as far as tools can.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all

# All tests, or those whose name holds a word: `just test crash`.
test *words:
    cargo test --workspace -- {{words}}

# The main job on real files; this repository unless another is named.
demo *path:
    cargo run --release --bin meshd -- demo {{path}}

# What a change has to pass.
ci:
    .ci/run

# The same for a night.
deep:
    .ci/deep
