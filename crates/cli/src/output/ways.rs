//! How the GPUs of a node reach each other, with the words of `nvidia-smi topo -m`.

use berth_proto::v1::{Device, DeviceWay, PcieWay};
use serde_json::{Value, json};

const APART: &str = "  ";

/// The way between two devices of a node's list, if anybody says it.
fn between(devices: &[Device], one: usize, other: usize) -> Option<&DeviceWay> {
    devices.get(one.max(other))?.ways.get(one.min(other))
}

fn pcie_name(way: &DeviceWay) -> &'static str {
    match way.pcie() {
        PcieWay::Board => "board",
        PcieWay::Switch => "switch",
        PcieWay::Switches => "switches",
        PcieWay::HostBridge => "host-bridge",
        PcieWay::NumaNode => "numa-node",
        PcieWay::System => "system",
        PcieWay::Unknown | PcieWay::Unspecified => "unknown",
    }
}

fn short(way: &DeviceWay) -> String {
    if way.nvlinks > 0 {
        return format!("NV{}", way.nvlinks);
    }
    let pcie = match way.pcie() {
        PcieWay::Board => "PSB",
        PcieWay::Switch => "PIX",
        PcieWay::Switches => "PXB",
        PcieWay::HostBridge => "PHB",
        PcieWay::NumaNode => "NODE",
        PcieWay::System => "SYS",
        PcieWay::Unknown | PcieWay::Unspecified => "?",
    };
    pcie.to_owned()
}

/// What one device reaches, and how.
pub(super) fn links_json(devices: &[Device], uuid: &str) -> Value {
    let Some(here) = devices.iter().position(|device| device.uuid == uuid) else {
        return json!([]);
    };
    let link = |(there, peer): (usize, &Device)| {
        let way = between(devices, here, there).filter(|_| here != there)?;
        Some(json!({
            "uuid": peer.uuid,
            "index": peer.index,
            "pcie": pcie_name(way),
            "nvlinks": way.nvlinks,
        }))
    };
    devices.iter().enumerate().filter_map(link).collect()
}

/// The same in one line; `None` if nobody says.
pub(super) fn links_line(devices: &[Device], uuid: &str) -> Option<String> {
    let here = devices.iter().position(|device| device.uuid == uuid)?;
    let link = |(there, peer): (usize, &Device)| {
        let way = between(devices, here, there).filter(|_| here != there)?;
        Some(format!("GPU {} {}", peer.index, short(way)))
    };
    let links: Vec<String> = devices.iter().enumerate().filter_map(link).collect();
    (!links.is_empty()).then(|| format!("reaches: {}", links.join(", ")))
}

/// All of them against each other; `None` if nobody says.
pub(super) fn matrix(devices: &[Device]) -> Option<String> {
    if devices.iter().all(|device| device.ways.is_empty()) {
        return None;
    }
    let name = |device: &Device| format!("GPU{}", device.index);
    let heads = [String::new()].into_iter().chain(devices.iter().map(name));
    let mut rows = vec![heads.chain(["NUMA".to_owned()]).collect::<Vec<String>>()];
    for (here, device) in devices.iter().enumerate() {
        let way = |there| match between(devices, here, there) {
            _ if here == there => "X".to_owned(),
            Some(way) => short(way),
            None => "?".to_owned(),
        };
        let numa = device.numa_node.map_or_else(|| "?".to_owned(), |node| node.to_string());
        let cells = [name(device)].into_iter().chain((0..devices.len()).map(way));
        rows.push(cells.chain([numa]).collect());
    }
    let width = rows.iter().flatten().map(String::len).max().unwrap_or(0);
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().map(|cell| format!("{cell:<width$}")).collect();
        cells.join(APART).trim_end().to_owned()
    };
    Some(rows.iter().map(line).collect::<Vec<String>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, numa_node: Option<u32>, ways: &[(PcieWay, u32)]) -> Device {
        let way = |(pcie, nvlinks): &(PcieWay, u32)| DeviceWay {
            pcie: i32::from(*pcie),
            nvlinks: *nvlinks,
        };
        let uuid = format!("GPU-{index}");
        Device { uuid, index, numa_node, ways: ways.iter().map(way).collect(), ..Device::default() }
    }

    #[test]
    fn the_matrix_is_symmetric_and_says_what_nobody_knows() {
        let nobody = [device(0, Some(0), &[]), device(1, None, &[])];
        assert_eq!(matrix(&nobody), None);
        assert_eq!(links_line(&nobody, "GPU-0"), None);
        let devices = [
            device(0, Some(0), &[]),
            device(1, Some(0), &[(PcieWay::Switch, 18)]),
            device(2, Some(1), &[(PcieWay::System, 0), (PcieWay::NumaNode, 0)]),
            device(10, None, &[]),
        ];
        let expected = [
            "       GPU0   GPU1   GPU2   GPU10  NUMA",
            "GPU0   X      NV18   SYS    ?      0",
            "GPU1   NV18   X      NODE   ?      0",
            "GPU2   SYS    NODE   X      ?      1",
            "GPU10  ?      ?      ?      X      ?",
        ];
        assert_eq!(matrix(&devices).unwrap().lines().collect::<Vec<&str>>(), expected);
        assert_eq!(links_line(&devices, "GPU-1").unwrap(), "reaches: GPU 0 NV18, GPU 2 NODE");
        let links = links_json(&devices, "GPU-2");
        let system = json!({ "uuid": "GPU-0", "index": 0, "pcie": "system", "nvlinks": 0 });
        assert_eq!((&links[0], links.as_array().unwrap().len()), (&system, 2));
        assert_eq!(links_json(&devices, "GPU-9"), json!([]));
    }
}
