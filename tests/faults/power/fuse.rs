//! A file system in memory that writes down what happens to it.
//!
//! The kernel does not tell such a file system of `syncfs` (only virtiofs and, of
//! late, those on a block device hear of it), so that is written down when the call
//! is made, see [`super::record`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::cut::{Event, Synced};
use super::image::{Change, Content, Entry, Image, Inode, Number};

/// How long the kernel may remember what it was told.
const NOT_AT_ALL: Duration = Duration::ZERO;

#[derive(Default)]
pub struct Recorded {
    pub image: Image,
    pub events: Vec<Event>,
    next: Number,
    /// What a directory held when it was opened.
    listings: HashMap<u64, Vec<(Number, FileType, String)>>,
    opened: u64,
}

impl Recorded {
    fn change(&mut self, change: Change) {
        self.image.apply(&change);
        self.events.push(Event::Change(change));
    }

    pub fn sync(&mut self, synced: Synced, path: String) {
        self.events.push(Event::Sync(synced, path));
    }

    fn make(&mut self, entry: Entry, mode: u32, content: Content) -> Number {
        self.next += 1;
        let inode = Inode {
            content,
            mode,
            uid: 0,
            gid: 0,
            xattrs: Default::default(),
        };
        self.change(Change::Make(entry, self.next, inode));
        self.next
    }

    fn attributes(&self, number: Number) -> Option<FileAttr> {
        let inode = self.image.inodes.get(&number)?;
        let size = match &inode.content {
            Content::File(content) => content.len(),
            Content::Link(target) => target.as_os_str().len(),
            Content::Directory(_) => 0,
        };
        Some(FileAttr {
            ino: INodeNo(number),
            size: size as u64,
            blocks: size.div_ceil(512) as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: kind(inode),
            perm: inode.mode as u16,
            nlink: match inode.content {
                Content::Directory(_) => 2,
                _ => self.image.names(number) as u32,
            },
            uid: inode.uid,
            gid: inode.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn kind(inode: &Inode) -> FileType {
    match inode.content {
        Content::File(_) => FileType::RegularFile,
        Content::Link(_) => FileType::Symlink,
        Content::Directory(_) => FileType::Directory,
    }
}

fn text(name: &OsStr) -> String {
    name.to_str().unwrap().to_owned()
}

#[derive(Clone)]
pub struct Recorder(pub Arc<Mutex<Recorded>>);

impl Recorder {
    pub fn new(image: Image) -> Self {
        let next = image.inodes.keys().max().copied().unwrap_or_default();
        Recorder(Arc::new(Mutex::new(Recorded {
            image,
            next,
            ..Recorded::default()
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap()
    }

    fn entry(&self, number: Number, reply: ReplyEntry) {
        match self.lock().attributes(number) {
            Some(attributes) => reply.entry(&NOT_AT_ALL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn attr(&self, number: Number, reply: ReplyAttr) {
        match self.lock().attributes(number) {
            Some(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut recorded = self.lock();
        let Some(number) = recorded.image.find(parent.0, &text(name)) else {
            return reply.error(Errno::ENOENT);
        };
        let entries = recorded.image.entries(number);
        if entries.is_some_and(|entries| !entries.is_empty()) {
            return reply.error(Errno::ENOTEMPTY);
        }
        recorded.change(Change::Unlink((parent.0, text(name))));
        reply.ok();
    }

    fn synced(&self, synced: Synced, number: Number, reply: ReplyEmpty) {
        let mut recorded = self.lock();
        let path = recorded.image.path_of(number).unwrap_or_default();
        recorded.sync(synced, path);
        reply.ok();
    }
}

impl Filesystem for Recorder {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.lock().image.find(parent.0, &text(name));
        match found {
            Some(number) => self.entry(number, reply),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(ino.0, reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        {
            let mut recorded = self.lock();
            let owner = recorded
                .image
                .inodes
                .get(&ino.0)
                .map(|inode| (inode.uid, inode.gid));
            let (old_uid, old_gid) = owner.unwrap_or_default();
            if let Some(mode) = mode {
                recorded.change(Change::Mode(ino.0, mode & 0o7777));
            }
            if uid.is_some() || gid.is_some() {
                let (uid, gid) = (uid.unwrap_or(old_uid), gid.unwrap_or(old_gid));
                recorded.change(Change::Owner(ino.0, uid, gid));
            }
            if let Some(size) = size {
                recorded.change(Change::Truncate(ino.0, size as usize));
            }
        }
        self.attr(ino.0, reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self
            .lock()
            .image
            .inodes
            .get(&ino.0)
            .map(|inode| &inode.content)
        {
            Some(Content::Link(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let content = Content::Directory(Default::default());
        let entry = (parent.0, text(name));
        let number = self.lock().make(entry, mode & !umask & 0o7777, content);
        self.entry(number, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let content = Content::Link(target.to_owned());
        let number = self.lock().make((parent.0, text(name)), 0o777, content);
        self.entry(number, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut recorded = self.lock();
        let (from, to) = ((parent.0, text(name)), (new_parent.0, text(new_name)));
        let there = recorded.image.find(to.0, &to.1);
        if there.is_some() && flags.contains(RenameFlags::RENAME_NOREPLACE) {
            return reply.error(Errno::EEXIST);
        }
        let entries = there.and_then(|number| recorded.image.entries(number));
        if entries.is_some_and(|entries| !entries.is_empty()) {
            return reply.error(Errno::ENOTEMPTY);
        }
        recorded.change(Change::Rename(from, to));
        reply.ok();
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let entry = (new_parent.0, text(new_name));
        self.lock().change(Change::Link(entry, ino.0));
        self.entry(ino.0, reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut recorded = self.lock();
        let entry = (parent.0, text(name));
        let content = Content::File(Vec::new());
        let number = recorded.make(entry, mode & !umask & 0o7777, content);
        let attributes = recorded.attributes(number).unwrap();
        let generation = Generation(0);
        let handle = FileHandle(0);
        reply.created(
            &NOT_AT_ALL,
            &attributes,
            generation,
            handle,
            FopenFlags::empty(),
        );
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self
            .lock()
            .image
            .inodes
            .get(&ino.0)
            .map(|inode| &inode.content)
        {
            Some(Content::File(content)) => {
                let from = content.len().min(offset as usize);
                let to = content.len().min(from + size as usize);
                reply.data(&content[from..to]);
            }
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let change = Change::Write(ino.0, offset as usize, data.to_vec());
        self.lock().change(change);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.synced(Synced::File(ino.0), ino.0, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.synced(Synced::Directory(ino.0), ino.0, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut recorded = self.lock();
        let image = &recorded.image;
        let entries = image.entries(ino.0).into_iter().flatten();
        let listing = entries
            .map(|(name, number)| (*number, kind(&image.inodes[number]), name.clone()))
            .collect();
        recorded.opened += 1;
        let handle = recorded.opened;
        recorded.listings.insert(handle, listing);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let recorded = self.lock();
        let listing = recorded.listings.get(&handle.0).into_iter().flatten();
        for (place, (number, kind, name)) in listing.enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*number), place as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.lock().listings.remove(&handle.0);
        reply.ok();
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let change = Change::Attribute(ino.0, text(name), Some(value.to_vec()));
        self.lock().change(change);
        reply.ok();
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let recorded = self.lock();
        let inode = recorded.image.inodes.get(&ino.0);
        match inode.and_then(|inode| inode.xattrs.get(&text(name))) {
            Some(value) if size == 0 => reply.size(value.len() as u32),
            Some(value) => reply.data(value),
            None => reply.error(Errno::ENODATA),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let recorded = self.lock();
        let inode = recorded.image.inodes.get(&ino.0);
        let names = inode.into_iter().flat_map(|inode| inode.xattrs.keys());
        let list: Vec<u8> = names
            .flat_map(|name| [name.as_bytes(), b"\0"].concat())
            .collect();
        match size {
            0 => reply.size(list.len() as u32),
            _ => reply.data(&list),
        }
    }
}
