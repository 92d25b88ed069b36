//! Source trees without a recipe: Kbuild directories (Documentation/kbuild/modules.rst).
//!
//! The kernel's build system does everything; the modules are those in `obj-m`.

use std::path::Path;

use super::{Modules, Recipe, Step, StepKind, build_dir, kernel_source_dir};
use crate::bounded_read;

/// Whether a `Kbuild` or `Makefile` in the directory assigns `obj-m`.
pub fn is_kbuild(dir: &Path) -> bool {
    ["Kbuild", "Makefile"]
        .iter()
        .filter_map(|name| bounded_read::text_in(dir, Path::new(name)).ok().flatten())
        .any(|text| text.lines().any(assigns_obj_m))
}

fn assigns_obj_m(line: &str) -> bool {
    let Some(rest) = line.trim_start().strip_prefix("obj-") else { return false };
    let name_end = rest.find([' ', '\t', ':', '+', '=', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(name_end);
    (name == "m" || name.starts_with("$(")) && rest.contains('=')
}

/// The recipe of a Kbuild directory: the plain Kbuild command.
pub fn recipe(name: &str, version: &str, release: &str) -> Recipe {
    let make = format!("make -C {} M={}", kernel_source_dir(release), build_dir(name, version).display());
    let step = |kind, goal: &str| Step { kind, command: format!("{make} {goal}") };
    Recipe {
        name: name.to_owned(),
        version: version.to_owned(),
        excluded: None,
        steps: vec![step(StepKind::Clean, "clean"), step(StepKind::Make, "modules")],
        modules: Modules::Found,
        depends: Vec::new(),
        automatic: true,
        hooks: Vec::new(),
        notes: Vec::new(),
        writes: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obj_m_is_recognised_in_all_its_forms() {
        for line in ["obj-m := a.o", "obj-m+=a.o", "\tobj-m = a.o", "obj-$(CONFIG_A) += a.o"] {
            assert!(assigns_obj_m(line), "{line}");
        }
        for line in ["# obj-m := a.o", "obj-mine", "all: obj-m"] {
            assert!(!assigns_obj_m(line), "{line}");
        }
    }
}
