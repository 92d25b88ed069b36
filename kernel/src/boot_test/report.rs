//! A guest's report, and the verdicts that follow from it.
//!
//! The guest writes one JSON object per line to its second serial port; the kernel prints to the first. The report is
//! untrusted: invalid lines are ignored, and numbers are checked against the plan.

use serde::{Deserialize, Serialize};

use super::plan::LoadPlan;

/// A line of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The first process has started.
    Ready {
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
    /// A module is about to be loaded.
    Testing {
        /// Index in [`LoadPlan::steps`].
        step: usize,
    },
    /// Loading and unloading a module has ended.
    Tested(Tested),
    /// The first process failed.
    Trouble {
        /// The error.
        what: String,
    },
}

/// Observations while a module was loaded and unloaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// Index in [`LoadPlan::steps`].
    pub step: usize,
    /// A required module that failed to load, and how.
    pub lacking: Option<(usize, GuestEnd)>,
    /// How loading ended; `None` if it was not tried.
    pub loading: Option<GuestEnd>,
    /// Whether `/proc/modules` listed the module after loading.
    pub listed: bool,
    /// How unloading ended; `None` if it was not tried.
    pub unloading: Option<GuestEnd>,
    /// `/proc/sys/kernel/tainted` before and after.
    pub tainted: (u64, u64),
    /// `/sys/module/NAME/taint`: letters.
    pub taints: String,
    /// Lines of the kernel's log since before its first dependency was loaded.
    pub log: Vec<String>,
    /// What the kernel requested meanwhile (`request_module`) that the guest did not have.
    #[serde(default)]
    pub requested: Vec<String>,
    /// Duration of loading, in seconds.
    pub seconds: f64,
}

/// How a system call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestEnd {
    /// With success.
    Well,
    /// With this errno.
    Errno(i32),
    /// Not at all: its process was killed, as the kernel does after an oops.
    Killed,
}

/// Verdict on a module. The words are printed, and part of the JSON: never change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestState {
    /// It loads and runs.
    Loads,
    /// It loads, but found none of its hardware.
    NoDevice,
    /// It loads, but the kernel printed a warning.
    Warns,
    /// It does not load.
    Fails,
    /// It was not tested.
    Untested,
}

impl TestState {
    /// The word in output and JSON.
    pub fn word(self) -> &'static str {
        match self {
            TestState::Loads => "loads",
            TestState::NoDevice => "no-device",
            TestState::Warns => "warns",
            TestState::Fails => "fails",
            TestState::Untested => "untested",
        }
    }

    /// Whether the kernel can be booted as far as this module is concerned.
    pub fn is_good(self) -> bool {
        matches!(self, TestState::Loads | TestState::NoDevice)
    }
}

/// Verdict on one module, with details.
#[derive(Clone, Debug, PartialEq)]
pub struct TestVerdict {
    /// The verdict itself.
    pub state: TestState,
    /// The reason, if it is not good or there is more to say.
    pub error: Option<String>,
    /// Lines of the kernel's log.
    pub log: Vec<String>,
    /// Letters of the module's taints (Documentation/admin-guide/tainted-kernels.rst), with those of a warning or an
    /// oops if there was one.
    pub taints: String,
    /// Whether unloading succeeded.
    pub unloaded: bool,
    /// Duration of loading, in seconds.
    pub seconds: f64,
}

impl TestVerdict {
    /// The verdict on a module whose test did not complete.
    pub(super) fn of_nothing(state: TestState, error: String, log: Vec<String>) -> TestVerdict {
        TestVerdict { state, error: Some(error), log, taints: String::new(), unloaded: false, seconds: 0.0 }
    }
}

/// Bits of `tainted` for faults, and their letters: bad page, oops, warning, soft lockup.
const FAULTS: [(u32, char); 4] = [(5, 'B'), (7, 'D'), (9, 'W'), (14, 'L')];
/// ENODEV and ENXIO, which drivers return if their hardware is missing.
const NO_DEVICE: [i32; 2] = [19, 6];
/// EBUSY and EWOULDBLOCK, for a module that cannot be unloaded, or not now.
const IN_USE: [i32; 2] = [16, 11];
/// Beginnings of the kernel's warnings. The taint of a first warning stays, so it does not show a second one.
const COMPLAINTS: [&str; 7] =
    ["WARNING:", "BUG:", "kernel BUG at", "Oops:", "general protection fault", "[ cut here ]", "UBSAN:"];

impl Tested {
    /// Derives the verdict.
    pub fn verdict(&self, plan: &LoadPlan) -> TestVerdict {
        let (state, error) = self.judge(plan);
        let faults = self.faults().map(|(_, letter)| letter);
        let mut taints: String = self.taints.chars().filter(char::is_ascii_alphabetic).collect();
        taints.extend(faults.filter(|letter| !self.taints.contains(*letter)));
        TestVerdict {
            state,
            error,
            log: self.log.clone(),
            taints,
            unloaded: self.unloading == Some(GuestEnd::Well),
            seconds: self.seconds,
        }
    }

    fn judge(&self, plan: &LoadPlan) -> (TestState, Option<String>) {
        let complaint = self.complaint();
        if let Some((step, ended)) = self.lacking {
            let name = plan.steps.get(step).map_or("?", |step| step.name.as_str());
            // Without its hardware a dependency does not stay loaded, so the module cannot be tested.
            let state = match ended {
                GuestEnd::Errno(errno) if NO_DEVICE.contains(&errno) => TestState::NoDevice,
                _ => TestState::Fails,
            };
            return (state, Some(format!("dependency {name} does not load: {}", words(ended))));
        }
        match self.loading {
            None => (TestState::Fails, Some("not loaded".to_owned())),
            Some(GuestEnd::Errno(errno)) if NO_DEVICE.contains(&errno) => match complaint {
                Some(complaint) => (TestState::Warns, Some(complaint)),
                None => (TestState::NoDevice, Some(words(GuestEnd::Errno(errno)))),
            },
            Some(ended @ (GuestEnd::Errno(_) | GuestEnd::Killed)) => (TestState::Fails, Some(words(ended))),
            Some(GuestEnd::Well) => self.judge_loaded(complaint),
        }
    }

    fn judge_loaded(&self, complaint: Option<String>) -> (TestState, Option<String>) {
        if let Some(complaint) = complaint {
            return (TestState::Warns, Some(complaint));
        }
        match self.unloading {
            _ if !self.listed => (TestState::Fails, Some("loaded, but not in /proc/modules".to_owned())),
            Some(GuestEnd::Errno(errno)) if !IN_USE.contains(&errno) => {
                (TestState::Warns, Some(format!("unload: {}", words(GuestEnd::Errno(errno)))))
            }
            Some(GuestEnd::Killed) => {
                (TestState::Warns, Some(format!("unload: {}", words(GuestEnd::Killed))))
            }
            _ => (TestState::Loads, None),
        }
    }

    /// Faults that have newly tainted the kernel.
    fn faults(&self) -> impl Iterator<Item = (u32, char)> {
        let new = self.tainted.1 & !self.tainted.0;
        FAULTS.into_iter().filter(move |(bit, _)| new >> bit & 1 == 1)
    }

    /// The first line of a warning in the kernel's log.
    fn complaint(&self) -> Option<String> {
        let complains = |line: &&String| COMPLAINTS.iter().any(|sign| line.contains(sign));
        // A line of hyphens only precedes the warning.
        let mut lines = self.log.iter().filter(complains).filter(|line| !line.contains("[ cut here ]"));
        let tainted = self.faults().next();
        match (lines.next(), tainted) {
            (Some(line), _) => Some(line.clone()),
            (None, Some((_, letter))) => Some(format!("the kernel became tainted: {letter}")),
            (None, None) => self.log.iter().find(complains).cloned(),
        }
    }
}

/// How a system call ended, as text.
fn words(ended: GuestEnd) -> String {
    match ended {
        GuestEnd::Well => "success".to_owned(),
        GuestEnd::Killed => "the kernel killed the process inside the module".to_owned(),
        GuestEnd::Errno(errno) => {
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}

/// Parses a line of a report; `None` if it is invalid.
pub(super) fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line.trim_ascii()).ok()
}

/// The text of a record of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg), if the kernel wrote it:
/// `6,339,5140900,-;text`, followed by lines of properties, which begin with a space.
pub(super) fn kmsg_text(record: &str) -> Option<&str> {
    let (prefix, text) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    let is_kernel = priority >> 3 == 0;
    is_kernel.then(|| text.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Tested {
        Tested {
            loading: Some(GuestEnd::Well),
            unloading: Some(GuestEnd::Well),
            listed: true,
            ..Tested::default()
        }
    }

    fn log(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[track_caller]
    fn check(tested: Tested, state: TestState, error: Option<&str>) {
        let verdict = tested.verdict(&LoadPlan::default());
        assert_eq!((verdict.state, verdict.error.as_deref()), (state, error));
    }

    #[test]
    fn a_loaded_and_listed_module_loads() {
        check(well(), TestState::Loads, None);
        let normal = log(&["hello: loading out-of-tree module taints kernel.", "hello: no debugging"]);
        check(Tested { tainted: (0, 1 << 12 | 1 << 13), log: normal, ..well() }, TestState::Loads, None);
        check(Tested { unloading: Some(GuestEnd::Errno(16)), ..well() }, TestState::Loads, None);
        let unlisted = Some("loaded, but not in /proc/modules");
        check(Tested { listed: false, ..well() }, TestState::Fails, unlisted);
    }

    #[test]
    fn missing_hardware_is_not_a_failure() {
        for errno in [19, 6] {
            let tested = Tested { loading: Some(GuestEnd::Errno(errno)), ..Tested::default() };
            assert_eq!(tested.verdict(&LoadPlan::default()).state, TestState::NoDevice);
            let lacking = Tested { lacking: Some((0, GuestEnd::Errno(errno))), ..Tested::default() };
            assert_eq!(lacking.verdict(&LoadPlan::default()).state, TestState::NoDevice);
        }
    }

    #[test]
    fn errors_have_the_systems_messages() {
        let refused = |errno| Tested { loading: Some(GuestEnd::Errno(errno)), ..Tested::default() };
        check(refused(129), TestState::Fails, Some("Key was rejected by service"));
        check(refused(8), TestState::Fails, Some("Exec format error"));
        check(refused(17), TestState::Fails, Some("File exists"));
        check(Tested::default(), TestState::Fails, Some("not loaded"));
        let killed = Some("the kernel killed the process inside the module");
        check(Tested { loading: Some(GuestEnd::Killed), ..well() }, TestState::Fails, killed);
        let lacking = Tested { lacking: Some((0, GuestEnd::Errno(2))), ..Tested::default() };
        check(lacking, TestState::Fails, Some("dependency ? does not load: No such file or directory"));
    }

    #[test]
    fn a_warning_of_the_kernel_counts_whatever_the_result() {
        let warning = "WARNING: CPU: 0 PID: 70 at /build/warns.c:3 start+0x5/0x10 [warns]";
        let complaint = || log(&["------------[ cut here ]------------", warning, "Call Trace:"]);
        check(Tested { log: complaint(), ..well() }, TestState::Warns, Some(warning));
        let no_device = Tested { log: complaint(), loading: Some(GuestEnd::Errno(19)), ..well() };
        check(no_device, TestState::Warns, Some(warning));
        check(
            Tested { tainted: (0, 1 << 9), ..well() },
            TestState::Warns,
            Some("the kernel became tainted: W"),
        );
        check(Tested { tainted: (1 << 9, 1 << 9), ..well() }, TestState::Loads, None);
        let killed = Tested { unloading: Some(GuestEnd::Killed), ..well() };
        assert_eq!(killed.verdict(&LoadPlan::default()).state, TestState::Warns);
    }

    #[test]
    fn taints_are_letters_including_those_of_faults() {
        let tested = Tested { tainted: (0, 1 << 7 | 1 << 9 | 1 << 12), taints: "OE\n".into(), ..well() };
        assert_eq!(tested.verdict(&LoadPlan::default()).taints, "OEDW");
    }

    #[test]
    fn report_lines_are_events_or_ignored() {
        assert_eq!(
            parse(b"{\"event\":\"ready\",\"release\":\"6.1\"}\r\n"),
            Some(Event::Ready { release: "6.1".into() })
        );
        let tested = Event::Tested(Tested {
            log: log(&["a \"b\""]),
            lacking: Some((1, GuestEnd::Errno(2))),
            ..well()
        });
        assert_eq!(parse(&serde_json::to_vec(&tested).unwrap()), Some(tested));
        for junk in
            [b"".as_slice(), b"[    1.0] hello", b"{\"event\":\"new\"}", b"{\"event\":\"ready\"", b"\xff"]
        {
            assert_eq!(parse(junk), None);
        }
    }

    #[test]
    fn records_of_the_kernels_log_are_text() {
        assert_eq!(
            kmsg_text("4,339,5140900,-;hello: taints kernel\n SUBSYSTEM=x\n"),
            Some("hello: taints kernel")
        );
        assert_eq!(kmsg_text("6,1,2,-;a;b\n"), Some("a;b"));
        assert_eq!(kmsg_text("12,1,2,-;from user space"), None);
        assert_eq!(kmsg_text("nonsense"), None);
    }
}
