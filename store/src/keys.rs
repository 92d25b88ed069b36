//! ed25519 keys in the files that `openssl genpkey -algorithm ed25519` writes: private ones as PKCS#8 PEM, public ones
//! as SPKI PEM (RFC 8410).
//!
//! A private key is read only from a file that nobody but its owner can read, as in ssh: signatures with a key that
//! others may have copied prove nothing.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes,
};
use ed25519_dalek::{Signer, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result, SignerId};

/// Size limit of a key's file in bytes. PEM of a key has three lines; comments may precede it.
const MAX_PEM: u64 = 64 << 10;

/// A public key that verifies signatures.
#[derive(Debug, Clone)]
pub struct PublicKey {
    key: VerifyingKey,
    id: SignerId,
}

impl PublicKey {
    /// Parses SPKI PEM. An error says what is wrong with it.
    pub fn from_pem(text: &str) -> Result<PublicKey, String> {
        let key = VerifyingKey::from_public_key_pem(text)
            .map_err(|e| format!("not an ed25519 public key in PEM (SPKI): {e}"))?;
        // A key of small order would accept signatures that nobody made.
        if key.is_weak() {
            return Err("weak key".to_owned());
        }
        Ok(PublicKey::of(key))
    }

    /// Reads a file of SPKI PEM, which only root and the current user may be able to change.
    ///
    /// # Errors
    ///
    /// [`Error::KeyFile`] if others could have changed the file, or it is no ed25519 public key.
    pub fn read(path: &Path) -> Result<PublicKey> {
        PublicKey::read_from(path, open_key(path)?)
    }

    /// Like [`PublicKey::read`], from an open file.
    pub fn read_from(path: &Path, file: File) -> Result<PublicKey> {
        let text = read_pem(path, file, 0o022, &|path, mode| Error::KeyFile {
            path,
            reason: format!("writable by others (mode {mode:04o})"),
        })?;
        PublicKey::from_pem(&text).map_err(|reason| Error::KeyFile { path: path.to_owned(), reason })
    }

    /// Encodes the key as SPKI PEM.
    pub fn to_pem(&self) -> String {
        self.key.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// The SHA-256 hash of the key's SPKI DER.
    pub fn id(&self) -> SignerId {
        self.id
    }

    /// Whether the key made this signature over these bytes. Uses strict verification, so signatures are not
    /// malleable.
    pub(crate) fn verifies(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }

    fn of(key: VerifyingKey) -> PublicKey {
        let der = key.to_public_key_der().map(|der| der.into_vec()).unwrap_or_default();
        PublicKey { key, id: SignerId::from_bytes(Sha256::digest(der).into()) }
    }
}

/// A private key that signs. Its bytes are wiped on drop, and never printed.
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id)
    }
}

/// From here on this process leaves no core dump, which would have the key in it (`PR_SET_DUMPABLE` of prctl(2)).
fn leave_no_core_dump() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

impl SigningKey {
    /// Generates a key from the kernel's random numbers (getrandom(2)).
    pub fn generate() -> Result<SigningKey> {
        leave_no_core_dump()?;
        let mut seed = [0; 32];
        let mut filled = 0;
        while filled < seed.len() {
            filled += rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(std::io::Error::from)?;
        }
        Ok(SigningKey::from_seed(seed))
    }

    /// Makes the key with this seed (RFC 8032, section 5.1.5).
    pub(crate) fn from_seed(seed: [u8; 32]) -> SigningKey {
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        let public = PublicKey::of(key.verifying_key());
        SigningKey { key, public }
    }

    /// Reads a file of PKCS#8 PEM that belongs to root or the current user, and that nobody else can read.
    ///
    /// # Errors
    ///
    /// [`Error::KeyReadable`] if others can read it, [`Error::KeyFile`] if it is no ed25519 private key.
    pub fn read(path: &Path) -> Result<SigningKey> {
        SigningKey::read_from(path, open_key(path)?)
    }

    /// Like [`SigningKey::read`], from an open file.
    pub fn read_from(path: &Path, file: File) -> Result<SigningKey> {
        leave_no_core_dump()?;
        let text = read_pem(path, file, 0o077, &|path, mode| Error::KeyReadable { path, mode })?;
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(&text).map_err(|e| Error::KeyFile {
            path: path.to_owned(),
            reason: format!("not an ed25519 private key in PEM (PKCS#8): {e}"),
        })?;
        let public = PublicKey::of(key.verifying_key());
        Ok(SigningKey { key, public })
    }

    /// Writes the key to a new file with mode 0600. Fails if the file exists.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        // The public half is left out: it would make this PKCS#8 version 2, and OpenSSL 3.0 reads only version 1.
        let pair = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        let text = pair.to_pkcs8_pem(LineEnding::LF).map_err(std::io::Error::other)?;
        let mut file = fs_err::OpenOptions::from_options(
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).to_owned(),
        )
        .open(path)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?; // whatever the umask
        Ok(file.sync_all()?)
    }

    /// The public half of the key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.key.sign(bytes).to_bytes()
    }
}

/// Opens a key's file without blocking on a FIFO in its place.
pub(crate) fn open_key(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let options = std::fs::OpenOptions::new().read(true).custom_flags(flags).to_owned();
    Ok(fs_err::OpenOptions::from_options(options).open(path)?.into_parts().0)
}

/// Reads a small text file that root or the current user owns, and whose mode has none of the bits of `mask`.
fn read_pem(path: &Path, file: File, mask: u32, open: &dyn Fn(PathBuf, u32) -> Error) -> Result<String> {
    let refuse = |reason: String| Error::KeyFile { path: path.to_owned(), reason };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(refuse("not a regular file".to_owned()));
    }
    if meta.mode() & mask != 0 {
        return Err(open(path.to_owned(), meta.mode() & 0o7777));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(refuse(format!("owned by another user (uid {})", meta.uid())));
    }
    let mut text = String::new();
    file.take(MAX_PEM).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Keys of RFC 8410, sections 10.1 and 10.3, that other programs generated.
    const RFC8410_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    const RFC8410_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), text).unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn keys_of_rfc_8410_are_read_and_match() {
        let public = PublicKey::from_pem(RFC8410_PUBLIC).unwrap();
        assert_eq!(public.to_pem(), RFC8410_PUBLIC);
        let private = SigningKey::read(file(RFC8410_PRIVATE, 0o600).path()).unwrap();
        assert_eq!(private.public().id(), public.id());
        assert!(public.verifies(b"text", &private.sign(b"text")));
        assert!(!public.verifies(b"other", &private.sign(b"text")));
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }

    #[test]
    fn a_written_key_is_read_back_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = SigningKey::generate().unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::read(&path).unwrap().public().id(), key.public().id());
        assert!(SigningKey::generate().unwrap().write_new(&path).is_err());
        assert_ne!(SigningKey::generate().unwrap().public().id(), key.public().id());
    }

    #[test]
    fn key_files_that_others_could_have_read_or_changed_are_refused() {
        let check = |result: Result<()>, expect: &str| {
            let told = result.unwrap_err().to_string();
            assert!(told.contains(expect), "{told}");
        };
        for mode in [0o640, 0o604, 0o644, 0o660] {
            let file = file(RFC8410_PRIVATE, mode);
            check(SigningKey::read(file.path()).map(drop), "readable by others");
        }
        for mode in [0o664, 0o646] {
            check(PublicKey::read(file(RFC8410_PUBLIC, mode).path()).map(drop), "writable by others");
        }
        PublicKey::read(file(RFC8410_PUBLIC, 0o644).path()).unwrap();
        check(SigningKey::read(file(RFC8410_PUBLIC, 0o600).path()).map(drop), "not an ed25519 private key");
        check(PublicKey::read(file(RFC8410_PRIVATE, 0o600).path()).map(drop), "not an ed25519 public key");
        check(PublicKey::read(file("", 0o600).path()).map(drop), "not an ed25519 public key");
        check(SigningKey::read(tempfile::tempdir().unwrap().path()).map(drop), "not a regular file");
    }

    #[test]
    fn a_weak_key_is_refused() {
        // The neutral element of the group: y = 1.
        let mut raw = [0; 32];
        raw[0] = 1;
        let weak = VerifyingKey::from_bytes(&raw).unwrap().to_public_key_pem(LineEnding::LF).unwrap();
        assert!(PublicKey::from_pem(&weak).unwrap_err().contains("weak"));
    }
}
