//! The modules in a kernel's tree, and whether the kernel will load them.
//!
//! The file on disk is checked: decompressed as the kernel or kmod would, parsed, and compared with what the kernel
//! exports and enforces. In-tree modules belong to the kernel and are never opened; all others are, whoever put them
//! there:
//!
//! ```text
//! kernel/                            in-tree: not opened
//! updates/kcache-<generation>/       kcache's
//! updates/dkms/, updates/, extra/,   foreign modules. The links of weak-updates/ refer to modules of other kernels, which
//!   weak-updates/, ...               load here if the CRCs of all symbols are equal
//! ```
//!
//! A foreign module is checked as the loader does, kcache's own more strictly: it must name this release.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read::{self, MOST_DATA};
use crate::compress::Compression;
use crate::enforcement::{self, Enforcement};
use crate::kernels::{self, Kernel};
use crate::ko::{self, Defect, ElfMachine, Expect, Flags, Ko, ModuleExport, ModuleFault, ThisModule};
use crate::module_name::ModuleName;
use crate::rootfs::Root;
use crate::signing::{KnownKeys, Signed};
use crate::symvers::Symvers;

/// So many files and directories are looked at for a module of the kernel's own.
const MOST_SEARCHED: usize = 10_000;

/// So many modules of the kernel's own are read for one that has both functions. Nearly all have.
const MOST_READ: usize = 16;

/// Limit in bytes on a module. The largest known, nvidia's, has some 100 MB with debug information.
const MODULE_MAX: u64 = 1 << 30;

/// A module file that was read.
#[derive(Debug)]
pub struct InstalledModule {
    /// Path relative to the kernel's tree.
    pub path: PathBuf,
    /// The parsed module, or why it cannot be parsed.
    pub ko: Result<Ko, Defect>,
    /// Its signature, as the kernel would judge it.
    pub signed: Signed,
}

/// Everything about a kernel that decides whether it loads a module.
#[derive(Debug)]
pub struct Loader {
    release: String,
    machine: ElfMachine,
    flags: Flags,
    symvers: Option<Symvers>,
    this_module: Option<ThisModule>,
    enforcement: Option<Enforcement>,
    signers: KnownKeys,
    /// Whether the kernel decompresses modules itself, so that xz files must suit its decoder.
    decompresses: bool,
}

/// Those of some modules that a kernel has built in, which modprobe therefore never loads (`modules.builtin`, written by
/// the kernel's build; modprobe(8)).
pub fn built_in(tree: &Path, names: &BTreeSet<ModuleName>) -> io::Result<BTreeSet<ModuleName>> {
    let listed = listed(tree, "modules.builtin", names)?;
    Ok(listed.into_iter().map(|(name, _)| name).collect())
}

/// The layout of `struct module` in a kernel's own modules; `None` if none can be read. Some of them have no function for
/// one of the fields, so several may be read.
pub fn this_module(tree: &Path) -> Option<ThisModule> {
    let mut found: Option<ThisModule> = None;
    for path in own(tree).take(MOST_READ) {
        let Some(one) = read_this_module(&path) else { continue };
        match &mut found {
            Some(known) => known.complete(&one),
            None => found = Some(one),
        }
        if found.as_ref().is_some_and(ThisModule::is_complete) {
            break;
        }
    }
    found
}

fn read_this_module(path: &Path) -> Option<ThisModule> {
    let (_, compression) = Compression::of_file_name(path.file_name()?.to_str()?)?;
    let bytes = bounded_read::bytes(path, MOST_DATA).ok()?;
    ko::parse(&compression.decompress(&bytes, MOST_DATA).ok()?).ok()?.this_module
}

/// A kernel's own modules, in the order of their paths. Links are not followed.
pub fn own(tree: &Path) -> impl Iterator<Item = PathBuf> {
    let mut pending = vec![tree.join("kernel")];
    let mut left = MOST_SEARCHED;
    std::iter::from_fn(move || {
        while let Some(path) = pending.pop() {
            left = left.checked_sub(1)?;
            let metadata = fs::symlink_metadata(&path).ok()?;
            if metadata.is_dir() {
                let mut inside: Vec<PathBuf> =
                    fs::read_dir(&path).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
                inside.sort_by(|one, other| other.cmp(one));
                pending.extend(inside);
            } else if metadata.is_file() && is_module(&path) {
                return Some(path);
            }
        }
        None
    })
}

fn is_module(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    Compression::of_file_name(&name.to_string_lossy()).is_some()
}

/// What is said of a module that the kernel has built in.
pub fn never_loaded(module: &ModuleName) -> String {
    format!("{module} is built into this kernel, which therefore never loads the module")
}

impl Loader {
    /// Collects what the system knows about a kernel; `None` if not even its configuration exists. Signatures are
    /// verified with the certificates of `signers`; `this_module` is that of its own modules.
    pub fn of(
        root: &Root,
        kernel: &Kernel,
        signers: KnownKeys,
        this_module: Option<ThisModule>,
    ) -> Result<Option<Loader>, kernels::Error> {
        let Some(config) = kernels::config(root, kernel)? else { return Ok(None) };
        let Some(machine) =
            ElfMachine::of_arch(kernel.build_tree().map_or(kernels::arch(&config), |tree| &tree.arch))
        else {
            return Ok(None);
        };
        Ok(Some(Loader {
            release: kernel.release.clone(),
            machine,
            flags: Flags::of_config(&config),
            symvers: symvers(root, kernel)?,
            this_module,
            enforcement: enforcement::of(root, &kernel.release, Some(&config)),
            signers,
            decompresses: config.yes("CONFIG_MODULE_DECOMPRESS"),
        }))
    }

    /// Whether the kernel's exported symbols are known. If not, modules are not checked against them.
    pub fn knows_symbols(&self) -> bool {
        self.symvers.is_some()
    }

    /// Reads a module file of a kernel's tree.
    pub fn read(&self, tree: &Path, path: PathBuf) -> io::Result<InstalledModule> {
        let bytes = match bounded_read::bytes(tree.join(&path), MOST_DATA) {
            Ok(bytes) => self.decompress(&path, &bytes),
            // A dangling link, as in weak-updates when its kernel was removed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Defect::Gone),
            Err(e) => return Err(e),
        };
        let signed = bytes.as_ref().map_or(Signed::Not, |bytes| self.signers.signer_of(bytes));
        Ok(InstalledModule { path, ko: bytes.and_then(|bytes| ko::parse(&bytes)), signed })
    }

    fn decompress(&self, path: &Path, bytes: &[u8]) -> Result<Vec<u8>, Defect> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let compression =
            Compression::of_file_name(&name).map_or(Compression::None, |(_, compression)| compression);
        if bytes.is_empty() {
            return Err(Defect::Empty);
        }
        if self.decompresses && compression == Compression::Xz && !compression.is_for_kernels(bytes) {
            return Err(Defect::Compressed {
                why: "the kernel's decoder supports only the CRC32 check".to_owned(),
            });
        }
        compression
            .decompress(bytes, MODULE_MAX)
            .map_err(|error| Defect::Compressed { why: error.to_string() })
    }

    /// Checks modules of one tree; returns a list of defects for each, in order, empty if it will load. `is_installed`
    /// says whether modprobe finds a module; `is_own` distinguishes kcache's modules from foreign ones.
    pub fn judge(
        &self,
        modules: &[InstalledModule],
        is_installed: &dyn Fn(&str) -> bool,
        is_own: &dyn Fn(&InstalledModule) -> bool,
    ) -> Vec<Vec<ModuleFault>> {
        let exports: BTreeMap<String, ModuleExport> = modules
            .iter()
            .filter_map(|module| module.ko.as_ref().ok())
            .flat_map(|ko| ko.exports.clone())
            .collect();
        let judge = |module: &InstalledModule| {
            let file = module.path.display().to_string();
            let ko = match &module.ko {
                Ok(ko) => ko,
                Err(defect) => return vec![ModuleFault { file, defect: defect.clone() }],
            };
            let expect = Expect {
                release: &self.release,
                machine: self.machine,
                flags: self.flags,
                symvers: self.symvers.as_ref(),
                this_module: self.this_module.clone(),
                siblings: &exports,
                any_release: !is_own(module),
            };
            let mut faults = ko::check(&file, ko, &expect);
            let unwelcome = self.signers.object(&module.signed, self.enforcement.as_ref(), is_own(module));
            let defects = unwelcome.into_iter().chain(self.missing(ko, &exports, is_installed));
            faults.extend(defects.map(|defect| ModuleFault { file: file.clone(), defect }));
            faults
        };
        modules.iter().map(judge).collect()
    }

    /// A needed in-tree module that is not installed: distributions split them among packages.
    fn missing(
        &self,
        ko: &Ko,
        exports: &BTreeMap<String, ModuleExport>,
        is_installed: &dyn Fn(&str) -> bool,
    ) -> Option<Defect> {
        let symvers = self.symvers.as_ref()?;
        let needed = ko.undefined.iter().filter(|symbol| !exports.contains_key(&symbol.name));
        needed.filter_map(|symbol| symvers.get(&symbol.name)).find_map(|export| {
            let module = export.module.rsplit('/').next().filter(|_| export.module != "vmlinux")?;
            (!is_installed(module)).then(|| Defect::MissingModule {
                symbol: export.symbol.to_owned(),
                module: module.to_owned(),
            })
        })
    }
}

/// A kernel's exported symbols: from its headers, else from where some distributions install them beside the kernel.
fn symvers(root: &Root, kernel: &Kernel) -> Result<Option<Symvers>, kernels::Error> {
    let text = match kernel.build_tree() {
        Some(tree) => tree.symvers()?,
        None => beside_the_image(root, &kernel.release)?,
    };
    Ok(text.map(|text| Symvers::parse(&text).map_err(io::Error::other)).transpose()?)
}

/// Reads `/boot/symvers-R.gz` (Fedora, RHEL), `/lib/modules/R/symvers.xz` (their newer kernels), and the like.
fn beside_the_image(root: &Root, release: &str) -> io::Result<Option<Vec<u8>>> {
    for (extension, compression) in
        [("gz", Compression::Gz), ("xz", Compression::Xz), ("zst", Compression::Zst)]
    {
        for place in [format!("/lib/modules/{release}/symvers"), format!("/boot/symvers-{release}")] {
            if let Some(path) = root.find(format!("{place}.{extension}")) {
                return compression.decompress(&bounded_read::bytes(&path, MOST_DATA)?, MODULE_MAX).map(Some);
            }
        }
    }
    Ok(None)
}

/// Every module file of a tree that is neither in-tree nor kcache's, relative to the tree, sorted.
pub fn foreign(tree: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(tree.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if !is_passed_over(&path) {
                    directories.push(path);
                }
            } else if Compression::of_file_name(&entry.file_name().to_string_lossy()).is_some() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Limit in bytes on a kernel's list of its modules, which has some 200 kB.
const MOST_LISTED: u64 = 16 << 20;

/// The in-tree modules of these names, built in or not: `modprobe` would prefer an installed file of that name. Names
/// are given and returned without `-`, with paths relative to the tree (`modules.order` and `modules.builtin`,
/// Documentation/kbuild/kbuild.rst).
pub fn in_tree(tree: &Path, names: &BTreeSet<ModuleName>) -> io::Result<BTreeMap<ModuleName, String>> {
    let lists = [listed(tree, "modules.order", names)?, listed(tree, "modules.builtin", names)?];
    Ok(lists.into_iter().flatten().collect())
}

/// The lines of a tree's list that are files of modules of these names.
fn listed(tree: &Path, list: &str, names: &BTreeSet<ModuleName>) -> io::Result<Vec<(ModuleName, String)>> {
    let mut text = String::new();
    match crate::bounded_read::open(&tree.join(list)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?.take(MOST_LISTED).read_to_string(&mut text)?,
    };
    let of_names = |path: &str| {
        let name = ModuleName::of_file(Path::new(path)).filter(|name| names.contains(name))?;
        Some((name, path.to_owned()))
    };
    Ok(text.lines().map(str::trim).filter_map(of_names).collect())
}

fn is_passed_over(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text == "kernel" || text == "build" || text == "source" || text.starts_with("updates/kcache-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kconfig::Kconfig;
    use crate::ko::fixture::Built;

    fn loader() -> Loader {
        let symvers = "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x00000007\tmc_fn\tdrivers/media/mc\tEXPORT_SYMBOL\t\n";
        let config = "CONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_MODVERSIONS=y\n";
        Loader {
            release: "6.1.0-56-amd64".into(),
            machine: ElfMachine::of_arch("x86_64").unwrap(),
            flags: Flags::of_config(&Kconfig::new(config.into())),
            symvers: Some(Symvers::parse(symvers.as_bytes()).unwrap()),
            this_module: None,
            enforcement: None,
            signers: KnownKeys::default(),
            decompresses: true,
        }
    }

    #[test]
    fn in_tree_modules_are_found_built_in_or_not() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("modules.order"), "kernel/fs/ext4/ext4.ko\nkernel/sound/snd-a.ko\n")
            .unwrap();
        let names = ["ext4", "snd_a", "loop", "p"].map(ModuleName::new).into();
        let of = |name: &str, path: &str| (ModuleName::new(name), path.to_owned());
        let listed = [of("ext4", "kernel/fs/ext4/ext4.ko"), of("snd_a", "kernel/sound/snd-a.ko")];
        assert_eq!(in_tree(tree.path(), &names).unwrap(), BTreeMap::from(listed.clone()));
        fs::write(tree.path().join("modules.builtin"), "kernel/drivers/block/loop.ko\n").unwrap();
        let built_in = of("loop", "kernel/drivers/block/loop.ko");
        assert_eq!(in_tree(tree.path(), &names).unwrap(), listed.into_iter().chain([built_in]).collect());
    }

    /// The defects of one of kcache's module files.
    fn faults(loader: &Loader, name: &str, bytes: &[u8]) -> Vec<String> {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join(name), bytes).unwrap();
        let module = loader.read(tree.path(), name.into()).unwrap();
        let found = loader.judge(&[module], &|_| false, &|_| true);
        found.concat().iter().map(ModuleFault::to_string).collect()
    }

    #[test]
    fn compressed_modules_are_checked() {
        let bytes = Built::example().bytes();
        for compression in [Compression::None, Compression::Gz, Compression::Xz, Compression::Zst] {
            let name = format!("example.ko{}", compression.extension());
            assert_eq!(faults(&loader(), &name, &compression.compress(&bytes).unwrap()), [""; 0], "{name}");
        }
        let [fault] = &faults(&loader(), "example.ko.xz", &bytes)[..] else { panic!() };
        assert!(fault.starts_with("example.ko.xz cannot be decompressed: "), "{fault}");
        assert_eq!(faults(&loader(), "example.ko", b""), ["example.ko is empty"]);
    }

    #[test]
    fn xz_needs_crc32_if_the_kernel_decompresses() {
        let mut packed = Compression::Xz.compress(&Built::example().bytes()).unwrap();
        packed[7] = 4; // CRC64, xz's default
        let expect =
            "example.ko.xz cannot be decompressed: the kernel's decoder supports only the CRC32 check";
        assert_eq!(faults(&loader(), "example.ko.xz", &packed), [expect]);
    }

    #[test]
    fn unsigned_modules_are_refused_with_the_reason() {
        let strict = Loader { enforcement: Some(Enforcement::SecureBoot), ..loader() };
        let expect = "example.ko is unsigned, and the kernel enforces signatures (Secure Boot)";
        assert_eq!(faults(&strict, "example.ko", &Built::example().bytes()), [expect]);
    }

    #[test]
    fn an_in_tree_module_it_needs_must_be_installed() {
        let mut built = Built::example();
        built.undefined.push(("mc_fn".into(), false));
        built.versions.push(("mc_fn".into(), 7));
        let expect = "example.ko needs the symbol mc_fn of the module mc, which is not installed";
        assert_eq!(faults(&loader(), "example.ko", &built.bytes()), [expect]);
    }

    #[test]
    fn the_layout_of_struct_module_is_that_of_the_first_modules_of_the_kernel() {
        let tree = tempfile::tempdir().unwrap();
        let put = |path: &str, size: usize, functions: &[(usize, &'static str)]| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let built = Built::named("m").struct_size(size).functions(functions);
            fs::write(path, built.bytes()).unwrap();
        };
        assert_eq!(this_module(tree.path()), None);
        put("updates/x.ko", 1, &[]);
        fs::create_dir_all(tree.path().join("kernel/drivers/a")).unwrap();
        fs::write(tree.path().join("kernel/drivers/a/README"), "no module").unwrap();
        fs::write(tree.path().join("kernel/drivers/a/broken.ko"), "no module").unwrap();
        assert_eq!(this_module(tree.path()), None);
        put("kernel/drivers/b/library.ko", 1280, &[]);
        let library =
            ThisModule { size: 1280, init: None, exit: None, types_of: None, words: Some(String::new()) };
        assert_eq!(this_module(tree.path()), Some(library));
        put("kernel/drivers/c/forever.ko", 1280, &[(304, "init_module")]);
        put("kernel/drivers/d/m.ko", 1280, &[(304, "init_module"), (1208, "cleanup_module")]);
        put("kernel/drivers/e/m.ko", 640, &[(8, "init_module"), (16, "cleanup_module")]);
        let whole = ThisModule {
            size: 1280,
            init: Some(304),
            exit: Some(1208),
            types_of: None,
            words: Some(String::new()),
        };
        assert_eq!(this_module(tree.path()), Some(whole));
    }

    #[test]
    fn built_in_modules_are_those_of_modules_builtin() {
        let tree = tempfile::tempdir().unwrap();
        let names = ["snd_x", "m"].map(ModuleName::new).into();
        assert_eq!(built_in(tree.path(), &names).unwrap(), BTreeSet::new());
        fs::write(tree.path().join("modules.builtin"), "kernel/a/snd-x.ko\nkernel/b.ko\n").unwrap();
        assert_eq!(built_in(tree.path(), &names).unwrap(), ["snd_x"].map(ModuleName::new).into());
    }

    #[test]
    fn foreign_modules_and_dangling_links_are_found() {
        let tree = tempfile::tempdir().unwrap();
        for file in
            ["kernel/a.ko", "updates/kcache-1/p/b.ko", "updates/dkms/c.ko.xz", "extra/d.ko", "modules.dep"]
        {
            let path = tree.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir(tree.path().join("weak-updates")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/e.ko", tree.path().join("weak-updates/e.ko")).unwrap();
        std::os::unix::fs::symlink("/usr/src", tree.path().join("build")).unwrap();
        let found = foreign(tree.path()).unwrap();
        assert_eq!(found, ["extra/d.ko", "updates/dkms/c.ko.xz", "weak-updates/e.ko"].map(PathBuf::from));
        let module = loader().read(tree.path(), found[2].clone()).unwrap();
        assert_eq!(module.ko.unwrap_err().to_string(), "is a dangling link");
    }
}
