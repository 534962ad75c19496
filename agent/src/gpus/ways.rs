//! How the GPUs of the host reach each other, as far as it was ever told: pure. What is not
//! told this time, of a GPU that is lost or a call that fails, is as it was.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{Device, DeviceWay, PcieWay};

use super::said::{Ancestor, NearNode, Pair, Topology};

/// What was told so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ways {
    /// By uuid.
    numa_nodes: BTreeMap<String, u32>,
    /// By the uuids of both, the smaller one first.
    pairs: BTreeMap<(String, String), DeviceWay>,
    /// Those that had NVLinks to each other at any time of this run of the host. Links that are down belong to GPUs that
    /// are faulty, and a reset of one disturbs the other all the same.
    linked: BTreeSet<(String, String)>,
}

const UNTOLD: DeviceWay = DeviceWay { pcie: PcieWay::Unknown, nvlinks: 0 };

impl Ways {
    /// Takes in what was told.
    pub fn hear(&mut self, told: &Topology) {
        for node in &told.nodes {
            self.numa_nodes.insert(node.uuid.clone(), node.numa_node);
        }
        for pair in &told.pairs {
            let way = self.pairs.entry(key(&pair.one, &pair.other)).or_insert(UNTOLD);
            way.pcie = pcie(pair.ancestor()).unwrap_or(way.pcie);
            way.nvlinks = pair.nvlinks.unwrap_or(way.nvlinks);
            if way.nvlinks > 0 || pair.were_linked {
                self.linked.insert(key(&pair.one, &pair.other));
            }
        }
    }

    /// All of it, as it is told.
    pub fn to_said(&self) -> Topology {
        let node = |(uuid, numa_node): (&String, &u32)| NearNode {
            uuid: uuid.clone(),
            numa_node: *numa_node,
        };
        let pair = |((one, other), way): (&(String, String), &DeviceWay)| Pair {
            one: one.clone(),
            other: other.clone(),
            ancestor: ancestor(way.pcie).into(),
            nvlinks: Some(way.nvlinks),
            were_linked: self.linked.contains(&(one.clone(), other.clone())),
        };
        Topology {
            nodes: self.numa_nodes.iter().map(node).collect(),
            pairs: self.pairs.iter().map(pair).collect(),
        }
    }

    /// Forgets the GPUs that are not among these.
    pub fn keep_only(&mut self, uuids: &[String]) {
        self.numa_nodes.retain(|uuid, _| uuids.contains(uuid));
        self.pairs.retain(|(one, other), _| uuids.contains(one) && uuids.contains(other));
        self.linked.retain(|(one, other)| uuids.contains(one) && uuids.contains(other));
    }

    /// The host was started again: a link that does not come up then is none, and whoever took one
    /// out did so meanwhile. A GPU that does not say which are up has those that it had.
    pub fn forget_links(&mut self) {
        self.linked.clear();
    }

    /// Has devices say it, in the order in which they are.
    pub fn mark(&self, devices: &mut [Device]) {
        for position in 0..devices.len() {
            let (before, rest) = devices.split_at_mut(position);
            let Some(device) = rest.first_mut() else { continue };
            let whole = device.slice.as_ref().map_or(&device.uuid, |slice| &slice.parent);
            device.numa_node = self.numa_nodes.get(whole).copied();
            let known = before.iter().map(|other| self.between(&device.uuid, &other.uuid));
            let known: Vec<Option<DeviceWay>> = known.collect();
            // One that knows of nobody says so in no words.
            device.ways = match known.iter().any(Option::is_some) {
                true => known.into_iter().map(|way| way.unwrap_or(UNTOLD)).collect(),
                false => Vec::new(),
            };
        }
    }

    /// Those that one has NVLinks to, or had.
    pub fn linked<'a>(&'a self, uuid: &'a str) -> impl Iterator<Item = &'a str> {
        self.linked.iter().filter_map(move |(one, other)| match uuid {
            _ if uuid == one => Some(other.as_str()),
            _ if uuid == other => Some(one.as_str()),
            _ => None,
        })
    }

    fn between(&self, one: &str, other: &str) -> Option<DeviceWay> {
        self.pairs.get(&key(one, other)).copied()
    }
}

fn key(one: &str, other: &str) -> (String, String) {
    let (first, second) = if one < other { (one, other) } else { (other, one) };
    (first.to_owned(), second.to_owned())
}

fn pcie(ancestor: Ancestor) -> Option<PcieWay> {
    match ancestor {
        Ancestor::Unknown => None,
        Ancestor::Board => Some(PcieWay::Board),
        Ancestor::Switch => Some(PcieWay::Switch),
        Ancestor::Switches => Some(PcieWay::Switches),
        Ancestor::HostBridge => Some(PcieWay::HostBridge),
        Ancestor::NumaNode => Some(PcieWay::NumaNode),
        Ancestor::System => Some(PcieWay::System),
    }
}

fn ancestor(pcie: PcieWay) -> Ancestor {
    match pcie {
        PcieWay::Unknown => Ancestor::Unknown,
        PcieWay::Board => Ancestor::Board,
        PcieWay::Switch => Ancestor::Switch,
        PcieWay::Switches => Ancestor::Switches,
        PcieWay::HostBridge => Ancestor::HostBridge,
        PcieWay::NumaNode => Ancestor::NumaNode,
        PcieWay::System => Ancestor::System,
    }
}

#[cfg(test)]
mod tests {
    use berth_model::MemoryBytes;

    use super::*;

    fn pair(one: &str, other: &str, ancestor: Ancestor, nvlinks: Option<u32>) -> Pair {
        let (one, other) = (one.to_owned(), other.to_owned());
        Pair { one, other, ancestor: ancestor.into(), nvlinks, were_linked: false }
    }

    /// A NUMA node, and ways with their NVLinks.
    type Words = (Option<u32>, Vec<(PcieWay, u32)>);

    /// What devices with these uuids say, in this order.
    fn of(ways: &Ways, uuids: &[&str]) -> Vec<Words> {
        let device = |(index, uuid): (u32, &&str)| {
            Device::new((*uuid).to_owned(), index, "H100", MemoryBytes(1))
        };
        let mut devices: Vec<Device> = (0..).zip(uuids).map(device).collect();
        ways.mark(&mut devices);
        let said = |device: Device| {
            let ways = device.ways.into_iter().map(|way| (way.pcie, way.nvlinks));
            (device.numa_node, ways.collect())
        };
        devices.into_iter().map(said).collect()
    }

    #[test]
    fn a_way_is_said_once_by_the_later_of_two_whatever_their_order() {
        let mut ways = Ways::default();
        assert_eq!(of(&ways, &["a", "b"]), [(None, vec![]), (None, vec![])]);
        ways.hear(&Topology {
            nodes: vec![NearNode { uuid: "b".to_owned(), numa_node: 1 }],
            pairs: vec![
                pair("b", "a", Ancestor::Switch, Some(4)),
                pair("a", "c", Ancestor::System, None),
            ],
        });
        let (switch, system, untold) =
            ((PcieWay::Switch, 4), (PcieWay::System, 0), (PcieWay::Unknown, 0));
        let expected = [(None, vec![]), (Some(1), vec![switch]), (None, vec![system, untold])];
        assert_eq!(of(&ways, &["a", "b", "c"]), expected);
        let turned = [(None, vec![]), (Some(1), vec![]), (None, vec![system, switch])];
        assert_eq!(of(&ways, &["c", "b", "a"]), turned);
        // Nobody knows one of them.
        let expected = [(None, vec![]), (None, vec![]), (Some(1), vec![switch, untold])];
        assert_eq!(of(&ways, &["a", "z", "b"]), expected);
    }

    #[test]
    fn what_is_not_told_again_stays_and_reads_as_it_was_written() {
        let mut ways = Ways::default();
        ways.hear(&Topology {
            nodes: vec![NearNode { uuid: "a".to_owned(), numa_node: 1 }],
            pairs: vec![
                pair("a", "b", Ancestor::HostBridge, Some(2)),
                pair("b", "c", Ancestor::Board, Some(0)),
            ],
        });
        let before = ways.clone();
        ways.hear(&Topology {
            nodes: vec![],
            pairs: vec![pair("a", "b", Ancestor::Unknown, None)],
        });
        assert_eq!(ways, before);
        ways.hear(&Topology {
            nodes: vec![],
            pairs: vec![pair("b", "a", Ancestor::Unknown, Some(1))],
        });
        assert_eq!(of(&ways, &["a", "b"])[1].1, [(PcieWay::HostBridge, 1)]);
        let linked = |uuid| ways.linked(uuid).collect::<Vec<&str>>();
        assert_eq!([linked("a"), linked("b"), linked("c")], [vec!["b"], vec!["a"], vec![]]);
        // Links that go down are links of GPUs that are faulty.
        ways.hear(&Topology {
            nodes: vec![],
            pairs: vec![pair("a", "b", Ancestor::Unknown, Some(0))],
        });
        assert_eq!(of(&ways, &["a", "b"])[1].1, [(PcieWay::HostBridge, 0)]);
        assert_eq!(ways.linked("a").collect::<Vec<&str>>(), ["b"]);
        let mut read = Ways::default();
        read.hear(&ways.to_said());
        assert_eq!(read, ways);
        read.keep_only(&["b".to_owned(), "c".to_owned()]);
        let kept =
            Topology { nodes: vec![], pairs: vec![pair("b", "c", Ancestor::Board, Some(0))] };
        assert_eq!(read.to_said(), kept);
    }
}
