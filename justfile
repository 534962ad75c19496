# Short names for what is done often. The gate itself needs no `just`: it is `.ci/run`.

# What a change must pass.
gate:
    .ci/run

# The tests, as the README has them.
test:
    cargo test --workspace

# Formats, and takes what clippy offers; the only recipe that rewrites files.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Only the rules about the source: edges, fences, licences, sizes, habits.
rules:
    cargo test --package berth-tests --test rules

# Limits and confinement on a kernel with cgroups of version 2, in an emulated machine.
kernel:
    tests/kernel/run

# Spelling; needs `typos`.
words:
    typos
