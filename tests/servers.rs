//! Real servers that hold shared caches: nginx, docker-registry and a Garage cluster.
//!
//! Each runs in a temporary directory, on a free port of this machine, and ends with the value that stands for it.
//! nginx and docker-registry are Debian's; Garage is compiled by `tests/fixtures.sh`.

use fs_err as fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const USER: &str = "builder";
pub const PASSWORD: &str = "secret";
/// The password for nginx, by `openssl passwd -apr1`.
const APR1: &str = "$apr1$kcache$YM1ZxJpep8NAd2Gl/0KQj.";
/// The password for docker-registry, which knows bcrypt only.
const BCRYPT: &str = "$2y$05$kcachekcachekcachekcauWPsihCeOp7MMMyTaCHa5G.NZBGvfhSq";

/// A process that is killed when its value is dropped.
struct Process(Child);

impl Process {
    /// Starts a server and waits until it accepts connections.
    fn start(command: &mut Command, log: &Path, port: u16) -> Process {
        let output = fs::File::create(log).unwrap().into_parts().0;
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap_or_else(|e| {
            panic!("{:?} cannot be started ({e}): run tests/fixtures.sh first", command.get_program())
        });
        let mut process = Process(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = process.0.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                panic!("{command:?} {ended:?}:\n{}", fs::read_to_string(log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody listens on: given out once in this process, and below those that the kernel gives to clients
/// (`net.ipv4.ip_local_port_range`), one of which may take a port between this and the server's start.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % PORTS;
    let next = || 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
    let mut ports = std::iter::repeat_with(next).take(PORTS as usize).map(|port| port as u16);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// So many ports are tried.
const PORTS: u32 = 12_000;

/// Runs a command to its end, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// A web server with a directory.
pub struct Nginx {
    dir: TempDir,
    port: u16,
    secure: bool,
    process: Option<Process>,
}

impl Nginx {
    /// One that can be read and written.
    pub fn writable() -> Nginx {
        Nginx::new("dav_methods PUT; create_full_put_path on;", false)
    }

    /// One that wants collections to be made first.
    pub fn with_collections() -> Nginx {
        Nginx::new("dav_methods PUT MKCOL;", false)
    }

    pub fn read_only() -> Nginx {
        Nginx::new("", false)
    }

    /// One with a certificate of its own authority, for those who know the password. `/plain/` leads to plain http.
    pub fn secure() -> Nginx {
        let locked = "auth_basic cache; auth_basic_user_file htpasswd;
            dav_methods PUT; create_full_put_path on;
            location /plain/ { return 302 http://127.0.0.1:1/; }";
        Nginx::new(locked, true)
    }

    fn new(rules: &str, secure: bool) -> Nginx {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("htpasswd"), format!("{USER}:{APR1}\n")).unwrap();
        let (tls, certificate) = match secure {
            true => ("ssl", "ssl_certificate server.pem; ssl_certificate_key server.key;"),
            false => ("", ""),
        };
        if secure {
            make_certificates(dir.path());
        }
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;
            events {{}}
            http {{
                access_log requests; client_max_body_size 1g;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                server {{
                    listen 127.0.0.1:{port} {tls}; root files;
                    {certificate}
                    {rules}
                }}
            }}"
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut nginx = Nginx { dir, port, secure, process: None };
        nginx.restart();
        nginx
    }

    /// Ends it, as a power failure would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it, with what it has in its directory.
    pub fn restart(&mut self) {
        let dir = self.dir.path();
        let mut nginx = Command::new("/usr/sbin/nginx");
        nginx.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).args(["-e", "stderr"]);
        self.process = Some(Process::start(&mut nginx, &dir.join("log"), self.port));
    }

    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("ca.pem")).unwrap()
    }

    /// How many requests it has answered.
    pub fn requests(&self) -> usize {
        fs::read_to_string(self.dir.path().join("requests")).unwrap().lines().count()
    }

    /// The directory it serves.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }
}

/// `ca.pem`, and `server.pem` and `server.key` signed by it.
fn make_certificates(dir: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(dir));
    let authority =
        ["req", "-x509", "-subj", "/CN=authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &key].concat());
    let request = ["req", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[&request[..], &key].concat());
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem";
    openssl(&sign.split(' ').collect::<Vec<_>>());
}

/// An OCI registry.
pub struct DockerRegistry {
    _dir: TempDir,
    port: u16,
    _process: Process,
}

impl DockerRegistry {
    pub fn writable() -> DockerRegistry {
        DockerRegistry::new(tempfile::tempdir().unwrap(), |_| String::new(), false)
    }

    pub fn read_only() -> DockerRegistry {
        DockerRegistry::new(tempfile::tempdir().unwrap(), |_| String::new(), true)
    }

    /// One for those who know the password.
    pub fn locked() -> DockerRegistry {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("htpasswd"), format!("{USER}:{BCRYPT}\n")).unwrap();
        let auth = |dir: &Path| {
            format!("auth: {{htpasswd: {{realm: cache, path: {}}}}}\n", dir.join("htpasswd").display())
        };
        DockerRegistry::new(dir, auth, false)
    }

    fn new(dir: TempDir, auth: impl Fn(&Path) -> String, read_only: bool) -> DockerRegistry {
        let port = free_port();
        let config = format!(
            "version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {}}}
  maintenance: {{readonly: {{enabled: {read_only}}}}}
http: {{addr: \"127.0.0.1:{port}\"}}
{}",
            dir.path().join("data").display(),
            auth(dir.path())
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let mut registry = Command::new("/usr/bin/docker-registry");
        registry.arg("serve").arg(&path).env("OTEL_TRACES_EXPORTER", "none");
        let process = Process::start(&mut registry, &dir.path().join("log"), port);
        DockerRegistry { _dir: dir, port, _process: process }
    }

    /// `HOST:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// A Garage cluster of three nodes that each hold a copy of everything, with one bucket.
pub struct Garage {
    dir: TempDir,
    nodes: Vec<Option<Process>>,
    ports: Vec<u16>,
}

/// What lets somebody into the bucket.
#[derive(Clone)]
pub struct S3Key {
    pub id: String,
    pub secret: String,
}

impl Garage {
    pub const BUCKET: &str = "modules";

    /// Starts one. It takes compiling Garage, so only `make test-services` does, which sets `KCACHE_SERVICES`.
    pub fn cluster() -> Option<Garage> {
        if std::env::var_os("KCACHE_SERVICES").is_none() {
            use std::io::Write as _;
            let _ = writeln!(
                std::io::stderr(),
                "skipped: Garage, which `make test-services` compiles and starts"
            );
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let ports: Vec<[u16; 2]> = (0..3).map(|_| [free_port(), free_port()]).collect();
        let s3 = ports.iter().map(|[_, s3]| *s3).collect();
        let mut garage = Garage { dir, nodes: Vec::new(), ports: s3 };
        for (node, [rpc, s3]) in ports.into_iter().enumerate() {
            garage.start(node, rpc, s3);
        }
        garage.join();
        garage.run(&["bucket", "create", Garage::BUCKET]);
        Some(garage)
    }

    fn start(&mut self, node: usize, rpc: u16, s3: u16) {
        let own = self.dir.path().join(node.to_string());
        fs::create_dir(&own).unwrap();
        let config = format!(
            "metadata_dir = \"{own}/meta\"
data_dir = \"{own}/data\"
db_engine = \"sqlite\"
replication_factor = 3
rpc_bind_addr = \"127.0.0.1:{rpc}\"
rpc_public_addr = \"127.0.0.1:{rpc}\"
rpc_secret = \"{secret}\"
[s3_api]
api_bind_addr = \"127.0.0.1:{s3}\"
s3_region = \"garage\"
",
            own = own.display(),
            secret = "5e".repeat(32),
        );
        fs::write(own.join("garage.toml"), config).unwrap();
        self.nodes.push(None);
        self.restart(node);
    }

    /// Starts a node, with what it has in its directory.
    fn restart(&mut self, node: usize) {
        let log = self.dir.path().join(node.to_string()).join("log");
        let mut server = self.command(node);
        self.nodes[node] = Some(Process::start(server.arg("server"), &log, self.ports[node]));
    }

    /// Makes one cluster of the nodes.
    fn join(&self) {
        for id in &self.connect() {
            let (id, _) = id.split_once('@').unwrap();
            self.run(&["layout", "assign", id, "-z", "here", "-c", "1G"]);
        }
        self.run(&["layout", "apply", "--version", "1"]);
    }

    /// Connects the nodes, which by themselves look for each other once in a minute. Returns their names.
    fn connect(&self) -> Vec<String> {
        let id = |node| run(self.command(node).args(["node", "id", "-q"])).trim().to_owned();
        let ids: Vec<String> = (0..3).map(id).collect();
        for id in &ids[1..] {
            self.run(&["node", "connect", id]);
        }
        ids
    }

    /// Starts all nodes again after all were killed.
    pub fn restart_all(&mut self) {
        (0..3).for_each(|node| self.restart(node));
        self.connect();
    }

    fn command(&self, node: usize) -> Command {
        let fixtures = std::env::var_os("KCACHE_FIXTURES").map(PathBuf::from).unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/kcache-fixtures")
        });
        let mut command = Command::new(fixtures.join("garage/bin/garage"));
        command.env("RUST_LOG", "garage=error");
        command.arg("-c").arg(self.dir.path().join(node.to_string()).join("garage.toml"));
        command
    }

    fn run(&self, args: &[&str]) -> String {
        run(self.command(0).args(args))
    }

    /// A new key that may do so much in the bucket: `--read`, `--write`.
    pub fn key(&self, name: &str, rights: &[&str]) -> S3Key {
        let text = self.run(&["key", "create", name]);
        let value = |label: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
            line.unwrap_or_else(|| panic!("no {label} in {text}")).trim().to_owned()
        };
        let key = S3Key { id: value("Key ID:"), secret: value("Secret key:") };
        self.run(&[&["bucket", "allow", Garage::BUCKET, "--key", &key.id], rights].concat());
        key
    }

    /// The first node's address.
    pub fn endpoint(&self) -> String {
        self.endpoint_of(0)
    }

    pub fn endpoint_of(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[node])
    }

    /// Ends a node, as a power failure would.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }
}

/// Runs skopeo, another client of OCI registries.
pub fn skopeo(home: &Path, args: &[&str]) -> String {
    let mut skopeo = Command::new("skopeo");
    // Neither the policy nor the logins of whoever runs the tests.
    run(skopeo.arg("--insecure-policy").args(args).env("HOME", home).env_remove("XDG_RUNTIME_DIR"))
}
