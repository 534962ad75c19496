//! The address on which clouds tell a machine its secrets, asked by workers.

use std::process::Command;

use berth_agent::refuse_metadata_service;

use crate::harness::skip;

fn sh(script: &str) -> std::process::Output {
    Command::new("sh").args(["-c", script]).output().unwrap()
}

/// Two network namespaces with a wire between them, and the cloud at its other end.
struct Cloud {
    host: String,
    cloud: String,
}

impl Cloud {
    fn make() -> Option<Cloud> {
        let pid = std::process::id();
        let (host, cloud) = (format!("berth-md-{pid}"), format!("berth-mc-{pid}"));
        let made = sh(&format!(
            "set -e; ip netns add {host}; ip netns add {cloud}
             ip -n {host} link add wire type veth peer name wire netns {cloud}
             ip -n {host} address add 10.99.0.1/24 dev wire; ip -n {host} link set wire up
             ip -n {cloud} address add 10.99.0.2/24 dev wire
             ip -n {cloud} address add 169.254.169.254/32 dev wire; ip -n {cloud} link set wire up
             ip -n {host} route add default via 10.99.0.2"
        ));
        let there = Cloud { host, cloud };
        made.status.success().then_some(there)
    }

    /// What a user is told who asks.
    fn ask(&self, uid: u32, port: u16) -> String {
        let asked = sh(&format!(
            "ip netns exec {} setpriv --reuid {uid} --clear-groups bash -c \
             'echo > /dev/tcp/169.254.169.254/{port}'",
            self.host
        ));
        String::from_utf8_lossy(&asked.stderr).into_owned()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        sh(&format!("ip netns del {}; ip netns del {}", self.host, self.cloud));
    }
}

#[test]
fn the_users_questions_are_refused_and_nobody_elses() {
    let Some(cloud) = Cloud::make() else {
        skip("netns", "the agent's test of the metadata address needs network namespaces");
        return;
    };
    let before = cloud.ask(65534, 80);
    assert!(before.contains("refused"), "nobody listens there: {before}");
    for _ in 0..2 {
        refuse_metadata_service(&["ip", "netns", "exec", &cloud.host, "ip"], 65534).unwrap();
    }
    let denied = cloud.ask(65534, 80);
    assert!(denied.contains("Permission denied"), "{denied}");
    assert!(cloud.ask(65534, 53).contains("refused"), "names are asked for there");
    assert!(cloud.ask(65533, 80).contains("refused"), "another user");
    assert!(cloud.ask(0, 80).contains("refused"));
}
