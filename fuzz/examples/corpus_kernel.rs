//! Makes the corpus of kcache-kernel anew: `cargo run --example corpus_kernel` in this directory. Wants `openssl`, `depmod`
//! and `cpio`. The key that signs the modules in it is gone afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use kcache_kernel::compress::Compression;
use kcache_kernel::signing::{Hash, KeyPair, KeyPlace, Signer};
use serde_json::{Value, json};

#[path = "../kernel.rs"]
#[allow(dead_code, reason = "only names are needed")]
mod checks;
#[path = "../../kernel/src/ko/fixture.rs"]
#[allow(dead_code, reason = "the kernel's own tests use all of it")]
mod fixture;

use checks::{BODY, DIVIDES, GENERATION, INDEXES, RELEASE};
use fixture::{Built, Class};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let desk = tempfile::tempdir()?;
    let signer = signer(desk.path())?;
    for (target, files) in [
        ("module", modules(&signer)?),
        ("modinfo", sections()),
        ("versions", versions()),
        ("signature", signatures(desk.path(), &signer)?),
        ("certificate", certificates(desk.path(), &signer)?),
        ("index", indexes(desk.path())?),
        ("indexes", text_indexes(desk.path())?),
        ("initramfs", archives(desk.path())?),
        ("symvers", texts(&SYMVERS)),
        ("kconfig", texts(&KCONFIG)),
        ("recipe", texts(&RECIPES)),
        ("makefile", texts(&MAKEFILES)),
        ("answer", answers()),
        ("generation", generations()),
        ("journal", journals()),
    ] {
        let dir = here().join("corpus").join(target);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes)?;
        }
    }
    Ok(fs::write(here().join("module.der"), signer.certificate().der())?)
}

type Files = Vec<(String, Vec<u8>)>;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn texts(texts: &[(&str, &str)]) -> Files {
    texts.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn file(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.into())
}

fn shell(dir: &Path, line: &str) -> Result<()> {
    let status = Command::new("sh").args(["-ec", line]).current_dir(dir).status()?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}").into()) }
}

fn signer(desk: &Path) -> Result<Signer> {
    let curve = "ec -pkeyopt ec_paramgen_curve:P-256";
    let options = "-nodes -days 36500 -subj '/O=Example/CN=corpus' -keyout key.pem -out cert.pem";
    shell(desk, &format!("umask 077; openssl req -new -x509 -newkey {curve} {options} 2>&1"))?;
    let key = Some(KeyPlace::File(desk.join("key.pem")));
    Ok(KeyPair { key, certificate: Some(desk.join("cert.pem")), secret: None }.open()?)
}

fn modules(signer: &Signer) -> Result<Files> {
    let mut files: Files = Class::ALL
        .iter()
        .map(|class| file(&format!("{class:?}"), Built::example().class(*class).bytes()))
        .collect();
    let mut whole = Built::example();
    whole.build_id = vec![7; 20];
    whole.extended_versions = vec![("printk".into(), 0x1234_5678), ("maybe".into(), 1)];
    files.push(file("extended", whole.bytes()));
    files.push(file("signed", signer.sign(&Built::example().bytes(), Hash::Sha256)?));
    files.push(file("program", Built::example().elf_type(2).bytes()));
    Ok(files)
}

fn sections() -> Files {
    let plain = "license=GPL\0description=a module\0\0\0author=\u{e9}\0alias=pci:v*\0depends=a,b\0import_ns=A\0\
                 import_ns=B\0name=example\0vermagic=6.1.0-56-amd64 SMP preempt mod_unload modversions \0";
    vec![file("plain", plain), file("latin", b"author=\xe9\0=\0name\0\0depends=,\0".to_vec())]
}

fn versions() -> Files {
    let entry = |crc: u64, name: &str| {
        let mut bytes = crc.to_le_bytes().to_vec();
        bytes.extend(name.as_bytes());
        bytes.resize(64, 0);
        bytes
    };
    let both = [entry(1, "module_layout"), entry(0x1234_5678, "printk")].concat();
    let full = entry(2, &"n".repeat(56));
    let extended = [&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0][..], b"printk\0maybe\0\0"].concat();
    vec![file("two", both), file("without-nul", full), file("extended", extended)]
}

fn signatures(desk: &Path, signer: &Signer) -> Result<Files> {
    let mut files = Vec::new();
    for hash in [Hash::Sha256, Hash::Sha512] {
        let signed = signer.sign(BODY, hash)?;
        files.push(file(hash.name(), &signed[BODY.len()..signed.len() - 40]));
    }
    fs::write(desk.join("body"), BODY)?;
    for (name, options) in [
        ("with-certificate", "-noattr"),
        ("by-key-identifier", "-noattr -nocerts -keyid"),
        ("with-attributes", ""),
        ("not-detached", "-noattr -nodetach"),
    ] {
        let keys = "-signer cert.pem -inkey key.pem -outform DER -md sha256 -out p7s";
        shell(desk, &format!("openssl cms -sign -binary -in body {keys} {options}"))?;
        files.push(file(name, fs::read(desk.join("p7s"))?));
    }
    Ok(files)
}

fn certificates(desk: &Path, signer: &Signer) -> Result<Files> {
    /// EFI_CERT_X509_GUID in memory.
    const X509: [u8; 16] =
        [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
    let der = signer.certificate().der();
    let list = |kind: [u8; 16], data: &[u8]| {
        let numbers = [44 + data.len(), 0, 16 + data.len()].map(|number| (number as u32).to_le_bytes());
        [&kind[..], &numbers.concat(), &[7; 16], data].concat()
    };
    let lists = [list([9; 16], &[1; 32]), list(X509, der), list(X509, der)].concat();
    Ok(vec![file("der", der), file("pem", fs::read(desk.join("cert.pem"))?), file("lists", lists)])
}

fn indexes(desk: &Path) -> Result<Files> {
    let tree = desk.join("lib/modules").join(RELEASE);
    fs::create_dir_all(tree.join("kernel"))?;
    for name in ["example", "exam-ple", "other"] {
        let mut built = Built::named(name);
        built.modinfo.push(format!("alias=pci:v*d*{name}"));
        fs::write(tree.join(format!("kernel/{name}.ko")), built.bytes())?;
    }
    for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::write(tree.join(name), "")?;
    }
    shell(desk, &format!("PATH=$PATH:/sbin depmod -b . {RELEASE}"))?;
    let read = |name: &str| Ok(file(name, fs::read(tree.join(format!("modules.{name}.bin")))?));
    ["dep", "alias", "builtin"].into_iter().map(read).collect()
}

/// The same tree's text indexes, and another's whose modules need each other.
fn text_indexes(desk: &Path) -> Result<Files> {
    let apart = desk.join("lib/modules").join(RELEASE);
    let joined = desk.join("joined/lib/modules").join(RELEASE);
    fs::create_dir_all(joined.join("kernel"))?;
    for (name, exports, needs) in
        [("a", "of_a", ""), ("b", "of_b", "of_a"), ("c-d", "of_c", "of_b"), ("e", "", "of_c")]
    {
        let mut built = Built::named(name);
        built.modinfo.extend(["alias=x[0-9]-y", "softdep=pre: a"].map(str::to_owned));
        built.exports.extend((!exports.is_empty()).then(|| (exports.to_owned(), 1, String::new())));
        built.undefined.extend((!needs.is_empty()).then(|| (needs.to_owned(), false)));
        fs::write(joined.join(format!("kernel/{name}.ko")), built.bytes())?;
    }
    fs::write(joined.join("modules.order"), "kernel/e.ko\nkernel/a.ko\n")?;
    for name in ["modules.builtin", "modules.builtin.modinfo"] {
        fs::write(joined.join(name), "")?;
    }
    shell(desk, &format!("PATH=$PATH:/sbin depmod -b joined {RELEASE}"))?;
    let all = |tree: &Path| -> Result<Vec<u8>> {
        let names = ["order", "dep", "alias", "softdep", "symbols", "dep.bin", "alias.bin", "symbols.bin"];
        let read = |name| Ok(fs::read(tree.join(format!("modules.{name}")))?);
        Ok(names.into_iter().map(read).collect::<Result<Vec<_>>>()?.join(DIVIDES))
    };
    Ok(vec![file("apart", all(&apart)?), file("joined", all(&joined)?)])
}

fn archives(desk: &Path) -> Result<Files> {
    shell(
        desk,
        "cd lib/modules && find . -name '*.ko' -o -type d | cpio --quiet -o -H newc > ../../plain.cpio",
    )?;
    let plain = fs::read(desk.join("plain.cpio"))?;
    let mut files = vec![file("plain", plain.clone())];
    for compression in [Compression::Gz, Compression::Xz, Compression::Zst] {
        let packed = compression.compress(&plain)?;
        files.push(file(&format!("packed{}", compression.extension()), packed));
    }
    let both = [&plain[..], &[0; 512], &Compression::Gz.compress(&plain)?].concat();
    files.push(file("two", both));
    Ok(files)
}

fn answers() -> Files {
    let join = |words: &[&str]| words.iter().map(|word| format!("{word}\0")).collect::<String>();
    let module = ["module", "0", "built", "a", "dest", "a", "strip", "yes", "dest_location", "/extra"];
    let full = [
        &["name", "a", "version", "1~rc1", "make", "make -j7919 all", "clean", "true", "patch", "a.patch"][..],
        &["pre_build", "pre.sh", "post_install", "after.sh x", "depends", "b", "automatic", "yes"],
        &["note", "a note", "min", "5.4", "config", "CONFIG_ACPI !CONFIG_X", "obsolete_by", "7.0"],
        &module,
        &[
            "module",
            "1",
            "location",
            "sub/",
            "built",
            "b",
            "dest",
            "c",
            "dest_location",
            "/updates",
            "max",
            "5.10",
        ],
    ];
    let small = [&["name", "a", "version", "1"][..], &module];
    vec![file("full", join(&full.concat())), file("small", join(&small.concat()))]
}

/// Any digest.
fn digest(bytes: &[u8]) -> String {
    kcache_store::Digest::of(bytes).to_string()
}

fn generations() -> Files {
    let module = json!({"name": "m", "path": "p/m.ko.xz", "digest": digest(b"m"), "size": 1,
                        "installed_digest": digest(b"on disk")});
    let spec = json!({"name": "m", "digest": digest(b"m"), "size": 1});
    let package = |module: &Value| json!([{"name": "p", "version": "1", "key": "k", "modules": [module]}]);
    let signer = json!({"subject": "CN=host", "certificate": digest(b"cert"), "hash": "sha256"});
    let mut full = json!({
        "format": 1, "generation": GENERATION, "kernel": RELEASE, "kernel_version": "#1 SMP", "compression": "xz",
        "signer": signer, "packages": package(&module), "index": digest(INDEXES[0]),
        "created": {"updates_dir": true, "indexes": ["modules.dep.bin"]},
        "previous": {"kernel_version": "#1 SMP", "compression": "none", "signer": null, "packages": package(&spec)},
    });
    let whole = full.to_string();
    full["previous"] = Value::Null;
    full["signer"] = Value::Null;
    full["packages"] = json!([]);
    vec![file("full", whole), file("empty", full.to_string())]
}

fn journals() -> Files {
    let change =
        |name: &str, before: bool, after: bool| json!({"name": name, "before": before, "after": after});
    let indexes = json!([change("modules.dep", false, true), change("modules.dep.bin", true, true)]);
    let files = json!([{"package": "p", "path": "updates/dkms/m.ko"}]);
    let journal = |live: Option<usize>, others: Value| {
        // Forward if the live index is the new one, back if it is the old one, else as after somebody's depmod.
        let of = |index: usize| match live {
            Some(live) => digest(INDEXES[usize::from(live != index)]),
            None => digest(b"strange"),
        };
        json!({"format": 1, "new": "next", "new_manifest": digest(b"manifest"), "old": GENERATION,
               "retire": [format!("kcache-{GENERATION}")], "makes_updates": true, "drops_updates": true,
               "indexes": indexes, "others": others, "old_index": of(0), "new_index": of(1)})
        .to_string()
    };
    let untouched = json!("untouched");
    vec![
        file("back", journal(Some(0), untouched.clone())),
        file("forward", journal(Some(1), untouched.clone())),
        file("strange", journal(None, untouched)),
        file("forward-take", journal(Some(1), json!({"take": files}))),
        file("forward-drop", journal(Some(1), json!({"drop": files}))),
        file("back-give", journal(Some(0), json!({"give-back": files}))),
    ]
}

const SYMVERS: [(&str, &str); 3] = [
    (
        "today",
        "0x4c9d28b0\tphys_base\tvmlinux\tEXPORT_SYMBOL\t\n0x815f2897\tcxl_probe\tdrivers/cxl/core/cxl_core\t\
         EXPORT_SYMBOL_GPL\tCXL\n0x00000000\tfrom_assembly\tvmlinux\tEXPORT_SYMBOL\tEXPORT_ME\n",
    ),
    ("of-5.4", "0x00000001\ta\tNS\tdrivers/a\tEXPORT_SYMBOL_GPL\n0x00000001\tb\t\tvmlinux\tEXPORT_SYMBOL\n"),
    (
        "of-4.19",
        "0x00000001\ta\tvmlinux\tEXPORT_UNUSED_SYMBOL\n\n0x1\tb\tvmlinux\tEXPORT_SYMBOL_GPL_FUTURE\n",
    ),
];

const KCONFIG: [(&str, &str); 2] = [
    (
        "plain",
        "#\n# Automatically generated file; DO NOT EDIT.\n#\nCONFIG_CC_VERSION_TEXT=\"gcc-12 (Debian 12.2.0) 12.2.0\"\n\
         CONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\n# CONFIG_PREEMPT_RT is not set\nCONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\n\
         CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH=\"sha256\"\nCONFIG_X=m\nCONFIG_HZ=250\n",
    ),
    ("odd", "CONFIG_MODULE_SIG=y\r\nCONFIG_MODULE_SIG_HASH=\"\u{1b}[2J\"\nCONFIG_A=\"\nCONFIG_B\n=y\n"),
];

const RECIPES: [(&str, &str); 2] = [
    ("small", "name = 'hello'\nversion = '1.0'\n"),
    (
        "full",
        "name = 'a'\nversion = '1.0~rc1'\nmake = ['make all']\nprepare = ['./configure']\ndepends = ['b']\n\
         automatic = false\nsource = '/usr/src/a'\n[kernels]\nmin = '5.4'\nmax = '6.12'\nmatch = '*-amd64'\n\
         arch = ['x86_64']\nconfig = ['CONFIG_ACPI', '!CONFIG_X']\n[[module]]\nname = 'a'\npath = 'src/'\n\
         install-as = 'a-b'\nstrip = false\n[[patch]]\nfile = 'p/a.diff'\nkernels = { max = '6.1' }\n",
    ),
];

const MAKEFILES: [(&str, &str); 3] = [
    (
        "both-ways",
        "ifneq ($(KERNELRELEASE),)\nobj-m := a.o b.o\na-y := a1.o \\\n  a2.o\nelse\nKDIR ?= /lib/modules/$(shell uname -r)/build\n\
         all: modules # all\n\t$(MAKE) -C ${KDIR} M=$(PWD) modules\nclean::\n\trm -rf *.o\nendif\ndefine x\nendef\n",
    ),
    ("itself", "A = $(A)$(A)$(B)\nB = $(A) ${B}\nall: $(A) $(B)\n\techo $(A)\n"),
    (
        "source",
        "#include <linux/module.h>\n#define LICENSE \"GPL v2\"\n/* MODULE_LICENSE(\"no\") */ // no\n\
         MODULE_LICENSE(LICENSE);\nMODULE_LICENSE(\"G\\\"PL\" );\nstatic char c = '\\'';\n",
    ),
];
