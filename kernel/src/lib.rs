//! Linux kernels and third-party modules: reading, building, checking, signing and installing them.
//!
//! Everything works on its arguments: a root directory, a release, a scratch directory, a program to run. The crate
//! knows no cache, prints nothing, and reads neither the environment nor the wall clock; the monotonic clock is read
//! for time limits and durations. One exception: [`sandbox::enter`], a process of its own, prints why it failed.
//!
//! ```
//! use std::fs;
//!
//! use kcache_kernel::compress::Compression;
//! use kcache_kernel::kconfig::Kconfig;
//! use kcache_kernel::kernels::{self, Headers};
//! use kcache_kernel::ko::ModInfo;
//! use kcache_kernel::rootfs::Root;
//!
//! // The kernels of a system, which may be an unpacked image.
//! # let image = tempfile::tempdir()?;
//! # let image = image.path();
//! fs::create_dir_all(image.join("lib/modules/6.1.0-56-amd64"))?;
//! let kernels = kernels::installed(&Root::new(image))?;
//! assert_eq!(kernels[0].release, "6.1.0-56-amd64");
//! assert!(matches!(kernels[0].headers, Headers::Missing { .. }));
//!
//! // Its configuration.
//! let config = Kconfig::new("CONFIG_MODVERSIONS=y\nCONFIG_MODULE_COMPRESS_XZ=y\n".to_owned());
//! assert!(config.yes("CONFIG_MODVERSIONS"));
//! assert_eq!(kernels::compression(&config), Compression::Xz);
//!
//! // The section `.modinfo` of a module.
//! let modinfo = ModInfo::parse(b"license=GPL\0depends=videodev\0vermagic=6.1.0-56-amd64 SMP mod_unload \0");
//! assert_eq!(modinfo.get("vermagic"), Some("6.1.0-56-amd64 SMP mod_unload "));
//! assert_eq!(modinfo.depends().collect::<Vec<_>>(), ["videodev"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
pub mod modules_dir;
pub mod native;
pub mod outside;
pub mod packages;
pub mod parallel;
pub mod program;
pub mod recipe;
pub mod release;
pub mod rootfs;
pub mod rust;
pub mod sandbox;
pub mod scripts;
pub mod signing;
pub mod symvers;
pub mod toolchain;
pub mod uki;
