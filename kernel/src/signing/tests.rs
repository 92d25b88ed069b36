//! Tests that compare signatures with those of other programs: `sign-file` of a kernel's headers, `openssl`, and
//! SoftHSM's token.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::ko::fixture::Built;

/// A directory in which openssl generates keys.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        let output = Command::new("sh").args(["-c", line]).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Generates `key.pem` and `cert.pem` of this kind.
    fn keys(&self, kind: &str) -> KeyPair {
        self.run(&format!(
            "umask 077; openssl req -new -x509 -newkey {kind} -nodes -days 30 -subj '/O=Example/CN=modules' -keyout key.pem -out cert.pem"
        ));
        self.pair("key.pem", "cert.pem")
    }

    fn pair(&self, key: &str, certificate: &str) -> KeyPair {
        KeyPair {
            key: Some(KeyPlace::File(self.path(key))),
            certificate: Some(self.path(certificate)),
            secret: None,
        }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs_err::write(self.path(name), bytes).unwrap();
        fs_err::set_permissions(self.path(name), PermissionsExt::from_mode(0o600)).unwrap();
        self.path(name)
    }

    /// The module as signed by the kernel's own program; `None` if there are no fixtures.
    #[expect(clippy::print_stdout, reason = "says why a test does nothing")]
    fn sign_file(&self, hash: &str) -> Option<Vec<u8>> {
        let home = PathBuf::from(std::env::var_os("HOME")?).join(".cache/kcache-fixtures");
        let fixtures = std::env::var_os("KCACHE_FIXTURES").map_or(home, PathBuf::from);
        let program = fixtures.join("root/usr/lib/linux-kbuild-6.1/scripts/sign-file");
        if !program.exists() {
            println!("skipped, because {} does not exist: run tests/fixtures.sh", program.display());
            return None;
        }
        self.run(&format!("{} {hash} key.pem cert.pem module.ko signed.ko", program.display()));
        Some(fs_err::read(self.path("signed.ko")).unwrap())
    }

    /// openssl's verdict on a signed module.
    fn openssl_accepts(&self, signed: &[u8]) -> bool {
        let (body, tail) = split_signature(signed);
        let tail = tail.unwrap();
        self.write("body", body);
        self.write("sig", &tail[..tail.len() - TRAILER]);
        let line = "openssl cms -verify -inform DER -in sig -content body -certfile cert.pem -noverify -nointern -binary -out /dev/null";
        Command::new("sh").args(["-c", line]).current_dir(self.0.path()).output().unwrap().status.success()
    }
}

const RSA_KEY: &str = "rsa:2048";
const P256_KEY: &str = "ec -pkeyopt ec_paramgen_curve:P-256";
const P384_KEY: &str = "ec -pkeyopt ec_paramgen_curve:P-384";

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, expect: &str) {
    let told = result.unwrap_err().to_string();
    assert!(told.contains(expect), "{told}");
}

#[test]
fn rsa_signatures_equal_those_of_sign_file() {
    for bits in ["rsa:2048", "rsa:3072", "rsa:4096"] {
        let desk = Desk::new();
        let signer = desk.keys(bits).open().unwrap();
        let module = Built::example().bytes();
        desk.write("module.ko", &module);
        for hash in Hash::ALL {
            let Some(expect) = desk.sign_file(hash.name()) else { return };
            assert!(signer.sign(&module, hash).unwrap() == expect, "{bits} {}", hash.name());
        }
    }
}

#[test]
fn openssl_accepts_signatures_of_every_kind_of_key_and_no_changed_module() {
    for kind in [RSA_KEY, P256_KEY, P384_KEY] {
        let desk = Desk::new();
        let signer = desk.keys(kind).open().unwrap();
        for hash in Hash::ALL {
            let mut signed = signer.sign(&Built::example().bytes(), hash).unwrap();
            assert!(desk.openssl_accepts(&signed), "{kind} {}", hash.name());
            let message = message_of(&signed).unwrap().unwrap();
            let (body, _) = split_signature(&signed);
            assert!(message.names(&signer.certificate) && message.verifies(body, &signer.certificate));
            signed[100] ^= 1;
            assert!(!desk.openssl_accepts(&signed));
            assert!(!message.verifies(split_signature(&signed).0, &signer.certificate));
        }
    }
}

#[test]
fn a_new_signature_replaces_an_existing_one() {
    let desk = Desk::new();
    let signer = desk.keys(RSA_KEY).open().unwrap();
    let once = signer.sign(&Built::example().bytes(), Hash::Sha256).unwrap();
    assert_eq!(signer.sign(&once, Hash::Sha256).unwrap(), once);
}

#[test]
fn keys_are_read_in_every_form_that_openssl_writes() {
    for kind in [RSA_KEY, P256_KEY, P384_KEY] {
        let desk = Desk::new();
        let module = Built::example().bytes();
        let expect = desk.keys(kind).open().unwrap().sign(&module, Hash::Sha256).unwrap();
        desk.run(
            "umask 077; set -e
            openssl pkey -in key.pem -out traditional.pem -traditional
            openssl pkey -in key.pem -outform DER -out pkcs8.der
            openssl pkey -in key.pem -outform DER -out traditional.der -traditional
            openssl x509 -in cert.pem -outform DER -out cert.der
            cat key.pem cert.pem > both.pem; cat cert.pem traditional.pem > other-order.pem",
        );
        for (key, certificate) in [
            ("traditional.pem", Some("cert.der")),
            ("pkcs8.der", Some("cert.pem")),
            ("traditional.der", Some("cert.der")),
            ("both.pem", None),
            ("other-order.pem", None),
            ("both.pem", Some("both.pem")),
        ] {
            let mut pair = desk.pair(key, "");
            pair.certificate = certificate.map(|name| desk.path(name));
            let signed =
                pair.open().unwrap_or_else(|e| panic!("{kind} {key}: {e}")).sign(&module, Hash::Sha256);
            assert_eq!(signed.unwrap(), expect, "{kind} {key}");
        }
    }
}

#[test]
fn an_encrypted_key_needs_a_passphrase_from_a_file_or_program() {
    let desk = Desk::new();
    let pair = desk.keys(RSA_KEY);
    desk.run(
        "umask 077; openssl pkcs8 -topk8 -in key.pem -passout pass:open -out enc.pem
        openssl pkcs8 -topk8 -in key.pem -passout pass:open -outform DER -out enc.der
        openssl pkcs8 -topk8 -scrypt -in key.pem -passout pass:open -out scrypt.pem",
    );
    desk.run(
        "umask 077; openssl pkcs8 -topk8 -v2 des3 -in key.pem -passout pass:open -out des3.pem
        openssl pkcs8 -topk8 -v1 PBE-SHA1-3DES -in key.pem -passout pass:open -out v1.pem",
    );
    refused(desk.pair("v1.pem", "cert.pem").open(), "-v2 aes-256-cbc");
    for key in ["enc.pem", "enc.der", "scrypt.pem", "des3.pem"] {
        let with = |secret| KeyPair { secret, ..desk.pair(key, "cert.pem") }.open();
        with(Some(Secret::File(desk.write("right", "open\n")))).unwrap();
        with(Some(Secret::Command("printf open".into()))).unwrap();
        refused(with(None), "is encrypted, but no passphrase is configured");
        refused(with(Some(Secret::File(desk.write("wrong", "sesame\n")))), "wrong passphrase");
        refused(with(Some(Secret::Command("echo sesame".into()))), "wrong passphrase");
        refused(with(Some(Secret::Command("exit 3".into()))), "exit status: 3");
        refused(with(Some(Secret::Command(":".into()))), "no output");
    }
    use rustix::process::{DumpableBehavior, dumpable_behavior};
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    // A passphrase that nobody asked for does no harm.
    KeyPair { secret: Some(Secret::Command("exit 3".into())), ..pair }.open().unwrap();
}

#[test]
fn a_key_or_passphrase_that_others_can_read_is_refused() {
    let desk = Desk::new();
    let pair = desk.keys(RSA_KEY);
    desk.run(
        "umask 077; openssl pkcs8 -topk8 -in key.pem -passout pass:open -out enc.pem; printf open > pass",
    );
    let chmod = |name: &str, mode| {
        fs_err::set_permissions(desk.path(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    for mode in [0o640, 0o604, 0o660, 0o644] {
        chmod("key.pem", mode);
        refused(pair.open(), &format!("by users other than its owner (mode {mode:04o})"));
        chmod("pass", mode);
        let secret = Some(Secret::File(desk.path("pass")));
        refused(
            KeyPair { secret, ..desk.pair("enc.pem", "cert.pem") }.open(),
            "by users other than its owner",
        );
    }
    chmod("key.pem", 0o400);
    pair.open().unwrap();
    desk.run("mkfifo -m 600 fifo");
    refused(desk.pair("fifo", "cert.pem").open(), "not a regular file");
    if rustix::process::geteuid().is_root() {
        desk.run("chown 65534 key.pem");
        refused(pair.open(), "owned by another user (uid 65534)");
    }
}

#[test]
fn an_invalid_key_file_is_reported_with_its_path() {
    let desk = Desk::new();
    let pair = desk.keys(RSA_KEY);
    let with = |key: &str| desk.pair(key, "cert.pem").open();
    refused(with("absent.pem"), "absent.pem");
    desk.write("empty", "");
    refused(with("empty"), "empty: not an RSA key");
    desk.run("umask 077; cp cert.pem only-cert; openssl genpkey -algorithm ed25519 -out ed; openssl genrsa -out small 1024
        openssl ecparam -genkey -name secp521r1 -noout -out p521; openssl genrsa -aes128 -passout pass:a -traditional -out old 2048");
    refused(with("only-cert"), "no private key in the file");
    refused(with("ed"), "kernels support RSA and ECDSA");
    refused(with("small"), "2048 to 4096 bits");
    refused(with("p521"), "not an ECDSA key on P-256 or P-384");
    refused(with("old"), "openssl pkcs8 -topk8");
    let cut = fs_err::read_to_string(desk.path("key.pem")).unwrap();
    desk.write("cut", &cut[..cut.len() / 2]);
    refused(with("cut"), "has no end");
    refused(KeyPair { certificate: None, ..pair.clone() }.open(), "no certificate in the file");
    refused(KeyPair { certificate: Some(desk.path("key.pem")), ..pair.clone() }.open(), "no certificate");
    refused(KeyPair { key: None, ..pair }.open(), "no module signing key");
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    for other in [RSA_KEY, P256_KEY] {
        let (desk, strange) = (Desk::new(), Desk::new());
        desk.keys(RSA_KEY);
        strange.keys(other);
        let pair = KeyPair { certificate: Some(strange.path("cert.pem")), ..desk.pair("key.pem", "") };
        refused(pair.open(), "does not match the certificate of CN=modules,O=Example");
    }
}

#[test]
fn detached_signatures_are_attached_in_the_form_of_sign_file() {
    for kind in [RSA_KEY, P256_KEY] {
        let desk = Desk::new();
        let pair = desk.keys(kind);
        let certificate = pair.certificate().unwrap();
        let module = Built::example().bytes();
        desk.write("module.ko", &module);
        let sign = |options: &str| {
            desk.run(&format!("openssl cms -sign -binary -in module.ko -signer cert.pem -inkey key.pem -outform DER -md sha256 -out p7s {options}"));
            fs_err::read(desk.path("p7s")).unwrap()
        };
        for options in ["-noattr", "-noattr -nocerts", "-noattr -nocerts -keyid"] {
            let signed = attach(&module, &sign(options), &certificate).unwrap();
            assert!(desk.openssl_accepts(&signed), "{kind} {options}");
            if kind == RSA_KEY {
                assert_eq!(signed, pair.open().unwrap().sign(&module, Hash::Sha256).unwrap(), "{options}");
            }
        }
        refused(attach(&module, &sign(""), &certificate), "signed attributes");
        refused(attach(&module, &sign("-noattr -nodetach"), &certificate), "not a detached signature");
        refused(attach(b"other", &sign("-noattr"), &certificate), "does not verify with the certificate of");
        refused(attach(&module, b"no message", &certificate), "not a signature that kernels read");
        refused(attach(&module, &sign("-noattr -md sha1"), &certificate), "must be sha256, sha384 or sha512");
    }
}

#[test]
fn every_cut_and_changed_message_gives_an_answer() {
    let desk = Desk::new();
    let signer = desk.keys(P256_KEY).open().unwrap();
    let message = signer.message(b"body", Hash::Sha256).unwrap();
    for at in 0..message.len() {
        assert!(Message::parse(&message[..at]).is_err());
        for bit in 0..8 {
            let mut changed = message.clone();
            changed[at] ^= 1 << bit;
            let _ = Message::parse(&changed).map(|message| message.verifies(b"body", &signer.certificate));
        }
    }
}

/// Position in a message of the nth occurrence of some bytes.
fn place(message: &[u8], bytes: &[u8], nth: usize) -> std::ops::Range<usize> {
    let mut places = (0..message.len()).filter(|at| message[*at..].starts_with(bytes));
    let at = places.nth(nth).unwrap();
    at..at + bytes.len()
}

/// Tests each byte of a message, flipped. Where they differ kcache agrees with the kernel (`crypto/asymmetric_keys/`),
/// which is stricter about versions, the type of the content and the signer's hash, and ignores the list of hashes at
/// the beginning and the hash in the identifier of an ECDSA signature.
#[test]
fn openssl_and_kcache_agree_on_flipped_messages_except_where_the_kernel_differs() {
    for (kind, hash) in [(RSA_KEY, Hash::Sha256), (P256_KEY, Hash::Sha384)] {
        let desk = Desk::new();
        let signer = desk.keys(kind).open().unwrap();
        let body = Built::example().bytes();
        let message = signer.message(&body, hash).unwrap();
        let known = KnownKeys { configured: vec![signer.certificate.clone()], ..KnownKeys::default() };
        let oid = |oid: der::oid::ObjectIdentifier| oid.as_bytes().to_vec();
        let (version, data, digest) = (b"\x02\x01\x01", oid(message::DATA), oid(hash.oid()));
        let mut only_openssl = [(&version[..], 0), (&version[..], 1), (&data, 0), (&digest, 1)]
            .map(|(bytes, nth)| place(&message, bytes, nth))
            .to_vec();
        let mut only_kcache = vec![place(&message, &digest, 0)];
        if kind == P256_KEY {
            let name = place(&message, &oid(hash.ecdsa_oid()), 0);
            // OpenSSL accepts any identifier, the kernel any of ECDSA: SHA-384's differs by one bit from SHA-256's.
            only_openssl.push(name.clone());
            only_kcache.push(name.end - 1..name.end);
        }
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 1;
            let signed = append(&body, &changed);
            let ours = matches!(known.signer_of(&signed), Signed::By { .. });
            if ours != desk.openssl_accepts(&signed) {
                let may = if ours { &only_kcache } else { &only_openssl };
                assert!(may.iter().any(|range| range.contains(&at)), "{kind}: {at} of {message:02x?}");
            }
        }
    }
}

#[test]
fn the_appended_structure_must_be_what_kernels_accept() {
    let desk = Desk::new();
    let signer = desk.keys(P256_KEY).open().unwrap();
    let known = KnownKeys { configured: vec![signer.certificate.clone()], ..KnownKeys::default() };
    let good = signer.sign(b"\x7fELF body", Hash::Sha256).unwrap();
    assert!(matches!(known.signer_of(&good), Signed::By { .. }));
    for at in 0..8 {
        let mut bad = good.clone();
        let from_end = TRAILER - at;
        let place = bad.len() - from_end;
        bad[place] ^= 1;
        let told = known.signer_of(&bad);
        assert!(matches!(&told, Signed::Unreadable(why) if why.contains("declared")), "{at}: {told:?}");
    }
}

#[test]
fn the_default_hash_is_the_kernels() {
    let of = |text: &str| Hash::of_kernel(&Kconfig::new(text.to_owned()));
    assert_eq!(of("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH=\"sha512\"\n").unwrap(), Some(Hash::Sha512));
    assert_eq!(of("# CONFIG_MODULE_SIG is not set\nCONFIG_MODULE_SIG_HASH=\"sha512\"\n").unwrap(), None);
    refused(of("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH=\"sha3-512\"\n"), "sha3-512");
}

#[test]
fn a_kernel_whose_hash_is_unsupported_gets_one_that_it_has() {
    let check = |built_in: &str, expect: Hash| {
        let config = format!("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH=\"sha3-512\"\n{built_in}");
        assert_eq!(Hash::of_kernel(&Kconfig::new(config)).unwrap(), Some(expect), "{built_in}");
    };
    check("CONFIG_CRYPTO_SHA256=y\nCONFIG_CRYPTO_SHA512=y\n", Hash::Sha512);
    check("CONFIG_CRYPTO_SHA256=y\nCONFIG_CRYPTO_SHA512=m\n", Hash::Sha256);
}

#[test]
fn keys_in_a_token_sign_like_those_in_files() {
    const LIBRARY: &str = "/usr/lib/softhsm/libsofthsm2.so";
    if !Path::new(LIBRARY).exists() {
        return;
    }
    // SoftHSM reads its configuration from the environment, which a test must not change, so another process uses it.
    if std::env::var_os("SOFTHSM2_CONF").is_none() {
        let desk = Desk::new();
        let this = std::env::current_exe().unwrap();
        desk.run(&format!(
            "mkdir tokens; echo directories.tokendir = $PWD/tokens > conf; SOFTHSM2_CONF=$PWD/conf {} --exact signing::tests::keys_in_a_token_sign_like_those_in_files",
            this.display()
        ));
        return;
    }
    let desk = Desk::new();
    desk.run("softhsm2-util --init-token --free --label fleet --so-pin 0000 --pin 1234");
    let pin = desk.write("pin", "1234\n");
    let wrong = desk.write("wrong", "4321\n");
    for (kind, name, id) in [(RSA_KEY, "rsa", 1), (P256_KEY, "p256", 2), (P384_KEY, "p384", 3)] {
        let file = desk.keys(kind);
        desk.run(&format!(
            "softhsm2-util --import key.pem --token fleet --label {name} --id 0{id} --pin 1234"
        ));
        let uri = format!("pkcs11:token=fleet;object={name};type=private?module-path={LIBRARY}");
        let with = |uri: &str, secret: Option<Secret>| {
            KeyPair { key: Some(KeyPlace::Token(uri.to_owned())), secret, ..file.clone() }.open()
        };
        let module = Built::example().bytes();
        let signed =
            with(&uri, Some(Secret::File(pin.clone()))).unwrap().sign(&module, Hash::Sha256).unwrap();
        assert!(desk.openssl_accepts(&signed), "{name}");
        if kind == RSA_KEY {
            assert_eq!(signed, file.open().unwrap().sign(&module, Hash::Sha256).unwrap());
        }
        with(&format!("{uri}&pin-source=file:{}", pin.display()), None).unwrap();
        refused(with(&uri, None), "or a PIN is needed");
        refused(with(&uri, Some(Secret::File(wrong.clone()))), "wrong PIN");
        refused(with(&uri.replace("fleet", "other"), None), "token not found");
        refused(with(&uri.replace("softhsm", "nothing"), None), "cannot load");
    }
}

#[test]
fn the_signer_of_a_module_is_determined_and_checked() {
    use crate::enforcement::Enforcement;
    let (desk, other) = (Desk::new(), Desk::new());
    let (signer, stranger) = (desk.keys(RSA_KEY).open().unwrap(), other.keys(P256_KEY).open().unwrap());
    let module = Built::example().bytes();
    let good = signer.sign(&module, Hash::Sha256).unwrap();
    let mut flipped = good.clone();
    flipped[200] ^= 1;
    let strange = stranger.sign(&module, Hash::Sha256).unwrap();
    let cut = [&good[..module.len()], &good[module.len() + 9..]].concat();
    let known = KnownKeys { configured: vec![signer.certificate.clone()], ..KnownKeys::default() };
    let check = |known: &KnownKeys, module: &[u8], strict: &str, lenient: &str, foreign: &str| {
        let signed = known.signer_of(module);
        let told = |enforcement: Option<&Enforcement>, own| {
            known.object(&signed, enforcement, own).map_or(String::new(), |defect| defect.to_string())
        };
        let secure_boot = Some(&Enforcement::SecureBoot);
        for (told, expect) in [
            (told(secure_boot, true), strict),
            (told(None, true), lenient),
            (told(secure_boot, false), foreign),
        ] {
            assert!(told.contains(expect) && told.is_empty() == expect.is_empty(), "{signed:?}: {told}");
        }
    };
    check(&known, &good, "", "", "");
    check(&known, &module, "is unsigned", "", "is unsigned");
    let wrong = "does not verify with the certificate of CN=modules";
    check(&known, &flipped, wrong, wrong, wrong);
    let unknown = "is signed by CN=modules,O=Example (serial ";
    check(&known, &strange, unknown, "", "");
    check(&KnownKeys::default(), &good, unknown, "", "");
    check(&KnownKeys { incomplete: true, ..KnownKeys::default() }, &good, "", "", "");
    check(&known, &cut, "invalid signature", "invalid signature", "invalid signature");
    let enrolled = |certificates: Vec<Certificate>| KnownKeys {
        enrolled: Some(Enrolled::of(certificates)),
        ..known.clone()
    };
    check(&enrolled(vec![signer.certificate.clone()]), &good, "", "", "");
    check(
        &enrolled(vec![stranger.certificate.clone()]),
        &good,
        "is not enrolled; run `mokutil --import",
        "",
        "",
    );
    check(&enrolled(vec![stranger.certificate.clone()]), &strange, "", "", "");
}
