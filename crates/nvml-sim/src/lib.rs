//! GPUs that are not there, behind the interfaces that real ones have: a shared
//! library with NVML's C functions, and the few of CUDA's that a test of memory
//! calls, which answers from a script that may change while it is loaded.
//!
//! Whoever loads it goes the way that leads to the real libraries, so that this way
//! runs in every test and every trial. It is no driver: nothing computes, and only
//! what [`Script`] names can be asked for; everything else is a symbol that the
//! library does not have.

#![forbid(unsafe_code)]

pub mod script;

pub use script::{Ancestor, Gpu, Init, Mig, Process, Script, ScriptError, Slice, Xid};

/// Names the script's files, a line for each; they are read as one, in this order,
/// and again whenever one of them changes. A file that is not there is empty.
pub const SCRIPT_VARIABLE: &str = "BERTH_NVML_SCRIPT";

/// The shared library for this machine, as a file is to hold it. Its name there is
/// free.
#[must_use]
pub fn library() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/libnvml_sim.so"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_library_is_one_for_this_machine() {
        let library = super::library();
        assert_eq!(&library[..4], b"\x7fELF");
        assert!(library.len() < 4 << 20, "{} bytes are in every program", library.len());
    }
}
