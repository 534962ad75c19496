//! Who listens at a port that is taken, as far as this user may see it.

use std::fs;
use std::net::SocketAddr;

/// The state of a listening socket in the kernel's tables.
const LISTENING: &str = "0A";

/// The process that listens at the port of `address`, with its name.
pub fn holder_of(address: SocketAddr) -> Option<(u32, String)> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        let mut lines = text.lines().skip(1);
        lines.find_map(|line| inode_listening(line, address.port()).map(str::to_owned))
    })?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid: u32 = pids.find(|pid| holds(*pid, &wanted))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim().to_owned()))
}

/// The inode in a line of the table, if it is of a socket that listens there.
fn inode_listening(line: &str, port: u16) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, found) = words.get(1)?.rsplit_once(':')?;
    let listens = *words.get(3)? == LISTENING && u16::from_str_radix(found, 16).ok()? == port;
    words.get(9).copied().filter(|_| listens)
}

fn holds(pid: u32, wanted: &str) -> bool {
    // Of other users' processes nothing is shown.
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| target.to_str() == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let line = "   0: 0100007F:1B9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 \
                    53911 1 0000000000000000 100 0 0 10 0";
        assert_eq!(inode_listening(line, 7070), Some("53911"));
        assert_eq!(inode_listening(line, 7071), None);
        assert_eq!(inode_listening(&line.replace(" 0A ", " 01 "), 7070), None);
        assert_eq!(inode_listening("", 7070), None);
    }

    #[test]
    fn this_process_holds_what_it_listens_at() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = holder_of(listener.local_addr().unwrap());
        assert_eq!(found.map(|(pid, _)| pid), Some(std::process::id()));
    }
}
