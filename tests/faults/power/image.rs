//! A file system as a value: inodes, and the changes that it goes through. What
//! [`super::fuse`] serves and what a power cut leaves are both images.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// The number of an inode.
pub type Number = u64;
/// The number of the top directory.
pub const TOP: Number = 1;

#[derive(Clone, Debug)]
pub struct Inode {
    pub content: Content,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum Content {
    File(Vec<u8>),
    Link(PathBuf),
    Directory(BTreeMap<String, Number>),
}

/// A name in a directory.
pub type Entry = (Number, String);

/// One change; each is atomic while the machine has power.
#[derive(Clone, Debug)]
pub enum Change {
    Make(Entry, Number, Inode),
    Link(Entry, Number),
    Unlink(Entry),
    Rename(Entry, Entry),
    Write(Number, usize, Vec<u8>),
    Truncate(Number, usize),
    Mode(Number, u32),
    Owner(Number, u32, u32),
    /// None removes the attribute.
    Attribute(Number, String, Option<Vec<u8>>),
}

#[derive(Clone, Debug, Default)]
pub struct Image {
    pub inodes: BTreeMap<Number, Inode>,
}

impl Image {
    /// What is in a directory of the machine.
    pub fn load(directory: &Path) -> Image {
        let mut image = Image::default();
        let mut known = HashMap::new();
        image.load_inode(directory, &mut known);
        image
    }

    fn load_inode(&mut self, path: &Path, known: &mut HashMap<u64, Number>) -> Number {
        let found = fs::symlink_metadata(path).unwrap();
        if let Some(number) = known.get(&found.ino()) {
            return *number;
        }
        let number = known.len() as u64 + TOP;
        known.insert(found.ino(), number);
        let content = if found.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, self.load_inode(&entry.path(), known))
            });
            Content::Directory(entries.collect())
        } else if found.is_symlink() {
            Content::Link(fs::read_link(path).unwrap())
        } else {
            Content::File(fs::read(path).unwrap())
        };
        self.inodes.insert(
            number,
            Inode {
                content,
                mode: found.mode() & 0o7777,
                uid: found.uid(),
                gid: found.gid(),
                xattrs: BTreeMap::new(),
            },
        );
        number
    }

    /// Makes it a directory of the machine.
    pub fn save(&self, directory: &Path) {
        self.save_inode(TOP, directory, &mut HashMap::new());
    }

    fn save_inode(&self, number: Number, path: &Path, known: &mut HashMap<Number, PathBuf>) {
        if let Some(other) = known.get(&number) {
            return fs::hard_link(other, path).unwrap();
        }
        let inode = &self.inodes[&number];
        match &inode.content {
            Content::File(content) => {
                fs::write(path, content).unwrap();
                known.insert(number, path.to_owned());
            }
            Content::Link(target) => symlink(target, path).unwrap(),
            Content::Directory(entries) => {
                fs::create_dir_all(path).unwrap();
                for (name, below) in entries {
                    self.save_inode(*below, &path.join(name), known);
                }
            }
        }
        lchown(path, Some(inode.uid), Some(inode.gid)).unwrap();
        if !matches!(inode.content, Content::Link(_)) {
            fs::set_permissions(path, fs::Permissions::from_mode(inode.mode)).unwrap();
        }
    }

    pub fn entries(&self, directory: Number) -> Option<&BTreeMap<String, Number>> {
        match &self.inodes.get(&directory)?.content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, directory: Number) -> Option<&mut BTreeMap<String, Number>> {
        match &mut self.inodes.get_mut(&directory)?.content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn find(&self, directory: Number, name: &str) -> Option<Number> {
        self.entries(directory)?.get(name).copied()
    }

    /// How many names an inode has.
    pub fn names(&self, number: Number) -> usize {
        let directories = self.inodes.keys().filter_map(|inode| self.entries(*inode));
        directories
            .flat_map(BTreeMap::values)
            .filter(|found| **found == number)
            .count()
    }

    /// A path to an inode, if it has a name.
    pub fn path_of(&self, number: Number) -> Option<String> {
        if number == TOP {
            return Some(String::new());
        }
        self.inodes.keys().find_map(|directory| {
            let (name, _) = self
                .entries(*directory)?
                .iter()
                .find(|(_, found)| **found == number)?;
            Some(format!("{}/{name}", self.path_of(*directory)?))
        })
    }

    /// Changes what can be changed: after a cut, what a change needs may be lost.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Make(entry, number, inode) => {
                self.inodes.entry(*number).or_insert_with(|| inode.clone());
                self.link(entry, *number);
            }
            Change::Link(entry, number) => self.link(entry, *number),
            Change::Unlink((directory, name)) => {
                if let Some(entries) = self.entries_mut(*directory) {
                    entries.remove(name);
                }
            }
            Change::Rename((directory, name), to) => {
                let entries = self.entries_mut(*directory);
                if let Some(number) = entries.and_then(|entries| entries.remove(name)) {
                    self.link(to, number);
                }
            }
            Change::Write(number, offset, data) => {
                if let Some(content) = self.file(*number) {
                    let end = offset + data.len();
                    if content.len() < end {
                        content.resize(end, 0);
                    }
                    content[*offset..end].copy_from_slice(data);
                }
            }
            Change::Truncate(number, size) => {
                if let Some(content) = self.file(*number) {
                    content.resize(*size, 0);
                }
            }
            Change::Mode(number, mode) => {
                if let Some(inode) = self.inodes.get_mut(number) {
                    inode.mode = *mode;
                }
            }
            Change::Owner(number, uid, gid) => {
                if let Some(inode) = self.inodes.get_mut(number) {
                    (inode.uid, inode.gid) = (*uid, *gid);
                }
            }
            Change::Attribute(number, name, value) => {
                if let Some(inode) = self.inodes.get_mut(number) {
                    match value {
                        Some(value) => inode.xattrs.insert(name.clone(), value.clone()),
                        None => inode.xattrs.remove(name),
                    };
                }
            }
        }
    }

    fn link(&mut self, (directory, name): &Entry, number: Number) {
        if let Some(entries) = self.entries_mut(*directory) {
            entries.insert(name.clone(), number);
        }
    }

    fn file(&mut self, number: Number) -> Option<&mut Vec<u8>> {
        match &mut self.inodes.get_mut(&number)?.content {
            Content::File(content) => Some(content),
            _ => None,
        }
    }
}
