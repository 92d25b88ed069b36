//! A depmod that is newer than those that kcache was compared with.

use std::path::Path;
use std::process::Command;

use super::indexes::{assert_same, install_by};
use super::*;

/// A depmod that is this machine's but says that it is of kmod 99. One that differs also writes an index that nobody knows.
fn newer_depmod(dir: &Path, differs: bool) -> PathBuf {
    let text = r#"
        #include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        int main(int count, char **words) {
            if (count == 2 && !strcmp(words[1], "--version"))
                return puts("kmod version 99\n+ZSTD +XZ -ZLIB +LIBCRYPTO -EXPERIMENTAL") < 0;
            for (int at = 1; DIFFERS && at < count - 1; at++) {
                char path[4096];
                if (strcmp(words[at], "-b"))
                    continue;
                snprintf(path, sizeof path, "%s/lib/modules/%s/modules.new", words[at + 1], words[count - 1]);
                fclose(fopen(path, "w"));
            }
            words[0] = "depmod";
            execv(DEPMOD, words);
            return 127;
        }"#;
    let (source, program) = (dir.join("depmod.c"), dir.join(format!("newer-depmod-{differs}")));
    fs_err::write(&source, text).unwrap();
    let mut cc = Command::new("cc");
    cc.arg(format!("-DDEPMOD=\"{}\"", depmod_of_tests().display()));
    cc.arg(format!("-DDIFFERS={}", u8::from(differs))).arg("-o").arg(&program).arg(&source);
    assert!(cc.status().unwrap().success());
    program
}

/// What is remembered of newer depmods.
#[derive(Default)]
struct Compared(RefCell<Vec<bool>>);

impl NewerDepmods for Compared {
    fn is_same(&self, _: &NewerKmod) -> Option<bool> {
        self.0.borrow().last().copied()
    }

    fn remember(&self, depmod: &NewerKmod, is_same: bool) {
        assert_eq!(depmod.version, "kmod version 99");
        self.0.borrow_mut().push(is_same);
    }
}

/// Three installations by such a depmod: why each one needed it, and what was remembered.
fn by_newer_depmod(differs: bool) -> ([String; 3], Vec<bool>) {
    let host = Host::indexed();
    host.install(&[host.package("p", "0", &["one"])]).unwrap();
    let program = newer_depmod(host.dir.path(), differs);
    let compared = Compared::default();
    let said = ["1", "2", "3"].map(|version| {
        let indexed = host.site_does(|site| {
            install_by(&host, Site { depmod: &program, depmods: &compared, ..site }, version)
        });
        match indexed {
            Indexed::ByDepmod { reason } => reason.to_string(),
            Indexed::Here { .. } => "none".to_owned(),
        }
    });
    if !differs {
        assert_same(&host.tree(), "after a newer depmod");
    }
    (said, compared.0.into_inner())
}

#[test]
fn a_newer_depmod_is_compared_with_once_and_is_needed_no_more_if_it_writes_the_same() {
    let ends = |said: &[String; 3], expected: [&str; 3]| {
        assert!(said.iter().zip(expected).all(|(said, end)| said.ends_with(end)), "{said:?}");
    };
    let (said, remembered) = by_newer_depmod(false);
    if !Kmod::of_tests().writes_parents_first() {
        // That one writes otherwise, or that shows in the indexes that are there already.
        assert!(!said.contains(&"none".to_owned()), "{said:?}");
        return assert!(!remembered.contains(&true));
    }
    ends(&said, ["which writes the same indexes and will do so from now on", "none", "none"]);
    assert_eq!(remembered, [true]);
    let (said, remembered) = by_newer_depmod(true);
    ends(&said, ["whose modules.new differs: depmod will go on writing them", "differ", "differ"]);
    assert_eq!(remembered, [false]);
}
