//! Builds the shared library with the compiler that builds this crate. It has no
//! dependencies, so that one call is all it takes.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=library");
    println!("cargo::rerun-if-changed=src/script.rs");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let library = PathBuf::from(variable("OUT_DIR")).join("libnvml_sim.so");
    let mut compiler = Command::new(variable("RUSTC"));
    compiler.args(["--crate-name", "nvml_sim", "--crate-type", "cdylib", "--edition", "2024"]);
    compiler.args(["--target", &variable("TARGET"), "--cap-lints", "allow"]);
    compiler.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.arg(format!("-Clinker={linker}"));
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    compiler.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    compiler.arg("library/lib.rs").arg("-o").arg(library);
    match compiler.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => fail(&format!("the compiler ended with {status}")),
        Err(error) => fail(&format!("start the compiler: {error}")),
    }
}

fn fail(problem: &str) -> ExitCode {
    eprintln!("build the simulated NVML: {problem}");
    ExitCode::FAILURE
}
