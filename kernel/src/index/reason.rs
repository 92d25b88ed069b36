//! Why a depmod has to run.

/// Why indexes cannot be made from those that are there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is asked for.
    #[error("requested by --depmod=always")]
    Asked,
    /// Another depmod than those that are known, or none.
    #[error("unknown depmod {found:?}")]
    Version {
        /// What it says of itself.
        found: String,
    },
    /// An index, or a file that goes into one, is not there or no ordinary file.
    #[error("{name} does not exist")]
    Missing {
        /// The file's name.
        name: String,
    },
    /// An index that this depmod does not write.
    #[error("{name} was written by another depmod")]
    Foreign {
        /// The file's name.
        name: String,
    },
    /// An index is not as depmod writes it.
    #[error("line {line} of {name} is not as depmod writes it")]
    Odd {
        /// The file's name.
        name: &'static str,
        /// Counted from one.
        line: usize,
    },
    /// Times do not tell what was there before the indexes.
    #[error("{what}")]
    Time {
        /// What is wrong with them.
        what: &'static str,
    },
    /// Something in the tree, or in the configuration, of which it is not certain what depmod makes of it.
    #[error("{path}: {what}")]
    Unclear {
        /// What it is.
        path: String,
        /// What is unusual about it.
        what: String,
    },
    /// A file of the kernel's own has changed since the indexes were made.
    #[error("{name} is newer than the indexes")]
    Newer {
        /// The file's name.
        name: String,
    },
    /// Modules depend on each other in a circle.
    #[error("circular module dependencies")]
    Circle,
    /// So many modules would have to be read that depmod may as well read all.
    #[error("{count} modules to read, too many")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Who needs or exports a symbol is in none of the indexes, and there is no `Module.symvers` to tell.
    #[error(
        "{symbol} is newly exported or no longer exported, and there is no Module.symvers to tell the effect"
    )]
    NoSymvers {
        /// The symbol.
        symbol: String,
    },
    /// Modules of the kernel may need a symbol that was not there before.
    #[error("other modules may need {symbol}, which was not exported before")]
    Needed {
        /// The symbol.
        symbol: String,
    },
    /// A file could not be read.
    #[error("{what}")]
    Io {
        /// The error's text, which names the file.
        what: String,
    },
}

impl From<std::io::Error> for Reason {
    fn from(error: std::io::Error) -> Self {
        Self::Io { what: error.to_string() }
    }
}
