//! A cluster with TLS is formed as `docs/operate.md` says, word for word: each
//! block of it is typed on the host that it names, which is a network namespace
//! with a `/var/lib/berth` of its own. Then a host comes back that was off for
//! longer than its certificate, and a token is taken back.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use berth::local::Child;
use berth_identity::folder::Folder;

use support::network::Network;
use support::secure::sign;

const PREFIX: &str = "10.0.0";
const TEXT: &str = include_str!("../../../docs/operate.md");

/// What is typed on a host.
#[derive(Debug)]
struct Block {
    /// The last number of its address.
    host: u32,
    way: Way,
    lines: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    ToItsEnd,
    AsAService,
}

/// The blocks of the section about forming a cluster that name a host.
fn blocks() -> Vec<Block> {
    let section = TEXT.split("\n## ").find(|part| part.starts_with("Forming a cluster")).unwrap();
    let fenced = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let named = fenced.filter_map(|text| {
        let mut lines = text.lines();
        let head = lines.next()?.strip_prefix(&format!("# on {PREFIX}."))?;
        let (host, way) = match head.split_once(", ") {
            Some((host, "as a service")) => (host, Way::AsAService),
            Some((_, other)) => {
                panic!("a block is typed in a way that this does not know: {other}")
            }
            None => (head, Way::ToItsEnd),
        };
        Some(Block { host: host.parse().unwrap(), way, lines: lines.collect() })
    });
    named.collect()
}

/// The hosts, each with a disk of its own.
struct Hosts {
    network: Network,
    folder: PathBuf,
    services: BTreeMap<u32, Child>,
    /// What was exported on a host, for what is typed later.
    exports: BTreeMap<u32, Vec<String>>,
}

impl Hosts {
    fn new(network: Network, folder: &Path, numbers: &[u32]) -> Hosts {
        for number in numbers {
            fs::create_dir_all(folder.join(number.to_string())).unwrap();
        }
        // Between namespaces that share a disk a copy is what ssh would do.
        let scp = folder.join("bin/scp");
        fs::create_dir_all(folder.join("bin")).unwrap();
        let script = format!(
            "#!/bin/sh\nhost=${{2%%:*}}\nexec cp -p \"$1\" \"{}/${{host##*.}}/${{2#*:/var/lib/berth/}}\"\n",
            folder.display(),
        );
        fs::write(&scp, script).unwrap();
        fs::set_permissions(&scp, fs::Permissions::from_mode(0o755)).unwrap();
        let folder = folder.to_owned();
        Hosts { network, folder, services: BTreeMap::new(), exports: BTreeMap::new() }
    }

    fn disk(&self, host: u32) -> PathBuf {
        self.folder.join(host.to_string())
    }

    /// Program and arguments that run a script where the host is. What is
    /// mounted there is seen by nobody else, and ends with it.
    fn wrap(&self, host: u32, script: &str) -> Vec<String> {
        let mut wrapped = self.network.wrap(host, "unshare");
        let program = Path::new(env!("CARGO_BIN_EXE_berth")).parent().unwrap();
        let path = format!("{}/bin:{}:$PATH", self.folder.display(), program.display());
        let disk = self.disk(host).display().to_string();
        let script = format!(
            "mount -t tmpfs none /var/lib && mkdir /var/lib/berth && \
             mount --bind {disk} /var/lib/berth && cd /var/lib/berth && export PATH={path} && {script}"
        );
        wrapped.extend(["--mount", "--", "sh", "-ec", &script].map(str::to_owned));
        wrapped
    }

    /// Types lines, after all that was exported there before.
    fn types(&mut self, host: u32, lines: &[&str]) -> Output {
        let exported = self.exports.entry(host).or_default();
        exported.extend(
            lines.iter().filter(|line| line.starts_with("export ")).map(|line| (*line).to_owned()),
        );
        let mut script = self.exports[&host].clone();
        script.extend(
            lines.iter().filter(|line| !line.starts_with("export ")).map(|line| (*line).to_owned()),
        );
        let mut command = Command::new("nsenter");
        command.args(self.wrap(host, &script.join("\n"))).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts a service, and waits until it says that it is one.
    async fn starts(&mut self, block: &Block) {
        let [line] = block.lines[..] else { panic!("a service is one line: {block:?}") };
        let log = self.disk(block.host).join("log");
        // What it said when it ran before.
        let _ = fs::remove_file(&log);
        let script = format!("exec {line} --stop-on-fd-close 0 2> {}", log.display());
        let arguments = self.wrap(block.host, &script);
        let child = Child::spawn(Path::new("nsenter"), line, &arguments).unwrap();
        self.services.insert(block.host, child);
        support::until(line, || async {
            let text = fs::read_to_string(&log).unwrap_or_default();
            (text.contains("scheduler serves") || text.contains("session is up")).then_some(())
        })
        .await;
    }

    async fn stops(&mut self, host: u32) {
        let mut child = self.services.remove(&host).unwrap();
        child.close();
        child.ended_or_killed().await;
    }
}

#[test]
fn a_cluster_is_formed_as_the_manual_says() {
    let test = "a_cluster_is_formed_as_the_manual_says";
    if !rustix::process::geteuid().is_root() {
        return berth_tests::skip::skipped(test, "root", "network namespaces take root");
    }
    let blocks = blocks();
    let mut numbers: Vec<u32> = blocks.iter().map(|block| block.host).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() >= 4, "the manual names hosts: {blocks:?}");
    let network = match Network::with(PREFIX, &numbers) {
        Ok(network) => network,
        Err(lack) => return berth_tests::skip::skipped(test, "netns", &lack),
    };
    let folder = tempfile::tempdir().unwrap();
    let hosts = Hosts::new(network, folder.path(), &numbers);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(follow(hosts, &blocks));
}

/// As somebody who types sees it before the next block: whoever joined votes.
async fn all_vote(hosts: &mut Hosts, host: u32, schedulers: usize) {
    let mut pause = tokio::time::interval(std::time::Duration::from_millis(100));
    for _ in 0..300 {
        pause.tick().await;
        let shown = hosts.types(host, &["berth operator status"]).stdout;
        let shown = String::from_utf8_lossy(&shown).into_owned();
        let votes = |line: &&str| line.contains("leader  ") || line.contains("follower");
        if shown.lines().filter(|line| line.contains(":7070")).filter(votes).count() == schedulers {
            return;
        }
    }
    panic!("{schedulers} schedulers did not come to have a vote");
}

async fn follow(mut hosts: Hosts, blocks: &[Block]) {
    let mut said = Vec::new();
    let mut schedulers = 0;
    for block in blocks {
        match block.way {
            Way::AsAService => {
                hosts.starts(block).await;
                schedulers += usize::from(block.lines[0].starts_with("berth scheduler"));
            }
            Way::ToItsEnd => {
                if schedulers > 1 {
                    all_vote(&mut hosts, block.host, schedulers).await;
                }
                let output = hosts.types(block.host, &block.lines);
                assert!(output.status.success(), "{block:?}: {output:?}");
                said.push(String::from_utf8(output.stdout).unwrap());
            }
        }
    }
    let last = said.last().unwrap();
    let all_three = ["1   10.0.0.1:7070", "2   10.0.0.2:7070", "3   10.0.0.3:7070"];
    assert!(all_three.iter().all(|member| last.contains(member)), "{last}");
    assert!(last.contains(" on gpu-1\n"), "{last}");

    let services: Vec<&Block> =
        blocks.iter().filter(|block| block.way == Way::AsAService).collect();
    let operator = blocks.iter().find(|block| block.way == Way::ToItsEnd).unwrap().host;
    let agent = services.iter().find(|block| block.lines[0].starts_with("berth agent")).unwrap();
    hosts.stops(agent.host).await;
    lapse(&hosts.disk(operator), &hosts.disk(agent.host));
    let before = Folder::new(hosts.disk(agent.host).join("tls")).credentials().unwrap();
    // By the same line as the first time, with a token that is of no more use.
    hosts.starts(agent).await;
    let after = Folder::new(hosts.disk(agent.host).join("tls")).credentials().unwrap();
    assert!(after.certified().expires > before.certified().expires);

    let created = hosts.types(operator, &["berth token create --role read --out reader.token"]);
    assert!(created.status.success(), "{created:?}");
    let reads = ["BERTH_TOKEN=$(cat reader.token) berth ps"];
    let allowed = hosts.types(operator, &reads);
    assert!(allowed.status.success(), "{allowed:?}");
    let revokes = ["berth token revoke $(cut -d_ -f2 reader.token)"];
    assert!(hosts.types(operator, &revokes).status.success());
    let refused = hosts.types(operator, &reads);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    for host in services.iter().rev().map(|block| block.host) {
        hosts.stops(host).await;
    }
}

/// The agent's certificate is one that ended a day ago.
fn lapse(founder: &Path, agent: &Path) {
    let authority = Folder::new(founder.join("authority")).authority().unwrap();
    let tls = Folder::new(agent.join("tls"));
    let id = tls.credentials().unwrap().certified().id;
    let certificate = sign(&authority, &id, &tls.key().unwrap(), 31);
    tls.save_certificate(&certificate, authority.certificate()).unwrap();
}
