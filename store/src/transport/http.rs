//! `http://` and `https://`: any web server that serves a store's directory; and WebDAV, to put things there.
//!
//! Reading takes GET and HEAD. Writing takes PUT; where the server wants collections made first, also MKCOL.
//! nginx with `dav_methods PUT; create_full_put_path on;` is enough.
//!
//! To keep what is there, the server is asked first, and told again in the PUT (`If-None-Match: *`). Servers that pass
//! over that header, as nginx does, let the later of two writers win who both asked before one of them wrote. For
//! objects that changes nothing; entries are as good as each other. What a PUT leaves behind that breaks off is up to
//! the server: nginx publishes whole files only.

use reqwest::header::{CONTENT_LENGTH, HeaderMap, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use url::Url;

use super::runtime::{Deadline, Heartbeat};
use super::web::{self, Web};
use super::{BadLocation, IfTaken, Location, Name, Transport, TransportError};

/// A store behind a web server.
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

    /// The URL of a file, given by the parts of its path.
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
        // Said of an empty file too: nginx fails where it is left out, as it would be.
        request = request.header(CONTENT_LENGTH, bytes.len());
        if if_taken == IfTaken::Keep {
            request = request.header(IF_NONE_MATCH, "*");
        }
        let answer = self.web.send(request.body(bytes.to_vec()), bytes.len(), heartbeat).await?;
        Ok(answer.status())
    }

    /// Makes the collections on the way to a file, as far as it can tell; false where the server would not.
    async fn make_collections(&self, name: &Name, heartbeat: &Heartbeat) -> Result<bool, TransportError> {
        let path = name.path();
        let parts: Vec<&str> = path.split('/').collect();
        for depth in 1..parts.len() {
            // A collection's URL ends in a slash.
            let url = self.url(parts[..depth].iter().copied().chain([""]));
            let method = Method::from_bytes(b"MKCOL").expect("it is a token");
            let request = self.web.writer.request(method, url).headers(self.credentials.clone());
            match self.web.ask(request, heartbeat).await?.status().as_u16() {
                // 405: it is there, and another writer may have made it just now.
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
            // What WebDAV says where a collection is missing, and what nginx says.
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
