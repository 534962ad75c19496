//! Which cores are whose. Touches no file.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::AllocationId;

/// Cores by the kernel's numbers.
pub type CoreSet = BTreeSet<u32>;

/// The cores of this host, and those that one worker alone may run on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cores {
    pub all: CoreSet,
    pub pinned: BTreeMap<AllocationId, CoreSet>,
}

impl Cores {
    /// The cores of everybody who has none of his own.
    pub fn shared(&self) -> CoreSet {
        let taken = |core: &&u32| self.pinned.values().any(|own| own.contains(*core));
        self.all.iter().filter(|core| !taken(core)).copied().collect()
    }

    /// Gives `count` cores to one, neighbours if there are any, and says which. `None`: so
    /// many would leave none to the others.
    pub fn pin(&mut self, id: AllocationId, count: usize) -> Option<CoreSet> {
        let free: Vec<u32> = self.shared().into_iter().collect();
        if count == 0 || count >= free.len() {
            return None;
        }
        let together = |run: &&[u32]| run.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let chosen = free.windows(count).find(together).unwrap_or(&free[..count]);
        let own: CoreSet = chosen.iter().copied().collect();
        self.pinned.insert(id, own.clone());
        Some(own)
    }
}

/// Reads what the kernel writes: `0-3,8`.
pub fn parse(text: &str) -> Option<CoreSet> {
    let mut cores = CoreSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > CORE_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// The largest number that is believed; kernels are built for 8,192 cores at most.
const CORE_MAX: u32 = 65_535;

/// Writes what the kernel reads.
pub fn text(cores: &CoreSet) -> String {
    let numbers: Vec<String> = cores.iter().map(u32::to_string).collect();
    numbers.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_the_kernel_writes_them() {
        let set = |cores: &[u32]| Some(cores.iter().copied().collect::<CoreSet>());
        assert_eq!(parse("0-3,8\n"), set(&[0, 1, 2, 3, 8]));
        assert_eq!(parse("\n"), set(&[]));
        for wrong in ["3-1", "a", "0-", "0-4294967295", "-1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(text(&parse("5,0-1").unwrap()), "0,1,5");
    }

    #[test]
    fn neighbours_are_pinned_and_one_core_is_left_for_the_others() {
        let id = |job: u64| format!("{job}.0.0.1").parse::<AllocationId>().unwrap();
        let mut cores = Cores { all: parse("0-1,4-7").unwrap(), ..Cores::default() };
        assert_eq!(cores.pin(id(1), 3), parse("4-6"));
        assert_eq!(cores.shared(), parse("0-1,7").unwrap());
        assert_eq!(cores.pin(id(2), 3), None, "none would be left");
        assert_eq!(cores.pin(id(2), 0), None);
        assert_eq!(cores.pin(id(2), 2), parse("0-1"));
        cores.pinned.remove(&id(1));
        assert_eq!(cores.shared(), parse("4-7").unwrap());
        assert_eq!(cores.pin(id(3), 1), parse("4"));
        cores.all.insert(2);
        assert_eq!(cores.pin(id(4), 3), parse("5-7"));
        assert_eq!(cores.pin(id(5), 1), None, "{:?}", cores.shared());
    }
}
