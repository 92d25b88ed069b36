//! What holds for every sequence of bytes that kcache-kernel reads, whoever made it: nothing here may panic, take more
//! memory than the bytes justify, or say anything that commands a terminal.
//!
//! The fuzz targets call these functions with what the fuzzer thinks of, and kernel/tests/corpus.rs with the files of the
//! corpus, and with many that differ from them a little. `module.der` is the certificate that the corpus' modules are
//! signed with; the key is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use fs_err as fs;
use kcache_kernel::index::{
    DepIndex, DepmodReason, Disk, Facts, IndexedFile, Kmod, Present, SearchRules, Texts, module_name, update,
};
use kcache_kernel::install::{self, Generation, ModulesDir, Site, Transaction};
use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::ko::{self, BuildId, Expect, Flags, Ko, ModInfo};
use kcache_kernel::makefile::{self, Given};
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::recipe::{Recipe, Target};
use kcache_kernel::signing::{self, Certificate, Hash, KnownKeys, Message, Signed};
use kcache_kernel::symvers::{ExportKind, Symvers};
use kcache_kernel::{csource, initramfs, recipe};

/// The kernel of the corpus.
pub const RELEASE: &str = "6.1.0-56-amd64";
/// The module that signatures of the corpus are of.
pub const BODY: &[u8] = b"\x7fELF a module";
/// The generation of the corpus.
pub const GENERATION: &str = "0123456789abcdef";
/// What journals of the corpus find for modules.dep.bin, and what they were to put there.
pub const INDEXES: [&[u8]; 2] = [b"the old index", b"the new index"];

static SIGNER: LazyLock<Certificate> =
    LazyLock::new(|| Certificate::of_der(include_bytes!("module.der")).expect("a certificate"));

/// A whole module file.
pub fn module(bytes: &[u8]) {
    let _ = BuildId::of(bytes);
    if let Ok(facts) = Facts::parse(bytes) {
        let Facts { aliases, softdeps, weakdeps, exports, needs } = &facts;
        let all = [aliases, softdeps, weakdeps, exports, needs];
        let text: usize = all.into_iter().flatten().map(String::len).sum();
        assert!(text <= 4 * bytes.len(), "{text} bytes of {}", bytes.len());
    }
    let known = KnownKeys { configured: vec![SIGNER.clone()], ..KnownKeys::default() };
    if let Some(defect) = known.object(&known.signer_of(bytes), None, true) {
        check_message(&defect.to_string());
    }
    let ko = match ko::parse(bytes) {
        Ok(ko) => ko,
        Err(defect) => return check_message(&defect.to_string()),
    };
    assert!(text_of(&ko) <= 8 * bytes.len(), "{} bytes of {}", text_of(&ko), bytes.len());
    let symvers = Symvers::parse(b"0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n").expect("symvers");
    for symvers in [None, Some(&symvers)] {
        let expect = Expect {
            release: RELEASE,
            machine: ko.machine,
            flags: Flags { modversions: true, ..Flags::default() },
            symvers,
            siblings: &ko.exports,
            this_module: Some(ko::ThisModule {
                size: 1,
                init: Some(0),
                exit: Some(8),
                types_of: Some(9),
                words: None,
            }),
            any_release: false,
        };
        ko::check("a.ko", &ko, &expect).iter().for_each(|fault| check_message(&fault.to_string()));
    }
}

/// How much text is kept of a module. A byte that is no UTF-8 becomes three, and a name may be kept in two places.
fn text_of(ko: &Ko) -> usize {
    let undefined = ko.undefined.iter().map(|symbol| symbol.name.len());
    let versions = ko.versions.keys().map(String::len);
    let export = |(name, export): (&String, &ko::ModuleExport)| {
        name.len() + export.namespace.as_ref().map_or(0, String::len)
    };
    undefined.chain(versions).chain(ko.exports.iter().map(export)).sum()
}

/// The section `.modinfo`.
pub fn modinfo(section: &[u8]) {
    let info = ModInfo::parse(section);
    let padded: Vec<u8> = section.split(|c| *c == 0).flat_map(|text| [text, b"\0\0"].concat()).collect();
    assert_eq!(ModInfo::parse(&padded), info, "padding between strings says nothing");
    for key in ["name", "vermagic", "depends", "import_ns"] {
        assert_eq!(info.all(key).next(), info.get(key));
        assert!(info.all(key).all(|value| !value.contains('\0')));
    }
    assert!(info.depends().all(|name| !name.is_empty() && !name.contains(',')));
}

/// The section `__versions`, and the pair that takes its place.
pub fn versions(bytes: &[u8]) {
    let info = (".modinfo", &b"name=a\0"[..]);
    let ko = ko::parse(&elf(&[info, ("__versions", bytes)])).expect("a module");
    assert!(ko.versions.len() <= bytes.len() / 64);
    assert!(ko.versions.keys().all(|name| !name.contains('\0') && name.len() <= 3 * 56));
    let (crcs, names) = bytes.split_at(bytes.len() / 2);
    let extended = [info, ("__version_ext_crcs", crcs), ("__version_ext_names", names)];
    let ko = ko::parse(&elf(&extended)).expect("a module");
    assert!(ko.versions.len() <= crcs.len() / 4 && text_of(&ko) <= 3 * names.len());
}

/// A relocatable object for x86_64 with these sections.
fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut body = vec![0; 64];
    let mut headers = vec![0; 64];
    let mut add = |name: usize, kind: u32, bytes: &[u8]| {
        let numbers = [0, 0, body.len() as u64, bytes.len() as u64, 0, 1, 0];
        headers.extend([(name as u32).to_le_bytes(), kind.to_le_bytes()].concat());
        headers.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        body.extend(bytes);
    };
    for (name, bytes) in sections {
        add(names.len(), 1, bytes);
        names.extend([name.as_bytes(), b"\0"].concat());
    }
    add(1, 3, &names);
    let (at, count) = (body.len() as u64, sections.len() as u16 + 2);
    body.extend(headers);
    body[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3e\0");
    body[20] = 1;
    body[40..48].copy_from_slice(&at.to_le_bytes());
    for (at, half) in [(52, 64), (58, 64), (60, count), (62, count - 1)] {
        body[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
    body
}

/// A PKCS#7 message: behind a module, and given as a detached signature.
pub fn signature(message: &[u8]) {
    let signed = appended(BODY, message);
    let known = KnownKeys { configured: vec![SIGNER.clone()], ..KnownKeys::default() };
    if let Signed::By { .. } = known.signer_of(&signed) {
        let read = Message::parse(message).expect("what was believed");
        assert!(read.names(&SIGNER) && read.verifies(BODY, &SIGNER));
        assert!(matches!(known.signer_of(&appended(b"\x7fELF b module", message)), Signed::Wrong(_)));
    }
    if let Some(defect) = known.object(&known.signer_of(&signed), None, true) {
        check_message(&defect.to_string());
    }
    match signing::attach(BODY, message, &SIGNER) {
        Ok(signed) => {
            let signer = known.signer_of(&signed);
            assert!(matches!(signer, Signed::By { .. }), "{signer:?}");
        }
        Err(error) => check_message(&error.to_string()),
    }
}

/// A module with a message appended (include/linux/module_signature.h).
pub fn appended(body: &[u8], message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [body, message, &[0, 0, 2, 0, 0, 0, 0, 0], &length, b"~Module signature appended~\n"].concat()
}

/// A certificate in DER or PEM, and the firmware's lists of them.
pub fn certificate(bytes: &[u8]) {
    let lists = signing::parse_list(bytes);
    assert!(lists.iter().map(|der| der.len()).sum::<usize>() <= bytes.len());
    let parsed = Certificate::parse(Path::new("a.pem"), bytes);
    if let Err(error) = &parsed {
        check_message(&error.to_string());
    }
    let listed = lists.iter().filter_map(|der| Certificate::of_der(der).ok());
    for certificate in parsed.into_iter().chain(listed) {
        assert_eq!(Certificate::of_der(certificate.der()).expect("its own DER"), certificate);
        check_message(&certificate.subject());
        certificate.not_after();
        assert!(!certificate.verifies(Hash::Sha256, BODY, b"no signature"));
    }
}

/// `Module.symvers`.
pub fn symvers(bytes: &[u8]) {
    let symvers = match Symvers::parse(bytes) {
        Ok(symvers) => symvers,
        Err(error) => return check_message(&error.to_string()),
    };
    let mut text = String::new();
    for export in symvers.iter() {
        assert!(symvers.get(export.symbol).is_some());
        let kind = match export.kind {
            ExportKind::Any => "EXPORT_SYMBOL",
            ExportKind::Gpl => "EXPORT_SYMBOL_GPL",
        };
        let namespace = export.namespace.unwrap_or_default();
        text += &format!("{:#010x}\t{}\t{}\t{kind}\t{namespace}\n", export.crc, export.symbol, export.module);
    }
    let again = Symvers::parse(text.as_bytes()).expect("what was read");
    assert_eq!(symvers.len(), again.len(), "{text}");
    assert!(symvers.iter().all(|export| again.get(export.symbol) == Some(export)), "{text}");
}

/// `.config`.
pub fn kconfig(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let config = Kconfig::new(text.clone());
    for symbol in text.lines().filter_map(|line| line.split('=').next()).take(100) {
        let value = config.value(symbol);
        assert!(value.is_none_or(|value| !value.contains('\n')));
        assert_eq!(config.yes(symbol), value == Some("y"));
        assert!(config.mentions(symbol) || value.is_none());
    }
    Flags::of_config(&config);
    if let Err(error) = Hash::of_kernel(&config) {
        check_message(&error.to_string());
    }
}

/// `modules.dep.bin` and its kin.
pub fn index(bytes: &[u8]) {
    let whole = kcache_kernel::index::verify(bytes);
    let index = match DepIndex::parse(bytes) {
        Ok(index) => index,
        Err(error) => return check_message(&error.to_string()),
    };
    assert_eq!(whole, Ok(()));
    assert!(index.len() <= bytes.len());
    let mut text = 0;
    for entry in index.iter() {
        text += entry.path.len() + entry.depends().map(str::len).sum::<usize>();
        assert!(entry.name.contains('-') || index.lookup(entry.name) == Some(entry));
    }
    assert!(text <= bytes.len());
}

/// What divides the files of one input of [`indexes`].
pub const DIVIDES: &[u8] = b"\x1e\x1e\x1e\x1e";

/// The text indexes of a tree: what is accepted comes back as it was where nothing has changed.
pub fn indexes(bytes: &[u8]) {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(DIVIDES.len()).position(|window| window == DIVIDES) {
        parts.push(&rest[..at]);
        rest = &rest[at + DIVIDES.len()..];
    }
    parts.push(rest);
    let [order, dep, alias, softdep, symbols, bins @ ..] = &parts[..] else { return };
    let ([dep_bin, alias_bin, symbols_bin], Ok(order)) = (bins, std::str::from_utf8(order)) else { return };
    let kmod = Kmod::parse("kmod version 30\n+XZ\n", b"/ld-linux").expect("a known version");
    if let Err(reason) = SearchRules::parse(&[("a.conf".to_owned(), order.to_owned())], RELEASE, &kmod) {
        check_message(&reason.to_string());
    }
    let texts = [dep, alias, softdep, symbols].map(|part| std::str::from_utf8(part));
    let [Ok(dep), Ok(alias), Ok(softdep), Ok(symbols)] = texts else { return };
    let bins = [*dep_bin, *alias_bin, *symbols_bin];
    let texts = Texts { order, dep, alias, softdep, weakdep: "", symbols, bins };
    let present = match Present::parse(texts, &kmod) {
        Ok(present) => present,
        Err(reason) => return check_message(&reason.to_string()),
    };
    let listed = dep.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned()));
    let mut tree: BTreeMap<String, IndexedFile> =
        listed.map(|path| (module_name(&path), IndexedFile { path, unchanged: true })).collect();
    let written = update(&present, &tree, &mut NoDisk).expect("what was accepted can be written");
    let same = [
        ("modules.dep", dep),
        ("modules.alias", alias),
        ("modules.softdep", softdep),
        ("modules.symbols", symbols),
    ];
    for (name, text) in same {
        let found = written.files.iter().find(|(found, _)| *found == name).map(|(_, bytes)| &bytes[..]);
        assert_eq!(found, Some(text.as_bytes()), "{name}");
    }
    for (name, bytes) in &written.files {
        assert!(!name.ends_with(".bin") || kcache_kernel::index::verify(bytes) == Ok(()), "{name}");
    }
    tree.pop_first();
    if let Err(reason) = update(&present, &tree, &mut NoDisk) {
        check_message(&reason.to_string());
    }
}

struct NoDisk;

impl Disk for NoDisk {
    fn facts(&mut self, path: &str) -> Result<Facts, DepmodReason> {
        Err(DepmodReason::Missing { name: path.to_owned() })
    }

    fn symvers(&mut self) -> Option<&Symvers> {
        None
    }

    fn is_checked(&self, _: &str) -> bool {
        false
    }
}

/// `kcache.toml`.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("kcache.toml");
    let file = match recipe::toml::parse(path, text) {
        Ok(file) => file,
        Err(error) => return check_text(&error.to_string()),
    };
    for release in ["5.10", RELEASE, "6.18.2"] {
        for_target(release, |target| check_recipe(recipe::toml::recipe(path, &file, target)));
    }
}

/// What evaluating a `dkms.conf` gave.
pub fn answer(bytes: &[u8]) {
    let path = Path::new("dkms.conf");
    for_target(RELEASE, |target| {
        if let Some(recipe) = recipe::dkms::recipe(path, bytes, target).transpose() {
            check_recipe(recipe);
        }
    });
}

fn for_target(release: &str, act: impl FnOnce(&Target)) {
    let config = Kconfig::new("CONFIG_ACPI=y\nCONFIG_CC_IS_CLANG=y\n".to_owned());
    act(&Target { release, arch: "x86_64", config: &config });
}

/// A recipe's names are names of files, and it comes back from the JSON that it is kept in.
fn check_recipe(recipe: Result<Recipe, recipe::Error>) {
    let recipe = match recipe {
        Ok(recipe) => recipe,
        Err(error) => return check_text(&error.to_string()),
    };
    assert!(recipe::is_flat_name(&recipe.name) && recipe::is_version(&recipe.version));
    if let recipe::Modules::Listed(modules) = &recipe.modules {
        for module in modules {
            assert!(recipe::is_flat_name(&module.name));
            assert!(!module.built.starts_with('/') && module.built.split('/').all(|part| part != ".."));
        }
    }
    let json = serde_json::to_vec(&recipe).expect("JSON");
    assert_eq!(serde_json::from_slice::<Recipe>(&json).expect("the same"), recipe);
}

/// A makefile, and a C source: anything is one.
pub fn makefile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for given in [Given::default(), Given::default().kbuild()] {
        let read = makefile::read(&text, &given);
        assert!(read.lines.len() <= text.len() + 1);
        let goals: Vec<String> = read.default_goal().map(str::to_owned).into_iter().collect();
        read.reached(&goals);
        for name in makefile::Makefile::references(&text).take(3) {
            let value = read.value(name).unwrap_or_default();
            assert!(read.expanded(&value).len() <= 9 * (value.len() + text.len() + (1 << 16)));
        }
    }
    for strings in [false, true] {
        let code = csource::code(&text, strings);
        assert_eq!(code.matches('\n').count(), text.matches('\n').count(), "lines stay where they are");
        csource::uses(&code, "MODULE_LICENSE");
        csource::included(&code).for_each(drop);
    }
}

/// An initramfs.
pub fn initramfs(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("initrd");
    fs::write(&file, bytes).expect("a file");
    let names = BTreeSet::from([ModuleName::new("example")]);
    if let Ok(copies) = initramfs::copies(&file, &names) {
        assert!(copies.iter().all(|copy| names.contains(&copy.module) && copy.path.len() <= 3 * 4096));
    }
}

/// `generation.json`.
pub fn generation(bytes: &[u8]) {
    let tree = Tree::new();
    fs::write(tree.live().join(format!("updates/kcache-{GENERATION}/generation.json")), bytes)
        .expect("a file");
    let found = match install::current(&tree.live()) {
        Ok(found) => found,
        Err(error) => return check_message(&error.to_string()),
    };
    let Some(found) = found else { return };
    assert_eq!(found.generation, GENERATION);
    let json = serde_json::to_vec(&found).expect("JSON");
    assert_eq!(serde_json::from_slice::<Generation>(&json).expect("the same"), found);
    for (_, module) in found.modules() {
        let parts = Path::new(&module.path).components();
        assert!(parts.into_iter().all(|part| matches!(part, std::path::Component::Normal(_))));
    }
    if let Ok(faults) = install::verify(&tree.live(), &found) {
        faults.iter().for_each(|fault| check_message(&fault.to_string()));
    }
}

/// `journal.json` of an interrupted transaction: going on or back touches nothing but what is kcache's.
pub fn journal(bytes: &[u8]) {
    let tree = Tree::new();
    fs::write(tree.staging().join("journal.json"), bytes).expect("a file");
    let (live, before) = (tree.live(), tree.strange());
    let dir = ModulesDir::from(&live);
    let begun = Transaction::begin(Site {
        tree: &dir,
        root: tree.0.path(),
        depmod: Path::new("/nonexistent/depmod"),
        always_depmod: false,
        depmods: &(),
        sign: None,
        wait: Duration::from_secs(20),
        print: &|_| (),
    });
    match begun {
        Ok(_) => assert!(!tree.staging().exists(), "what is recovered is gone"),
        Err(error) => check_message(&error.to_string()),
    }
    assert_eq!(tree.strange(), before);
}

/// A kernel's tree with an interrupted transaction, and things around it that nobody may touch.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Tree {
        let tree = Tree(tempfile::tempdir().expect("a temporary directory"));
        let (live, staging) = (tree.live(), tree.staging());
        let base = staging.join("base/usr/lib/modules").join(RELEASE);
        fs::create_dir_all(live.join(format!("updates/kcache-{GENERATION}/p"))).expect("a directory");
        fs::create_dir_all(live.join("updates/dkms")).expect("a directory");
        fs::create_dir_all(live.join("kernel")).expect("a directory");
        fs::create_dir_all(tree.0.path().join("etc")).expect("a directory");
        DirBuilder::new().mode(0o700).create(&staging).expect("a directory");
        for dir in [&base, &staging.join("new/kcache-next/p"), &staging.join("old")] {
            fs::create_dir_all(dir).expect("a directory");
        }
        for (path, content) in [
            (live.join("modules.dep.bin"), INDEXES[0]),
            (live.join("modules.dep"), b"old"),
            (live.join("modules.order"), b"old"),
            (live.join("kernel/in-tree.ko"), b"in-tree"),
            (base.join("modules.dep.bin"), INDEXES[1]),
            (base.join("modules.dep"), b"new"),
            (staging.join("old/modules.dep.bin"), INDEXES[0]),
            (staging.join("new/kcache-next/p/m.ko"), b"m"),
            (live.join("updates/dkms/m.ko"), b"m"),
            (tree.0.path().join("etc/shadow"), b"secret"),
            (tree.0.path().join("lib/modules/modules.dep.bin"), b"another's"),
        ] {
            fs::write(path, content).expect("a file");
        }
        tree
    }

    fn live(&self) -> PathBuf {
        self.0.path().join("lib/modules").join(RELEASE)
    }

    fn staging(&self) -> PathBuf {
        self.0.path().join(format!("lib/modules/.kcache-{RELEASE}"))
    }

    /// Files that are not kcache's to change: all but kmod's indexes, `updates/` and the directories beside the tree.
    fn strange(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![self.0.path().to_owned()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(&dir).expect("a directory") {
                let (name, path) = entry.map(|e| (e.file_name(), e.path())).expect("an entry");
                let name = name.to_string_lossy();
                let is_own = dir == self.live() && (name == "updates" || name.starts_with("modules."))
                    || name.starts_with(".kcache-") && self.live().parent() == Some(&*dir);
                if is_own {
                    continue;
                }
                let metadata = fs::symlink_metadata(&path).expect("an entry");
                let content = if metadata.is_dir() {
                    waiting.push(path.clone());
                    Vec::new()
                } else {
                    fs::read(&path).expect("a file")
                };
                found.insert(path, (metadata.mode(), content));
            }
        }
        found
    }
}

/// A line that can be shown to a person.
fn check_message(message: &str) {
    assert!(!message.contains(char::is_control), "{message:?}");
}

/// The same of several lines.
fn check_text(message: &str) {
    assert!(!message.contains(|c: char| c.is_control() && c != '\n'), "{message:?}");
}
