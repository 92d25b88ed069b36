//! Where kcache is tortured: a root with one kernel, two builds of a package of three modules, and states to begin from.
//!
//! ```text
//! DIR/root/          usr/src, usr/lib, boot, etc: never changed, so the headers' digest is computed once
//!   lib/modules/       bound to live/modules
//!   lib/modules/R/kernel bound to in-tree/kernel
//! DIR/in-tree/       the kernel's own modules. They are not copied with a state: only where they are older than the indexes
//!                    kcache takes them for known, and makes the new ones without depmod
//! DIR/live/          all that runs change: modules/ store/ cache/ export/; a file system of its own where that is tortured
//! DIR/states/NAME/   copies of live/
//! DIR/kcache         the program
//! ```
//!
//! The process has a mount namespace of its own ([`Room::make`] makes it), so that nothing is left mounted whatever happens.
//! In memory, a state is brought back in some ten milliseconds.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::check::{Places, under};

/// The package that is installed, and a second one that "builds" by copying a module it brings: a build that takes no time.
pub const PACKAGE: &str = "trio";
pub const COPIED: &str = "copied";
/// The state in which bytes have rotted.
pub const DAMAGED: &str = "damaged";
const MODULES: [&str; 3] = ["trio_a", "trio_b", "trio_c"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Of a kernel's headers, what modules for x86 are built from.
const OF_HEADERS: &[&str] = &[
    ".config",
    ".kernelvariables",
    "Makefile",
    "Module.symvers",
    "arch",
    "scripts",
    "tools",
    "include/generated",
    "include/config/auto.conf",
    "include/config/kernel.release",
];
const OF_COMMON: &[&str] = &[
    "Makefile",
    "scripts",
    "tools",
    "arch/x86",
    "include/acpi",
    "include/asm-generic",
    "include/linux",
    "include/media",
    "include/uapi",
    "include/vdso",
    "include/video",
];
const OF_TREE: &[&str] =
    &["build", "source", MODULES_OF_KERNEL[0], MODULES_OF_KERNEL[1], MODULES_OF_KERNEL[2]];
/// What of `modules.*` is no index.
const MODULES_OF_KERNEL: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
/// Some hundred in-tree modules, some of which depend on others.
const IN_TREE: &str = "kernel/crypto";

/// What runs change, under `live/`.
const LIVE: [&str; 5] = ["modules", "store", "cache", "export", "dkms"];

pub struct Room {
    dir: PathBuf,
    fixtures: PathBuf,
    pub places: Places,
    /// What is to be seen where; what lies within another comes after it.
    binds: Vec<(PathBuf, PathBuf)>,
}

impl Room {
    /// Makes one in a directory that is there and empty.
    pub fn make(dir: &Path, fixtures: &Path, kcache: &Path) -> io::Result<Room> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let env = fs_err::read_to_string(fixtures.join("env"))?;
        let release =
            env.lines().find_map(|line| line.strip_prefix("K61_NEW=")).unwrap_or_default().to_owned();
        let live = dir.join("live");
        let places = Places {
            root: dir.join("root"),
            release,
            store: live.join("store"),
            cache: live.join("cache"),
            export: live.join("export/set.tar"),
        };
        let mut room = Room { dir: dir.to_owned(), fixtures: fixtures.to_owned(), places, binds: Vec::new() };
        for made in ["root/lib/modules", "states", "tmp", "home"] {
            fs_err::create_dir_all(dir.join(made))?;
        }
        LIVE.iter().try_for_each(|part| fs_err::create_dir_all(live.join(part)))?;
        fs_err::copy(kcache, dir.join("kcache"))?;
        room.copy_kernel(&fixtures.join("root"))?;
        room.show_modules(&room.places.modules())?;
        room.make_states()?;
        Ok(room)
    }

    /// What runs change.
    pub fn live(&self) -> PathBuf {
        self.dir.join("live")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn fixtures(&self) -> &Path {
        &self.fixtures
    }

    /// Where changes count.
    pub fn watched(&self) -> Vec<PathBuf> {
        // `/lib` is a link to `/usr/lib`, and a call may name either.
        let mut places = vec![self.live(), "/lib/modules".into()];
        places.extend(self.binds.iter().map(|(_, place)| place.clone()));
        places
    }

    /// Shows the parts of `live/` in their places.
    pub fn bind(&self) -> io::Result<()> {
        self.binds.iter().try_for_each(|(from, place)| bind(from, place))
    }

    /// Takes them away from there again.
    pub fn unbind(&self) -> io::Result<()> {
        self.binds.iter().rev().try_for_each(|(_, place)| unmount(place))
    }

    /// Shows kernels' trees in this place from now on, with the modules that the kernel brings.
    pub fn show_modules(&mut self, place: &Path) -> io::Result<()> {
        self.show(self.live().join("modules"), place.to_owned())?;
        self.show(self.dir.join("in-tree/kernel"), place.join(&self.places.release).join("kernel"))
    }

    /// Shows one thing in one more place from now on.
    pub fn show(&mut self, from: PathBuf, place: PathBuf) -> io::Result<()> {
        bind(&from, &place)?;
        self.binds.push((from, place));
        Ok(())
    }

    /// kcache with a bare environment, one thing after the other.
    pub fn kcache(&self, words: &[String]) -> Command {
        let mut command = Command::new(self.dir.join("kcache"));
        command.env_clear().env("PATH", PATH).current_dir(&self.dir);
        command.env("HOME", self.dir.join("home")).env("TMPDIR", self.dir.join("tmp"));
        command.arg("--root").arg(&self.places.root).arg("--store").arg(&self.places.store);
        command.args(["--jobs", "1"]).args(words);
        command
    }

    /// Gives the package's source this text.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let source = self.places.root.join("usr/src/trio-1.0");
        fs_err::create_dir_all(&source)?;
        MODULES
            .iter()
            .try_for_each(|name| fs_err::write(source.join(format!("{name}.c")), module_c(text)))?;
        let makefile: String = MODULES.map(|name| format!("obj-m += {name}.o\n")).concat();
        fs_err::write(source.join("Makefile"), makefile)?;
        fs_err::write(source.join("dkms.conf"), dkms_conf(PACKAGE, &MODULES, "AUTOINSTALL=yes\n"))
    }

    pub fn save(&self, state: &str) -> io::Result<()> {
        let to = self.dir.join("states").join(state);
        fs_err::create_dir_all(&to)?;
        self.unbind()?;
        copy(&self.live(), &LIVE, &to)?;
        self.bind()
    }

    /// Brings a state back.
    pub fn restore(&self, state: &str) -> io::Result<()> {
        self.unbind()?;
        for part in LIVE {
            clear(&self.live().join(part))?;
        }
        self.fill(state)?;
        self.bind()
    }

    /// Copies a state to where runs change it, which is empty and shown nowhere. Its indexes are written last, as depmod does it: what
    /// was copied together with them may be newer.
    pub fn fill(&self, state: &str) -> io::Result<()> {
        copy(&self.dir.join("states").join(state), &LIVE, &self.live())?;
        for entry in fs_err::read_dir(self.live().join("modules").join(&self.places.release))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("modules.") && !MODULES_OF_KERNEL.contains(&&*name) {
                let path = self.live().join("modules").join(&self.places.release).join(&*name);
                fs_err::OpenOptions::new().write(true).open(path)?.set_modified(SystemTime::now())?;
            }
        }
        Ok(())
    }

    fn copy_kernel(&self, from: &Path) -> io::Result<()> {
        let release = &self.places.release;
        let headers = format!("usr/src/linux-headers-{release}");
        let makefile = fs_err::read_to_string(from.join(&headers).join("Makefile"))?;
        let common = makefile.trim().trim_start_matches("include /").trim_end_matches("/Makefile");
        let scripts = fs_err::read_link(from.join(&headers).join("scripts"))?;
        let kbuild =
            scripts.to_string_lossy().trim_start_matches("../").split('/').rev().nth(1).map(str::to_owned);
        let kbuild = format!("usr/lib/{}", kbuild.unwrap_or_default());
        let image = [format!("vmlinuz-{release}"), format!("config-{release}")];
        let image = [image[0].as_str(), image[1].as_str()];
        let tree = format!("lib/modules/{release}");
        let (root, live) = (&self.places.root, self.live().join("modules").join(release));
        for (dir, parts, to) in [
            (kbuild.as_str(), &["."][..], root.join(&kbuild)),
            (&headers, OF_HEADERS, root.join(&headers)),
            (common, OF_COMMON, root.join(common)),
            ("boot", &image, root.join("boot")),
            (&tree, OF_TREE, live.clone()),
            (&tree, &[IN_TREE], self.dir.join("in-tree")),
        ] {
            fs_err::create_dir_all(&to)?;
            copy(&from.join(dir), parts, &to)?;
        }
        fs_err::create_dir(live.join("kernel"))
    }

    /// `bare`: never seen by kcache; `built`: both builds in the store; `first`, `second`: one is installed, the second over
    /// the first; `received`: a host that has nothing but the shared cache and the exported set; `version 1`: an index of
    /// an older program; `damaged`: of the first, an installed module and an object of the store have other bytes.
    fn make_states(&self) -> io::Result<()> {
        let tree = self.places.tree();
        self.save("bare")?;
        self.must(&["keys", "generate", "--name", "torture"])?;
        for text in ["second", "first"] {
            self.write(text)?;
            self.must(&["build", PACKAGE, "-k", &self.places.release])?;
        }
        self.save("built")?;
        // What is younger than two seconds is never collected (store/src/gc.rs), and the scenario of gc is to find it old.
        std::thread::sleep(Duration::from_millis(2100));
        succeed(
            Command::new("depmod")
                .env("PATH", PATH)
                .arg("-b")
                .arg(&self.places.root)
                .arg(&self.places.release),
        )?;
        self.must(&["install", "-k", &self.places.release])?;
        self.bring(&tree)?;
        self.save("first")?;
        let url = self.cache_url();
        let export = self.places.export.display().to_string();
        self.must(&["push", "--to", &url, PACKAGE, "-k", &self.places.release])?;
        self.must(&["export", &export, PACKAGE, "-k", &self.places.release])?;
        self.save("pushed")?;
        clear(&self.places.store)?;
        fs_err::remove_dir(&self.places.store)?;
        self.save("received")?;
        self.restore("pushed")?;
        self.rot(&tree)?;
        self.save(DAMAGED)?;
        self.restore("first")?;
        self.make_version_1().map_err(io::Error::other)?;
        self.save("version 1")?;
        self.restore("first")?;
        self.write("second")?;
        let said = self.must(&["-v", "install", "-k", &self.places.release])?.stderr;
        let said = String::from_utf8_lossy(&said);
        if !said.contains("without depmod") {
            // Its own writing of indexes would not be tortured.
            return Err(io::Error::other(said.into_owned()));
        }
        self.save("second")
    }

    pub fn cache_url(&self) -> String {
        format!("file://{}", self.places.cache.display())
    }

    /// Another byte in the middle of an installed module, and of an object that the shared cache has as well.
    fn rot(&self, tree: &Path) -> io::Result<()> {
        let shared = under(&self.places.cache.join("objects"), 2).into_iter().find(|path| path.is_file());
        let shared = shared.ok_or(io::ErrorKind::NotFound)?;
        let object = self.places.store.join(shared.strip_prefix(&self.places.cache).unwrap_or(&shared));
        for path in [installed(tree)?, object] {
            let mut bytes = fs_err::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs_err::write(&path, bytes)?;
        }
        Ok(())
    }

    /// The second package, which brings a module that was just installed.
    fn bring(&self, tree: &Path) -> io::Result<()> {
        let module = installed(tree)?;
        let source = self.places.root.join("usr/src/copied-1.0");
        fs_err::create_dir_all(&source)?;
        fs_err::copy(module, source.join("brought.bin"))?;
        fs_err::write(source.join("Makefile"), "all:\n\tcp brought.bin trio_a.ko\n")?;
        fs_err::write(source.join("dkms.conf"), dkms_conf(COPIED, &MODULES[..1], "MAKE=\"make all\"\n"))
    }

    fn make_version_1(&self) -> rusqlite::Result<()> {
        let db = rusqlite::Connection::open(self.places.store.join("index.sqlite"))?;
        db.execute_batch("DROP TABLE counter; PRAGMA user_version = 1; PRAGMA wal_checkpoint(TRUNCATE);")
    }

    fn must(&self, words: &[&str]) -> io::Result<Output> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        succeed(&mut self.kcache(&words))
    }
}

/// One of the modules of the package.
fn installed(tree: &Path) -> io::Result<PathBuf> {
    let module = format!("{PACKAGE}/trio_a.ko");
    let found = fs_err::read_dir(tree.join("updates"))?.flatten().map(|dir| dir.path().join(&module));
    Ok(found.last().ok_or(io::ErrorKind::NotFound)?)
}

fn dkms_conf(package: &str, modules: &[&str], more: &str) -> String {
    let names = modules.iter().enumerate();
    let names =
        names.map(|(i, name)| format!("BUILT_MODULE_NAME[{i}]={name}\nDEST_MODULE_LOCATION[{i}]=/extra\n"));
    format!("PACKAGE_NAME={package}\nPACKAGE_VERSION=1.0\n{more}{}", names.collect::<String>())
}

/// A module that does nothing and bears a text.
fn module_c(text: &str) -> String {
    format!(
        "#include <linux/module.h>\nstatic int __init start(void) {{ return 0; }}\nstatic void __exit stop(void) {{ }}\n\
         module_init(start);\nmodule_exit(stop);\nMODULE_DESCRIPTION(\"{text}\");\nMODULE_LICENSE(\"GPL\");\n"
    )
}

/// Copies parts of a directory; those that are not there are left out.
fn copy(from: &Path, parts: &[&str], to: &Path) -> io::Result<()> {
    let there = parts.iter().filter(|part| from.join(part).symlink_metadata().is_ok());
    let mut cp = Command::new("cp");
    cp.args(["-a", "--parents", "--no-preserve=ownership"]).args(there).arg(to).current_dir(from);
    succeed(&mut cp).map(drop)
}

/// What is mounted in it stands in the way of deleting it.
impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.unbind();
    }
}

fn bind(from: &Path, place: &Path) -> io::Result<()> {
    Ok(mount(Some(from), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// The sandboxes of what was killed go a little later, with their mounts.
pub fn unmount(place: &Path) -> io::Result<()> {
    for _ in 0..100 {
        match umount2(place, MntFlags::empty()) {
            Err(nix::errno::Errno::EBUSY) => std::thread::sleep(Duration::from_millis(20)),
            done => return Ok(done?),
        }
    }
    Err(io::Error::other(format!("{} stays busy", place.display())))
}

/// Empties a directory, making it where it is missing.
pub fn clear(dir: &Path) -> io::Result<()> {
    fs_err::create_dir_all(dir)?;
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs_err::remove_dir_all(entry.path())?;
        } else {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Runs what has to succeed for the rest to mean anything.
pub fn succeed(command: &mut Command) -> io::Result<Output> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?} ended with {}: {said}", output.status)))
}
