//! Rules about Kbuild: syntax that it does not support any more, or never did.

use super::calls::Call;
use super::readings::Reading;
use super::{LintFinding, finding};
use crate::makefile::What;

/// Old names of flags, with the new ones.
const FLAGS: [(&str, &str); 3] =
    [("EXTRA_CFLAGS", "ccflags-y"), ("EXTRA_AFLAGS", "asflags-y"), ("EXTRA_LDFLAGS", "ldflags-y")];

/// Findings in a makefile.
pub fn in_makefile(reading: &Reading) -> Vec<LintFinding> {
    let mut found = Vec::new();
    if reading.goals.is_none() {
        found.extend(FLAGS.iter().filter_map(|(old, new)| old_flags(reading, old, new)));
    }
    for (line, text) in reading.commands() {
        let calls = super::calls::calls(&text, &reading.dir, &reading.build, &Default::default());
        let names = calls.iter().filter_map(wrong_call);
        found.extend(names.filter_map(|(name, what)| finding(name, &reading.file, line.number, what)));
    }
    found
}

/// The mistake in a call of make: name of the rule, and what was found.
pub fn wrong_call(call: &Call) -> Option<(&'static str, &'static str)> {
    if call.subdirs_alone {
        Some(("subdirs", "passes the module's directory as SUBDIRS="))
    } else if call.lacks_module() {
        Some(("missing-m", "calls make in the kernel's build tree without M="))
    } else {
        None
    }
}

/// The first line that sets flags in a way that has no effect any more; `None` if the file also sets the new ones from
/// the old.
fn old_flags(reading: &Reading, old: &str, new: &str) -> Option<LintFinding> {
    let assigned = |wanted: &str| {
        reading.makefile.lines.iter().find_map(|line| match &line.what {
            What::Assignment { name, value, .. } if name == wanted && !value.is_empty() => Some(line.number),
            _ => None,
        })
    };
    let taken_over = reading.makefile.lines.iter().any(|line| {
        matches!(&line.what, What::Assignment { name, value, .. } if name.starts_with(new.trim_end_matches('y')) && value.contains(old))
    });
    let line = assigned(old).filter(|_| !taken_over)?;
    finding("extra-cflags", &reading.file, line, format!("sets {old}; use {new}"))
}
