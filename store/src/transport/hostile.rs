//! Tests with servers that misbehave, hang and break off, each a thread of the test with its own socket.
//!
//! The tests check the kind of error. That every call returns is checked by the tests' ending at all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::sleep;

use super::*;

const LIMIT: u64 = 1000;
/// Long enough on any machine for a server that answers.
const PATIENT: Bounds =
    Bounds { silence: Duration::from_secs(60), base: Duration::from_secs(60), rate: 1 << 20 };
/// For servers that hang.
const HASTY: Bounds = Bounds { silence: Duration::from_millis(200), ..PATIENT };
/// For servers that never finish.
const BRIEF: Bounds = Bounds { base: Duration::from_millis(400), ..PATIENT };

/// A server that passes each request, head and body, with its connection to a function.
struct Server {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), heads.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (answer.clone(), log.clone());
                std::thread::spawn(move || {
                    let mut stream = stream;
                    while let Some(head) = read_request(&mut stream) {
                        log.lock().unwrap().push(head.clone());
                        answer(&head, &mut stream);
                    }
                });
            }
        });
        Server { address, heads }
    }

    /// A server that sends a text once and closes the connection.
    fn saying(text: impl Into<Vec<u8>>) -> Server {
        let text = text.into();
        Server::new(move |_, stream| {
            let _ = stream.write_all(&text);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })
    }

    fn http(&self, bounds: Bounds) -> Location {
        Location { url: format!("http://{}/cache", self.address), bounds, ..Location::default() }
    }

    fn oci(&self, bounds: Bounds) -> Location {
        Location { url: format!("oci://{}/kcache", self.address), bounds, ..Location::default() }
    }

    fn s3(&self, bounds: Bounds) -> Location {
        let options = BTreeMap::from([("aws_endpoint".to_owned(), format!("http://{}", self.address))]);
        Location { url: "s3://bucket/a/b".to_owned(), options, bounds, ..Location::default() }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some(head)
}

fn entry() -> Name {
    Name::Entry(Key::from_bytes([7; 32]))
}

fn object() -> Name {
    Name::Object { of: Key::from_bytes([7; 32]), digest: Digest::of(b"object") }
}

fn get(location: &Location) -> Result<Option<Vec<u8>>, TransportError> {
    open(location).unwrap().get(&entry(), LIMIT, &|_| ())
}

fn put(location: &Location, if_taken: IfTaken) -> Result<bool, TransportError> {
    open(location).unwrap().put(&entry(), b"bytes", if_taken)
}

fn odd(text: &str) -> TransportError {
    TransportError::Odd(text.to_owned())
}

fn busy(text: &str) -> TransportError {
    TransportError::Busy(text.to_owned())
}

fn is_unreachable(result: Result<Option<Vec<u8>>, TransportError>) -> bool {
    matches!(result, Err(TransportError::Unreachable(_)))
}

fn endless(head: &'static str, piece: &str) -> Server {
    let piece = piece.repeat(1000);
    Server::new(move |_, stream| {
        let _ = stream.write_all(head.as_bytes());
        while stream.write_all(piece.as_bytes()).is_ok() {}
    })
}

#[test]
fn statuses_map_to_errors() {
    let check = |status: &str, expect: Result<Option<Vec<u8>>, TransportError>| {
        let server = Server::saying(format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nabc"));
        assert_eq!(get(&server.http(PATIENT)), expect, "{status}");
    };
    check("200 OK", Ok(Some(b"abc".to_vec())));
    check("404 Not Found", Ok(None));
    check("410 Gone", Ok(None));
    check("401 Unauthorized", Err(TransportError::Denied("HTTP 401 Unauthorized".into())));
    check("403 Forbidden", Err(TransportError::Denied("HTTP 403 Forbidden".into())));
    check("407 ", Err(TransportError::Denied("HTTP 407 Proxy Authentication Required".into())));
    check("206 Partial Content", Err(odd("HTTP 206 Partial Content")));
    check("301 Moved Permanently", Err(odd("HTTP 301 Moved Permanently")));
    check("429 Too Many Requests", Err(busy("HTTP 429 Too Many Requests")));
    check("500 Internal Server Error", Err(busy("HTTP 500 Internal Server Error")));
    check("503 Service Unavailable", Err(busy("HTTP 503 Service Unavailable")));
}

#[test]
fn bodies_are_passed_on_unchanged() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\n<html>";
    assert_eq!(get(&Server::saying(page).http(PATIENT)), Ok(Some(b"<html>".to_vec())));
    let longer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef";
    assert_eq!(get(&Server::saying(longer).http(PATIENT)), Ok(Some(b"abc".to_vec())));
    let no_length = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc";
    assert_eq!(get(&Server::saying(no_length).http(PATIENT)), Ok(Some(b"abc".to_vec())));
}

#[test]
fn received_bytes_are_reported_and_add_up() {
    let server =
        Server::saying(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000)));
    let sum = std::cell::Cell::new(0);
    let bytes = open(&server.http(PATIENT)).unwrap().get(&entry(), LIMIT, &|n| sum.set(sum.get() + n));
    assert_eq!((bytes.unwrap().unwrap().len(), sum.get()), (1000, 1000));
}

#[test]
fn invalid_responses_are_errors() {
    for text in [
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nX",
    ] {
        assert!(is_unreachable(get(&Server::saying(text).http(PATIENT))), "{text}");
        assert!(is_unreachable(get(&Server::saying(text).oci(PATIENT))), "{text}");
        // S3 servers always send a length, so chunks are invalid there.
        let s3 = get(&Server::saying(text).s3(PATIENT));
        assert!(is_unreachable(s3.clone()) || matches!(s3, Err(TransportError::Odd(_))), "{text}");
    }
}

#[test]
fn a_reset_connection_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // At least one byte of the request is unread, so closing resets the connection.
            let _ = stream.peek(&mut [0]);
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc");
        }
    });
    assert!(is_unreachable(get(&Location { url, bounds: PATIENT, ..Location::default() })));
}

#[test]
fn more_than_the_limit_is_not_read() {
    let too_long = Err(TransportError::TooLong(LIMIT));
    let declared = || Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n");
    let huge = || Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n");
    assert_eq!(get(&declared().http(PATIENT)), too_long);
    assert_eq!(get(&huge().http(PATIENT)), too_long);
    assert_eq!(get(&huge().s3(PATIENT)), too_long);
    let until_close = || endless("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "more");
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    let chunked = || endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &chunk);
    assert_eq!(get(&until_close().http(PATIENT)), too_long);
    assert_eq!(get(&chunked().http(PATIENT)), too_long);
    assert_eq!(get(&chunked().oci(PATIENT)), Err(TransportError::TooLong(4 << 20)), "a manifest");
    // An error's explanation is not read to its end either.
    let failing = endless("HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n", "<Error><Code>Bad</Code>");
    assert_eq!(get(&failing.s3(PATIENT)), Err(busy("HTTP 500 Internal Server Error (Bad)")));
}

#[test]
fn hanging_servers_time_out() {
    let silent = Err(TransportError::Silent(HASTY.silence));
    let hang = |before: &'static str| {
        move || {
            Server::new(move |_, stream| {
                let _ = stream.write_all(before.as_bytes());
                sleep(Duration::from_secs(600));
            })
        }
    };
    let all = |server: &dyn Fn() -> Server| {
        assert_eq!(get(&server().http(HASTY)), silent);
        assert_eq!(get(&server().oci(HASTY)), silent);
        assert_eq!(get(&server().s3(HASTY)), silent);
    };
    all(&hang(""));
    all(&hang("HTTP/1.1 200 OK\r\nContent-"));
    all(&hang("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"));
    all(&hang("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc"));
    let failing = hang("HTTP/1.1 503 Wait\r\nContent-Length: 500\r\n\r\nabc");
    assert_eq!(get(&failing().s3(HASTY)), silent, "in an error's explanation");
}

#[test]
fn slow_servers_time_out() {
    let drip = || {
        Server::new(|_, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                sleep(Duration::from_millis(20));
            }
        })
    };
    let slow = Err(TransportError::Slow(BRIEF.base));
    assert_eq!(get(&drip().http(BRIEF)), slow);
    assert_eq!(get(&drip().oci(BRIEF)), slow);
    assert_eq!(get(&drip().s3(BRIEF)), slow);
}

#[test]
fn cancellation_ends_a_call() {
    let server = Server::new(|_, _| sleep(Duration::from_secs(600)));
    let location = server.http(PATIENT);
    let cancel = location.cancel.clone();
    std::thread::spawn(move || {
        sleep(Duration::from_millis(100));
        cancel.store(true, Ordering::Relaxed);
    });
    assert_eq!(get(&location), Err(TransportError::Cancelled));
}

#[test]
fn a_closed_port_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = Server { address: listener.local_addr().unwrap().to_string(), heads: Arc::default() };
    drop(listener);
    for location in [nobody.http(PATIENT), nobody.oci(PATIENT), nobody.s3(PATIENT)] {
        let refused = TransportError::Unreachable("Connection refused (os error 111)".into());
        assert_eq!(get(&location), Err(refused.clone()));
        assert_eq!(put(&location, IfTaken::Replace), Err(refused));
    }
}

#[test]
fn redirects_are_limited() {
    let server = Server::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(get(&server.http(PATIENT)), Err(odd("more than 5 redirects")));
    assert_eq!(server.heads().len(), 6);
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let other = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    let first = Server::saying(format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{}/there\r\nContent-Length: 0\r\n\r\n",
        other.address
    ));
    let mut location = first.http(PATIENT);
    location.username = Some("user".into());
    location.password = Some("secret".into());
    assert_eq!(get(&location), Ok(Some(b"abc".to_vec())));
    // base64 of user:secret; request heads are in lower case.
    assert!(first.heads()[0].contains("authorization: basic dxnlcjpzzwnyzxq="), "{:?}", first.heads());
    assert!(!other.heads()[0].contains("authorization"), "{:?}", other.heads());
}

#[test]
fn writes_follow_no_redirect() {
    let server = Server::saying("HTTP/1.1 303 See Other\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(put(&server.http(PATIENT), IfTaken::Replace), Err(odd("HTTP 303 See Other")));
    assert_eq!(server.heads().len(), 1);
}

#[test]
fn a_server_that_only_reads_is_read_only() {
    let check = |status: &str, expect: Result<bool, TransportError>| {
        let server = Server::saying(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(put(&server.http(PATIENT), IfTaken::Replace), expect, "{status}");
    };
    let read_only = |text: &str| Err(TransportError::ReadOnly(text.into()));
    check("201 Created", Ok(true));
    check("204 No Content", Ok(true));
    check("405 Method Not Allowed", read_only("HTTP 405 Method Not Allowed"));
    check("501 Not Implemented", read_only("HTTP 501 Not Implemented"));
    check("507 Insufficient Storage", read_only("HTTP 507 Insufficient Storage"));
    check("403 Forbidden", Err(TransportError::Denied("HTTP 403 Forbidden".into())));
    check("412 Precondition Failed", Err(odd("HTTP 412 Precondition Failed")));
}

/// A server without the file, with this response to a PUT.
fn empty_but(put: &'static str) -> Server {
    Server::new(move |head, stream| {
        let status = if head.starts_with("put") { put } else { "404 Not Found" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    })
}

#[test]
fn an_object_written_meanwhile_is_kept() {
    let server = empty_but("412 Precondition Failed");
    assert_eq!(put(&server.http(PATIENT), IfTaken::Keep), Ok(false));
    assert!(server.heads()[1].contains("if-none-match: *"));
    assert_eq!(put(&empty_but("412 Precondition Failed").s3(PATIENT), IfTaken::Keep), Ok(false));
}

#[test]
fn collections_are_created_if_the_server_requires_them() {
    let made = Arc::new(Mutex::new(0));
    let server = Server::new(move |head, stream| {
        let mut made = made.lock().unwrap();
        *made += i32::from(head.starts_with("mkcol"));
        let status = match head.split(' ').next() {
            Some("mkcol") => "201 Created",
            Some("put") if *made == 2 => "201 Created",
            Some("put") => "409 Conflict",
            _ => "404 Not Found",
        };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(put(&server.http(PATIENT), IfTaken::Keep), Ok(true));
    let lines: Vec<String> =
        server.heads().iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
    assert_eq!(lines[2..4], ["mkcol /cache/entries/ http/1.1", "mkcol /cache/entries/07/ http/1.1"]);
}

#[test]
fn a_server_without_conditional_put_gets_a_plain_put() {
    let server = Server::new(|head, stream| {
        let status = match head.split(' ').next() {
            Some("put") if head.contains("if-none-match") => "501 Not Implemented",
            Some("put") => "200 OK\r\nETag: \"a\"",
            _ => "404 Not Found",
        };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(put(&server.s3(PATIENT), IfTaken::Keep), Ok(true));
    assert_eq!(
        put(&empty_but("501 Not Implemented").s3(PATIENT), IfTaken::Keep).map_err(|e| e.to_string()),
        Err("cannot be written to: HTTP 501 Not Implemented".into())
    );
}

#[test]
fn requests_without_credentials_are_unsigned_and_keep_the_prefix() {
    let server = Server::saying("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(get(&server.s3(PATIENT)), Ok(None));
    let head = &server.heads()[0];
    assert!(head.starts_with("get /bucket/a/b/entries/07/0707"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
}

/// A registry that answers every GET with this manifest.
fn registry(manifest: &str) -> Server {
    Server::saying(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{manifest}", manifest.len()))
}

fn manifest(digest: &str) -> String {
    let blob = |digest: &str| format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":3}}"#);
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, blob("sha256:0"), blob(digest))
}

#[test]
fn oci_manifests_are_not_trusted() {
    let check = |manifest: &str, expect: &str| {
        let answer = get(&registry(manifest).oci(PATIENT)).unwrap_err().to_string();
        assert!(answer.contains(expect), "{manifest}: {answer}");
    };
    check("<html>", "not a manifest");
    check("{}", "not a manifest");
    check(&manifest("sha256:../../../v2/other/blobs/sha256"), "an invalid digest");
    check(&manifest("sha256:"), "an invalid digest");
    check(&manifest("md5:0123"), "an invalid digest");
    let no_layers =
        r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:0","size":3},"layers":[]}"#;
    assert_eq!(get(&registry(no_layers).oci(PATIENT)), Ok(None));
    let other = registry(&manifest(&format!("sha256:{}", "0".repeat(64))));
    assert_eq!(
        open(&other.oci(PATIENT)).unwrap().get(&object(), LIMIT, &|_| ()),
        Ok(None),
        "no layer of that name"
    );
}

#[test]
fn a_token_is_requested_with_the_password_and_sent_to_the_registry() {
    let server = Server::new(|head, stream| {
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let _ = match head {
            _ if head.starts_with("get /token") => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{{\"token\":\"ticket\"}}")
            }
            _ if head.contains("authorization: bearer ticket") => {
                write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            }
            _ => write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\nContent-Length: 0\r\n\r\n"
            ),
        };
    });
    let mut location = server.oci(PATIENT);
    location.username = Some("user".into());
    location.password = Some("secret".into());
    let transport = open(&location).unwrap();
    assert_eq!(transport.get(&entry(), LIMIT, &|_| ()), Ok(None));
    assert_eq!(transport.get(&entry(), LIMIT, &|_| ()), Ok(None));
    let heads = server.heads();
    let (logins, others): (Vec<_>, Vec<_>) = heads.iter().partition(|head| head.starts_with("get /token"));
    assert_eq!(logins.len(), 1, "the token is kept");
    assert!(
        logins[0].starts_with("get /token?service=s&scope=repository%3akcache%3apull http"),
        "{logins:?}"
    );
    assert!(logins[0].contains("authorization: basic dxnlcjpzzwnyzxq="));
    assert!(!others.iter().any(|head| head.contains("basic")), "the password is for the login only");
}

/// A response of a registry that requires a token from this realm.
fn challenge_of(realm: &str) -> String {
    format!(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\"\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn a_password_is_not_sent_to_another_host_port_or_login_that_storage_names() {
    let with_password = |server: &Server| {
        let location = server.oci(PATIENT);
        Location { username: Some("user".into()), password: Some("secret".into()), ..location }
    };
    let token = "HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"token\":\"ticket\"}";
    let login = Server::saying(token);
    let registry = Server::saying(challenge_of(&format!("http://{}/token", login.address)));
    let _ = get(&with_password(&registry));
    assert!(!login.heads()[0].contains("authorization"), "{:?}", login.heads());
    // The registry redirects to a storage host that asks for a login of its own.
    let thief = Server::saying(token);
    let storage = Server::saying(challenge_of(&format!("http://{}/token", thief.address)));
    let registry = Server::saying(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/blob\r\nContent-Length: 0\r\n\r\n",
        storage.address
    ));
    assert!(matches!(get(&with_password(&registry)), Err(TransportError::Denied(_))));
    assert_eq!((storage.heads().len(), thief.heads().len()), (1, 0));
}

#[test]
fn nothing_leads_to_a_clouds_metadata() {
    for place in ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"] {
        let redirect = Server::saying(format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{place}/latest/meta-data\r\nContent-Length: 0\r\n\r\n"
        ));
        let refused = odd("a redirect to a disallowed address");
        assert_eq!(get(&redirect.http(PATIENT)), Err(refused.clone()));
        assert_eq!(get(&redirect.oci(PATIENT)), Err(refused));
        let login = Server::saying(challenge_of(&format!("http://{place}/token")));
        assert!(
            matches!(get(&login.oci(PATIENT)), Err(TransportError::Odd(told)) if told.contains("not allowed"))
        );
        let upload = Server::saying(format!(
            "HTTP/1.1 202 Accepted\r\nLocation: http://{place}/upload\r\nContent-Length: 0\r\n\r\n"
        ));
        assert!(put(&upload.oci(PATIENT), IfTaken::Replace).is_err());
    }
}

#[test]
fn an_untrusted_location_cannot_be_on_this_machine() {
    let server = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    let port = server.address.rsplit(':').next().unwrap();
    let urls = [
        format!("http://127.0.0.1:{port}/c"),
        format!("http://localhost:{port}/c"),
        format!("oci://localhost:{port}/c"),
    ];
    for url in urls {
        assert!(
            get(&Location { url: url.clone(), stranger: true, bounds: PATIENT, ..Location::default() })
                .is_err()
        );
        assert!(server.heads().is_empty(), "{url}: {:?}", server.heads());
    }
    assert_eq!(get(&server.http(PATIENT)), Ok(Some(b"abc".to_vec())));
}

#[test]
fn a_failed_login_is_a_refusal() {
    let refused = |challenge: &str| {
        let answer = format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
        );
        matches!(get(&Server::saying(answer).oci(PATIENT)), Err(TransportError::Denied(_)))
    };
    assert!(refused("Basic realm=\"a\""));
    assert!(refused("Negotiate"));
    let login = Server::saying("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert!(refused(&format!("Bearer realm=\"http://{}/\"", login.address)));
}
