//! System calls that no worker needs and that have let attackers out: all that makes namespaces
//! or mounts, loads code into the kernel, reads keys, or changes the host. What Docker's engine
//! refuses by default is the model; unlike there, what is not named is allowed, for the field's
//! programs use newer calls than any list knows.

use std::collections::BTreeMap;

use libc::{ENOSYS, EPERM, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// Refused whatever is asked of them.
const DENIED: &[c_long] = &[
    // The kernel's keys, which namespaces do not part.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Code in the kernel, and looking into it.
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_perf_event_open,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    // Namespaces and mounts.
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Files by number, past every directory's rights.
    libc::SYS_open_by_handle_at,
    // The host itself.
    libc::SYS_acct,
    libc::SYS_clock_settime,
    libc::SYS_fanotify_init,
    libc::SYS_nfsservctl,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_vhangup,
];

/// Families of sockets that reach other machines' hypervisors and the kernel's ciphers.
const FAMILIES_DENIED: [i32; 2] = [libc::AF_VSOCK, libc::AF_ALG];

/// Puts words into a terminal as if they had been typed there.
const TERMINAL_DENIED: [u64; 2] = [0x5412, 0x541c];

/// Refuses them to this thread and to all that it starts.
///
/// # Errors
/// There is no filter for this processor, or the kernel has none.
pub fn deny() -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(seccompiler::Error::from)?;
    for program in programs(arch)? {
        apply_filter(&program)?;
    }
    Ok(())
}

/// x86's second way to number its calls, which the lists here say nothing of: it has none.
#[cfg(target_arch = "x86_64")]
fn other_numbers() -> Option<BpfProgram> {
    const FIRST_OF_X32: u32 = 0x4000_0000;
    let (load_number, jump_if_at_least, give) = (0x20, 0x35, 0x06);
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    Some(vec![
        step(load_number, 0, 0),
        step(jump_if_at_least, 1, FIRST_OF_X32),
        step(give, 0, libc::SECCOMP_RET_ERRNO | ENOSYS.unsigned_abs()),
        step(give, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn other_numbers() -> Option<BpfProgram> {
    None
}

fn programs(arch: TargetArch) -> Result<Vec<BpfProgram>, seccompiler::Error> {
    let refuse = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let build = |rules: BTreeMap<i64, Vec<SeccompRule>>, errno| {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse(errno), arch);
        BpfProgram::try_from(filter?)
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|number| (*number, Vec::new())).collect();
    rules.insert(libc::SYS_clone, namespaces()?);
    rules.insert(libc::SYS_socket, equal(0, FAMILIES_DENIED.map(bits))?);
    rules.insert(libc::SYS_ioctl, equal(1, TERMINAL_DENIED)?);
    // Its flags lie in memory, where no filter can look: whoever asks for it is told that there
    // is none, and takes the older one.
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let ours = [build(rules, EPERM)?, build(absent, ENOSYS)?];
    Ok(ours.into_iter().chain(other_numbers()).collect())
}

/// A child in a namespace of its own.
fn namespaces() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let flags = [
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWUTS,
    ];
    let rule = |flag: i32| {
        let flag = bits(flag);
        one(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
    };
    flags.into_iter().map(rule).collect()
}

fn equal(argument: u8, values: [u64; 2]) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let rule = |value| one(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    values.into_iter().map(rule).collect()
}

fn one(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::Error> {
    let condition = SeccompCondition::new(argument, length, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn bits(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_what_a_kernel_takes() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            let programs = programs(arch).unwrap();
            assert!(programs.iter().all(|program| (1..4096).contains(&program.len())));
        }
    }
}
