//! The name of a module.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::compress::Compression;

/// A module's name as the kernel has it (`KBUILD_MODNAME`): the file `snd-pcm.ko.xz` is the module `snd_pcm`. To modprobe(8) `-`
/// and `_` are the same, and so they are here.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct ModuleName(String);

impl ModuleName {
    /// The module that is called this, in either spelling; without `.ko`.
    pub fn new(name: &str) -> ModuleName {
        ModuleName(name.replace('-', "_"))
    }

    /// The module that a file of this name is, compressed or not; `None` if it is none.
    pub fn of_file(path: &Path) -> Option<ModuleName> {
        let (name, _) = Compression::of_file_name(path.file_name()?.to_str()?)?;
        Some(ModuleName::new(name))
    }
}

impl Deref for ModuleName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

// Order, equality and hash are those of the text.
impl Borrow<str> for ModuleName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for ModuleName {
    fn from(name: String) -> ModuleName {
        ModuleName::new(&name)
    }
}

impl From<ModuleName> for String {
    fn from(name: ModuleName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_the_same_in_either_spelling() {
        assert_eq!(ModuleName::new("snd-pcm"), ModuleName::new("snd_pcm"));
        let of = |path: &str| ModuleName::of_file(Path::new(path)).map(String::from);
        assert_eq!(of("updates/dkms/nvidia-drm.ko.zst").as_deref(), Some("nvidia_drm"));
        assert_eq!(of("kernel/fs/ext4.ko").as_deref(), Some("ext4"));
        assert_eq!(["modules.dep", "a.ko.d", "ko", "lib/"].map(of), [None, None, None, None]);
        let names = std::collections::BTreeSet::from([ModuleName::new("snd-pcm")]);
        assert!(names.contains("snd_pcm") && !names.contains("snd-pcm"));
    }
}
