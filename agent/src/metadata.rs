//! Clouds tell each of their machines, on an address that only it can ask, who it is and often
//! with which credentials it may speak for its owner. Workers are not the machine: theirs is
//! refused by a rule of the kernel's routes for their user. It refuses the tenant's HTTP alone,
//! for some clouds answer questions for names on the same address.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

/// Whether workers may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MetadataService {
    #[default]
    Refused,
    Open,
}

/// Where clouds answer: the common one; Amazon's for containers and for version 6; Alibaba's;
/// Azure's own to its machines, at two ports.
const SERVICES: [(&str, u16); 6] = [
    ("169.254.169.254", 80),
    ("169.254.170.2", 80),
    ("fd00:ec2::254", 80),
    ("100.100.100.200", 80),
    ("168.63.129.16", 80),
    ("168.63.129.16", 32526),
];
/// Before every rule that hosts are given by hand, behind that of their own addresses.
const PRIORITY: &str = "7073";
/// Where the kernel tells of its addresses of version 6, if it has any.
const VERSION_6: &str = "/proc/net/if_inet6";
/// What iproute2 says of a rule that is there.
const IS_THERE: &str = "File exists";
/// What it says of a route that a rule refuses.
const IS_REFUSED: &str = "Permission denied";

/// The program that changes the host's routes.
pub const IP: [&str; 1] = ["ip"];

/// Sees to it that this user's processes are refused, through a command that changes routes:
/// iproute2's `ip` on a host. The rules stay after the agent's end, as its workers do. Blocks for some
/// milliseconds.
///
/// # Errors
/// In words, also if a rule is there and does not do what it should.
pub fn refuse_metadata_service(program: &[&str], uid: u32) -> Result<(), String> {
    Host { program }.refuse_to(uid)
}

/// Takes such rules away again, where there are any.
pub fn allow_metadata_service(program: &[&str], uid: u32) {
    let host = Host { program };
    for (address, port) in services() {
        // That there is none is as good, and so is a host without the program.
        let _ = host.run(&rule("del", address, port, uid));
    }
}

/// Whether a cloud tells its machines who they are at this address.
pub fn answers_at(address: IpAddr) -> bool {
    services().any(|(service, _)| service == address)
}

fn services() -> impl Iterator<Item = (IpAddr, u16)> {
    SERVICES.iter().filter_map(|(address, port)| Some((address.parse().ok()?, *port)))
}

/// A host's routes, by the program that changes them.
struct Host<'a> {
    program: &'a [&'a str],
}

impl Host<'_> {
    fn refuse_to(&self, uid: u32) -> Result<(), String> {
        for (address, port) in services() {
            let said = self.run(&rule("add", address, port, uid)).map_err(in_words)?;
            match said {
                None => {}
                Some(problem) if problem.contains(IS_THERE) => {}
                // A kernel without version 6 asks nobody there.
                Some(_) if address.is_ipv6() && !Path::new(VERSION_6).exists() => continue,
                Some(problem) => return Err(problem),
            }
            self.check(address, port, uid)?;
        }
        Ok(())
    }

    /// Asks the kernel which way the user's question would go.
    fn check(&self, address: IpAddr, port: u16, uid: u32) -> Result<(), String> {
        let asked = words(&format!("route get {address} uid {uid} ipproto tcp dport {port}"));
        match self.run(&asked).map_err(in_words)? {
            Some(problem) if problem.contains(IS_REFUSED) || is_nowhere(&problem) => Ok(()),
            Some(problem) => Err(problem),
            None => Err(format!("{address} can be asked in spite of a rule against it")),
        }
    }

    /// What the program complains of, if it does.
    fn run(&self, arguments: &[String]) -> io::Result<Option<String>> {
        let [program, before @ ..] = self.program else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let output = Command::new(program).args(before).args(arguments).output()?;
        let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((!output.status.success()).then(said))
    }
}

fn in_words(error: io::Error) -> String {
    format!("run iproute2's `ip`: {error}")
}

/// A host that has no way there needs no rule.
fn is_nowhere(problem: &str) -> bool {
    problem.contains("unreachable")
}

fn rule(order: &str, address: IpAddr, port: u16, uid: u32) -> Vec<String> {
    let family = if address.is_ipv6() { "-6" } else { "-4" };
    let of_user = format!("uidrange {uid}-{uid} ipproto tcp dport {port} prohibit");
    words(&format!("{family} rule {order} priority {PRIORITY} to {address} {of_user}"))
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}
