//! Output under the name `dkms`: its own results on stdout, everything else on stderr.

use crate::out;

/// Prints a line of results.
pub fn answer(line: &str) {
    out::stdout_line(line);
}

pub fn warn(line: &str) {
    out::stderr_line(&format!("Warning: {line}"));
}

/// An error in DKMS's form: scripts grep for it.
pub fn complain(lines: &[String]) {
    out::stderr_line(&format!("\nError! {}", lines.join("\n")));
}
