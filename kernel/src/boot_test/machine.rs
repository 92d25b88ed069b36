//! The virtual machine: which one boots a kernel of which architecture, and how QEMU is told.
//!
//! It has no disk, no network, and nothing of this host but three files. It prints on its first serial port (the console);
//! the guest reports on its second.

use std::ffi::OsString;
use std::time::Duration;

/// MiB that a guest has at least, whatever it is to load. Debian's kernels take some 150 of them.
const LEAST_MEMORY: u64 = 512;
/// MiB for the kernel and what its modules take, beside the initramfs and what is unpacked from it.
const FOR_THE_KERNEL: u64 = 320;
/// MiB of translated code that an emulating QEMU keeps. Its default may be 1 GiB; booting uses up less than a tenth.
const TRANSLATED: u64 = 128;

/// What a kernel of one architecture is booted in.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// `uname -m`.
    pub arch: &'static str,
    /// The QEMU that emulates it.
    pub program: &'static str,
    /// The distributions' package of that program.
    pub package: &'static str,
    /// `-M`: one with ACPI, PCI and two serial ports, since drivers look for those.
    model: &'static str,
    /// `-cpu` where it is emulated. Five levels of page tables, which nothing here needs, are four times as many walks.
    emulated_cpu: &'static str,
    /// The kernel's parameters for a console that speaks from the first moment on, and for an end that QEMU notices.
    parameters: &'static str,
    /// The guest's name of the second serial port.
    pub(super) report: &'static str,
}

/// One row an architecture. A new one needs its serial ports' names and a parameter for early messages.
static MACHINES: [Machine; 1] = [Machine {
    arch: "x86_64",
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    model: "q35",
    emulated_cpu: "max,la57=off",
    parameters: "earlyprintk=ttyS0,115200 console=ttyS0,115200 reboot=t",
    report: "/dev/ttyS1",
}];

/// The machine for an architecture as `uname -m` names it.
pub fn of_arch(arch: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|machine| machine.arch == arch)
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// This machine's CPU.
    Kvm,
    /// A program.
    Tcg,
}

impl Acceleration {
    /// QEMU's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Acceleration::Kvm => "kvm",
            Acceleration::Tcg => "tcg",
        }
    }

    /// How long a guest may be silent from its start, and how long it may take until it is ready; `None`: as long as there
    /// is time. A KVM that works has a kernel speak within half a second and be ready in two; one that hangs is to cost
    /// little, and being wrong about a slow one costs nothing but the same again, emulated.
    pub(super) fn patience(self) -> Option<Patience> {
        match self {
            Acceleration::Kvm => {
                Some(Patience { sign: Duration::from_secs(3), ready: Duration::from_secs(12) })
            }
            Acceleration::Tcg => None,
        }
    }
}

/// How long to wait for a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For its first word.
    pub sign: Duration,
    /// Until it is ready.
    pub ready: Duration,
}

/// What of a guest differs from run to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub acceleration: Acceleration,
    /// QEMU confines itself.
    pub seccomp: bool,
    /// MiB.
    pub memory: u64,
    /// The kernel loads signed modules only.
    pub sig_enforce: bool,
    /// The step of the plan to begin with.
    pub from: usize,
}

const SECCOMP: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The files that QEMU is given, all in its working directory: the image, the initramfs, and a named pipe for the report.
pub(super) const IMAGE: &str = "image";
pub(super) const INITRAMFS: &str = "initramfs";
pub(super) const REPORT: &str = "report";

/// MiB of memory for a guest with an initramfs of so many bytes: it is there twice while it is unpacked, and half of what is
/// unpacked into may be used.
pub(super) fn memory(initramfs: u64) -> u64 {
    LEAST_MEMORY.max(FOR_THE_KERNEL + 3 * initramfs.div_ceil(1 << 20))
}

impl Machine {
    /// QEMU's arguments.
    pub(super) fn arguments(&self, guest: &Guest) -> Vec<OsString> {
        let accelerator = match guest.acceleration {
            Acceleration::Kvm => "kvm".to_owned(),
            Acceleration::Tcg => format!("tcg,tb-size={TRANSLATED}"),
        };
        let cpu = match guest.acceleration {
            Acceleration::Kvm => "host",
            Acceleration::Tcg => self.emulated_cpu,
        };
        let memory = format!("{}M", guest.memory);
        // Of the kind that is only written to: QEMU would read from a "pipe" as well.
        let report = format!("file,id=report,path={REPORT}");
        let append = self.append(guest);
        let arguments = [
            // Nothing that is not asked for: no configuration of this host, no default devices, no display, no network.
            ["-no-user-config", "-nodefaults"].as_slice(),
            &["-display", "none", "-nic", "none", "-monitor", "none"],
            // QEMU itself may not start programs or become somebody else.
            if guest.seccomp { &["-sandbox", SECCOMP] } else { &[] },
            &["-M", self.model, "-accel", &accelerator, "-cpu", cpu, "-smp", "1", "-m", &memory],
            &["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"],
            &["-chardev", &report, "-serial", "chardev:report"],
            // The guest's reboot is QEMU's end.
            &["-no-reboot"],
            &["-kernel", IMAGE, "-initrd", INITRAMFS, "-append", &append],
        ];
        arguments.concat().into_iter().map(OsString::from).collect()
    }

    /// The kernel's command line. What stands behind `--` becomes the arguments of its first process.
    fn append(&self, guest: &Guest) -> String {
        let enforce = if guest.sig_enforce { " module.sig_enforce=1" } else { "" };
        format!("{} quiet panic=-1 rdinit={}{enforce} -- {}", self.parameters, super::INIT, guest.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(acceleration: Acceleration, sig_enforce: bool) -> String {
        let guest = Guest { acceleration, seccomp: true, memory: 512, sig_enforce, from: 3 };
        let arguments = of_arch("x86_64").unwrap().arguments(&guest);
        arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_guest_has_no_way_out() {
        let line = line(Acceleration::Tcg, false);
        for words in ["-nodefaults", "-no-user-config", "-nic none", "-sandbox on", "-no-reboot", "-m 512M"] {
            assert!(line.contains(words), "{words} in {line}");
        }
        for words in ["-drive", "-netdev", "-virtfs", "-device", "-fsdev"] {
            assert!(!line.contains(words), "{words} in {line}");
        }
    }

    #[test]
    fn signatures_are_enforced_where_that_is_asked_for() {
        assert!(!line(Acceleration::Tcg, false).contains("sig_enforce"));
        assert!(line(Acceleration::Tcg, true).contains(" module.sig_enforce=1 -- 3"));
    }

    #[test]
    fn emulation_and_acceleration_have_their_own_cpu() {
        assert!(line(Acceleration::Kvm, false).contains("-accel kvm -cpu host"));
        assert!(line(Acceleration::Tcg, false).contains("-accel tcg,tb-size=128 -cpu max,la57=off"));
    }

    #[test]
    fn memory_grows_with_what_is_unpacked() {
        assert_eq!(memory(20 << 20), 512);
        assert_eq!(memory(100 << 20), 620);
    }

    #[test]
    fn an_unknown_architecture_has_no_machine() {
        assert_eq!(of_arch("pdp11"), None);
    }
}
