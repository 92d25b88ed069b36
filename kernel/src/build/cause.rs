//! The cause of a failed build, found in its log.
//!
//! make and shells end with a line that says *that* something failed; the cause is earlier. In order of precedence:
//!
//! ```text
//! configure: error: TEXT           the last words of a ./configure, with its *** lines
//! FILE:LINE: error: TEXT           the first error of a compiler, modpost or linker
//! *** TEXT.  Stop.                 make's first error; above `*** .` the text is in $(warning) lines
//! PROGRAM: cannot ...              where make only names the target: what the command itself complained about
//! anything else                    the last line
//! ```
//!
//! What wanted the network, which no build has, goes before what make and others say. Lines that only say that an earlier one
//! was fatal (`collect2: error: ld returned 1 exit status`) are no cause.
//!
//! Scripts try things and go on without them, so a missing program counts only if nothing else went wrong after it.

use std::path::Path;

use super::Failure;
use super::sought::{self, Sought};

/// Prefix of lines that kcache itself writes into a log.
const OWN: &str = "kcache: ";

/// The line, after the prefix, between two attempts.
const NEXT_ATTEMPT: &str = "trying another command";

/// Limit on the attempts that are kept. Recipes have at most a handful.
const MOST_ATTEMPTS: usize = 64;

/// Limit in bytes on the reason that a `./configure` prints. ZFS's has 300.
const MOST_REASON: usize = 1024;

/// A script's advice after its complaint has so many lines at most: git's has 3.
const MOST_ADVICE: usize = 4;

/// Exit status of shells, and of env(1) and others, for a program that is not there (POSIX, 2.8.2).
const NOT_FOUND: i32 = 127;

/// Limit on the lines of `$(warning)` above an error of make.
const MOST_WARNINGS: usize = 8;

/// Appended to the error of a build whose test compiles failed.
const CONFTEST: &str =
    "a test compile of the package itself failed; what its tests found is at the end of the log";

/// Beginnings of make's own messages after `***` that are not of a Makefile's `$(error)`.
const OF_MAKE: [&str; 12] = [
    "No rule",
    "No targets",
    "[",
    "commands commence",
    "empty variable",
    "insufficient",
    "missing",
    "multiple target",
    "recipe commences",
    "target pattern",
    "unterminated",
    "Recursive",
];

/// Appended where a build tried to reach the network.
const NO_NETWORK: &str = "builds have no network";

/// Appended where a build tried to write elsewhere.
const READ_ONLY: &str =
    "builds can write only below their build directory, their own source in /usr/src, and /tmp";

/// Findings in a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Logged {
    command: String,
    /// Attempts before it, which have failed.
    earlier: Vec<Logged>,
    /// The reason why a `./configure` stopped.
    configure: Option<Reason>,
    compiler: Option<String>,
    make: Option<String>,
    /// The last complaint of another program before make's first error.
    complaint: Option<String>,
    /// The number of lines since that.
    since_complaint: usize,
    /// The lines directly above, if they are of `$(warning)`.
    warnings: Vec<String>,
    last: String,
    /// A file exceeded the size limit of the build.
    pub(super) met_file_limit: bool,
    /// The reason, if the failure is this machine's.
    pub(super) environment: Option<String>,
    /// A program was missing, of which is not known yet whether the build survives that.
    missing_program: Option<Missing>,
    /// The path of a script that was not run although it may be there.
    unrunnable: Option<String>,
    /// The first line that shows that a program wanted the network.
    network: Option<String>,
    sought: Vec<Sought>,
}

/// A program that was not there.
#[derive(Clone, Debug)]
struct Missing {
    reason: String,
    line: String,
    /// Whether a status said that a command was not found, so that it was not merely tried.
    is_certain: bool,
}

/// The last message of a `./configure` (autoconf's AC_MSG_ERROR): `configure: error: TEXT`, where the text may
/// continue in lines that begin with `***`.
#[derive(Clone, Debug)]
struct Reason {
    text: String,
    ended: bool,
}

impl Reason {
    fn begin(line: &str) -> Option<Reason> {
        let text = line.split_once("configure: error:")?.1.trim();
        Some(Reason { text: format!("configure: error: {text}").trim_end().to_owned(), ended: false })
    }

    /// Adds the next line, if it belongs to the text.
    fn go_on(&mut self, line: &str) {
        let more = line.trim().strip_prefix("***").map(str::trim);
        match more.filter(|_| !self.ended && self.text.len() + line.len() < MOST_REASON) {
            Some("") => {}
            Some(more) => self.text = format!("{} {more}", self.text),
            None => self.ended = true,
        }
    }
}

impl Logged {
    /// Takes the next line of the log.
    pub(super) fn notice(&mut self, line: &str) {
        if let Some(own) = line.strip_prefix(OWN) {
            if let Some(command) = own.strip_prefix("$ ") {
                let earlier = std::mem::take(&mut self.earlier);
                *self = Logged { command: command.to_owned(), earlier, ..Logged::default() };
            } else if own == NEXT_ATTEMPT && self.earlier.len() < MOST_ATTEMPTS {
                let mut earlier = std::mem::take(&mut self.earlier);
                earlier.push(std::mem::take(self));
                self.earlier = earlier;
            }
            return;
        }
        if line.trim().is_empty() {
            return;
        }
        let larger = ["File size limit exceeded", ": File too large"]; // SIGXFSZ, EFBIG
        self.met_file_limit |= larger.iter().any(|sign| line.contains(sign));
        if self.environment.is_none() {
            self.environment = environmental(line).map(|reason| format!("{reason}: {line}"));
        }
        if self.network.is_none() && is_of_network(line) {
            self.network = Some(line.to_owned());
        }
        if let Some(path) = sought::unrunnable(line) {
            self.unrunnable = Some(path.to_owned());
        }
        self.notice_missing(line);
        match &mut self.configure {
            Some(reason) => reason.go_on(line),
            None => self.configure = Reason::begin(line),
        }
        if self.compiler.is_none() && is_of_compiler(line) {
            self.compiler = Some(line.to_owned());
            self.missing_program = None;
        }
        if self.make.is_none() {
            self.notice_make(line);
        }
        self.last = line.to_owned();
    }

    fn notice_missing(&mut self, line: &str) {
        let sought = Sought::of_line(line);
        let says_status = line.contains("Error 127");
        let is_missing = says_status || matches!(sought, Some(Sought::Program(_) | Sought::SharedLibrary(_)));
        if is_missing && self.missing_program.is_none() {
            let name = |sought: &Sought| match sought {
                Sought::Program(name) => Some(name.clone()),
                _ => None,
            };
            let program = sought.iter().chain(self.sought.iter().rev()).find_map(name);
            let reason = match (&sought, program) {
                (Some(Sought::SharedLibrary(library)), _) => {
                    let program = sought::linked_program(line).unwrap_or("a program");
                    format!("{program} needs {}, which is not installed", sought::with_package(library))
                }
                (_, Some(program)) => {
                    format!("it needs {}, which is not installed", sought::with_package(&program))
                }
                (_, None) => format!("it needs a program that is not installed: {line}"),
            };
            self.missing_program = Some(Missing { reason, line: line.to_owned(), is_certain: false });
        }
        if let Some(missing) = self.missing_program.as_mut().filter(|_| says_status) {
            missing.is_certain = true;
        }
        if let Some(sought) =
            sought.filter(|sought| self.sought.len() < sought::MOST && !self.sought.contains(sought))
        {
            self.sought.push(sought);
        }
    }

    fn notice_make(&mut self, line: &str) {
        if let Some((_, text)) = line.split_once("*** ") {
            let says_nothing =
                text.trim_end_matches("Stop.").trim().chars().all(|c| c.is_ascii_punctuation());
            self.make = Some(match says_nothing && !self.warnings.is_empty() {
                true => self.warnings.join("; "),
                false => line.to_owned(),
            });
            if says_nothing || !is_of_target(text) {
                self.complaint = None;
            }
            return;
        }
        match warning(line) {
            Some(text) if self.warnings.len() < MOST_WARNINGS => {
                self.warnings.extend((!is_banner(text)).then(|| text.to_owned()))
            }
            _ => self.warnings.clear(),
        }
        self.since_complaint += 1;
        if is_complaint(line) {
            (self.complaint, self.since_complaint) = (Some(line.to_owned()), 0);
        }
    }

    /// The first cause that the log states.
    fn error(&self) -> Option<String> {
        let configure = self.configure.as_ref().map(|reason| &reason.text);
        let make = || self.make.as_ref().map(|make| self.complaint.as_ref().unwrap_or(make));
        let error = configure.or(self.compiler.as_ref()).or(self.network.as_ref()).or_else(make)?;
        Some(match self.conftest() {
            Some(_) => format!("{error} ({CONFTEST})"),
            None => error.clone(),
        })
    }

    /// What a script said last that sounds like a cause; advice may follow it.
    fn last_words(&self) -> Option<String> {
        let complaint = self.complaint.as_ref().filter(|_| self.since_complaint <= MOST_ADVICE);
        complaint.or(Some(&self.last).filter(|line| !line.is_empty())).cloned()
    }

    fn cause(&self) -> Option<String> {
        self.error().or_else(|| self.last_words())
    }

    /// The header of a package's own test compiles, if the first error is one that they left in it: its path as the
    /// compiler prints it (NVIDIA's conftest.sh: `#error dma_buf_export() conftest failed!`).
    pub(super) fn conftest(&self) -> Option<&Path> {
        let (file, error) = self.compiler.as_deref()?.split_once(':')?;
        (error.contains("#error") && error.contains("conftest failed")).then(|| Path::new(file))
    }

    /// The attempt whose failure says most: the first with an error of a compiler or a `./configure`, as others fail for
    /// lack of a target or of a generated file; else the first that did not only lack a program. A header that a later
    /// one lacks may be what the Makefile would have generated that refused before.
    pub(super) fn of_attempts(mut self) -> Logged {
        let mut all = std::mem::take(&mut self.earlier);
        all.push(self);
        let compiled = |one: &Logged| one.compiler.is_some() || one.configure.is_some();
        let best = all.iter().position(|one| one.environment.is_some() || one.met_file_limit);
        let best = best.or_else(|| all.iter().position(compiled));
        let best = best.or_else(|| {
            all.iter().position(|one| one.environment.is_none() && one.missing_program.is_none())
        });
        let refusal = || all.iter().position(Logged::is_refused);
        let best = best.map(|best| match all[best].lacks_header() {
            true => refusal().filter(|at| *at < best).unwrap_or(best),
            false => best,
        });
        // Once one of the things is there that any of them sought, the build is worth another try.
        let sought = all.iter().flat_map(|one| one.sought.clone()).take(sought::MOST).collect();
        Logged { sought, ..all.swap_remove(best.unwrap_or(0)) }
    }

    /// Whether its first error is a header that is not there.
    fn lacks_header(&self) -> bool {
        let lacks = |line: &String| line.contains("fatal error:") && line.ends_with(NO_FILE);
        self.configure.is_none() && self.compiler.as_ref().is_some_and(lacks)
    }

    /// Whether a Makefile's own check has stopped it: `Makefile:30: *** kernel sources not found.  Stop.`
    fn is_refused(&self) -> bool {
        let is_of_author = |line: &String| {
            let text = line.split_once(": *** ").map_or("", |(_, text)| text);
            text.ends_with("Stop.") && !OF_MAKE.iter().any(|begin| text.starts_with(begin))
        };
        self.compiler.is_none() && self.make.as_ref().is_some_and(is_of_author)
    }

    /// The failed attempt before a successful one that failed because of this machine: elsewhere it would have been the
    /// one that counts.
    pub(super) fn failed_here(&self) -> Option<&Logged> {
        self.earlier.iter().find(|one| one.environment.is_some() || one.met_file_limit)
    }

    /// The reason, if this machine is why a command ended with this status.
    pub(super) fn machines_fault(&self, status: i32) -> Option<&String> {
        let is_cause = |missing: &&Missing| {
            missing.is_certain || status == NOT_FOUND || self.cause().as_ref() == Some(&missing.line)
        };
        let missing = || self.missing_program.as_ref().filter(is_cause).map(|missing| &missing.reason);
        self.environment.as_ref().or_else(missing)
    }

    /// The script that could not be run, if that is why a command ended with this status.
    pub(super) fn unrunnable(&self, status: i32) -> Option<&Path> {
        let is_cause = status == NOT_FOUND || self.machines_fault(status).is_some();
        self.unrunnable.as_deref().filter(|_| is_cause).map(Path::new)
    }

    /// What of the system was not found.
    pub(super) fn sought(&self) -> &[Sought] {
        &self.sought
    }

    /// The command that was run last.
    pub(super) fn command(&self) -> &str {
        &self.command
    }

    /// The failure of a command with this status. `step` says what the command is for, if it is not the build itself;
    /// `downloads` whether it is made to fetch something.
    pub(super) fn failure(&self, status: Option<i32>, step: Option<&str>, downloads: bool) -> Failure {
        let ended = match status {
            Some(status) => format!("ended with status {status} and printed nothing"),
            None => "printed nothing".to_owned(),
        };
        let mut notes: Vec<String> = Vec::new();
        let error = match (self.cause(), step) {
            (Some(cause), step) => {
                notes.extend(step.map(|step| format!("{step}, `{}`, failed", self.command)));
                cause
            }
            (None, Some(step)) => format!("{step}, `{}`, {ended}", self.command),
            (None, None) => format!("`{}` {ended}", self.command),
        };
        notes.extend((self.network.is_some() || downloads).then(|| NO_NETWORK.to_owned()));
        notes.extend(writes_elsewhere(&error).then(|| READ_ONLY.to_owned()));
        let first_error = match notes.is_empty() {
            true => error,
            false => format!("{error} ({})", notes.join("; ")),
        };
        Failure { status, command: self.command.clone(), first_error, sought: self.sought.clone() }
    }

    /// The failure of commands that succeeded without producing the modules. Pipelines and `;` hide a compiler's
    /// status, so its error comes first if there is one.
    pub(super) fn failure_in_spite_of_success(&self, what: &str) -> Failure {
        let ended = format!("the build ended with status 0, but {what}");
        let first_error = match self.error() {
            Some(error) => format!("{error} ({ended})"),
            None => ended,
        };
        Failure { status: Some(0), command: self.command.clone(), first_error, sought: self.sought.clone() }
    }
}

/// Whether a line only says that an earlier one was fatal.
fn is_consequence(line: &str) -> bool {
    let signs = [
        "collect2: error: ld returned",
        "linker command failed",
        "BEGIN failed--compilation aborted",
        "compilation terminated.",
    ];
    signs.iter().any(|sign| line.contains(sign))
}

const NO_FILE: &str = ": No such file or directory";

/// Whether an error is that a build may not write where it tried to.
fn writes_elsewhere(error: &str) -> bool {
    let is_own = |path: &&str| {
        let own = ["/tmp", "/var/tmp", "/var/lib/dkms/", "/usr/src/", "/run/kcache", "/dev/"];
        own.iter().any(|own| path.starts_with(own))
    };
    let mut paths = error.split([' ', ':', '\'', '"', '`', ',']).filter(|word| word.starts_with('/'));
    let writes = ["cannot create", "can't create", "cannot touch"].iter().any(|sign| error.contains(sign));
    // A shell's redirection says no more than that. There is nothing to read in these either.
    let is_absent = |path: &&str| ["/root/", "/home/", "/var/"].iter().any(|place| path.starts_with(place));
    let last = paths.next_back().filter(|path| !is_own(path));
    error.contains("Read-only file system")
        || last.is_some_and(|path| writes || error.ends_with(NO_FILE) && is_absent(&path))
}

fn is_of_compiler(line: &str) -> bool {
    let signs =
        [": error:", ": fatal error:", "ERROR: modpost:", ": undefined reference to", "ld: cannot find -l"];
    // A ./configure that quotes the output of a failed attempt.
    let is_quoted = line.starts_with("// ") || line.starts_with("# ");
    (line.starts_with("error: ") || signs.iter().any(|sign| line.contains(sign)))
        && !is_quoted
        && !is_consequence(line)
}

/// Whether an error of make only names the target of a command that failed: `[Makefile:4: tool] Error 1`.
fn is_of_target(text: &str) -> bool {
    text.starts_with('[')
}

/// The text of make's `$(warning)`: `Makefile:149: TEXT`.
fn warning(line: &str) -> Option<&str> {
    let (file, rest) = line.split_once(':')?;
    let (number, text) = rest.split_once(": ")?;
    let is_makefile = Path::new(file).file_name()?.to_str().is_some_and(|name| {
        name.starts_with("Makefile")
            || name.starts_with("Kbuild")
            || name.ends_with(".mk")
            || name == "GNUmakefile"
    });
    (is_makefile && number.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with("***"))
        .then(|| text.trim())
}

/// Whether a line only frames others: `=== ERROR ===`.
fn is_banner(text: &str) -> bool {
    let words: String = text.chars().filter(|c| c.is_alphanumeric()).collect();
    words.is_empty() || ["error", "warning"].contains(&words.to_lowercase().as_str())
}

/// Whether a program other than make and the compiler reports with this line that something went wrong.
fn is_complaint(line: &str) -> bool {
    let is_of_make = line.starts_with("make");
    if is_of_make && !line.ends_with(": No such file or directory") {
        return false;
    }
    if line.contains("warning:")
        || line.starts_with("checking ")
        || line.starts_with("  ")
        || is_consequence(line)
    {
        return false;
    }
    let lower = line.to_lowercase();
    let signs = [
        "cannot",
        "can't",
        "could not",
        "couldn't",
        "unable to",
        "no such file",
        "permission denied",
        "not permitted",
        "read-only file system",
        "not found",
        "no space left",
        "failed",
        "failure",
        "error",
        "fatal",
        "invalid",
        "not supported",
        "unsupported",
        "missing",
        "unknown",
        "unrecognized",
        "must be",
        "please install",
        "require",
        "no module named",
        "no package",
        "refus",
    ];
    signs.iter().any(|sign| lower.contains(sign))
}

/// Whether a line shows that a program wanted the network: the messages of resolvers, curl, wget (also BusyBox's), git, ssh,
/// pip, apt, Go and Node.
fn is_of_network(line: &str) -> bool {
    let signs = [
        "Could not resolve host",
        "Couldn't resolve host",
        "unable to resolve host",
        "Temporary failure in name resolution",
        "Name or service not known",
        "Network is unreachable",
        "network is unreachable",
        "Failed to connect to ",
        "Could not resolve proxy",
        "Failed to establish a new connection",
        "no such host",
        "Could not resolve hostname",
        "Couldn't connect to server",
        "bad address '",
        "Temporary failure resolving",
        "Name does not resolve",
        "nodename nor servname provided",
        "dial tcp",
        "getaddrinfo",
    ];
    signs.iter().any(|sign| line.contains(sign))
}

/// The reason why a line of a log shows this machine's failure and not the package's.
fn environmental(line: &str) -> Option<&'static str> {
    let signs = [
        ("No space left on device", "the disk is full"),
        ("Disk quota exceeded", "the disk quota is used up"),
        ("Cannot allocate memory", "out of memory"),
        ("virtual memory exhausted", "out of memory"),
        ("out of memory allocating", "out of memory"),
        ("Killed signal terminated program", "the compiler was killed"),
        ("fork: Resource temporarily unavailable", "no more processes can be started"),
        ("fork: retry: Resource temporarily unavailable", "no more processes can be started"),
    ];
    let found = signs.iter().find(|(sign, _)| line.contains(sign)).map(|(_, reason)| *reason);
    found.or_else(|| is_unreadable(line).then_some("a file of this host cannot be read by builds"))
}

/// Whether a file of the system could not be read: `/usr/include/x.h: Permission denied`. Elsewhere a build may meet
/// its own modes.
fn is_unreadable(line: &str) -> bool {
    let Some((before, _)) = line.split_once(": Permission denied") else { return false };
    // Who wants to write there is the package: a shell's `>FILE`, and coreutils' words.
    let is_of_shell = before.split(": ").any(|part| {
        part.strip_prefix("line ").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
    });
    if is_of_shell || before.contains("cannot ") {
        return false;
    }
    let place = before.rsplit([' ', ':']).next().unwrap_or_default().trim_matches(['\'', '"', '`']);
    // kbuild works in the headers. The copy of the source can be read.
    let of_headers = ["Module.symvers", "scripts/", "include/", "arch/"];
    let is_of_headers =
        of_headers.iter().any(|own| place.strip_prefix("./").unwrap_or(place).starts_with(own));
    is_of_headers || ["/usr/", "/lib/", "/lib64/", "/boot/"].iter().any(|system| place.starts_with(system))
}

#[cfg(test)]
mod tests;
