//! What the demo has shown, counted.

use std::time::Instant;

/// The outcome so far. Says each step as it is checked.
pub struct Checks {
    began: Instant,
    passed: u32,
    failed: u32,
}

impl Checks {
    pub fn new() -> Checks {
        Checks { began: Instant::now(), passed: 0, failed: 0 }
    }

    /// A step that needs no check of its own.
    #[expect(clippy::print_stdout, reason = "what the demo says is its output")]
    pub fn say(&self, what: &str) {
        println!("[{:>5.1}s]      {what}", self.began.elapsed().as_secs_f64());
    }

    /// A claim, with what was measured.
    #[expect(clippy::print_stdout, reason = "what the demo says is its output")]
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: &T, wanted: &T) {
        let at = self.began.elapsed().as_secs_f64();
        if found == wanted {
            self.passed += 1;
            println!("[{at:>5.1}s]  ok  {what}");
        } else {
            self.failed += 1;
            println!("[{at:>5.1}s] FAIL {what}: found {found:?}, wanted {wanted:?}");
        }
    }

    /// Something that kept the story from going on.
    #[expect(clippy::print_stdout, reason = "what the demo says is its output")]
    pub fn fail(&mut self, what: &str) {
        self.failed += 1;
        println!("[{:>5.1}s] FAIL {what}", self.began.elapsed().as_secs_f64());
    }

    /// The last line; whether everything held.
    #[expect(clippy::print_stdout, reason = "what the demo says is its output")]
    pub fn summary(&self) -> bool {
        let took = self.began.elapsed().as_secs_f64();
        println!("{} checks held, {} did not, in {took:.1} s", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}
