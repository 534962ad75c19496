//! What a host's facts mean, and how to mend what is wrong: pure.

/// What was found out about a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub user: User,
    /// NVIDIA GPUs on the PCI bus; none where the bus cannot be seen.
    pub pci_gpus: usize,
    pub driver: Driver,
    pub numbers: ProcessNumbers,
    pub listed: Listed,
    /// Device nodes that work on a GPU takes, and that are not there.
    pub missing_nodes: Vec<String>,
    pub cgroups: Cgroups,
    pub confinement: Confinement,
    pub docker: Docker,
    /// The version of NVIDIA's container toolkit.
    pub toolkit: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum User {
    Root,
    Another,
}

/// Which numbers processes have here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcessNumbers {
    /// Those of the host, by which the driver names them.
    Hosts,
    /// Those of a container.
    Own,
}

/// Whether workers can be confined here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Confinement {
    Works,
    Fails { reason: String },
}

/// What the driver's library says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Driver {
    /// `bare` are in MIG mode and have no slice to offer.
    Works {
        version: String,
        gpus: usize,
        bare: usize,
    },
    Hangs,
    Unusable {
        reason: String,
    },
}

/// What the command says that lists devices of others than NVIDIA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listed {
    /// There is none.
    Nothing,
    Works {
        devices: usize,
    },
    Unusable {
        reason: String,
    },
}

/// How workers can be limited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cgroups {
    /// With these controllers.
    V2 {
        controllers: Vec<String>,
    },
    V1,
    Absent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Docker {
    /// No socket.
    Absent,
    Answers {
        version: String,
        knows_nvidia: bool,
    },
    Silent {
        reason: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    Fine,
    /// Something is not there that not everybody needs.
    Absent,
    Wrong,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// How to mend it; empty where nothing is to be mended.
    pub mend: String,
}

/// Limits of workers stand on these.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Everything that was looked at, in the order in which one mends it.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![user(facts.user), driver(facts)];
    found.extend(listed(&facts.listed));
    if facts.pci_gpus > 0 || matches!(facts.driver, Driver::Works { .. }) {
        found.push(nodes(&facts.missing_nodes));
        found.push(sharing(facts.numbers));
    }
    found.extend([cgroups(&facts.cgroups), confinement(facts)]);
    found.extend([docker(&facts.docker), toolkit(facts)]);
    found
}

fn finding(what: &'static str, verdict: Verdict, found: impl Into<String>, mend: &str) -> Finding {
    Finding { what, verdict, found: found.into(), mend: mend.to_owned() }
}

fn user(user: User) -> Finding {
    match user {
        User::Root => finding("user", Verdict::Fine, "root", ""),
        User::Another => finding(
            "user",
            Verdict::Absent,
            "not root: workers run as the agent's own user and without limits, and GPUs cannot be reset",
            "run the agent as root, and name a user for workers (agent.worker_user)",
        ),
    }
}

fn driver(facts: &Facts) -> Finding {
    let what = "NVIDIA driver";
    let on_bus = facts.pci_gpus;
    match &facts.driver {
        Driver::Works { version, gpus, bare: 0 } if *gpus >= on_bus => {
            finding(what, Verdict::Fine, format!("version {version}, {gpus} GPUs"), "")
        }
        Driver::Works { version, gpus, bare } if *gpus >= on_bus => finding(
            what,
            Verdict::Wrong,
            format!(
                "version {version}, {gpus} GPUs, of which {bare} in MIG mode have no slice to offer"
            ),
            "make slices (`nvidia-smi mig -cgi PROFILE -C`), or end MIG mode (`nvidia-smi -mig 0`)",
        ),
        Driver::Works { version, gpus, bare: _ } => finding(
            what,
            Verdict::Wrong,
            format!("version {version} shows {gpus} of {on_bus} GPUs that are on the bus"),
            "look for the reason with `dmesg | grep -i nvrm`; a GPU that has fallen off the bus comes \
             back when the host is started again",
        ),
        Driver::Hangs => finding(
            what,
            Verdict::Wrong,
            "it does not answer",
            "look for processes in state D (`ps axo pid,stat,comm | grep ' D'`) and at `dmesg`; \
             a driver that hangs is over when the host is started again",
        ),
        Driver::Unusable { reason } if on_bus == 0 => {
            finding(what, Verdict::Absent, format!("no GPU on the bus; {reason}"), "")
        }
        Driver::Unusable { reason } => finding(
            what,
            Verdict::Wrong,
            format!("{on_bus} GPUs on the bus; {reason}"),
            mend(reason),
        ),
    }
}

fn listed(listed: &Listed) -> Option<Finding> {
    let what = "devices command";
    match listed {
        Listed::Nothing => None,
        Listed::Works { devices } => {
            Some(finding(what, Verdict::Fine, format!("lists {devices} devices"), ""))
        }
        Listed::Unusable { reason } => Some(finding(
            what,
            Verdict::Wrong,
            reason.clone(),
            "run what agent.devices.command names by hand: it is to print one JSON object as in \
             docs/operate.md and to end with 0 in time",
        )),
    }
}

/// How to mend what the driver's library said.
fn mend(reason: &str) -> &'static str {
    if reason.contains("two versions") {
        "stop what uses the GPUs and load the new driver (`modprobe -r nvidia_uvm nvidia_drm \
         nvidia_modeset nvidia && modprobe nvidia`), or start the host again"
    } else if reason.contains("no NVIDIA driver is loaded") {
        "load it (`modprobe nvidia`); if that fails, `dmesg | grep -i nvrm` says why, and a kernel \
         that was upgraded needs the driver built for it"
    } else if reason.contains("is not here") {
        "install NVIDIA's driver; where its libnvidia-ml.so.1 lies elsewhere, name it in \
         agent.gpus.nvml_library"
    } else {
        "ask `nvidia-smi` and `dmesg | grep -i nvrm`"
    }
}

fn nodes(missing: &[String]) -> Finding {
    let what = "device nodes";
    if missing.is_empty() {
        return finding(what, Verdict::Fine, "all there", "");
    }
    let found = format!("{} not there", missing.join(", "));
    finding(what, Verdict::Wrong, found, "make them with `nvidia-modprobe -u -c=0`, as root")
}

fn sharing(numbers: ProcessNumbers) -> Finding {
    let what = "shared GPUs";
    match numbers {
        ProcessNumbers::Hosts => finding(what, Verdict::Fine, "memory can be watched", ""),
        ProcessNumbers::Own => finding(
            what,
            Verdict::Absent,
            "process numbers are not the host's: nobody knows who uses how much memory of a GPU \
             that several share",
            "run the agent in the host's process namespace (`--pid=host`)",
        ),
    }
}

fn cgroups(cgroups: &Cgroups) -> Finding {
    let what = "cgroups";
    match cgroups {
        Cgroups::V2 { controllers } => {
            let has = |name: &&str| controllers.iter().any(|one| one == name);
            let missing: Vec<&str> =
                CONTROLLERS.iter().copied().filter(|name| !has(name)).collect();
            if missing.is_empty() {
                return finding(what, Verdict::Fine, "version 2, with every controller", "");
            }
            let found = format!(
                "version 2, without {}: workers cannot be limited by it",
                missing.join(", ")
            );
            let mend = "have them at the root: they are in /sys/fs/cgroup/cgroup.controllers unless \
                        another hierarchy holds them or the kernel was started without \
                        (cgroup_disable=)";
            finding(what, Verdict::Absent, found, mend)
        }
        Cgroups::V1 => finding(what, Verdict::Fine, "version 1, a tree for each controller", ""),
        Cgroups::Absent => finding(
            what,
            Verdict::Wrong,
            "none are mounted",
            "mount them: `mount -t cgroup2 none /sys/fs/cgroup`",
        ),
    }
}

fn confinement(facts: &Facts) -> Finding {
    let what = "confinement";
    match (&facts.confinement, facts.user) {
        (Confinement::Works, _) => {
            finding(what, Verdict::Fine, "workers see what is theirs alone", "")
        }
        (Confinement::Fails { .. }, User::Another) => {
            finding(what, Verdict::Absent, "not to be had without root", "run the agent as root")
        }
        (Confinement::Fails { reason }, User::Root) => finding(
            what,
            Verdict::Wrong,
            format!("workers see all of this host: {reason}"),
            "it takes Linux 5.12 and the right to mount, which containers do not have by default",
        ),
    }
}

fn docker(docker: &Docker) -> Finding {
    let what = "Docker";
    match docker {
        Docker::Answers { version, .. } => {
            finding(what, Verdict::Fine, format!("version {version}"), "")
        }
        Docker::Absent => finding(
            what,
            Verdict::Absent,
            "no engine",
            "install it if it should (Debian: docker.io)",
        ),
        Docker::Silent { reason } => finding(
            what,
            Verdict::Wrong,
            format!("its socket is there and it does not answer: {reason}"),
            "start it (`systemctl start docker`); the agent's user must be in the group docker, or root",
        ),
    }
}

fn toolkit(facts: &Facts) -> Finding {
    let what = "container toolkit";
    let Docker::Answers { knows_nvidia, .. } = facts.docker else {
        return finding(what, Verdict::Absent, "not looked at without Docker", "");
    };
    match (&facts.toolkit, knows_nvidia) {
        _ if facts.pci_gpus == 0 && facts.toolkit.is_none() => {
            finding(what, Verdict::Absent, "none, and no GPU that containers could have", "")
        }
        (None, _) => finding(
            what,
            Verdict::Absent,
            "none: containers see no GPU",
            "install nvidia-container-toolkit",
        ),
        (Some(version), false) => finding(
            what,
            Verdict::Absent,
            format!("version {version}, unknown to Docker"),
            "run `nvidia-ctk runtime configure --runtime=docker` and restart Docker",
        ),
        (Some(version), true) => finding(what, Verdict::Fine, format!("version {version}"), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        Facts {
            user: User::Root,
            pci_gpus: 8,
            driver: Driver::Works { version: "570.86".to_owned(), gpus: 8, bare: 0 },
            numbers: ProcessNumbers::Hosts,
            listed: Listed::Nothing,
            missing_nodes: Vec::new(),
            cgroups: Cgroups::V2 { controllers: CONTROLLERS.map(str::to_owned).to_vec() },
            confinement: Confinement::Works,
            docker: Docker::Answers { version: "27.1".to_owned(), knows_nvidia: true },
            toolkit: Some("1.17.4".to_owned()),
        }
    }

    /// One thing is not as on a host where all is well; what is said of it.
    #[track_caller]
    fn check(
        change: impl FnOnce(&mut Facts),
        what: &str,
        verdict: Verdict,
        found: &str,
        mend: &str,
    ) {
        let mut facts = well();
        change(&mut facts);
        let findings = findings(&facts);
        let of = findings.iter().find(|one| one.what == what).unwrap();
        assert_eq!(of.verdict, verdict, "{of:?}");
        assert!(of.found.contains(found) && of.mend.contains(mend), "{of:?}");
        let mut others = findings.iter().filter(|one| one.what != what);
        assert!(others.all(|one| one.verdict != Verdict::Wrong), "{findings:?}");
    }

    #[test]
    fn nothing_is_wrong_where_all_is_well() {
        assert!(findings(&well()).iter().all(|one| one.verdict == Verdict::Fine));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_remedy() {
        use Verdict::{Absent, Wrong};
        let unusable = |reason: &str| Driver::Unusable { reason: reason.to_owned() };
        let driver = "NVIDIA driver";
        let set = |driver: Driver| move |facts: &mut Facts| facts.driver = driver;
        check(set(Driver::Hangs), driver, Wrong, "does not answer", "state D");
        let none = unusable("NVIDIA's library is not here: libnvidia-ml.so.1");
        check(set(none.clone()), driver, Wrong, "8 GPUs on the bus", "install NVIDIA's driver");
        let mismatch = unusable("the driver that runs and its library are of two versions");
        check(set(mismatch), driver, Wrong, "two versions", "modprobe -r nvidia_uvm");
        let unloaded = unusable("no NVIDIA driver is loaded");
        check(set(unloaded), driver, Wrong, "is loaded", "`modprobe nvidia`");
        let bare = Driver::Works { version: "570".to_owned(), gpus: 8, bare: 2 };
        check(set(bare), driver, Wrong, "2 in MIG mode", "nvidia-smi -mig 0");
        let fewer = Driver::Works { version: "570".to_owned(), gpus: 7, bare: 0 };
        check(set(fewer), driver, Wrong, "7 of 8 GPUs", "dmesg");
        let cpu_node = |facts: &mut Facts| (facts.pci_gpus, facts.driver) = (0, none);
        check(cpu_node, driver, Absent, "no GPU on the bus", "");
        let missing = vec!["/dev/nvidia-uvm".to_owned()];
        let unseen = |facts: &mut Facts| facts.missing_nodes = missing;
        check(unseen, "device nodes", Wrong, "/dev/nvidia-uvm not there", "nvidia-modprobe");
        let list = |listed: Listed| move |facts: &mut Facts| facts.listed = listed;
        let (what, reason) = ("devices command", "`x` ended with exit status: 3".to_owned());
        check(list(Listed::Unusable { reason }), what, Wrong, "exit status: 3", "by hand");
        check(list(Listed::Works { devices: 8 }), what, Verdict::Fine, "lists 8 devices", "");
        let own = |facts: &mut Facts| facts.numbers = ProcessNumbers::Own;
        check(own, "shared GPUs", Absent, "nobody knows who uses", "--pid=host");
        check(|facts| facts.user = User::Another, "user", Absent, "not root", "as root");
    }

    #[test]
    fn limits_and_containers_are_looked_at_as_well() {
        use Verdict::{Absent, Wrong};
        let few = Cgroups::V2 { controllers: vec!["cpu".to_owned(), "memory".to_owned()] };
        check(
            |facts| facts.cgroups = few,
            "cgroups",
            Absent,
            "without cpuset, pids",
            "controllers",
        );
        check(|facts| facts.cgroups = Cgroups::V1, "cgroups", Verdict::Fine, "version 1", "");
        check(|facts| facts.cgroups = Cgroups::Absent, "cgroups", Wrong, "none", "mount");
        let refused = Confinement::Fails { reason: "cannot hide /x: no".to_owned() };
        let unconfined = |facts: &mut Facts| facts.confinement = refused;
        check(unconfined, "confinement", Wrong, "cannot hide /x", "5.12");
        check(|facts| facts.docker = Docker::Absent, "Docker", Absent, "no engine", "docker.io");
        let silent = Docker::Silent { reason: "permission denied".to_owned() };
        check(|facts| facts.docker = silent, "Docker", Wrong, "permission denied", "group docker");
        let toolkit = "container toolkit";
        check(|facts| facts.toolkit = None, toolkit, Absent, "see no GPU", "install nvidia-con");
        let stranger = Docker::Answers { version: "27".to_owned(), knows_nvidia: false };
        check(|facts| facts.docker = stranger, toolkit, Absent, "unknown to", "nvidia-ctk runtime");
    }
}
