//! The binary from outside: real kernels' headers, real packages, wrong input, and the promises by their numbers.
//!
//! Each test makes a [`host::Host`]: a temporary root with chosen kernels and packages, and an empty store. kcache is
//! run on it with `--root`, `--store` and a bare environment, and is judged by what an administrator can see: exit code,
//! stdout, stderr, the files under the root, and what `modprobe` makes of them.
//!
//! The kernels come from `tests/fixtures.sh`, which `make test` runs first. Tests about what only root can do return at
//! once where a user runs them.

mod attacks;
mod author;
mod boot_test;
mod build;
mod builder;
mod caches;
mod chrooted;
mod commands;
mod corpus;
mod debuginfo;
mod depends;
mod dkms;
mod dkms_today;
mod everywhere;
mod explain;
mod export;
mod field;
mod fleet;
mod gc;
mod history;
mod hooks;
mod host;
mod hostile;
mod hostile_image;
mod images;
mod indexes;
mod initramfs;
mod install;
mod keys;
mod launcher;
mod misses;
mod mounts;
mod observed;
mod packages;
mod plain_trees;
mod power;
mod progress;
mod pty;
mod real_input;
mod recipes;
mod report;
mod retry;
mod schedule;
mod scripts;
mod servers;
mod sharing;
mod signing;
mod site;
mod snapshots;
mod terminal;
mod together;
mod tools;
mod traps;
mod use_cache;
mod verdict;
mod verify;
mod wrong_input;
mod wrong_modules;
mod zoo;
