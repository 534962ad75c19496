//! Finds a host's facts out. It changes nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use berth_agent::{GpuDriver, Lister, Program, devices_listed, look_at_gpus};
use serde_json::Value;

use super::findings::{Cgroups, Confinement, Docker, Driver, Facts, Listed, ProcessNumbers, User};

/// A driver that was not in use takes seconds to wake; one that hangs never answers.
const DRIVER_PATIENCE: Duration = Duration::from_secs(15);
const DOCKER_PATIENCE: Duration = Duration::from_secs(5);
/// What an engine tells of itself is not a tenth of this.
const DOCKER_BYTES_MAX: u64 = 4 << 20;
const NVIDIA: &str = "0x10de";

/// Looks at this host; all that is named as the agent would use it.
pub async fn facts(
    nvml_library: Option<&Path>,
    lister: Option<&Lister>,
    docker_socket: &Path,
) -> Facts {
    let prober = Program::of_this_executable("gpu-prober");
    let driver = look_at_gpus(prober, nvml_library, DRIVER_PATIENCE).await;
    let mut nodes = vec!["/dev/nvidiactl".to_owned(), "/dev/nvidia-uvm".to_owned()];
    let driver = match driver {
        GpuDriver::Silent => Driver::Hangs,
        GpuDriver::Unavailable { reason } => Driver::Unusable { reason },
        GpuDriver::Works { version, minors, bare } => {
            nodes.extend(minors.iter().flatten().map(|minor| format!("/dev/nvidia{minor}")));
            Driver::Works { version, gpus: minors.len(), bare }
        }
    };
    nodes.retain(|node| !Path::new(node).exists());
    Facts {
        user: if rustix::process::geteuid().is_root() { User::Root } else { User::Another },
        pci_gpus: if in_container() { 0 } else { pci_gpus(Path::new("/sys/bus/pci/devices")) },
        driver,
        numbers: process_numbers(),
        listed: match lister.map(devices_listed) {
            None => Listed::Nothing,
            Some(Ok(devices)) => Listed::Works { devices },
            Some(Err(reason)) => Listed::Unusable { reason },
        },
        missing_nodes: nodes,
        cgroups: cgroups(Path::new("/sys/fs/cgroup")),
        confinement: match berth_agent::try_confinement() {
            Ok(()) => Confinement::Works,
            Err(reason) => Confinement::Fails { reason },
        },
        docker: docker(docker_socket),
        toolkit: toolkit(),
    }
}

/// There the bus shows GPUs of the host that are somebody else's.
fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
}

/// Display and compute devices of NVIDIA; its bridges and sound devices are none, nor is one
/// that a virtual machine has.
fn pci_gpus(bus: &Path) -> usize {
    let devices = fs::read_dir(bus).into_iter().flatten().flatten();
    let is = |device: &Path, file: &str, begin: &str| {
        fs::read_to_string(device.join(file)).is_ok_and(|text| text.starts_with(begin))
    };
    devices
        .map(|entry| entry.path())
        .filter(|device| is(device, "vendor", NVIDIA))
        .filter(|device| is(device, "class", "0x0300") || is(device, "class", "0x0302"))
        .filter(|device| {
            let driver = fs::read_link(device.join("driver")).unwrap_or_default();
            driver.file_name().is_none_or(|name| name == "nvidia")
        })
        .count()
}

/// The first namespace of processes has a number that the kernel fixes (`PROC_PID_INIT_INO`).
fn process_numbers() -> ProcessNumbers {
    match fs::read_link("/proc/self/ns/pid") {
        Ok(name) if name.as_os_str() != "pid:[4026531836]" => ProcessNumbers::Own,
        Ok(_) | Err(_) => ProcessNumbers::Hosts,
    }
}

fn cgroups(root: &Path) -> Cgroups {
    if let Ok(text) = fs::read_to_string(root.join("cgroup.controllers")) {
        return Cgroups::V2 { controllers: text.split_whitespace().map(str::to_owned).collect() };
    }
    // A hierarchy for each controller.
    if root.join("memory").is_dir() { Cgroups::V1 } else { Cgroups::Absent }
}

fn docker(socket: &Path) -> Docker {
    if !socket.exists() {
        return Docker::Absent;
    }
    let asked = ask(socket, "/version").and_then(|version| Ok((version, ask(socket, "/info")?)));
    match asked {
        Ok((version, info)) => Docker::Answers {
            version: version["Version"].as_str().unwrap_or("unknown").to_owned(),
            knows_nvidia: info["Runtimes"].get("nvidia").is_some(),
        },
        Err(error) => Docker::Silent { reason: error.to_string() },
    }
}

/// One question in HTTP/1.0, whose answer ends with the connection.
fn ask(socket: &Path, path: &str) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DOCKER_PATIENCE))?;
    stream.set_write_timeout(Some(DOCKER_PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(DOCKER_BYTES_MAX).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(std::io::Error::other)
}

fn toolkit() -> Option<String> {
    let output = Command::new("nvidia-ctk").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Some(version.unwrap_or("unknown").to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_gpus_of_nvidia_count() {
        let bus = tempfile::tempdir().unwrap();
        for (name, vendor, class) in [
            ("0000:01:00.0", "0x10de\n", "0x030200\n"),
            ("0000:02:00.0", "0x10de\n", "0x030000\n"),
            ("0000:03:00.0", "0x10de\n", "0x068000\n"),
            ("0000:04:00.0", "0x8086\n", "0x030000\n"),
        ] {
            let device = bus.path().join(name);
            fs::create_dir(&device).unwrap();
            fs::write(device.join("vendor"), vendor).unwrap();
            fs::write(device.join("class"), class).unwrap();
        }
        assert_eq!(pci_gpus(bus.path()), 2);
        assert_eq!(pci_gpus(&bus.path().join("nowhere")), 0);
    }

    #[test]
    fn both_versions_of_cgroups_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(cgroups(root.path()), Cgroups::Absent);
        fs::create_dir(root.path().join("memory")).unwrap();
        assert_eq!(cgroups(root.path()), Cgroups::V1);
        fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let controllers = vec!["cpu".to_owned(), "memory".to_owned()];
        assert_eq!(cgroups(root.path()), Cgroups::V2 { controllers });
    }

    #[test]
    fn an_engine_is_asked_and_one_that_talks_nonsense_is_silent() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        assert_eq!(docker(&socket), Docker::Absent);
        let listener = UnixListener::bind(&socket).unwrap();
        let answers = ["{\"Version\":\"27.1\"}", "{\"Runtimes\":{\"nvidia\":{}}}", "no JSON"];
        let serving = std::thread::spawn(move || {
            for body in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    asked.extend(byte);
                }
                assert!(asked.starts_with(b"GET /"));
                write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
            }
        });
        let version = "27.1".to_owned();
        assert_eq!(docker(&socket), Docker::Answers { version, knows_nvidia: true });
        assert!(matches!(docker(&socket), Docker::Silent { .. }));
        serving.join().unwrap();
    }
}
