//! Site files of shared caches: followed to newer ones only, as pointers are, and published by builders.

use std::sync::Arc;

use super::pointers::{Accepted, is_ahead};
use super::{SharedCache, SharedCaches, Written};
use crate::site::MAX_SITE;
use crate::transport::{IfTaken, Name, Transport, TransportError};
use crate::{Distrust, Error, Notice, PublicKey, Result, SigningKey, Site, SiteContent, Store, Trust};

/// The result of publishing a site file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The cache has it now.
    New,
    /// The cache had the same, signed by this host.
    Present,
    /// The cache has one that no trusted key signed. It stays.
    OfAnother,
}

impl SharedCaches {
    /// Fetches the newest site file that enough trusted keys signed, and stores it; if there is none, or it is older than the
    /// accepted one, returns that.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or written.
    pub fn site(&self, store: &Store, roll_back: bool, now: u64) -> Result<Option<Site>> {
        let before = self.accepted_site(store, now)?;
        if self.trust.keys().next().is_none() {
            return Ok(before);
        }
        let found = self.ask(&Name::Site, MAX_SITE).into_iter();
        let signed =
            found.filter_map(|(at, bytes)| Some((at, self.signed_site(&self.caches[at], &bytes?, now)?)));
        let newest = signed.max_by_key(|(at, site)| (site.epoch(), std::cmp::Reverse(*at)));
        let Some((at, newest)) = newest else { return Ok(before) };
        match accept_site(store, &self.trust, &newest, roll_back, now)? {
            Accepted::Same | Accepted::Newer => Ok(Some(newest)),
            Accepted::Not { why } => {
                not_followed(&self.caches[at], &why);
                Ok(before)
            }
        }
    }

    /// The site file that was accepted last, if the keys that signed it are still trusted.
    ///
    /// # Errors
    ///
    /// If it cannot be read. A corrupt one counts as none.
    pub fn accepted_site(&self, store: &Store, now: u64) -> Result<Option<Site>> {
        accepted(store, &self.trust, now)
    }

    fn signed_site(&self, cache: &Arc<SharedCache>, bytes: &[u8], now: u64) -> Option<Site> {
        let site = match Site::parse(&cache.origin(&Name::Site), bytes) {
            Ok(site) => site,
            Err(error) => {
                cache.lied(&Name::Site, &error);
                return None;
            }
        };
        if let Err(distrust) = self.trust.verify(site.envelope()) {
            cache.distrusted(&Name::Site, &distrust);
            return None;
        }
        let why = too_far(&site, now);
        why.iter().for_each(|why| not_followed(cache, why));
        why.is_none().then_some(site)
    }

    /// Publishes a site file in a cache, signed with this host's key. One with the same content gets another signature; one that
    /// no key trusted here signed is not replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Shared`] if the cache fails.
    pub fn publish_site(
        &self,
        cache: &Arc<SharedCache>,
        store: &Store,
        contents: &SiteContent,
        now: u64,
        signer: &SigningKey,
    ) -> Result<Published> {
        let (site, is_new) = match self.site_there(cache)? {
            Some(mut there) if there.contents() == contents && !is_ahead(there.epoch(), now) => {
                let is_new = there.sign(signer);
                (there, is_new)
            }
            Some(there) if matches!(self.trust.verify_one(there.envelope()), Err(Distrust::Stranger(_))) => {
                return Ok(Published::OfAnother);
            }
            there => {
                let epochs = [there, here(store)?].into_iter().flatten().map(|site| site.epoch());
                let before = epochs.filter(|epoch| !is_ahead(*epoch, now)).max();
                let epoch = before.map_or(now, |before| now.max(before.saturating_add(1)));
                (Site::new(contents.clone(), epoch, signer)?, true)
            }
        };
        if !is_new {
            return Ok(Published::Present);
        }
        let bytes = site.encode()?;
        cache
            .call(|transport| transport.put(&Name::Site, &bytes, IfTaken::Replace))
            .map_err(|trouble| cache.failed(trouble))?;
        cache.has_written(Written::Site(Arc::new(contents.clone())));
        store.write_named(&Name::Site, &bytes)?;
        Ok(Published::New)
    }

    /// The site file of a cache, whoever signed it. One that cannot be read counts as none.
    pub(super) fn site_there(&self, cache: &Arc<SharedCache>) -> Result<Option<Site>> {
        let bytes = cache
            .call(|transport| transport.get(&Name::Site, MAX_SITE, &|_| ()))
            .map_err(|trouble| cache.failed(trouble))?;
        Ok(bytes.and_then(|bytes| Site::parse(&cache.origin(&Name::Site), &bytes).ok()))
    }
}

/// The site file that a cache offers, if this key signed it.
///
/// # Errors
///
/// If the cache does not answer.
pub fn offered_site(transport: &dyn Transport, key: &PublicKey) -> Result<Option<Site>, TransportError> {
    let bytes = transport.get(&Name::Site, MAX_SITE, &|_| ())?;
    let site = bytes.and_then(|bytes| Site::parse("site.json".as_ref(), &bytes).ok());
    Ok(site.filter(|site| site.envelope().is_signed_by(key)))
}

/// Stores a site file that enough trusted keys signed, unless it is older than the accepted one or too far ahead.
pub(crate) fn accept_site(
    store: &Store,
    trust: &Trust,
    site: &Site,
    roll_back: bool,
    now: u64,
) -> Result<Accepted> {
    if let Some(why) = too_far(site, now) {
        return Ok(Accepted::Not { why });
    }
    match accepted(store, trust, now)? {
        Some(before) if before.contents() == site.contents() && before.epoch() == site.epoch() => {
            Ok(Accepted::Same)
        }
        Some(before) if site.epoch() <= before.epoch() && !roll_back => {
            let (new, old) = (site.epoch(), before.epoch());
            let why = format!(
                "not newer than the accepted one (epoch {new}, accepted {old}): possible rollback attack; use --allow-rollback to accept it"
            );
            Ok(Accepted::Not { why })
        }
        _ => store.write_named(&Name::Site, &site.encode()?).map(|()| Accepted::Newer),
    }
}

/// The site file that was accepted last, if the keys that signed it are still trusted.
fn accepted(store: &Store, trust: &Trust, now: u64) -> Result<Option<Site>> {
    let counts = |site: &Site| trust.verify(site.envelope()).is_ok() && !is_ahead(site.epoch(), now);
    Ok(here(store)?.filter(counts))
}

/// The reason, if an epoch is too far ahead.
fn too_far(site: &Site, now: u64) -> Option<String> {
    is_ahead(site.epoch(), now)
        .then(|| format!("epoch {} is more than a day ahead of this host's clock", site.epoch()))
}

impl Store {
    /// The site file in this store, if there is one, whoever signed it.
    ///
    /// # Errors
    ///
    /// If it cannot be read. A corrupt one counts as none.
    pub fn site(&self) -> Result<Option<Site>> {
        here(self)
    }

    /// Publishes a site file where the store is served as a cache, unless it has the same.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or written.
    pub fn publish_site(&self, contents: &SiteContent, now: u64, signer: &SigningKey) -> Result<()> {
        let here = here(self)?.filter(|here| !is_ahead(here.epoch(), now));
        let site = match here {
            Some(mut here) if here.contents() == contents => {
                if !here.sign(signer) {
                    return Ok(());
                }
                here
            }
            here => {
                let epoch = here.map_or(now, |here| now.max(here.epoch().saturating_add(1)));
                Site::new(contents.clone(), epoch, signer)?
            }
        };
        self.write_named(&Name::Site, &site.encode()?)
    }
}

/// The site file in the store, unless it is corrupt.
fn here(store: &Store) -> Result<Option<Site>> {
    let path = store.dir().join(Name::Site.path());
    let parsed = store.read_named(&Name::Site)?.map(|bytes| Site::parse(&path, &bytes)).transpose();
    match parsed {
        Err(Error::Entry { .. }) => Ok(None),
        parsed => parsed,
    }
}

fn not_followed(cache: &SharedCache, why: &str) {
    (cache.print)(&Notice::warning(format!("shared cache {}: ignoring site.json: {why}", cache.url)));
}
