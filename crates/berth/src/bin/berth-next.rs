//! The `berth` program, of a build that knows one cluster version more: it
//! stands in for the next release where rolling upgrades are tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth::main()
}
