//! A network of its own for each scheduler: namespaces joined by a bridge in
//! one more, where the test itself is. Each namespace is held by a process that
//! ends with the pipe from this one, so that nothing of it outlives the test,
//! however that ends. Takes root, `ip` and `nft`.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Inside the namespaces only; the machine's own network does not see it.
const NETWORK: &str = "10.213.77";

/// Nodes have the number that their address ends with.
pub struct Network {
    hub: Namespace,
    nodes: BTreeMap<u32, Namespace>,
}

struct Namespace {
    holder: Child,
}

impl Network {
    /// Makes namespaces for nodes that are numbered from 1, and moves the calling
    /// thread to the hub.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn make(nodes: u32) -> Result<Network, String> {
        let numbers: Vec<u32> = (1..=nodes).collect();
        Network::with(NETWORK, &numbers)
    }

    /// The same for these nodes, whose addresses begin with `prefix`.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn with(prefix: &str, numbers: &[u32]) -> Result<Network, String> {
        let hub = Namespace::new()?;
        hub.run("ip", "link set lo up")?;
        hub.run("ip", "link add bridge type bridge")?;
        hub.run("ip", &format!("address add {prefix}.254/24 dev bridge"))?;
        hub.run("ip", "link set bridge up")?;
        let mut network = Network { hub, nodes: BTreeMap::new() };
        for number in numbers {
            network.add_node(*number, &format!("{prefix}.{number}"))?;
        }
        let path = network.hub.path();
        let namespace = File::open(&path).map_err(|error| format!("open {path}: {error}"))?;
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(|error| format!("enter {path}: {error}"))?;
        Ok(network)
    }

    fn add_node(&mut self, number: u32, address: &str) -> Result<(), String> {
        let node = Namespace::new()?;
        let pid = node.holder.id();
        let port = format!("port{number}");
        let pair = format!("link add {port} type veth peer name uplink netns {pid}");
        self.hub.run("ip", &pair)?;
        self.hub.run("ip", &format!("link set {port} master bridge up"))?;
        node.run("ip", "link set lo up")?;
        node.run("ip", &format!("address add {address}/24 dev uplink"))?;
        node.run("ip", "link set uplink up")?;
        node.run("nft", "add table inet cut")?;
        let chain = "add chain inet cut heard { type filter hook input priority 0; }";
        node.run("nft", chain)?;
        self.nodes.insert(number, node);
        Ok(())
    }

    /// The address of a node.
    pub fn address(number: u32) -> String {
        format!("{NETWORK}.{number}")
    }

    /// Program and arguments that run `program` where the node is.
    pub fn wrap(&self, number: u32, program: &str) -> Vec<String> {
        let namespace = &self.nodes[&number];
        vec![format!("--net={}", namespace.path()), program.to_owned()]
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn drop_packets(&self, from: u32, to: u32) {
        let rule = format!("add rule inet cut heard ip saddr {} drop", Network::address(from));
        self.nodes[&to].run("nft", &rule).unwrap();
    }

    /// Everybody reaches everybody again.
    pub fn heal(&self) {
        for node in self.nodes.values() {
            node.run("nft", "flush chain inet cut heard").unwrap();
        }
    }
}

impl Namespace {
    fn new() -> Result<Namespace, String> {
        // Says that it stands, then waits for the end of its standard input.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; exec cat >/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = command.spawn().map_err(|error| format!("start unshare: {error}"))?;
        let mut said = [0];
        let out = holder.stdout.as_mut().ok_or("unshare has no output")?;
        let read = std::io::Read::read(out, &mut said);
        match read {
            Ok(1) => Ok(Namespace { holder }),
            Ok(_) | Err(_) => Err("unshare makes no network namespace".to_owned()),
        }
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn run(&self, program: &str, arguments: &str) -> Result<(), String> {
        let what = format!("{program} {arguments}");
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.path()))
            .arg(program)
            .args(arguments.split(' '))
            .output()
            .map_err(|error| format!("start nsenter: {error}"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{what}: {}", complaint.trim())) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It has nothing left to read.
        let _ = self.holder.wait();
    }
}
