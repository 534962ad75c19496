//! How the GPUs of a host reach each other, as NVML tells it. Runs in the prober only.

use std::collections::BTreeMap;

use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::nvml::had;
use super::said::{Ancestor, GpuLook, NearNode, Pair, Topology};

/// No GPU has more NVLinks (`NVML_NVLINK_MAX_LINKS`).
const NVLINKS_MAX: u32 = 18;
/// Room for the numbers of 256 NUMA nodes.
const NODE_WORDS: usize = 4;
/// `NVML_AFFINITY_SCOPE_NODE`.
const NEAREST_NODE: u32 = 0;

/// A GPU, and where its NVLinks lead to.
struct End<'nvml> {
    uuid: String,
    index: u32,
    device: Device<'nvml>,
    /// `None` if it does not say now.
    nvlinks: Option<Nvlinks>,
}

/// How many of a GPU's NVLinks are up.
#[derive(Default)]
struct Nvlinks {
    /// Straight to other GPUs, by their place on the bus.
    straight: BTreeMap<String, u32>,
    /// To a switch, or to something that a guest is not told of.
    elsewhere: u32,
}

/// Asks how these GPUs, which have just answered, reach each other. What fails is left out.
pub fn topology(nvml: &Nvml, gpus: &[GpuLook]) -> Topology {
    let buses: Vec<String> = gpus.iter().map(|gpu| gpu.bus.to_lowercase()).collect();
    let ends: Vec<(End<'_>, &str)> = gpus
        .iter()
        .zip(&buses)
        .filter_map(|(gpu, bus)| {
            let device = nvml.device_by_index(gpu.index).ok()?;
            let nvlinks = nvlinks(&device, &buses).ok();
            let end = End { uuid: gpu.uuid.clone(), index: gpu.index, device, nvlinks };
            Some((end, bus.as_str()))
        })
        .collect();
    let near = |end: &End<'_>| {
        let numa_node = numa_node(&end.device)?;
        Some(NearNode { uuid: end.uuid.clone(), numa_node })
    };
    let mut pairs = Vec::new();
    for (position, (one, _)) in ends.iter().enumerate() {
        for (other, bus) in &ends[..position] {
            pairs.push(Pair {
                one: one.uuid.clone(),
                other: other.uuid.clone(),
                ancestor: ancestor(nvml, &one.device, other.index).into(),
                nvlinks: nvlinks_between(one, other, bus),
                were_linked: false,
            });
        }
    }
    Topology { nodes: ends.iter().filter_map(|(end, _)| near(end)).collect(), pairs }
}

/// The only node of the host's memory that is nearest; `None` where there are several.
fn numa_node(device: &Device<'_>) -> Option<u32> {
    let words = device.memory_affinity(NODE_WORDS, NEAREST_NODE).ok()?;
    only_bit(&words)
}

fn only_bit(words: &[u64]) -> Option<u32> {
    let mut bits = (0..).zip(words).filter(|(_, word)| **word != 0);
    let (position, word) = bits.next()?;
    let is_only = word.is_power_of_two() && bits.next().is_none();
    is_only.then(|| position * u64::BITS + word.trailing_zeros())
}

fn ancestor(nvml: &Nvml, one: &Device<'_>, other: u32) -> Ancestor {
    let other = nvml.device_by_index(other);
    match other.and_then(|other| one.topology_common_ancestor(other)) {
        Ok(TopologyLevel::Internal) => Ancestor::Board,
        Ok(TopologyLevel::Single) => Ancestor::Switch,
        Ok(TopologyLevel::Multiple) => Ancestor::Switches,
        Ok(TopologyLevel::HostBridge) => Ancestor::HostBridge,
        Ok(TopologyLevel::Node) => Ancestor::NumaNode,
        Ok(TopologyLevel::System) => Ancestor::System,
        Err(_) => Ancestor::Unknown,
    }
}

/// # Errors
/// It does not say which are up: a GPU that is faulty has not lost its links by that.
fn nvlinks(device: &Device<'_>, buses: &[String]) -> Result<Nvlinks, NvmlError> {
    let mut found = Nvlinks::default();
    for number in 0..NVLINKS_MAX {
        let link = device.link_wrapper_for(number);
        if !had(link.is_active())?.unwrap_or(false) {
            continue;
        }
        let end = link.remote_pci_info().map(|pci| pci.bus_id.to_lowercase());
        match end.ok().filter(|end| buses.contains(end)) {
            Some(bus) => *found.straight.entry(bus).or_default() += 1,
            None => found.elsewhere += 1,
        }
    }
    Ok(found)
}

/// Straight ones, or those to switches where the driver says that the two reach each other
/// over them: as `nvidia-smi topo -m` counts. `None` where it does not say.
fn nvlinks_between(one: &End<'_>, other: &End<'_>, bus: &str) -> Option<u32> {
    let (links, others) = (one.nvlinks.as_ref()?, other.nvlinks.as_ref()?);
    if let Some(count) = links.straight.get(bus) {
        return Some(*count);
    }
    let most = links.elsewhere.min(others.elsewhere);
    if most == 0 {
        return Some(0);
    }
    match one.device.p2p_status(&other.device, P2pCapabilitiesIndex::NvLink) {
        Ok(P2pStatus::Ok) => Some(most),
        Ok(_) => Some(0),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::only_bit;

    #[test]
    fn a_node_is_the_nearest_if_it_is_the_only_one() {
        for (words, node) in [
            (&[0b1, 0, 0][..], Some(0)),
            (&[0b1000, 0], Some(3)),
            (&[0, 0b100], Some(66)),
            (&[0b11, 0], None),
            (&[1, 1], None),
            (&[0, 0], None),
            (&[], None),
        ] {
            assert_eq!(only_bit(words), node, "{words:?}");
        }
    }
}
