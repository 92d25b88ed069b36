//! Reasons to run depmod.

/// Why indexes cannot be updated from the existing ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DepmodReason {
    /// The caller requires depmod.
    #[error("requested by --depmod=always")]
    Asked,
    /// depmod is missing, or of an unknown version.
    #[error("unknown depmod {found:?}")]
    Version {
        /// Its output for `--version`.
        found: String,
    },
    /// depmod is newer than those that kcache was compared with, so it ran, to be compared with.
    #[error("{}", compared(found, other.as_deref()))]
    Compared {
        /// Its output for `--version`.
        found: String,
        /// The first index that differs from what kcache would have written.
        other: Option<String>,
    },
    /// depmod is newer than those that kcache was compared with, and differs, as was found before.
    #[error("{found} is newer than kcache, whose indexes differ")]
    Differs {
        /// Its output for `--version`.
        found: String,
    },
    /// An index, or a file that determines one, is missing or not a regular file.
    #[error("{name} does not exist")]
    Missing {
        /// Name of the file.
        name: String,
    },
    /// There is an index that this depmod does not write.
    #[error("{name} was written by another depmod")]
    Foreign {
        /// Name of the file.
        name: String,
    },
    /// An index is not as depmod writes it.
    #[error("line {line} of {name} is not as depmod writes it")]
    Odd {
        /// Name of the file.
        name: &'static str,
        /// Line number, from 1.
        line: usize,
    },
    /// File times do not show what is older than the indexes.
    #[error("{what}")]
    Time {
        /// What is wrong with the times.
        what: &'static str,
    },
    /// It is not certain how depmod treats something in the tree or its configuration.
    #[error("{path}: {what}")]
    Unclear {
        /// Path of the file or module.
        path: String,
        /// What is unusual about it.
        what: String,
    },
    /// A file of the kernel package is newer than the indexes.
    #[error("{name} is newer than the indexes")]
    Newer {
        /// Name of the file.
        name: String,
    },
    /// Modules depend on each other in a cycle.
    #[error("circular module dependencies")]
    Circle,
    /// So many modules would have to be read that depmod is not slower.
    #[error("{count} modules to read, too many")]
    TooMany {
        /// Number of modules to read.
        count: usize,
    },
    /// The indexes do not contain who else needs or exports a symbol, and there is no `Module.symvers`.
    #[error(
        "{symbol} is newly exported or no longer exported, and there is no Module.symvers to tell the effect"
    )]
    NoSymvers {
        /// The symbol's name.
        symbol: String,
    },
    /// In-tree modules may need a symbol that did not exist before.
    #[error("other modules may need {symbol}, which was not exported before")]
    Needed {
        /// The symbol's name.
        symbol: String,
    },
    /// A file could not be read.
    #[error("{what}")]
    Io {
        /// Text of the error, with the path.
        what: String,
    },
}

fn compared(found: &str, other: Option<&str>) -> String {
    match other {
        None => {
            format!("{found} is newer than kcache, which writes the same indexes and will do so from now on")
        }
        Some(name) => {
            format!("{found} is newer than kcache, whose {name} differs: depmod will go on writing them")
        }
    }
}

impl From<std::io::Error> for DepmodReason {
    fn from(error: std::io::Error) -> Self {
        Self::Io { what: error.to_string() }
    }
}
