//! The system calls that a sandbox may not make.
//!
//! A build computes: it reads files, runs programs and writes files. It does not need what else a kernel offers to
//! unprivileged processes, and most vulnerabilities of kernels that such processes can exploit were there. So in
//! addition to the namespaces there is a filter (seccomp(2)), which `bwrap` installs before anything of the sandbox
//! runs, including its own first process there.
//!
//! It is a deny list, as Flatpak's (`flatpak-run.c`, `setup_seccomp`), because nobody can list what tools of all ages
//! and languages need. Everything that Flatpak denies is denied here, except get_mempolicy(2), which only reads, and
//! unshare(2) without a namespace. Of the calls that systemd-nspawn allows (`nspawn-seccomp.c`), mounts, host names,
//! file handles, kcmp(2) and userfaultfd(2) are also denied, because a build boots no system.
//!
//! Three errors are used, each the one that callers handle:
//!
//! - `EPERM` for old calls, as for a process without privileges;
//! - `ENOSYS` for calls that old kernels do not have, so that callers use the older ones: the C library uses clone(2)
//!   instead of clone3(2), whose flags are in memory, where no filter can read them;
//! - `EAFNOSUPPORT` for socket families, as on a kernel without them.
//!
//! The numbers are those of one architecture. A call with another's (32-bit programs on a 64-bit kernel) kills the
//! process: the kernel is 64-bit, so are the tools that build for it, and a second table of calls is additional attack
//! surface. Numbers of x32, which shares x86_64's architecture id, are answered as by a kernel without x32.
//!
//! A filter cannot see what is behind a pointer. setxattr(2) of `security.*` needs a capability that builds do not
//! have.

use std::collections::BTreeMap;
use std::io;
use std::sync::LazyLock;

use nix::libc::{self, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, sock_filter};

/// Calls denied with EPERM: a reason, and the calls.
const FORBIDDEN: &[(&str, &[c_long])] = &[
    ("keys belong to who started kcache; of keyctl see below", &[libc::SYS_add_key, libc::SYS_request_key]),
    (
        "code for the kernel",
        &[
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
            libc::SYS_bpf,
        ],
    ),
    ("large, and full of holes in the past", &[libc::SYS_perf_event_open, libc::SYS_userfaultfd]),
    (
        "into other processes: a user's builds share a uid with their sandbox's first process",
        &[
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_process_madvise,
            libc::SYS_kcmp,
        ],
    ),
    (
        "what the sandbox is made of; in a user namespace of one's own all of it would be allowed",
        &[
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_swapon,
            libc::SYS_swapoff,
        ],
    ),
    (
        "files by handle, past directories that hide them; others' accesses",
        &[
            libc::SYS_name_to_handle_at,
            libc::SYS_open_by_handle_at,
            libc::SYS_fanotify_init,
            libc::SYS_fanotify_mark,
            libc::SYS_lookup_dcookie,
        ],
    ),
    (
        "the machine: its clock, name, log, accounts, power",
        &[
            libc::SYS_reboot,
            libc::SYS_acct,
            libc::SYS_quotactl,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_clock_adjtime,
            libc::SYS_adjtimex,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_syslog,
            libc::SYS_vhangup,
            libc::SYS_nfsservctl,
        ],
    ),
    (
        "where memory lies is the administrator's to say",
        &[libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_migrate_pages, libc::SYS_move_pages],
    ),
];

/// Like [`FORBIDDEN`], calls that only one architecture has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[(&str, &[c_long])] = &[
    ("ports of the machine", &[libc::SYS_iopl, libc::SYS_ioperm]),
    ("for programs of the eighties, with holes of their own", &[libc::SYS_modify_ldt, libc::SYS_uselib]),
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[(&str, &[c_long])] = &[];

/// Calls denied with ENOSYS. From 424 on, numbers are equal on all architectures.
const ABSENT: &[(&str, &[c_long])] = &[
    ("its flags are in memory", &[libc::SYS_clone3]),
    (
        "what it does is in memory, and no filter sees it",
        &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register],
    ),
    (
        "mounts, as above: open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, open_tree_attr",
        &[428, 429, 430, 431, 432, 433, 442, 467],
    ),
    ("descriptors of other processes: pidfd_getfd", &[438]),
    ("as quotactl: quotactl_fd; as mbind: set_mempolicy_home_node", &[443, 450]),
];

/// Namespaces of clone(2) and unshare(2) (include/uapi/linux/sched.h).
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// Another namespace, whose value in clone(2)'s flags is part of the signal number.
const CLONE_NEWTIME: u64 = 0x80;

/// Allowed socket families: between processes of the sandbox, and for its empty network. Of the others, some ignore
/// network namespaces (vsock), and no build needs them.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Allowed protocols of internet sockets: those of RFC 1122, and the default. Others may load modules on demand.
const PROTOCOLS: [libc::c_int; 5] =
    [0, libc::IPPROTO_ICMP, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMPV6];

/// Socket types with these protocols, and the mask of socket(2)'s argument for them.
const KINDS: [libc::c_int; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];
const KIND: u64 = 0xf;

/// Allowed execution domains (personality(2)): Linux, its 32-bit `uname -m`, each also with fixed addresses, and the
/// query. Others map a page at address 0, or make data executable.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x0004_0000, 0x0004_0008, 0xffff_ffff];

/// ioctl(2) requests that inject input into a terminal, directly or through the console's selection.
const TYPING: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// `keyctl` operation that replaces the caller's session keyring by a new, empty one (keyctl_join_session_keyring(3)).
const JOIN_NEW: u64 = 1;

/// First number of x32's calls (`__X32_SYSCALL_BIT`).
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// The filters as the kernel takes them (`struct sock_filter`); a call must pass all of them. Made once per process.
///
/// # Errors
///
/// There is no table of numbers for this architecture. Then no sandbox is started.
pub(crate) fn filters() -> io::Result<&'static [Vec<u8>]> {
    static FILTERS: LazyLock<Result<Vec<Vec<u8>>, String>> =
        LazyLock::new(|| compile().map_err(|error| error.to_string()));
    let unfit = |error: &String| {
        let what = format!("no system call filter for {}: {error}", std::env::consts::ARCH);
        io::Error::new(io::ErrorKind::Unsupported, what)
    };
    FILTERS.as_ref().map(Vec::as_slice).map_err(unfit)
}

fn compile() -> Result<Vec<Vec<u8>>, BackendError> {
    let absent = program(all(&[ABSENT]), libc::ENOSYS)?;
    let families = program(families()?, libc::EAFNOSUPPORT)?;
    let mut forbidden = all(&[FORBIDDEN, FORBIDDEN_HERE]);
    forbidden.extend(by_argument()?);
    let forbidden = program(forbidden, libc::EPERM)?;
    let absent = without_x32(absent);
    Ok([absent, families, forbidden].iter().map(|program| bytes(program)).collect())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Rules for calls that are denied whatever their arguments.
fn all(tables: &[&[(&str, &[c_long])]]) -> Rules {
    tables.iter().flat_map(|table| table.iter()).flat_map(|(_, calls)| *calls).map(|&c| (c, vec![])).collect()
}

/// Rules for calls that are denied with certain arguments. If the kernel uses 32 bits of an argument, so does the
/// filter, because the upper ones may have any value.
fn by_argument() -> Result<Rules, BackendError> {
    let namespaces = NAMESPACES.map(|flag| flag as u64);
    let flag = |flag: &u64| rule([on(0, Qword, MaskedEq(*flag), *flag)]);
    let clone = namespaces.iter().map(flag).collect::<Result<_, _>>()?;
    let unshare = namespaces.iter().chain([&CLONE_NEWTIME]).map(flag).collect::<Result<_, _>>()?;
    let typing = TYPING.iter().map(|&request| rule([on(1, Dword, Eq, request)])).collect::<Result<_, _>>()?;
    Ok(Rules::from([
        (libc::SYS_clone, clone),
        (libc::SYS_unshare, unshare),
        (libc::SYS_ioctl, typing),
        (libc::SYS_keyctl, vec![rule([on(0, Dword, Ne, JOIN_NEW)])?, rule([on(1, Qword, Ne, 0)])?]),
        (libc::SYS_personality, vec![rule(PERSONALITIES.map(|other| on(0, Dword, Ne, other)))?]),
    ]))
}

/// Rules for sockets that do not exist in the sandbox: other families; internet protocols that are modules of their
/// own (SCTP, DCCP and the like); netlink protocols except routes, with which the C library finds addresses.
fn families() -> Result<Rules, BackendError> {
    let others = || rule(FAMILIES.map(|family| on(0, Dword, Ne, family as u64)));
    let family = |family: libc::c_int| on(0, Dword, Eq, family as u64);
    let mut sockets = vec![others()?];
    sockets.push(rule([family(libc::AF_NETLINK), on(2, Dword, Ne, libc::NETLINK_ROUTE as u64)])?);
    for internet in [libc::AF_INET, libc::AF_INET6] {
        let protocols = PROTOCOLS.map(|protocol| on(2, Dword, Ne, protocol as u64));
        let with_family = [family(internet)].into_iter().chain(protocols).collect::<Result<_, _>>()?;
        sockets.push(SeccompRule::new(with_family)?);
        for kind in (0..=KIND).filter(|&kind| !KINDS.contains(&(kind as libc::c_int))) {
            sockets.push(rule([family(internet), on(1, Dword, MaskedEq(KIND), kind)])?);
        }
    }
    Ok(Rules::from([(libc::SYS_socket, sockets), (libc::SYS_socketpair, vec![others()?])]))
}

/// A condition on an argument.
fn on(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, length, operator, value)
}

/// A rule that requires all of these conditions.
fn rule<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

fn program(rules: Rules, error: libc::c_int) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let denied = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?.try_into()
}

/// Prepends instructions that load the number and answer x32's calls with ENOSYS.
#[cfg(target_arch = "x86_64")]
fn without_x32(program: BpfProgram) -> BpfProgram {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16; // at offset 0: seccomp_data.nr
    let at_least = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let absent = u32::from(SeccompAction::Errno(libc::ENOSYS.unsigned_abs()));
    let before = [(load, 0, 0, 0), (at_least, 0, 1, X32), (give, 0, 0, absent)];
    let before = before.map(|(code, jt, jf, k)| sock_filter { code, jt, jf, k });
    before.into_iter().chain(program).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn without_x32(program: BpfProgram) -> BpfProgram {
    program
}

fn bytes(program: &[sock_filter]) -> Vec<u8> {
    let instruction = |i: &sock_filter| {
        let (code, k) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
        [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
    };
    program.iter().flat_map(instruction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filters' result for a call: the strictest one, as in the kernel (seccomp(2)).
    fn answer(arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number.to_ne_bytes(), arch.to_ne_bytes()].concat();
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let actions = filters().unwrap().iter().map(|filter| interpret(filter, &data));
        actions.min_by_key(|action| (action & 0xffff_0000).cast_signed()).unwrap()
    }

    /// Interprets the subset of classic BPF that the filters use.
    fn interpret(filter: &[u8], data: &[u8]) -> u32 {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let i = &filter[8 * at..8 * at + 8];
            let code = u32::from(u16::from_ne_bytes([i[0], i[1]]));
            let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
            let jump = |is: bool| usize::from(if is { i[2] } else { i[3] });
            at += 1;
            match code {
                0x20 => value = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
                0x05 => at += k as usize,
                0x15 => at += jump(value == k),
                0x25 => at += jump(value > k),
                0x35 => at += jump(value >= k),
                0x54 => value &= k,
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    const ARCH: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const ARCH: u32 = 0xc000_00b7;
    #[cfg(target_arch = "riscv64")]
    const ARCH: u32 = 0xc000_00f3;

    const ALLOWED: u32 = 0x7fff_0000;
    const KILLED: u32 = 0x8000_0000;

    fn error(number: i32) -> u32 {
        0x0005_0000 | number.unsigned_abs()
    }

    fn of(number: c_long, arguments: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        answer(ARCH, number.try_into().unwrap(), all)
    }

    #[test]
    fn listed_calls_are_denied_and_needed_ones_allowed() {
        for (reason, calls) in FORBIDDEN.iter().chain(FORBIDDEN_HERE) {
            for call in *calls {
                assert_eq!(of(*call, &[]), error(libc::EPERM), "{call}: {reason}");
            }
        }
        for (reason, calls) in ABSENT {
            for call in *calls {
                assert_eq!(of(*call, &[]), error(libc::ENOSYS), "{call}: {reason}");
            }
        }
        let needed = [
            libc::SYS_execve,
            libc::SYS_openat,
            libc::SYS_wait4,
            libc::SYS_setresuid,
            libc::SYS_setgroups,
            libc::SYS_capset,
            libc::SYS_prctl,
            libc::SYS_prlimit64,
            libc::SYS_futex,
            libc::SYS_copy_file_range,
            libc::SYS_statx,
            libc::SYS_fchownat,
        ];
        for call in needed {
            assert_eq!(of(call, &[]), ALLOWED, "{call}");
        }
    }

    #[test]
    fn arguments_are_compared_in_their_lower_halves() {
        let high = 0xdead_beef_0000_0000_u64;
        let socket = |family: i32, kind: i32, protocol: i32| {
            of(libc::SYS_socket, &[family, kind, protocol].map(|argument| high | u64::from(argument as u32)))
        };
        let family = |family: i32| socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(FAMILIES.iter().all(|&allowed| family(allowed) == ALLOWED));
        for other in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_PACKET, libc::AF_CAN, -1] {
            assert_eq!(family(other), error(libc::EAFNOSUPPORT), "{other}");
        }
        let denied = error(libc::EAFNOSUPPORT);
        assert_eq!(
            socket(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, libc::IPPROTO_UDP),
            ALLOWED
        );
        assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM, 132), denied, "SCTP");
        assert_eq!(socket(libc::AF_INET6, 6, 0), denied, "DCCP");
        assert_eq!(socket(libc::AF_INET, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0), denied);
        assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE), ALLOWED);
        assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT), denied);
        let thread = (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_THREAD) as u64;
        assert_eq!(of(libc::SYS_clone, &[thread]), ALLOWED);
        assert_eq!(of(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOWED);
        assert_eq!(of(libc::SYS_unshare, &[libc::CLONE_FS as u64]), ALLOWED);
        for flag in NAMESPACES {
            assert_eq!(of(libc::SYS_clone, &[high | thread | flag as u64]), error(libc::EPERM));
            assert_eq!(of(libc::SYS_unshare, &[flag as u64]), error(libc::EPERM));
        }
        assert_eq!(of(libc::SYS_unshare, &[CLONE_NEWTIME]), error(libc::EPERM));
        assert_eq!(of(libc::SYS_ioctl, &[0, high | libc::TIOCSTI]), error(libc::EPERM));
        assert_eq!(of(libc::SYS_ioctl, &[0, libc::TIOCGWINSZ]), ALLOWED);
        assert_eq!(of(libc::SYS_personality, &[0]), ALLOWED);
        assert_eq!(of(libc::SYS_personality, &[0x0040_0000]), error(libc::EPERM));
    }

    #[test]
    fn only_a_new_session_keyring_is_allowed() {
        assert_eq!(of(libc::SYS_keyctl, &[1, 0]), ALLOWED);
        assert_eq!(of(libc::SYS_keyctl, &[1, 0x1000]), error(libc::EPERM));
        for operation in (0..32).filter(|&operation| operation != 1) {
            assert_eq!(of(libc::SYS_keyctl, &[operation, 0]), error(libc::EPERM), "{operation}");
        }
    }

    #[test]
    fn calls_of_other_architectures_are_denied() {
        let i386 = answer(0x4000_0003, 26, [0; 6]); // ptrace
        assert_eq!(i386, KILLED);
        if cfg!(target_arch = "x86_64") {
            let ptrace = answer(ARCH, 0x4000_0000 | 521, [0; 6]);
            assert_eq!(ptrace, error(libc::ENOSYS));
        }
    }
}
