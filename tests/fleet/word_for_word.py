#!/usr/bin/python3
"""Follows docs/fleet.md word for word, as somebody does who reads it for the first time, on Debian 12 or 13.

    tests/fleet/word_for_word.py PROGRAM [bookworm|trixie]        PROGRAM: kcache; needs root

Each host of the page is a Debian system of its own (an overlay of the one of tests/apt.sh or tests/corpus/), in a mount, pid and
network namespace, so that nothing leaves this machine and nothing of it is changed. Commands and files are taken from the page;
what they print is compared with what the page says, without digests, versions, times, sizes and the order of lines. `...` on
the page stands for any lines. Not followed: hosts whose compiler is another one, compiling Garage, Azure and the other clouds.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs/fleet.md"
FIXTURES = Path(os.environ.get("KCACHE_FIXTURES", Path.home() / ".cache/kcache-fixtures"))
CORPUS = Path(os.environ.get("KCACHE_CORPUS", Path.home() / ".cache/kcache-corpus"))
ON_PAGE = "6.1.0-56-amd64"
SOURCES = ["acpi-call", "bbswitch", "v4l2loopback"]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def sh(*words, **options):
    return subprocess.run([str(word) for word in words], check=True, **options)


def mount(kind, at, **options):
    Path(at).mkdir(parents=True, exist_ok=True)
    words = ",".join(f"{key}={value}" for key, value in options.items())
    sh("mount", "-t", kind, *(["-o", words] if words else []), kind, at)


# --- the page ---------------------------------------------------------------------------------------------------------

class Page:
    """Its fenced blocks: language and lines."""

    def __init__(self):
        self.blocks, block = [], None
        for line in PAGE.read_text().splitlines():
            fence = re.match(r" *```(\w*)", line)
            if fence and block is None:
                block = (fence[1], len(line) - len(line.lstrip()), [])
            elif fence:
                self.blocks.append((block[0], block[2]))
                block = None
            elif block is not None:
                block[2].append(line[block[1]:])

    def file(self, begins):
        """The file whose block has this in its first line."""
        found = [lines for kind, lines in self.blocks if kind != "console" and begins in lines[0]]
        assert found, f"the page has no file '{begins}'"
        return "\n".join(found[0]) + "\n"

    def steps(self, prompt, command, at=0):
        """Commands of the block that has this one, and what each prints. `at`: which block, if several have it."""
        begin = f"{prompt} {command}"
        found = [lines for kind, lines in self.blocks if kind == "console" and any(l.startswith(begin) for l in lines)]
        assert len(found) > at, f"the page has no command '{begin}'"
        steps = []
        for line in found[at]:
            if line.startswith(prompt + " "):
                steps.append((line[len(prompt) + 1:], []))
            elif steps:
                steps[-1][1].append(line)
        return steps


def plain(lines, release):
    """Without what differs from run to run."""
    out = []
    for line in lines:
        line = line.replace(ON_PAGE, release)
        line = re.sub(r"\x1b\[[0-9;]*m", "", line)
        line = re.sub(r"\b[0-9a-f]{12,64}\b", "HASH", line)
        line = re.sub(r"\bGK[0-9a-f]+", "KEY", line)
        line = re.sub(r"(acpi-call|bbswitch|v4l2loopback)/[0-9.]+", r"\1/V", line)
        line = re.sub(r"\d+(\.\d+)? (s|kB|B|MB)\b", "N", line)
        line = re.sub(r"\d+m[\d.]+s", "N", line)
        line = re.sub(r"\d+ more waiting", "N more waiting", line)
        line = re.sub(r" \(N more waiting, about N left\)", "", line)
        line = re.sub(r" in N\b", "", line)
        line = re.sub(r"\s+", " ", line).strip()
        # Of time(1) the page has the first line.
        if line and not re.fullmatch(r"[-.+*]+|(user|sys) N", line):
            out.append(line)
    return sorted(out)


# --- the hosts --------------------------------------------------------------------------------------------------------

class Debian:
    """What hosts are made of."""

    def __init__(self, name, program):
        self.name, self.program = name, program
        self.fixtures = {}
        for line in (FIXTURES / "env").read_text().splitlines():
            key, _, value = line.partition("=")
            self.fixtures[key] = value
        made_by = FIXTURES / "debootstrap/stamp" if name == "bookworm" else CORPUS / f"kernels/{name}"
        if not made_by.exists():
            by = "make test-apt" if name == "bookworm" else f"CORPUS_RELEASE={name} make corpus"
            sys.exit(f"{made_by} is missing; `{by}` makes it")
        if name == "bookworm":
            self.lower = FIXTURES / "debootstrap/bookworm"
            self.release = self.fixtures["K61_OLD"]
            self.kernels = FIXTURES / "root/lib/modules"
        else:
            self.lower = f"{CORPUS}/kernels/{name}:{CORPUS}/system/{name}"
            self.kernels = CORPUS / f"kernels/{name}/usr/lib/modules"
            releases = sorted(path.name for path in self.kernels.iterdir())
            self.release = next(release for release in releases if release.startswith("6.12"))


class Host:
    def __init__(self, work, name, debian, builds=False):
        self.name, self.debian, self.dir = name, debian, Path("/root")
        self.root = work / name / "root"
        upper = work / name / "upper"
        for made in (upper, work / name / "work", self.root):
            made.mkdir(parents=True)
        k = debian.release
        others = [path.name for path in debian.kernels.iterdir() if path.name != k]
        if debian.name != "bookworm":
            self.hide(upper / "usr/lib/modules", others)
        if debian.name != "bookworm" and not builds:
            headers = [path.name for path in (CORPUS / f"kernels/{debian.name}/usr/src").iterdir()]
            self.hide(upper / "usr/src", headers)
        mount("overlay", self.root, lowerdir=debian.lower, upperdir=upper, workdir=work / name / "work")
        if debian.name == "bookworm":
            self.over("usr/lib/modules", debian.kernels, others)
            for file in (f"vmlinuz-{k}", f"config-{k}"):
                shutil.copy(FIXTURES / "root/boot" / file, self.root / "boot")
            if builds:
                self.over("usr/src", FIXTURES / "root/usr/src", [])
                for kbuild in (FIXTURES / "root/usr/lib").iterdir():
                    (self.root / "usr/lib" / kbuild.name).mkdir()
                    sh("mount", "--bind", kbuild, self.root / "usr/lib" / kbuild.name)
        if not builds:
            for link in ("build", "source"):
                (self.root / "usr/lib/modules" / k / link).unlink(missing_ok=True)
            for tool in [*(self.root / "usr/bin").glob("*gcc*"), self.root / "usr/bin/make"]:
                tool.unlink()
        mount("proc", self.root / "proc")
        mount("tmpfs", self.root / "tmp")
        sh("mount", "--rbind", "/dev", self.root / "dev")
        shutil.copy(debian.program, self.root / "usr/bin/kcache")
        (self.root / "etc/kcache").mkdir()
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost cache.example.org\n")
        (self.root / "etc/hostname").write_text(f"{name}\n")

    @staticmethod
    def hide(directory, names):
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.mknod(directory / name, 0o020000, 0)  # a whiteout

    def over(self, at, lower, hidden):
        """An overlay of a directory of the fixtures."""
        base = self.root.parent / at.replace("/", "-")
        (base / "upper").mkdir(parents=True)
        (base / "work").mkdir()
        self.hide(base / "upper", hidden)
        mount("overlay", self.root / at, lowerdir=lower, upperdir=base / "upper", workdir=base / "work")

    def file(self, path, text, mode=0o644):
        path = self.root / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def take(self, other, path, to):
        """A file of another host's, as somebody copies it."""
        self.file(to, (other.root / path.lstrip("/")).read_text())

    def run(self, command):
        """As at a shell of root's, whose directory stays. Returns exit code and lines."""
        script = f"hostname {self.name}; cd {self.dir}; {command}\ncode=$?; pwd >/tmp/.directory; exit $code"
        words = ["unshare", "--uts", "chroot", self.root, "bash", "-c", script]
        environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
        done = subprocess.run([str(word) for word in words], env=environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, text=True)
        directory = self.root / "tmp/.directory"
        if directory.exists():
            self.dir = directory.read_text().strip()
        return done.returncode, done.stdout.splitlines()


class Server(Host):
    """This machine's programs, in a system that is thrown away."""

    def __init__(self, work, name):
        self.name, self.dir, self.root = name, "/root", work / name / "root"
        for made in (work / name / "upper", work / name / "work", self.root):
            made.mkdir(parents=True)
        mount("overlay", self.root, lowerdir="/", upperdir=work / name / "upper", workdir=work / name / "work")
        mount("proc", self.root / "proc")
        for empty in ("tmp", "run", "etc/nginx/sites-enabled", "var/log"):
            mount("tmpfs", self.root / empty)
        (self.root / "var/log/nginx").mkdir()
        self.log = open(work / f"{name}.log", "wb")
        sh("mount", "--rbind", "/dev", self.root / "dev")
        mount("tmpfs", self.root / "srv", mode="755")
        mount("tmpfs", self.root / "var/lib", mode="755")
        mount("tmpfs", self.root / "var/lib/nginx", mode="755")

    def start(self, *words):
        return subprocess.Popen(["chroot", str(self.root), *[str(word) for word in words]],
                                stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env={"PATH": PATH, "HOME": "/root", "RUST_LOG": "error"})


# --- following --------------------------------------------------------------------------------------------------------

class Follower:
    def __init__(self, page, debian):
        self.page, self.debian, self.failures, self.count = page, debian, 0, 0
        self.replaced = []

    def __call__(self, host, command, prompt=None, at=0, codes=(0,)):
        """Runs the commands of a block on a host. `codes`: how they may end."""
        for words, expected in self.page.steps(prompt or f"{host.name}#", command, at):
            words = words.replace(ON_PAGE, self.debian.release)
            for old, new in self.replaced:
                words = words.replace(old, new)
            print(f"{host.name}# {words}", flush=True)
            self.count += 1
            code, lines = host.run(words)
            any_lines = any(line.strip() == "..." for line in expected)
            wanted = plain([line for line in expected if line.strip() != "..."], self.debian.release)
            found = plain(lines, self.debian.release)
            missing = [line for line in wanted if line not in found]
            more = [] if any_lines else [line for line in found if line not in wanted]
            if code not in codes or missing or more:
                self.failures += 1
                print(f"  DIFFERS: exit {code}")
                print("".join(f"  - {line}\n" for line in missing) + "".join(f"  + {line}\n" for line in more))
                print("".join(f"  | {line}\n" for line in lines[-12:]))

    def expect(self, what, holds, lines=()):
        self.count += 1
        if not holds:
            self.failures += 1
            print(f"  DIFFERS: {what}\n" + "".join(f"  | {line}\n" for line in lines))


def listening(port):
    import socket
    for _ in range(300):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


def sources(debian, host):
    """The packages of the page, in /usr/src."""
    if debian.name == "bookworm":
        found = [path for path in (FIXTURES / "packages/usr/src").iterdir() if path.name.startswith(tuple(SOURCES))]
        for path in found:
            shutil.copytree(path, host.root / "usr/src" / path.name, symlinks=True)
        return
    for name in SOURCES:
        newest = sorted((CORPUS / "debs").glob(f"{name}-dkms_*.deb"))[-1]
        with tempfile.TemporaryDirectory() as unpacked:
            sh("dpkg-deb", "-x", newest, unpacked)
            for path in Path(unpacked, "usr/src").iterdir():
                shutil.copytree(path, host.root / "usr/src" / path.name, symlinks=True)


def web_server(follow, page, server, builder, client):
    follow(server, "mkdir -p /etc/nginx/kcache")
    server.file("/etc/nginx/sites-enabled/kcache", page.file("/etc/nginx/sites-enabled/kcache"))
    server.start("nginx", "-g", "daemon off;")
    listening(8443)
    builder.file("/etc/kcache/config.toml", page.file("builder1:/etc/kcache/config.toml"))
    for host in (builder, client):
        host.take(server, "/etc/nginx/kcache/ca.pem", "/etc/kcache/cache-ca.pem")
    follow(builder, "kcache keys generate")
    _, listed = builder.run("kcache keys list")
    key = re.search(r"\b[0-9a-f]{64}\b", "\n".join(listed))[0]
    follow.replaced = [("41fc29d8846e7172", key[:16])]
    follow(builder, "kcache push")


def clients(follow, page, builder, make):
    by_use = make("client1")
    by_use.take(builder, "/etc/kcache/cache-ca.pem", "/etc/kcache/cache-ca.pem")
    follow(by_use, "kcache use https")
    by_hand = make("client1b")
    by_hand.name = "client1"
    by_hand.take(builder, "/etc/kcache/cache-ca.pem", "/etc/kcache/cache-ca.pem")
    by_hand.file("/etc/kcache/config.toml", page.file("client1:/etc/kcache/config.toml"))
    by_hand.take(builder, "/etc/kcache/trusted-keys/builder1.pem", "/root/builder1.pem")
    # The page has the check before the installation, which is not ready, and the one after it.
    follow(by_hand, "kcache keys trust builder1.pem", codes=(0, 3))
    by_hand.run("rm /etc/kcache/trusted-keys/*; kcache remove --all; rm -r /var/cache/kcache")
    follow(by_hand, "kcache install", at=1, codes=(5,))
    by_hand.run("kcache keys trust builder1.pem && kcache install")
    follow(by_hand, "kcache install bbswitch -k newest")
    by_hand.run("kcache remove bbswitch")
    newer_version(builder)
    follow(by_hand, "kcache install", at=3)
    return by_use


def newer_version(builder):
    """The builder gets another version of a package."""
    source = next((builder.root / "usr/src").glob("v4l2loopback-*"))
    conf = (source / "dkms.conf").read_text()
    version = re.search(r'PACKAGE_VERSION="?([^"\n]+)', conf)[1]
    newer = re.sub(r"\d+$", lambda last: str(int(last[0]) + 1), version)
    (source / "dkms.conf").write_text(conf.replace(version, newer))
    source.rename(source.with_name(f"v4l2loopback-{newer}"))
    builder.run("kcache build v4l2loopback")


def site(follow, page, builder, client):
    builder.file("/etc/kcache/site.toml", page.file("builder1:/etc/kcache/site.toml"))
    code, lines = builder.run("kcache push")
    follow.expect("kcache push publishes the site file", code == 0 and "published the site file" in "\n".join(lines), lines)
    key = follow.replaced[0][1]
    for command in (f"kcache use https://cache.example.org:8443/ --key {key} --site", "kcache install", "kcache check"):
        code, lines = client.run(command)
        print(f"client1# {command}")
        follow.expect(command, code == 0, lines)
    text = "\n".join(lines)
    follow.expect("the packages of the site file are ready", "acpi-call" in text and "v4l2loopback" in text
                  and "bbswitch" not in text, lines)


def registry(follow, page, server, builder, make):
    server.file("/etc/docker-registry/config.yml", page.file("/etc/docker-registry/config.yml"))
    server.start("docker-registry", "serve", "/etc/docker-registry/config.yml")
    listening(5443)
    # skopeo is this machine's.
    for words, expected in page.steps("builder1#", "kcache push --to oci://"):
        host = server if words.startswith("skopeo") else builder
        code, lines = host.run(words.replace("skopeo ", "skopeo --insecure-policy ") if host is server else words)
        print(f"builder1# {words}")
        found = plain(lines, follow.debian.release)
        kept = [line for line in plain(expected, follow.debian.release) if "pointer-" not in line]
        follow.expect(words, code == 0 and all(line.strip(",") in " ".join(found) for line in kept), lines)
    image = make("image")
    image.file("/etc/kcache/config.toml", 'packages = ["acpi-call"]\n[[cache]]\nurl = "oci://127.0.0.1:5443/kernel-modules"\n')
    image.take(builder, "/etc/kcache/trusted-keys/builder1.pem", "/etc/kcache/trusted-keys/builder1.pem")
    (builder.root / "srv/image").mkdir()
    sh("mount", "--rbind", image.root, builder.root / "srv/image")
    follow(builder, "kcache install --root /srv/image", prompt="#")


def failures(follow, page, builder, make):
    """A package that fails, a cache that is silent, a host that is offline."""
    broken = builder.root / "usr/src/broken-1.0"
    broken.mkdir()
    (broken / "dkms.conf").write_text('PACKAGE_NAME=broken\nPACKAGE_VERSION=1.0\nBUILT_MODULE_NAME[0]=broken\n'
                                      'DEST_MODULE_LOCATION[0]=/extra\nAUTOINSTALL=yes\n')
    (broken / "Makefile").write_text("obj-m := broken.o\n")
    (broken / "broken.c").write_text("int x(void) { return y; }\n")
    builder.run("kcache build broken; kcache push --to oci://127.0.0.1:5443/kernel-modules broken")
    cache = '[[cache]]\nurl = "oci://127.0.0.1:5443/kernel-modules"\n'
    two = make("client2")
    two.take(builder, "/etc/kcache/trusted-keys/builder1.pem", "/etc/kcache/trusted-keys/builder1.pem")
    two.file("/etc/kcache/config.toml", cache)
    follow(two, "kcache pull broken", codes=(4,))
    three = make("client3")
    three.take(builder, "/etc/kcache/trusted-keys/builder1.pem", "/etc/kcache/trusted-keys/builder1.pem")
    import socket
    silent = socket.create_server(("127.0.0.1", 8444))
    three.file("/etc/kcache/config.toml", f'[[cache]]\nurl = "http://127.0.0.1:8444/"\n{cache}')
    follow(three, "time kcache install acpi-call")
    silent.close()
    follow(three, "kcache --offline install bbswitch", codes=(5,))
    shutil.rmtree(broken)


def air_gapped(follow, page, builder, client):
    builder.run("mkdir -p /mnt")
    follow(builder, "kcache export /mnt/modules.tar")
    client.take(builder, "/etc/kcache/trusted-keys/builder1.pem", "/root/builder1.pem")
    for path in ("mnt/modules.tar", "root/cut.tar"):
        shutil.copy(builder.root / "mnt/modules.tar", client.root / path)
    follow(client, "kcache keys trust builder1.pem", prompt="client4#")
    # Cut in the middle of an object.
    size = (client.root / "root/cut.tar").stat().st_size
    os.truncate(client.root / "root/cut.tar", size // 3)
    client.run("kcache remove --all; rm -r /var/cache/kcache")
    code, lines = client.run("kcache import cut.tar")
    text = "\n".join(lines)
    follow.expect("kcache import cut.tar", code == 6 and "is corrupt: expected" in text
                  and "hint: the intact part is in the store" in text, lines)
    code, lines = client.run("kcache import /mnt/modules.tar")
    follow.expect("the import continues", code == 0 and "already present" in "\n".join(lines), lines)


def garage(follow, page, server, builder, client):
    program = FIXTURES / "garage/bin"
    if not (program / "garage").exists():
        print("skipped: Garage, which tests/fixtures.sh --services compiles")
        return
    (server.root / "opt/garage/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program / "garage", server.root / "opt/garage/bin")
    shutil.copy(program / "garage", server.root / "usr/bin")
    nodes = []
    text = page.file('metadata_dir = "/var/lib/garage/1/meta"').replace("64 hexadecimal digits", "5e" * 32)
    for node in (1, 2, 3):
        own = text.replace("/garage/1/", f"/garage/{node}/").replace(":391", f":39{node}")
        server.file(f"/etc/garage/{node}.toml", own, 0o600)
        nodes.append(server.start("garage", "-c", f"/etc/garage/{node}.toml", "server"))
        listening(3900 + 10 * node)
    environment, keys = [], {}
    for command in ("export RUST_LOG=garage=error", "garage bucket create"):
        for words, expected in page.steps("#", command):
            if words.startswith("export"):
                environment.append(words)
            if words.startswith("garage bucket allow") and "builder" in words:
                time.sleep(0.5)
            code, lines = server.run(" && ".join([*environment, words]))
            print(f"# {words}")
            wanted = [line for line in plain(expected, "") if line != "..."]
            found = plain(lines, "")
            missing = [line for line in wanted if line not in found and "KEY" not in line and "HASH" not in line]
            follow.expect(words, code == 0 and not missing, [f"- {line}" for line in missing] + lines)
            if words.startswith("garage key create"):
                keys[words.split()[-1]] = "\n".join(lines)
    for host, name in ((builder, "builder"), (client, "fleet")):
        value = lambda label: re.search(rf"{label}:\s+(\S+)", keys[name])[1]
        credentials = page.file("# /etc/kcache/s3.toml, mode 0600")
        credentials = re.sub(r'(access-key-id = )".*"', rf'\1"{value("Key ID")}"', credentials)
        credentials = re.sub(r'(secret-access-key = )".*"', rf'\1"{value("Secret key")}"', credentials)
        host.file("/etc/kcache/s3.toml", credentials, 0o600)
    table = [lines for kind, lines in page.blocks if kind == "toml" and 'url = "s3://kernel-modules"' in lines
             and "write = true" in lines][0]
    builder.file("/etc/kcache/config.toml", "\n".join(table) + "\n")
    (builder.root / "etc/kcache/site.toml").unlink()  # a section of its own
    follow(builder, "kcache push acpi-call bbswitch")
    # A node fails; the client has two endpoints.
    nodes[0].kill()
    nodes[0].wait()
    two = [lines for kind, lines in page.blocks if kind == "toml" and "priority = 10" in lines][0]
    client.file("/etc/kcache/config.toml", 'packages = ["acpi-call", "bbswitch"]\n' + "\n".join(two) + "\n")
    client.take(builder, "/etc/kcache/trusted-keys/builder1.pem", "/etc/kcache/trusted-keys/builder1.pem")
    follow(client, "kcache install")


def main():
    program, name = sys.argv[1], (sys.argv[2:] or ["bookworm"])[0]
    if "--inside" not in sys.argv:
        inside = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private"]
        sys.exit(subprocess.run([*inside, sys.executable, __file__, program, name, "--inside"]).returncode)
    sh("ip", "link", "set", "lo", "up")
    work = Path("/tmp")
    mount("tmpfs", work)
    mount("proc", "/proc")
    page, debian = Page(), Debian(name, program)
    follow = Follower(page, debian)
    make = lambda host: Host(work, host, debian)
    server, builder = Server(work, "server"), Host(work, "builder1", debian, builds=True)
    sources(debian, builder)
    client = make("site-client")
    web_server(follow, page, server, builder, client)
    used = clients(follow, page, builder, make)
    site(follow, page, builder, used)
    registry(follow, page, server, builder, make)
    air_gapped(follow, page, builder, make("client4"))
    failures(follow, page, builder, make)
    two = make("client2b")
    two.name = "client2"
    garage(follow, page, server, builder, two)
    print(f"{follow.count} commands and files of docs/fleet.md on {name}, {debian.release}: {follow.failures} differ")
    sys.exit(1 if follow.failures else 0)


main()
