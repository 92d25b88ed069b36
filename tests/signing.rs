//! Modules signed when they are installed: by a key in a file, by a service, and for kernels that insist on it.

use crate::builder::url;
use crate::host::{FIXTURES, Host, PATH, Run, rewrite_generation, run};
use crate::packages::{hello, plain};
use crate::tools::update_kbuild;
use fs_err as fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

const RSA: &str = "rsa:2048";
const ECDSA: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

/// A host with one package and, under `/etc/keys`, a key with its certificate.
struct Signing {
    host: Host,
    kernel: &'static str,
}

impl Signing {
    fn new(kernel: &'static str) -> Signing {
        let host = Host::new(&[kernel]);
        hello(&host, "signed");
        let signing = Signing { host, kernel };
        fs::create_dir_all(signing.keys()).unwrap();
        signing.generate("one", RSA);
        signing
    }

    fn keys(&self) -> PathBuf {
        self.host.root().join("etc/keys")
    }

    #[track_caller]
    fn sh(&self, line: &str) {
        run(Command::new("sh").args(["-c", line]).current_dir(self.keys()).env("PATH", PATH));
    }

    /// `NAME.key` and `NAME.crt`.
    fn generate(&self, name: &str, kind: &str) {
        self.sh(&format!(
            "umask 077; openssl req -new -x509 -newkey {kind} -nodes -days 30 -subj /CN={name} -keyout {name}.key -out {name}.crt"
        ));
    }

    fn configure(&self, lines: &str) {
        self.host.write_config(&format!("[signing]\n{lines}\n"));
    }

    /// Signs with the key of this name from now on.
    fn with_key(&self, name: &str) {
        self.configure(&format!("key = '/etc/keys/{name}.key'\ncertificate = '/etc/keys/{name}.crt'"));
    }

    /// Makes the kernel one that loads signed modules only.
    fn enforce(&self) {
        let grub = self.host.root().join("boot/grub");
        fs::create_dir_all(&grub).unwrap();
        let kernel = self.kernel;
        let menu =
            format!("menuentry 'Debian' {{\n linux /boot/vmlinuz-{kernel} ro module.sig_enforce=1\n}}\n");
        fs::write(grub.join("grub.cfg"), menu).unwrap();
    }

    fn kcache(&self, arguments: &[&str]) -> crate::host::Run {
        self.host.kcache(&[arguments, &["-k", self.kernel]].concat())
    }

    /// The one module that is installed, decompressed.
    fn module(&self) -> Vec<u8> {
        let (_, path) = self.host.modules(self.kernel).pop_first().expect("a module is installed");
        match path.extension().is_some_and(|extension| extension == "xz") {
            true => run(Command::new("xz").args(["-dc"]).arg(path)).stdout,
            false => fs::read(path).unwrap(),
        }
    }

    /// Whether the installed module is byte for byte what the kernel's own program makes of the unsigned one.
    fn is_of_sign_file(&self, name: &str) -> bool {
        let module = self.module();
        let (body, _) = split(&module);
        fs::write(self.keys().join("body.ko"), body).unwrap();
        let program = self.host.root().join("usr/lib/linux-kbuild-6.1/scripts/sign-file");
        self.sh(&format!("{} sha256 {name}.key {name}.crt body.ko signed.ko", program.display()));
        fs::read(self.keys().join("signed.ko")).unwrap() == self.module()
    }

    #[track_caller]
    fn openssl_accepts(&self, name: &str) {
        let module = self.module();
        let (body, message) = split(&module);
        fs::write(self.keys().join("body"), body).unwrap();
        fs::write(self.keys().join("sig"), message).unwrap();
        self.sh(&format!(
            "openssl cms -verify -inform DER -in sig -content body -certfile {name}.crt -noverify -nointern -binary -out /dev/null"
        ));
    }

    fn generation(&self) -> serde_json::Value {
        let (_, path) = self.host.modules(self.kernel).pop_first().unwrap();
        let generation = path.parent().unwrap().parent().unwrap().join("generation.json");
        serde_json::from_slice(&fs::read(generation).unwrap()).unwrap()
    }
}

const MAGIC: &[u8] = b"~Module signature appended~\n";

/// A signed module's body, and the message that is appended to it.
fn split(signed: &[u8]) -> (&[u8], &[u8]) {
    let rest = signed.strip_suffix(MAGIC).expect("it is signed");
    let (rest, info) = rest.split_at(rest.len() - 12);
    assert_eq!(info[..8], [0, 0, 2, 0, 0, 0, 0, 0]);
    rest.split_at(rest.len() - u32::from_be_bytes(info[8..].try_into().unwrap()) as usize)
}

#[test]
fn an_installed_module_has_the_signature_that_sign_file_makes() {
    let host = Signing::new(k());
    host.with_key("one");
    host.kcache(&["install"]).exits(0);
    assert!(host.is_of_sign_file("one"));
    host.openssl_accepts("one");
    assert_eq!(host.host.modinfo(k(), "hello", "signer"), "one");
    let signer = &host.generation()["signer"];
    assert_eq!((&signer["subject"], &signer["hash"]), (&"CN=one".into(), &"sha256".into()));
    assert_eq!(signer["certificate"].as_str().unwrap().len(), 64);
    host.kcache(&["check"]).exits(0);
    host.kcache(&["status", "--json"]).exits(0).prints(&["\"subject\": \"CN=one\""]);
}

#[test]
fn a_signed_module_is_compressed_after_that_as_the_kernels_own() {
    let host = Signing::new(&FIXTURES.six12);
    host.with_key("one");
    host.kcache(&["install"]).exits(0);
    let (name, path) = host.host.modules(host.kernel).pop_first().unwrap();
    assert!(name.ends_with(".ko.xz"), "{name}");
    let listed = run(Command::new("xz").args(["--robot", "--list", "-vv"]).arg(path)).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("CRC32") && listed.contains("dict=1MiB"), "{listed}");
    host.openssl_accepts("one");
    host.kcache(&["check"]).exits(0);
}

#[test]
fn the_same_signer_changes_nothing_and_another_signs_anew_without_a_build() {
    for kind in [RSA, ECDSA] {
        let host = Signing::new(k());
        host.generate("two", kind);
        host.kcache(&["install"]).exits(0);
        host.with_key("two");
        host.kcache(&["install", "--dry-run"]).exits(0).prints(&["would re-sign"]);
        let run = host.kcache(&["install"]).exits(0).says(&["re-signed by CN=two: hello"]);
        assert!(run.stdout.contains("from the store"), "{}", run.shown());
        host.openssl_accepts("two");
        let before = host.host.tree();
        host.kcache(&["install"]).exits(0).says(&["nothing to change"]);
        assert_eq!(before, host.host.tree());
        // What is installed is enough to sign it anew.
        host.with_key("one");
        fs::remove_dir_all(host.host.store().join("objects")).unwrap();
        plain(&host.host, "second", "beside it");
        host.kcache(&["install", "second"]).exits(0);
        assert!(host.host.modules(k()).len() == 2);
        host.openssl_accepts("one");
        // And nobody at all, again.
        host.configure("key = '/etc/keys/one.key'\ncertificate = '/etc/keys/one.crt'\nwhen = 'never'");
        host.kcache(&["install", "second"]).exits(0).says(&["signatures removed: hello, second"]);
        assert!(host.generation()["signer"].is_null());
    }
}

/// Everything below the kernel's modules, and when it was last written.
fn stamps(host: &Host) -> String {
    let mut find = Command::new("find");
    find.arg(host.kernel(k())).args(["-printf", "%P %i %T@ %C@\n"]);
    String::from_utf8(run(&mut find).stdout).unwrap()
}

#[test]
fn the_same_bits_by_other_tools_are_neither_signed_nor_indexed_again() {
    let host = Signing::new(k());
    let signing =
        "depmod = 'always'\n[signing]\nkey = '/etc/keys/one.key'\ncertificate = '/etc/keys/one.crt'\n";
    host.host.write_config(signing);
    host.kcache(&["install"]).exits(0);
    let before = stamps(&host.host);
    update_kbuild(&host.host);
    // depmod would fail now.
    let bin = host.host.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("depmod"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(bin.join("depmod"), PermissionsExt::from_mode(0o755)).unwrap();
    // And a transaction would wait, and give up.
    let lock = fs::File::create(host.host.root().join(format!("lib/modules/.kcache-{}.lock", k()))).unwrap();
    lock.file().lock().unwrap();
    let mut command = host.host.command(&["install", "--refresh-tools", "-k", k()]);
    command.env("PATH", format!("{}:{PATH}", bin.display())).env("KCACHE_LOCK_TIMEOUT", "1");
    Run::of(command).exits(0).says(&[
        "building hello",
        "has the modules that are installed",
        "nothing to change",
    ]);
    assert_eq!(stamps(&host.host), before);
}

#[test]
fn going_back_signs_with_todays_key_and_removing_keeps_what_is_signed() {
    let host = Signing::new(k());
    host.with_key("one");
    host.kcache(&["install"]).exits(0);
    hello(&host.host, "newer");
    plain(&host.host, "second", "beside it");
    host.kcache(&["install"]).exits(0);
    host.generate("two", RSA);
    host.with_key("two");
    host.kcache(&["rollback"]).exits(0);
    assert_eq!(host.host.modinfo(k(), "hello", "description"), "signed");
    host.openssl_accepts("two");
    host.kcache(&["install"]).exits(0);
    // The key is not there any more: what stays needs none.
    host.enforce();
    host.sh("rm *.key *.crt");
    host.kcache(&["remove", "second"]).exits(0);
    assert_eq!(host.host.modinfo(k(), "hello", "signer"), "two");
    host.host.write_config("");
    host.kcache(&["rollback"]).exits(6).says(&["enforces module signatures"]).one_error();
    assert_eq!(host.host.modinfo(k(), "hello", "signer"), "two");
}

#[test]
fn a_key_that_cannot_be_used_ends_it_before_anything_is_installed() {
    let host = Signing::new(k());
    host.generate("two", RSA);
    host.kcache(&["build"]).exits(0);
    host.sh("umask 077; openssl pkcs8 -topk8 -in one.key -passout pass:open -out enc.key
        echo open > right; echo sesame > wrong; cp one.key bare.key; chmod 644 bare.key; cp right bare; chmod 640 bare");
    let pair = |key: &str, more: &str| {
        format!("key = '/etc/keys/{key}.key'\ncertificate = '/etc/keys/one.crt'\n{more}")
    };
    let config = host.host.root().join("etc/kcache/config.toml");
    let install = || host.kcache(&["install", "--config", config.to_str().unwrap()]);
    let check = |lines: &str, code: i32, says: &[&str]| {
        host.configure(lines);
        install().exits(code).says(says).one_error();
        assert!(host.host.modules(k()).is_empty());
    };
    check(&pair("bare", ""), 6, &["by users other than its owner (mode 0644)", "hint: run `chmod 600"]);
    check(&pair("absent", ""), 2, &["absent.key"]);
    check(&pair("two", ""), 6, &["does not match the certificate of CN=one"]);
    check(&pair("enc", ""), 2, &["is encrypted", "hint: set passphrase-file or passphrase-command"]);
    check(&pair("enc", "passphrase-file = '/etc/keys/wrong'"), 6, &["wrong passphrase"]);
    check(
        &pair("enc", "passphrase-file = '/etc/keys/bare'"),
        6,
        &["by users other than its owner (mode 0640)"],
    );
    check(&pair("enc", "passphrase-command = 'echo sesame'"), 6, &["wrong passphrase"]);
    check(
        &pair("enc", "passphrase-command = 'exit 7'"),
        1,
        &["the passphrase command failed: exit status: 7"],
    );
    check(&pair("one", "passphrase = 'open'"), 2, &["unknown field `passphrase`"]);
    check(&pair("one", "hash = 'sha1'"), 2, &["must be sha256, sha384 or sha512"]);
    check("key = '/etc/keys/one.key'", 2, &["no certificate in the file"]);
    check("when = 'auto'", 2, &["neither key nor certificate"]);
    for right in ["passphrase-file = '/etc/keys/right'", "passphrase-command = 'echo open'"] {
        host.configure(&pair("enc", right));
        install().exits(0);
        host.openssl_accepts("one");
        host.kcache(&["remove", "--all", "--config", config.to_str().unwrap()]).exits(0);
    }
    // Only so may it run commands: of itself the system under the root does not choose them.
    let mut image = host.host.image(&["install"]);
    let run = crate::host::Run::from(image.output().unwrap()).exits(0);
    run.says(&["etc/kcache: ignored settings: signing;", "--config FILE"]);
}

#[test]
fn a_passphrase_command_keeps_nothing_under_another_root_from_being_built() {
    let host = Signing::new(k());
    host.sh("umask 077; openssl pkcs8 -topk8 -in one.key -passout pass:open -out enc.key");
    let pair = "key = '/etc/keys/enc.key'\ncertificate = '/etc/keys/one.crt'\n";
    host.configure(&format!("{pair}passphrase-command = 'echo open'"));
    let config = host.host.root().join("etc/kcache/config.toml");
    // Nothing of it is in the store: a sandbox is made, whose processes are looked for in /proc.
    host.kcache(&["install", "--config", config.to_str().unwrap()]).exits(0);
    host.openssl_accepts("one");
}

#[test]
fn a_kernel_that_insists_gets_signed_modules_or_none() {
    let host = Signing::new(k());
    host.enforce();
    host.kcache(&["install"]).exits(6).one_error();
    assert!(host.host.modules(k()).is_empty());
    host.with_key("one");
    host.kcache(&["install"]).exits(0);
    host.kcache(&["check"]).exits(0);
    // Somebody else's signature is worth nothing to a kernel that has never heard of them.
    host.generate("two", RSA);
    host.with_key("two");
    host.kcache(&["check"]).exits(3).prints(&["is signed by CN=one", "neither configured nor enrolled"]);
    host.kcache(&["install"]).exits(0);
    host.kcache(&["check"]).exits(0);
}

#[test]
fn a_signature_that_does_not_verify_is_found_also_where_the_kernel_does_not_look() {
    let host = Signing::new(k());
    host.with_key("one");
    host.kcache(&["install"]).exits(0);
    // Somebody changed the module and said so in generation.json, too.
    let (_, path) = host.host.modules(k()).pop_first().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let was = blake3::hash(&bytes).to_string();
    let at = bytes.windows(6).position(|window| window == b"signed").unwrap();
    bytes[at] = b'S';
    fs::write(&path, &bytes).unwrap();
    let generation = path.parent().unwrap().parent().unwrap().join("generation.json");
    let text = fs::read_to_string(&generation).unwrap();
    rewrite_generation(&generation, &text.replace(&was, &blake3::hash(&bytes).to_string()));
    let run = host.kcache(&["check"]).exits(3);
    run.prints(&["broken", "does not verify with the certificate of CN=one"]);
}

#[test]
fn an_expired_certificate_is_warned_of_and_used() {
    let host = Signing::new(k());
    host.sh("openssl x509 -x509toreq -in one.crt -signkey one.key -out req");
    // OpenSSL 3.4 and later has its own options for it, and refuses the old way.
    host.sh(
        "openssl x509 -req -in req -signkey one.key -days -1 -out one.crt || openssl x509 -req -in req -signkey one.key \
         -not_before 20200101000000Z -not_after 20200102000000Z -out one.crt",
    );
    host.with_key("one");
    host.kcache(&["install"]).exits(0).says(&["warning: the certificate of CN=one has expired"]);
    host.openssl_accepts("one");
}

#[test]
fn a_machine_owners_key_is_made_reported_and_used() {
    let host = Signing::new(k());
    let made = host.host.kcache(&["keys", "mok", "--name", "lab"]).exits(0);
    let dir = host.host.root().join("etc/kcache/mok");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("key.pem"))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    let text = run(Command::new("openssl")
        .args(["x509", "-text", "-noout"])
        .arg("-in")
        .arg(dir.join("certificate.der")));
    let text = String::from_utf8(text.stdout).unwrap().replace("CN=", "CN = "); // as OpenSSL 3.5 has it
    for part in
        ["CN = lab module signing key", "2048 bit", "Code Signing, 1.3.6.1.4.1.2312.16.1.2", "CA:FALSE"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let lines = made.stderr.split_once("\n\n").unwrap().1;
    host.host.write_config(lines);
    host.enforce();
    host.kcache(&["install"]).exits(0);
    assert_eq!(host.host.modinfo(k(), "hello", "signer"), "lab module signing key");
    host.host.kcache(&["keys", "mok"]).exits(2).one_error();
    host.host.kcache(&["keys", "mok", "--dir", "/etc/other", "--name", "a\nb"]).exits(2).one_error();
}

/// Whether a store holds any signature.
fn held_in(store: &Path) -> bool {
    let signatures = store.join("signatures");
    signatures.exists() && !run(Command::new("find").arg(signatures).args(["-type", "f"])).stdout.is_empty()
}

/// What a signing service does with what was exported: it alone has the key.
fn serve(host: &Signing, name: &str, dir: &Path) {
    host.sh(&format!(
        "for m in {0}/*.ko; do openssl cms -sign -binary -noattr -nocerts -in $m -signer {name}.crt -inkey {name}.key -md sha256 -outform DER -out ${{m%.ko}}.p7s; done",
        dir.display()
    ));
}

#[test]
fn a_service_signs_and_others_install_what_it_signed() {
    let host = Signing::new(k());
    let cache = host.host.dir().join("cache");
    fs::create_dir(&cache).unwrap();
    let table = format!("[[cache]]\n{}\nwrite = true\n", url(&format!("file://{}", cache.display())));
    host.configure(&format!("certificate = '/etc/keys/one.crt'\n{table}"));
    host.enforce();
    host.kcache(&["build"]).exits(0);
    host.kcache(&["install"]).exits(6).one_error();
    assert!(host.host.modules(k()).is_empty());

    let desk = host.host.dir().join("desk");
    let path = desk.to_str().unwrap();
    let exported = host.kcache(&["signatures", "export", path]).exits(0);
    assert_eq!(exported.stdout.lines().count(), 1);
    serve(&host, "one", &desk);
    host.host.kcache(&["signatures", "import", path]).exits(0).prints(&["imported"]);
    assert_eq!(host.kcache(&["signatures", "export", path]).exits(0).stdout, "");
    host.kcache(&["install"]).exits(0);
    assert!(host.is_of_sign_file("one"));
    assert!(host.generation()["signer"].get("hash").is_none());
    host.kcache(&["check"]).exits(0);
    host.kcache(&["install"]).exits(0).says(&["nothing to change"]);

    // Another host has the module, and finds the signature in the cache.
    host.kcache(&["remove", "--all"]).exits(0);
    fs::remove_dir_all(host.host.store().join("signatures")).unwrap();
    host.kcache(&["install"]).exits(0);
    host.openssl_accepts("one");

    // A cache that holds another's signature, or nonsense, is as one that holds none.
    host.generate("two", RSA);
    let held = crate::builder::file(&cache.join("signatures"), ".p7s");
    serve(&host, "two", &desk);
    let other = fs::read(crate::builder::file(&desk, ".p7s")).unwrap();
    for lie in [other, b"nonsense".to_vec(), Vec::new()] {
        host.kcache(&["remove", "--all"]).exits(0);
        let _ = fs::remove_dir_all(host.host.store().join("signatures")); // a lie is not kept
        fs::write(&held, lie).unwrap();
        let run = host.kcache(&["install"]).exits(6);
        assert!(!held_in(&host.host.store()));
        run.says(&["warning: shared cache", "ignoring ", "no signature for hello by CN=one"]).one_error();
        assert!(host.host.modules(k()).is_empty());
    }
}

#[test]
fn signatures_that_are_not_what_they_should_be_are_not_imported() {
    let host = Signing::new(k());
    host.generate("two", RSA);
    host.kcache(&["signatures", "export", "/nowhere"]).exits(2);
    host.configure("certificate = '/etc/keys/one.crt'");
    host.kcache(&["signatures", "export", "desk"]).exits(3).one_error();
    host.kcache(&["build"]).exits(0);
    let desk = host.host.dir().join("desk");
    host.kcache(&["signatures", "export", desk.to_str().unwrap()]).exits(0);
    serve(&host, "two", &desk);
    let check = |path: &Path, code: i32, says: &str| {
        let import = host.host.kcache(&["signatures", "import", path.to_str().unwrap()]).exits(code);
        import.says(&[says]).one_error();
        assert!(!held_in(&host.host.store()));
    };
    check(&desk, 6, "does not verify with the certificate of CN=one");
    let p7s = crate::builder::file(&desk, ".p7s");
    fs::write(&p7s, vec![0; 100_000]).unwrap();
    check(&p7s, 6, "larger than 65536 bytes");
    let strange = desk.join(format!("{}.p7s", "ab".repeat(32)));
    fs::rename(&p7s, &strange).unwrap();
    check(&strange, 3, "the store has no module with this digest");
    fs::rename(&strange, desk.join("hello.p7s")).unwrap();
    check(&desk.join("hello.p7s"), 2, "the file name is not DIGEST.p7s");
}
