//! `oci://REGISTRY/REPOSITORY`: any OCI registry. Each entry, pointer and detached signature is one artifact, and so are
//! the builders' keys.
//!
//! ```text
//! REPOSITORY:<key>                      artifactType application/vnd.kcache.entry.v1+json
//!   layer 0                             the entry
//!   layer 1...                          its objects, with their file names as org.opencontainers.image.title
//! REPOSITORY:pointer-<32 hex digits>    artifactType application/vnd.kcache.pointer.v1+json
//!   layer 0                             the pointer; the digits are of BLAKE3 of its path
//! REPOSITORY:signature-<32 hex digits>  artifactType application/vnd.kcache.signature.v1
//!   layer 0                             a detached signature; the digits are of BLAKE3 of its path
//! REPOSITORY:builders                   artifactType application/vnd.kcache.builders.v1
//!   layer 0                             the public keys of the builders
//! ```
//! So the registry's own tools copy, sign, scan and delete an entry together with its objects.
//!
//! A registry deletes blobs that no manifest references. Objects are uploaded when they are put, and become visible
//! with their entry, whose manifest is put last: an interrupted push leaves nothing visible. Manifests are remembered
//! for the run, because an entry's objects are requested right after it.
//!
//! Registries have no conditional PUT. To keep existing bytes, HEAD is sent first; if two writers both check before
//! either writes, the later one wins, and its artifact is complete. The registry's digests are used as names and prove
//! nothing: the caller verifies objects.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use url::Url;

use super::registry::{Descriptor, Manifest, Registry};
use super::runtime::{Deadline, Heartbeat};
use super::{BadLocation, IfTaken, Location, Name, Transport, TransportError};
use crate::{Digest, Key};

// Stored: add, never change.
const ENTRY: &str = "application/vnd.kcache.entry.v1+json";
const OBJECT: &str = "application/vnd.kcache.object.v1+zstd";
const POINTER: &str = "application/vnd.kcache.pointer.v1+json";
const SIGNATURE: &str = "application/vnd.kcache.signature.v1";
const BUILDERS: &str = "application/vnd.kcache.builders.v1";
const SITE: &str = "application/vnd.kcache.site.v1+json";
const TITLE: &str = "org.opencontainers.image.title";
/// The empty configuration (OCI image specification 1.1, guidance for artifacts).
const NO_CONFIG: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");

/// A cache in a repository.
pub(super) struct Repository {
    registry: Registry,
    deadline: Deadline,
    /// Manifests that were read or written in this run, by key.
    read: Mutex<BTreeMap<Key, Manifest>>,
    /// Objects that were uploaded and whose entry is not yet put, by title.
    uploaded: Mutex<BTreeMap<Key, BTreeMap<String, Descriptor>>>,
}

impl Repository {
    pub(super) fn new(location: &Location, url: &Url) -> Result<Repository, BadLocation> {
        Ok(Repository {
            registry: Registry::new(location, url)?,
            deadline: Deadline::of(location),
            read: Mutex::default(),
            uploaded: Mutex::default(),
        })
    }

    /// The layer with the bytes of a name.
    async fn layer(&self, name: &Name, heartbeat: &Heartbeat) -> Result<Option<Descriptor>, TransportError> {
        let (Name::Entry(of) | Name::Object { of, .. }) = name else {
            return Ok(self.registry.manifest(&tag(name), heartbeat).await?.and_then(first_layer));
        };
        if let Name::Object { .. } = name {
            let title = title(name);
            let uploaded = lock(&self.uploaded).get(of).and_then(|layers| layers.get(&title)).cloned();
            let found = uploaded.or_else(|| lock(&self.read).get(of).and_then(|read| titled(read, &title)));
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some(manifest) = self.registry.manifest(&tag(name), heartbeat).await? else { return Ok(None) };
        lock(&self.read).insert(*of, manifest.clone());
        Ok(match name {
            Name::Object { .. } => titled(&manifest, &title(name)),
            _ => first_layer(manifest),
        })
    }

    async fn put_object(
        &self,
        name: &Name,
        of: &Key,
        bytes: &[u8],
        if_taken: IfTaken,
        heartbeat: &Heartbeat,
    ) -> Result<bool, TransportError> {
        let there = match if_taken {
            IfTaken::Keep => self.layer(name, heartbeat).await?,
            IfTaken::Replace => None,
        };
        let kept = match &there {
            Some(layer) => self.registry.has_blob(layer, heartbeat).await?,
            None => false,
        };
        let layer = match there {
            Some(layer) if kept => layer,
            _ => titled_as(title(name), self.registry.put_blob(OBJECT, bytes, heartbeat).await?),
        };
        lock(&self.uploaded).entry(*of).or_default().insert(title(name), layer);
        Ok(!kept)
    }

    /// Puts an entry, pointer, signature or list of keys as an artifact.
    async fn put_artifact(
        &self,
        name: &Name,
        bytes: &[u8],
        if_taken: IfTaken,
        heartbeat: &Heartbeat,
    ) -> Result<bool, TransportError> {
        let tag = tag(name);
        if if_taken == IfTaken::Keep && self.registry.has_manifest(&tag, heartbeat).await? {
            return Ok(false);
        }
        let media_type = match name {
            Name::Entry(_) | Name::Object { .. } => ENTRY,
            Name::Pointer { .. } => POINTER,
            Name::Signature { .. } => SIGNATURE,
            Name::Builders => BUILDERS,
            Name::Site => SITE,
        };
        let config = self.registry.put_blob(NO_CONFIG.0, NO_CONFIG.1, heartbeat).await?;
        let layer = titled_as(title(name), self.registry.put_blob(media_type, bytes, heartbeat).await?);
        let mut layers = vec![layer];
        if let Name::Entry(key) = name {
            layers.extend(self.objects(key, if_taken, heartbeat).await?);
        }
        let manifest = Manifest::new(media_type, config, layers);
        self.registry.put_manifest(&tag, &manifest, heartbeat).await?;
        if let Name::Entry(key) = name {
            lock(&self.uploaded).remove(key);
            lock(&self.read).insert(*key, manifest);
        }
        Ok(true)
    }

    /// The layers for an entry's objects: those uploaded in this run, and those of the artifact that it replaces.
    async fn objects(
        &self,
        key: &Key,
        if_taken: IfTaken,
        heartbeat: &Heartbeat,
    ) -> Result<Vec<Descriptor>, TransportError> {
        let mut objects = BTreeMap::new();
        if if_taken == IfTaken::Replace {
            let replaced = self.registry.manifest(&tag(&Name::Entry(*key)), heartbeat).await?;
            for layer in replaced.map(|manifest| manifest.layers).unwrap_or_default() {
                if let (OBJECT, Some(title)) = (layer.media_type.as_str(), title_of(&layer)) {
                    objects.insert(title.to_owned(), layer);
                }
            }
        }
        objects.extend(lock(&self.uploaded).get(key).cloned().unwrap_or_default());
        Ok(objects.into_values().collect())
    }
}

impl Transport for Repository {
    fn get(&self, name: &Name, limit: u64, heard: &dyn Fn(u64)) -> Result<Option<Vec<u8>>, TransportError> {
        self.deadline.run(limit, async |heartbeat| match self.layer(name, heartbeat).await? {
            Some(layer) => self.registry.blob(&layer, limit, heartbeat, heard).await,
            None => Ok(None),
        })
    }

    fn has(&self, name: &Name) -> Result<bool, TransportError> {
        self.deadline.run(0, async |heartbeat| match name {
            Name::Object { .. } => Ok(self.layer(name, heartbeat).await?.is_some()),
            _ => self.registry.has_manifest(&tag(name), heartbeat).await,
        })
    }

    fn put(&self, name: &Name, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError> {
        self.deadline.run(bytes.len() as u64, async |heartbeat| match name {
            Name::Object { of, .. } => self.put_object(name, of, bytes, if_taken, heartbeat).await,
            _ => self.put_artifact(name, bytes, if_taken, heartbeat).await,
        })
    }
}

fn tag(name: &Name) -> String {
    let of_path = || Digest::of(name.path().as_bytes()).to_string()[..32].to_owned();
    match name {
        Name::Entry(key) | Name::Object { of: key, .. } => key.to_string(),
        Name::Pointer { .. } => format!("pointer-{}", of_path()),
        Name::Signature { .. } => format!("signature-{}", of_path()),
        Name::Builders => "builders".to_owned(),
        Name::Site => "site".to_owned(),
    }
}

/// The file name, without directories.
fn title(name: &Name) -> String {
    let path = name.path();
    path.rsplit_once('/').map_or(path.clone(), |(_, name)| name.to_owned())
}

fn title_of(layer: &Descriptor) -> Option<&str> {
    layer.annotations.get(TITLE).map(String::as_str)
}

fn titled(manifest: &Manifest, title: &str) -> Option<Descriptor> {
    manifest.layers.iter().find(|layer| title_of(layer) == Some(title)).cloned()
}

fn titled_as(title: String, mut layer: Descriptor) -> Descriptor {
    layer.annotations.insert(TITLE.to_owned(), title);
    layer
}

fn first_layer(manifest: Manifest) -> Option<Descriptor> {
    manifest.layers.into_iter().next()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
