//! What a node says of itself when its host runs short of something: it takes nothing new until
//! there is enough again.

use std::fmt;

/// What keeps a node from taking new work, by what its host is short of. Load itself is nowhere
/// agreed on; that it has passed a mark is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Guards {
    pub cpu: Option<Shut>,
    pub memory: Option<Shut>,
}

/// A guard that has closed its node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Shut {
    /// How much was in use when it closed; at most 100.
    pub used_percent: u8,
    /// It opens below this.
    pub opens_below_percent: u8,
}

impl Guards {
    /// Whether none is closed.
    pub fn are_open(&self) -> bool {
        self.cpu.or(self.memory).is_none()
    }
}

/// For people, as `CPU 91 % in use, pauses new placements until below 80 %`.
impl fmt::Display for Guards {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [("CPU", self.cpu), ("memory", self.memory)];
        let shut = said.into_iter().filter_map(|(what, shut)| Some((what, shut?)));
        for (position, (what, shut)) in shut.enumerate() {
            if position > 0 {
                formatter.write_str("; ")?;
            }
            write!(formatter, "{what} {shut}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Shut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shut { used_percent, opens_below_percent } = self;
        write!(
            formatter,
            "{used_percent} % in use, pauses new placements until below {opens_below_percent} %"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_say_what_they_wait_for() {
        let check = |guards: Guards, expected: &str| assert_eq!(guards.to_string(), expected);
        let shut =
            |used_percent, opens_below_percent| Some(Shut { used_percent, opens_below_percent });
        let cpu = "CPU 91 % in use, pauses new placements until below 80 %";
        let memory = "memory 93 % in use, pauses new placements until below 85 %";
        check(Guards::default(), "");
        check(Guards { cpu: shut(91, 80), memory: None }, cpu);
        check(Guards { cpu: None, memory: shut(93, 85) }, memory);
        let both = Guards { cpu: shut(91, 80), memory: shut(93, 85) };
        check(both, &format!("{cpu}; {memory}"));
        assert!(Guards::default().are_open() && !both.are_open());
    }
}
