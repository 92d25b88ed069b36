//! Modules for tests: minimal ELF objects that kmod, the kernel and [`super::parse`] accept.

/// One of the four layouts of ELF files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Little64,
    Big64,
    Little32,
    Big32,
}

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::Little64, Self::Big64, Self::Little32, Self::Big32];

    pub(crate) fn bits(self) -> u8 {
        if matches!(self, Self::Little64 | Self::Big64) { 64 } else { 32 }
    }

    pub(crate) fn big_endian(self) -> bool {
        matches!(self, Self::Big64 | Self::Big32)
    }
}

/// Contents of a module to generate.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    class: Class,
    elf_type: u16,
    /// Strings `key=value`; the section is omitted if there are none.
    pub(crate) modinfo: Vec<String>,
    /// Symbols with their CRCs.
    pub(crate) versions: Vec<(String, u32)>,
    /// Symbols with their CRCs.
    pub(crate) extended_versions: Vec<(String, u32)>,
    /// Symbols, and whether they are weak.
    pub(crate) undefined: Vec<(String, bool)>,
    /// Symbols with CRC and namespace.
    pub(crate) exports: Vec<(String, u32, String)>,
    /// The section is omitted if this is empty.
    pub(crate) build_id: Vec<u8>,
    /// Size in bytes of its `struct module`; the section is omitted if this is 0.
    pub(crate) struct_size: usize,
    /// Functions that it refers to, with their offsets.
    functions: Vec<(usize, &'static str)>,
    /// Length of the strings of the kernel's types that its own are an addition to; it has none if this is 0.
    types_of: u32,
}

impl Built {
    /// A module with all features, for Debian's 6.1.0-56-amd64.
    pub(crate) fn example() -> Self {
        Self {
            undefined: vec![("printk".into(), false), ("maybe".into(), true)],
            versions: vec![("printk".into(), 0x1234_5678)],
            exports: vec![("example_fn".into(), 0xaabb_ccdd, "NS".into())],
            ..Self::named("example")
        }
    }

    /// A module that needs and exports nothing.
    pub(crate) fn named(name: &str) -> Self {
        let vermagic = "vermagic=6.1.0-56-amd64 SMP preempt mod_unload modversions ";
        Self {
            class: Class::Little64,
            elf_type: 1,
            modinfo: vec![format!("name={name}"), vermagic.into(), "license=GPL".into()],
            versions: vec![],
            extended_versions: vec![],
            undefined: vec![],
            exports: vec![],
            build_id: vec![],
            struct_size: 0,
            functions: vec![],
            types_of: 0,
        }
    }

    pub(crate) fn struct_size(mut self, bytes: usize) -> Self {
        self.struct_size = bytes;
        self
    }

    pub(crate) fn functions(mut self, functions: &[(usize, &'static str)]) -> Self {
        self.functions = functions.to_vec();
        self
    }

    pub(crate) fn types_of(mut self, length: u32) -> Self {
        self.types_of = length;
        self
    }

    pub(crate) fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    pub(crate) fn elf_type(mut self, number: u16) -> Self {
        self.elf_type = number;
        self
    }

    pub(crate) fn vermagic(mut self, text: &str) -> Self {
        self.modinfo[1] = format!("vermagic={text}");
        self
    }

    pub(crate) fn without_modinfo(mut self) -> Self {
        self.modinfo.clear();
        self
    }

    /// Encodes the ELF file: header, sections' bytes, section headers.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let sections = self.sections();
        let mut names = vec![0];
        let name_offsets: Vec<usize> = sections.iter().map(|s| push_string(&mut names, s.name)).collect();
        let names_offset = push_string(&mut names, ".shstrtab");

        let mut body = vec![0; if self.class.bits() == 64 { 64 } else { 52 }];
        let mut headers = self.section_header(0, 0, (0, 0), 0, 0, 0);
        for (section, name) in sections.iter().zip(name_offsets) {
            let range = append(&mut body, &section.bytes);
            headers.extend(self.section_header(
                name,
                section.kind,
                range,
                section.link,
                section.info,
                section.entry,
            ));
        }
        let range = append(&mut body, &names);
        headers.extend(self.section_header(names_offset, 3, range, 0, 0, 0));
        let (headers_at, _) = append(&mut body, &headers);
        let header = self.file_header(headers_at, sections.len() as u16 + 2);
        body[..header.len()].copy_from_slice(&header);
        body
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections = vec![];
        let mut add = |name, kind, bytes: Vec<u8>| {
            sections.push(Section { name, kind, bytes, link: 0, info: 0, entry: 0 });
            sections.len() as u16
        };
        if !self.modinfo.is_empty() {
            add(".modinfo", 1, self.modinfo.iter().flat_map(|s| [s.as_bytes(), b"\0\0"].concat()).collect());
        }
        if !self.build_id.is_empty() {
            let sizes = [4, self.build_id.len() as u32, 3].map(|n| self.u32(n)).concat(); // NT_GNU_BUILD_ID
            add(".note.gnu.build-id", 7, [&sizes[..], b"GNU\0", &self.build_id].concat());
        }
        if self.struct_size > 0 {
            add(".gnu.linkonce.this_module", 1, vec![0; self.struct_size]);
        }
        if self.types_of > 0 {
            add(".BTF", 1, super::btf::tests::section(self.types_of, self.class.big_endian()));
        }
        add("__versions", 1, self.versions.iter().flat_map(|(name, crc)| self.version(name, *crc)).collect());
        add(
            "__version_ext_crcs",
            1,
            self.extended_versions.iter().flat_map(|(_, crc)| self.u32(*crc)).collect(),
        );
        let ext_names = self.extended_versions.iter().flat_map(|(name, _)| [name.as_bytes(), b"\0"].concat());
        add("__version_ext_names", 1, ext_names.collect());
        let ksymtab = add("__ksymtab", 1, vec![0; 8 * self.exports.len()]);
        let kcrctab =
            add("__kcrctab", 1, self.exports.iter().flat_map(|(_, crc, _)| self.u32(*crc)).collect());
        let mut kstrtab = vec![0];
        let namespaces: Vec<usize> =
            self.exports.iter().map(|(_, _, ns)| push_string(&mut kstrtab, ns)).collect();
        let kstrtab = add("__ksymtab_strings", 1, kstrtab);

        let mut strings = vec![0];
        let mut symbols = self.symbol(0, 0, 0, 0);
        for (i, (name, _, _)) in self.exports.iter().enumerate() {
            for (prefix, section, value) in [
                ("__ksymtab_", ksymtab, 8 * i),
                ("__crc_", kcrctab, 4 * i),
                ("__kstrtabns_", kstrtab, namespaces[i]),
            ] {
                let name = push_string(&mut strings, &format!("{prefix}{name}"));
                symbols.extend(self.symbol(name, 0, section, value));
            }
        }
        let locals = 1 + 3 * self.exports.len();
        let mut relocations = vec![];
        for (i, (at, name)) in self.functions.iter().enumerate() {
            let name = push_string(&mut strings, name);
            symbols.extend(self.symbol(name, 1, ksymtab, 0));
            relocations.extend(self.relocation(*at, locals + i));
        }
        for (name, weak) in &self.undefined {
            let name = push_string(&mut strings, name);
            symbols.extend(self.symbol(name, if *weak { 2 } else { 1 }, 0, 0));
        }
        let strtab = add(".strtab", 3, strings);
        let entry = if self.class.bits() == 64 { 24 } else { 16 };
        sections.push(Section {
            name: ".symtab",
            kind: 2,
            bytes: symbols,
            link: strtab,
            info: locals,
            entry,
        });
        if !relocations.is_empty() {
            let wide = self.class.bits() == 64;
            sections.push(Section {
                name: if wide { ".rela.gnu.linkonce.this_module" } else { ".rel.gnu.linkonce.this_module" },
                kind: if wide { 4 } else { 9 },
                bytes: relocations,
                link: strtab + 1,
                info: 0,
                entry: if wide { 24 } else { 8 },
            });
        }
        sections
    }

    fn file_header(&self, sections_at: usize, sections: u16) -> Vec<u8> {
        let wide = self.class.bits() == 64;
        let machine = if wide { 62 } else { 3 };
        let mut out =
            vec![0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1 + u8::from(self.class.big_endian()), 1];
        out.resize(16, 0);
        out.extend([self.u16(self.elf_type), self.u16(machine)].concat());
        out.extend(self.u32(1));
        out.extend([self.word(0), self.word(0), self.word(sections_at)].concat());
        out.extend(self.u32(0));
        let (header, section) = if wide { (64, 64) } else { (52, 40) };
        for half in [header, 0, 0, section, sections, sections - 1] {
            out.extend(self.u16(half));
        }
        out
    }

    fn section_header(
        &self,
        name: usize,
        kind: u32,
        (at, size): (usize, usize),
        link: u16,
        info: usize,
        entry: usize,
    ) -> Vec<u8> {
        [
            self.u32(name as u32),
            self.u32(kind),
            self.word(0),
            self.word(0),
            self.word(at),
            self.word(size),
            self.u32(link.into()),
            self.u32(info as u32),
            self.word(8),
            self.word(entry),
        ]
        .concat()
    }

    fn symbol(&self, name: usize, bind: u8, section: u16, value: usize) -> Vec<u8> {
        let (name, info, section) = (self.u32(name as u32), vec![bind << 4, 0], self.u16(section));
        if self.class.bits() == 64 {
            [name, info, section, self.word(value), self.word(0)].concat()
        } else {
            [name, self.word(value), self.word(0), info, section].concat()
        }
    }

    /// R_X86_64_64 or R_386_32.
    fn relocation(&self, at: usize, symbol: usize) -> Vec<u8> {
        if self.class.bits() == 64 {
            [self.word(at), self.word(symbol << 32 | 1), self.word(0)].concat()
        } else {
            [self.word(at), self.word(symbol << 8 | 1)].concat()
        }
    }

    fn version(&self, name: &str, crc: u32) -> Vec<u8> {
        let mut entry = self.word(crc as usize);
        entry.extend(name.as_bytes());
        entry.resize(64, 0);
        entry
    }

    fn word(&self, value: usize) -> Vec<u8> {
        if self.class.bits() == 32 {
            return self.u32(value as u32);
        }
        let bytes = (value as u64).to_le_bytes();
        self.ordered(bytes.to_vec())
    }

    fn u32(&self, value: u32) -> Vec<u8> {
        self.ordered(value.to_le_bytes().to_vec())
    }

    fn u16(&self, value: u16) -> Vec<u8> {
        self.ordered(value.to_le_bytes().to_vec())
    }

    fn ordered(&self, mut little: Vec<u8>) -> Vec<u8> {
        if self.class.big_endian() {
            little.reverse();
        }
        little
    }
}

struct Section {
    name: &'static str,
    kind: u32,
    bytes: Vec<u8>,
    link: u16,
    info: usize,
    entry: usize,
}

fn push_string(table: &mut Vec<u8>, text: &str) -> usize {
    let at = table.len();
    table.extend([text.as_bytes(), b"\0"].concat());
    at
}

/// Appends at the next multiple of eight; returns offset and size.
fn append(body: &mut Vec<u8>, bytes: &[u8]) -> (usize, usize) {
    body.resize(body.len().next_multiple_of(8), 0);
    let at = body.len();
    body.extend(bytes);
    (at, bytes.len())
}
