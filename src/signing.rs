//! Who signs the modules that are installed here.
//!
//! What the store holds is unsigned: one build serves every host, and each signs what it installs with a key of its own.
//! That key is opened once a run, when the first module is to be signed, so that an installation that changes nothing asks
//! nobody for a passphrase. Where only a certificate is configured, a signing service has the key, and what it has signed
//! is looked for in the store and in the shared caches ([`crate::detached`]).

use std::sync::{Arc, Mutex, PoisonError};

use kcache_kernel::install::{BoxError, ModuleSpec};
use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::signing::{self, Certificate, Hash, Identity, KeyPair, KeyPlace, Secret, Signer};

use crate::detached;
use crate::error::Result;
use crate::facts::Session;

/// What modules are signed with.
#[derive(Debug)]
pub struct Signing {
    pair: KeyPair,
    /// Instead of the kernel's own choice.
    hash: Option<Hash>,
    opened: Mutex<Option<Arc<Signer>>>,
}

impl Signing {
    /// Nothing is read yet.
    pub fn new(pair: KeyPair, hash: Option<Hash>) -> Signing {
        Signing { pair, hash, opened: Mutex::default() }
    }

    /// The certificate.
    pub fn certificate(&self) -> Result<Certificate> {
        Ok(self.pair.certificate()?)
    }

    /// Whether the signatures are made elsewhere.
    pub fn is_detached(&self) -> bool {
        self.pair.key.is_none()
    }

    /// Who signs for a kernel; `None` where the kernel reads no signatures.
    pub fn identity(&self, config: Option<&Kconfig>) -> Result<Option<Identity>> {
        let Some(hash) = self.hash_for(config)? else { return Ok(None) };
        let hash = (!self.is_detached()).then_some(hash);
        Ok(Some(self.certificate()?.identity(hash)))
    }

    /// Finds out early what would keep it from signing, as far as nobody need be asked for that. Gives a warning.
    pub fn try_out(&self, now: u64) -> Result<Option<String>> {
        let certificate = self.certificate()?;
        let asks = matches!(self.pair.secret, Some(Secret::Command(_)));
        if matches!(self.pair.key, Some(KeyPlace::File(_))) && !asks {
            self.signer()?;
        }
        let expired = certificate.not_after() < now;
        let told =
            || format!("the certificate of {} has expired; kernels do not mind", certificate.subject());
        Ok(expired.then(told))
    }

    /// A module, signed as `wanted` says.
    pub fn sign(
        &self,
        session: &Session,
        wanted: &Identity,
        spec: &ModuleSpec,
        module: &[u8],
    ) -> Result<Vec<u8>, BoxError> {
        let certificate = self.certificate()?;
        if certificate.fingerprint() != wanted.certificate {
            return Err(
                format!("{} is to sign it, whose key is not the one configured", wanted.subject).into()
            );
        }
        let signed = match wanted.hash {
            Some(hash) => self.signer().and_then(|signer| Ok(signer.sign(module, hash)?)),
            None => detached::attach(session, &certificate, spec, module),
        };
        Ok(signed?)
    }

    /// The opened key. A second thread waits for the first to have typed the passphrase.
    fn signer(&self) -> Result<Arc<Signer>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = &*opened {
            return Ok(signer.clone());
        }
        let signer = Arc::new(self.pair.open()?);
        *opened = Some(signer.clone());
        Ok(signer)
    }

    fn hash_for(&self, config: Option<&Kconfig>) -> Result<Option<Hash>, signing::Error> {
        match (config, self.hash) {
            (Some(config), Some(hash)) => Ok(config.yes("CONFIG_MODULE_SIG").then_some(hash)),
            (Some(config), None) => Hash::of_kernel(config),
            (None, hash) => Ok(Some(hash.unwrap_or(Hash::Sha256))),
        }
    }
}
