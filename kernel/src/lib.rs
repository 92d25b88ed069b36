//! Linux kernels and third-party modules: reading, building, checking, signing and installing them.
//!
//! Everything works on its arguments: a root directory, a release, a scratch directory, a program to run. The crate
//! knows no cache, prints nothing, and reads neither the environment nor the wall clock; the monotonic clock is read
//! for time limits and durations. One exception: [`sandbox::enter`], a process of its own, prints why it failed.

pub mod boot_test;
pub mod bootloader;
pub mod bounded_read;
pub mod build;
pub mod compress;
pub mod csource;
pub mod dkms;
pub mod enforcement;
pub mod index;
pub mod initramfs;
pub mod install;
pub mod kconfig;
pub mod kernels;
pub mod ko;
pub mod lint;
pub mod makefile;
pub mod module_name;
pub mod modules;
pub mod packages;
pub mod parallel;
pub mod program;
pub mod recipe;
pub mod release;
pub mod rootfs;
pub mod sandbox;
pub mod scripts;
pub mod signing;
pub mod symvers;
pub mod toolchain;
