//! A build's log while it is written: limited, passed on line by line, and searched for the first error.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use fs_err as fs;

use super::sought::{self, Sought};
use super::{Failure, MOST_LOG};

/// Prefix of lines that kcache itself writes into a log.
const OWN: &str = "kcache: ";

/// The line, after the prefix, between two attempts.
const NEXT_ATTEMPT: &str = "trying another command";

/// The log file, and the findings so far.
pub(super) struct Log<'a> {
    file: BufWriter<fs::File>,
    written: u64,
    error: Option<io::Error>,
    partial: Vec<u8>,
    line: &'a mut dyn FnMut(&str),
    logged: Logged,
}

/// Limit in bytes on the reason that a `./configure` prints. ZFS's has 300.
const MOST_REASON: usize = 1024;

/// Limit on the attempts that are kept. Recipes have at most a handful.
const MOST_ATTEMPTS: usize = 64;

/// Text that is appended to the error of a build whose test compiles failed.
const CONFTEST: &str =
    "a test compile of the package itself failed; what its tests found is at the end of the log";

/// Findings in a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Logged {
    /// The command that ran last.
    pub(super) command: String,
    /// Attempts before it, which have failed.
    earlier: Vec<Logged>,
    /// The reason why a `./configure` stopped.
    configure: Option<Reason>,
    compiler: Option<String>,
    make: Option<String>,
    last: String,
    /// A file exceeded the size limit of the build.
    pub(super) met_file_limit: bool,
    /// The reason, if the failure is this machine's.
    pub(super) environment: Option<String>,
    /// A program was missing, of which is not known yet whether the build survives that.
    missing_program: Option<String>,
    sought: Vec<Sought>,
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

impl<'a> Log<'a> {
    pub(super) fn create(path: &Path, line: &'a mut dyn FnMut(&str)) -> io::Result<Log<'a>> {
        let file = BufWriter::new(fs::File::create(path)?);
        Ok(Log { file, written: 0, error: None, partial: Vec::new(), line, logged: Logged::default() })
    }

    pub(super) fn take(&mut self, piece: &[u8]) {
        let room = MOST_LOG.saturating_sub(self.written).min(piece.len() as u64) as usize;
        if room > 0 {
            self.written += room as u64;
            if let Err(e) = self.file.write_all(&piece[..room]) {
                self.error.get_or_insert(e);
            }
        }
        for part in piece.split_inclusive(|&b| b == b'\n') {
            // Lines are for people, so longer ones are split.
            let room = 4096usize.saturating_sub(self.partial.len()).min(part.len());
            self.partial.extend_from_slice(&part[..room]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.partial);
        let text = printable(&String::from_utf8_lossy(&bytes));
        let text = text.trim_end();
        self.logged.notice(text);
        (self.line)(text);
    }

    pub(super) fn finish(mut self) -> io::Result<Logged> {
        if !self.partial.is_empty() {
            self.end_line();
        }
        if self.written >= MOST_LOG {
            self.file.write_all(b"\nkcache: the rest of the output was not kept\n")?;
        }
        if let Some(e) = self.error {
            return Err(e);
        }
        self.file.flush()?;
        Ok(self.logged)
    }
}

impl Logged {
    fn notice(&mut self, line: &str) {
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
        if let Some(sought) = Sought::of_line(line).filter(|_| self.sought.len() < sought::MOST) {
            self.sought.push(sought);
        }
        // Scripts try programs and go on without: only what nothing else went wrong after is why the build failed.
        let is_missing = [": command not found", "Error 127"].iter().any(|sign| line.contains(sign));
        if is_missing && self.missing_program.is_none() {
            self.missing_program = Some(format!("a program is missing: {line}"));
        }
        match &mut self.configure {
            Some(reason) => reason.go_on(line),
            None => self.configure = Reason::begin(line),
        }
        let compiler = [": error:", ": fatal error:", "ERROR: modpost:", ": undefined reference to"];
        // A ./configure that quotes the output of a failed attempt.
        let is_quoted = line.starts_with("// ") || line.starts_with("# ");
        let is_error = line.starts_with("error: ") || compiler.iter().any(|sign| line.contains(sign));
        if self.compiler.is_none() && is_error && !is_quoted {
            self.compiler = Some(line.to_owned());
            self.missing_program = None;
        }
        if self.make.is_none() && line.contains("*** ") {
            self.make = Some(line.to_owned());
        }
        self.last = line.to_owned();
    }

    /// The first line that reports an error: the reason of a `./configure`, else an error of a compiler or `make`.
    fn error(&self) -> Option<String> {
        let configure = self.configure.as_ref().map(|reason| &reason.text);
        let error = configure.or(self.compiler.as_ref()).or(self.make.as_ref())?;
        Some(match self.conftest() {
            Some(_) => format!("{error} ({CONFTEST})"),
            None => error.clone(),
        })
    }

    /// The header of a package's own test compiles, if the first error is one that they left in it: its path as the
    /// compiler prints it (NVIDIA's conftest.sh: `#error dma_buf_export() conftest failed!`).
    pub(super) fn conftest(&self) -> Option<&Path> {
        let (file, error) = self.compiler.as_deref()?.split_once(':')?;
        (error.contains("#error") && error.contains("conftest failed")).then(|| Path::new(file))
    }

    /// The attempt whose failure says most: the first with an error of a compiler or a `./configure`, as others fail for
    /// lack of a target or of a generated file; else the first that did not only lack a program.
    pub(super) fn of_attempts(mut self) -> Logged {
        let mut all = std::mem::take(&mut self.earlier);
        all.push(self);
        let compiled = |one: &Logged| one.compiler.is_some() || one.configure.is_some();
        let best = all.iter().position(|one| one.environment.is_some() || one.met_file_limit);
        let best = best.or_else(|| all.iter().position(compiled));
        let best = best.or_else(|| all.iter().position(|one| one.machines_fault().is_none()));
        // Once one of the things is there that any of them sought, the build is worth another try.
        let sought = all.iter().flat_map(|one| one.sought.clone()).take(sought::MOST).collect();
        Logged { sought, ..all.swap_remove(best.unwrap_or(0)) }
    }

    /// The failed attempt before a successful one that failed because of this machine: elsewhere it would have been the
    /// one that counts.
    pub(super) fn failed_here(&self) -> Option<&Logged> {
        self.earlier.iter().find(|one| one.environment.is_some() || one.met_file_limit)
    }

    /// The reason, if this machine is why the build failed.
    pub(super) fn machines_fault(&self) -> Option<&String> {
        self.environment.as_ref().or(self.missing_program.as_ref())
    }

    pub(super) fn failure(&self, status: Option<i32>) -> Failure {
        let said = self.error().or(Some(self.last.clone()).filter(|line| !line.is_empty()));
        let silent = || match status {
            Some(status) => format!("`{}` ended with status {status} and printed nothing", self.command),
            None => format!("`{}` printed nothing", self.command),
        };
        let first_error = said.unwrap_or_else(silent);
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
    signs.iter().find(|(sign, _)| line.contains(sign)).map(|(_, reason)| *reason)
}

/// Escapes everything that would control a terminal: a build's output is untrusted.
pub fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.trim_end_matches(['\r', '\n']).chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noticed(log: &str) -> Logged {
        let mut logged = Logged::default();
        log.lines().for_each(|line| logged.notice(line));
        logged
    }

    #[test]
    fn the_first_compiler_error_is_what_failed() {
        let log = "kcache: $ make clean\nx.c:1: error: old\nkcache: $ make\nmake: *** [a] Error 1\n\
                   a.c:3:1: error: first\na.c:4:1: error: second\n";
        let failure = noticed(log).failure(Some(2));
        assert_eq!(failure.first_error, "a.c:3:1: error: first");
        assert_eq!(failure.command, "make");
    }

    #[test]
    fn without_a_compiler_error_makes_error_or_the_last_line_counts() {
        assert_eq!(
            noticed("a\nmake: *** No rule to make target 'x'.  Stop.\nb").failure(None).first_error,
            "make: *** No rule to make target 'x'.  Stop."
        );
        assert_eq!(noticed("a\nb\n \n").failure(None).first_error, "b");
        assert_eq!(
            noticed("kcache: $ ./x\n").failure(Some(3)).first_error,
            "`./x` ended with status 3 and printed nothing"
        );
    }

    #[test]
    fn quoted_output_of_failed_attempts_is_no_error() {
        let log = "//   test.c:4:16: error: storage size\na.c:71:10: fatal error: asm/unaligned.h";
        assert_eq!(noticed(log).failure(None).first_error, "a.c:71:10: fatal error: asm/unaligned.h");
    }

    #[test]
    fn clangs_errors_about_options_are_compiler_errors() {
        let log = "error: unknown warning option '-Wx' [-Werror]\nmake: *** [a] Error 1";
        assert!(noticed(log).failure(None).first_error.starts_with("error: unknown"));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\x1b]0;title\x07\tb\r\n"), "a\u{fffd}]0;title\u{fffd}\tb");
    }

    #[test]
    fn a_hidden_compiler_error_precedes_the_missing_module() {
        let failure = noticed("a.c:3:1: error: first").failure_in_spite_of_success("built no a.ko");
        assert_eq!(
            failure.first_error,
            "a.c:3:1: error: first (the build ended with status 0, but built no a.ko)"
        );
    }

    #[test]
    fn the_message_of_a_failed_configure_is_the_error() {
        let zfs = "checking whether bops->submit_bio() exists... configure: error:\n\
                   \t*** None of the expected \"bops\" interfaces were detected.\n\
                   \t*** This may be because your kernel version is newer\n\t***\n\t*** Compatible Kernels: 3.10 - 6.2\n\n\
                   a.c:1:1: error: later\n*** later\n";
        let said = "configure: error: None of the expected \"bops\" interfaces were detected. \
                    This may be because your kernel version is newer Compatible Kernels: 3.10 - 6.2";
        assert_eq!(noticed(zfs).failure(Some(1)).first_error, said);
        let plain =
            "x.c:1:1: error: of an attempt\nconfigure: error: *** A compiler is missing\nsee config.log\n";
        assert_eq!(
            noticed(plain).failure(Some(1)).first_error,
            "configure: error: *** A compiler is missing"
        );
        let long = format!("configure: error: a\n{}", "*** b\n".repeat(10_000));
        assert!(noticed(&long).failure(None).first_error.len() <= MOST_REASON);
    }

    #[test]
    fn failed_test_compiles_are_identified() {
        let line = "/var/lib/dkms/n/1/build/conftest/functions.h:7:2: error: #error dma_buf_export() conftest failed!";
        let logged = noticed(line);
        assert_eq!(logged.conftest(), Some(Path::new("/var/lib/dkms/n/1/build/conftest/functions.h")));
        assert_eq!(logged.failure(None).first_error, format!("{line} ({CONFTEST})"));
        assert_eq!(noticed("a.h:7:2: error: #error not for this kernel").conftest(), None);
    }

    #[test]
    fn a_missing_program_is_why_a_build_failed_only_if_nothing_else_is() {
        let fault = |log: &str| noticed(log).machines_fault().cloned().unwrap_or_default();
        assert!(fault("sh: 1: flex: command not found\nmake: *** [x] Error 127").contains("flex"));
        assert!(fault("make: *** [x] Error 127").contains("Error 127"));
        let survived = "sh: git: command not found\na.c:3:1: error: first\nmake: *** [a.o] Error 1";
        assert_eq!(fault(survived), "");
        assert_eq!(noticed(survived).failure(Some(2)).first_error, "a.c:3:1: error: first");
        // What a later command does not find is another matter.
        assert!(fault("a.c:3:1: error: of a test\nsh: bison: command not found").contains("bison"));
    }

    #[test]
    fn what_was_not_found_is_kept_with_the_failure() {
        let log = "tool.c:1:10: fatal error: libelf.h: No such file or directory\nmake: *** [tool] Error 1";
        let failure = noticed(log).failure(Some(2));
        assert_eq!(failure.sought, [Sought::Header("libelf.h".to_owned())]);
    }

    #[test]
    fn of_several_attempts_the_first_compiler_error_is_what_failed() {
        let next = format!("{OWN}{NEXT_ATTEMPT}\n");
        let log = |attempts: &[&str]| {
            let of = |(at, text): (usize, &&str)| format!("kcache: $ clean\nkcache: $ {at}\n{text}\n");
            attempts.iter().enumerate().map(of).collect::<Vec<_>>().join(&next)
        };
        let failure = |attempts: &[&str]| {
            let failure = noticed(&log(attempts)).of_attempts().failure(Some(2));
            (failure.command, failure.first_error)
        };
        let error = |command: &str, error: &str| (command.to_owned(), error.to_owned());
        assert_eq!(
            failure(&["make: *** No rule", "a.c:1:1: error: first", "a.c:1:1: error: second"]),
            error("1", "a.c:1:1: error: first")
        );
        assert_eq!(failure(&["sh: flex: command not found", "make: *** b"]), error("1", "make: *** b"));
        assert_eq!(failure(&["make: *** a", "make: *** b"]), error("0", "make: *** a"));
        let missing =
            ["a.c:1:1: fatal error: libelf.h: No such file or directory", "sh: flex: command not found"];
        assert_eq!(noticed(&log(&missing)).of_attempts().sought.len(), 2);
        let full = noticed(&log(&["cc1: x.s: No space left on device", "a.c:1:1: error: first"]));
        assert!(full.failed_here().is_some() && full.of_attempts().machines_fault().is_some());
        assert!(noticed(&log(&["a.c:1:1: error: first", ""])).failed_here().is_none());
    }

    #[test]
    fn a_full_disk_is_not_the_packages_fault() {
        assert!(
            noticed("cc1: x.s: No space left on device").environment.unwrap().starts_with("the disk is full")
        );
        assert!(noticed("a.c:1: error: no member named 'x'").environment.is_none());
    }
}
