//! Signs the modules that are installed on this host.
//!
//! The store holds unsigned modules: one build serves every host, and each signs what it installs with its own key. The key is
//! opened once per run, when the first module is to be signed. So an installation that changes nothing asks for no passphrase,
//! and a mistyped one is not requested again for every kernel. If only a certificate is configured, a signing service has the
//! key, and its signatures are looked up in the store and in the shared caches (`deploy::detached_signature`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kcache_kernel::dkms::framework;
use kcache_kernel::install::BoxError;
use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::signing::{self, Certificate, Hash, Identity, KeyPair, KeyPlace, Secret, Signer};

use crate::error::{Error, Result};

/// Key and certificate for signing modules.
#[derive(Clone, Debug)]
pub struct Signing {
    pair: KeyPair,
    /// Overrides the kernel's own hash.
    hash: Option<Hash>,
    opened: Arc<Mutex<Option<Opened>>>,
    /// Those of kernels, if `$kernelver` in its paths makes them others for each.
    of_kernels: Arc<Mutex<BTreeMap<String, Signing>>>,
}

/// The key, or why it could not be opened.
type Opened = Result<Arc<Signer>, Arc<signing::Error>>;

impl Signing {
    /// Reads nothing yet.
    pub fn new(pair: KeyPair, hash: Option<Hash>) -> Signing {
        Signing { pair, hash, opened: Arc::default(), of_kernels: Arc::default() }
    }

    /// The key and certificate for a kernel: `$kernelver` in paths stands for its release, as in DKMS's configuration.
    pub fn of_kernel(&self, release: &str) -> Signing {
        if !self.is_per_kernel() {
            return self.clone();
        }
        let mut known = self.of_kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |path: &PathBuf| PathBuf::from(framework::with_release(&path.to_string_lossy(), release));
        let made = || {
            let key = match &self.pair.key {
                Some(KeyPlace::File(path)) => Some(KeyPlace::File(of(path))),
                key => key.clone(),
            };
            let certificate = self.pair.certificate.as_ref().map(of);
            Signing::new(KeyPair { key, certificate, secret: self.pair.secret.clone() }, self.hash)
        };
        known.entry(release.to_owned()).or_insert_with(made).clone()
    }

    fn is_per_kernel(&self) -> bool {
        let key = match &self.pair.key {
            Some(KeyPlace::File(path)) => Some(path),
            _ => None,
        };
        let paths = [key, self.pair.certificate.as_ref()];
        paths.into_iter().flatten().any(|path| framework::names_release(&path.to_string_lossy()))
    }

    /// Reads the certificate.
    pub fn certificate(&self) -> Result<Certificate> {
        Ok(self.pair.certificate()?)
    }

    /// Whether a signing service makes the signatures.
    pub fn is_detached(&self) -> bool {
        self.pair.key.is_none()
    }

    /// The signer for a kernel; `None` if the kernel does not verify signatures.
    pub fn identity(&self, config: Option<&Kconfig>) -> Result<Option<Identity>> {
        let Some(hash) = self.hash_for(config)? else { return Ok(None) };
        let hash = (!self.is_detached()).then_some(hash);
        Ok(Some(self.certificate()?.identity(hash)))
    }

    /// Detects early what would prevent signing, as far as that needs no passphrase. Returns a warning.
    pub fn try_out(&self, now: u64) -> Result<Option<String>> {
        if self.is_per_kernel() {
            return Ok(None); // which kernels are meant is known later
        }
        let certificate = self.certificate()?;
        let asks = matches!(self.pair.secret, Some(Secret::Command(_)));
        if matches!(self.pair.key, Some(KeyPlace::File(_))) && !asks {
            self.signer()?;
        }
        let expired = certificate.not_after() < now;
        let told =
            || format!("the certificate of {} has expired (kernels ignore the date)", certificate.subject());
        Ok(expired.then(told))
    }

    /// Signs a module as `wanted`; `attach` returns it with a signing service's signature.
    pub fn sign(
        &self,
        wanted: &Identity,
        module: &[u8],
        attach: &dyn Fn(&Certificate) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>, BoxError> {
        match wanted.hash {
            Some(hash) => {
                let signer = self.signer()?;
                is_wanted(signer.certificate(), wanted)?;
                Ok(signer.sign(module, hash).map_err(Error::from)?)
            }
            None => {
                let certificate = self.certificate()?;
                is_wanted(&certificate, wanted)?;
                Ok(attach(&certificate)?)
            }
        }
    }

    /// The opened key. A second thread waits while the first prompts for the passphrase.
    fn signer(&self) -> Result<Arc<Signer>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let signer = opened.get_or_insert_with(|| self.pair.open().map(Arc::new).map_err(Arc::new));
        Ok(signer.clone()?)
    }

    fn hash_for(&self, config: Option<&Kconfig>) -> Result<Option<Hash>, signing::Error> {
        match (config, self.hash) {
            (Some(config), Some(hash)) => Ok(config.yes("CONFIG_MODULE_SIG").then_some(hash)),
            (Some(config), None) => Hash::of_kernel(config),
            (None, hash) => Ok(Some(hash.unwrap_or(Hash::Sha256))),
        }
    }
}

/// The certificate may have been replaced since the change was planned.
fn is_wanted(certificate: &Certificate, wanted: &Identity) -> Result<(), BoxError> {
    match certificate.fingerprint() == wanted.certificate {
        true => Ok(()),
        false => Err(format!(
            "must be signed by {}, but the configured key belongs to another signer",
            wanted.subject
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    #[test]
    fn a_failing_passphrase_is_requested_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (key, certificate) = (path("key.pem"), path("certificate.pem"));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:right", "-subj", "/CN=test"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let asked = path("asked");
        let command = format!("echo >> '{}'; echo wrong", asked.display());
        let pair = KeyPair {
            key: Some(KeyPlace::File(key)),
            certificate: Some(certificate),
            secret: Some(Secret::Command(command)),
        };
        let signing = Signing::new(pair, None);
        let told = [signing.signer().unwrap_err(), signing.signer().unwrap_err()].map(|e| e.to_string());
        assert!(told[0].contains("wrong passphrase") && told[0] == told[1], "{told:?}");
        assert_eq!(fs::read_to_string(asked).unwrap().lines().count(), 1);
    }
}
