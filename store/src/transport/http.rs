//! `http://` and `https://`: any web server that serves a store's directory; WebDAV for writing.
//!
//! Reading uses GET and HEAD. Writing uses PUT, and MKCOL if the server requires collections to exist (RFC 4918).
//! nginx with `dav_methods PUT; create_full_put_path on;` is enough.
//!
//! To keep existing bytes, HEAD is sent first, and the PUT is conditional (`If-None-Match: *`). Servers that ignore
//! the condition, as nginx does, let the later of two writers win if both check before either writes. For objects that
//! changes nothing, and either entry is valid. What an interrupted PUT leaves depends on the server; nginx publishes
//! only complete files.

use reqwest::header::{CONTENT_LENGTH, HeaderMap, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use url::Url;

use super::runtime::{Deadline, Heartbeat};
use super::web::{self, Web};
use super::{BadLocation, IfTaken, Location, Name, Transport, TransportError};

/// A cache on a web server.
pub(super) struct Server {
    top: Url,
    credentials: HeaderMap,
    web: Web,
    deadline: Deadline,
}

impl Server {
    pub(super) fn new(location: &Location, top: Url) -> Result<Server, BadLocation> {
        Ok(Server {
            credentials: web::credentials(location)?,
            web: Web::new(location, Some(&top))?,
            deadline: Deadline::of(location),
            top,
        })
    }

    /// The URL of a path, given as its components.
    fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.top.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    fn url_of(&self, name: &Name) -> Url {
        self.url(name.path().split('/'))
    }

    async fn has(&self, name: &Name, heartbeat: &Heartbeat) -> Result<bool, TransportError> {
        let request = self.web.reader.head(self.url_of(name)).headers(self.credentials.clone());
        match self.web.ask(request, heartbeat).await?.status() {
            StatusCode::OK => Ok(true),
            status if is_absent(status) => Ok(false),
            status => Err(web::refusal(status, "")),
        }
    }

    async fn send(
        &self,
        name: &Name,
        bytes: &[u8],
        if_taken: IfTaken,
        heartbeat: &Heartbeat,
    ) -> Result<StatusCode, TransportError> {
        let mut request = self.web.writer.put(self.url_of(name)).headers(self.credentials.clone());
        // Also for an empty file: without a length, nginx rejects the request.
        request = request.header(CONTENT_LENGTH, bytes.len());
        if if_taken == IfTaken::Keep {
            request = request.header(IF_NONE_MATCH, "*");
        }
        let answer = self.web.send(request.body(bytes.to_vec()), bytes.len(), heartbeat).await?;
        Ok(answer.status())
    }

    /// Creates the collections above a file; false if the server refuses.
    async fn make_collections(&self, name: &Name, heartbeat: &Heartbeat) -> Result<bool, TransportError> {
        let path = name.path();
        let parts: Vec<&str> = path.split('/').collect();
        for depth in 1..parts.len() {
            // A collection's URL ends in a slash.
            let url = self.url(parts[..depth].iter().copied().chain([""]));
            let method = Method::from_bytes(b"MKCOL").expect("it is a token");
            let request = self.web.writer.request(method, url).headers(self.credentials.clone());
            match self.web.ask(request, heartbeat).await?.status().as_u16() {
                // 405: it exists, perhaps because another writer has just created it.
                201 | 405 => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Transport for Server {
    fn get(&self, name: &Name, limit: u64, heard: &dyn Fn(u64)) -> Result<Option<Vec<u8>>, TransportError> {
        self.deadline.run(limit, async |heartbeat| {
            let request = self.web.reader.get(self.url_of(name)).headers(self.credentials.clone());
            let answer = self.web.ask(request, heartbeat).await?;
            match answer.status() {
                StatusCode::OK => self.web.read(answer, limit, heartbeat, heard).await.map(Some),
                status if is_absent(status) => Ok(None),
                status => Err(web::refusal(status, "")),
            }
        })
    }

    fn has(&self, name: &Name) -> Result<bool, TransportError> {
        self.deadline.run(0, async |heartbeat| self.has(name, heartbeat).await)
    }

    fn put(&self, name: &Name, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError> {
        self.deadline.run(bytes.len() as u64, async |heartbeat| {
            if if_taken == IfTaken::Keep && self.has(name, heartbeat).await? {
                return Ok(false);
            }
            let mut status = self.send(name, bytes, if_taken, heartbeat).await?;
            // 409 is the status of a missing collection (RFC 4918, section 9.7.1); nginx sends 500.
            let misses = matches!(status, StatusCode::CONFLICT | StatusCode::INTERNAL_SERVER_ERROR);
            if misses && self.make_collections(name, heartbeat).await? {
                status = self.send(name, bytes, if_taken, heartbeat).await?;
            }
            match status.as_u16() {
                200 | 201 | 204 => Ok(true),
                412 if if_taken == IfTaken::Keep => Ok(false),
                _ => Err(web::write_refusal(status, "")),
            }
        })
    }
}

fn is_absent(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}
